"""Cutting chips out of rasters, with the labels burnt onto the same pixels."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from aerial_seg.files.operating_system import ignores_case, usable_cores
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.remote import output_stem
from aerial_seg.geo.raster.swath import CACHE_BYTES, row_of_blocks_bytes
from aerial_seg.geo.raster.values.accumulator import value_counts
from aerial_seg.geo.raster.values.byte_counts import byte_counts
from aerial_seg.geo.raster.values.fill import FillerTally
from aerial_seg.inference.match_bands import filler_notes, nodata_notes
from aerial_seg.jobs.tile.in_order import in_order
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.tile_sources import TileSource
from aerial_seg.labels.burning import Burnt
from aerial_seg.labels.chip_file import ChipWindow, chip_windows, write_image, write_labels
from aerial_seg.labels.labels import Labels
from aerial_seg.legend import IGNORE
from aerial_seg.mentions import setting
from aerial_seg.training.manifest import chip_paths

_LARGEST_CACHE = 2**29
"""Bytes of GDAL's blocks beyond which what chips share is rather read twice."""
_AT_WORK = 2**30
"""Bytes that the chips which are cut at once may take."""
_BYTES_OF_LABELS = 24
"""For each pixel, while it is burnt and looked at."""
_LEFT_OUT = ("unmeasured", "too_few_valid", "unlabelled", "too_few_labelled")
"""Why a window has no chip."""


@dataclass(frozen=True, slots=True)
class ChipRecord:
    """Describe one written chip. `place` is its outline in its source's CRS, `counts` its pixels per class.

    values: how often its bands hold each value, see value_counts; None where that was not counted.
    """

    name: str
    source: int
    window: ChipWindow
    place: Any
    valid: int
    counts: NDArray[np.int64]
    values: NDArray[np.uint32] | None = None


@dataclass(frozen=True, slots=True)
class _Cut:
    """What was found in a window. record: of its chip; burnt: its labels, None where too little is measured.

    left_out: why there is no chip, one of _LEFT_OUT.
    """

    window: ChipWindow
    tally: FillerTally | None
    record: ChipRecord | None = None
    burnt: Burnt | None = None
    left_out: str = ""


