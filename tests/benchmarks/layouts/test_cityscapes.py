"""Cityscapes as published: splits are folders, label files hold ids, channels are train ids."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aerial_seg.benchmarks.cityscapes import CATEGORIES, CLASSES, SCORED, Cityscapes, id_of, train_id_of
from aerial_seg.errors import InputError

VAL = ["frankfurt_000000_000294", "frankfurt_000001_000538", "lindau_000000_000019", "munster_000000_000019"]
PAPER = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
         28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip


def names(root: Path, split: str) -> list[str]:
    return [example.name for example in Cityscapes(root).examples(split)]


def test_splits_are_folders_and_images_come_sorted(cityscapes_root: Path) -> None:
    assert names(cityscapes_root, "val") == VAL
    assert names(cityscapes_root, "train") == [
        "aachen_000000_000019", "ulm_000001_000019", "weimar_000002_000019"
    ]  # fmt: skip
    example = Cityscapes(cityscapes_root).examples("val")[0]
    assert example.image == cityscapes_root / "leftImg8bit/val/frankfurt" / f"{VAL[0]}_leftImg8bit.png"
    assert example.label == cityscapes_root / "gtFine/val/frankfurt" / f"{VAL[0]}_gtFine_labelIds.png"


def test_the_dummy_labels_of_test_are_not_used(cityscapes_root: Path) -> None:
    examples = Cityscapes(cityscapes_root).examples("test")
    assert [(example.name, example.label) for example in examples] == [
        ("berlin_000000_000019", None), ("berlin_000001_000019", None)
    ]  # fmt: skip


@pytest.mark.parametrize("above", ["train_stuff/val", "test/train", "val_train_test"])
def test_silent_error_18_the_split_is_the_folder_below_leftimg8bit_alone(
    cityscapes_root: Path, tmp_path: Path, above: str
) -> None:
    """Neither a root nor a city whose name has a split's name in it confuses anything."""
    root = tmp_path / above / "data"
    root.parent.mkdir(parents=True)
    shutil.move(cityscapes_root, root)
    for kind, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        city = root / kind / "val" / "trainville"
        city.mkdir()
        shutil.copy(
            root / kind / "val" / "lindau" / f"lindau_000000_000019_{suffix}.png",
            city / f"trainville_000000_000019_{suffix}.png",
        )
    assert names(root, "val") == [*VAL, "trainville_000000_000019"]
    assert len(names(root, "train")) == 3
    assert len(names(root, "test")) == 2


@pytest.mark.parametrize("inside", ["", "cityscapes"])
def test_the_root_may_be_the_folder_above(cityscapes_root: Path, inside: str) -> None:
    root = cityscapes_root.parent if inside else cityscapes_root
    assert Cityscapes(root).root == cityscapes_root


def test_a_wrong_root_names_what_was_looked_for(cityscapes_root: Path) -> None:
    with pytest.raises(InputError, match=r"holds no Cityscapes: none of leftImg8bit, gtFine lies in it"):
        Cityscapes(cityscapes_root / "gtFine")


# ids


def test_every_published_id_has_its_train_id() -> None:
    assert sorted(row.id for row in CLASSES) == list(range(-1, 34))
    assert {row.id: row.train_id for row in CLASSES if row.train_id != 255} == PAPER
    assert [row.train_id for row in SCORED] == list(range(19))
    ids = np.arange(-1, 34)
    assert train_id_of(ids).tolist() == [PAPER.get(k, 255) for k in ids.tolist()]
    assert train_id_of(ids.astype(np.uint8)).tolist() == train_id_of(ids).tolist()  # −1 is 255 there


def test_ids_and_train_ids_round_trip() -> None:
    train_ids = np.array([*range(19), 255], np.uint8)
    assert id_of(train_ids).tolist() == [*PAPER, 0]
    np.testing.assert_array_equal(train_id_of(id_of(train_ids)), train_ids)


@given(seed=st.integers(0, 2**32 - 1))
def test_silent_error_6_ids_are_renamed_at_once(seed: int) -> None:
    """7→0 and 8→1 done in place, one after the other, would pass on through 0→255 and 1→255."""
    ids = np.random.default_rng(seed).integers(-1, 34, (6, 9)).astype(np.int16)
    assert train_id_of(ids).tolist() == [[PAPER.get(k, 255) for k in row] for row in ids.tolist()]


@pytest.mark.parametrize("value", [34, -2, 254, 300])
def test_ids_that_nobody_published_are_an_error(value: int) -> None:
    with pytest.raises(InputError, match=rf"got 2 px of {value}, wanted ids 0–33, −1 and 255"):
        train_id_of(np.array([[7, value], [value, 8]]))
    with pytest.raises(InputError, match=r"got 1 px of 19, wanted train ids 0–18"):
        id_of(np.array([19]))
    with pytest.raises(InputError, match=r"got float64 numbers"):
        id_of(np.array([1.0]))


