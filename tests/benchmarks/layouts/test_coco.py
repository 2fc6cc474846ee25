"""COCO with VOC's classes: instances drawn as pycocotools draws them, merged as torchvision's training merges them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from numpy.typing import NDArray
from PIL import Image

from aerial_seg.benchmarks import coco_index
from aerial_seg.benchmarks.coco import CATEGORIES, Coco
from aerial_seg.benchmarks.coco_index import read_index
from aerial_seg.benchmarks.training_data import open_split
from aerial_seg.benchmarks.voc import Voc
from aerial_seg.errors import InputError
from aerial_seg.jobs.train.data import open_dataset
from aerial_seg.recipe.loading import change_recipe, load_recipe

IN_VOCS_ORDER = [5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72]
TRAIN = ["000000000009", "000000000036", "000000581921"]
VAL = ["000000000139", "000000000285", "000000000632", "000000000724"]


def names(root: Path, split: str) -> list[str]:
    return [example.name for example in Coco(root).examples(split)]


def labels_of(root: Path, split: str) -> dict[str, NDArray[np.uint8]]:
    coco = Coco(root)
    return {example.name: coco.read_labels(example) for example in coco.examples(split)}


def document_of(root: Path, folder: str = "train2017") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((root / "annotations" / f"instances_{folder}.json").read_text())
    return document


def write(root: Path, document: object, folder: str = "train2017") -> None:
    (root / "annotations" / f"instances_{folder}.json").write_text(json.dumps(document))


def test_vocs_classes_are_cocos_ids_in_vocs_order() -> None:
    assert list(CATEGORIES) == IN_VOCS_ORDER
    other = {"airplane": "aeroplane", "motorcycle": "motorbike", "dining table": "diningtable",
             "potted plant": "pottedplant", "couch": "sofa", "tv": "tvmonitor"}  # fmt: skip
    assert [other.get(name, name) for name in CATEGORIES.values()] == list(Voc.legend.names[1:])
    assert Coco.legend == Voc.legend


def test_images_with_more_than_1000_px_are_trained_on_and_all_are_validated_on(coco_root: Path) -> None:
    """In the order of their ids. 25 has 1,000 px, 34 a crowd alone, which is no labelled region."""
    assert names(coco_root, "train") == TRAIN
    assert names(coco_root, "val") == VAL
    (note,) = Coco(coco_root).notes("train")
    assert note == (
        "split train of COCO has 3 of 6 images: 2 without an instance of VOC's classes and 1 whose instances have "
        "1,000 px or fewer are left out"
    )
    assert Coco(coco_root).notes("val") == ()


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_are_pycocotools_masks_merged_as_torchvision_does_with_crowds_ignored(
    coco_root: Path, split: str
) -> None:
    """The reference reads the file by itself: pycocotools' own COCO, its annToMask, and torchvision's rule in numpy."""
    reference = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = reference.COCO(str(coco_root / "annotations" / f"instances_{split}2017.json"))
    seen = set()
    for name, labels in labels_of(coco_root, split).items():
        annotations = [
            one for one in coco.loadAnns(coco.getAnnIds(int(name))) if one["category_id"] in IN_VOCS_ORDER
        ]
        masks = np.zeros((len(annotations), *labels.shape), np.int64)
        for mask, one in zip(masks, annotations, strict=True):
            mask[:] = coco.annToMask(one)
        channels = np.array([IN_VOCS_ORDER.index(one["category_id"]) + 1 for one in annotations])
        wanted = (masks * channels[:, None, None]).max(axis=0, initial=0)
        wanted[masks.sum(axis=0) > 1] = 255
        for mask, one in zip(masks, annotations, strict=True):
            if one["iscrowd"]:
                wanted[mask > 0] = 255
        np.testing.assert_array_equal(labels, wanted)
        assert labels.dtype == np.uint8
        seen |= set(np.unique(labels).tolist())
    assert seen == ({0, 1, 9, 12, 15, 255} if split == "train" else {0, 8, 15, 20, 255})


def test_a_rectangle_is_the_pixels_inside_it(coco_root: Path) -> None:
    wanted = np.zeros((41, 57), np.uint8)
    wanted[3:33, 2:42] = 15
    np.testing.assert_array_equal(labels_of(coco_root, "train")["000000581921"], wanted)
    crowd = labels_of(coco_root, "val")["000000000139"][20:35, 31:45]
    assert (crowd == 255).all()


def test_other_classes_are_background_also_where_they_cover_one_of_vocs(coco_root: Path) -> None:
    assert (labels_of(coco_root, "val")["000000000724"] == 0).all()
    dog = labels_of(coco_root, "train")["000000000009"]
    assert (dog[1:10, 1:30] == 12).all(), "a banana lies over it"


def test_the_sets_of_2014_are_splits_of_their_own(coco_root: Path) -> None:
    document = document_of(coco_root)
    for image in document["images"]:
        old = coco_root / "train2017" / image["file_name"]
        image["file_name"] = f"COCO_train2014_{image['file_name']}"
        (coco_root / "train2014").mkdir(exist_ok=True)
        (coco_root / "train2014" / image["file_name"]).write_bytes(old.read_bytes())
    write(coco_root, document, "train2014")
    assert names(coco_root, "train2014") == [f"COCO_train2014_{name}" for name in TRAIN]
    old, new = labels_of(coco_root, "train2014"), labels_of(coco_root, "train")
    for name in TRAIN:
        np.testing.assert_array_equal(old[f"COCO_train2014_{name}"], new[name])


@pytest.mark.parametrize("place", [".", "..", "images"])
def test_the_root_may_be_the_folder_above_and_images_may_lie_in_images(coco_root: Path, place: str) -> None:
    if place == "images":
        (coco_root / "images").mkdir()
        for folder in ("train2017", "val2017"):
            (coco_root / folder).rename(coco_root / "images" / folder)
        place = "."
    assert names(coco_root / place, "train") == TRAIN
    assert Coco(coco_root / place).root.resolve() == coco_root.resolve()


def test_a_run_is_told_what_is_left_out_and_reads_every_file_once(coco_root: Path) -> None:
    recipe = change_recipe(load_recipe("fcn"), {"data.benchmark": "coco"})
    dataset = open_dataset(coco_root, recipe)
    assert dataset.notes == Coco(coco_root).notes("train")
    assert len(dataset.data.train) == 3
    assert len(dataset.files) == len(set(dataset.files)) == 3 + 4 + 2
    assert dataset.extent()["files"] == 9


def test_photographs_of_train2017_that_val2014_calls_otherwise_are_told(coco_root: Path) -> None:
    """Most of val2014 is in train2017, by the same ids. Of the six here three are trained on."""
    document = document_of(coco_root)
    (coco_root / "val2014").mkdir()
    for image in document["images"]:
        old = coco_root / "train2017" / image["file_name"]
        image["file_name"] = f"COCO_val2014_{image['file_name']}"
        (coco_root / "val2014" / image["file_name"]).write_bytes(old.read_bytes())
    write(coco_root, document, "val2014")
    recipe = change_recipe(load_recipe("fcn"), {"data.benchmark": "coco", "data.val": "val2014"})
    (note,) = [one for one in open_dataset(coco_root, recipe).notes if "training images too" in one]
    assert note.startswith("3 of the 6 validation images are training images too")


def test_a_recipe_for_chips_is_told_how_to_train_on_coco(coco_root: Path) -> None:
    recipe = load_recipe("fcn")
    with pytest.raises(
        InputError, match=r"is COCO with .*; (set data.benchmark = \"coco\"|use a recipe .* coco/)"
    ):
        open_dataset(coco_root, recipe)
    assert open_dataset(coco_root, change_recipe(recipe, {"data.benchmark": "coco"})).legend == Voc.legend


def test_a_label_and_an_image_of_different_sizes_are_told(coco_root: Path) -> None:
    Image.new("RGB", (20, 30)).save(coco_root / "train2017" / f"{TRAIN[0]}.jpg")
    with pytest.raises(
        InputError, match=r"009\.jpg is 20 × 30 px but its label .*train2017\.json is 57 × 41 px"
    ):
        open_split(Coco(coco_root), "train")[0]
    assert "is 20 × 30 px but its label" in "\n".join(Coco(coco_root).check().problems)


# what goes wrong


def test_check_of_a_small_copy(coco_root: Path) -> None:
    report = Coco(coco_root).check()
    assert report.counts == {"val": 4, "train": 3}
    assert report.problems == (
        "val holds 4 images, published are 5,000",
        "train holds 6 images, published are 118,287",
    )
    assert report.notes == Coco(coco_root).notes("train")
    for line, split in zip(report.absent, ("val2014", "train2014"), strict=True):
        assert line.startswith(f"split {split}: ")
        assert line.endswith(f"unpack annotations_trainval2014.zip and {split}.zip into {coco_root}")


def test_missing_files_are_named_with_their_archive(coco_root: Path) -> None:
    (coco_root / "train2017" / f"{TRAIN[1]}.jpg").unlink()
    with pytest.raises(InputError, match=r"036\.jpg is missing, 1 of .*; unpack train2017\.zip into"):
        Coco(coco_root).examples("train")
    (coco_root / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(
        InputError,
        match=r"instances_val2017\.json is missing; unpack annotations_trainval2017\.zip and val2017",
    ):
        Coco(coco_root).examples("val")


def test_without_pycocotools_the_remedy_is_told_before_anything_is_read(
    coco_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aerial_seg.benchmarks.coco.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs pycocotools.*pip install 'aerial-seg\[benchmark\]'"):
        Coco(coco_root).examples("train")


def changed(place: str, **values: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document[place][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("images", file_name="../../etc/passwd"), r"is called '../../etc/passwd', wanted as 000000000009\.jpg"),
        (changed("images", file_name="000000000010.jpg"), r"is called 000000000010\.jpg, which is named by another id"),
        (changed("images", height=0), "is 57 × 0 px"),
        (changed("images", height=10**9), "is 57 × 1000000000 px"),
        (changed("images", id="9"), "one of its images has '9' as id, wanted a whole number"),
        (changed("annotations", image_id=77, category_id=1), "an annotation is of image 77, which is not listed"),
        (changed("annotations", category_id=1, area=float("nan")), "has the area nan"),
        (changed("annotations", category_id=None), "has None as category_id"),
        (changed("categories", name="animal"), "calls category 1 'animal', wanted 'person' as COCO does"),
        (lambda document: document.pop("categories"), "it has no list categories"),
        (lambda document: document.update(annotations={}), "it has no list annotations"),
        (lambda document: document["images"].append(7), "one of its images is no object"),
        (lambda document: document["images"].append(document["images"][0]), "comes twice"),
    ],
)  # fmt: skip
def test_an_instances_file_that_is_none_is_told(
    coco_root: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    document = document_of(coco_root)
    change(document)
    write(coco_root, document)
    with pytest.raises(InputError, match=message):
        Coco(coco_root).examples("train")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_told_with_the_place(coco_root: Path, share: float) -> None:
    path = coco_root / "annotations" / "instances_train2017.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"is no instances file of COCO: .*(byte [\d,]+|no list)"):
        Coco(coco_root).examples("train")


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ([], "has no polygon"),
        ("0 1 2", "has no polygon"),
        ([[1, 2, 3, 4]], "no list of 6 or more coordinates"),
        ([[1, 2, 3, 4, 5, 6, 7]], "no list of 6 or more coordinates"),
        ([[1, 2, 3, 4, 5, "6"]], "lies outside of 57 × 41 px"),
        ([[1, 2, 3, 4, 5, 1e9]], "lies outside of 57 × 41 px"),
        ([[1, 2, 3, 4, 5, float("nan")]], "lies outside of 57 × 41 px"),
        ({"size": [41, 57], "counts": [41 * 57 + 1]}, "runs that do not fill 57 × 41 px"),
        ({"size": [57, 41], "counts": [41 * 57]}, "runs that do not fill"),
        ({"size": [41, 57], "counts": "PPYo0"}, "runs that do not fill"),
        ({"size": [41, 57], "counts": [-1, 41 * 57 + 1]}, "runs that do not fill"),
    ],
)
def test_a_region_that_cannot_be_drawn_is_told(coco_root: Path, region: object, message: str) -> None:
    document = document_of(coco_root)
    (one,) = (one for one in document["annotations"] if one["image_id"] == 581921)
    one["segmentation"] = region
    write(coco_root, document)
    coco = Coco(coco_root)
    example = coco.examples("train")[2]
    with pytest.raises(InputError, match=rf"annotation {one['id']} in .*{message}.*; unpack"):
        coco.read_labels(example)


def test_a_file_that_changes_while_it_is_used_is_told(coco_root: Path) -> None:
    coco = Coco(coco_root)
    example = coco.examples("train")[0]
    path = coco_root / "annotations" / "instances_train2017.json"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(InputError, match="has changed since it was first read"):
        coco.read_labels(example)


# the pass over the file

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e3, 1e3) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=examples(60))
@given(
    st.permutations(["info", "images", "annotations", "categories", "licenses"]),
    st.dictionaries(st.text(min_size=1, max_size=3), VALUES, max_size=3),
    st.lists(st.sampled_from([*IN_VOCS_ORDER[:3], 52]), max_size=7),
    st.integers(1, 90),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_annotations_are_found_where_they_lie_however_the_file_is_written_and_read(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[str],
    more: dict[str, Any],
    kinds: list[int],
    chunk: int,
    indent: int | None,
    ascii_only: bool,
) -> None:
    """In any order of lists, with spaces or none, in chunks that end anywhere; against the file read as a whole."""
    images = [
        {"id": k, "file_name": f"{k:012d}.jpg", "height": 3, "width": 4, "extra": more} for k in (5, 3, 8)
    ]
    annotations = [
        {
            **more,
            "id": k,
            "image_id": (3, 5, 8)[k % 3],
            "category_id": kind,
            "area": k + 0.5,
            "iscrowd": k % 2,
        }
        for k, kind in enumerate(kinds)
    ]
    lists = {
        "info": more, "licenses": [more, 12], "images": images, "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in CATEGORIES.items()],
    }  # fmt: skip
    path = tmp_path_factory.mktemp("coco") / "instances.json"
    text = json.dumps({key: lists[key] for key in order}, indent=indent, ensure_ascii=ascii_only)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_index, "_CHUNK", chunk)
        index = read_index(path, CATEGORIES)
    assert index.names == tuple(f"{k:012d}.jpg" for k in (3, 5, 8))
    for number, image in enumerate((3, 5, 8)):
        wanted = [one for one in annotations if one["image_id"] == image and one["category_id"] != 52]
        assert index.annotations(number) == wanted
        assert index.pixels[number] == sum(one["area"] for one in wanted if not one["iscrowd"])
        assert index.number(f"{image:012d}") == number
