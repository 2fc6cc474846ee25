"""tile: rasters and labels in, a chip dataset with spatial splits out."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from aerial_seg.bands import BandAccumulator
from aerial_seg.errors import InputError
from aerial_seg.geo.chipfile import ChipWindow, chip_windows, read_chip, write_image, write_labels
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.inputs import expand_rasters
from aerial_seg.geo.label_rules import LabelSettings
from aerial_seg.geo.labels import Labels, check_overlap, open_labels
from aerial_seg.geo.raster import Raster, RasterInfo, raster_info, require_crs
from aerial_seg.geo.splits import Share, assign_splits, match_sources, overlapping, parse_share
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.outputs import check_folder, staged_folder
from aerial_seg.progress import Progress, silent
from aerial_seg.training.manifest import DOCUMENT, INDEX, SPLITS, DatasetDocument, Source, chip_paths
from aerial_seg.version import __version__


@dataclass(frozen=True, slots=True)
class TileSettings:
    """How to cut.

    chip_size: pixels of a chip's side. gsd: metres per pixel to resample to; None keeps the rasters' own.
    split_by: `block` (squares of `block` × `block` chips) or `source` (whole rasters). val, test: a fraction, or a
    glob on source file names. nodata: a value that means "not measured" in rasters that do not say so.
    """

    labels: LabelSettings = field(default_factory=LabelSettings)
    chip_size: int = 512
    gsd: float | None = None
    split_by: str = "block"
    block: int = 2
    val: str = "0.15"
    test: str = "0.15"
    seed: int = 0
    nodata: float | None = None
    georeferenced: bool = True
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class TileReport:
    """What `tile` made. class_pixels: split → class name → labelled pixels."""

    dataset: Path
    legend: Legend
    chips: dict[str, int]
    class_pixels: dict[str, dict[str, int]]
    gsd: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    """One written chip. `place` is its outline in its source's CRS, `counts` its pixels per class."""

    name: str
    source: int
    window: ChipWindow
    place: Any
    valid: int
    counts: NDArray[np.int64]


def tile(
    rasters: Sequence[str],
    labels: Sequence[str],
    dataset: Path,
    settings: TileSettings,
    progress: Progress = silent,
) -> TileReport:
    """The folder `dataset` holds chips, their index and a document that describes them.

    Raises AerialSegError before anything is written when inputs do not fit; nothing is left behind then.
    """
    check_folder(dataset, overwrite=settings.overwrite, marker=DOCUMENT)
    infos = [raster_info(path) for path in expand_rasters(rasters)]
    match_sources([Path(info.path).name for info in infos], **_shares(settings))
    grids = _run_grids(infos, settings)
    opened = open_labels(expand_labels(labels), settings.labels)
    check_overlap(opened, grids, names=[info.path for info in infos])
    with staged_folder(dataset, overwrite=settings.overwrite, marker=DOCUMENT) as work:
        for folder in ("images", "labels"):
            (work / folder).mkdir()
        cutter = _Cutter(work, opened, settings)
        total = sum(len(list(_windows(grid, settings))) for grid in grids)
        with progress("cut chips", total=total, unit="chip") as bar:
            for index, (info, grid) in enumerate(zip(infos, grids, strict=True)):
                for _ in cutter.cut(index, info, grid):
                    bar.update()
        if not cutter.records:
            raise InputError(
                f"none of the {total} chips holds a pixel that is both measured and labelled; "
                "check --nodata, --unlabelled and that the labels lie on the imagery"
            )
        report = _finish(work, dataset, cutter, infos, settings)
    return report


def expand_labels(labels: Sequence[str]) -> tuple[Path, ...]:
    """Label files: vector files as they are, folders and globs of rasters expanded."""
    if len(labels) == 1 and Path(labels[0]).is_file():
        return (Path(labels[0]),)
    return expand_rasters(labels)


def _shares(settings: TileSettings) -> dict[str, Share]:
    return {"val": parse_share(settings.val, "--val"), "test": parse_share(settings.test, "--test")}


def _windows(grid: Grid, settings: TileSettings) -> Iterator[ChipWindow]:
    return chip_windows(height=grid.height, width=grid.width, size=settings.chip_size)


def _run_grids(infos: Sequence[RasterInfo], settings: TileSettings) -> list[Grid]:
    """The grid that each source is cut on. Raises InputError when the sources differ in bands or GSD."""
    first = infos[0]
    for info in infos[1:]:
        for what, got, wanted in (
            ("bands", len(info.bands), len(first.bands)),
            ("dtype", info.dtype, first.dtype),
        ):
            if got != wanted:
                raise InputError(
                    f"{info.path} has {what} {got}, but {first.path} has {wanted}; one dataset needs one: "
                    "convert the odd one or make two datasets"
                )
    if settings.georeferenced:
        for info in infos:
            require_crs(info)
    if settings.gsd is not None:
        return [info.grid.at_gsd(settings.gsd) for info in infos]
    sizes = _own_gsds(infos)
    if sizes and max(sizes) > 1.1 * min(sizes):
        raise InputError(
            f"the rasters have GSDs from {min(sizes):.3g} to {max(sizes):.3g} m, wanted one within 10 %; "
            f"pass --gsd {max(sizes):.2g} to resample all to one"
        )
    return [info.grid for info in infos]


