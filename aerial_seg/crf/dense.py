"""DenseCRF: mean-field inference in a field that joins every pixel to every other, by the library pydensecrf."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.crf.settings import DenseCrf
from aerial_seg.errors import SettingsError

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

MOST_CHANNELS = 3
_LEAST_PROBABILITY = np.float32(1e-5)
"""−log of it is 11.5: more than both default kernels together can outweigh, and finite, which −log(0) is not."""
_PERIODS = (3**0.5, 3.0)
"""By how many standard deviations the permutohedral lattice may be moved along its first and its second axis to lie on
itself: (d + 1) / E, E the diagonal of equation 5 in Adams et al. 2010; the same for every number of dimensions d."""


def check_crf_installed() -> None:
    """Raises SettingsError, telling the remedy, unless pydensecrf can be imported."""
    if find_spec("pydensecrf") is None:
        raise SettingsError(
            "a CRF needs the package pydensecrf2, which is not installed; pip install 'aerial-seg[crf]'"
        )


def field_bytes(classes: int) -> int:
    """The most bytes per pixel that `refine` takes beside what it is given, on imagery; on noise about as much.

    Measured: 310 + 31 per class on drone imagery; 440 with 2 and 1,700 with 21 classes on noise, which has more cells.
    """
    return 450 + 60 * classes


@cache
def _library() -> Any:
    check_crf_installed()
    return import_module("pydensecrf.densecrf")


def refine(
    probabilities: Floats,
    guide: NDArray[np.generic],
    valid: Mask,
    crf: DenseCrf,
    *,
    origin: tuple[int, int] = (0, 0),
) -> Floats:
    """The field's marginals (K,h,w) float32 of probabilities (K,h,w) float32 on a guide image (C,h,w), C ≤ 3.

    guide: grey levels, 0–255 as a rule, of any dtype. valid (h,w) True = measured: other pixels take no part at all,
    whatever their values, and keep their probabilities. origin: row and column of the window in the whole image; the
    library's lattice then lies the same in every window. Raises SettingsError when pydensecrf is not installed.
    Source: Krähenbühl and Koltun 2011, algorithm 1; kernels are normalised symmetrically, and a pixel hears itself.
    """
    classes, height, width = probabilities.shape
    if guide.shape[1:] != (height, width) or valid.shape != (height, width) or len(guide) > MOST_CHANNELS:
        raise ValueError(f"guide {guide.shape} and valid {valid.shape} for {probabilities.shape}")
    nodes = int(np.count_nonzero(valid))
    if classes == 1 or nodes == 0:
        return probabilities
    library = _library()
    field = library.DenseCRF(nodes, classes)
    unary = np.maximum(probabilities[:, valid], _LEAST_PROBABILITY)
    np.log(unary, out=unary)
    np.negative(unary, out=unary)
    field.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    del unary
    # A Potts energy of weight w, which the library takes as a number.
    if crf.pos_w > 0:
        field.addPairwiseEnergy(_places(valid, crf.pos_xy_std, origin), crf.pos_w)
    if crf.bi_w > 0:
        places = _places(valid, crf.bi_xy_std, origin)
        colours = guide[:, valid].astype(np.float32) / np.float32(crf.bi_rgb_std)
        field.addPairwiseEnergy(np.concatenate([places, colours]), crf.bi_w)
    # Step by step: the library holds the interpreter's lock, and an interrupt waits for it.
    state = field.startInference()
    for _ in range(crf.iterations):
        field.stepInference(*state)
    marginals = np.array(state[0])
    if nodes == valid.size:
        return marginals.reshape(classes, height, width)
    refined = probabilities.copy()
    refined[:, valid] = marginals
    return refined


def _places(valid: Mask, std: float, origin: tuple[int, int]) -> Floats:
    """Column and row of every valid pixel in standard deviations, (2,n) float32, moved by whole lattice periods."""
    axes = []
    for first, count, period in zip(reversed(origin), reversed(valid.shape), _PERIODS, strict=True):
        start = first / std
        axes.append((np.arange(count) / std + start % period).astype(np.float32))
    cols, rows = axes
    grid = np.broadcast_arrays(cols[None, :], rows[:, None])
    return np.stack([axis[valid] for axis in grid])
