"""Whatever the strides, overlapping scenes, areas and folds: no pixel in two splits, and the order changes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laws import examples
from numpy.typing import NDArray
from pyproj import CRS

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.jobs.tile.chip_cutter import ChipRecord
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.splits.areas import SplitAreas
from aerial_seg.jobs.tile.splits.assign import Assigned, CutChips, assign_splits
from aerial_seg.labels.chip_file import chip_windows

SIZE, SIDE = 8, 100
UTM = CRS(32645)

Scene = tuple[int, int, int, int]
"""Left, top, width and height in pixels of a common ground."""
SCENES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(10, 60), st.integers(10, 60)),
    min_size=1,
    max_size=3,
)
ONE_SCENE = st.tuples(st.just(0), st.just(0), st.integers(30, 70), st.integers(30, 70)).map(lambda one: [one])


def cut(scenes: list[Scene], chosen: TileSettings) -> CutChips:
    """Chips as the cutter makes them of scenes in which all is measured and labelled."""
    records, places, grids, infos = [], [], [], []
    for number, (left, top, width, height) in enumerate(scenes):
        grid = Grid(UTM, Affine(1, 0, left, 0, -1, -top), height=height, width=width)
        grids.append(grid)
        infos.append(SimpleNamespace(path=f"scene_{left}_{top}_{width}_{height}.tif"))
        for window in chip_windows(height=height, width=width, size=SIZE, stride=chosen.stride):
            part = CutChips((), (), (), [grid], ()).grid_of(SimpleNamespace(source=0, window=window), SIZE)  # type: ignore[arg-type]
            counts = np.array([part.height * part.width, (left + window.left + window.top) % 7], np.int64)
            place = part.footprint()
            name = f"{number}_{window.row}_{window.col}"
            records.append(ChipRecord(name, number, window, place, int(counts[0]), counts))
            places.append(place)
    return CutChips(records, places, infos, grids, [(info,) for info in infos])  # type: ignore[arg-type]


def pixels(chips: CutChips, assigned: Assigned, split: str) -> NDArray[np.int64]:
    """How often each pixel of the ground is in chips of a split."""
    found = np.zeros((SIDE, SIDE), np.int64)
    for place, its in zip(chips.places, assigned.splits, strict=True):
        if its == split:
            found[box_of(place)] += 1
    return found


def box_of(place: Any) -> tuple[slice, slice]:
    west, south, east, north = (round(edge) for edge in place.bounds)
    return slice(-north, -south), slice(west, east)


def assigned_to(chips: CutChips, chosen: TileSettings, areas: Any = None) -> Assigned:
    try:
        return assign_splits(chips, chosen, areas)
    except InputError:
        assume(False)
        raise


def check_apart(chips: CutChips, assigned: Assigned) -> None:
    ground = sum((pixels(chips, assigned, split) > 0).astype(int) for split in ("train", "val", "test"))
    assert np.max(ground) <= 1


@settings(max_examples=examples(40))
@given(
    scenes=SCENES, stride=st.integers(2, SIZE), seed=st.integers(0, 99), by=st.sampled_from(["block", "source"]),
    block=st.sampled_from([None, 1, 2]), folds=st.integers(0, 4),
)  # fmt: skip
def test_no_pixel_is_in_two_splits(
    scenes: list[Scene], stride: int, seed: int, by: str, block: int | None, folds: int
) -> None:
    chosen = TileSettings(
        chip_size=16, seed=seed, split_by=by, block=block, test="0.2",
        folds=folds if folds > 1 else None, fold=1 if folds > 1 else None,
    )  # fmt: skip
    chosen = with_chips(chosen, stride)
    chips = cut(scenes, chosen)
    assigned = assigned_to(chips, chosen)
    check_apart(chips, assigned)


def with_chips(chosen: TileSettings, stride: int | None) -> TileSettings:
    return replace(chosen, chip_size=SIZE, stride=stride)


@settings(max_examples=examples(40))
@given(scenes=ONE_SCENE, stride=st.integers(2, SIZE), seed=st.integers(0, 99))
def test_a_stride_adds_training_chips_and_moves_nothing_else(
    scenes: list[Scene], stride: int, seed: int
) -> None:
    plain, dense = (with_chips(TileSettings(seed=seed), wanted) for wanted in (None, stride))
    whole, more = cut(scenes, plain), cut(scenes, dense)
    first, then = assigned_to(whole, plain), assigned_to(more, dense)
    for split in ("val", "test"):
        np.testing.assert_array_equal(pixels(whole, first, split), pixels(more, then, split))
        assert pixels(more, then, split).max() <= 1
    assert (pixels(whole, first, "train") <= pixels(more, then, "train")).all()
    held = pixels(more, then, "val") + pixels(more, then, "test")
    for place, split in zip(more.places, then.splits, strict=True):
        assert (split == "train") == (not held[box_of(place)].any())


@settings(max_examples=examples(30))
@given(
    scenes=st.one_of(SCENES, ONE_SCENE), stride=st.sampled_from([None, 3, 4]), folds=st.integers(2, 5),
    seed=st.integers(0, 99), test=st.sampled_from(["0", "0.2"]),
)  # fmt: skip
def test_folds_partition_the_ground_beside_the_test(
    scenes: list[Scene], stride: int | None, folds: int, seed: int, test: str
) -> None:
    found, tests = [], []
    for fold in range(1, folds + 1):
        chosen = with_chips(TileSettings(seed=seed, folds=folds, fold=fold, test=test), stride)
        chips = cut(scenes, chosen)
        assigned = assigned_to(chips, chosen)
        check_apart(chips, assigned)
        found.append(pixels(chips, assigned, "val") > 0)
        tests.append(pixels(chips, assigned, "test"))
    assert all((one == tests[0]).all() for one in tests)
    seen = np.sum(found, axis=0)
    assert seen.max() == 1
    if len(scenes) == 1:
        left, top, width, height = scenes[0]
        ground = np.zeros((SIDE, SIDE), bool)
        ground[top : top + height, left : left + width] = True
        np.testing.assert_array_equal((seen + tests[0]) > 0, ground)


@settings(max_examples=examples(30))
@given(
    scenes=SCENES, seed=st.integers(0, 99), by=st.sampled_from(["block", "source"]),
    stride=st.sampled_from([None, 4]), folds=st.sampled_from([None, 2]), data=st.data(),
)  # fmt: skip
def test_the_order_of_the_files_changes_nothing(
    scenes: list[Scene], seed: int, by: str, stride: int | None, folds: int | None, data: Any
) -> None:
    scenes = list(dict.fromkeys(scenes))
    chosen = with_chips(TileSettings(seed=seed, split_by=by, folds=folds, fold=folds), stride)
    other = data.draw(st.permutations(scenes))
    made = []
    for order in (scenes, other):
        chips = cut(order, chosen)
        assigned = assigned_to(chips, chosen)
        made.append(
            {
                (chips.infos[record.source].path, record.window): split
                for record, split in zip(chips.records, assigned.splits, strict=True)
            }
        )
    assert made[0] == made[1]


class DrawnAreas:
    """Boxes (left, top, right, bottom) of the ground with a name each, counted pixel by pixel."""

    field, notes = "split", ()

    def __init__(self, boxes: list[tuple[str, int, int, int, int]], *, whole: bool, outside: str) -> None:
        self.boxes, self.whole, self.outside = boxes, whole, outside
        self.names = tuple(sorted({name for name, *_ in boxes}))
        self.are_splits = set(self.names) <= {"train", "val", "test"}

    def seen(self, grid: Grid) -> dict[str, int]:
        left, bottom, right, top = (round(edge) for edge in grid.bounds)
        found: Counter[str] = Counter()
        for name, west, north, east, south in self.boxes:
            wide = min(right, east) - max(left, west)
            high = min(-bottom, south) - max(-top, north)
            found[name] += max(0, wide) * max(0, high)
        return {name: count for name, count in found.items() if count}


BOXES = st.tuples(st.integers(0, 70), st.integers(0, 70), st.integers(4, 40), st.integers(4, 40))


@settings(max_examples=examples(40))
@given(
    scenes=SCENES, stride=st.sampled_from([None, 4, 5]), whole=st.booleans(),
    named=st.lists(st.tuples(st.sampled_from(["train", "val", "test"]), BOXES), min_size=1, max_size=4),
    names=st.sampled_from([None, ["east", "west", "mill", "quay"]]),
    outside=st.sampled_from(["left out", "nearest"]), folds=st.sampled_from([None, 2]),
)  # fmt: skip
def test_areas_keep_their_ground_to_their_split(
    scenes: list[Scene], stride: int | None, whole: bool, named: list[Any], names: list[str] | None,
    outside: str, folds: int | None,
) -> None:  # fmt: skip
    kinds = [name for name, _ in named] if names is None else names[: len(named)]
    boxes = [(kind, x, y, x + w, y + h) for kind, (_, (x, y, w, h)) in zip(kinds, named, strict=True)]
    if names is None and "train" not in kinds and outside == "left out":
        outside = "divided"
    areas: SplitAreas = DrawnAreas(boxes, whole=whole, outside=outside)  # type: ignore[assignment]
    folds = None if areas.are_splits and "val" in kinds else folds
    chosen = with_chips(TileSettings(folds=folds, fold=folds), stride)
    chips = cut(scenes, chosen)
    assigned = assigned_to(chips, chosen, areas)
    check_apart(chips, assigned)
    for record, split in zip(chips.records, assigned.splits, strict=True):
        seen = areas.seen(chips.grid_of(record, SIZE))
        if areas.are_splits and split and seen:
            # A chip that shows ground of an area is of that area's split, or of none.
            assert set(seen) == {split}
        if outside == "left out" and not seen:
            assert not split
    if not areas.are_splits:
        ways: dict[str, set[str]] = {}
        for record, split in zip(chips.records, assigned.splits, strict=True):
            if split and record.window.apart:
                for name in areas.seen(chips.grid_of(record, SIZE)):
                    ways.setdefault(name, set()).add(split)
        assert all(len(found) == 1 for found in ways.values())


def test_of_few_chips_beside_a_named_test_validation_is_its_share() -> None:
    """10 chips beside the test: blocks of 2 × 2, of which the whole ground has enough, made 4 of them validation."""
    scenes = [(0, 0, 5 * SIZE, 2 * SIZE), (100, 0, 20 * SIZE, 12 * SIZE)]
    for seed in range(3):
        chosen = with_chips(TileSettings(seed=seed, val="0.15", test="scene_100_*"), None)
        chips = cut(scenes, chosen)
        assigned = assign_splits(chips, chosen, None)
        assert assigned.splits.count("test") == 240
        assert assigned.splits.count("val") in (1, 2)
        assert any("split blocks are single chips" in note for note in assigned.notes)
