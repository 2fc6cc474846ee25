"""From a mask to a coverage in pixel space: small patches removed, outlines traced, edges simplified.

Pixel space has x = column and y = row, both at pixel corners, so every traced coordinate is an integer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio import features
from shapely.errors import GEOSException

from aerial_seg.legend import IGNORE

Mask = NDArray[np.uint8]

_SIEVE_PASSES = 64
"""A pass reaches one patch deeper into a crowd of small ones; pure noise of 1024² pixels takes 170."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Polygons that share edges without gaps or overlaps, and the mask value of each.

    geometries: (n,) object array of shapely Polygons in pixel space; values: (n,) uint8.
    """

    geometries: NDArray[np.object_]
    values: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.geometries.shape != self.values.shape:
            raise ValueError(f"{self.geometries.shape} geometries do not fit {self.values.shape} values")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def vertices(self) -> int:
        """Coordinates of all rings, the closing one of each included."""
        return int(shapely.get_num_coordinates(self.geometries).sum())

    def only(self, values: Iterable[int]) -> Coverage:
        """The polygons of these mask values, in the same order."""
        kept = np.isin(self.values, list(values))
        return Coverage(self.geometries[kept], self.values[kept])


@dataclass(frozen=True, slots=True)
class Removed:
    """Patches that lost their class, and the pixels they held."""

    patches: int = 0
    pixels: int = 0


@dataclass(frozen=True, slots=True)
class SieveReport:
    """What `sieve_small` did with the patches below `min_pixels`.

    absorbed: taken over by their largest neighbour.
    crowded: had only small neighbours, so that the whole crowd took its most frequent class.
    islands: lay in nodata, alone or as a crowd still too small, and became nodata.
    """

    min_pixels: int
    absorbed: Removed = field(default_factory=Removed)
    crowded: Removed = field(default_factory=Removed)
    islands: Removed = field(default_factory=Removed)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of patch that there was."""
        kinds = (
            (self.absorbed, "joined their largest neighbour"),
            (self.crowded, "stood among small ones only and took their commonest class"),
            (self.islands, "lay alone in nodata and were left out"),
        )
        return tuple(
            f"{removed.patches:,} patches below {self.min_pixels} px ({removed.pixels:,} px) {what}"
            for removed, what in kinds
            if removed.patches
        )


@dataclass(frozen=True, slots=True)
class SimplifyReport:
    """What `simplify` did.

    fallback: what was wrong at the tolerances above `used_px`; empty when the one asked for worked.
    """

    asked_px: float
    used_px: float
    vertices_before: int
    vertices_after: int
    fallback: str = ""


