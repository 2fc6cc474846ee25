"""Finished rows on disk: each piece a small GeoTIFF that is either whole or not there, and smaller versions of all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK, Extent
from aerial_seg.geo.raster.opening import open_dataset
from aerial_seg.legend import IGNORE
from aerial_seg.outputs.durable import disk_errors, require_written, settled_file
from aerial_seg.outputs.overviews import Overview, Version, overviews_of, reducing_bytes
from aerial_seg.outputs.packing import packing_bytes, workers
from aerial_seg.outputs.pieces import (
    RECENT_BYTES,
    Blocks,
    Piece,
    PieceList,
    Recent,
    blocks_of,
    is_remembered,
    write_tiff,
)

LAYERS = ("class", "confidence", "probabilities", "errors")

_MOST_BANDS_BESIDE = 16
"""With more a block of all bands is so large that smaller versions are made when the network's memory is free again."""

_NAME = re.compile(r"(?P<layer>[a-z]+)-p(?P<panel>\d+)-r(?P<start>\d+)-(?P<stop>\d+)\.(?:tif|empty)")

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layer:
    """One raster of the result: `bands` bands of uint8, 255 = nodata."""

    name: str
    bands: int

    def __post_init__(self) -> None:
        if self.name not in LAYERS or self.bands < 1:
            raise ValueError(f"no layer is called {self.name} with {self.bands} bands")

    @property
    def classes(self) -> bool:
        """Whether its values are names: they are never averaged."""
        return self.name in ("class", "errors")


def writing_bytes(layers: Sequence[Layer], width: int) -> int:
    """Return more than what writing a segment of so many columns takes beside its rows, smaller versions included."""
    packing = max(packing_bytes(layer.bands, width, classes=layer.classes) for layer in layers)
    reducing = (reducing_bytes(layer.bands) for layer in layers if layer.bands <= _MOST_BANDS_BESIDE)
    remembers = any(is_remembered(layer.bands * BLOCK * width) for layer in layers)
    return packing + max(reducing, default=0) + remembers * RECENT_BYTES


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `start` to `stop` of one panel of one layer, in a file; `empty`: all nodata, the file has no content."""

    path: Path
    layer: str
    panel: int
    start: int
    stop: int

    @classmethod
    def of(cls, path: Path) -> Segment | None:
        """The segment that a file of this name holds; None for other names."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            return None
        panel, start, stop = (int(match[key]) for key in ("panel", "start", "stop"))
        return cls(path, match["layer"], panel, start, stop)

    @property
    def empty(self) -> bool:
        """True when there is nothing but nodata in it."""
        return self.path.suffix == ".empty"


@dataclass(slots=True)
class _Whole:
    """A layer at full size, as far as it is there: `done` rows in all panels."""

    shape: tuple[int, int]
    extent: Extent
    done: int
    pieces: PieceList
    known: set[Path]


