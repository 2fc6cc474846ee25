"""Finished rows on disk: each piece a small GeoTIFF that is either whole or not there, and a VRT that shows all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS as RasterioCRS
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from aerial_seg.errors import InputError, OutputError
from aerial_seg.files.names import exact
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK, Extent
from aerial_seg.geo.raster.opening import open_dataset
from aerial_seg.legend import IGNORE
from aerial_seg.outputs.durable import disk_errors, reading_back, require_written, settled_file

LAYERS = ("class", "confidence", "probabilities", "errors")

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
            with rasterio.open(exact(partial), "w", **scratch_profile(place, len(values))) as dataset:
                dataset.write(values)
            require_written(_holds(partial, values), path)

    def done(self, panel: int) -> int:
        """The row up to which the panel, from the extent's north without a gap, lies there in every layer."""
        found = self._segments(panel)
        return min(self._reach(s for s in found if s.layer == layer.name) for layer in self.layers)

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
        try:
            with open_dataset(path) as dataset:
                wanted = layer.bands, len(rows), len(self.panels[panel]), {"uint8"}, IGNORE
                got = dataset.count, *dataset.shape, set(dataset.dtypes), dataset.nodata
                if got != wanted:
                    return False
                for _, window in dataset.block_windows(1):
                    dataset.read(window=window)
        except (InputError, RasterioError):
            return False
        return True

    def vrt(self, layer: Layer) -> Path:
        """A VRT in the store's folder shows the whole layer, nodata where a segment is empty.

        It names its files relative to itself. All rows of all panels must be there.
        """
        segments = [s for s in self._segments() if s.layer == layer.name]
        for panel in range(len(self.panels)):
            if self._reach(s for s in segments if s.panel == panel) != self._extent.rows.stop:
                raise ValueError(f"panel {panel} of layer {layer.name} is not complete")
        path = self.folder / f"{layer.name}.vrt"
        root = _vrt_root(self.grid)
        filled = [s for s in segments if not s.empty]
        for band in range(1, layer.bands + 1):
            element = Xml.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(band))
            Xml.SubElement(element, "NoDataValue").text = str(IGNORE)
            for segment in filled:
                _add_source(element, segment, band, self.panels[segment.panel])
        with disk_errors(path):
            Xml.ElementTree(root).write(path)
        return path

    def _path(self, layer: Layer, panel: int, rows: range) -> Path:
        return self.folder / f"{layer.name}-p{panel:02d}-r{rows.start:08d}-{rows.stop:08d}.tif"

    def _reach(self, segments: Iterable[Segment]) -> int:
        """The row up to which the segments, north to south, follow one another."""
        row = self._extent.rows.start
        for segment in segments:
            if segment.start != row:
                break
            row = segment.stop
        return row

    def _segments(self, panel: int | None = None) -> list[Segment]:
        """From north to south."""
        names = "*-p*-r*" if panel is None else f"*-p{panel:02d}-r*"
        found = [s for s in map(Segment.of, self.folder.glob(names)) if s and s.panel < len(self.panels)]
        return sorted(found, key=lambda s: (s.layer, s.panel, s.start, s.stop))

    def _drop(self, segments: Iterable[Segment]) -> None:
        for segment in list(segments):
            with disk_errors(segment.path):
                segment.path.unlink()


def _check_panels(panels: Sequence[range], cols: range) -> None:
    joined = all(a.stop == b.start for a, b in pairwise(panels))
    whole = all(panel.start % BLOCK == 0 and len(panel) > 0 for panel in panels)
    covers = panels and (panels[0].start, panels[-1].stop) == (cols.start, cols.stop)
    if not covers or not joined or not whole:
        raise ValueError(
            f"panels {panels} do not cover {len(cols)} columns from {cols.start} in whole blocks"
        )


@cache
def _scratch_compression() -> Mapping[str, Any]:
    """The fastest that this GDAL knows: ZSTD writes masks at nearly twice the speed of DEFLATE."""
    zstd = {"compress": "ZSTD", "zstd_level": 1}
    profile = scratch_profile(Grid(crs=None, transform=Affine.identity(), height=1, width=1), 1, zstd)
    try:
        with disk_errors(Path("test")), MemoryFile() as memory, memory.open(**profile) as dataset:
            dataset.write(np.zeros((1, 1, 1), np.uint8))
    except OutputError:
        return {"compress": "DEFLATE", "zlevel": 1}
    return zstd


def scratch_profile(grid: Grid, bands: int, compression: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How rasterio opens a file of uint8 for writing that is read once and then deleted; nodata takes no space.

    Never with GDAL's threads: a write that fails in one of them is not reported.
    """
    return {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": bands,
        "dtype": "uint8",
        "nodata": IGNORE,
        "crs": RasterioCRS.from_wkt(grid.crs.to_wkt()) if grid.crs is not None else None,
        "transform": grid.transform,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "band",
        "BIGTIFF": "IF_SAFER",
        "SPARSE_OK": True,
        **(_scratch_compression() if compression is None else compression),
    }


def _holds(path: Path, values: Bytes) -> bool:
    """Whether the file's pixels are exactly these: (bands, n, w)."""
    with reading_back(path) as dataset:
        return dataset.shape == values.shape[1:] and all(
            np.array_equal(dataset.read(window=window), values[(slice(None), *window.toslices())])
            for _, window in dataset.block_windows(1)
        )


def _vrt_root(grid: Grid) -> Xml.Element:
    root = Xml.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs is not None:
        # Without an axis mapping of its own GDAL takes x before y, as the transform does.
        Xml.SubElement(root, "SRS").text = grid.crs.to_wkt()
    if grid.transform != Affine.identity():
        numbers = ", ".join(repr(float(n)) for n in grid.transform.to_gdal())
        Xml.SubElement(root, "GeoTransform").text = numbers
    return root


def _add_source(element: Xml.Element, segment: Segment, band: int, cols: range) -> None:
    source = Xml.SubElement(element, "SimpleSource")
    Xml.SubElement(source, "SourceFilename", relativeToVRT="1").text = segment.path.name
    Xml.SubElement(source, "SourceBand").text = str(band)
    width, height = str(len(cols)), str(segment.stop - segment.start)
    # With these GDAL opens a source only when it is read.
    Xml.SubElement(source, "SourceProperties", RasterXSize=width, RasterYSize=height, DataType="Byte")
    for tag, x, y in (("SrcRect", 0, 0), ("DstRect", cols.start, segment.start)):
        Xml.SubElement(source, tag, xOff=str(x), yOff=str(y), xSize=width, ySize=height)
