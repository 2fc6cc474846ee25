"""Components and their neighbours are those of the whole raster, however it is cut into chunks. Oracle: scipy."""

from __future__ import annotations

from collections import Counter
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from aerial_seg.errors import InputError
from aerial_seg.polygonize.batch import NONE, Codes
from aerial_seg.polygonize.cleaning import components as module
from aerial_seg.polygonize.cleaning.adjacency import Adjacency, Pairs, pair_keys, unique_pairs
from aerial_seg.polygonize.cleaning.components import Components, find_runs, join_all, label_chunk


@st.composite
def masks(draw: st.DrawFn) -> Codes:
    """Up to 32 rows and columns of four codes and nodata, in pixels 1 to 4 wide and high."""
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=8)
    coarse = draw(arrays(np.uint16, shapes, elements=st.sampled_from([0, 1, 2, 65534, NONE])))
    return np.kron(coarse, np.ones(draw(st.tuples(st.integers(1, 4), st.integers(1, 4))), np.uint16))


heights = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def smooth_mask(seed: int, *, height: int = 90, width: int = 70) -> Codes:
    """Regions of 5 classes with spirals and islands, and nodata."""
    noise = np.random.default_rng(seed).normal(size=(6, height, width))
    fields = np.stack([ndimage.gaussian_filter(layer, 1.5) for layer in noise])
    return np.where(fields[5] < -0.15, NONE, fields[:5].argmax(axis=0)).astype(np.uint16)


def cut(mask: Codes, heights: list[int]) -> list[Codes]:
    """The mask as chunks of these heights, over and over."""
    chunks, top = [], 0
    for height in cycle(heights):
        if top >= len(mask):
            return chunks
        chunks.append(mask[top : top + height])
        top += height
    raise AssertionError("heights are never empty")


def expected_labels(mask: Codes) -> NDArray[np.int64]:
    """By scipy, renumbered in the order of the first pixels."""
    labels, count = np.zeros(mask.shape, np.int64), 0
    for value in np.unique(mask):
        found, here = ndimage.label(mask == value)
        labels += np.where(found, found + count, 0)
        count += here
    _, firsts, inverse = np.unique(labels, return_index=True, return_inverse=True)
    ranks = np.empty(count, np.int64)
    ranks[np.argsort(firsts)] = np.arange(count)
    return ranks[inverse.reshape(mask.shape)]


def expected_pairs(labels: NDArray[np.int64]) -> dict[tuple[int, int], int]:
    """Pair → shared sides, pixel by pixel."""
    sides: Counter[tuple[int, int]] = Counter()
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        pairs = zip(
            np.minimum(one, other).ravel().tolist(), np.maximum(one, other).ravel().tolist(), strict=True
        )
        sides.update(pair for pair in pairs if pair[0] != pair[1])
    return dict(sides)


def listed(pairs: Pairs) -> dict[tuple[int, int], int]:
    keys = list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    assert keys == sorted(set(keys))
    return dict(zip(keys, pairs.borders.tolist(), strict=True))


@given(mask=masks())
def test_labels_of_a_stripe_are_the_4_connected_components_in_order(mask: Codes) -> None:
    labels, count = label_chunk(mask)
    assert labels.dtype == np.int32
    assert count == labels.max() + 1
    assert np.array_equal(labels, expected_labels(mask))


@given(seed=st.integers(0, 10**6))
def test_labels_of_winding_regions(seed: int) -> None:
    mask = smooth_mask(seed)
    assert np.array_equal(label_chunk(mask)[0], expected_labels(mask))


def test_labels_of_a_comb_a_spiral_and_one_pixel() -> None:
    comb = np.zeros((9, 40), np.uint16)
    comb[:-1, 1::2] = 1
    assert label_chunk(comb)[1] == 1 + 20
    y, x = np.indices((31, 31))
    spiral = (np.maximum(abs(y - 15), abs(x - np.where(y < 15, 15, 16))) % 2).astype(np.uint16)
    assert np.array_equal(label_chunk(spiral)[0], expected_labels(spiral))
    labels, count = label_chunk(np.full((1, 1), NONE, np.uint16))
    assert (labels.tolist(), count) == ([[0]], 1)


@given(mask=masks(), heights=heights)
def test_stripes_find_the_components_of_the_whole_raster(mask: Codes, heights: list[int]) -> None:
    streamed = Components()
    ids = np.concatenate([streamed.add(chunk) for chunk in cut(mask, heights)])
    table = streamed.table()
    expected = expected_labels(mask)
    assert np.array_equal(table.of[ids], expected)
    assert len(table.of) == len(streamed) == ids.max() + 1
    numbers, firsts, sizes = np.unique(expected, return_index=True, return_counts=True)
    assert len(table) == len(numbers)
    assert np.array_equal(table.sizes, sizes)
    assert np.array_equal(table.firsts, firsts)
    assert np.array_equal(table.values, mask.ravel()[firsts])
    edge = np.concatenate([expected[0], expected[-1], expected[:, 0], expected[:, -1]])
    assert np.array_equal(np.flatnonzero(table.at_edge), np.unique(edge))


