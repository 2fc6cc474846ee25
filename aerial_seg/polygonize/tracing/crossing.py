"""Patches that cross the border of a chunk: they wait, as objects, until their last row has come."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Ints
from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.polygonize.tracing.arcs import Int32
from aerial_seg.polygonize.tracing.chains import Borders, Chains, Xy, simple_rings
from aerial_seg.polygonize.tracing.packing import pack
from aerial_seg.polygonize.tracing.patches import Measured
from aerial_seg.polygonize.tracing.rings import CLOSED, Lines, Outlines

Bools = NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class _Feature:
    """Patches that become one feature; `finished` holds those whose last row has come."""

    into: _Feature | None = None
    finished: list[_Patch] = field(default_factory=list)

    def root(self) -> _Feature:
        """The feature that this one has become part of."""
        feature = self
        while feature.into is not None:
            feature = feature.into
        return feature


@dataclass(slots=True, eq=False)
class _Patch:
    """A patch so far; `into` is the patch that it turned out to be a part of."""

    value: int
    feature: _Feature = field(default_factory=_Feature)
    n_px: int = 0
    conf_sum: int = 0
    conf_min: int = 255
    rings: list[Xy] = field(default_factory=list)
    into: _Patch | None = None

    def root(self) -> _Patch:
        """The patch that this one has become part of; the way there is shorter the next time."""
        patch = self
        while patch.into is not None:
            if patch.into.into is not None:
                patch.into = patch.into.into
            patch = patch.into
        return patch


@dataclass(frozen=True, slots=True)
class RowChunk:
    """What a chunk tells of its patches: labels (h+1, W+2) int32 with the row above, what was measured by label, and
    pairs (n,2) of labels that are one feature because they touch at corners. top: the raster row of its first row.
    """

    top: int
    labels: Int32
    measured: Measured
    corners: Ints


class CrossingPatches:
    """The patches that are open at the southern border of the last chunk, and their outlines."""

    def __init__(self, width: int) -> None:
        self._last_row = np.full(width, -1, np.int32)
        self._open: dict[int, _Patch] = {}
        self._chains: Chains[_Patch] = Chains()

    def add(
        self, chunk: RowChunk, crossing: Ints, outlines: Outlines, lines: Lines, borders: Borders
    ) -> PolygonBatch:
        """Takes in what the labels `crossing` have in this chunk; returns the features that end in it.

        Each of them crosses a border, or is one feature with a patch that does.
        """
        patches = self._continued(chunk)
        for label in map(int, crossing):
            if label not in patches:
                patches[label] = _Patch(int(chunk.measured.values[label]))
            _grow(patches[label].root(), chunk.measured, label)
        for one, other in chunk.corners:
            if int(one) in patches:
                _join_features(patches[int(one)].root(), patches[int(other)].root())
        self._take_outlines(patches, outlines, lines, chunk, borders)
        features = self._finished(patches, chunk)
        batch = _packed(features, confidence=len(chunk.measured.conf_min) > 0)
        for feature in features:
            # Patches know their feature and features their patches: a circle, which would keep all rings for long.
            feature.finished.clear()
        return batch

    def _continued(self, chunk: RowChunk) -> dict[int, _Patch]:
        """The open patch of every label in the row above; those that meet in this chunk are one."""
        pairs = np.unique(np.stack([chunk.labels[0], self._last_row], axis=1), axis=0)
        patches: dict[int, _Patch] = {}
        for label, old in pairs.tolist():
            if old not in self._open:
                continue
            patch = self._open[old].root()
            if label in patches:
                _join_patches(patches[label].root(), patch)
            else:
                patches[label] = patch
        return patches

    def _take_outlines(
        self, patches: dict[int, _Patch], outlines: Outlines, lines: Lines, chunk: RowChunk, borders: Borders
    ) -> None:
        bottom = chunk.top + len(chunk.labels) - 1
        mine = np.isin(outlines.labels, np.fromiter(patches, np.int64, count=len(patches)))
        for k in np.flatnonzero(mine):
            xy, patch = lines.xy[lines.offsets[k] : lines.offsets[k + 1]], patches[int(outlines.labels[k])]
            if outlines.starts[k] == CLOSED:
                patch.root().rings.append(xy.copy())
                continue
            start, stop = (
                (bottom if place & 1 else chunk.top, place >> 1)
                for place in (int(outlines.starts[k]), int(outlines.stops[k]))
            )
            for owner, outline in self._chains.add(xy.copy(), patch, start=start, stop=stop, borders=borders):
                owner.root().rings += simple_rings(outline)

    def _finished(self, patches: dict[int, _Patch], chunk: RowChunk) -> list[_Feature]:
        """The features without an open patch; what is open now is kept for the next chunk."""
        self._last_row = chunk.labels[-1]
        here = set(np.unique(self._last_row).tolist())
        self._open = {label: patch.root() for label, patch in patches.items() if label in here}
        still = set(map(id, self._open.values()))
        waiting = {id(patch.feature.root()) for patch in self._open.values()}
        features: dict[int, _Feature] = {}
        ended = {
            id(root): root for root in (patch.root() for patch in patches.values()) if id(root) not in still
        }
        for patch in ended.values():
            feature = patch.feature.root()
            feature.finished.append(patch)
            if id(feature) not in waiting:
                features[id(feature)] = feature
        return list(features.values())


def _grow(patch: _Patch, measured: Measured, label: int) -> None:
    patch.n_px += int(measured.n_px[label])
    if len(measured.conf_min):
        patch.conf_sum += int(measured.conf_sum[label])
        patch.conf_min = min(patch.conf_min, int(measured.conf_min[label]))


def _join_patches(one: _Patch, other: _Patch) -> None:
    if one is other:
        return
    if len(one.rings) < len(other.rings):
        one, other = other, one
    other.into = one
    one.n_px += other.n_px
    one.conf_sum += other.conf_sum
    one.conf_min = min(one.conf_min, other.conf_min)
    one.rings += other.rings
    other.rings = []
    _join_features(one, other)


def _join_features(one: _Patch, other: _Patch) -> None:
    kept, gone = one.feature.root(), other.feature.root()
    if kept is not gone:
        gone.into = kept
        kept.finished += gone.finished
        gone.finished = []


def _packed(features: list[_Feature], *, confidence: bool) -> PolygonBatch:
    patches = [patch for feature in features for patch in feature.finished]
    rings = [ring for patch in patches for ring in patch.rings]
    lines = Lines(
        np.concatenate(rings) if rings else np.empty((0, 2)),
        np.cumsum([0, *map(len, rings)]),
    )
    labels = np.repeat(np.arange(len(patches)), [len(patch.rings) for patch in patches])
    groups = np.repeat(np.arange(len(features)), [len(feature.finished) for feature in features])
    measured = Measured(
        np.array([patch.value for patch in patches], np.int64),
        np.array([patch.n_px for patch in patches], np.int64),
        np.array([patch.conf_sum for patch in patches if confidence], np.int64),
        np.array([patch.conf_min for patch in patches if confidence], np.uint8),
    )
    return pack(lines, labels, np.arange(len(labels)), groups, measured)