def test_categories_are_the_seven_of_the_publishers() -> None:
    assert CATEGORIES == {
        "flat": (0, 1), "construction": (2, 3, 4), "object": (5, 6, 7), "nature": (8, 9), "sky": (10,),
        "human": (11, 12), "vehicle": (13, 14, 15, 16, 17, 18),
    }  # fmt: skip


def test_the_legend_is_the_19_classes_in_the_publishers_colours() -> None:
    legend = Cityscapes.legend
    assert len(legend) == 19
    assert [(legend.names[k], legend.entries[k].rgb) for k in (0, 10, 13, 18)] == [
        ("road", (128, 64, 128)), ("sky", (70, 130, 180)), ("car", (0, 0, 142)), ("bicycle", (119, 11, 32))
    ]  # fmt: skip


def test_labels_of_all_ids_become_channels(cityscapes_root: Path) -> None:
    cityscapes = Cityscapes(cityscapes_root)
    for example in cityscapes.examples("val"):
        assert example.label is not None
        ids = np.asarray(Image.open(example.label))
        labels = cityscapes.read_labels(example)
        assert labels.dtype == np.uint8
        assert labels.tolist() == [[PAPER.get(k, 255) for k in row] for row in ids.tolist()]
    first = cityscapes.read_labels(cityscapes.examples("val")[0])
    assert set(np.unique(first)) == {*range(19), 255}


def test_submissions_hold_published_ids(cityscapes_root: Path) -> None:
    values = Cityscapes(cityscapes_root).submission_values()
    assert values.tolist() == [*PAPER] + [255] * (256 - 19)
    np.testing.assert_array_equal(train_id_of(values[:19]), np.arange(19))


# what goes wrong


def test_other_values_are_named_with_their_file(cityscapes_root: Path, grey_png: Callable[..., None]) -> None:
    cityscapes = Cityscapes(cityscapes_root)
    example = cityscapes.examples("val")[1]
    assert example.label is not None
    ids = np.array(Image.open(example.label))
    ids[0, :3] = 34
    grey_png(example.label, ids)
    message = r"frankfurt_000001_000538_gtFine_labelIds.png holds the value 34 \(3 px\), wanted the ids 0–33"
    with pytest.raises(InputError, match=message):
        cityscapes.read_labels(example)


def test_train_id_files_alone_are_an_error_that_says_what_is_wanted(cityscapes_root: Path) -> None:
    for path in (cityscapes_root / "gtFine" / "val").rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    message = r"_gtFine_labelIds.png is missing, 4 of the 8 files.*createTrainIdLabelImgs is not needed"
    with pytest.raises(InputError, match=message):
        Cityscapes(cityscapes_root).examples("val")


@pytest.mark.parametrize("kind", ["leftImg8bit", "gtFine"])
def test_a_missing_image_or_label_is_named_from_the_other(cityscapes_root: Path, kind: str) -> None:
    path = next((cityscapes_root / kind / "val" / "lindau").iterdir())
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name} is missing, 1 of the 8 files of split val"):
        Cityscapes(cityscapes_root).examples("val")
    report = Cityscapes(cityscapes_root).check()
    assert any(f"{path} is missing" in line for line in report.problems)
    assert report.counts == {"train": 3, "test": 2}, "val is not whole, nor is trainval"


def test_missing_splits_and_strange_names_are_errors(cityscapes_root: Path) -> None:
    shutil.rmtree(cityscapes_root / "leftImg8bit" / "test")
    with pytest.raises(InputError, match=r"leftImg8bit/test is missing; unpack"):
        Cityscapes(cityscapes_root).examples("test")
    city = cityscapes_root / "leftImg8bit" / "val" / "lindau"
    (city / "._lindau_000000_000019_leftImg8bit.png").touch()  # what macOS leaves behind
    assert names(cityscapes_root, "val") == VAL
    (city / "munster_000000_000777_leftImg8bit.png").touch()
    with pytest.raises(
        InputError, match=r"munster_000000_000777_leftImg8bit.png is not named as the publishers"
    ):
        Cityscapes(cityscapes_root).examples("val")


def test_check_of_a_small_copy(cityscapes_root: Path) -> None:
    report = Cityscapes(cityscapes_root).check()
    assert report.counts == {"val": 4, "train": 3, "trainval": 7, "test": 2}
    assert report.problems == (
        "val holds 4 images, published are 500",
        "train holds 3 images, published are 2,975",
        "trainval holds 7 images, published are 3,475",
        "test holds 2 images, published are 1,525",
    )
    extra = f"unpack leftImg8bit_trainextra.zip and gtCoarse.zip into {cityscapes_root}"
    assert report.absent == (
        f"split train_extra: {extra}",
        f"split coarse: unpack leftImg8bit_trainvaltest.zip and gtCoarse.zip into {cityscapes_root}",
        f"split train_coarse: {extra}",
        f"split trainval_coarse: {extra}",
    )


