"""What a prediction may take of the machine's memory, and the batch size that keeps to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

import psutil

from aerial_seg.errors import SettingsError
from aerial_seg.inference.device.feed import AHEAD, PART_BYTES
from aerial_seg.inference.device.finish import ON_THE_WAY_BYTES
from aerial_seg.inference.engines.choose import EngineSettings, is_halved
from aerial_seg.inference.region import RegionTiles
from aerial_seg.mentions import setting
from aerial_seg.models.device import free_memory, has_own_memory, pick_device

SHARE_OF_MACHINE = 0.5
"""Without a limit, a prediction keeps to this share of the machine's memory."""
_FORWARD_BYTES = 1500
"""Per input pixel of a batch: a tenth more than the widest of the networks here (PSPNet, compiled) was seen to hold."""
_LEANEST = 12
"""The leanest of the networks needs this part of the bound, or more."""
_BATCH_SHARE = 0.5
"""Of the memory limit, what the forward pass of a batch may take where its size is ours to choose."""
_DEVICE_PIXELS = 32 * 512**2
"""Of a batch on a GPU: 32 tiles of 512 px keep it at work, more made it no faster (measured)."""
_UPSAMPLED_BYTES = {True: 1 << 30, False: 1 << 26}
"""Of values that are weighted, interpolated and ranked at a time, at the most: on a GPU, and elsewhere."""


def memory_limit(max_memory: int | None) -> int:
    """Bytes that a prediction may use: what was asked, or a share of the machine's when nobody says."""
    return int(_machine_memory() * SHARE_OF_MACHINE) if max_memory is None else max_memory


@lru_cache(maxsize=1)
def _machine_memory() -> int:
    """Bytes that the machine has; asked for each of thousands of scenes, and always the same."""
    return int(psutil.virtual_memory().total)


def resident_bytes() -> int:
    """What the process holds now."""
    return int(_process(os.getpid()).memory_info().rss)


@lru_cache(maxsize=1)
def _process(number: int) -> psutil.Process:
    # Asked for each of thousands of scenes: to find the process takes longer than to read its memory.
    return psutil.Process(number)


def forward_bound(batch_size: int, side: int, *, halved: bool = False) -> int:
    """More bytes than a forward pass of one batch needs on any of the project's networks; halved: in 16 bits."""
    return batch_size * side**2 * _FORWARD_BYTES // (1 + halved)


def forward_least(batch_size: int, side: int) -> int:
    """Bytes that a forward pass of one batch needs on the leanest of the project's networks."""
    return forward_bound(batch_size, side) // _LEANEST


def lattice_bytes(region_tiles: RegionTiles, classes: int) -> int:
    """What blending holds of a region: a row of tiles on the lattice."""
    shape = region_tiles.part.plan.shape
    across = len(region_tiles.cols.cells) + shape.core_cells
    step_cells = shape.step // shape.geometry.logit_stride
    return 4 * classes * across * (shape.core_cells + 3 * step_cells)


def tiles_bytes(region_tiles: RegionTiles, *, batch_size: int, side: int, planes: int, classes: int) -> int:
    """What the tiles in flight take, images and logits; side, planes: of the network's largest input."""
    shape = region_tiles.part.plan.shape
    logits = classes // shape.geometry.logit_stride**2
    return 3 * batch_size * max(shape.side, side) ** 2 * 4 * (planes + logits)


def batch_within(wanted: int, *, side: int, max_memory: int | None) -> int:
    """The largest of `wanted`, its half, its quarter, …, 1 whose forward pass leaves the stream half of the memory.

    By a bound, not by a measurement: the last digits of logits depend on the batch size, so an interrupted run must
    find the same one again.
    """
    limit = memory_limit(max_memory)
    batch = max(1, wanted)
    while batch > 1 and forward_bound(batch, side) > _BATCH_SHARE * limit:
        batch //= 2
    return batch


