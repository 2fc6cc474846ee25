"""Blocks partition a raster whatever part of it is wanted, and hardly show in the result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.crf.blocks import HALO_SHARE, BlockedCrf
from aerial_seg.crf.dense import refine
from aerial_seg.crf.settings import DenseCrf

pytest.importorskip("pydensecrf", reason="pip install aerial-seg[crf]")

LENGTHS = st.integers(1, 200)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 50), st.data())
def test_spans_keep_what_is_wanted_once_and_see_a_halo_around_whole_blocks(
    length: int, core: int, halo: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, length - 1))
    wanted = range(first, data.draw(st.integers(first + 1, length)))
    blocks = BlockedCrf(DenseCrf(), core=core, halo=halo)
    spans = list(blocks.spans(wanted, length))
    assert [pixel for span in spans for pixel in span.kept] == list(wanted)
    for span in spans:
        start = span.kept.start // core * core
        assert span.kept.stop <= start + core
        assert span.seen == range(max(0, start - halo), min(length, start + core + halo))
    assert blocks.reach(wanted, length) == range(
        min(span.seen.start for span in spans), max(span.seen.stop for span in spans)
    )


@given(LENGTHS, st.integers(1, 40), st.integers(0, 50), st.data())
def test_what_a_block_sees_does_not_depend_on_what_is_wanted(
    length: int, core: int, halo: int, data: st.DataObject
) -> None:
    blocks = BlockedCrf(DenseCrf(), core=core, halo=halo)
    seen = {span.kept.start // core: span.seen for span in blocks.spans(range(length), length)}
    first = data.draw(st.integers(0, length - 1))
    for span in blocks.spans(range(first, data.draw(st.integers(first + 1, length))), length):
        assert seen[span.kept.start // core] == span.seen


@given(LENGTHS, LENGTHS, st.integers(1, 40), st.integers(0, 20))
def test_pixels_are_counted_as_often_as_they_are_computed(
    height: int, width: int, core: int, halo: int
) -> None:
    blocks = BlockedCrf(DenseCrf(), core=core, halo=halo)
    counted = np.zeros((height, width), int)
    for down in blocks.spans(range(height), height):
        for across in blocks.spans(range(width), width):
            counted[down.seen.start : down.seen.stop, across.seen.start : across.seen.stop] += 1
    assert counted.min() >= 1
    assert blocks.pixels(range(height), range(width), height=height, width=width) == counted.sum()


def test_the_halo_follows_the_kernels_that_are_there() -> None:
    assert BlockedCrf.of(DenseCrf()).halo == 134
    assert BlockedCrf.of(DenseCrf(bi_xy_std=20)).halo == 40
    assert BlockedCrf.of(DenseCrf(bi_w=0)).halo == 2
    assert BlockedCrf.of(DenseCrf(pos_w=0, bi_w=0)).halo == 0
    assert BlockedCrf.of(DenseCrf(pos_xy_std=90)).halo == 180


def by_blocks(probabilities: np.ndarray, guide: np.ndarray, blocks: BlockedCrf) -> np.ndarray:
    """Marginals of an image, block by block."""
    height, width = guide.shape[1:]
    made = np.empty_like(probabilities)
    for down in blocks.spans(range(height), height):
        for across in blocks.spans(range(width), width):
            rows, cols = slice(down.seen.start, down.seen.stop), slice(across.seen.start, across.seen.stop)
            refined = refine(
                probabilities[:, rows, cols],
                guide[:, rows, cols],
                np.ones((len(down.seen), len(across.seen)), np.bool_),
                blocks.field,
                origin=(rows.start, cols.start),
            )
            kept = (
                slice(down.kept.start - rows.start, down.kept.stop - rows.start),
                slice(across.kept.start - cols.start, across.kept.stop - cols.start),
            )
            made[:, down.kept.start : down.kept.stop, across.kept.start : across.kept.stop] = refined[
                :, kept[0], kept[1]
            ]
    return made


def roofs(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A network's answer that is unsure and ragged at the borders of many roofs, and the image of them."""
    random = np.random.default_rng(6)
    truth, shade = np.zeros((side, side), np.bool_), np.full((side, side), 100.0)
    for _ in range(side * side // 900):
        top, left = random.integers(0, side, 2)
        high, wide = random.integers(8, 30, 2)
        truth[top : top + high, left : left + wide] = True
        shade[top : top + high, left : left + wide] = random.uniform(60, 220)
    smooth = np.cumsum(np.cumsum(random.normal(0, 0.02, (side, side)), axis=0), axis=1)
    guide = np.clip(shade + smooth + random.normal(0, 3, (3, side, side)), 0, 255)
    score = np.where(np.roll(truth, 2, axis=(0, 1)), 1.2, -1.2) + random.normal(0, 1.2, (side, side))
    building = 1 / (1 + np.exp(-score))
    return np.stack([1 - building, building]).astype(np.float32), guide.astype(np.uint8)


def test_the_size_of_the_blocks_hardly_shows() -> None:
    """The default kernel at a quarter of its width and blocks at a quarter of theirs, so that it takes seconds."""
    probabilities, guide = roofs(512)
    field = DenseCrf(bi_xy_std=67 / 4)
    halo = BlockedCrf.of(field).halo
    small, large, bare = (
        by_blocks(probabilities, guide, BlockedCrf(field, core=core, halo=reach)).argmax(axis=0)
        for core, reach in ((128, halo), (256, halo), (256, 0))
    )
    assert (probabilities.argmax(axis=0) != large).mean() > 0.05
    assert (small != large).mean() <= HALO_SHARE
    assert (bare != large).mean() > 10 * (small != large).mean()


def test_blocks_of_any_size_agree_where_one_holds_all() -> None:
    probabilities, guide = roofs(64)
    field = DenseCrf(bi_xy_std=10)
    one = by_blocks(probabilities, guide, BlockedCrf(field, core=64, halo=0))
    whole = refine(probabilities, guide, np.ones((64, 64), np.bool_), field)
    np.testing.assert_array_equal(one, whole)
    four = by_blocks(probabilities, guide, BlockedCrf(field, core=32, halo=64))
    np.testing.assert_array_equal(four, whole)