class SegmentStore:
    """The finished rows of one result, as files in a folder that may be moved.

    panels are the columns that are processed together; they follow one another and cover the extent's width, and
    their borders are multiples of BLOCK. extent: what is made, in whole blocks; all around it is nodata. None: all of
    the grid. A segment that lies under its name is whole and on the disk; which of them
    count is for the caller's journal to say.
    """

    def __init__(
        self,
        folder: Path,
        grid: Grid,
        layers: tuple[Layer, ...],
        *,
        panels: tuple[range, ...],
        extent: Extent | None = None,
    ) -> None:
        self._extent = Extent.whole(*grid.shape) if extent is None else extent
        _check_panels(panels, self._extent.cols)
        self.folder, self.grid, self.layers, self.panels = folder, grid, layers, panels
        self._blocks: dict[Path, Blocks] = {}
        self._recent = Recent()
        self._versions: dict[str, tuple[_Whole, list[Overview]]] = {}
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, panel: int, rows: range, arrays: Mapping[str, Bytes]) -> None:
        """These rows of a panel are on the disk, and nothing older overlaps them.

        arrays: for each layer (n, w) or (bands, n, w) uint8. rows begin and end at multiples of BLOCK, or end with
        the raster. Raises OutputError when the disk does not take them; then none counts as written.
        """
        self._check_rows(rows)
        if set(arrays) != {layer.name for layer in self.layers}:
            raise ValueError(f"layers {sorted(arrays)} were given, not those of the store")
        self._drop(s for s in self._segments(panel) if s.start < rows.stop and s.stop > rows.start)
        for layer in self.layers:
            shape = layer.bands, len(rows), len(self.panels[panel])
            self._write(self._path(layer, panel, rows), panel, rows, arrays[layer.name].reshape(shape))

    def _check_rows(self, rows: range) -> None:
        stops = rows.stop % BLOCK == 0 or rows.stop == self.grid.height
        if rows.start % BLOCK or not stops or not 0 <= rows.start < rows.stop <= self.grid.height:
            raise ValueError(
                f"rows {rows.start}..{rows.stop} are not whole rows of blocks of {self.grid.height} rows"
            )

    def _write(self, path: Path, panel: int, rows: range, values: Bytes) -> None:
        if values.min() == IGNORE:
            with settled_file(path.with_suffix(".empty")) as partial:
                partial.touch()
            return
        cols = self.panels[panel]
        place = self.grid.window(top=rows.start, left=cols.start, height=len(rows), width=len(cols))
        with settled_file(path) as partial:
            blocks = write_tiff(partial, values, place, threads=workers(len(values)))
            require_written(blocks is not None, path)
        if blocks is not None:
            self._blocks[path] = blocks
            self._recent.add(path, values)

    def done(self, panel: int) -> int:
        """The row up to which the panel, from the extent's north without a gap, lies there in every layer."""
        found = self._segments(panel)
        by_layer = ([s for s in found if s.layer == layer.name] for layer in self.layers)
        return min(self._reach(segments, panel) for segments in by_layer)

    def discard(self, panel: int, *, after: int) -> None:
        """Of the panel only segments that end at row `after` or north of it are left: those the journal knows."""
        self._drop(s for s in self._segments(panel) if s.stop > after)

    def intact(self, panel: int, rows: range) -> bool:
        """Whether the segment of exactly these rows is there in every layer and all of it can be read."""
        return all(self._is_intact(layer, panel, rows) for layer in self.layers)

    def _is_intact(self, layer: Layer, panel: int, rows: range) -> bool:
        path = self._path(layer, panel, rows)
        if path.with_suffix(".empty").exists():
            return True
        shape = layer.bands, len(rows), len(self.panels[panel])
        try:
            blocks = blocks_of(path, shape, threads=workers(layer.bands))
            if blocks is None:
                return self._renewed(path, panel, rows, shape)
        except OSError:
            return False
        self._blocks[path] = blocks
        return True

    def _renewed(self, path: Path, panel: int, rows: range, shape: tuple[int, ...]) -> bool:
        """Whether the file is a whole piece of a former version, in other blocks; then it is one of this version."""
        try:
            with open_dataset(path) as dataset:
                found = dataset.count, *dataset.shape, set(dataset.dtypes), dataset.nodata
                if found != (*shape, {"uint8"}, IGNORE):
                    return False
                values = dataset.read()
        except (InputError, RasterioError):
            return False
        self._write(path, panel, rows, values)
        return True

    def reduce(self) -> None:
        """Smaller versions are there of all rows that can be reduced by now, but for layers of many bands.

        They are no part of what is kept, and are made when they are asked for: this only makes them sooner, while
        others work. Raises OutputError when the disk does not take them.
        """
        for layer in self.layers:
            if layer.bands <= _MOST_BANDS_BESIDE:
                self._reduce(layer)

    def versions(self, layer: Layer) -> Sequence[Version]:
        """The layer and its smaller versions, down to one block; all rows of all panels must be there."""
        whole, smaller = self._reduce(layer)
        if whole.done != self._extent.rows.stop:
            found = self._segments(layer=layer)
            panel = next(n for n in range(len(self.panels)) if self._reach(found, n) == whole.done)
            raise ValueError(f"panel {panel} of layer {layer.name} is not complete")
        return whole, *smaller

    def forget_versions(self, layer: Layer) -> None:
        """Smaller versions of the layer take no space any more."""
        self._versions.pop(layer.name, None)
        shutil.rmtree(self._smaller(layer), ignore_errors=True)

    def _smaller(self, layer: Layer) -> Path:
        return self.folder / f"{layer.name}.overviews"

    def _reduce(self, layer: Layer) -> tuple[_Whole, list[Overview]]:
        if layer.name not in self._versions:
            # What an interrupted run left there was not read back, or is not on the disk.
            self.forget_versions(layer)
            whole = _Whole(self.grid.shape, self._extent, self._extent.rows.start, PieceList(), set())
            smaller = overviews_of(
                whole, self._smaller(layer), self._recent, bands=layer.bands, classes=layer.classes
            )
            self._versions[layer.name] = whole, smaller
        whole, smaller = self._versions[layer.name]
        segments = self._segments(layer=layer)
        reached = [self._reach(segments, panel) for panel in range(len(self.panels))]
        for segment in segments:
            if segment.path not in whole.known and segment.stop <= reached[segment.panel]:
                whole.known.add(segment.path)
                whole.pieces.add(self._piece(layer, segment))
        whole.done = min(reached)
        for overview in smaller:
            overview.advance()
        return whole, smaller

    def _piece(self, layer: Layer, segment: Segment) -> Piece:
        """Its blocks are those that were compared when it was written, or are looked at now."""
        rows, cols = range(segment.start, segment.stop), self.panels[segment.panel]
        if segment.empty:
            return Piece(segment.path, rows, cols, None)
        if segment.path not in self._blocks:
            require_written(self._is_intact(layer, segment.panel, rows), segment.path)
        return Piece(segment.path, rows, cols, self._blocks[segment.path])

    def _path(self, layer: Layer, panel: int, rows: range) -> Path:
        return self.folder / f"{layer.name}-p{panel:02d}-r{rows.start:08d}-{rows.stop:08d}.tif"

    def _reach(self, segments: Iterable[Segment], panel: int) -> int:
        """The row up to which the segments of a panel, north to south, follow one another."""
        row = self._extent.rows.start
        for segment in segments:
            if segment.panel != panel:
                continue
            if segment.start != row:
                break
            row = segment.stop
        return row

    def _segments(self, panel: int | None = None, *, layer: Layer | None = None) -> list[Segment]:
        """Those of all panels and layers, or of one, by layer, panel and row."""
        names = f"{'*' if layer is None else layer.name}-p{'*' if panel is None else f'{panel:02d}'}-r*"
        found = [s for s in map(Segment.of, self.folder.glob(names)) if s and s.panel < len(self.panels)]
        return sorted(found, key=lambda s: (s.layer, s.panel, s.start, s.stop))

    def _drop(self, segments: Iterable[Segment]) -> None:
        for segment in list(segments):
            with disk_errors(segment.path):
                segment.path.unlink()
            self._blocks.pop(segment.path, None)
            self._recent.forget(segment.path)
            # They may have been made of it.
            self._versions.pop(segment.layer, None)


def _check_panels(panels: Sequence[range], cols: range) -> None:
    joined = all(a.stop == b.start for a, b in pairwise(panels))
    whole = all(panel.start % BLOCK == 0 and len(panel) > 0 for panel in panels)
    covers = panels and (panels[0].start, panels[-1].stop) == (cols.start, cols.stop)
    if not covers or not joined or not whole:
        raise ValueError(
            f"panels {panels} do not cover {len(cols)} columns from {cols.start} in whole blocks"
        )