@given(seed=st.integers(0, 10**6), heights=heights)
def test_winding_regions_are_joined_across_stripes(seed: int, heights: list[int]) -> None:
    mask = smooth_mask(seed)
    streamed = Components()
    ids = np.concatenate([streamed.add(chunk) for chunk in cut(mask, heights)])
    assert np.array_equal(streamed.table().of[ids], label_chunk(mask)[0])


@given(seed=st.integers(0, 10**6), heights=heights)
def test_provisional_ids_come_again_and_rise_with_the_first_pixels(seed: int, heights: list[int]) -> None:
    chunks = cut(smooth_mask(seed), heights)
    one, other = Components(), Components()
    ids = np.concatenate([one.add(chunk) for chunk in chunks])
    assert np.array_equal(ids, np.concatenate([other.add(chunk) for chunk in chunks]))
    _, firsts = np.unique(ids, return_index=True)
    assert (np.diff(firsts) > 0).all()


def test_the_table_may_be_asked_for_on_the_way() -> None:
    streamed = Components()
    assert len(streamed.table()) == 0
    streamed.add(np.array([[3, 4, 3]], np.uint16))
    assert streamed.table().sizes.tolist() == [1, 1, 1]
    streamed.add(np.array([[3, 3, 3]], np.uint16))
    table = streamed.table()
    assert table.of.tolist() == [0, 1, 0, 0]
    assert table.sizes.tolist() == [5, 1]


def test_more_components_than_can_be_numbered_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    streamed = Components()
    streamed.add(np.array([[0, 1, 0]], np.uint16))
    with pytest.raises(InputError, match="more than 3 patches"):
        streamed.add(np.array([[0, 1, 0]], np.uint16))


@given(links=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_joined_items_are_in_one_set_each(links: list[tuple[int, int]]) -> None:
    left, right = np.array(links, np.int32).reshape(-1, 2).T.copy()
    sets = join_all(20, left, right)
    graph = np.eye(20, dtype=bool)
    graph[left, right] = graph[right, left] = True
    reach = np.linalg.matrix_power(graph.astype(np.float64), 20) > 0
    assert np.array_equal(sets[:, None] == sets[None], reach)
    assert np.array_equal(sets, np.unique(reach.argmax(axis=1), return_inverse=True)[1])


@given(mask=masks(), heights=heights)
def test_neighbours_and_their_borders_are_those_of_the_whole_raster(mask: Codes, heights: list[int]) -> None:
    streamed, adjacency = Components(), Adjacency()
    for chunk in cut(mask, heights):
        runs = find_runs(chunk)
        streamed.add_runs(runs)
        adjacency.add(runs)
    assert listed(adjacency.pairs(streamed.table())) == expected_pairs(expected_labels(mask))


@given(seed=st.integers(0, 10**6), heights=heights, limit=st.integers(0, 60))
def test_only_pairs_of_two_large_components_are_left_out(seed: int, heights: list[int], limit: int) -> None:
    mask = smooth_mask(seed)
    streamed, adjacency = Components(), Adjacency(limit)
    for chunk in cut(mask, heights):
        runs = find_runs(chunk)
        streamed.add_runs(runs)
        adjacency.add(runs)
    table = streamed.table()
    expected = expected_pairs(expected_labels(mask))
    sizes = table.sizes
    assert listed(adjacency.pairs(table)) == {
        (a, b): sides for (a, b), sides in expected.items() if sizes[a] < limit or sizes[b] < limit
    }


def test_every_pixel_its_own_component_fills_the_table_of_pairs() -> None:
    mask = (np.arange(40)[:, None] * 2 + np.arange(50)[None] * 3).astype(np.uint16) % 7
    streamed, adjacency = Components(), Adjacency()
    runs = find_runs(mask)
    streamed.add_runs(runs)
    adjacency.add(runs)
    assert len(runs.values) == mask.size
    pairs = adjacency.pairs(streamed.table())
    assert len(pairs.left) == 40 * 49 + 39 * 50
    assert listed(pairs) == expected_pairs(expected_labels(mask))


def test_pairs_are_added_up_whichever_way_round() -> None:
    one, other = np.array([4, 1, 2, 1], np.int32), np.array([1, 4, 0, 4], np.int32)
    assert listed(unique_pairs(pair_keys(one, other), np.array([1, 2, 5, 4]))) == {(0, 2): 5, (1, 4): 7}
    nothing = unique_pairs(np.empty(0, np.int64), np.empty(0, np.int64))
    assert listed(nothing) == {}
