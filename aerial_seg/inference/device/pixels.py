"""A raster's own bytes on a device: which torch type carries them, and which float32 they stand for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CARRIED = {
    "uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64,
    "float16": torch.float16, "float32": torch.float32, "float64": torch.float64,
    # torch computes with no larger unsigned numbers: the same bits travel as signed ones.
    "uint16": torch.int16, "uint32": torch.int32, "uint64": torch.int64,
}  # fmt: skip


def carrier_type(dtype: str) -> torch.dtype:
    """Return the torch type whose elements hold the bits of pixels of this dtype, one of aerial_seg.bands.DTYPES."""
    return _CARRIED[dtype]


def as_pixels(carried: Tensor, dtype: str) -> NDArray[np.generic]:
    """Return the memory of a tensor on the host as an array of pixels of this dtype."""
    pixels: NDArray[np.generic] = carried.numpy().view(dtype)
    return pixels


def as_float32(carried: Tensor, dtype: str) -> Tensor:
    """Return pixels of this dtype as float32, a tensor of its own: the nearest number, as numpy's astype gives it."""
    if dtype == "uint16":
        return (carried.to(torch.int32) & 0xFFFF).to(torch.float32)
    if dtype == "uint32":
        return (carried.to(torch.int64) & 0xFFFF_FFFF).to(torch.float32)
    if dtype == "uint64":
        return _unsigned_as_float32(carried)
    return carried.to(torch.float32, copy=True)


def _unsigned_as_float32(signed: Tensor) -> Tensor:
    """Of the bits of uint64: what int64 cannot hold is halved, its last bit kept, so that it is rounded only once."""
    half = ((signed >> 1) & 0x7FFF_FFFF_FFFF_FFFF) | (signed & 1)
    return torch.where(signed < 0, half.to(torch.float32) * 2, signed.to(torch.float32))
