"""Polygons that cross the antimeridian, cut there as RFC 7946 (3.1.9) wants it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Floats64
from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.vectors.wkb import multipolygons

_HALF, _FULL = 180.0, 360.0
Rings = list[Floats64]


def cut_antimeridian(batch: PolygonBatch) -> PolygonBatch:
    """The batch with longitudes (x) of −180…180 only: what reaches beyond continues on the other side as further parts.

    Longitudes come within −540…540, as Placement makes them. Other features keep their vertices bit by bit.
    """
    beyond = np.abs(batch.coords[:, 0]) > _HALF
    if not beyond.any():
        return batch
    starts = batch.rings[batch.polygons[batch.features[:-1]]]
    crossing = np.logical_or.reduceat(beyond, starts)
    cut = iter(shapely.from_wkb(multipolygons(batch).objects()[crossing]))
    parts = [
        _cut(next(cut)) if crosses else _parts(batch, first, last)
        for crosses, (first, last) in zip(crossing, pairwise(batch.features), strict=True)
    ]
    polygons = [polygon for feature in parts for polygon in feature]
    rings = [ring for polygon in polygons for ring in polygon]
    return replace(
        batch,
        coords=np.concatenate(rings),
        rings=_offsets([len(ring) for ring in rings]),
        polygons=_offsets([len(polygon) for polygon in polygons]),
        features=_offsets([len(feature) for feature in parts]),
    )


def _parts(batch: PolygonBatch, first: int, last: int) -> list[Rings]:
    """The polygons first … last − 1 as lists of rings."""
    return [
        [batch.coords[start:end] for start, end in pairwise(batch.rings[a : b + 1])]
        for a, b in pairwise(batch.polygons[first : last + 1])
    ]


def _cut(feature: shapely.MultiPolygon) -> list[Rings]:
    found = []
    for turn in (-_FULL, 0.0, _FULL):
        world = shapely.box(turn - _HALF, -90, turn + _HALF, 90)
        pieces = shapely.get_parts(shapely.intersection(feature, world))
        # A feature that only touches the edge leaves points and lines there; where there is nothing, GEOS says so.
        areas = pieces[
            (shapely.get_type_id(pieces) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(pieces)
        ]
        for area in shapely.orient_polygons(areas):
            rings = [area.exterior, *area.interiors]
            found.append([shapely.get_coordinates(ring) - (turn, 0.0) for ring in rings])
    return found


def _offsets(counts: list[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *counts], dtype=np.int64)
