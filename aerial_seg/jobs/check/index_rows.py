"""The index of a dataset as it lies there: every row that can be understood, and what is wrong with the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from pyproj import CRS

from aerial_seg.errors import at_work, did_you_mean
from aerial_seg.files.names import ogr_name
from aerial_seg.jobs.problems import Problems
from aerial_seg.legend import Legend
from aerial_seg.printable import shortened
from aerial_seg.training.manifest import INDEX, INDEX_LAYER, SPLITS, pixel_columns

_AGAIN = "run `aerial-seg tile` again"


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One chip of the index. split: None for none that is known; place: its outline, in crs; valid, counts: as told."""

    name: str
    split: str | None
    source: str
    place: Any
    valid: int | None
    counts: tuple[int | None, ...]
    crs: CRS | None = None


def read_rows(root: Path, legend: Legend | None, problems: Problems) -> list[IndexRow]:
    """Every chip of the index once, in its order. counts are by channel of the legend, empty without one."""
    path = root / INDEX
    if not path.is_file():
        problems.error("index", f"{root} has no {INDEX}; {_AGAIN}")
        return []
    try:
        with at_work(path):
            index = geopandas.read_file(ogr_name(path), layer=INDEX_LAYER)
    except (DataSourceError, DataLayerError, FeatureError) as error:
        problems.error("index", f"{path} is no index of chips ({error}); {_AGAIN}")
        return []
    for field in ("chip", "split"):
        if field not in index.columns:
            fields = ", ".join(map(str, index.columns)) or "none"
            problems.error("index", f"{path} has no field '{field}'; its fields are: {fields}; {_AGAIN}")
    if "chip" not in index.columns:
        return []
    return _rows(path, index, legend, problems)


def _rows(path: Path, index: Any, legend: Legend | None, problems: Problems) -> list[IndexRow]:
    columns = () if legend is None else pixel_columns(legend)
    absent = [column for column in columns if column not in index.columns]
    for column in absent:
        problems.warning(
            "index-counts", f"{path} has no field '{column}', so it counts nothing of that class"
        )
    counts = [_whole(index, column) for column in columns]
    valid = _whole(index, "valid_px")
    places = index.geometry if isinstance(index, geopandas.GeoDataFrame) else [None] * len(index)
    crs = CRS(index.crs) if isinstance(index, geopandas.GeoDataFrame) and index.crs is not None else None
    times = Counter(name for name in index["chip"] if isinstance(name, str))
    rows: dict[str, IndexRow] = {}
    for k, (name, place) in enumerate(zip(index["chip"], places, strict=True)):
        if not isinstance(name, str) or not name or {*name} & {*"/\\\0"}:
            problems.error(
                "chip-name", f"{path}: row {k + 1} has no name that a file can have: {name!r}; {_AGAIN}"
            )
            continue
        if name in rows:
            told = f"{path} holds {name} {times[name]} times; leave one row of it"
            problems.error("chip-twice", told, name)
            continue
        source = index["source"][k] if "source" in index.columns else ""
        rows[name] = IndexRow(
            name,
            _split(path, name, index["split"][k], problems) if "split" in index.columns else None,
            source if isinstance(source, str) else "",
            place,
            valid[k],
            tuple(column[k] for column in counts),
            crs,
        )
    if not rows and not problems.has_errors:
        problems.error(
            "index", f"{path.parent} holds no chip; run `aerial-seg tile` on imagery that the labels cover"
        )
    return list(rows.values())


def _split(path: Path, name: str, split: Any, problems: Problems) -> str | None:
    if split in SPLITS:
        return str(split)
    got = repr(shortened(split)) if isinstance(split, str) else "no text"
    hint = did_you_mean(shortened(str(split)), SPLITS)
    wanted = ", ".join(SPLITS)
    problems.error(
        "split", f"{path}: {name} has {got} as split, wanted {wanted}{hint}; mend the field 'split'", name
    )
    return None


def _whole(index: Any, field: str) -> list[int | None]:
    """The field's numbers, None where it has none or is not there."""
    if field not in index.columns:
        return [None] * len(index)
    return [int(v) if isinstance(v, int | float) and v == v // 1 else None for v in index[field].tolist()]
