"""A chip dataset on disk: what `tile` writes and `train` reads.

DATASET/dataset.json   the document below
DATASET/chips.gpkg     one footprint per chip: chip, split, source, row, column, valid and class pixel counts
DATASET/images/*.tif   image chips with an internal mask      DATASET/labels/*.tif  label chips, 255 = unlabelled

Without images, where `tile` was to write an index only: they are windows of the rasters that were cut, see
geo.windows.imagery.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import geopandas
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from aerial_seg.bands import Band, BandStatistics, Gsd
from aerial_seg.documents import DocumentError, listed, parse_json, problem_of, read_text
from aerial_seg.errors import InputError, at_work, did_you_mean
from aerial_seg.files.names import check_input, ogr_name
from aerial_seg.geo.windows.imagery import Imagery
from aerial_seg.geo.windows.source import SourceWindow, WindowSource
from aerial_seg.legend import Legend
from aerial_seg.printable import shortened

DOCUMENT = "dataset.json"
INDEX = "chips.gpkg"
INDEX_LAYER = "chips"
SPLITS = ("train", "val", "test")


class Source(BaseModel):
    """One raster that chips were cut from. bytes: of its file; None for one on a server or in an archive.

    cut_width, cut_height: pixels of the grid that it was cut on, which is resampled where its own GSD was not wanted;
    None in datasets of before these were told. members: the rasters of a mosaic that was cut as one, those on top last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    crs: str | None
    bytes: Annotated[int, Field(ge=0)] | None
    cut_width: Annotated[int, Field(gt=0)] | None = None
    cut_height: Annotated[int, Field(gt=0)] | None = None
    members: tuple[str, ...] = ()


class ClassStatistics(BaseModel):
    """How often a class is among the labelled training pixels.

    share: of all of them. frequency: of the labelled pixels of those chips that hold the class; None without any.
    median_frequency_weight: the median of all classes' frequencies over this one's, None without any. Source: Eigen and
    Fergus (2015), "Predicting depth, surface normals and semantic labels", section 6.3.2.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pixels: Annotated[int, Field(ge=0)]
    share: Annotated[float, Field(ge=0, le=1)]
    frequency: Annotated[float, Field(gt=0, le=1)] | None
    median_frequency_weight: Annotated[float, Field(gt=0)] | None


class TrainingStatistics(BaseModel):
    """What the valid and the labelled pixels of the training chips are like: bands in order, classes by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bands: tuple[BandStatistics, ...]
    classes: dict[str, ClassStatistics]

    def class_weights(self) -> dict[str, float]:
        """The weights by median frequency, as recipes have them: of classes with pixels."""
        told = {name: one.median_frequency_weight for name, one in self.classes.items()}
        return {name: float(f"{weight:.4g}") for name, weight in told.items() if weight is not None}


def class_statistics(names: Sequence[str], counts: NDArray[np.int64]) -> dict[str, ClassStatistics]:
    """By class name how often it is. counts (chips, classes): labelled pixels of the training chips."""
    pixels, of_chip = counts.sum(axis=0), counts.sum(axis=1)
    around = [int(of_chip[counts[:, k] > 0].sum()) for k in range(len(names))]
    frequencies = [int(pixels[k]) / around[k] if around[k] else None for k in range(len(names))]
    known = [one for one in frequencies if one is not None]
    median = float(np.median(known)) if known else 0.0
    return {
        name: ClassStatistics(
            pixels=int(pixels[k]),
            share=int(pixels[k]) / max(1, int(pixels.sum())),
            frequency=frequency,
            median_frequency_weight=None if frequency is None else median / frequency,
        )
        for k, (name, frequency) in enumerate(zip(names, frequencies, strict=True))
    }