def label_patches(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The patch number of every pixel (H,W) int32, and the size of each patch in pixels (n,) int64.

    A patch is a 4-connected set of pixels of one value; patches of 255 are numbered too.
    """
    starts = np.ones(mask.shape, bool)
    starts[:, 1:] = mask[:, 1:] != mask[:, :-1]
    runs = (np.cumsum(starts, dtype=np.int32) - 1).reshape(mask.shape)
    # One pair of touching runs suffices: where either of them starts.
    touch = (mask[1:] == mask[:-1]) & (starts[1:] | starts[:-1])
    roots = _join(int(runs[-1, -1]) + 1, runs[:-1][touch], runs[1:][touch])
    _, numbers = np.unique(roots, return_inverse=True)
    labels = numbers.astype(np.int32)[runs]
    return labels, np.bincount(labels.ravel())


def _join(count: int, left: NDArray[np.int32], right: NDArray[np.int32]) -> NDArray[np.int32]:
    """The smallest node that each of `count` nodes is linked with, where left[i] and right[i] are linked."""
    root = np.arange(count, dtype=np.int32)
    while len(left):
        low, high = np.minimum(left, right), np.maximum(left, right)
        np.minimum.at(root, high, low)
        while (root != (jumped := root[root])).any():
            root = jumped
        left, right = root[left], root[right]
        apart = left != right
        left, right = left[apart], right[apart]
    return root


def sieve_small(mask: Mask, min_pixels: int) -> tuple[Mask, SieveReport]:
    """A copy of the mask without any 4-connected patch below `min_pixels`, and what became of them.

    mask (H,W) uint8, 255 = nodata. No class grows into nodata; nodata grows only over counted islands.
    """
    valid = mask != IGNORE
    labels, sizes = label_patches(mask)
    small = (sizes < min_pixels)[labels] & valid
    if not small.any():
        return mask.copy(), SieveReport(min_pixels)
    size = min(min_pixels, mask.size)
    sieved = mask
    for _ in range(_SIEVE_PASSES):
        before, sieved = sieved, _sieve_once(sieved, size)
        if np.array_equal(before, sieved):
            break
    left = _small_pixels(sieved, min_pixels)
    islands = left
    if left.any():
        # A crowd that the cap of passes left beside a large patch is absorbed by it now that it is one patch.
        sieved = _sieve_once(_level(sieved, left), size)
        islands = _small_pixels(sieved, min_pixels)
    crowded = left & ~islands
    return np.where(islands, np.uint8(IGNORE), sieved), SieveReport(
        min_pixels,
        absorbed=_count(labels, small & ~left),
        crowded=_count(labels, small & crowded),
        islands=_count(labels, small & islands),
    )


def _sieve_once(mask: Mask, size: int) -> Mask:
    swept: Mask = features.sieve(mask, size, mask=mask != IGNORE, connectivity=4)
    return swept


def _small_pixels(mask: Mask, min_pixels: int) -> NDArray[np.bool_]:
    labels, sizes = label_patches(mask)
    small: NDArray[np.bool_] = (sizes < min_pixels)[labels] & (mask != IGNORE)
    return small


def _level(mask: Mask, crowds: NDArray[np.bool_]) -> Mask:
    """A copy of the mask; each 4-connected part of `crowds` has its commonest value, the lowest in a tie."""
    labels, _ = label_patches(crowds.view(np.uint8))
    pairs, counts = np.unique(labels[crowds].astype(np.int64) * 256 + mask[crowds], return_counts=True)
    parts, values = np.divmod(pairs, 256)
    order = np.lexsort((-values, counts))
    winner = np.zeros(int(labels.max()) + 1, np.uint8)
    # The last assignment to a part stays: the largest count.
    winner[parts[order]] = values[order]
    return np.where(crowds, winner[labels], mask)


def _count(labels: NDArray[np.int32], pixels: NDArray[np.bool_]) -> Removed:
    return Removed(patches=len(np.unique(labels[pixels])), pixels=int(pixels.sum()))


def trace(mask: Mask) -> Coverage:
    """The outlines of all 4-connected patches but those of 255, as a valid coverage with the fewest vertices.

    mask (H,W) uint8. Vertices lie at the corners of the outlines and wherever three or more patches meet, for
    all patches alike. GDAL leaves the latter out of the polygon whose side is straight there, so what it
    returns is no valid coverage.
    """
    # A list, because every ring is visited twice.
    shapes = list(features.shapes(mask, mask=mask != IGNORE, connectivity=4))
    polygons: list[list[Any]] = [shape["coordinates"] for shape, _ in shapes]
    values = np.array([value for _, value in shapes], np.uint8)
    if not shapes:
        return Coverage(np.empty(0, object), values)
    rings = list(chain.from_iterable(polygons))
    vertices, ring = _unit_steps(rings)
    kept = _vertex_table(mask)[vertices[:, 1], vertices[:, 0]]
    vertices, ring = vertices[kept], ring[kept]
    ends = np.cumsum(np.bincount(ring, minlength=len(rings)))
    starts = np.concatenate([[0], ends[:-1]])
    closed = np.insert(vertices, ends, vertices[starts], axis=0).astype(np.float64)
    ring_offsets = np.concatenate([[0], ends + np.arange(1, len(rings) + 1)])
    polygon_offsets = np.concatenate([[0], np.cumsum([len(rings) for rings in polygons])])
    geometries = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, closed, (ring_offsets, polygon_offsets)
    )
    return Coverage(geometries, values)


def _unit_steps(rings: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every pixel corner along closed rings of axis-parallel sides, (n,2) x, y, once each; its ring (n,)."""
    lengths = np.array([len(ring) for ring in rings])
    corners = np.fromiter(
        chain.from_iterable(chain.from_iterable(rings)), np.float64, count=2 * int(lengths.sum())
    ).reshape(-1, 2)
    number = np.repeat(np.arange(len(rings)), lengths)
    corners = np.rint(corners).astype(np.int64)
    side = np.diff(corners, axis=0)
    side[number[1:] != number[:-1]] = 0
    length = np.abs(side).sum(axis=1)
    which = np.repeat(np.arange(len(side)), length)
    step = np.arange(len(which)) - np.repeat(np.cumsum(length) - length, length)
    return corners[which] + step[:, None] * np.sign(side)[which], number[which]


def _vertex_table(mask: Mask) -> NDArray[np.bool_]:
    """(H+1, W+1): True where outlines turn or three or more sides meet, so False along straight sides."""
    framed = np.pad(mask, 1, constant_values=IGNORE)
    north = framed[:-1, :-1] != framed[:-1, 1:]
    south = framed[1:, :-1] != framed[1:, 1:]
    west = framed[:-1, :-1] != framed[1:, :-1]
    east = framed[:-1, 1:] != framed[1:, 1:]
    straight = ((north & south) & ~(west | east)) | ((west & east) & ~(north | south))
    turns: NDArray[np.bool_] = ~straight
    return turns


def simplify(coverage: Coverage, tolerance_px: float) -> tuple[Coverage, SimplifyReport]:
    """A valid coverage of the same patches with fewer vertices on the sides that two polygons share.

    Sides on nodata and on the raster's border stay as they are. The tolerance is the root of the area, in
    pixels, of the triangles that may go (Visvalingam); up to 0.7 px no outline changes. When the result is
    not valid, half the tolerance is tried, then the traced outlines are kept, and the report says so.
    """
    before = coverage.vertices
    problems: list[str] = []
    tolerances = (tolerance_px, tolerance_px / 2) if tolerance_px > 0 and len(coverage) else ()
    for tolerance in tolerances:
        try:
            simpler = shapely.coverage_simplify(coverage.geometries, tolerance, simplify_boundary=False)
        except GEOSException as error:
            problems.append(f"at {tolerance:g} px GEOS failed ({error})")
            continue
        problem = _problem(simpler)
        if problem is None:
            result = Coverage(simpler, coverage.values)
            return result, SimplifyReport(
                tolerance_px, tolerance, before, result.vertices, "; ".join(problems)
            )
        problems.append(f"at {tolerance:g} px {problem}")
    used = 0.0 if problems else tolerance_px
    return coverage, SimplifyReport(tolerance_px, used, before, before, "; ".join(problems))


def _problem(geometries: NDArray[np.object_]) -> str | None:
    wrong = shapely.is_empty(geometries) | ~shapely.is_valid(geometries)
    if wrong.any():
        return f"{int(wrong.sum())} polygons became empty or invalid"
    if not shapely.coverage_is_valid(geometries):
        return "neighbours no longer share their edges"
    return None
