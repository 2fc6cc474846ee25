"""A raster of class values read by rows as codes, whatever its integer type; and what its classes are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated

import numpy as np
import psutil
import rasterio
from numpy.typing import NDArray
from pydantic import Field

from aerial_seg.errors import InputError
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.swath import row_of_blocks_bytes
from aerial_seg.legend import IGNORE, Legend, LegendEntry, make_legend
from aerial_seg.outputs.mask import read_legend
from aerial_seg.polygonize.batch import CHUNK_ROWS, NONE, Codes
from aerial_seg.progress import ProgressBar
from aerial_seg.tiling.values import count_values

_LISTED = 10
_COUNTED_AT_ONCE = 1_000_000
_TALLEST_STEP = 2048
"""Rows read at once at the most, of taller blocks a part: GDAL's cache keeps the row of them."""
_LARGEST = 2**31 - 1
"""Class numbers are written as 32-bit integers."""

_Slices = tuple[slice, slice]


class NumberedClass(LegendEntry):
    """A class that is known by its pixel value only, which may be any 32-bit integer."""

    value: Annotated[int, Field(ge=-_LARGEST - 1, le=_LARGEST)]


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """What a raster holds: pixels by class value, in ascending order, and those that carry no class."""

    pixels: Mapping[int, int]
    nodata: int


@dataclass(slots=True)
class WindowCounts:
    """The pixels of each class value in every window that holds any. height, width: of a window at the most."""

    height: int
    width: int
    extents: list[Extent] = field(default_factory=list)
    pixels: list[Mapping[int, int]] = field(default_factory=list)

    def add(self, top: int, left: int, where: _Slices, pixels: Mapping[int, int]) -> None:
        """A window, after those that are there; top, left: of the pixels that `where` cuts it from."""
        if pixels:
            rows, cols = where
            extent = Extent(
                range(top + rows.start, top + rows.stop), range(left + cols.start, left + cols.stop)
            )
            self.extents.append(extent)
            self.pixels.append(pixels)


