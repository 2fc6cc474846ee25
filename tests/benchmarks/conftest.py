"""Tiny copies of the benchmarks in their publishers' exact layouts, with images that show their labels in colour."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from small_submissions import (
    KINDS,
    SmallBenchmark,
    make_small,
)

from aerial_seg.bands import IMAGENET_BANDS
from aerial_seg.benchmarks.catalogue import open_benchmark
from aerial_seg.legend import Legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.version import __version__

COCO_NAMES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 44: "bottle", 52: "banana", 62: "chair",
    63: "couch", 64: "potted plant", 67: "dining table", 72: "tv", 90: "toothbrush",
}  # fmt: skip
COCO_TRAIN: dict[int, list[dict[str, Any]]] = {
    581921: [{"category_id": 1, "segmentation": [[2, 3, 42, 3, 42, 33, 2, 33]], "area": 1200.0}],
    9: [
        {"category_id": 18, "segmentation": [[1, 1, 31, 1, 31, 21, 1, 21]], "area": 600},
        {
            "category_id": 62,
            "segmentation": [[21, 11, 41, 11, 41, 31], [5, 30, 9, 30, 9, 35, 5, 35]],
            "area": 401.5,
        },
        {"category_id": 52, "segmentation": [[0, 0, 50, 0, 50, 40]], "area": 1000.0},
    ],
    25: [{"category_id": 72, "segmentation": [[0, 0, 40, 0, 40, 25, 0, 25]], "area": 1000}],
    30: [],
    34: [
        {"category_id": 1, "crowd": (5, 5, 30, 20), "area": 5000},
        {"category_id": 52, "segmentation": [[2, 3, 42, 3, 42, 33, 2, 33]], "area": 1200.0},
    ],
    36: [{"category_id": 5, "segmentation": [[3, 3, 45, 3, 45, 30, 3, 30]], "area": 1000.5}],
}
"""Annotations by image; a crowd's runs are those of a rectangle: left, top, right, bottom."""
COCO_VAL: dict[int, list[dict[str, Any]]] = {
    139: [
        {"category_id": 1, "segmentation": [[4, 6, 20, 6, 20, 30, 4, 30]], "area": 384},
        {"category_id": 72, "segmentation": [[12.5, 10.2, 30.7, 8, 28, 26.1]], "area": 150.0},
        {"category_id": 1, "crowd": (26, 20, 45, 35), "area": 300},
    ],
    285: [{"category_id": 17, "segmentation": [[4, 6, 7, 6, 7, 9, 4, 9]], "area": 9}],
    632: [],
    724: [{"category_id": 52, "segmentation": [[4, 6, 30, 6, 30, 30, 4, 30]], "area": 624}],
}
COCO_SIZE = (41, 57)

SIZES = ((41, 57), (39, 50), (47, 63), (33, 69))

VOC_TRAIN = ("2007_000032", "2007_000039", "2007_000063")
VOC_VAL = ("2007_000033", "2007_000042", "2007_000061", "2007_000123")
VOC_TEST = ("2008_000006", "2008_000011")
SBD_TRAIN = ("2008_000008", "2007_000032", "2008_000015", "2007_000033")
SBD_VAL = ("2008_000023", "2007_000061")

CITYSCAPES = {
    "val": (
        "frankfurt_000000_000294",
        "frankfurt_000001_000538",
        "lindau_000000_000019",
        "munster_000000_000019",
    ),
    "train": ("aachen_000000_000019", "ulm_000001_000019", "weimar_000002_000019"),
    "test": ("berlin_000000_000019", "berlin_000001_000019"),
}
CITYSCAPES_EXTRA = ("augsburg_000000_000000", "bayreuth_000000_000007")
ADE20K = {"val": ("validation", 4), "train": ("training", 3)}


