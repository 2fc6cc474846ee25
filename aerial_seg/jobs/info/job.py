"""info: what a raster, mask, model file or chip dataset holds, as one document."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from affine import Affine

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid, describe_extent
from aerial_seg.geo.map_tiles.names import read_names
from aerial_seg.geo.map_tiles.placing import Placing, place_tiles
from aerial_seg.geo.raster.band_facts import band_facts
from aerial_seg.geo.raster.inputs import expand_rasters
from aerial_seg.geo.raster.present import require_file
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo, require_crs
from aerial_seg.geo.raster.values.scaling import tagged_notes
from aerial_seg.geo.systems import local_note
from aerial_seg.legend import Legend
from aerial_seg.mentions import settings_of
from aerial_seg.outputs.mask import read_legend
from aerial_seg.paths import StrPath, as_path


def info(path: StrPath) -> dict[str, Any]:
    """Return the facts of whatever lies at `path`, JSON-ready. Raises InputError when it is nothing of ours."""
    path = as_path(path, "path")
    require_file(path)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() == ".safetensors":
        # Imported here because torch takes seconds, which a look at a raster should not.
        from aerial_seg.jobs.info.model_card import model_card

        return model_card(path)
    return _raster(path)


def _raster(path: Path) -> dict[str, Any]:
    with TemporaryDirectory(prefix="aerial-seg-") as folder:
        placed = place_tiles([raster_info(path)], Placing(), Path(folder))
    (facts,) = placed.infos
    grid, legend = facts.grid, read_legend(path)
    document: dict[str, Any] = {
        "kind": "mask" if legend is not None else "raster",
        "path": str(path),
        "width": grid.width,
        "height": grid.height,
        "crs": grid.crs.to_string() if grid.crs is not None else None,
        **_ground(facts, grid),
        **({"placed": settings_of(placed.notes[0], "predict")} if placed.notes else {}),
        "bands": [asdict(band) for band in band_facts(path)],
        "dtype": facts.dtype,
        "nodata": facts.nodata,
        **_numbers(facts),
    }
    if legend is not None:
        document |= _classes(legend)
    return document


def _numbers(facts: RasterInfo) -> dict[str, Any]:
    """What stored numbers mean, where the file says that they do not mean themselves."""
    declared = list(dict.fromkeys(str(one) for one in facts.scalings if not one.says_nothing))
    if declared:
        told = f"{' / '.join(declared)}: tile applies that, and predict where it was applied in training"
        return {"numbers": told}
    if not facts.tagged:
        return {}
    (note,) = tagged_notes([(facts.path, facts.tagged)])
    return {"numbers": settings_of(note, "predict")}


def _map_tiles(path: Path) -> dict[str, Any] | None:
    """A folder of rasters that their names place; None where it is none."""
    try:
        paths = expand_rasters([str(path)])
    except InputError:
        return None
    if read_names(paths) is None:
        return None
    with TemporaryDirectory(prefix="aerial-seg-") as folder:
        placed = place_tiles(list(map(raster_info, paths)), Placing(), Path(folder))
    if placed.rows is None:
        return None
    first = placed.infos[0]
    west, south, east, north = np.array([info.grid.bounds for info in placed.infos]).T
    left, bottom, right, top = west.min(), south.min(), east.max(), north.max()
    across, down = first.grid.transform.a, -first.grid.transform.e
    height, width = round((top - bottom) / down), round((right - left) / across)
    whole = replace(first.grid, transform=Affine(across, 0, left, 0, -down, top), height=height, width=width)
    return {
        "kind": "map tiles",
        "path": str(path),
        "tiles": len(paths),
        "width": width,
        "height": height,
        "crs": whole.crs.to_string() if whole.crs is not None else None,
        **_ground(first, whole),
        "placed": settings_of(placed.notes[0], "predict"),
        "bands": sorted({f"{len(info.bands)} of {info.dtype}" for info in placed.infos}),
    }


def _classes(legend: Legend) -> dict[str, Any]:
    """Names by pixel value, and codes by pixel value where classes have some."""
    told = {"classes": {str(entry.value): entry.name for entry in legend.entries}}
    codes = {str(entry.value): str(entry.code) for entry in legend.entries if entry.code is not None}
    return {**told, "codes": codes} if codes else told


def _ground(facts: RasterInfo, grid: Grid) -> dict[str, Any]:
    """GSD and extent; where pixels have no place on earth, the reason, because that is what one wants to know."""
    document: dict[str, Any] = {"gsd_m": None, "extent": None}
    try:
        require_crs(facts)
        down, across = grid.gsd() or (None, None)
        document["gsd_m"] = {"down": down, "across": across}
        if grid.is_local:
            (document["note"],) = local_note(grid.crs, facts.path)
        else:
            document["extent"] = describe_extent(grid)
    except InputError as error:
        document["problem"] = str(error) if facts.path in str(error) else f"{facts.path}: {error}"
    return document


def _folder(path: Path) -> dict[str, Any]:
    """A run or a dataset, each with its own document, or map tiles."""
    from aerial_seg.jobs.train.run_folder import RUN

    if (path / RUN).is_file():
        from aerial_seg.jobs.info.run_card import run_card

        return run_card(path)
    return _map_tiles(path) or _dataset(path)


def _dataset(path: Path) -> dict[str, Any]:
    from aerial_seg.training.manifest import DOCUMENT, SPLITS, open_manifest

    models = sorted(inside.name for inside in path.glob("*.safetensors"))
    if models and not (path / DOCUMENT).exists():
        raise InputError(f"{path} is a folder with models; name one of them: {', '.join(models)}")
    manifest = open_manifest(path)
    document = manifest.document
    return {
        "kind": "chip dataset",
        "path": str(path),
        "chips": {split: len(manifest.split(split)) for split in SPLITS},
        "chip_size": document.chip_size,
        "stride": document.stride or document.chip_size,
        "folds": document.folds,
        "fold": document.fold,
        "gsd_m": document.gsd,
        **_classes(document.legend),
        "class_pixels": document.class_pixels,
        "bands": {
            band.name: f"{band.dtype}, mean {band.mean:.4g}, std {band.std:.4g}" for band in document.bands
        },
        "statistics": None if document.statistics is None else document.statistics.model_dump(),
        "class_weights": {} if document.statistics is None else document.statistics.class_weights(),
        "sources": len(document.sources),
        "images": "chips" if document.imagery is None else "windows of the sources",
        "notes": list(document.notes),
        "tool_version": document.tool_version,
    }