class ChipCutter:
    """Cut chips, source by source, and keep their records and what was left out."""

    def __init__(
        self,
        root: Path,
        labels: Labels,
        settings: TileSettings,
        scaled: Sequence[bool] = (),
        *,
        writes: bool = True,
        taken: Iterable[str] = (),
    ) -> None:
        """scaled: of each band whether chips hold what its numbers mean; see Raster.scale.

        writes: False to look at all and write nothing. taken: names of chips that are there already.
        """
        self.writes = writes
        self.root, self.labels, self.settings, self.scaled = root, labels, settings, tuple(scaled)
        self.threads = usable_cores()
        self.records: list[ChipRecord] = []
        self._left_out: Counter[str] = Counter()
        self.partly: list[str] = []
        self.collars: list[str] = []
        self.fillers: list[str] = []
        self.shapes: dict[int, tuple[int, int]] = {}
        """Rows and columns of the grid that each source was cut on."""
        self._stems: dict[str, int] = {}
        self._ignores_case = ignores_case(root)
        for name in taken:
            self._stems.setdefault(self._as_told_apart(name.rsplit("_", 2)[0]), 1)

    @contextmanager
    def cut(self, index: int, source: TileSource, grid: Grid) -> Iterator[Iterator[ChipWindow]]:
        """Give each window of one source, row by row, after its chip, if any, is written.

        Windows are cut in a thread per core. What is kept of them is kept in their own order, so that nothing tells how
        many threads there were; when the block ends, none is at work any more.
        """
        size, georeferenced = self.settings.chip_size, self.settings.georeferenced
        nodata, choice, stride = source.nodata, self.settings.bands, self.settings.stride
        with (
            Raster(source.opened_as, nodata=nodata, georeferenced=georeferenced, choice=choice) as raster,
            self._cache(raster, grid),
        ):
            doubts = nodata_notes(raster)
            self.partly.extend(doubts.partly)
            self.collars.extend(doubts.collars)
            raster.resample(grid)
            raster.scale(self.scaled)
            cutting = _Cutting(
                index=index,
                stem=self._unused_stem(output_stem(source.opened_as)),
                names=source.info.names,
                # Footprints, labels and chips lie where QGIS shows the raster.
                grid=grid.for_polygons(),
                as_stored=grid.shape == raster.info.grid.shape and not raster.scaled,
            )
            self.shapes[index] = grid.shape
            windows = list(chip_windows(height=grid.height, width=grid.width, size=size, stride=stride))
            threads = min(len(windows), self.threads_for(raster.info))
            tally = FillerTally(raster.declared)
            with (
                # Here, because threads may not take turns at what is ignored.
                warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
                _Readers(raster, grid) as readers,
                in_order(partial(self._one, cutting, readers), windows, threads=threads) as chips,
            ):
                yield (self._kept(one, tally) for one in chips)
            # Counted in every pixel where these come as they are stored, else in the windows that were looked at.
            self.fillers.extend(filler_notes(tally, raster) if cutting.as_stored else doubts.fillers)

    @property
    def too_little(self) -> int:
        """How many chips are not there because less of them is measured or labelled than was asked for."""
        return self._left_out["too_few_valid"] + self._left_out["too_few_labelled"]

    def left_out(self) -> Iterator[str]:
        """How many chips are not there, and why."""
        settings = self.settings
        whys = (
            "no measured pixel",
            f"less than {setting('min_valid', settings.min_valid)} of their pixels measured",
            "no labelled pixel",
            f"less than {setting('min_labelled', settings.min_labelled)} of their pixels labelled",
        )
        for kind, why in zip(_LEFT_OUT, whys, strict=True):
            if self._left_out[kind]:
                yield f"{self._left_out[kind]} chips with {why} were left out"

    def threads_for(self, info: RasterInfo) -> int:
        """How many chips of such a raster are at work at once: large ones take memory."""
        pixel = 3 * len(info.bands) * np.dtype(info.dtype).itemsize + _BYTES_OF_LABELS
        return max(1, min(self.threads, _AT_WORK // (pixel * self.settings.chip_size**2)))

    def _cache(self, raster: Raster, grid: Grid) -> rasterio.Env:
        """Let GDAL keep the blocks that chips share; where blocks are whole parts of chips none are."""
        size, own = self.settings.chip_size, raster.info.grid
        rows, cols = raster.block_shape
        shared = 0
        if own.shape != grid.shape or raster.is_virtual or size % rows or size % cols:
            down = -(-size * own.height // (grid.height * rows)) + 1
            shared = min(down * row_of_blocks_bytes(raster, own.width), _LARGEST_CACHE)
        return rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES + shared)

    def _one(self, cutting: _Cutting, readers: _Readers, window: ChipWindow) -> _Cut:
        """Cut one window; nothing of the cutter changes, so that several threads may."""
        size, grid = self.settings.chip_size, cutting.grid
        reader = readers.mine()
        image, valid = reader.read(top=window.top, left=window.left, height=size, width=size)
        tally = FillerTally(reader.declared) if cutting.as_stored else None
        if tally is not None:
            tally.add(image, valid)
        measured = int(np.count_nonzero(valid))
        if not measured:
            return _Cut(window, tally, left_out="unmeasured")
        if measured / valid.size < self.settings.min_valid:
            return _Cut(window, tally, left_out="too_few_valid")
        box = grid.window(top=window.top, left=window.left, height=size, width=size)
        burnt = self.labels.burnt(box, valid)
        labels = burnt.labels
        if measured < valid.size:
            labels[~valid] = IGNORE
        counts = byte_counts(labels)
        labelled = labels.size - int(counts[IGNORE])
        if not labelled:
            return _Cut(window, tally, burnt=burnt, left_out="unlabelled")
        if labelled / labels.size < self.settings.min_labelled:
            return _Cut(window, tally, burnt=burnt, left_out="too_few_labelled")
        name = f"{cutting.stem}_{window.row:04d}_{window.col:04d}"
        if self.writes:
            image_path, label_path = chip_paths(self.root, name)
            if not self.settings.index_only:
                write_image(image_path, image, valid, box, cutting.names)
            write_labels(label_path, labels, box, self.labels.legend)
        place = _inside(grid, window, size).footprint()
        classes = counts[list(self.labels.legend.values)]
        record = ChipRecord(name, cutting.index, window, place, measured, classes, value_counts(image, valid))
        return _Cut(window, tally, record, burnt)

    def _kept(self, one: _Cut, tally: FillerTally) -> ChipWindow:
        """The window, after what was found in it is counted."""
        if one.tally is not None:
            tally.include(one.tally)
        if one.burnt is not None:
            self.labels.add(one.burnt)
        if one.left_out:
            self._left_out[one.left_out] += 1
        if one.record is not None:
            self.records.append(one.record)
        return one.window

    def _unused_stem(self, stem: str) -> str:
        """Names differ also when two folders hold rasters of one name."""
        unused, number = stem, self._stems.get(self._as_told_apart(stem), 1)
        while self._as_told_apart(unused) in self._stems:
            number += 1
            unused = f"{stem}-{number}"
        # Where to go on, should the name come a thousand times.
        self._stems[self._as_told_apart(stem)] = number
        self._stems.setdefault(self._as_told_apart(unused), 1)
        return unused

    def _as_told_apart(self, name: str) -> str:
        """Names that are one to the disk are equal."""
        return name.casefold() if self._ignores_case else name


@dataclass(frozen=True, slots=True)
class _Cutting:
    """What all windows of a source share. as_stored: whether chips hold the pixels of the file."""

    index: int
    stem: str
    names: tuple[str, ...]
    grid: Grid
    as_stored: bool


class _Readers:
    """A raster, opened once more in each thread that asks: two may not read one, nor one that the other has opened.

    Of VRTs that one thread has opened GDAL opens each member once for all.
    """

    def __init__(self, raster: Raster, grid: Grid) -> None:
        """raster: as the thread that has opened it reads it already. grid: what it was resampled to."""
        self._raster, self._grid = raster, grid
        self._own = local()
        self._own.reader = raster
        self._opened = ExitStack()

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def mine(self) -> Raster:
        """The raster as this thread reads it."""
        reader: Raster | None = getattr(self._own, "reader", None)
        if reader is None:
            reader = self._opened.enter_context(self._raster.another())
            reader.resample(self._grid)
            self._own.reader = reader
        return reader


def _inside(grid: Grid, window: ChipWindow, size: int) -> Grid:
    height, width = min(size, grid.height - window.top), min(size, grid.width - window.left)
    return grid.window(top=window.top, left=window.left, height=height, width=width)
