"""ADE20K SceneParsing as published: 0 is void, 1–150 are the channels 0–149, anything else is an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aerial_seg.benchmarks.ade20k import Ade20k
from aerial_seg.benchmarks.labels import read_image
from aerial_seg.errors import InputError

CHANNEL = {0: 255, **{value: value - 1 for value in range(1, 151)}}


def names(root: Path, split: str) -> list[str]:
    return [example.name for example in Ade20k(root).examples(split)]


def test_splits_are_folders_and_images_come_sorted(ade20k_root: Path) -> None:
    assert names(ade20k_root, "val") == [f"ADE_val_{k:08d}" for k in (1, 2, 3, 4)]
    assert names(ade20k_root, "train") == [f"ADE_train_{k:08d}" for k in (1, 2, 3)]
    assert names(ade20k_root.parent, "val") == names(ade20k_root, "val")


def test_a_folder_called_images_is_not_yet_ade20k(ade20k_root: Path) -> None:
    (ade20k_root.parent / "images").mkdir()
    assert Ade20k(ade20k_root.parent).root == ade20k_root
    with pytest.raises(
        InputError, match=r"holds no ADE20K SceneParsing: none of images/validation, .*ADEChallenge"
    ):
        Ade20k(ade20k_root / "images")


@pytest.mark.parametrize("place", ["../release_test/testing", "release_test/testing", "images/testing"])
def test_test_images_are_found_in_their_own_archive(ade20k_root: Path, place: str) -> None:
    shutil.move(ade20k_root.parent / "release_test" / "testing", ade20k_root.parent / "kept")
    with pytest.raises(
        InputError, match=r"split test needs .* release_test.zip, looked for in images/testing"
    ):
        Ade20k(ade20k_root).examples("test")
    (ade20k_root / place).parent.mkdir(exist_ok=True)
    shutil.move(ade20k_root.parent / "kept", ade20k_root / place)
    examples = Ade20k(ade20k_root).examples("test")
    assert [(example.name, example.label) for example in examples] == [
        ("ADE_test_00000001", None), ("ADE_test_00000002", None)
    ]  # fmt: skip
    assert all(example.image.is_file() for example in examples)


def test_the_legend_has_the_150_classes_in_the_benchmarks_order() -> None:
    legend = Ade20k.legend
    assert len(legend) == 150
    assert (legend.names[0], legend.names[12], legend.names[149]) == ("wall", "person", "flag")
    assert (legend.entries[0].rgb, legend.entries[12].rgb) == ((120, 120, 120), (150, 5, 61))
    assert legend.entries[149].rgb == (92, 0, 255)
    assert all(name == name.strip() for name in legend.names)
    # The publishers gave road and runway one colour.
    assert len({entry.colour for entry in legend.entries}) == 149


def test_silent_error_5_void_and_classes_move_by_table_and_once(ade20k_root: Path) -> None:
    ade = Ade20k(ade20k_root)
    for example in ade.examples("val"):
        assert example.label is not None
        values = np.asarray(Image.open(example.label))
        labels = ade.read_labels(example)
        assert labels.tolist() == [[CHANNEL[value] for value in row] for row in values.tolist()]
    first = ade.read_labels(ade.examples("val")[0])
    assert set(np.unique(first)) == {*range(150), 255}


@pytest.mark.parametrize("value", [151, 254, 255])
def test_silent_error_5_255_is_an_error_and_not_254(
    ade20k_root: Path, grey_png: Callable[..., None], value: int
) -> None:
    """Files in which void is 255 already, because somebody took 1 off before, must not be moved again."""
    ade = Ade20k(ade20k_root)
    example = ade.examples("train")[2]
    assert example.label is not None
    values = np.array(Image.open(example.label))
    values[3, 4:9] = value
    grey_png(example.label, values)
    message = rf"ADE_train_00000003.png holds the value {value} \(5 px\), wanted 0 \(void\) and 1–150"
    with pytest.raises(InputError, match=message):
        ade.read_labels(example)
    assert any(f"the value {value} (5 px)" in line for line in ade.check().problems)


def test_submissions_take_the_shift_back(ade20k_root: Path) -> None:
    values = Ade20k(ade20k_root).submission_values()
    assert values.tolist() == [*range(1, 151)] + [255] * 106
    assert Ade20k.table[values[:150]].tolist() == list(range(150))


def test_grey_pictures_become_rgb(ade20k_root: Path) -> None:
    example = Ade20k(ade20k_root).examples("val")[1]
    assert Image.open(example.image).mode == "L"
    image = read_image(example.image)
    assert image.shape == (*Ade20k(ade20k_root).read_labels(example).shape, 3)
    assert (image == image[:, :, :1]).all()


@pytest.mark.parametrize(
    "file", ["images/validation/ADE_val_00000003.jpg", "annotations/validation/ADE_val_00000003.png"]
)
def test_a_missing_image_or_label_is_named_from_the_other(ade20k_root: Path, file: str) -> None:
    (ade20k_root / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing, 1 of the 8 files of split val are"):
        Ade20k(ade20k_root).examples("val")
    report = Ade20k(ade20k_root).check()
    assert any(f"split val: {ade20k_root / file} is missing" in line for line in report.problems)
    assert report.counts == {"train": 3, "test": 2}


def test_names_of_another_split_are_an_error(ade20k_root: Path) -> None:
    path = ade20k_root / "images" / "validation" / "ADE_val_00000003.jpg"
    path.rename(path.with_name("ADE_train_00000009.jpg"))
    with pytest.raises(InputError, match=r"ADE_train_00000009.jpg is not named as the publishers name it"):
        Ade20k(ade20k_root).examples("val")


def test_check_of_a_small_copy(ade20k_root: Path) -> None:
    report = Ade20k(ade20k_root).check()
    assert report.counts == {"val": 4, "train": 3, "test": 2}
    assert report.problems == (
        "val holds 4 images, published are 2,000",
        "train holds 3 images, published are 20,210",
        "test holds 2 images, published are 3,352",
    )
    shutil.rmtree(ade20k_root.parent / "release_test")
    assert Ade20k(ade20k_root).check().counts == {"val": 4, "train": 3}


def test_check_names_missing_folders(ade20k_root: Path) -> None:
    shutil.rmtree(ade20k_root / "annotations")
    shutil.rmtree(ade20k_root / "images" / "training")
    text = "\n".join(Ade20k(ade20k_root).check().problems)
    assert f"split train: folder {ade20k_root / 'images/training'} is missing; unpack" in text
    assert f"split val: folder {ade20k_root / 'annotations/validation'} is missing with 4 files" in text
