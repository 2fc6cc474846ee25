"""Finished polygons as ragged arrays: what the tracer yields and the writers take.

Pixel space has x = column and y = row, both at pixel corners. Rows come as uint16 class codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint16]
Ints = NDArray[np.int64]

NONE = 65535
"""Code of a pixel that carries no class."""
CHUNK_ROWS = 512
"""Rows that are worked on together. A constant of the method: simplified edges are anchored at every such row."""


@dataclass(frozen=True, slots=True)
class PolygonBatch:
    """Features that are finished, in the order of their last pixels.

    coords (n,2) float64 x, y; every ring ends with its first vertex. rings (r+1,): offsets into coords. polygons
    (p+1,): offsets into rings; a polygon's first ring is its exterior, clockwise on screen (y down), its holes
    run the other way. features (f+1,): offsets into polygons; several parts only with 8-connectivity.
    values (f,) int64 class codes; n_px (f,) int64 pixels of the traced patch. conf_sum (f,) int64 and conf_min
    (f,) uint8: sum and minimum of the stored confidence levels over those pixels; empty without confidence.
    """

    coords: NDArray[np.float64]
    rings: Ints
    polygons: Ints
    features: Ints
    values: Ints
    n_px: Ints
    conf_sum: Ints
    conf_min: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.values)


def joined_batches(first: PolygonBatch, second: PolygonBatch) -> PolygonBatch:
    """The features of both, those of `first` first."""
    if len(first) == 0 or len(second) == 0:
        return second if len(first) == 0 else first
    return PolygonBatch(
        coords=np.concatenate([first.coords, second.coords]),
        rings=_appended(first.rings, second.rings),
        polygons=_appended(first.polygons, second.polygons),
        features=_appended(first.features, second.features),
        values=np.concatenate([first.values, second.values]),
        n_px=np.concatenate([first.n_px, second.n_px]),
        conf_sum=np.concatenate([first.conf_sum, second.conf_sum]),
        conf_min=np.concatenate([first.conf_min, second.conf_min]),
    )


def _appended(offsets: Ints, more: Ints) -> Ints:
    return np.concatenate([offsets, offsets[-1] + more[1:]])


def chosen_features(batch: PolygonBatch, chosen: NDArray[np.bool_]) -> PolygonBatch:
    """The features that are chosen (f,) bool, in their order."""
    if chosen.all():
        return batch
    polygons = np.repeat(chosen, np.diff(batch.features))
    rings = np.repeat(polygons, np.diff(batch.polygons))
    has_confidence = len(batch.conf_min) > 0
    return PolygonBatch(
        coords=batch.coords[np.repeat(rings, np.diff(batch.rings))],
        rings=_offsets_of(np.diff(batch.rings)[rings]),
        polygons=_offsets_of(np.diff(batch.polygons)[polygons]),
        features=_offsets_of(np.diff(batch.features)[chosen]),
        values=batch.values[chosen],
        n_px=batch.n_px[chosen],
        conf_sum=batch.conf_sum[chosen] if has_confidence else batch.conf_sum,
        conf_min=batch.conf_min[chosen] if has_confidence else batch.conf_min,
    )


def _offsets_of(counts: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
