"""From rings and the patches they bound to polygons: exterior first, holes after it, patches of a feature together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Ints, kernel
from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.polygonize.tracing.patches import Measured
from aerial_seg.polygonize.tracing.rings import Lines, twice_areas


def pack(
    lines: Lines, labels: NDArray[np.integer], chosen: Ints, groups: Ints, measured: Measured
) -> PolygonBatch:
    """The chosen rings (their numbers, (r,)) as polygons, one for each patch, and features, one for each group.

    labels (k,): the patch of every ring. groups (patches,): the feature of every patch, named by a number.
    """
    chosen, labels = _in_order(lines, labels[chosen].astype(np.int64), chosen, groups)
    new_polygon = np.ones(len(labels), bool)
    new_polygon[1:] = labels[1:] != labels[:-1]
    first_rings = np.flatnonzero(new_polygon)
    patches = labels[first_rings]
    features = groups[patches]
    new_feature = np.ones(len(patches), bool)
    new_feature[1:] = features[1:] != features[:-1]
    first_patches = np.flatnonzero(new_feature)
    with_confidence = len(measured.conf_min) > 0
    return PolygonBatch(
        *_gather(lines.xy, lines.offsets, chosen),
        polygons=np.append(first_rings, len(labels)),
        features=np.append(first_patches, len(patches)),
        values=measured.values[patches[first_patches]],
        n_px=_total(measured.n_px[patches], first_patches),
        conf_sum=_total(measured.conf_sum[patches], first_patches) if with_confidence else measured.conf_sum[:0],
        conf_min=_least(measured.conf_min[patches], first_patches) if with_confidence else measured.conf_min[:0],
    )  # fmt: skip


def _in_order(lines: Lines, labels: Ints, chosen: Ints, groups: Ints) -> tuple[Ints, Ints]:
    """The rings and their patches, sorted: by feature, patch, exterior before holes, and by their first vertices."""
    is_hole = twice_areas(lines)[chosen] < 0
    x, y = lines.xy[lines.offsets[chosen]].T
    place = np.zeros(len(groups), np.int64)
    exteriors = np.flatnonzero(~is_hole)
    by_place = exteriors[np.lexsort((labels[exteriors], x[exteriors], y[exteriors]))]
    place[labels[by_place]] = np.arange(len(by_place))
    order = np.lexsort((x, y, is_hole, place[labels], groups[labels]))
    return chosen[order], labels[order]


def _total(numbers: Ints, starts: Ints) -> Ints:
    return np.add.reduceat(numbers, starts) if len(starts) else numbers[:0]


def _least(numbers: NDArray[np.uint8], starts: Ints) -> NDArray[np.uint8]:
    return np.minimum.reduceat(numbers, starts) if len(starts) else numbers[:0]


@kernel
def _gather(xy: NDArray[np.float64], offsets: Ints, chosen: Ints) -> tuple[NDArray[np.float64], Ints]:
    """The lines of these numbers, one after the other, and their offsets."""
    new_offsets = np.zeros(len(chosen) + 1, np.int64)
    for k in range(len(chosen)):
        new_offsets[k + 1] = new_offsets[k] + offsets[chosen[k] + 1] - offsets[chosen[k]]
    gathered = np.empty((new_offsets[-1], 2))
    for k in range(len(chosen)):
        first = offsets[chosen[k]]
        for i in range(new_offsets[k + 1] - new_offsets[k]):
            gathered[new_offsets[k] + i, 0] = xy[first + i, 0]
            gathered[new_offsets[k] + i, 1] = xy[first + i, 1]
    return gathered, new_offsets
