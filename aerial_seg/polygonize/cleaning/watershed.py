"""Touching objects of one patch told apart: a watershed on how deep a pixel lies in the patch, and how sure it is."""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import inner, kernel

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Labels = NDArray[np.int32]

_SURE = 250
"""The stored confidence level of 1.0 (scale 0.004)."""
_PIXEL = 256
"""Units of depth in a pixel: 16 of the distance times 16 of the smoothing."""
_SHALLOWEST = 3 * _PIXEL * _SURE // 2
"""A saddle less than 1.5 sure pixels below a peak is a ragged outline, no neck; at 1, narrow buildings fell apart."""
_NECK = (3, 4)
"""A neck is at most this share of the narrower object that it joins: the arms of an H or a U are wider."""


def split_instances(patch: Bools, confidence: Bytes | None, *, min_distance: int) -> Labels:
    """Every pixel of the patch has the number of one object; a narrow neck or a doubtful seam parts two objects.

    patch (h, w) bool, one patch or several; what lies outside the array is not patch. confidence (h, w) uint8: stored
    levels 0 to 250, read inside the patch only; None stands for sure everywhere. min_distance in pixels: middles of
    objects that lie nearer to each other are one object.

    A pixel's level is its distance to the outline, smoothed over 3 × 3 pixels, times the confidence, smoothed alike.
    Two peaks of the level are two objects if every way between them sinks to 75 % of the lower one, and by at least
    1.5 pixels of depth. So an elongated, ragged or L-shaped object stays whole, and two objects that share a whole wall
    part only where the confidence sinks there.

    Returns (h, w) int32: 0 outside the patch; else 1 to n, in row-major order of the objects' first pixels. Every
    object is 4-connected. The same patch elsewhere in an array is split alike.

    Raises ValueError for arrays that do not fit each other.

    Source: Meyer, F., Topographic distance and watershed lines, Signal Processing 38 (1994): the flooding from markers.
    """
    if patch.ndim != 2 or (confidence is not None and confidence.shape != patch.shape):
        shape = None if confidence is None else confidence.shape
        raise ValueError(f"a patch of {patch.shape} with confidence of {shape}; both must be (h, w)")
    if min_distance < 1:
        raise ValueError(f"min_distance {min_distance} is below 1 pixel")
    inside = np.pad(np.asarray(patch, np.bool_), 1)
    sure = np.full(patch.shape, _SURE, np.uint8) if confidence is None else confidence
    levels = _levels(inside, np.pad(np.minimum(sure, np.uint8(_SURE)), 1))
    pixels = np.flatnonzero(inside)
    downwards = pixels[np.argsort(-levels.ravel()[pixels], kind="stable")]
    peaks = _peaks(levels, downwards, min_distance)
    return np.ascontiguousarray(_flood(inside, levels, peaks)[1:-1, 1:-1])


