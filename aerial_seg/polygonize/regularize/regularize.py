"""Outlines of buildings with right angles, and which of them had better keep their raw shape."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
import shapely
from numpy.typing import NDArray

from aerial_seg.polygonize.regularize.areas import Ragged, common_areas
from aerial_seg.polygonize.regularize.rings import ROUND, SMALL, SQUARED, square_polygons

Objects = NDArray[np.object_]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

LEAST_IOU = 0.8
"""A regular shape that covers the raw one worse than this is not that building."""

_GAP = 1e-3
"""Tolerances between a shape that was cut and the neighbour that it was cut along: rounding cannot close them."""
_MOST_CUTS = 8
_MOST_VERTICES = 20_000
"""An outline of more is no building; the time that one takes grows with the square."""

REGULAR = "regular"
CUT = "cut"
KEPT_SMALL = "kept_small"
KEPT_LARGE = "kept_large"
KEPT_ROUND = "kept_round"
KEPT_INVALID = "kept_invalid"
KEPT_IOU = "kept_iou"
KEPT_OVERLAP = "kept_overlap"
STATUSES = (REGULAR, CUT, KEPT_SMALL, KEPT_LARGE, KEPT_ROUND, KEPT_INVALID, KEPT_IOU, KEPT_OVERLAP)


@dataclass(frozen=True, slots=True)
class Regularized:
    """Polygons after regularizing, in the order in which they came.

    geometries: (n,) object array of shapely Polygons. status: (n,) object array of str, of each one of

    regular       right-angled, but for long sides that stand askew;
    cut           as regular, less what a larger neighbour's regular shape took of it;
    kept_small    raw: too small for four sides;
    kept_large    raw: more vertices than a building has;
    kept_round    raw: no direction to be right-angled to;
    kept_invalid  raw: was invalid, or would have become so;
    kept_iou      raw: the regular shape covered it worse than LEAST_IOU;
    kept_overlap  raw: the regular shape overlapped a raw neighbour, or another one and could not be cut.
    """

    geometries: Objects
    status: Objects

    def __post_init__(self) -> None:
        if self.geometries.shape != self.status.shape:
            raise ValueError(f"{self.geometries.shape} geometries do not fit {self.status.shape} statuses")

    def __len__(self) -> int:
        return len(self.status)

    @property
    def counts(self) -> dict[str, int]:
        """How many polygons have each status that there is."""
        found = {status: int(np.count_nonzero(self.status == status)) for status in STATUSES}
        return {status: count for status, count in found.items() if count}


def regularize(polygons: Objects, *, tolerance: float) -> Regularized:
    """Buildings have right angles where that fits them; every other one keeps its raw shape, and the status says why.

    polygons (n,): shapely Polygons in pixels, or in a CRS whose units are as long in x as in y. Best are outlines that
    follow pixel edges: simplified ones have lost what tells where the walls are (of synthetic buildings, IoU with the
    truth 0.95 instead of 0.99). tolerance, in the same units: what the outline may be off by; 1.5 pixels, and 1 pixel
    is the least that does not take pixel edges for walls. Polygons are regularized each by itself: neighbours may part,
    but never overlap unless their raw shapes did.

    A side lies along or across the direction that most of the outline keeps, at the mean of what it stands for
    without the outer quarters. A long side that neither axis fits stays as it is, or at 45° if it is near that; sides
    below one and a half tolerances go. So do holes below 4 tolerances² that a wall would touch; all others stay.

    Where two regular shapes overlap, the one with the smaller raw area (the later one if both are equal) is cut along
    the other, or keeps its raw shape if that would spoil it or the other one is raw; and so on until none overlaps.

    Raises ValueError for a tolerance that is not above 0, or geometries that are not Polygons.
    """
    raw = np.asarray(polygons, np.object_)
    if not (isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance {tolerance} is not a length above 0")
    if not (shapely.get_type_id(raw) == shapely.GeometryType.POLYGON).all():
        raise ValueError("a geometry to regularize is not a Polygon; take multipolygons apart first")
    status = np.full(raw.shape, KEPT_INVALID, np.object_)
    shapes = raw.copy()
    valid = shapely.is_valid(raw) & ~shapely.is_empty(raw)
    large = shapely.get_num_coordinates(raw) > _MOST_VERTICES
    status[valid & large] = KEPT_LARGE
    sound = np.flatnonzero(valid & ~large)
    shapes[sound], status[sound] = _squared(raw[sound], tolerance)
    regular = np.flatnonzero(status == REGULAR)
    status[regular] = _judged(raw[regular], shapes[regular])
    shapes = np.where(status == REGULAR, shapes, raw)
    _part_overlaps(raw, shapes, status, _GAP * tolerance)
    return Regularized(shapes, status)


def _squared(raw: Objects, tolerance: float) -> tuple[Objects, Objects]:
    """Valid polygons laid out with right angles; not yet checked for anything."""
    if not len(raw):
        return raw, raw
    ragged = _ragged(raw)
    coords, rings, verdicts = square_polygons(*ragged, tolerance)
    shapes = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coords, (rings, ragged.polygons))
    for at in np.flatnonzero(~shapely.is_valid(shapes)):
        shapes[at] = _without_holes_in_the_way(shapes[at], 4 * tolerance**2)
    words = np.empty(3, np.object_)
    words[[SQUARED, SMALL, ROUND]] = REGULAR, KEPT_SMALL, KEPT_ROUND
    return shapes, words[verdicts]


def _ragged(polygons: Objects) -> Ragged:
    _, coords, (rings, parts) = shapely.to_ragged_array(polygons, include_z=False)
    return Ragged(np.asarray(coords, np.float64), np.asarray(rings, np.int64), np.asarray(parts, np.int64))


def _without_holes_in_the_way(shape: shapely.Polygon, least: float) -> shapely.Polygon:
    """The polygon without those holes below an area that touch its outline or a larger hole."""
    outer = shapely.Polygon(shape.exterior)
    holes = np.array([shapely.Polygon(hole) for hole in shape.interiors], np.object_)
    if not (outer.is_valid and shapely.is_valid(holes).all()):
        return shape
    holes = holes[np.argsort(-shapely.area(holes), kind="stable")]
    after, before = shapely.STRtree(holes).query(holes, predicate="intersects")
    in_the_way = ~shapely.contains_properly(outer, holes)
    in_the_way[after[after > before]] = True
    kept = holes[~in_the_way | (shapely.area(holes) >= least)]
    return shapely.Polygon(outer.exterior, [hole.exterior for hole in kept])


def _judged(raw: Objects, shapes: Objects) -> Objects:
    """The status of each regular shape as far as it alone decides that."""
    status = np.full(raw.shape, REGULAR, np.object_)
    valid = shapely.is_valid(shapes) & ~shapely.is_empty(shapes)
    status[~valid] = KEPT_INVALID
    common = np.zeros(len(raw))
    if valid.any():
        common[valid] = common_areas(_ragged(raw[valid]), _ragged(shapes[valid]))
    either = shapely.area(raw) + shapely.area(shapes) - common
    # Tiny shapes hit the bound exactly, and rounding shall not choose among them.
    status[valid & (common < (LEAST_IOU - 1e-9) * either)] = KEPT_IOU
    return status


def _part_overlaps(raw: Objects, shapes: Objects, status: Objects, gap: float) -> None:
    """No shape overlaps another one any more, unless both are raw: those that lose have become CUT or KEPT_OVERLAP."""
    ranks = np.empty(len(raw), np.int64)
    ranks[np.lexsort((np.arange(len(raw)), -shapely.area(raw)))] = np.arange(len(raw))
    cuts = np.zeros(len(raw), np.int64)
    changed = np.flatnonzero(status == REGULAR)
    while len(changed):
        yielding = (status == REGULAR) | (status == CUT)
        contests = _contests(_overlaps(shapes, changed), yielding, ranks)
        for winner, loser in contests:
            left = None
            if yielding[winner] and cuts[loser] < _MOST_CUTS:
                left = _cut(shapes[loser], shapes[winner], raw[loser], gap)
            cuts[loser] += 1
            shapes[loser], status[loser] = (raw[loser], KEPT_OVERLAP) if left is None else (left, CUT)
        # What changed may overlap shapes that were free of it before, and pairs that were put off come again.
        changed = np.array([loser for _, loser in contests], np.int64)


def _cut(
    shape: shapely.Polygon, neighbour: shapely.Polygon, raw: shapely.Polygon, gap: float
) -> shapely.Polygon | None:
    """What a neighbour leaves of a shape, if that is still one polygon with its holes that covers the raw one well."""
    left = shapely.difference(shape, shapely.buffer(neighbour, gap, join_style="mitre"))
    if not isinstance(left, shapely.Polygon) or len(left.interiors) != len(shape.interiors):
        return None
    pair = np.array([raw, left], np.object_)
    if _judged(pair[:1], pair[1:])[0] != REGULAR:
        return None
    return shapely.orient_polygons(left, exterior_cw=not shape.exterior.is_ccw)


def _overlaps(shapes: Objects, some: Ints) -> Ints:
    """Pairs (m, 2) of one of `some` and another shape whose interiors meet, each pair once."""
    one, other = shapely.STRtree(shapes).query(shapes[some], predicate="intersects")
    pairs = np.sort(np.stack([some[one], other], axis=1), axis=1)
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    meet = shapely.relate_pattern(shapes[pairs[:, 0]], shapes[pairs[:, 1]], "T********")
    return np.asarray(pairs[meet])


def _contests(pairs: Ints, yielding: Bools, ranks: Ints) -> list[tuple[int, int]]:
    """Who stays and who gives way, (winner, loser), in each pair that neither of its two has lost in by then.

    A raw shape cannot give way; of two others the lower in rank does. The higher in rank settle their pairs first.
    """
    pairs = pairs[yielding[pairs].any(axis=1)]
    both = yielding[pairs].all(axis=1)
    first_loses = np.where(both, ranks[pairs[:, 0]] > ranks[pairs[:, 1]], yielding[pairs[:, 0]])
    winners = np.where(first_loses, pairs[:, 1], pairs[:, 0])
    losers = np.where(first_loses, pairs[:, 0], pairs[:, 1])
    lost: set[int] = set()
    contests = []
    for at in np.lexsort((ranks[losers], ranks[winners])):
        winner, loser = int(winners[at]), int(losers[at])
        if winner not in lost and loser not in lost:
            lost.add(loser)
            contests.append((winner, loser))
    return contests
