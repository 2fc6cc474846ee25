"""What a raster's pixels are like, from a few windows of it: the range of each band, and a collar of filler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.remote import is_remote
from aerial_seg.geo.raster.values.fill import FillerTally, Pixels, Valid
from aerial_seg.geo.raster.values.scaling import Scaling

_WINDOWS = 4
"""Windows on each axis that percentiles are taken from."""
_SIDE = 128
_RAYS, _REMOTE_RAYS = 32, 8
"""Rows, and columns, along which a collar is followed inwards; on a server each end of one may be a request."""
_LONGEST_STEP = 1024
_COLLAR = 0.01
"""Share of the raster that a border-connected constant must cover to be worth a word."""
_FEWEST = 256
"""Pixels below which a run of equal values at the border is chance."""

_SMALL = 1_000_000
"""Bytes of all bands up to which a raster is read at once: a hundred windows of a few pixels cost more."""

_SORTED_AS_THEY_ARE = (np.uint8, np.uint16)
"""Between two of their values numpy interpolates in float64; differences of signed ones may overflow."""

Values = NDArray[np.float64]


class Readable(Protocol):
    """What is asked of a raster here."""

    info: RasterInfo
    grid: Grid

    @property
    def block_shape(self) -> tuple[int, int]: ...

    @property
    def nodata_values(self) -> tuple[float | None, ...]:
        """Of each band the value that means "not measured" where all bands have theirs; None where it has none."""
        ...

    def read(self, *, top: int, left: int, height: int, width: int) -> tuple[Pixels, Valid]: ...


class HoldsStored(Protocol):
    """What is asked of a raster here."""

    info: RasterInfo
    grid: Grid
    scaled: tuple[bool, ...]

    @property
    def block_shape(self) -> tuple[int, int]: ...

    @property
    def nodata_values(self) -> tuple[float | None, ...]: ...

    @property
    def declared(self) -> Sequence[float | None]: ...

    @property
    def stored_dtype(self) -> str: ...

    def read_stored(self, image: Pixels, *, top: int, left: int) -> Valid | None: ...


class StoredPixels:
    """Windows of a raster in its files' own dtype and numbers; what was measured is the same."""

    def __init__(self, raster: HoldsStored) -> None:
        self._raster, self.grid = raster, raster.grid
        self.info = replace(raster.info, dtype=raster.stored_dtype)

    @property
    def block_shape(self) -> tuple[int, int]:
        """As the raster's."""
        return self._raster.block_shape

    @property
    def nodata_values(self) -> tuple[float | None, ...]:
        """As the raster's."""
        return self._raster.nodata_values

    @property
    def declared(self) -> Sequence[float | None]:
        """As the raster's."""
        return self._raster.declared

    def read(self, *, top: int, left: int, height: int, width: int) -> tuple[Pixels, Valid]:
        """image (C,h,w) and valid (h,w) of a window inside the raster."""
        image = np.empty((len(self.info.bands), height, width), self.info.dtype)
        valid = self._raster.read_stored(image, top=top, left=left)
        return image, np.ones((height, width), bool) if valid is None else valid


class _Held:
    """All pixels of a small raster, asked by windows as the raster itself is."""

    def __init__(self, raster: Readable) -> None:
        self.info, self.grid, self.block_shape = raster.info, raster.grid, raster.block_shape
        self.nodata_values = raster.nodata_values
        self._image, self._valid = raster.read(top=0, left=0, height=self.grid.height, width=self.grid.width)

    def read(self, *, top: int, left: int, height: int, width: int) -> tuple[Pixels, Valid]:
        """image (C,h,w) and valid (h,w) of a window inside the raster; views."""
        rows, cols = slice(top, top + height), slice(left, left + width)
        return self._image[:, rows, cols], self._valid[rows, cols]

    def rays(self, lines: Sequence[int], *, along_rows: bool) -> tuple[Pixels, Valid]:
        """image (C, n, length) and valid (n, length) of whole rows or columns."""
        if along_rows:
            return self._image[:, lines], self._valid[lines]
        return self._image[:, :, lines].swapaxes(1, 2), self._valid[:, lines].T


def at_hand(raster: Readable) -> Readable:
    """The raster itself, or all of its pixels read at once where they are few."""
    if isinstance(raster, _Held):
        return raster
    pixels = raster.grid.height * raster.grid.width * len(raster.info.bands)
    return _Held(raster) if pixels * np.dtype(raster.info.dtype).itemsize <= _SMALL else raster