class DatasetDocument(BaseModel):
    """All facts about a chip dataset that are not per chip. Statistics are over valid training pixels.

    stride: pixels from one training chip to the next, None for the chip's side. folds, fold: into how many the ground
    beside the test's was divided, and which of them, from 1, is for validation. statistics: None in datasets of before
    they were told. imagery: where images are read from; None for chips of the dataset itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    tool_version: str
    legend: Legend
    bands: Annotated[tuple[Band, ...], Field(min_length=1)]
    gsd: Gsd | None
    chip_size: Annotated[int, Field(gt=0)]
    stride: Annotated[int, Field(gt=0)] | None = None
    split_by: str
    folds: Annotated[int, Field(gt=1)] | None = None
    fold: Annotated[int, Field(gt=0)] | None = None
    seed: int
    sources: tuple[Source, ...]
    class_pixels: dict[str, dict[str, Annotated[int, Field(ge=0)]]]
    statistics: TrainingStatistics | None = None
    notes: tuple[str, ...]
    fingerprint: str
    imagery: Imagery | None = None


@dataclass(frozen=True, slots=True)
class ChipPlace:
    """Where a chip was cut: its cell in the chip grid over its source's raster."""

    source: str
    row: int
    col: int


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip of the index. image: its file, or the window of a source that it is; see labels.chip_file.read_chip.

    place, block: where it was cut and in which split block, as far as the index says so. pixels: how many are labelled,
    by channel of the legend; None where the index does not tell.
    """

    name: str
    split: str
    image: Path | SourceWindow
    labels: Path
    place: ChipPlace | None = None
    block: int | None = None
    pixels: tuple[int, ...] | None = None

    @property
    def own_files(self) -> tuple[Path, ...]:
        """What lies in the dataset's folders of it."""
        return (self.labels,) if isinstance(self.image, SourceWindow) else (self.image, self.labels)


@dataclass(frozen=True, slots=True)
class Manifest:
    """An opened dataset: its document and its chips in index order."""

    root: Path
    document: DatasetDocument
    chips: tuple[Chip, ...]

    def split(self, name: str) -> tuple[Chip, ...]:
        """The chips of one split: train, val or test."""
        return tuple(chip for chip in self.chips if chip.split == name)

    def files(self, chips: Sequence[Chip]) -> tuple[Path, ...]:
        """The files of this machine that these chips are read from; where images are windows, all of the sources."""
        imagery = self.document.imagery
        return (*(file for chip in chips for file in chip.own_files), *(imagery.files if imagery else ()))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The rasters on servers that images are read from."""
        return self.document.imagery.addresses if self.document.imagery else ()


def chip_paths(root: Path, name: str) -> tuple[Path, Path]:
    """Where a chip's image and labels lie."""
    return root / "images" / f"{name}.tif", root / "labels" / f"{name}.tif"


def open_manifest(root: Path) -> Manifest:
    """The dataset in folder `root`. Raises InputError when there is none, or it is empty, damaged or incomplete.

    Also where images are read from rasters, and one of these is gone or is another now.
    """
    check_input(root)
    with at_work(root / DOCUMENT):
        document = _read_document(root)
        sources = _sources(root, document)
    with at_work(root / INDEX):
        chips = _read_index(root, document, sources)
    if not chips:
        raise InputError(f"{root} holds no chip; run `aerial-seg tile` on imagery that the labels cover")
    missing = [file for chip in chips for file in chip.own_files if not file.is_file()]
    if missing:
        raise InputError(
            f"{root} lacks {len(missing)} chip files, first {missing[0]}; run `aerial-seg tile` again"
        )
    if document.imagery is not None:
        document.imagery.states.require_same(root)
    return Manifest(root=root, document=document, chips=chips)


def _sources(root: Path, document: DatasetDocument) -> dict[str, WindowSource] | None:
    """By name what images are windows of; None where they are files."""
    if document.imagery is None:
        return None
    told = [(one.path, one.cut_height, one.cut_width) for one in document.sources]
    try:
        return document.imagery.sources(root, DOCUMENT, told)
    except ValueError as error:
        raise InputError(f"{root / DOCUMENT} is damaged: {error}; run `aerial-seg tile` again") from error


def _read_document(root: Path) -> DatasetDocument:
    path = root / DOCUMENT
    if not path.is_file():
        raise InputError(f"{root} is not a chip dataset (no {DOCUMENT}); make one with `aerial-seg tile`")
    try:
        # Strict, and from JSON because there lists are tuples: "1" or true is no number.
        return DatasetDocument.model_validate_json(json.dumps(parse_json(read_text(path))), strict=True)
    except DocumentError as error:
        raise InputError(f"{path} is damaged: {error}; run `aerial-seg tile` again") from error
    except ValidationError as error:
        raise InputError(f"{path}: {problem_of(error)}; run `aerial-seg tile` again") from error


def read_document(root: Path) -> DatasetDocument:
    """The document of the dataset in folder `root`. Raises InputError when there is none, or it is damaged."""
    with at_work(root / DOCUMENT):
        return _read_document(root)


def pixel_columns(legend: Legend) -> tuple[str, ...]:
    """What the index calls the pixels of each class."""
    lower = [name.lower() for name in legend.names]
    # GeoPackage columns differ by more than capitals.
    return tuple(
        f"px_{entry.name}" + (f"_{entry.value}" if lower.count(entry.name.lower()) > 1 else "")
        for entry in legend.entries
    )


