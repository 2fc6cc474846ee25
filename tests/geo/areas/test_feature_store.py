"""Features kept on disk: what is found is what looking at all of them finds, in their order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.geo.areas import feature_store
from aerial_seg.geo.areas.feature_store import FeatureStore
from aerial_seg.geo.turns import copies


@given(
    seed=st.integers(0, 10**6),
    batches=st.lists(st.integers(0, 40), max_size=4),
    block=st.integers(1, 9),
    at_once=st.integers(1, 3),
    west=st.integers(-40, 40),
    wide=st.integers(0, 30),
    turn=st.sampled_from([None, 36.0]),
    by_fid=st.booleans(),
)
@settings(max_examples=examples(60), deadline=None)
def test_the_same_features_in_the_same_order_as_looking_at_all(
    seed: int,
    batches: list[int],
    block: int,
    at_once: int,
    west: int,
    wide: int,
    turn: float | None,
    by_fid: bool,
) -> None:
    random = np.random.default_rng(seed)
    count = sum(batches)
    corner, size = random.integers(-30, 30, (count, 2)), random.integers(1, 9, (count, 2))
    shapes = np.asarray(shapely.box(*corner.T, *(corner + size).T), object).reshape(-1)
    boxes = np.hstack([corner, corner + size]).astype(np.float64)
    codes, fids = random.integers(-1, 4, count).astype(np.int32), random.permutation(count).astype(np.int64)

    def choose(bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, moves = copies(bounds, west, west + wide, turn)
        level = bounds[rows, 1] <= 5
        return rows[level], moves[level]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_store, "_BLOCK", block)
        patch.setattr(feature_store, "_BLOCKS_AT_ONCE", at_once)
        store = FeatureStore()
        ends = np.cumsum([0, *batches])
        for a, b in pairwise(ends.tolist()):
            store.add(shapes[a:b], boxes[a:b], codes[a:b], fids[a:b])
        store.close(by_fid=by_fid)
        found = store.find(choose)
        assert store.any(choose) == bool(len(found.fids))

    rows, moves = choose(boxes)
    order = np.argsort(fids[rows], kind="stable") if by_fid else slice(None)
    np.testing.assert_array_equal(found.fids, fids[rows][order])
    np.testing.assert_array_equal(found.codes, codes[rows][order])
    np.testing.assert_array_equal(found.moves, moves[order])
    assert shapely.equals_exact(found.geometries, shapes[rows][order], tolerance=0).all()


def test_memory_holds_one_box_of_many_features() -> None:
    """Four hundred thousand polygons took 63 MB more than fifty thousand while 52 bytes of each were kept."""
    held = {}
    for count in (5_000, 40_000):
        corner = np.random.default_rng(0).uniform(0, 1000, (count, 2))
        boxes = np.hstack([corner, corner + 1])
        store = FeatureStore()
        for a in range(0, count, 5_000):
            part = boxes[a : a + 5_000]
            fids = np.arange(a, a + len(part))
            store.add(shapely.box(*part.T), part, np.zeros(len(part), np.int32), fids)
        store.close(by_fid=False)
        arrays = [one for one in vars(store).values() if isinstance(one, np.ndarray)]
        held[count] = sum(one.nbytes for one in arrays)
    assert (held[40_000] - held[5_000]) / 35_000 < 0.25