def _own_gsds(infos: Sequence[RasterInfo]) -> list[float]:
    """Metres per pixel of every georeferenced raster, the geometric mean of down and across."""
    pairs = [info.grid.gsd() for info in infos]
    return [math.sqrt(pair[0] * pair[1]) for pair in pairs if pair is not None]


class _Cutter:
    """Cuts chips, source by source, and keeps their records and what was left out."""

    def __init__(self, root: Path, labels: Labels, settings: TileSettings) -> None:
        self.root, self.labels, self.settings = root, labels, settings
        self.records: list[_Record] = []
        self.unmeasured = 0
        self.unlabelled = 0
        self._stems: set[str] = set()

    def cut(self, index: int, info: RasterInfo, grid: Grid) -> Iterator[ChipWindow]:
        """Yield each window of one source after its chip, if any, is written."""
        size, georeferenced = self.settings.chip_size, self.settings.georeferenced
        stem = self._unused_stem(Path(info.path).stem)
        with Raster(info.path, nodata=self.settings.nodata, georeferenced=georeferenced) as raster:
            raster.resample(grid)
            for window in _windows(grid, self.settings):
                box = grid.window(top=window.top, left=window.left, height=size, width=size)
                image, valid = raster.read(top=window.top, left=window.left, height=size, width=size)
                labels = self._labels(box, valid)
                if labels is not None:
                    name = f"{stem}_{window.row:04d}_{window.col:04d}"
                    image_path, label_path = chip_paths(self.root, name)
                    write_image(image_path, image, valid, box, info.names)
                    write_labels(label_path, labels, box, self.labels.legend)
                    place = _inside(grid, window, size).footprint()
                    counts = self._count(labels)
                    self.records.append(_Record(name, index, window, place, int(valid.sum()), counts))
                yield window

    def _labels(self, box: Grid, valid: NDArray[np.bool_]) -> NDArray[np.uint8] | None:
        """The labels of a chip's measured pixels; None, counted, for a chip that teaches nothing."""
        if not valid.any():
            self.unmeasured += 1
            return None
        labels = self.labels.burn(box)
        labels[~valid] = IGNORE
        if (labels == IGNORE).all():
            self.unlabelled += 1
            return None
        return labels

    def _count(self, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        channels = self.labels.legend.channel_table()[labels]
        return np.bincount(channels.ravel(), minlength=256)[: len(self.labels.legend)]

    def _unused_stem(self, stem: str) -> str:
        """Names differ also when two folders hold rasters of one name."""
        unused, number = stem, 1
        while unused in self._stems:
            number += 1
            unused = f"{stem}-{number}"
        self._stems.add(unused)
        return unused


def _inside(grid: Grid, window: ChipWindow, size: int) -> Grid:
    height, width = min(size, grid.height - window.top), min(size, grid.width - window.left)
    return grid.window(top=window.top, left=window.left, height=height, width=width)


def _finish(
    work: Path, dataset: Path, cutter: _Cutter, infos: Sequence[RasterInfo], settings: TileSettings
) -> TileReport:
    """Splits, statistics, index and document of the written chips."""
    notes = list(cutter.labels.notes)
    if len({info.names for info in infos}) > 1:
        orders = sorted({", ".join(info.names) for info in infos})
        notes.append(
            f"the rasters name their bands differently ({' / '.join(orders)}): they are taken in file order"
        )
    for count, why in ((cutter.unmeasured, "no measured pixel"), (cutter.unlabelled, "no labelled pixel")):
        if count:
            notes.append(f"{count} chips with {why} were left out")
    places, crs, note = _common_places(cutter.records, infos)
    notes += [note] if note else []
    records, splits, places = _split(cutter.records, infos, places, settings, notes, work)
    legend = cutter.labels.legend
    by_split = {
        split: {
            name: sum(int(r.counts[k]) for r, s in zip(records, splits, strict=True) if s == split)
            for k, name in enumerate(legend.names)
        }
        for split in SPLITS
    }
    absent = [name for name, pixels in by_split["train"].items() if not pixels]
    if absent:
        notes.append(
            f"no training chip holds class {', '.join(absent)}: it cannot be learnt from these labels"
        )
    bands = BandAccumulator(infos[0].names, infos[0].dtype)
    for record, split in zip(records, splits, strict=True):
        if split == "train":
            image, valid, _ = read_chip(*chip_paths(work, record.name))
            bands.add(image, valid)
    frame = _index(records, splits, infos, legend)
    with warnings.catch_warnings():
        # Asked for with --no-georef.
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        table = geopandas.GeoDataFrame(frame, geometry=places, crs=crs)
        table.to_file(work / INDEX, driver="GPKG", layer="chips")
    gsd = _dataset_gsd(infos, settings)
    document = DatasetDocument(
        tool_version=__version__,
        legend=legend,
        bands=bands.bands(),
        gsd=gsd,
        chip_size=settings.chip_size,
        split_by=settings.split_by,
        seed=settings.seed,
        sources=tuple(_source(info) for info in infos),
        class_pixels=by_split,
        notes=tuple(notes),
        fingerprint=_fingerprint(frame, bands),
    )
    (work / DOCUMENT).write_text(document.model_dump_json(indent=2), encoding="utf-8")
    chips = {split: splits.count(split) for split in SPLITS}
    return TileReport(dataset, legend, chips, by_split, gsd, tuple(notes))


def _common_places(
    records: Sequence[_Record], infos: Sequence[RasterInfo]
) -> tuple[list[Any], CRS | None, str | None]:
    """The chips' outlines in one CRS: the sources' own if they share it, else longitude/latitude, said."""
    systems = {info.grid.crs for info in infos}
    if len(systems) == 1:
        return [record.place for record in records], infos[0].grid.crs, None
    wgs84 = CRS.from_epsg(4326)
    places: list[Any] = []
    for record in records:
        one = geopandas.GeoSeries([record.place], crs=infos[record.source].grid.crs).to_crs(wgs84)
        places.append(one.iloc[0])
    note = f"the rasters have {len(systems)} CRSs: {INDEX} is in EPSG:4326, chips keep their own"
    return places, wgs84, note


def _split(
    records: Sequence[_Record],
    infos: Sequence[RasterInfo],
    places: Sequence[Any],
    settings: TileSettings,
    notes: list[str],
    work: Path,
) -> tuple[list[_Record], list[str], list[Any]]:
    """Records that stay, their splits and places; chips that overlap a weightier split are deleted and counted."""
    shares = _shares(settings)
    splits = assign_splits(
        _units(records, places, len(infos), settings),
        [Path(infos[record.source].path).name for record in records],
        np.array([record.counts for record in records]),
        **shares,
        seed=settings.seed,
    )
    left_out = set(overlapping(places, splits))
    if left_out:
        notes.append(f"{len(left_out)} chips that overlap another split's ground were left out")
    for i in left_out:
        for path in chip_paths(work, records[i].name):
            path.unlink()
    stay = [i for i in range(len(records)) if i not in left_out]
    if "train" not in (splits[i] for i in stay):
        raise InputError(
            "no chip is left for training after the splits; use smaller --val and --test shares, "
            "smaller chips (--chip-size) or smaller blocks (--block)"
        )
    for name, share in shares.items():
        if (share.fraction or share.pattern) and name not in (splits[i] for i in stay):
            notes.append(
                f"no chip is left for {name}: there are too few {settings.split_by}s; "
                "use smaller chips (--chip-size) or smaller blocks (--block)"
            )
    return [records[i] for i in stay], [splits[i] for i in stay], [places[i] for i in stay]


def _units(
    records: Sequence[_Record], places: Sequence[Any], sources: int, settings: TileSettings
) -> list[Hashable]:
    """What is never divided, per chip: its source, or the square of ground that its centre lies in."""
    if settings.split_by == "source":
        return [record.source for record in records]
    if sources == 1:
        cells = [record.window for record in records]
        return [(cell.row // settings.block, cell.col // settings.block) for cell in cells]
    # Blocks of several rasters are squares of one common ground, laid out from its south-west corner.
    left, bottom, right, top = shapely.bounds(np.asarray(places, dtype=object)).T
    side = settings.block * max((right - left).max(), (top - bottom).max())
    cols = ((left + right) / 2 - left.min()) // side
    rows = ((bottom + top) / 2 - bottom.min()) // side
    return list(zip(rows.tolist(), cols.tolist(), strict=True))


def _index(
    records: Sequence[_Record], splits: Sequence[str], infos: Sequence[RasterInfo], legend: Legend
) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "chip": [r.name for r in records],
        "split": list(splits),
        "source": [infos[r.source].path for r in records],
        "row": [r.window.row for r in records],
        "col": [r.window.col for r in records],
        "valid_px": [r.valid for r in records],
    }
    for k, entry in enumerate(legend.entries):
        # GeoPackage columns differ by more than capitals.
        alike = sum(name.lower() == entry.name.lower() for name in legend.names) > 1
        columns[f"px_{entry.name}" + (f"_{entry.value}" if alike else "")] = [
            int(r.counts[k]) for r in records
        ]
    return columns


def _dataset_gsd(infos: Sequence[RasterInfo], settings: TileSettings) -> float | None:
    if settings.gsd is not None:
        return settings.gsd
    sizes = _own_gsds(infos)
    return sum(sizes) / len(sizes) if sizes else None


def _source(info: RasterInfo) -> Source:
    path = Path(info.path)
    crs = info.grid.crs.to_string() if info.grid.crs is not None else None
    return Source(
        path=info.path, width=info.grid.width, height=info.grid.height, crs=crs, bytes=path.stat().st_size
    )


def _fingerprint(frame: dict[str, list[Any]], bands: BandAccumulator) -> str:
    """SHA-256 over the index and the statistics: equal for equal chips, wherever they lie."""
    facts = {
        "index": {key: column for key, column in frame.items() if key != "source"},
        "bands": [band.model_dump() for band in bands.bands()],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