def check_batch(batch_size: int, *, side: int, max_memory: int | None) -> None:
    """Raises SettingsError for a batch that no network could run within the memory limit."""
    limit, least = memory_limit(max_memory), forward_least(batch_size, side)
    if least > limit:
        raise SettingsError(
            f"a batch of {batch_size} tiles of {side} px takes {least / 1e6:,.0f} MB or more, wanted at most the "
            f"{limit / 1e6:,.0f} MB that may be used; pass a smaller {setting('batch_size')} or "
            f"{setting('tile_size')}"
        )


def device_stream_bytes(
    region_tiles: RegionTiles,
    *,
    pixel: int,
    planes: int,
    classes: int,
    layers: int,
    batch_size: int,
    side: int,
    on_gpu: bool,
) -> int:
    """What the device's stream holds there of a region, beside the network and its forward pass.

    pixel: bytes of a pixel of all bands. layers: bytes of a finished pixel. side, planes: of the largest input.
    """
    shape = region_tiles.part.plan.shape
    reading, width = len(region_tiles.reading), len(region_tiles.region.cols)
    ring = (region_tiles.swath + shape.step) * reading * (pixel + 1)
    lattice = lattice_bytes(region_tiles, classes) * 2
    tiles = tiles_bytes(
        region_tiles, batch_size=batch_size, side=side, planes=planes, classes=classes
    ) + batch_size * side**2 * (pixel + 1)
    finished = 2 * ON_THE_WAY_BYTES + 4 * width * layers
    return ring + lattice + tiles + finished + _UPSAMPLED_BYTES[on_gpu]


def fed_bytes(width: int, pixel: int) -> int:
    """What lies on the host for a device to copy, and comes home from it; pinned memory is lent in powers of two."""
    part = 2 * max(PART_BYTES, 2 * width * pixel)
    return (AHEAD + 2) * part + 2 * ON_THE_WAY_BYTES


def _batch_of_device(wanted: int, *, side: int, free: int, halved: bool) -> tuple[int, tuple[str, ...]]:
    """The largest power of two that a GPU gains by and that leaves half of what is free to the stream and others."""
    most = 1
    while 2 * most * side**2 <= _DEVICE_PIXELS:
        most *= 2
    batch = most
    while batch > 1 and forward_bound(batch, side, halved=halved) > _BATCH_SHARE * free:
        batch //= 2
    if batch == wanted:
        return batch, ()
    reason = (
        "so many keep a GPU at work"
        if batch == most
        else f"half of the GPU's {free / 1e9:.0f} GB holds so many"
    )
    return batch, (
        f"batch size {batch} in place of the model's {wanted}: {reason}, tiles being {side} px; "
        f"{setting('batch_size')} changes that",
    )


def choose_batch(
    own: int | None,
    wanted: int,
    *,
    side: int,
    engine: EngineSettings,
    max_memory: int | None,
    before: Callable[[], int | None] = lambda: None,
) -> tuple[int, tuple[str, ...]]:
    """The batch size, and what to say about it. own: what was asked for; wanted: what the model's file says.

    A CUDA device has a memory of its own and tells when it is full; how much is free differs from day to day, so that
    an interrupted run's size, which `before` tells, is taken again. Raises SettingsError: see check_batch.
    """
    device = pick_device(engine.device)
    if has_own_memory(device):
        if own is not None:
            return own, ()
        earlier = before()
        if earlier is not None:
            return earlier, (
                f"batch size {earlier}: that of the interrupted run, which this one goes on with",
            )
        return _batch_of_device(wanted, side=side, free=free_memory(device), halved=is_halved(engine, device))
    batch = own or batch_within(wanted, side=side, max_memory=max_memory)
    check_batch(batch, side=side, max_memory=max_memory)
    if batch == wanted or own is not None:
        return batch, ()
    return batch, (
        f"batch size {batch} in place of the model's {wanted}: more tiles of {side} px may need over half of the "
        f"memory; {setting('batch_size')} or {setting('max_memory')} change that",
    )
