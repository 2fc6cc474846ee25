"""Chips on disk: an image GeoTIFF with an internal mask and a label GeoTIFF, both on their own grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS as RasterioCRS
from rasterio.enums import ColorInterp
from rasterio.io import DatasetWriter, MemoryFile

from aerial_seg.documents import listed
from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.windows.source import SourceWindow
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.outputs.durable import disk_errors
from aerial_seg.outputs.qgis_style import SUFFIX, class_raster, style_text

_WRITING = {"GDAL_TIFF_INTERNAL_MASK": True, "GDAL_VALIDATE_CREATION_OPTIONS": False}
"""The options are always the same: to look them up for each file costs a tenth of writing the labels."""
_UNKNOWN = 254
"""Channel of a value that is no class: with 255 classes there is no such value, with fewer no such channel."""


@dataclass(frozen=True, slots=True)
class ChipWindow:
    """One cell of the regular chip grid over a raster; at the south and east edge it reaches beyond the raster.

    row, col: its place in steps, see chip_step. apart: whether it is one of those that lie side by side, which share
    no pixel.
    """

    row: int
    col: int
    top: int
    left: int
    apart: bool = True


def chip_step(size: int, stride: int | None = None) -> int:
    """Pixels that a chip's row and column count: the side of a chip, or with a stride what divides both."""
    return math.gcd(size, stride or size)


