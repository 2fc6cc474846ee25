"""What a prediction may take of the machine's memory, and the batch size that keeps to it."""

from __future__ import annotations

import os
from functools import lru_cache

import psutil

from aerial_seg.errors import SettingsError
from aerial_seg.inference.region import RegionTiles
from aerial_seg.mentions import setting
from aerial_seg.models.device import pick_device

SHARE_OF_MACHINE = 0.5
"""Without a limit, a prediction keeps to this share of the machine's memory."""
_FORWARD_BYTES = 1500
"""Per input pixel of a batch: a tenth more than the widest of the networks here (PSPNet, compiled) was seen to hold."""
_LEANEST = 12
"""The leanest of the networks needs this part of the bound, or more."""
_BATCH_SHARE = 0.5
"""Of the memory limit, what the forward pass of a batch may take where its size is ours to choose."""


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


def forward_bound(batch_size: int, side: int) -> int:
    """More bytes than a forward pass of one batch needs on any of the project's networks."""
    return batch_size * side**2 * _FORWARD_BYTES


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


def choose_batch(
    own: int | None, wanted: int, *, side: int, device: str, max_memory: int | None
) -> tuple[int, tuple[str, ...]]:
    """The batch size, and what to say about it. own: what was asked for; wanted: what the model's file says.

    A CUDA device has a memory of its own and tells when it is full. Raises SettingsError: see check_batch.
    """
    if pick_device(device).type != "cpu":
        return own or wanted, ()
    batch = own or batch_within(wanted, side=side, max_memory=max_memory)
    check_batch(batch, side=side, max_memory=max_memory)
    if batch == wanted or own is not None:
        return batch, ()
    return batch, (
        f"batch size {batch} in place of the model's {wanted}: more tiles of {side} px may need over half of the "
        f"memory; {setting('batch_size')} or {setting('max_memory')} change that",
    )