# coarse annotations

EXTRA = ["augsburg_000000_000000", "bayreuth_000000_000007"]
TRAIN = ["aachen_000000_000019", "ulm_000001_000019", "weimar_000002_000019"]


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("trainval", [("gtFine/train", TRAIN), ("gtFine/val", VAL)]),
        ("train_extra", [("gtCoarse/train_extra", EXTRA)]),
        ("coarse", [("gtCoarse/train", TRAIN), ("gtCoarse/val", VAL)]),
        ("train_coarse", [("gtFine/train", TRAIN), ("gtCoarse/train_extra", EXTRA)]),
        (
            "trainval_coarse",
            [("gtFine/train", TRAIN), ("gtFine/val", VAL), ("gtCoarse/train_extra", EXTRA)],
        ),
    ],
)
def test_unions_are_their_folders_one_behind_the_other(
    coarse_root: Path, split: str, wanted: list[tuple[str, list[str]]]
) -> None:
    told = []
    for folder, held in wanted:
        kind, part = folder.split("/")
        for name in held:
            city = name.split("_")[0]
            image = coarse_root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png"
            told.append((name, image, coarse_root / folder / city / f"{name}_{kind}_labelIds.png"))
    cityscapes = Cityscapes(coarse_root)
    examples = cityscapes.examples(split)
    assert [(one.name, one.image, one.label) for one in examples] == told
    for one in examples:
        assert one.label is not None
        ids = np.asarray(Image.open(one.label))
        assert cityscapes.read_labels(one).tolist() == [
            [PAPER.get(k, 255) for k in row] for row in ids.tolist()
        ]


def test_the_splits_of_fine_labels_stay_what_they_are_beside_coarse_ones(coarse_root: Path) -> None:
    assert names(coarse_root, "val") == VAL
    assert names(coarse_root, "train") == TRAIN
    assert all(one.label and "gtFine" in one.label.parts for one in Cityscapes(coarse_root).examples("train"))


def test_published_unions_are_those_of_the_paper() -> None:
    """3,475 fine images and about 20,000 coarse ones."""
    assert Cityscapes.published["trainval"] == 3_475
    assert Cityscapes.published["trainval_coarse"] == 3_475 + 19_998
    assert Cityscapes.published["coarse"] == 3_475


def test_check_knows_the_coarse_splits(coarse_root: Path) -> None:
    report = Cityscapes(coarse_root).check()
    assert report.counts == {
        "val": 4, "train": 3, "trainval": 7, "train_extra": 2, "coarse": 7, "train_coarse": 5,
        "trainval_coarse": 9, "test": 2,
    }  # fmt: skip
    assert report.absent == ()
    assert "train_extra holds 2 images, published are 19,998" in report.problems


@pytest.mark.parametrize(
    ("gone", "split", "message"),
    [
        (
            "leftImg8bit/train_extra",
            "trainval_coarse",
            r"train_extra is missing; unpack leftImg8bit_trainextra.zip",
        ),
        (
            "gtCoarse/train_extra",
            "train_extra",
            r"gtCoarse_labelIds.png is missing, 2 of the 4.*unpack gtCoarse.zip",
        ),
        ("gtCoarse/val", "coarse", r"gtCoarse_labelIds.png is missing, 4 of the 14 .*unpack gtCoarse.zip"),
        (
            "leftImg8bit/train_extra/augsburg",
            "train_extra",
            r"augsburg_000000_000000_leftImg8bit.png is missing, 1 of the 4 .*unpack leftImg8bit_trainextra.zip",
        ),
    ],
)
def test_what_is_missing_of_the_coarse_splits_is_named_with_its_archive(
    coarse_root: Path, gone: str, split: str, message: str
) -> None:
    shutil.rmtree(coarse_root / gone)
    with pytest.raises(InputError, match=message):
        Cityscapes(coarse_root).examples(split)
    assert names(coarse_root, "train") == TRAIN
    assert split not in Cityscapes(coarse_root).check().counts


def test_coarse_train_ids_alone_say_which_file_is_wanted(coarse_root: Path) -> None:
    for path in (coarse_root / "gtCoarse" / "train_extra").rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(
        InputError, match=r"\*_gtCoarse_labelIds.png is wanted: unpack gtCoarse.zip, createTrain"
    ):
        Cityscapes(coarse_root).examples("train_extra")
