"""What a prediction will need, said before it starts: memory, disk, and how many column panels keep to a limit."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aerial_seg.crf.blocks import BlockedCrf
from aerial_seg.crf.dense import field_bytes
from aerial_seg.errors import OutputError, SettingsError
from aerial_seg.files.disk import human_bytes, nearest_folder
from aerial_seg.files.operating_system import most_held, peak_while
from aerial_seg.geo.grid_area import GridArea
from aerial_seg.geo.raster.covered import BLOCK, Extent
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.swath import CHUNK_BYTES, cache_bytes, ring_rows
from aerial_seg.inference.device.feed import rows_of_part
from aerial_seg.inference.memory import (
    device_stream_bytes,
    fed_bytes,
    forward_bound,
    lattice_bytes,
    memory_limit,
    resident_bytes,
    tiles_bytes,
)
from aerial_seg.inference.predictor import TilePredictor
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.mentions import setting
from aerial_seg.models.device import CPU, free_memory, has_own_memory
from aerial_seg.outputs.segments import Layer, writing_bytes
from aerial_seg.tiling.plan import TilePlan

_DISK_BYTES = {"class": 0.15, "confidence": 1.2, "probabilities": 1.2}
"""Per pixel and band, compressed: the segments and the COG with its overviews, which stand side by side for a while.
Measured: class maps take 0.02-0.1, confidence up to 0.9."""

_SHARE_OF_GPU = 0.5
"""Of what is free beside the network: the stream's part; the forward pass needs as much."""
_TABLE_BYTES = 40
"""Of a file's tables per block, also of one that holds nothing; twice, as above."""


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Hold all that a map's need for memory follows from.

    extent: the rows and columns, in whole blocks, that can hold a class; all others are nodata and are not looked at.
    planes, largest_side: of the network's input, where it has more than the raster's bands or than the tile's side.
    carrier: of the tiles, `host` or `device`; device: where the network runs, a GPU with a memory of its own perhaps.
    """

    raster: Raster
    plan: TilePlan
    height: int
    width: int
    classes: int
    layers: tuple[Layer, ...]
    batch_size: int
    extent: Extent
    crf: BlockedCrf | None = None
    area: GridArea | None = None
    planes: int | None = None
    largest_side: int | None = None
    carrier: str | None = None
    device: torch.device = CPU

    @property
    def input_planes(self) -> int:
        """Planes of an image, as the network takes it."""
        return len(self.raster.info.bands) if self.planes is None else self.planes

    @property
    def input_side(self) -> int:
        """Pixels of a side of the largest image that goes through the network."""
        return self.plan.shape.side if self.largest_side is None else self.largest_side

    def region_tiles(self, panel: range) -> RegionTiles:
        """Return where the tiles of a whole panel lie, north to south."""
        return self.tiles_of(Region(self.extent.rows.start, panel, self.extent.rows.stop))

    def tiles_of(self, region: Region) -> RegionTiles:
        """Return where the tiles of a part of the output lie."""
        if self.area is None:
            return _tiles_of(self.plan, region, self.height, self.width, self.crf)
        return RegionTiles(
            self.plan, region, height=self.height, width=self.width, crf=self.crf, area=self.area
        )

    def blank_batch(self) -> list[NDArray[np.float32]]:
        """Return a full batch of the network's input, to see what a forward pass takes."""
        shape = self.input_planes, self.input_side, self.input_side
        return [np.zeros(shape, np.float32)] * self.batch_size

    @property
    def on_gpu(self) -> bool:
        """Tell whether the network has another memory than the process."""
        return has_own_memory(self.device)

    @property
    def forward_bytes(self) -> int:
        """Return more than a forward pass takes of the process's memory."""
        return 0 if self.on_gpu else forward_bound(self.batch_size, self.input_side)

    @property
    def _pixel_bytes(self) -> int:
        return len(self.raster.info.bands) * np.dtype(self.raster.info.dtype).itemsize

    @property
    def _finished_bytes(self) -> int:
        return sum(layer.bands for layer in self.layers)

    def panel_bytes(self, panel: range) -> int:
        """Return the stream's memory at this panel, at its highest; without the network and its forward pass."""
        region_tiles, shape = self.region_tiles(panel), self.plan.shape
        reading, pixel = len(region_tiles.reading), self._pixel_bytes
        asked = region_tiles.swath
        if self.carrier == "device":
            asked = min(asked, rows_of_part(pixel, reading))
        rows_held = ring_rows(self.raster, swath=asked, ahead=shape.step)
        ring = rows_held * reading * pixel + rows_held * reading // 8
        reader = ring + cache_bytes(self.raster, reading) + 3 * CHUNK_BYTES
        rows = len(panel) * (2 * (BLOCK + shape.step) * self._finished_bytes + (shape.side + shape.step) // 8)
        rows += writing_bytes(self.layers, len(panel))
        if self.carrier == "device":
            shared = 0 if self.on_gpu else self.device_bytes(panel)
            return reader + rows + fed_bytes(reading, pixel) + shared
        lattice = lattice_bytes(region_tiles, self.classes)
        tiles = tiles_bytes(
            region_tiles,
            batch_size=self.batch_size,
            side=self.input_side,
            planes=self.input_planes,
            classes=self.classes,
        )
        return reader + lattice + rows + tiles + self._crf_bytes(region_tiles)

    def device_bytes(self, panel: range) -> int:
        """Return what the device's stream holds there at this panel; without the network and its forward pass."""
        return device_stream_bytes(
            self.region_tiles(panel),
            pixel=self._pixel_bytes,
            planes=self.input_planes,
            classes=self.classes,
            layers=self._finished_bytes,
            batch_size=self.batch_size,
            side=self.input_side,
            on_gpu=self.on_gpu,
        )

    def _crf_bytes(self, region_tiles: RegionTiles) -> int:
        """What a row of blocks adds: the lattice that it sees, its finished pixels, and one block at work."""
        crf = region_tiles.crf
        if crf is None:
            return 0
        side = crf.core + 2 * crf.halo
        seen = min(side, self.height) * min(side, self.width)
        pixel = len(self.raster.info.bands) * np.dtype(self.raster.info.dtype).itemsize
        spans = crf.spans(region_tiles.kept_rows, self.height)
        cells = max(len(region_tiles.rows.part(span.seen.start, span.seen.stop).cells) for span in spans)
        lattice = 4 * self.classes * len(region_tiles.cols.cells) * (cells + self.plan.shape.core_cells)
        finished = 1 + sum(layer.bands for layer in self.layers)
        rows = min(crf.core, self.height) * len(region_tiles.region.cols) * finished
        return seen * (field_bytes(self.classes) + pixel) + lattice + rows


@lru_cache(maxsize=2)
def _tiles_of(plan: TilePlan, region: Region, height: int, width: int, crf: BlockedCrf | None) -> RegionTiles:
    # Asked three times of each of thousands of scenes, which are mostly of one size.
    return RegionTiles(plan, region, height=height, width=width, crf=crf)


def choose_panels(
    memory_model: MemoryModel, predictor: TilePredictor, max_memory: int | None
) -> tuple[range, ...]:
    """Cut a run into column panels that keep to the memory limit; the result does not depend on them."""
    limit = memory_limit(max_memory)
    whole = memory_model.extent.cols
    on_device = (
        _panels_of_device(memory_model, free_memory(memory_model.device)) if memory_model.on_gpu else 1
    )
    # One batch is run to see what the network needs, but only where it could matter.
    wanted = memory_model.forward_bytes + memory_model.panel_bytes(whole)
    # What it held at its most is quicker to know than what it holds now, and enough for most.
    if (most_held() or limit) + wanted <= limit or resident_bytes() + wanted <= limit:
        return (whole,) if on_device == 1 else _panels_of(memory_model, on_device)
    panels = panels_within(memory_model, limit, resident_after_a_batch(memory_model, predictor))
    return panels if len(panels) >= on_device else _panels_of(memory_model, on_device)


def _panels_of_device(memory_model: MemoryModel, free: int) -> int:
    """Return how many panels the memory of a GPU asks for. Raises SettingsError where it has none for the narrowest."""
    if memory_model.carrier != "device":
        return 1
    blocks = -(-len(memory_model.extent.cols) // BLOCK)

    def needed(count: int) -> int:
        return max(map(memory_model.device_bytes, _panels_of(memory_model, count)[:2]))

    room = int(free * _SHARE_OF_GPU)
    if needed(blocks) > room:
        raise SettingsError(
            f"the GPU has {human_bytes(free)} free, wanted {human_bytes(int(needed(blocks) / _SHARE_OF_GPU))} for the "
            f"narrowest panel; pass {setting('carrier', 'host')}, or a smaller {setting('batch_size')} or "
            f"{setting('tile_size')}"
        )
    return next(count for count in range(1, blocks + 1) if needed(count) <= room)


def resident_after_a_batch(memory_model: MemoryModel, predictor: TilePredictor) -> int:
    """Measure the most that the process holds while a full batch goes through the network."""
    return peak_while(lambda: predictor.run(memory_model.blank_batch()))


def panels_within(memory_model: MemoryModel, limit: int, resident: int) -> tuple[range, ...]:
    """Return the fewest column panels, whole blocks wide, that keep the process within `limit` bytes.

    resident: what it needs besides the stream: the runtime, the network and its forward pass. Raises SettingsError
    when even the narrowest panels need more.
    """
    blocks = -(-len(memory_model.extent.cols) // BLOCK)

    def needed(count: int) -> int:
        # The second panel reaches beyond both of its borders.
        return resident + max(map(memory_model.panel_bytes, _panels_of(memory_model, count)[:2]))

    if needed(blocks) > limit:
        smaller = [f"a smaller {setting('batch_size')}"] if memory_model.batch_size > 1 else []
        smaller += [
            f"a smaller {setting('tile_size')}",
            *(["no CRF"] if memory_model.crf is not None else []),
        ]
        raise SettingsError(
            f"{setting('max_memory')} {limit / 1e6:,.0f} MB is too little: {resident / 1e6:,.0f} MB for the network "
            f"with batches of {memory_model.batch_size} tiles and {(needed(blocks) - resident) / 1e6:,.0f} MB for the "
            f"narrowest panel; pass at least {ceil(needed(blocks) / 1e6)}MB, or {' or '.join(smaller)}"
        )
    return _panels_of(memory_model, next(n for n in range(1, blocks + 1) if needed(n) <= limit))


def _panels_of(memory_model: MemoryModel, count: int) -> tuple[range, ...]:
    first, panels = memory_model.extent.cols.start, even_panels(len(memory_model.extent.cols), count)
    return tuple(range(first + panel.start, first + panel.stop) for panel in panels)


def even_panels(width: int, count: int) -> tuple[range, ...]:
    """Return at most `count` panels of equal width, a multiple of BLOCK but for the last."""
    step = ceil(ceil(width / BLOCK) / count) * BLOCK
    return tuple(range(left, min(left + step, width)) for left in range(0, width, step))


def disk_bytes(memory_model: MemoryModel) -> int:
    """Estimate the space that the pieces and the result need while both stand, generously."""
    bands = sum(layer.bands for layer in memory_model.layers)
    whole, extent = memory_model.height * memory_model.width, memory_model.extent.pixels
    needed = 0.0
    for layer in memory_model.layers:
        needed += _DISK_BYTES[layer.name] * layer.bands * extent
    return int(needed) + _TABLE_BYTES * (whole // BLOCK**2) * bands + 1_000_000


def check_disk(memory_model: MemoryModel, final: Path) -> None:
    """Raise OutputError when the disk of `final` has less free space than the run may need."""
    folder = nearest_folder(final)
    free, needed = shutil.disk_usage(folder).free, disk_bytes(memory_model)
    if free < needed:
        raise OutputError(
            f"{folder} has {human_bytes(free)} free, wanted up to {human_bytes(needed)} for {final.name} and its "
            "pieces; free space or choose another output"
        )