@dataclass(frozen=True, slots=True)
class SceneRange:
    """The 2nd and 98th percentile of each band, (C,) float64, over measured pixels of windows spread evenly.

    partly: how many of these `pixels` have the nodata value of some bands, not of all, and so count as measured.
    """

    p2: Values
    p98: Values
    pixels: int
    partly: int = 0

    def scaled(self, scalings: Sequence[Scaling], flags: Sequence[bool]) -> SceneRange:
        """The range of what the numbers mean, in the bands whose flag is set."""
        if not any(flags):
            return self
        both = np.stack([self.p2, self.p98])
        for band, (scaling, flag) in enumerate(zip(scalings, flags, strict=True)):
            if flag:
                both[:, band] = np.sort(scaling.of(both[:, band]))
        return replace(self, p2=both[0], p98=both[1])


@dataclass(frozen=True, slots=True)
class Collar:
    """A value that all bands have from the raster's border inwards, though nothing says it is nodata."""

    value: float
    share: float


def scene_range(raster: Readable, tally: FillerTally | None = None) -> SceneRange | None:
    """The range of each band of the whole raster, from at most 16 windows of 128 px; None when none was measured.

    Deterministic: the windows depend on the raster's size only. tally: what counts fillers in them.
    """
    sampled, pixels_of = [], at_hand(raster)
    for top in _starts(raster.grid.height):
        for left in _starts(raster.grid.width):
            height = min(_SIDE, raster.grid.height - top)
            width = min(_SIDE, raster.grid.width - left)
            image, valid = pixels_of.read(top=top, left=left, height=height, width=width)
            if tally is not None:
                tally.add(image, valid)
            # Picking all pixels one by one takes longer than all that follows.
            sampled.append(image.reshape(len(image), -1) if valid.all() else image[:, valid])
    pixels: NDArray[Any] = np.concatenate(sampled, axis=1)
    if pixels.dtype not in _SORTED_AS_THEY_ARE:
        pixels = pixels.astype(np.float64)
    if pixels.shape[1] == 0:
        return None
    low, high = _percentiles(pixels, (2, 98))
    return SceneRange(low, high, pixels.shape[1], _partly_nodata(pixels, raster.nodata_values))


def _partly_nodata(pixels: NDArray[Any], values: Sequence[float | None]) -> int:
    """How many of these measured pixels (C,n) hold nodata in some band."""
    found = np.zeros(pixels.shape[1], bool)
    for band, value in zip(pixels, values, strict=True):
        if value is not None:
            found |= band == value
    return int(np.count_nonzero(found))


def _percentiles(pixels: NDArray[Any], percents: Sequence[int]) -> list[Values]:
    """What np.percentile gives along axis 1, bit by bit, in a third of its time, which thousands of scenes wait for.

    pixels: (C, n) of one of the types that are _SORTED_AS_THEY_ARE or float64, all of them finite.
    """
    last = pixels.shape[1] - 1
    places = [last * (percent / 100) for percent in percents]
    pairs = [(int(place), min(int(place) + 1, last)) for place in places]
    ordered = np.partition(pixels, [index for pair in pairs for index in pair], axis=1)
    found: list[Values] = []
    for place, (below, above) in zip(places, pairs, strict=True):
        low, high = ordered[:, below].astype(np.float64), ordered[:, above].astype(np.float64)
        share = place - below
        # numpy's own way to interpolate, exact at both ends.
        found.append(low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share))
    return found


