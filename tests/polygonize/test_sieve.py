"""Cleaning does what `clean` says. Oracles: those rules followed pixel by pixel, and GDAL's sieve where both agree."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rasterio.features import sieve
from scipy import ndimage  # type: ignore[import-untyped]

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.polygonize.batch import NONE, Codes
from aerial_seg.polygonize.cleaning.sieve import Cleaned, CleanRules, Removed, SieveReport, clean

Pixel = tuple[int, int]
Patch = tuple[int, frozenset[Pixel]]
Map = dict[Pixel, int]


@st.composite
def masks(draw: st.DrawFn) -> Codes:
    """Up to 12 rows and columns of four codes and nodata, in pixels 1 to 3 wide and high, and some pixels changed."""
    code = st.sampled_from([0, 1, 2, 300, NONE])
    grain = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    shape = draw(array_shapes(min_dims=2, max_dims=2, max_side=12 // max(grain)))
    mask = np.kron(draw(arrays(np.uint16, shape, elements=code)), np.ones(grain, np.uint16))
    spots = st.tuples(st.integers(0, mask.shape[0] - 1), st.integers(0, mask.shape[1] - 1), code)
    for y, x, value in draw(st.lists(spots, max_size=6)):
        mask[y, x] = value
    return mask


heights = st.lists(st.integers(1, 9), min_size=1, max_size=4)
hole_classes = st.frozensets(st.sampled_from([0, 1, 2, 300, 7]))
rule_sets = st.builds(
    CleanRules, min_pixels=st.integers(0, 20), hole_pixels=st.integers(0, 20), hole_classes=hole_classes
)


def smooth_mask(seed: int, *, height: int = 120, width: int = 90, grain: float = 1.2) -> Codes:
    """Regions of 5 classes and nodata, most of them small."""
    noise = np.random.default_rng(seed).normal(size=(6, height, width))
    fields = np.stack([ndimage.gaussian_filter(layer, grain) for layer in noise])
    nodata = fields[5] < np.quantile(fields[5], 0.2)
    return np.where(nodata, NONE, fields[:5].argmax(axis=0)).astype(np.uint16)


def cut(mask: Codes, heights: list[int]) -> Iterator[Codes]:
    top = 0
    for height in cycle(heights):
        yield mask[top : top + height]
        top += height
        if top >= len(mask):
            return


def run(mask: Codes, rules: CleanRules, heights: list[int] | None = None) -> tuple[Codes, SieveReport]:
    cut_at = heights or [len(mask)]
    cleaned = clean(lambda: cut(mask, cut_at), rules)
    chunks = list(cleaned.chunks())
    assert [len(chunk) for chunk in chunks] == [len(chunk) for chunk in cut(mask, cut_at)]
    assert all(chunk.dtype == np.uint16 for chunk in chunks)
    return np.concatenate(chunks), cleaned.report


# The rules, followed on pixels.


def neighbours(pixel: Pixel) -> list[Pixel]:
    y, x = pixel
    return [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]


def patches_of(pixels: Map) -> list[Patch]:
    """In the order of their first pixels."""
    found: list[Patch] = []
    seen: set[Pixel] = set()
    for start in sorted(pixels):
        if start in seen:
            continue
        patch, ahead = {start}, [start]
        while ahead:
            for near in neighbours(ahead.pop()):
                if near not in patch and pixels.get(near) == pixels[start]:
                    patch.add(near)
                    ahead.append(near)
        seen |= patch
        found.append((pixels[start], frozenset(patch)))
    return found


def fill_holes(pixels: Map, rules: CleanRules) -> tuple[Map, list[Patch]]:
    patches = patches_of(pixels)
    filled, holes = dict(pixels), []
    for code, patch in patches:
        if code == NONE or code in rules.hole_classes or len(patch) >= rules.hole_pixels:
            continue
        outside = {near for pixel in patch for near in neighbours(pixel)} - patch
        if not outside <= pixels.keys():
            continue
        around = [other for other in patches if other[1] & outside]
        if len(around) == 1 and around[0][0] in rules.hole_classes:
            holes.append((code, patch))
            filled |= dict.fromkeys(patch, around[0][0])
    return filled, holes


def border(one: Patch, other: Patch) -> int:
    return sum(near in other[1] for pixel in one[1] for near in neighbours(pixel))


def one_round(pixels: Map, min_pixels: int) -> Map:
    patches = patches_of(pixels)
    choice: dict[Patch, Patch] = {}
    for patch in patches:
        if patch[0] == NONE or len(patch[1]) >= min_pixels:
            continue
        around = [other for other in patches if other[0] != NONE and other != patch and border(patch, other)]
        if around:
            choice[patch] = max(
                around,
                key=lambda other: (len(other[1]), border(patch, other), -other[0], -patches.index(other)),
            )
    after = dict(pixels)
    for patch in choice:
        last = patch
        while last in choice:
            ahead = choice[last]
            if choice.get(ahead) == last:
                last = max(last, ahead, key=lambda one: (len(one[1]), -one[0]))
                break
            last = ahead
        after |= dict.fromkeys(patch[1], last[0])
    return after


def follow_the_rules(mask: Codes, rules: CleanRules) -> tuple[Codes, SieveReport]:
    pixels: Map = {(int(y), int(x)): int(mask[y, x]) for y, x in np.ndindex(*mask.shape)}
    pixels, holes = fill_holes(pixels, rules)
    before = patches_of(pixels)
    while (after := one_round(pixels, rules.min_pixels)) != pixels:
        pixels = after
    small = [patch for patch in before if patch[0] != NONE and len(patch[1]) < rules.min_pixels]
    large = [patch for patch in before if patch not in small]
    reasons: dict[str, list[Patch]] = {"absorbed": [], "crowded": [], "islands": []}
    for code, patch in patches_of(pixels):
        inside = [one for one in small if one[1] <= patch]
        if code != NONE and len(patch) < rules.min_pixels:
            reasons["islands"] += inside
            pixels |= dict.fromkeys(patch, NONE)
        elif any(one[1] <= patch for one in large):
            reasons["absorbed"] += inside
        else:
            reasons["crowded"] += inside
    removed = {why: removed_patches(found) for why, found in reasons.items()}
    report = SieveReport(
        rules.min_pixels, **removed, hole_pixels=rules.hole_pixels, holes=removed_patches(holes)
    )
    result = np.array([pixels[at] for at in np.ndindex(*mask.shape)], np.uint16)
    return result.reshape(mask.shape), report


def removed_patches(patches: list[Patch]) -> Removed:
    return Removed(len(patches), sum(len(patch) for _, patch in patches))


@given(mask=masks(), rules=rule_sets, heights=heights)
def test_cleaning_follows_its_rules(mask: Codes, rules: CleanRules, heights: list[int]) -> None:
    cleaned, report = run(mask, rules, heights)
    expected, expected_report = follow_the_rules(mask, rules)
    assert np.array_equal(cleaned, expected)
    assert report == expected_report


@given(mask=arrays(np.uint16, (9, 9), elements=st.integers(0, 2)), min_pixels=st.integers(2, 30))
def test_crowds_follow_the_rules(mask: Codes, min_pixels: int) -> None:
    rules = CleanRules(min_pixels=min_pixels)
    cleaned, report = run(mask, rules)
    expected, expected_report = follow_the_rules(mask, rules)
    assert np.array_equal(cleaned, expected)
    assert report == expected_report


@given(seed=st.integers(0, 10**6), heights=heights, min_pixels=st.integers(0, 300))
def test_the_result_does_not_depend_on_the_stripes(seed: int, heights: list[int], min_pixels: int) -> None:
    mask = smooth_mask(seed)
    rules = CleanRules(min_pixels=min_pixels, hole_pixels=40, hole_classes=frozenset({0, 1}))
    cleaned, report = run(mask, rules, heights)
    whole, whole_report = run(mask, rules)
    assert np.array_equal(cleaned, whole)
    assert report == whole_report


@given(seed=st.integers(0, 10**6), min_pixels=st.integers(1, 400))
def test_no_small_patch_is_left_and_nodata_and_large_patches_stay(seed: int, min_pixels: int) -> None:
    mask = smooth_mask(seed)
    cleaned, report = run(mask, CleanRules(min_pixels=min_pixels))
    for value in np.unique(cleaned[cleaned != NONE]):
        labels, _ = ndimage.label(cleaned == value)
        assert (np.bincount(labels.ravel())[1:] >= min_pixels).all()
    small = []
    for value in np.unique(mask[mask != NONE]):
        labels, _ = ndimage.label(mask == value)
        sizes = np.bincount(labels.ravel())
        small += sizes[1:][sizes[1:] < min_pixels].tolist()
        large = (labels > 0) & (sizes[labels] >= min_pixels)
        assert (cleaned[large] == value).all()
    assert (cleaned[mask == NONE] == NONE).all()
    assert report.islands.pixels == int((cleaned == NONE).sum() - (mask == NONE).sum())
    kinds = (report.absorbed, report.crowded, report.islands)
    assert sum(kind.patches for kind in kinds) == len(small)
    assert sum(kind.pixels for kind in kinds) == sum(small)


@given(
    codes=arrays(np.uint16, (4, 5), elements=st.integers(0, 4)),
    shapes=arrays(np.bool_, (4, 5, 3, 3)),
    size=st.integers(1, 12),
)
def test_patches_alone_in_a_large_one_go_as_by_gdal(codes: Codes, shapes: np.ndarray, size: int) -> None:
    mask = np.full((4 * 5, 5 * 5), 9, np.uint16)
    for i, j in np.ndindex(4, 5):
        spot = ndimage.binary_fill_holes(ndimage.label(shapes[i, j])[0] == 1)
        mask[5 * i + 1 : 5 * i + 4, 5 * j + 1 : 5 * j + 4][spot] = codes[i, j]
    cleaned, report = run(mask, CleanRules(min_pixels=size), [7])
    assert np.array_equal(cleaned, sieve(mask, size, connectivity=4))
    assert report.crowded == report.islands == Removed()
    assert report.absorbed.pixels == (cleaned != mask).sum()


def rows(*lines: str) -> Codes:
    """A mask drawn with digits, `.` for nodata."""
    return np.array([[NONE if c == "." else int(c) for c in line] for line in lines], np.uint16)


@pytest.mark.parametrize(
    ("mask", "min_pixels", "expected"),
    [
        # A chain takes the class of its last patch.
        (rows("000012"), 2, rows("000000")),
        # Of two that chose each other the larger one stays, of equal ones the lower code.
        (rows("110."), 3, rows("111.")),
        (rows("10.."), 2, rows("00..")),
        # The largest neighbour, though it shares one side only.
        (rows("111", "101", "222", "222"), 2, rows("111", "121", "222", "222")),
        # Of equally large ones the longest border,
        (rows("122", "102", "1.."), 2, rows("122", "122", "1..")),
        # then the lower code.
        (rows("22011"), 2, rows("22111")),
        # Small ones grow together, and nothing grows into nodata.
        (rows("11311."), 5, rows("11111.")),
        (rows("00.22", "0..2.", "00.21"), 5, rows("00.22", "0..2.", "00.22")),
        # What stays small becomes nodata.
        (rows("00.22", "0..2.", "00.21"), 6, rows(".....", ".....", ".....")),
    ],
)
def test_examples(mask: Codes, min_pixels: int, expected: Codes) -> None:
    cleaned, _ = run(mask, CleanRules(min_pixels=min_pixels))
    assert np.array_equal(cleaned, expected)
    assert np.array_equal(follow_the_rules(mask, CleanRules(min_pixels=min_pixels))[0], expected)


def test_holes_are_filled_before_patches_are_counted() -> None:
    mask = rows("1111.", "1011.", "1111.")
    rules = CleanRules(min_pixels=12, hole_pixels=2, hole_classes=frozenset({1, 2}))
    cleaned, report = run(mask, rules)
    assert (cleaned[:, :4] == 1).all()
    assert report == SieveReport(12, hole_pixels=2, holes=Removed(1, 1))
    assert report.notes == ("1 holes below 2 px (1 px) took the class around them",)
    _, report = run(mask, CleanRules(min_pixels=12, hole_pixels=2, hole_classes=frozenset({2})))
    assert report == SieveReport(12, crowded=Removed(2, 12), hole_pixels=2)


@pytest.mark.parametrize(
    "mask",
    [
        rows("1111", "1001", "1001", "1111"),  # too large
        rows("1011", "1111"),  # at the raster's edge
        rows("1111", "1.01", "1111"),  # beside nodata
        rows("1111", "1021", "1111"),  # beside another patch
        rows("3333", "3033", "3333"),  # in another class
        rows("1111", "1211", "1111"),  # of a class whose own holes are filled
    ],
)
def test_what_is_no_hole(mask: Codes) -> None:
    rules = CleanRules(hole_pixels=4, hole_classes=frozenset({1, 2}))
    cleaned, report = run(mask, rules)
    assert np.array_equal(cleaned, mask)
    assert report == SieveReport(0, hole_pixels=4)
    assert report.notes == ()


def test_notes_tell_what_became_of_the_small_ones() -> None:
    mask = np.full((8, 30), NONE, np.uint16)
    mask[:, :6] = 0
    mask[1, 1] = 1
    mask[:, 10:18] = np.indices((8, 8)).sum(axis=0) % 2
    mask[0, 25:28] = 2
    _, report = run(mask, CleanRules(min_pixels=5), [3])
    assert report.notes == (
        "1 patches below 5 px (1 px) joined their largest neighbour",
        "64 patches below 5 px (64 px) stood among small ones only and grew together",
        "1 patches below 5 px (3 px) lay alone in nodata and were left out",
    )


@pytest.mark.parametrize(
    "rules",
    [
        CleanRules(),
        CleanRules(min_pixels=1),
        CleanRules(hole_pixels=9),
        CleanRules(hole_classes=frozenset({1})),
    ],
)
def test_asking_for_nothing_reads_nothing(rules: CleanRules) -> None:
    reads = 0

    def chunks() -> Iterator[Codes]:
        nonlocal reads
        reads += 1
        yield np.zeros((2, 3), np.uint16)

    cleaned = clean(chunks, rules)
    assert reads == 0
    assert cleaned.report.notes == ()
    assert [chunk.tolist() for chunk in cleaned.chunks()] == [[[0, 0, 0], [0, 0, 0]]]
    assert reads == 1


def test_a_mask_without_rows_stays_so() -> None:
    assert list(clean(lambda: iter(()), CleanRules(min_pixels=5)).chunks()) == []


def test_the_result_may_be_read_again() -> None:
    mask = smooth_mask(5)
    cleaned = clean(lambda: cut(mask, [11]), CleanRules(min_pixels=30))
    assert np.array_equal(np.concatenate(list(cleaned.chunks())), np.concatenate(list(cleaned.chunks())))


@pytest.mark.parametrize("change", ["another patch", "a chunk less", "a chunk more"])
def test_a_mask_that_changes_meanwhile_is_an_error(change: str) -> None:
    mask = smooth_mask(6)
    changed = {
        "another patch": np.where(np.indices(mask.shape).sum(axis=0) == 0, 77, mask).astype(np.uint16),
        "a chunk less": mask[:-20],
        "a chunk more": np.concatenate([mask, mask[:1]]),
    }
    versions = iter([mask, changed[change]])
    cleaned: Cleaned = clean(lambda: cut(next(versions), [20]), CleanRules(min_pixels=30))
    with pytest.raises(InputError, match="run again"):
        list(cleaned.chunks())


@pytest.mark.parametrize(
    "wrong", [{"min_pixels": -1}, {"hole_pixels": -1}, {"hole_classes": frozenset({NONE})}]
)
def test_rules_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="wanted"):
        CleanRules(**wrong)  # type: ignore[arg-type]
