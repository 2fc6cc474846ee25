"""Touching objects are told apart at necks and doubtful seams, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from aerial_seg.polygonize.cleaning.watershed import split_instances

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Labels = NDArray[np.int32]


@st.composite
def blobs(draw: st.DrawFn) -> Bools:
    """Unions of a few rectangles and discs, so that there are necks, arms and holes."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    y, x = np.mgrid[:height, :width]
    patch = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(1, 6))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        if draw(st.booleans()):
            patch |= (y - top) ** 2 + (x - left) ** 2 <= draw(st.integers(0, 12)) ** 2
        else:
            patch[top : top + draw(st.integers(1, 20)), left : left + draw(st.integers(1, 20))] = True
    if draw(st.booleans()):
        patch &= ~draw(hnp.arrays(bool, patch.shape, elements=st.booleans(), fill=st.just(False)))
    return patch


@st.composite
def patches(draw: st.DrawFn) -> tuple[Bools, Bytes | None]:
    """A patch with or without confidence; the confidence is coarse, so that there are seams."""
    patch = draw(blobs())
    if draw(st.booleans()):
        return patch, None
    height, width = patch.shape
    coarse = draw(hnp.arrays(np.uint8, ((height + 4) // 5, (width + 4) // 5), elements=st.integers(0, 250)))
    return patch, np.kron(coarse, np.ones((5, 5), np.uint8))[:height, :width].copy()


def connected(mask: Bools) -> tuple[NDArray[Any], int]:
    """4-connected components, by scipy."""
    ndimage = pytest.importorskip("scipy.ndimage")
    labels, count = ndimage.label(mask)
    return labels, count


def levels_of(patch: Bools, confidence: Bytes | None) -> NDArray[np.int64]:
    """Smoothed depth in 1/256 pixel times smoothed confidence, from the docstring, by scipy."""
    ndimage = pytest.importorskip("scipy.ndimage")
    padded = np.pad(patch, 1)
    distances = ndimage.distance_transform_edt(padded)
    depths = np.where(padded, np.floor(16 * distances + 0.5).astype(np.int64) - 8, 0)
    kernel = np.outer([1, 2, 1], [1, 2, 1])
    depths = ndimage.convolve(depths, kernel, mode="constant")
    sure = np.pad(
        np.full(patch.shape, 250, np.int64) if confidence is None else confidence.astype(np.int64), 1
    )
    weights = ndimage.convolve(padded.astype(np.int64), kernel, mode="constant")
    sure = ndimage.convolve(sure * padded, kernel, mode="constant") // np.maximum(weights, 1)
    found: NDArray[np.int64] = (depths * sure)[1:-1, 1:-1]
    return found


def peaks_by_hand(patch: Bools, levels: NDArray[np.int64]) -> int:
    """How many peaks stand out, each looked at alone: the highest level at which it is joined to a higher pixel."""
    ranked = sorted(zip(*np.nonzero(patch), strict=True), key=lambda at: (-levels[at], at))
    rank = np.full(patch.shape, len(ranked))
    for k, at in enumerate(ranked):
        rank[at] = k
    thresholds = sorted(set(levels[patch].tolist()), reverse=True)
    parts = {t: connected(patch & (levels >= t))[0] for t in thresholds}
    count = 0
    for at in ranked:
        saddle = None
        for threshold in thresholds:
            if threshold > levels[at]:
                continue
            labels = parts[threshold]
            if rank[labels == labels[at]].min() < rank[at]:
                saddle = threshold
                break
        count += saddle is None or (levels[at] - saddle >= 96_000 and 4 * saddle <= 3 * levels[at])
    return count


@given(patches(), st.integers(1, 12))
def test_labels_partition_the_patch_into_connected_objects(
    given_patch: tuple[Bools, Bytes | None], near: int
) -> None:
    patch, confidence = given_patch
    labels = split_instances(patch, confidence, min_distance=near)
    assert labels.dtype == np.int32
    assert labels.shape == patch.shape
    assert np.array_equal(labels > 0, patch)
    numbers, firsts = np.unique(labels[patch], return_index=True)
    assert numbers.tolist() == list(range(1, len(numbers) + 1))
    assert np.all(np.diff(firsts) > 0)
    assert all(connected(labels == number)[1] == 1 for number in numbers)


@given(patches())
def test_an_object_is_what_stands_out_by_a_neck(given_patch: tuple[Bools, Bytes | None]) -> None:
    patch, confidence = given_patch
    labels = split_instances(patch, confidence, min_distance=1)
    assert labels.max(initial=0) == peaks_by_hand(patch, levels_of(patch, confidence))


@given(patches(), st.integers(1, 12), st.tuples(*[st.integers(0, 9)] * 4))
def test_the_place_in_the_array_does_not_matter(
    given_patch: tuple[Bools, Bytes | None], near: int, frame: tuple[int, int, int, int]
) -> None:
    patch, confidence = given_patch
    margins = (frame[:2], frame[2:])
    moved = np.pad(patch, margins)
    noise = None
    if confidence is not None:  # what is said about pixels outside the patch does not matter either
        noise = np.where(moved, np.pad(confidence, margins), np.uint8(99))
    expected = np.pad(split_instances(patch, confidence, min_distance=near), margins)
    assert np.array_equal(split_instances(moved, noise, min_distance=near), expected)


@given(patches())
def test_greater_distances_never_make_more_objects(given_patch: tuple[Bools, Bytes | None]) -> None:
    patch, confidence = given_patch
    counts = [
        split_instances(patch, confidence, min_distance=near).max(initial=0) for near in (1, 5, 10, 100)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == connected(patch)[1]


def discs(apart: int, radius: int) -> Bools:
    y, x = np.mgrid[-radius - 1 : radius + 2, -radius - 1 : radius + apart + 2]
    return np.asarray((y**2 + x**2 <= radius**2) | (y**2 + (x - apart) ** 2 <= radius**2))


@pytest.mark.parametrize(("radius", "apart"), [(10, 16), (10, 19), (20, 32), (6, 11)])
def test_two_touching_discs_part_at_their_neck(radius: int, apart: int) -> None:
    patch = discs(apart, radius)
    for rotated in (patch, patch.T):
        labels = split_instances(rotated, None, min_distance=5)
        assert labels.max() == 2
        along = labels if rotated is patch else labels.T
        columns = np.arange(patch.shape[1]) - radius - 1
        first = along == along[radius + 1, radius + 1]
        assert first[:, columns < apart / 2 - 1][patch[:, columns < apart / 2 - 1]].all()
        assert not first[:, columns > apart / 2 + 1].any()


def rectangle(height: int, width: int) -> Bools:
    return np.ones((height, width), bool)


def l_shape(arm: int, length: int) -> Bools:
    patch = np.zeros((length, length), bool)
    patch[:, :arm] = patch[-arm:] = True
    return patch


def u_shape(arm: int, length: int) -> Bools:
    patch = np.zeros((length, length), bool)
    patch[:, :arm] = patch[:, -arm:] = patch[-arm:] = True
    return patch


@pytest.mark.parametrize(
    "patch",
    [
        rectangle(8, 90),
        rectangle(1, 50),
        rectangle(2, 3),
        rectangle(41, 17),
        l_shape(9, 40),
        l_shape(4, 30),
        u_shape(10, 40),
        np.kron(np.eye(20, dtype=bool) | np.eye(20, k=1, dtype=bool), np.ones((4, 4), bool)) > 0,
    ],
    ids=["bar", "line", "dot", "house", "L", "thin L", "U", "stairs"],
)
def test_one_building_stays_whole(patch: Bools) -> None:
    assert split_instances(patch, None, min_distance=3).max() == 1


def test_a_long_building_with_ragged_walls_stays_whole() -> None:
    random = np.random.default_rng(6)
    y, x = np.mgrid[:90, :90]
    for width in (4, 6, 9, 14):
        for angle in (0.0, 0.4, 0.7):
            across = (y - 45) * np.cos(angle) - (x - 45) * np.sin(angle)
            along = (y - 45) * np.sin(angle) + (x - 45) * np.cos(angle)
            patch = np.abs(across) < width / 2 - random.integers(0, 2, across.shape)
            patch &= np.abs(along) < 40
            patch |= (np.abs(across) < 0.8) & (np.abs(along) < 40)
            parts, count = connected(patch)
            whole = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1 if count > 1 else patch
            assert split_instances(whole, None, min_distance=3).max() == 1


@pytest.mark.parametrize(("rows", "cols", "side"), [(1, 2, 7), (3, 4, 9), (5, 5, 12)])
def test_squares_on_bridges_of_one_pixel_are_counted(rows: int, cols: int, side: int) -> None:
    step = side + 1
    patch = np.zeros((rows * step, cols * step), bool)
    for row in range(rows):
        for col in range(cols):
            top, left = row * step, col * step
            patch[top : top + side, left : left + side] = True
            if col + 1 < cols:
                patch[top + side // 2, left + side] = True
            if row + 1 < rows:
                patch[top + side, left + side // 2] = True
    assert connected(patch)[1] == 1
    labels = split_instances(patch, None, min_distance=side // 2)
    assert labels.max() == rows * cols
    for row in range(rows):
        for col in range(cols):
            assert len(np.unique(labels[row * step :, col * step :][:side, :side])) == 1
    assert split_instances(patch, None, min_distance=10 * side).max() == 1


def test_a_doubtful_seam_parts_what_shares_a_whole_wall() -> None:
    patch = rectangle(20, 40)
    confidence = np.full(patch.shape, 240, np.uint8)
    confidence[:, 18:22] = 130
    labels = split_instances(patch, confidence, min_distance=8)
    assert labels.max() == 2
    assert set(labels[:, :18].ravel()) == {1}
    assert set(labels[:, 22:].ravel()) == {2}
    assert split_instances(patch, np.full(patch.shape, 130, np.uint8), min_distance=8).max() == 1


def test_the_same_patch_is_split_alike_every_time() -> None:
    random = np.random.default_rng(1)
    patch = random.random((60, 60)) < 0.7
    confidence = random.integers(0, 251, patch.shape, np.uint8)
    first = split_instances(patch, confidence, min_distance=2)
    assert all(np.array_equal(first, split_instances(patch, confidence, min_distance=2)) for _ in range(3))


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\) with confidence of \(4, 3\)"):
        split_instances(np.ones((3, 4), bool), np.ones((4, 3), np.uint8), min_distance=1)
    with pytest.raises(ValueError, match="min_distance 0"):
        split_instances(np.ones((3, 4), bool), None, min_distance=0)
