"""One chip as it lies there: whether it can be read, is what its dataset says, and holds what the index counts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from aerial_seg.errors import AerialSegError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster import Raster, raster_info
from aerial_seg.geo.windows.handles import lent
from aerial_seg.geo.windows.source import SourceWindow
from aerial_seg.jobs.check.index_rows import IndexRow
from aerial_seg.jobs.check.outlines import beside_outline
from aerial_seg.labels.chip_file import label_channels, read_label_chip
from aerial_seg.legend import IGNORE
from aerial_seg.training.manifest import DatasetDocument

_APART = 1e-3
"""Of a pixel: grids that differ by less are one."""
_AGAIN = "run `aerial-seg tile` again"
Found = tuple[str, str]
"""The kind of a problem, and what to say of it."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of one chip.

    counts: labelled pixels by channel; sums (3,C): pixels, sum and sum of squares of the measured ones by band; digest:
    equal for equal images, None for one of a single value; None where something could not be read.
    """

    errors: tuple[Found, ...] = ()
    warnings: tuple[Found, ...] = ()
    counts: NDArray[np.int64] | None = None
    sums: NDArray[np.float64] | None = None
    digest: bytes | None = None


def look_at(
    row: IndexRow, image_path: Path | SourceWindow | None, label_path: Path, document: DatasetDocument
) -> Look:
    """Read one chip whole. Nothing is raised for what is wrong with it: it is told.

    image_path: its file, or the window of a source that it is; None where that is not known and was told.
    """
    errors: list[Found] = []
    warnings: list[Found] = []
    image, valid = _image(image_path, document, errors)
    channels = _labels(label_path, document, errors)
    sums = digest = counts = None
    if image is not None and valid is not None:
        sums, digest = _sums(image, valid, document), _digest(image, valid)
        if row.valid is not None and row.valid != int(valid.sum()):
            told = f"{image_path} has {int(valid.sum()):,} measured pixels, but the index says {row.valid:,}"
            errors.append(("image-changed", f"{told}: it was changed; {_AGAIN}"))
    if channels is not None:
        counts = np.bincount(channels.ravel(), minlength=256)[: len(document.legend)].astype(np.int64)
        errors += _miscounted(label_path, counts, row, document)
        if not counts.any():
            warnings.append(
                ("nothing-labelled", f"{label_path} has no labelled pixel, so it teaches nothing")
            )
    if channels is not None and valid is not None and image_path is not None:
        beside = int(((channels != IGNORE) & ~valid).sum())
        if beside:
            told = f"{label_path} names classes for {beside:,} pixels that {image_path} does not measure"
            warnings.append(("labels-unmeasured", f"{told}; make them {IGNORE}"))
        misplaced = _misplaced(image_path, label_path)
        errors += misplaced or _outlined(row, label_path, valid)
    return Look(tuple(errors), tuple(warnings), counts, sums, digest)


def _image(
    path: Path | SourceWindow | None, document: DatasetDocument, errors: list[Found]
) -> tuple[NDArray[np.generic] | None, NDArray[np.bool_] | None]:
    if path is None:
        return None, None
    if isinstance(path, SourceWindow):
        return _window(path, errors)
    if not path.is_file():
        errors.append(("image-missing", f"{path} is gone; put it back, or {_AGAIN}"))
        return None, None
    side, bands = document.chip_size, document.bands
    try:
        with Raster(path, georeferenced=False) as raster:
            info, (height, width) = raster.info, raster.grid.shape
            if (height, width) != (side, side):
                told = f"{path} is {width} × {height} px, wanted the dataset's {side} × {side}"
                errors.append(("image-size", f"{told}; put the chip back as it was, or {_AGAIN}"))
                return None, None
            dtype = "float32" if any(band.scaled for band in bands) else bands[0].dtype
            if len(info.bands) != len(bands) or info.dtype != dtype:
                told = f"{path} has {len(info.bands)} bands of {info.dtype}, wanted {len(bands)} of {dtype}"
                errors.append(("image-bands", f"{told}; put the chip back as it was, or {_AGAIN}"))
                return None, None
            return raster.read(top=0, left=0, height=height, width=width)
    except AerialSegError as error:
        errors.append(("image-damaged", str(error)))
        return None, None


def _window(
    window: SourceWindow, errors: list[Found]
) -> tuple[NDArray[np.generic] | None, NDArray[np.bool_] | None]:
    whole = slice(0, window.side)
    try:
        image, valid = window.read(whole, whole)
    except AerialSegError as error:
        errors.append(("image-damaged", str(error)))
        return None, None
    return image, np.ones(image.shape[1:], np.bool_) if valid is None else valid


def _labels(path: Path, document: DatasetDocument, errors: list[Found]) -> NDArray[np.uint8] | None:
    if not path.is_file():
        errors.append(("labels-missing", f"{path} is gone; put it back, or {_AGAIN}"))
        return None
    try:
        values = read_label_chip(path, side=document.chip_size)
    except AerialSegError as error:
        errors.append(("labels-damaged", str(error)))
        return None
    try:
        return label_channels(values, document.legend, path)
    except AerialSegError as error:
        errors.append(("labels-unknown", str(error)))
        return None


def _miscounted(
    path: Path, counts: NDArray[np.int64], row: IndexRow, document: DatasetDocument
) -> list[Found]:
    wrong = [
        f"{count:,} px of {name} (index: {told:,})"
        for count, told, name in zip(counts.tolist(), row.counts, document.legend.names, strict=True)
        if told is not None and count != told
    ]
    if not wrong:
        return []
    told = (
        f"{path} holds {', '.join(wrong[:3])}: it was changed, and statistics and weights are those of before"
    )
    return [("labels-changed", f"{told}; change the labels that `aerial-seg tile` reads, and run it again")]


def _grid_of(image: Path | SourceWindow) -> Grid:
    if isinstance(image, Path):
        return raster_info(image).grid
    with lent(image.source) as raster:
        whole = raster.grid
    if whole.crs is None:
        # Pictures without CRS lie where tile put them.
        whole = replace(whole, transform=Affine(*image.source.transform))
    whole = whole.for_polygons()
    return whole.window(top=image.top, left=image.left, height=image.side, width=image.side)


def _misplaced(image: Path | SourceWindow, labels: Path) -> list[Found]:
    """A label chip that lies elsewhere than its image is one of another place, or was moved."""
    own, other = raster_info(labels).grid, _grid_of(image)
    corners = np.array([(0, 0), (other.width, 0), (0, other.height)], float).T
    x, y = np.array(other.transform * tuple(corners))
    column, line = np.array(~own.transform * (x, y))
    off = float(np.abs(np.array((column, line)) - corners).max())
    if own.crs == other.crs and off <= _APART:
        return []
    what = "has another CRS than" if own.crs != other.crs else f"lies {off:.3g} px beside"
    return [
        ("labels-misplaced", f"{labels} {what} its image {image}; put the chip back as it was, or {_AGAIN}")
    ]


def _outlined(row: IndexRow, labels: Path, valid: NDArray[np.bool_]) -> list[Found]:
    """Image and labels, which lie in one place, lie where the index draws them."""
    return beside_outline(row, labels, raster_info(labels).grid, valid)


def _sums(
    image: NDArray[np.generic], valid: NDArray[np.bool_], document: DatasetDocument
) -> NDArray[np.float64]:
    """About the mean that the dataset tells, so that squares keep their digits."""
    about = np.array([band.mean for band in document.bands])[:, None]
    measured = image[:, valid].astype(np.float64) - about
    pixels = np.full(len(measured), measured.shape[1], np.float64)
    return np.array((pixels, measured.sum(axis=1), (measured**2).sum(axis=1)))


def _digest(image: NDArray[np.generic], valid: NDArray[np.bool_]) -> bytes | None:
    measured = image[:, valid]
    if not measured.size or all((plane == plane[0]).all() for plane in measured):
        return None
    whole = np.where(valid, image, np.zeros(1, image.dtype))
    return hashlib.sha256(np.ascontiguousarray(whole).tobytes()).digest()
