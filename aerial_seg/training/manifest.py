"""A chip dataset on disk: what `tile` writes and `train` reads.

DATASET/dataset.json   the document below
DATASET/chips.gpkg     one footprint per chip: chip, split, source, row, column, valid and class pixel counts
DATASET/images/*.tif   image chips with an internal mask      DATASET/labels/*.tif  label chips, 255 = unlabelled
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import geopandas
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.legend import Legend

DOCUMENT = "dataset.json"
INDEX = "chips.gpkg"
INDEX_LAYER = "chips"
SPLITS = ("train", "val", "test")


class Source(BaseModel):
    """One raster that chips were cut from. bytes: of its file; None for one on a server or in an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    width: int
    height: int
    crs: str | None
    bytes: int | None


class DatasetDocument(BaseModel):
    """All facts about a chip dataset that are not per chip. Statistics are over valid training pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    tool_version: str
    legend: Legend
    bands: tuple[Band, ...]
    gsd: float | None
    chip_size: Annotated[int, Field(gt=0)]
    split_by: str
    seed: int
    sources: tuple[Source, ...]
    class_pixels: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip of the index."""

    name: str
    split: str
    image: Path
    labels: Path


@dataclass(frozen=True, slots=True)
class Manifest:
    """An opened dataset: its document and its chips in index order."""

    root: Path
    document: DatasetDocument
    chips: tuple[Chip, ...]

    def split(self, name: str) -> tuple[Chip, ...]:
        """The chips of one split: train, val or test."""
        return tuple(chip for chip in self.chips if chip.split == name)


def chip_paths(root: Path, name: str) -> tuple[Path, Path]:
    """Where a chip's image and labels lie."""
    return root / "images" / f"{name}.tif", root / "labels" / f"{name}.tif"


def open_manifest(root: Path) -> Manifest:
    """The dataset in folder `root`. Raises InputError when there is none, or it is empty or incomplete."""
    path = root / DOCUMENT
    if not path.is_file():
        raise InputError(f"{root} is not a chip dataset (no {DOCUMENT}); make one with `aerial-seg tile`")
    try:
        document = DatasetDocument.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise InputError(f"{path}: '{place}': {problem['msg']}; run `aerial-seg tile` again") from error
    if not (root / INDEX).is_file():
        raise InputError(f"{root} has no {INDEX}; run `aerial-seg tile` again")
    index = geopandas.read_file(root / INDEX, layer=INDEX_LAYER, ignore_geometry=True)
    chips = tuple(
        Chip(name, split, *chip_paths(root, name))
        for name, split in zip(index["chip"], index["split"], strict=True)
    )
    if not chips:
        raise InputError(f"{root} holds no chip; run `aerial-seg tile` on imagery that the labels cover")
    missing = [file for chip in chips for file in (chip.image, chip.labels) if not file.is_file()]
    if missing:
        raise InputError(
            f"{root} lacks {len(missing)} chip files, first {missing[0]}; run `aerial-seg tile` again"
        )
    return Manifest(root=root, document=document, chips=chips)
