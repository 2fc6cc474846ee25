"""VOC2012 as published: lists, palette labels, and the union with SBD that papers call trainaug."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aerial_seg.benchmarks.catalogue import BENCHMARKS, open_benchmark
from aerial_seg.benchmarks.voc import Voc
from aerial_seg.errors import InputError, SettingsError

VAL = ("2007_000033", "2007_000042", "2007_000061", "2007_000123")
# train as VOC lists it, then what SBD's train and val add, without val.
TRAINAUG = ("2007_000032", "2007_000039", "2007_000063", "2008_000008", "2008_000015", "2008_000023")
LISTS = Path("ImageSets") / "Segmentation"


def names(root: Path, split: str) -> tuple[str, ...]:
    return tuple(example.name for example in Voc(root).examples(split))


def problems(root: Path) -> str:
    return "\n".join(Voc(root).check().problems)


def counting_lists(root: Path, *, new: int) -> None:
    """Lists of the published sizes and an SBD whose lists add `new` images; no pixels."""
    sbd = root.parents[1] / "SBD"
    shared = [f"2010_{k:06d}" for k in range(1_464 + 1_449)]
    train, val = shared[:1_464], shared[1_464:]
    added = [f"2011_{k:06d}" for k in range(new)]
    for path, listed in (
        (root / LISTS / "train.txt", train),
        (root / LISTS / "val.txt", val),
        (sbd / "train.txt", train[:700] + val[:300] + added[::2]),
        (sbd / "val.txt", val[300:900] + added[1::2]),
    ):
        path.write_text("\n".join(listed), encoding="utf-8")


def test_splits_are_the_publishers_lists_in_their_order(voc_root: Path) -> None:
    assert names(voc_root, "val") == VAL
    (voc_root / LISTS / "val.txt").write_text("\n".join(reversed(VAL)) + "\n\n", encoding="utf-8")
    assert names(voc_root, "val") == VAL[::-1]
    assert names(voc_root, "trainval") == tuple(sorted((*VAL, *TRAINAUG[:3])))


def test_test_has_images_and_no_labels(voc_root: Path) -> None:
    examples = Voc(voc_root).examples("test")
    assert [example.label for example in examples] == [None, None]
    assert all(example.image.is_file() for example in examples)
    with pytest.raises(InputError, match=r"2008_000006 has no published label.*; take split val"):
        Voc(voc_root).read_labels(examples[0])


@pytest.mark.parametrize("above", [0, 1, 2])
def test_the_root_may_be_any_folder_around_voc2012(voc_root: Path, above: int) -> None:
    root = (voc_root, *voc_root.parents)[above]
    assert Voc(root).root == voc_root
    assert names(root, "val") == VAL


def test_a_wrong_root_names_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds no PASCAL VOC 2012: none of JPEGImages, .*VOCdevkit/VOC2012"
    ):
        open_benchmark("voc", tmp_path)
    with pytest.raises(
        InputError, match=r"gone does not exist, wanted the folder that holds PASCAL VOC 2012"
    ):
        open_benchmark("voc", tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file is a file, wanted the folder"):
        open_benchmark("voc", tmp_path / "file")


def test_the_catalogue_knows_its_names(voc_root: Path) -> None:
    assert BENCHMARKS == ("voc", "cityscapes", "ade20k", "coco")
    assert open_benchmark("voc", voc_root).name == "voc"
    with pytest.raises(SettingsError, match=r"no benchmark 'vok'; did you mean 'voc'"):
        open_benchmark("vok", voc_root)
    with pytest.raises(SettingsError, match=r"has no split 'trainvaal'; did you mean 'trainval'"):
        open_benchmark("voc", voc_root).examples("trainvaal")


def test_classes_and_colours_are_the_development_kits(publishers_palette: NDArray[np.uint8]) -> None:
    legend = Voc.legend
    assert legend.values == tuple(range(21))
    assert (legend.names[0], legend.names[15], legend.names[20]) == ("background", "person", "tvmonitor")
    assert list(legend.names[1:]) == sorted(legend.names[1:])
    np.testing.assert_array_equal(legend.colours()[:21], publishers_palette[:21])
    assert [entry.value for entry in legend.entries if entry.background] == [0]


def test_silent_error_4_labels_are_the_stored_indices_with_255_ignored(voc_root: Path) -> None:
    voc = Voc(voc_root)
    for example in voc.examples("val"):
        assert example.label is not None
        labels = voc.read_labels(example)
        np.testing.assert_array_equal(labels, np.asarray(Image.open(example.label)))
        assert labels.shape == np.asarray(Image.open(example.image)).shape[:2]
        assert (labels == 255).any()


def test_submissions_hold_the_channels_themselves(voc_root: Path) -> None:
    values = Voc(voc_root).submission_values()
    assert values.tolist() == [*range(21)] + [255] * 235


# trainaug


def test_trainaug_is_the_union_without_val_in_the_stated_order(voc_root: Path) -> None:
    assert names(voc_root, "trainaug") == TRAINAUG
    assert not set(TRAINAUG) & set(VAL)


def test_trainaug_labels_are_vocs_own_where_voc_has_them_else_sbds(voc_root: Path) -> None:
    voc = Voc(voc_root)
    examples = voc.examples("trainaug")
    assert [example.label.parent.name for example in examples if example.label] == (
        ["SegmentationClass"] * 3 + ["cls"] * 3
    )
    labels = [voc.read_labels(example) for example in examples]
    assert [bool((values == 255).any()) for values in labels] == [True] * 3 + [False] * 3  # SBD has no border
    assert all(set(np.unique(values)) <= {*range(21), 255} for values in labels)


@pytest.mark.parametrize(
    "place", ["sbd", "benchmark_RELEASE/dataset", "VOCdevkit/VOC2012/SBD", "VOCdevkit/SBD"]
)
def test_sbd_is_found_beside_and_inside(voc_root: Path, place: str) -> None:
    top = voc_root.parents[1]
    (top / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(top / "SBD", top / place)
    examples = Voc(voc_root).examples("trainaug")
    assert [e.name for e in examples] == list(TRAINAUG)
    assert all(e.label is not None and e.label.is_file() for e in examples)


def test_sbd_is_found_from_a_relative_root(voc_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(voc_root)
    assert names(Path("."), "trainaug") == TRAINAUG  # noqa: PTH201


def test_without_sbd_the_places_looked_at_are_named_and_the_other_splits_work(voc_root: Path) -> None:
    shutil.rmtree(voc_root.parents[1] / "SBD")
    with pytest.raises(
        InputError, match=r"trainaug needs SBD's train.txt.*looked for in SBD, .*trainaug.txt"
    ):
        Voc(voc_root).examples("trainaug")
    assert names(voc_root, "train") == TRAINAUG[:3]
    (line,) = Voc(voc_root).check().absent
    assert line.startswith("split trainaug: trainaug needs SBD")
    assert "trainaug" not in problems(voc_root), "the other splits do without it"


def test_segmentation_class_aug_comes_first_and_holds_grey_values(
    voc_root: Path, grey_png: Callable[..., None]
) -> None:
    voc = Voc(voc_root)
    truth = {e.name: voc.read_labels(e) for e in voc.examples("trainaug")}
    for name, labels in truth.items():
        grey_png(voc_root / "SegmentationClassAug" / f"{name}.png", labels)
    examples = voc.examples("trainaug")
    assert {e.label.parent.name for e in examples if e.label} == {"SegmentationClassAug"}
    for example in examples:
        np.testing.assert_array_equal(voc.read_labels(example), truth[example.name])


def test_with_its_list_segmentation_class_aug_needs_no_sbd(
    voc_root: Path, grey_png: Callable[..., None]
) -> None:
    shutil.rmtree(voc_root.parents[1] / "SBD")
    for name in TRAINAUG[1:]:  # a converter of SBD alone leaves out what only VOC has
        grey_png(voc_root / "SegmentationClassAug" / f"{name}.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(InputError, match=r"put SegmentationClassAug into .* and its list at .*trainaug.txt"):
        Voc(voc_root).examples("trainaug")
    (voc_root / LISTS / "trainaug.txt").write_text("\n".join(TRAINAUG[::-1]), encoding="utf-8")
    examples = Voc(voc_root).examples("trainaug")
    assert tuple(e.name for e in examples) == TRAINAUG[::-1]
    assert [e.label.parent.name for e in examples if e.label] == (
        ["SegmentationClassAug"] * 5 + ["SegmentationClass"]
    )


def test_a_trainaug_list_with_val_images_is_an_error(voc_root: Path) -> None:
    (voc_root / "SegmentationClassAug").mkdir()
    (voc_root / LISTS / "trainaug.txt").write_text("\n".join((*TRAINAUG, *VAL[1:3])), encoding="utf-8")
    with pytest.raises(InputError, match=r"lists 2 images of VOC val, the first is 2007_000042"):
        Voc(voc_root).examples("trainaug")


def test_with_the_published_lists_trainaug_has_10582_images(voc_root: Path) -> None:
    counting_lists(voc_root, new=10_582 - 1_464)
    expected = [example.name for example in Voc(voc_root).expected("trainaug")]
    assert len(expected) == len(set(expected)) == 10_582


@pytest.mark.parametrize("off", [-1, 1])
def test_another_count_with_the_published_lists_is_an_error(voc_root: Path, off: int) -> None:
    counting_lists(voc_root, new=10_582 - 1_464 + off)
    count = f"{10_582 + off:,}"
    with pytest.raises(
        InputError, match=f"trainaug comes to {count} images, wanted 10,582 .* 1,464 and 1,449"
    ):
        Voc(voc_root).examples("trainaug")


# what goes wrong


@pytest.mark.parametrize(
    ("file", "split", "message"),
    [
        (LISTS / "val.txt", "val", r"val\.txt cannot be read \(No such file"),
        (
            Path("JPEGImages/2007_000042.jpg"),
            "val",
            r"2007_000042\.jpg is missing, 1 of the 8 files of split val",
        ),
        (Path("SegmentationClass/2007_000039.png"), "trainaug", r"2007_000039\.png is missing, 1 of the 12"),
        (Path("../../SBD/cls/2008_000023.mat"), "trainaug", r"2008_000023\.mat is missing.*benchmark.tgz"),
    ],
)
def test_a_missing_file_is_named_with_its_path(voc_root: Path, file: Path, split: str, message: str) -> None:
    (voc_root / file).unlink()
    with pytest.raises(InputError, match=message):
        Voc(voc_root).examples(split)
    assert file.name in problems(voc_root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2007_000033\n../../etc/passwd\n", r"line 2 is '\.\./\.\./etc/passwd', wanted one image id"),
        ("2007_000033 1\n", "line 1 is '2007_000033 1', wanted one image id"),
        ("2007_000033\n\n2007_000033\n", "line 3 repeats 2007_000033 of line 1"),
        ("\n", "split val of PASCAL VOC 2012 .* is empty"),
    ],
)
def test_broken_lists_are_an_error(voc_root: Path, text: str, message: str) -> None:
    (voc_root / LISTS / "val.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        Voc(voc_root).examples("val")


@pytest.mark.parametrize("value", [21, 100, 254])
def test_values_that_are_no_class_are_named_with_their_file(
    voc_root: Path, palette_png: Callable[..., None], value: int
) -> None:
    voc = Voc(voc_root)
    example = voc.examples("val")[0]
    labels = voc.read_labels(example)
    labels[:2, :3] = value
    palette_png(example.label, labels)
    message = rf"2007_000033.png holds the value {value} \(6 px\), wanted 0–20 and 255"
    with pytest.raises(InputError, match=message):
        voc.read_labels(example)
    assert f"holds the value {value} (6 px)" in problems(voc_root)


def test_labels_saved_as_colours_are_an_error(voc_root: Path) -> None:
    voc = Voc(voc_root)
    example = voc.examples("val")[0]
    assert example.label is not None
    Image.open(example.label).convert("RGB").save(example.label)
    with pytest.raises(InputError, match=r"mode RGB, wanted a PNG of class numbers"):
        voc.read_labels(example)


# check


def test_check_of_a_small_copy_reports_counts_and_nothing_else(voc_root: Path) -> None:
    report = Voc(voc_root.parents[1]).check()
    assert report.root == voc_root
    assert report.counts == {"val": 4, "train": 3, "trainval": 7, "trainaug": 6, "test": 2}
    assert report.problems == (
        "val holds 4 images, published are 1,449",
        "train holds 3 images, published are 1,464",
        "trainval holds 7 images, published are 2,913",
        "trainaug holds 6 images, published are 10,582",
        "test holds 2 images, published are 1,456",
    )


def test_check_lists_everything_at_once(voc_root: Path, palette_png: Callable[..., None]) -> None:
    voc = Voc(voc_root)
    examples = voc.examples("val")
    palette_png(examples[0].label, np.full((5, 6), 77, np.uint8))
    palette_png(examples[1].label, np.full(voc.read_labels(examples[1]).shape, 77, np.uint8))
    examples[2].image.unlink()
    palette_png(voc_root / "SegmentationClass" / "2009_000001.png", np.zeros((5, 6), np.uint8))
    (voc_root / LISTS / "test.txt").unlink()
    report = voc.check()
    text = "\n".join(report.problems)
    for part in (
        f"split val: {examples[2].image} is missing",
        f"its label {examples[0].label} is 6 × 5 px",
        f"{examples[1].label} holds the value 77",
        "2009_000001.png is in none of train.txt, val.txt, trainval.txt",
    ):
        assert part in text
    assert report.total == len(report.problems)
    (line,) = report.absent
    assert f"{voc_root / LISTS / 'test.txt'} cannot be read" in line
    assert set(report.counts) == {"train", "trainaug"}
    assert all("\n" not in line for line in report.problems)


def test_check_reads_each_label_once_and_tells_how_far_it_is(
    voc_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(Voc, "read_labels", lambda self, example: seen.append(example.name))
    steps: list[int] = []

    class Bar:
        def __init__(self, total: int) -> None:
            self.total = total

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            assert sum(steps) == self.total == 12

        def update(self, n: int = 1) -> None:
            steps.append(n)

    Voc(voc_root).check(lambda label, *, total, unit: Bar(total))
    assert sorted(seen) == sorted((*VAL, *TRAINAUG))


def test_check_shows_twenty_lines_of_a_kind_and_counts_the_rest(voc_root: Path) -> None:
    listed = [f"2009_{k:06d}" for k in range(50)]
    (voc_root / LISTS / "test.txt").write_text("\n".join(listed), encoding="utf-8")
    lines = [line for line in Voc(voc_root).check().problems if "split test" in line]
    assert len(lines) == 21
    assert lines[-1] == "… and 30 more missing files of split test"


def test_a_missing_folder_is_one_line(voc_root: Path) -> None:
    shutil.rmtree(voc_root / "SegmentationClass")
    lines = [line for line in Voc(voc_root).check().problems if "is missing" in line]
    folder = voc_root / "SegmentationClass"
    assert [line.split(";")[0] for line in lines] == [
        f"split {split}: folder {folder} is missing with {count} files"
        for split, count in (("val", 4), ("train", 3), ("trainval", 7), ("trainaug", 3))
    ]


def test_labels_that_only_scipy_reads_are_one_problem_without_it(
    voc_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aerial_seg.benchmarks.layout.find_spec", lambda name: None)
    monkeypatch.setattr("aerial_seg.benchmarks.labels.find_spec", lambda name: None)
    lines = [line for line in Voc(voc_root).check().problems if "scipy" in line]
    assert lines == ["3 labels of SBD need scipy to be read; pip install 'aerial-seg[benchmark]'"]


def test_what_is_not_listed_is_counted(voc_root: Path, palette_png: Callable[..., None]) -> None:
    for number in range(30):
        palette_png(voc_root / "SegmentationClass" / f"2009_{number:06}.png", np.zeros((5, 6), np.uint8))
    report = Voc(voc_root).check()
    assert report.problems[-1] == "… and 10 more labels in no list"
    assert report.total == 5 + 30