def voc_palette() -> NDArray[np.uint8]:
    """(256, 3), as the development kit's VOClabelcolormap: the bits of the value dealt out to R, G and B."""
    palette = np.zeros((256, 3), np.uint8)
    for value in range(256):
        for bit in range(8):
            palette[value, bit % 3] |= (value >> bit & 1) << (7 - bit // 3)
    return palette


def write_palette_png(
    path: Path, values: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None
) -> None:
    """A PNG of mode P whose indices are `values`."""
    image = Image.fromarray(values)
    image.putpalette((voc_palette() if palette is None else palette).tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def coco_runs(box: tuple[int, int, int, int], height: int, width: int) -> dict[str, Any]:
    """A rectangle as COCO writes crowds: lengths of runs of 0 and 1 in turn, down the columns."""
    left, top, right, bottom = box
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 1
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"counts": counts if flat[0] == 0 else [0, *counts], "size": [height, width]}


def write_coco(root: Path, folder: str, images: dict[int, list[dict[str, Any]]]) -> None:
    """annotations/instances_FOLDER.json and FOLDER with a picture for each image."""
    height, width = COCO_SIZE
    random = np.random.default_rng(72)
    document: dict[str, Any] = {
        "info": {"description": "COCO 2017 Dataset", "year": 2017},
        "licenses": [{"id": 1, "name": "Attribution"}],
        "images": [],
        "annotations": [],
        "categories": [{"supercategory": "x", "id": k, "name": name} for k, name in COCO_NAMES.items()],
    }
    for number, regions in images.items():
        name = f"{number:012d}.jpg"
        document["images"].append({
            "license": 1, "file_name": name, "height": height, "width": width, "id": number
        })  # fmt: skip
        write_picture(root / folder / name, patches(random, COCO_SIZE, [0, 15]), random)
        for one in regions:
            given = {key: value for key, value in one.items() if key != "crowd"}
            if "crowd" in one:
                given["segmentation"] = coco_runs(one["crowd"], height, width)
            given |= {"iscrowd": int("crowd" in one), "image_id": number, "bbox": [0, 0, 1, 1]}
            document["annotations"].append({**given, "id": 900_000 + len(document["annotations"])})
    random.shuffle(document["annotations"])  # those of an image do not stand together
    path = root / "annotations" / f"instances_{folder}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def write_grey_png(path: Path, values: NDArray[np.uint8]) -> None:
    """A PNG of mode L."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_sbd(path: Path, values: NDArray[np.uint8]) -> None:
    """A `.mat` with SBD's struct GTcls: Boundaries, Segmentation, CategoriesPresent."""
    io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    present = np.unique(values[values > 0])
    io.savemat(
        path,
        {
            "GTcls": {
                "Boundaries": np.zeros((20, 1), object),
                "Segmentation": values,
                "CategoriesPresent": present,
            }
        },
    )


def write_picture(
    path: Path, labels: NDArray[np.uint8], random: np.random.Generator, mode: str = "RGB"
) -> None:
    """A picture of the labels in the VOC palette's colours with some noise; JPEG or PNG by the suffix."""
    noise = random.integers(-9, 10, (*labels.shape, 3))
    pixels = np.clip(voc_palette()[labels] + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def patches(random: np.random.Generator, shape: tuple[int, int], values: Sequence[int]) -> NDArray[np.uint8]:
    """(H,W) uint8 that holds every one of `values`: some rectangles, and a row that has them all."""
    height, width = shape
    assert len(values) <= width
    labels = np.full(shape, values[0], np.uint8)
    for value in values:
        top, left = random.integers(0, height - 9), random.integers(0, width - 9)
        labels[top : top + 14, left : left + 17] = value
    labels[height // 2, : len(values)] = values
    return labels


def some(random: np.random.Generator, values: range, count: int) -> list[int]:
    return sorted(random.choice(np.array(values), count, replace=False).tolist())


@pytest.fixture
def palette_png() -> Callable[..., None]:
    return write_palette_png


@pytest.fixture
def grey_png() -> Callable[..., None]:
    return write_grey_png


@pytest.fixture
def sbd_mat() -> Callable[..., None]:
    return write_sbd


@pytest.fixture
def publishers_palette() -> NDArray[np.uint8]:
    """(256, 3): VOC's."""
    return voc_palette()


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """…/VOCdevkit/VOC2012 with 4 val, 3 train and 2 test images, and SBD beside VOCdevkit.

    SBD's lists name two images of val and one of train; its labels are other than VOC's. trainaug has 6 images.
    """
    root = tmp_path / "voc" / "VOCdevkit" / "VOC2012"
    sbd = tmp_path / "voc" / "SBD"
    random = np.random.default_rng(12)
    new = [name for name in (*SBD_TRAIN, *SBD_VAL) if name not in (*VOC_TRAIN, *VOC_VAL)]
    for number, name in enumerate((*VOC_VAL, *VOC_TRAIN, *VOC_TEST, *new)):
        labels = patches(random, SIZES[number % 4], [0, *some(random, range(1, 21), 5), 255])
        write_picture(root / "JPEGImages" / f"{name}.jpg", labels, random)
        if name in (*VOC_VAL, *VOC_TRAIN):
            write_palette_png(root / "SegmentationClass" / f"{name}.png", labels)
        if name in (*SBD_TRAIN, *SBD_VAL):
            write_sbd(sbd / "cls" / f"{name}.mat", np.where(labels == 255, 0, labels).astype(np.uint8))
    lists = root / "ImageSets" / "Segmentation"
    trainval = tuple(sorted((*VOC_TRAIN, *VOC_VAL)))
    for split, names in {"train": VOC_TRAIN, "val": VOC_VAL, "trainval": trainval, "test": VOC_TEST}.items():
        write_list(lists / f"{split}.txt", names)
    write_list(sbd / "train.txt", SBD_TRAIN)
    write_list(sbd / "val.txt", SBD_VAL)
    return root


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    """leftImg8bit and gtFine with 4 val, 3 train and 2 test images; the first of val has every id and 255 for −1.

    The test labels are dummies, as the publishers ship them.
    """
    root = tmp_path / "cityscapes"
    random = np.random.default_rng(19)
    for split, names in CITYSCAPES.items():
        for number, name in enumerate(names):
            ids: Any = [*range(34), 255] if number == 0 else some(random, range(34), 12)
            labels = patches(random, (39, 67), ids)
            city = name.split("_")[0]
            write_picture(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", labels, random)
            dummy = np.zeros_like(labels)
            write_grey_png(
                root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png",
                dummy if split == "test" else labels,
            )
    return root


@pytest.fixture
def coarse_root(cityscapes_root: Path) -> Path:
    """Cityscapes with gtCoarse and train_extra as well: coarse labels of train, val and 2 further images.

    A coarse label has the ids of a fine one, and more of 0 (unlabeled).
    """
    random = np.random.default_rng(20)
    for split, names in {**CITYSCAPES, "train_extra": CITYSCAPES_EXTRA}.items():
        for name in () if split == "test" else names:
            labels = patches(random, (39, 67), [0, *some(random, range(34), 4)])
            city = name.split("_")[0]
            write_grey_png(
                cityscapes_root / "gtCoarse" / split / city / f"{name}_gtCoarse_labelIds.png", labels
            )
            if split == "train_extra":
                path = cityscapes_root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
                write_picture(path, labels, random)
    return cityscapes_root


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    """COCO's annotations, train2017 with 6 images and val2017 with 4.

    Two of train have enough of VOC's classes and a third has exactly 1,000 px and a pixel more than that; one has a
    pixel less, one a crowd and a banana only, one nothing.
    """
    pytest.importorskip("pycocotools")
    root = tmp_path / "coco"
    write_coco(root, "train2017", COCO_TRAIN)
    write_coco(root, "val2017", COCO_VAL)
    return root


@pytest.fixture
def ade20k_root(tmp_path: Path) -> Path:
    """ADEChallengeData2016 with 4 val and 3 train images, and release_test beside it with 2.

    Every label has void (0); the first of val has all values 0–150. The second picture of val is a grey JPEG.
    """
    root = tmp_path / "ade" / "ADEChallengeData2016"
    random = np.random.default_rng(150)
    for split, (folder, count) in ADE20K.items():
        for number in range(1, count + 1):
            labels = patches(random, SIZES[number % 4], [0, *some(random, range(1, 151), 8)])
            if (split, number) == ("val", 1):
                labels.ravel()[:151] = np.arange(151)
            name = f"ADE_{split}_{number:08d}"
            mode = "L" if (split, number) == ("val", 2) else "RGB"
            write_picture(root / "images" / folder / f"{name}.jpg", labels, random, mode)
            write_grey_png(root / "annotations" / folder / f"{name}.png", labels)
    for number in (1, 2):
        labels = patches(random, SIZES[number], [0, *some(random, range(1, 151), 8)])
        path = root.parent / "release_test" / "testing" / f"ADE_test_{number:08d}.jpg"
        write_picture(path, labels, random)
    return root


def write_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


ModelFile = Callable[..., Path]


@pytest.fixture
def model_file(tmp_path: Path) -> ModelFile:
    """A file with an untrained network for a benchmark's classes."""

    def write(legend: Legend, architecture: str = "fcn", **options: Any) -> Path:
        torch.manual_seed(3)
        settings = ModelSettings(
            architecture=architecture, encoder="tu-test_resnet", output_stride=16, head_channels=16, **options
        )
        card = ModelCard(
            tool_version=__version__,
            recipe=Recipe(model=settings),
            legend=legend,
            bands=IMAGENET_BANDS,
            gsd=None,
            class_bias=(0.0,) * len(legend),
            iteration=0,
            validation_miou=None,
            data_fingerprint="",
        )
        path = tmp_path / f"{architecture}_{len(legend)}.safetensors"
        save_model(build_network(settings, bands=3, classes=len(legend)).state_dict(), card, path)
        return path

    return write


@pytest.fixture
def voc_model(model_file: ModelFile, voc_root: Path) -> Path:
    return model_file(open_benchmark("voc", voc_root).legend)


@pytest.fixture(params=KINDS)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> SmallBenchmark:
    return make_small(tmp_path, request.param)
