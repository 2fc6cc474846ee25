"""Polygons of regularized classes wait for their neighbours: none may overlap another in the end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from aerial_seg.polygonize.batch import PolygonBatch, chosen_features, joined_batches
from aerial_seg.polygonize.regularize.regularize import Regularized, regularize

_TOLERANCE = 1.5
"""Pixels. Less takes the pixels' edges for walls."""


class Footprints:
    """Take the features whose outlines are to become regular, and give all of them back at once."""

    def __init__(self) -> None:
        self._waiting: list[PolygonBatch] = []
        self.counts: dict[str, int] = {}

    def hold(self, batch: PolygonBatch, mine: NDArray[np.bool_]) -> PolygonBatch:
        """Keep the features that are `mine` (f,) bool; return the others."""
        if mine.any():
            self._waiting.append(chosen_features(batch, mine))
        return chosen_features(batch, ~mine)

    def regular(self) -> tuple[PolygonBatch, NDArray[np.object_]] | None:
        """Return all features that waited, with regular outlines where that fits, and the status (f,) of each."""
        if not self._waiting:
            return None
        batch = self._waiting[0]
        for more in self._waiting[1:]:
            batch = joined_batches(batch, more)
        # One polygon per feature: regularize excludes 8-connectivity.
        polygons = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, batch.coords, (batch.rings, batch.polygons)
        )
        found: Regularized = regularize(polygons, tolerance=_TOLERANCE)
        self.counts = found.counts
        _, coords, (rings, parts) = shapely.to_ragged_array(_clockwise_on_screen(found.geometries))
        shaped = replace(
            batch, coords=coords, rings=np.asarray(rings, np.int64), polygons=np.asarray(parts, np.int64)
        )
        return shaped, found.status


def _clockwise_on_screen(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """With y down, what shapely calls counter-clockwise runs clockwise."""
    oriented: NDArray[np.object_] = shapely.orient_polygons(geometries)
    return oriented
