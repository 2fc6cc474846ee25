"""From rows of a raster to a network's input: windows cut, normalised and mirrored straight into a batch's memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.numba_kernels import Floats, Ints, dividing_kernel, kernel

Valid = NDArray[np.bool_]
Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Hold of every plane of a network's input: picked, the number of the raster's band; mean and std (P,) float32."""

    picked: tuple[int, ...]
    mean: Floats
    std: Floats

    @classmethod
    def of(cls, inputs: Iterable[tuple[int, Band]]) -> Planes:
        """Make a plane of each number and statistics."""
        picked, bands = zip(*inputs, strict=True)
        means, stds = [band.mean for band in bands], [band.std for band in bands]
        return cls(picked, np.array(means, np.float32), np.array(stds, np.float32))


def cut_window(
    out: Floats, image: Pixels, rows: Ints, first_col: int, *, planes: Planes, mirrored: tuple[Ints, Ints]
) -> None:
    """out (h, w, P) float32 holds the window of image (n, m, C), normalised as bands.normalise does it, to the bit.

    rows (h,): the row of the image for each row of the window. Its columns begin at first_col; mirrored: columns of
    the window, counted from the first that lies in the image, that stand for those west and east of the image.
    """
    if image.dtype == np.float16:  # numba knows none
        image = image.astype(np.float32)
    west, east = mirrored
    inside = slice(len(west), out.shape[1] - len(east))
    width, count = inside.stop - inside.start, len(planes.picked)
    if planes.picked == tuple(range(image.shape[2])):
        flat, held = out.reshape(len(out), -1), image.reshape(len(image), -1)
        there = flat[:, inside.start * count : inside.stop * count]
        here = held[:, first_col * count : (first_col + width) * count]
        _normalise_all(there, here, rows, np.tile(planes.mean, width), np.tile(planes.std, width))
    else:
        here = image[:, first_col : first_col + width]
        _normalise_some(out[:, inside], here, rows, np.array(planes.picked), planes.mean, planes.std)


def mirror_columns(out: Floats, mirrored: tuple[Ints, Ints]) -> None:
    """The columns of out (h, w, P) beyond the image are copies of those inside; see cut_window."""
    west, east = mirrored
    inside = out[:, len(west) : out.shape[1] - len(east)]
    if len(west):
        out[:, : len(west)] = inside[:, west]
    if len(east):
        out[:, out.shape[1] - len(east) :] = inside[:, east]


@dividing_kernel
def _normalise_all(out: Floats, image: Pixels, rows: Ints, mean: Floats, std: Floats) -> None:
    for i in range(rows.size):
        pixels, into = image[rows[i]], out[i]
        for k in range(mean.size):
            into[k] = (np.float32(pixels[k]) - mean[k]) / std[k]


@dividing_kernel
def _normalise_some(out: Floats, image: Pixels, rows: Ints, picked: Ints, mean: Floats, std: Floats) -> None:
    for i in range(rows.size):
        pixels = image[rows[i]]
        for j in range(out.shape[1]):
            for plane in range(picked.size):
                value = np.float32(pixels[j, picked[plane]])
                out[i, j, plane] = (value - mean[plane]) / std[plane]


@kernel
def make_zero(out: Floats, valid: Valid, rows: Ints) -> None:
    """out (h, w, P) is 0 where valid (n, w), in the row of each row of out, is not True."""
    for i in range(rows.size):
        for j in range(out.shape[1]):
            if not valid[rows[i], j]:
                for plane in range(out.shape[2]):
                    out[i, j, plane] = 0
