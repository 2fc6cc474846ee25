"""The dataset that chips are added to: its chips as they would be had they been cut just now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
from pyproj import CRS

from aerial_seg.documents import listed
from aerial_seg.errors import InputError
from aerial_seg.files.names import ogr_name
from aerial_seg.files.staging import behind_link
from aerial_seg.files.work import link_or_copy, locked_work, work_folder
from aerial_seg.geo.windows.imagery import FOLDER
from aerial_seg.jobs.tile.chip_cutter import ChipRecord
from aerial_seg.jobs.tile.dataset_writer import Read
from aerial_seg.labels.chip_file import ChipWindow, label_style, read_chip
from aerial_seg.training.manifest import (
    INDEX,
    INDEX_LAYER,
    DatasetDocument,
    Manifest,
    chip_paths,
    open_manifest,
    pixel_columns,
    read_document,
)

_WORDS = ("chip", "split", "source")
_NUMBERS = ("row", "col", "top", "left", "block", "valid_px")
_REMEDY = "cut all rasters at once into a new dataset with `aerial-seg tile`"


@dataclass(frozen=True, slots=True)
class Existing:
    """Hold an opened dataset. records, splits, blocks, places: of each chip, in index order; places are in `crs`."""

    manifest: Manifest
    records: list[ChipRecord]
    splits: list[str]
    blocks: list[int]
    places: list[Any]
    crs: CRS

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.manifest.root

    @property
    def document(self) -> DatasetDocument:
        """What it tells of itself."""
        return self.manifest.document

    def places_in(self, crs: CRS) -> list[Any]:
        """The outlines of its chips in this CRS."""
        if crs == self.crs:
            return self.places
        return list(geopandas.GeoSeries(self.places, crs=self.crs).to_crs(crs))

    def chip(self, number: int) -> Read:
        """The chip of this number: image, valid and labels."""
        chip = self.manifest.chips[number]
        return read_chip(chip.image, chip.labels)

    def link_into(self, work: Path) -> int:
        """`work` holds all chips, too: second names of the same files where the disk knows such.

        Returns how many files had to be copied.
        """
        files = []
        for chip in self.manifest.chips:
            image, labels = chip_paths(work, chip.name)
            files.append((chip.labels, labels))
            style = label_style(chip.labels)
            if style.is_file():
                files.append((style, label_style(labels)))
            if isinstance(chip.image, Path):
                files.append((chip.image, image))
        if self.document.imagery is not None:
            files += ((vrt, work / vrt.relative_to(self.root)) for vrt in (self.root / FOLDER).rglob("*.vrt"))
        for folder in {name.parent for _, name in files}:
            folder.mkdir(parents=True, exist_ok=True)
        return sum(link_or_copy(file, name) for file, name in files)


def open_existing(root: Path) -> Existing:
    """The dataset in `root`. Raises InputError where there is none, or where it lacks what adding to it needs."""
    if work_folder(behind_link(root)).exists():
        with locked_work(behind_link(root)):
            pass  # what a killed run was placing is in its place now
    manifest = open_manifest(root)
    document = manifest.document
    unplaced = [source.path for source in document.sources if source.crs is None]
    if unplaced:
        raise InputError(
            f"{root} holds chips of {unplaced[0]}, which has no CRS: nothing tells whether other chips show the same "
            f"ground; give the rasters a CRS (gdal_edit.py -a_srs EPSG:…), then {_REMEDY}"
        )
    if document.folds is not None:
        raise InputError(
            f"{root} was divided into {document.folds} folds, and does not tell which of its chips is in which: no "
            f"chip can be added without ground in two of them; {_REMEDY}"
        )
    index = geopandas.read_file(ogr_name(root / INDEX), layer=INDEX_LAYER)
    _check_fields(index, manifest)
    numbers = {source.path: k for k, source in enumerate(document.sources)}
    strangers = sorted({*index["source"]} - {*numbers})
    if strangers or len(numbers) < len(document.sources):
        raise InputError(
            f"{root / INDEX} and the document do not tell the same sources ({listed(strangers) or 'one twice'}); "
            f"{_REMEDY}"
        )
    counts = index[list(pixel_columns(document.legend))].to_numpy(np.int64)
    records = [
        ChipRecord(
            name=name,
            source=numbers[source],
            window=ChipWindow(row=row, col=col, top=top, left=left),
            place=place,
            valid=valid,
            counts=pixels,
        )
        for name, source, row, col, top, left, valid, place, pixels in zip(
            *(index[field].tolist() for field in ("chip", "source", "row", "col", "top", "left", "valid_px")),
            index.geometry,
            counts,
            strict=True,
        )
    ]
    places = list(index.geometry)
    return Existing(
        manifest, records, index["split"].tolist(), index["block"].tolist(), places, CRS(index.crs)
    )


def _check_fields(index: Any, manifest: Manifest) -> None:
    """Raises InputError unless the index has all fields of today, each with all numbers, and no others."""
    path, version = manifest.root / INDEX, manifest.document.tool_version
    numbers = (*_NUMBERS, *pixel_columns(manifest.document.legend))
    lacking = [name for name in (*_WORDS, *numbers) if name not in index.columns]
    if lacking:
        raise InputError(
            f"{path} has no field {listed(lacking)}, which adding chips needs; it is of version {version}: {_REMEDY}"
        )
    holes = [name for name in numbers if index[name].dtype.kind not in "iu"]
    holes += [name for name in _WORDS if index[name].isna().any()]
    if holes or index.geometry.isna().any() or index.crs is None:
        raise InputError(f"{path} has holes in {listed(holes) or 'its outlines'}; {_REMEDY}")
    own = [name for name in index.columns if name not in (*_WORDS, *numbers, index.geometry.name)]
    if own:
        raise InputError(
            f"{path} has fields that were not made with it ({listed(own)}) and would be lost; keep a copy and remove "
            "them there"
        )


def require_same(existing: Existing) -> None:
    """Raises InputError where another run has changed the dataset since it was opened."""
    if read_document(existing.root) != existing.document:
        raise InputError(f"{existing.root} was changed by another run meanwhile; run again")