def _read_index(
    root: Path, document: DatasetDocument, sources: dict[str, WindowSource] | None
) -> tuple[Chip, ...]:
    path = root / INDEX
    if not path.is_file():
        raise InputError(f"{root} has no {INDEX}; run `aerial-seg tile` again")
    try:
        index = geopandas.read_file(ogr_name(path), layer=INDEX_LAYER, ignore_geometry=True)
    except (DataSourceError, DataLayerError, FeatureError) as error:
        raise InputError(f"{path} is no index of chips ({error}); run `aerial-seg tile` again") from error
    for field in ("chip", "split"):
        if field not in index.columns:
            fields = ", ".join(map(str, index.columns)) or "none"
            raise InputError(
                f"{path} has no field '{field}'; its fields are: {fields}; run `aerial-seg tile` again"
            )
    names, splits = list(index["chip"]), list(index["split"])
    _check_names(path, names)
    _check_splits(path, names, splits)
    places, blocks = _places(index), _whole_numbers(index, "block")
    columns = [_whole_numbers(index, column) for column in pixel_columns(document.legend)]
    files = [chip_paths(root, name) for name in names]
    images = (
        [image for image, _ in files]
        if sources is None
        else _windows(index, document.chip_size, places, sources, path)
    )
    return tuple(
        Chip(name, split, image, labels, place, block, _all_known(pixels))
        for name, split, image, (_, labels), place, block, *pixels in zip(
            names, splits, images, files, places, blocks, *columns, strict=True
        )
    )


def _windows(
    index: Any, side: int, places: list[ChipPlace | None], sources: dict[str, WindowSource], path: Path
) -> list[SourceWindow]:
    """Of each chip the window of its source. Raises InputError where the index does not tell it."""
    corners = zip(_whole_numbers(index, "top"), _whole_numbers(index, "left"), strict=True)
    found = []
    for name, place, (top, left) in zip(index["chip"], places, corners, strict=True):
        if place is None or place.source not in sources or top is None or left is None or min(top, left) < 0:
            raise InputError(
                f"{path} does not tell which window of which source {name} is; run `aerial-seg tile` again"
            )
        found.append(SourceWindow(sources[place.source], top, left, side))
    return found


def _all_known(pixels: Sequence[int | None]) -> tuple[int, ...] | None:
    known = tuple(count for count in pixels if count is not None)
    return known if len(known) == len(pixels) else None


def _places(index: Any) -> list[ChipPlace | None]:
    """Of each chip; None where the index does not tell it, as one that somebody made by hand."""
    rows, cols = _whole_numbers(index, "row"), _whole_numbers(index, "col")
    sources = list(index["source"]) if "source" in index.columns else [None] * len(index)
    return [
        ChipPlace(source, row, col)
        if isinstance(source, str) and row is not None and col is not None and min(row, col) >= 0
        else None
        for source, row, col in zip(sources, rows, cols, strict=True)
    ]


def _whole_numbers(index: Any, field: str) -> list[int | None]:
    """The field's numbers, None where it has none or is not there."""
    if field not in index.columns:
        return [None] * len(index)
    return [
        int(value) if isinstance(value, int | float) and value == value // 1 else None
        for value in index[field].tolist()
    ]


def _check_names(path: Path, names: list[Any]) -> None:
    """Chips are files of their own in the dataset's folders."""
    odd = [name for name in names if not isinstance(name, str) or not name or {*name} & {*"/\\\0"}]
    if odd:
        raise InputError(
            f"{path} holds {len(odd)} chips whose name is none ({listed(map(repr, odd))}); run `aerial-seg tile` again"
        )
    twice = sorted({name for name, count in Counter(names).items() if count > 1})
    if twice:
        raise InputError(f"{path} holds chips more than once: {listed(twice)}; leave one row of each")


def _check_splits(path: Path, names: list[str], splits: list[Any]) -> None:
    """A chip of a misspelt split would train and validate nothing, without a word."""
    odd = [(name, split) for name, split in zip(names, splits, strict=True) if split not in SPLITS]
    if odd:
        told = listed(
            (f"{name} has {repr(split) if isinstance(split, str) else 'no text'}" for name, split in odd),
            most=3,
        )
        raise InputError(
            f"{path}: {len(odd)} of {len(names)} chips have no known split: {told}; wanted {', '.join(SPLITS)}"
            f"{did_you_mean(shortened(str(odd[0][1])), SPLITS)}; mend the field 'split'"
        )