@kernel
def _levels(inside: Bools, confidence: Bytes) -> Ints:
    """Depth × confidence of every pixel, 0 outside the patch. Both come with a frame of one pixel that is not patch.

    All in integers, so that equal pixels have equal levels wherever they lie.
    """
    height, width = inside.shape
    depths = np.zeros((height, width), np.int64)
    squares = _squared_distances(inside)
    for y in range(height):
        for x in range(width):
            if inside[y, x]:
                # Half a pixel less: to the outline, not to the middle of the first pixel behind it.
                depths[y, x] = int(16.0 * np.sqrt(squares[y, x]) + 0.5) - 8
    levels = np.zeros((height, width), np.int64)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if inside[y, x]:
                depth, sure, weights = 0, 0, 0
                for dy in range(-1, 2):
                    for dx in range(-1, 2):
                        weight = (2 - abs(dy)) * (2 - abs(dx))
                        depth += weight * depths[y + dy, x + dx]
                        if inside[y + dy, x + dx]:
                            sure += weight * int(confidence[y + dy, x + dx])
                            weights += weight
                levels[y, x] = depth * (sure // weights)
    return levels


@inner
def _squared_distances(inside: Bools) -> Ints:
    """Squared Euclidean distance of every pixel's middle to that of the nearest one outside the patch.

    Source: Meijster et al., A general algorithm for computing distance transforms in linear time (2000).
    """
    height, width = inside.shape
    columns = np.zeros((height, width), np.int64)
    for y in range(1, height):
        for x in range(width):
            columns[y, x] = columns[y - 1, x] + 1 if inside[y, x] else 0
    for y in range(height - 2, -1, -1):
        for x in range(width):
            columns[y, x] = min(columns[y, x], columns[y + 1, x] + 1)
    squares = np.empty((height, width), np.int64)
    owners, begins = np.zeros(width, np.int64), np.zeros(width, np.int64)
    for y in range(height):
        last = 0
        owners[0], begins[0] = 0, 0
        for x in range(1, width):
            own = columns[y, x] ** 2
            while last >= 0:
                at, owner = begins[last], owners[last]
                if (at - owner) ** 2 + columns[y, owner] ** 2 <= (at - x) ** 2 + own:
                    break
                last -= 1
            if last < 0:
                last, owners[0], begins[0] = 0, x, 0
                continue
            owner = owners[last]
            begin = 1 + (x * x - owner * owner + own - columns[y, owner] ** 2) // (2 * (x - owner))
            if begin < width:
                last += 1
                owners[last], begins[last] = x, begin
        for x in range(width - 1, -1, -1):
            squares[y, x] = (x - owners[last]) ** 2 + columns[y, owners[last]] ** 2
            if x == begins[last]:
                last -= 1
    return squares


@kernel
def _peaks(levels: Ints, downwards: Ints, min_distance: int) -> Ints:
    """The flat positions of the objects' highest pixels, highest first.

    downwards: the patch's pixels by falling level, equal ones in row-major order. They are laid down one by one: a
    pixel without a neighbour founds a basin, one between basins joins those that are not two objects. Basins are
    numbered as they are founded, so the lower number has the higher peak.
    """
    width = levels.shape[1]
    flat = levels.ravel()
    basins = np.full(flat.size, -1, np.int64)
    tops = np.empty(downwards.size, np.int64)
    parents = np.empty(downwards.size, np.int64)
    founded = 0
    around = np.empty(4, np.int64)
    for pixel in downwards:
        count = _basins_around(pixel, width, basins, parents, around)
        if count == 0:
            tops[founded], parents[founded], basins[pixel] = pixel, founded, founded
            founded += 1
            continue
        basins[pixel] = around[0]
        for k in range(1, count):
            for j in range(k):
                higher, lower = tops[around[j]], tops[around[k]]
                if parents[around[j]] == around[j] and not _are_two(
                    higher, lower, width, (flat[lower], flat[pixel]), min_distance
                ):
                    parents[around[k]] = around[j]
                    break
    roots = np.flatnonzero(parents[:founded] == np.arange(founded))
    return tops[roots]


@inner
def _basins_around(pixel: int, width: int, basins: Ints, parents: Ints, around: Ints) -> int:
    """How many basins touch the pixel; `around` begins with them, in rising order."""
    count = 0
    for step in (-width, -1, 1, width):
        basin = basins[pixel + step]
        if basin < 0:
            continue
        while parents[basin] != basin:
            parents[basin] = parents[parents[basin]]
            basin = parents[basin]
        at = 0
        while at < count and around[at] < basin:
            at += 1
        if at < count and around[at] == basin:
            continue
        for k in range(count, at, -1):
            around[k] = around[k - 1]
        around[at] = basin
        count += 1
    return count


@inner
def _are_two(higher: int, lower: int, width: int, levels: tuple[int, int], min_distance: int) -> bool:
    """True if peaks at these positions are two objects; levels: of the lower peak and of the saddle between."""
    peak, saddle = levels
    if peak - saddle < _SHALLOWEST or _NECK[1] * saddle > _NECK[0] * peak:
        return False
    dy, dx = higher // width - lower // width, higher % width - lower % width
    return dy * dy + dx * dx >= min_distance * min_distance


@kernel
def _flood(inside: Bools, levels: Ints, peaks: Ints) -> Labels:
    """The object of every pixel: from the peaks downwards, of equal levels the pixel first that was reached first."""
    height, width = inside.shape
    patch, flat = inside.ravel(), levels.ravel()
    owners = np.zeros(height * width, np.int32)
    reached = np.empty(np.count_nonzero(patch), np.int64)
    highest = flat.max()
    queue = [np.int64(0) for _ in range(0)]
    for k in range(peaks.size):
        owners[peaks[k]], reached[k] = k + 1, peaks[k]
        heappush(queue, ((highest - flat[peaks[k]]) << 32) | k)
    count = peaks.size
    while len(queue) > 0:
        pixel = reached[heappop(queue) & 0xFFFFFFFF]
        for step in (-width, -1, 1, width):
            beside = pixel + step
            if patch[beside] and owners[beside] == 0:
                owners[beside], reached[count] = owners[pixel], beside
                heappush(queue, ((highest - flat[beside]) << 32) | count)
                count += 1
    numbers = np.zeros(peaks.size + 1, np.int32)
    given = 0
    for pixel in range(owners.size):
        if owners[pixel] > 0:
            if numbers[owners[pixel]] == 0:
                given += 1
                numbers[owners[pixel]] = given
            owners[pixel] = numbers[owners[pixel]]
    return owners.reshape(height, width)
