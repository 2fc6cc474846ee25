"""Objects of one class become patches of their own; nothing else changes, however the rows arrive."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from aerial_seg.polygonize import row_chunks as chunks
from aerial_seg.polygonize.batch import NONE
from aerial_seg.polygonize.cleaning import objects
from aerial_seg.polygonize.cleaning.objects import OBJECT_BITS, ObjectSplitter
from aerial_seg.polygonize.cleaning.watershed import split_instances


def discs(height: int = 300, width: int = 200) -> np.ndarray:
    """Pairs of discs that touch, on ground of another class, with a corner of nodata."""
    y, x = np.indices((height, width))
    mask = np.zeros((height, width), np.uint16)
    for top in range(20, height - 30, 45):
        for left in range(20, width - 50, 70):
            mask[(y - top) ** 2 + (x - left) ** 2 <= 144] = 1
            mask[(y - top) ** 2 + (x - left - 22) ** 2 <= 144] = 1
    mask[:40, :6] = NONE
    return mask


def patches(mask: np.ndarray) -> int:
    return sum(ndimage.label(mask == code)[1] for code in np.unique(mask[mask != NONE]))


def split(mask: np.ndarray, rows: int) -> tuple[np.ndarray, ObjectSplitter]:
    splitter = ObjectSplitter(np.array([1], np.uint16), min_distance=5)
    pieces = [(mask[k : k + rows], None) for k in range(0, len(mask), rows)]
    return np.concatenate([codes for codes, _ in splitter.suffixed(pieces)]), splitter


def test_touching_discs_become_patches_of_their_own_and_classes_stay() -> None:
    mask = discs()
    suffixed, splitter = split(mask, 512)
    np.testing.assert_array_equal(np.where(suffixed == NONE, NONE, suffixed >> OBJECT_BITS), mask)
    pairs = ndimage.label(mask == 1)[1]
    assert splitter.counts.parted == pairs
    assert splitter.counts.objects == 2 * pairs
    assert patches(suffixed) == patches(mask) + pairs


@pytest.mark.parametrize("chunk", [16, 40, 100])
def test_objects_do_not_end_where_stripes_do(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = discs()
    whole, _ = split(mask, 512)
    monkeypatch.setattr(objects, "CHUNK_ROWS", chunk)
    monkeypatch.setattr(objects, "in_row_chunks", lambda rows: chunks.in_row_chunks(rows, chunk))
    cut, splitter = split(mask, 7)
    assert splitter.counts.too_tall == 0
    for code in (0, 1):
        a, b = (ndimage.label(part >> OBJECT_BITS == code)[0] for part in (whole, cut))
        np.testing.assert_array_equal(a, b)
    assert patches(cut) == patches(whole)


def test_a_patch_too_tall_to_hold_is_left_whole_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((200, 30), np.uint16)
    mask[:, 10:14] = 1
    mask[150:, 20:24] = 1
    monkeypatch.setattr(objects, "CHUNK_ROWS", 10)
    monkeypatch.setattr(objects, "_HELD_ROWS", 40)
    monkeypatch.setattr(objects, "in_row_chunks", lambda rows: chunks.in_row_chunks(rows, 10))
    suffixed, splitter = split(mask, 30)
    np.testing.assert_array_equal(suffixed >> OBJECT_BITS, mask)
    assert (suffixed[:, 10:14] == 1 << OBJECT_BITS).all()
    assert splitter.counts.too_tall == 2


def test_neighbouring_objects_never_share_a_tag() -> None:
    random = np.random.default_rng(0)
    found = 0
    for _ in range(20):
        seeds = random.integers(5, 95, (40, 2))
        y, x = np.indices((100, 100))
        patch = np.zeros((100, 100), bool)
        for row, col in seeds:
            patch |= (y - row) ** 2 + (x - col) ** 2 <= 64
        labels = split_instances(patch, None, min_distance=3)
        suffixes = objects._different_suffixes(labels)[labels]
        for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            touch = (labels[one] != labels[other]) & (labels[one] > 0) & (labels[other] > 0)
            found += int(touch.sum())
            assert (suffixes[one][touch] != suffixes[other][touch]).all()
    assert found > 0