def _starts(length: int) -> Sequence[int]:
    """First pixels of the windows on one axis: side by side as far as they reach, else spread from end to end."""
    if length <= _WINDOWS * _SIDE:
        return range(0, length, _SIDE)
    return [k * (length - _SIDE) // (_WINDOWS - 1) for k in range(_WINDOWS)]


def find_collar(raster: Readable) -> Collar | None:
    """The constant that reaches inwards from the border over 1 % of the raster or more, measured but likely not.

    Followed along 32 rows and 32 columns from both their ends, so that a scene without collar costs the blocks at
    those ends. Pixels that are not measured are passed over and not counted.
    """
    pixels_of = at_hand(raster)
    value = _border_value(pixels_of)
    if value is None:
        return None
    share = max(_run_share(pixels_of, value, along_rows=along_rows) for along_rows in (True, False))
    pixels = share * raster.grid.height * raster.grid.width
    return Collar(float(value), share) if share >= _COLLAR and pixels >= _FEWEST else None


def _border_value(raster: Readable) -> np.generic | None:
    """The commonest value that all bands share, among measured pixels at both ends of all rays."""
    both = [_ray_ends(raster, along_rows=along_rows) for along_rows in (True, False)]
    pixels = np.concatenate([ends for ends, _ in both], axis=1)
    constant = np.concatenate([valid for _, valid in both]) & (pixels == pixels[:1]).all(axis=0)
    if not constant.any():
        return None
    values, counts = np.unique(pixels[0, constant], return_counts=True)
    found: np.generic = values[counts.argmax()]
    return found


def _ray_ends(raster: Readable, *, along_rows: bool) -> tuple[Pixels, Valid]:
    """image (C, n) and valid (n,) of the first and the last pixel of all rays."""
    lines = _lines(raster, along_rows=along_rows)
    if isinstance(raster, _Held):
        image, valid = raster.rays(lines, along_rows=along_rows)
        return np.concatenate([image[..., 0], image[..., -1]], axis=1), np.concatenate(
            [valid[:, 0], valid[:, -1]]
        )
    ends = (0, _length(raster, along_rows=along_rows) - 1)
    if _blocks_of_edge(raster, along_rows=along_rows) <= len(lines):
        # The same blocks in one read, which all cores may decode.
        across = raster.grid.height if along_rows else raster.grid.width
        edges = [_ray(raster, end, 0, across, along_rows=not along_rows) for end in ends]
        read = [(image[:, lines], valid[lines]) for image, valid in edges]
    else:
        read = [_ray(raster, line, end, 1, along_rows=along_rows) for line in lines for end in ends]
    return np.concatenate([image for image, _ in read], axis=1), np.concatenate([valid for _, valid in read])


def _blocks_of_edge(raster: Readable, *, along_rows: bool) -> int:
    """How many blocks the edge has that rays along rows, or columns, begin at."""
    rows, cols = raster.block_shape
    return -(-raster.grid.height // rows) if along_rows else -(-raster.grid.width // cols)


def _run_share(raster: Readable, value: np.generic, *, along_rows: bool) -> float:
    """The share of the rays' pixels that hold the value and are reached from a border through nothing else."""
    length, lines = _length(raster, along_rows=along_rows), _lines(raster, along_rows=along_rows)
    if isinstance(raster, _Held):
        image, valid = raster.rays(lines, along_rows=along_rows)
        same = (image == value).all(axis=0)
        passes = same | ~valid
        reached = np.logical_and.accumulate(passes, axis=1)
        reached |= np.logical_and.accumulate(passes[:, ::-1], axis=1)[:, ::-1]
        return float((same & valid & reached).mean())
    counted = 0
    ends: list[int] = []
    for line in lines:
        run, count = _run(raster, line, value, range(length), along_rows=along_rows)
        ends.append(run)
        counted += count
    for line, end in zip(lines, ends, strict=True):
        counted += _run(raster, line, value, range(length - 1, end - 1, -1), along_rows=along_rows)[1]
    return counted / (length * len(lines))


def _run(raster: Readable, line: int, value: np.generic, path: range, *, along_rows: bool) -> tuple[int, int]:
    """How far one comes on the path through the value and unmeasured pixels, and over how many of the value."""
    done = counted = 0
    # Most rays end at once: their first read should cost no more than the block they start in.
    step = 64
    while done < len(path):
        part = path[done : done + step]
        start = min(part[0], part[-1])
        image, valid = _ray(raster, line, start, len(part), along_rows=along_rows)
        same = (image == value).all(axis=0)
        if path.step < 0:
            same, valid = same[::-1], valid[::-1]
        passes = same | ~valid
        reach = len(part) if passes.all() else int(passes.argmin())
        counted += int((same & valid)[:reach].sum())
        done += reach
        if reach < len(part):
            break
        step = min(2 * step, _LONGEST_STEP)
    return done, counted


def _ray(raster: Readable, line: int, start: int, count: int, *, along_rows: bool) -> tuple[Pixels, Valid]:
    """image (C, count) and valid (count,) of a piece of one row or column."""
    top, left = (line, start) if along_rows else (start, line)
    height, width = (1, count) if along_rows else (count, 1)
    image, valid = raster.read(top=top, left=left, height=height, width=width)
    return image.reshape(len(image), count), valid.reshape(count)


def _length(raster: Readable, *, along_rows: bool) -> int:
    return raster.grid.width if along_rows else raster.grid.height


def _lines(raster: Readable, *, along_rows: bool) -> Sequence[int]:
    across = raster.grid.height if along_rows else raster.grid.width
    count = min(_REMOTE_RAYS if is_remote(raster.info.path) else _RAYS, across)
    return [(2 * k + 1) * across // (2 * count) for k in range(count)]