class ClassRaster:
    """One band of whole numbers, opened; with or without a CRS.

    extent: the rows and columns that are read; around them nothing carries a class. It begins and ends at whole
    chunks, or at the raster's ends. Raises InputError for several bands, for numbers that are not whole, and for
    blocks that do not fit into the machine's memory.
    """

    def __init__(self, mask: Path | ArrayRaster) -> None:
        """mask: a file, or class values in memory, one band."""
        self.path = path = Path(mask.info.path) if isinstance(mask, ArrayRaster) else mask
        self._raster = mask if isinstance(mask, ArrayRaster) else Raster(mask, georeferenced=False)
        self.grid = self._raster.grid
        info = self._raster.info
        if len(info.bands) != 1 or np.dtype(info.dtype).kind not in "iu":
            self._raster.__exit__(None, None, None)
            raise InputError(
                f"{path} has {len(info.bands)} band(s) of {info.dtype}, wanted a mask: one of whole numbers; "
                "run predict to make one, or extract the class band (gdal_translate -b 1 -ot Byte)"
            )
        try:
            self.extent = self._read_extent()
            width = len(self.extent.cols)
            self._check_blocks(width)
        except InputError:
            self._raster.__exit__(None, None, None)
            raise
        block = min(self._raster.block_shape[0], _TALLEST_STEP)
        self._step = max(block, CHUNK_ROWS // block * block)
        pieces = 2 * self._step * width * np.dtype(info.dtype).itemsize
        self._cache = rasterio.Env(GDAL_CACHEMAX=max(pieces, row_of_blocks_bytes(self._raster, width)))
        self._values: NDArray[np.int64] | None = None

    def __enter__(self) -> ClassRaster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._raster.__exit__(kind, error, trace)

    def _read_extent(self) -> Extent:
        """With a chunk of nothing around it, so that no border of it is one of the raster's to any pixel."""
        height, width = self.grid.shape
        found = self._raster.measured_extent().grown(CHUNK_ROWS, height, width)
        return found.in_blocks(height, width, rows=CHUNK_ROWS, cols=CHUNK_ROWS)

    def _check_blocks(self, width: int) -> None:
        needed, limit = row_of_blocks_bytes(self._raster, width), psutil.virtual_memory().total // 2
        if needed > limit:
            rows, cols = self._raster.block_shape
            raise InputError(
                f"{self.path} is stored in blocks of {cols:,} × {rows:,} px, of which a row takes {needed / 1e9:,.1f} "
                f"GB, wanted at most {limit / 1e9:,.1f} GB; cut it into tiles first (gdal_translate -co TILED=YES "
                "-co COMPRESS=DEFLATE in.tif out.tif)"
            )

    def _pieces(self) -> Iterator[tuple[NDArray[np.generic], NDArray[np.bool_]]]:
        """Values and valid (h, W) of rows that hold whole blocks."""
        rows, cols = self.extent.rows, self.extent.cols
        for top in range(rows.start, rows.stop, self._step):
            height = min(self._step, rows.stop - top)
            yield self.window(Extent(range(top, top + height), cols))

    def count(self, bar: ProgressBar, windows: WindowCounts | None = None) -> ClassCounts:
        """How many pixels each class value has; afterwards `rows` can be read.

        windows: gets the counts of each of its windows, too. Raises InputError for class values beyond 32 bits,
        and for more of them than there are codes.
        """
        totals: dict[int, int] = {}
        nodata, top = self.grid.height * self.grid.width - self.extent.pixels, self.extent.rows.start
        for values, valid in self._pieces():
            nodata += int(valid.size - np.count_nonzero(valid))
            for where in _windows(values.shape, windows):
                found = dict(_tally(values[where], valid[where]))
                for value, pixels in found.items():
                    totals[value] = totals.get(value, 0) + pixels
                if windows is not None:
                    windows.add(top, self.extent.cols.start, where, found)
            top += len(values)
            bar.update(len(values))
            if len(totals) >= NONE:
                raise InputError(
                    f"{self.path} holds more than {NONE - 1:,} different values, wanted class numbers; "
                    "is this an image or an elevation model?"
                )
        strange = [value for value in totals if not -_LARGEST - 1 <= value <= _LARGEST]
        if self._raster.info.dtype == "uint8" and IGNORE in totals:
            # No legend can name it, and it is what masks hold where there is no class: never one in silence.
            strange = [IGNORE]
        if strange:
            raise InputError(
                f"{self.path} holds {list_values({v: totals[v] for v in strange})}, wanted class numbers "
                f"{'0–254' if strange == [IGNORE] else 'of 32 bits'}; "
                "declare such a value as nodata (gdal_edit.py -a_nodata) if it is none, or renumber the class"
            )
        ordered = dict(sorted(totals.items()))
        self._values = np.array(list(ordered), np.int64)
        return ClassCounts(ordered, nodata)

    def window(self, where: Extent) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Class values and valid (h, w) of a window of the raster."""
        rows, cols = where.rows, where.cols
        # By default GDAL keeps decoded blocks in a twentieth of the machine's memory; hardly one is read twice here.
        with self._cache:
            image, valid = self._raster.read(
                top=rows.start, left=cols.start, height=len(rows), width=len(cols)
            )
        return image[0], valid

    @property
    def classes(self) -> int:
        """How many class values there are; call `count` first."""
        assert self._values is not None
        return len(self._values)

    def values(self, codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """The class values of codes; call `count` first."""
        assert self._values is not None
        found: NDArray[np.int64] = self._values[codes]
        return found

    def code_of(self, value: int) -> int | None:
        """The code of a class value; None for one that does not occur."""
        assert self._values is not None
        code = int(np.searchsorted(self._values, value))
        return code if code < len(self._values) and self._values[code] == value else None

    def rows(self) -> Iterator[Codes]:
        """Codes (h, W) uint16 from north to south: the rank of the class value; NONE where there is none."""
        assert self._values is not None
        table = _code_table(self._values, self._raster.info.dtype)
        for values, valid in self._pieces():
            codes = (
                np.searchsorted(self._values, values).astype(np.uint16) if table is None else table[values]
            )
            codes[~valid] = NONE
            yield codes


def _windows(shape: tuple[int, ...], windows: WindowCounts | None) -> Iterator[_Slices]:
    """All pixels, or these a window at a time."""
    height, width = shape if windows is None else (windows.height, windows.width)
    for row in range(0, shape[0], height):
        for col in range(0, shape[1], width):
            yield slice(row, min(row + height, shape[0])), slice(col, min(col + width, shape[1]))


def _tally(values: NDArray[np.generic], valid: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    if values.dtype == np.uint8:
        # What is not valid is counted as 255 and taken off again: no copy of 8 bytes a pixel.
        counts = count_values(np.ascontiguousarray(np.where(valid, values, IGNORE)))
        counts[IGNORE] -= valid.size - np.count_nonzero(valid)
        found = np.flatnonzero(counts)
        yield from zip(found.tolist(), counts[found].tolist(), strict=True)
        return
    if values.dtype.itemsize <= 2:
        # One of 65,536 bins; an int16 is counted by its bit pattern.
        plain = values.view(np.uint8 if values.dtype.itemsize == 1 else np.uint16).ravel()
        seen = valid.ravel()
        bins = np.zeros(1 << 8 * values.dtype.itemsize, np.int64)
        for start in range(0, plain.size, _COUNTED_AT_ONCE):
            # numpy counts in 8 bytes per pixel.
            part = slice(start, start + _COUNTED_AT_ONCE)
            bins += np.bincount(plain[part][seen[part]], minlength=len(bins))
        patterns = np.flatnonzero(bins)
        yield from zip(
            patterns.astype(plain.dtype).view(values.dtype).tolist(), bins[patterns].tolist(), strict=True
        )
        return
    numbers, pixels = np.unique(values[valid], return_counts=True)
    yield from zip(numbers.tolist(), pixels.tolist(), strict=True)


def _code_table(values: NDArray[np.int64], dtype: str) -> Codes | None:
    """Look-up table from pixel values to codes, for unsigned types of up to 16 bits; None for others."""
    kind = np.dtype(dtype)
    if kind.kind != "u" or kind.itemsize > 2:
        return None
    table = np.zeros(1 << 8 * kind.itemsize, np.uint16)
    table[values] = np.arange(len(values), dtype=np.uint16)
    return table


def list_values(counts: Mapping[int, int]) -> str:
    """The values with their pixels, as an error tells them."""
    listed = ", ".join(f"{value} ({count} px)" for value, count in list(counts.items())[:_LISTED])
    more = f" and {len(counts) - _LISTED} more" if len(counts) > _LISTED else ""
    return f"value {listed}{more}"


def legend_of(path: Path, counts: ClassCounts) -> Legend:
    """The file's own legend, else one of its values, where 0 is background.

    Raises InputError for a value that the file's legend does not name.
    """
    legend = read_legend(path)
    if legend is None:
        return _numbered(counts)
    unknown = {value: count for value, count in counts.pixels.items() if value not in legend.values}
    if unknown:
        raise InputError(
            f"{path} holds {list_values(unknown)}, wanted only values of its legend "
            f"({', '.join(map(str, legend.values))}); add the class, or set these pixels to nodata"
        )
    return legend


def _numbered(counts: ClassCounts) -> Legend:
    values = tuple(counts.pixels) or (0,)
    if all(0 <= value < IGNORE for value in values):
        return make_legend({value: f"class {value}" for value in values}, background=(0,))
    colours = make_legend({k: f"class {k}" for k in range(min(len(values), IGNORE))}, background=()).entries
    return Legend(
        entries=tuple(
            NumberedClass(
                value=value,
                name=f"class {value}",
                colour=colours[k % len(colours)].colour,
                background=value == 0,
            )
            for k, value in enumerate(values)
        )
    )
