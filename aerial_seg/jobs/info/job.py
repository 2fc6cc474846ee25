"""info: what a raster, mask, model file or chip dataset holds, as one document."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import describe_extent
from aerial_seg.geo.raster.band_facts import band_facts
from aerial_seg.geo.raster.present import require_file
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo, require_crs
from aerial_seg.geo.systems import local_note
from aerial_seg.legend import Legend
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
    facts = raster_info(path)
    grid, legend = facts.grid, read_legend(path)
    document: dict[str, Any] = {
        "kind": "mask" if legend is not None else "raster",
        "path": str(path),
        "width": grid.width,
        "height": grid.height,
        "crs": grid.crs.to_string() if grid.crs is not None else None,
        **_ground(facts),
        "bands": [asdict(band) for band in band_facts(path)],
        "dtype": facts.dtype,
        "nodata": facts.nodata,
    }
    if legend is not None:
        document |= _classes(legend)
    return document


def _classes(legend: Legend) -> dict[str, Any]:
    """Names by pixel value, and codes by pixel value where classes have some."""
    told = {"classes": {str(entry.value): entry.name for entry in legend.entries}}
    codes = {str(entry.value): str(entry.code) for entry in legend.entries if entry.code is not None}
    return {**told, "codes": codes} if codes else told


def _ground(facts: RasterInfo) -> dict[str, Any]:
    """GSD and extent; where pixels have no place on earth, the reason, because that is what one wants to know."""
    document: dict[str, Any] = {"gsd_m": None, "extent": None}
    try:
        require_crs(facts)
        down, across = facts.grid.gsd() or (None, None)
        document["gsd_m"] = {"down": down, "across": across}
        if facts.grid.is_local:
            (document["note"],) = local_note(facts.grid.crs, facts.path)
        else:
            document["extent"] = describe_extent(facts.grid)
    except InputError as error:
        document["problem"] = str(error) if facts.path in str(error) else f"{facts.path}: {error}"
    return document


def _folder(path: Path) -> dict[str, Any]:
    """A run or a dataset, each with its own document."""
    from aerial_seg.jobs.train.run_folder import RUN

    if (path / RUN).is_file():
        from aerial_seg.jobs.info.run_card import run_card

        return run_card(path)
    return _dataset(path)


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