def chip_windows(*, height: int, width: int, size: int, stride: int | None = None) -> Iterator[ChipWindow]:
    """Windows of size × size that partition the raster: no pixel twice, none left out.

    With a stride below `size`, beside them those that begin every `stride` pixels, to the first that reach the edge.
    """
    step, every = chip_step(size, stride), stride or size
    for top, of_row in _begins(height, size, every):
        for left, of_col in _begins(width, size, every):
            if both := of_row & of_col:
                yield ChipWindow(top // step, left // step, top, left, _APART in both)


def chip_count(*, height: int, width: int, size: int, stride: int | None = None) -> int:
    """How many windows `chip_windows` gives."""
    every = stride or size
    rows, cols = (list(_begins(length, size, every)) for length in (height, width))
    on_stride, apart, both = (
        math.prod(sum(kind <= flags for _, flags in axis) for axis in (rows, cols))
        for kind in ({_ON_STRIDE}, {_APART}, {_ON_STRIDE, _APART})
    )
    return on_stride + apart - both


_ON_STRIDE, _APART = "on stride", "apart"


def _begins(length: int, size: int, stride: int) -> Iterator[tuple[int, set[str]]]:
    """Where windows begin along a side, and whether that is on the stride, and one of those side by side."""
    for begin in sorted({*range(0, length, size), *range(0, max(1, length - size + stride), stride)}):
        kinds = {_ON_STRIDE: begin % stride == 0, _APART: begin % size == 0}
        yield begin, {kind for kind, own in kinds.items() if own}


def write_image(
    path: Path, image: NDArray[np.generic], valid: NDArray[np.bool_], grid: Grid, names: Sequence[str]
) -> None:
    """image (C,H,W) in its own dtype; invalid pixels go into an internal mask, so every value stays usable."""
    with _new_file(path, grid, count=len(image), dtype=str(image.dtype)) as file:
        if len(names) != 3:
            # Without this GDAL takes a fourth uint8 band for alpha, and its zeros for nodata.
            file.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (len(names) - 1)
        file.descriptions = tuple(names)
        file.write(image)
        if not valid.all():
            file.write_mask(valid)


def write_labels(path: Path, labels: NDArray[np.uint8], grid: Grid, legend: Legend) -> None:
    """labels (H,W) uint8 pixel values with the classes' palette; 255 = unlabelled is nodata.

    A palette in a TIFF has 256 rows whatever one writes: the .qml beside it tells QGIS which of them are classes.
    """
    write_label_file(path, labels, grid, legend)
    label_style(path).write_bytes(_style(legend))


def write_label_file(path: Path, labels: NDArray[np.uint8], grid: Grid, legend: Legend) -> None:
    """As write_labels, the file alone."""
    with _new_file(path, grid, count=1, dtype="uint8") as file:
        file.nodata = IGNORE
        # Before the pixels: GDAL cannot change the kind of a file once it has begun to write them.
        file.write_colormap(1, _palette(legend))
        file.write(labels, 1)


@lru_cache(8)
def _palette(legend: Legend) -> dict[int, tuple[int, int, int, int]]:
    return legend.palette()


@lru_cache(8)
def _style(legend: Legend) -> bytes:
    return style_text(class_raster(legend)).encode()


def label_style(labels: Path) -> Path:
    """The QGIS style of a label chip."""
    return labels.with_suffix(SUFFIX)


Choose = Callable[[int, int], tuple[slice, slice]]
"""From a chip's height and width to the rows and columns that are wanted."""


def read_chip(
    image: Path | SourceWindow, labels: Path, choose: Choose | None = None
) -> tuple[NDArray[np.generic], NDArray[np.bool_], NDArray[np.uint8]]:
    """image (C,h,w), valid (h,w) and labels (h,w) of one chip.

    image: the chip's file, of which a pixel's bands come side by side in memory, or the window of a raster that it
    would be cut from: the same to the bit. choose: what of it is wanted; None: all. Raises InputError when image and
    labels differ in size.
    """
    if isinstance(image, SourceWindow):
        shape = image.shape
        rows, cols = _chosen(shape, choose)
        pixels, measured = image.read(rows, cols)
    else:
        with Raster(image, georeferenced=False) as raster:
            shape = raster.grid.shape
            rows, cols = _chosen(shape, choose)
            size = rows.stop - rows.start, cols.stop - cols.start
            pixels = np.empty((*size, len(raster.info.bands)), raster.info.dtype).transpose(2, 0, 1)
            measured = raster.read_into(pixels, top=rows.start, left=cols.start)
    size = pixels.shape[1:]
    with Raster(labels, georeferenced=False) as raster:
        if raster.grid.shape != shape:
            raise InputError(
                f"{image} is {shape[1]} × {shape[0]} px but its labels {labels} are {raster.grid.width} × "
                f"{raster.grid.height} px; run `aerial-seg tile` again"
            )
        values = _label_values(raster, labels, top=rows.start, left=cols.start, size=(size[0], size[1]))
    valid = np.ones(size, np.bool_) if measured is None else measured
    return pixels, valid, values


def _chosen(shape: tuple[int, int], choose: Choose | None) -> tuple[slice, slice]:
    return (slice(0, shape[0]), slice(0, shape[1])) if choose is None else choose(*shape)


def read_label_chip(labels: Path, *, side: int) -> NDArray[np.uint8]:
    """labels (side, side) of one chip: pixel values, 255 = unlabelled. Raises InputError for another size."""
    with Raster(labels, georeferenced=False) as raster:
        height, width = raster.grid.shape
        if (height, width) != (side, side):
            raise InputError(
                f"{labels} is {width} × {height} px, wanted the chips' {side} × {side}; run `aerial-seg tile` again"
            )
        return _label_values(raster, labels, top=0, left=0, size=(side, side))


def label_channels(values: NDArray[np.uint8], legend: Legend, labels: Path) -> NDArray[np.uint8]:
    """Channels of a label chip's pixel values of any shape, 255 = unlabelled.

    Raises InputError, naming the file and each value with its pixels, for what is no class.
    """
    table = legend.channel_table()
    if len(legend) == IGNORE:
        return np.asarray(table[values])
    # One comparison tells them, where 255 would be that of an unlabelled pixel.
    table[(table == IGNORE) & (np.arange(256) != IGNORE)] = _UNKNOWN
    channels: NDArray[np.uint8] = table[values]
    if (channels == _UNKNOWN).any():
        strange, counts = np.unique(values[channels == _UNKNOWN], return_counts=True)
        told = listed(f"{value} ({count} px)" for value, count in zip(strange, counts, strict=True))
        known = ", ".join(f"{entry.value}={entry.name}" for entry in legend.entries)
        raise InputError(
            f"{labels} holds the value{'s' if len(strange) > 1 else ''} {told}, wanted {known} or {IGNORE} for "
            "unlabelled; mend the chip, or run `aerial-seg tile` again"
        )
    return channels


def _label_values(
    raster: Raster, labels: Path, *, top: int, left: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    if len(raster.info.bands) != 1 or raster.info.dtype != "uint8":
        raise InputError(
            f"{labels} has {len(raster.info.bands)} band(s) of {raster.info.dtype}, wanted one of uint8 class values; "
            "run `aerial-seg tile` again"
        )
    values = np.empty(size, np.uint8)
    raster.read_into(values[None], top=top, left=left)
    return values


@contextmanager
def _new_file(path: Path, grid: Grid, *, count: int, dtype: str) -> Iterator[DatasetWriter]:
    with ExitStack() as memory:
        # GDAL is silent about much of what a full disk does not take; a chip is small enough to be made in memory.
        content = memory.enter_context(MemoryFile())
        memory.enter_context(rasterio.Env(**_WRITING))
        file = content.open(
            driver="GTiff",
            height=grid.height,
            width=grid.width,
            count=count,
            dtype=dtype,
            crs=RasterioCRS.from_wkt(grid.crs.to_wkt()) if grid.crs is not None else None,
            transform=grid.transform,
            compress="DEFLATE",
            zlevel=1,
            interleave="pixel",
            photometric="RGB" if count == 3 and dtype == "uint8" else "MINISBLACK",
        )
        with file:
            yield file
        with disk_errors(path):
            path.write_bytes(content.getbuffer())
