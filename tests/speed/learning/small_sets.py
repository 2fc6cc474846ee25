"""VOC, COCO, Cityscapes and ADE20K as their publishers lay them out, made of towns: a few small images each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import shapes
from shapely.geometry import shape

from aerial_seg.benchmarks.coco import CATEGORIES
from aerial_seg.synthetic.town import make_town

SIZES = {"voc": (54, 72), "coco": (54, 72), "ade20k": (64, 84), "cityscapes": (128, 256)}
"""Height and width of the images, each a part of a town: the publishers', an eighth as large."""
IMAGES = {"train": 24, "val": 2}
VALUES = {
    "voc": (0, 9, 2, 16, 18),
    "cityscapes": (22, 11, 7, 21, 23),
    "ade20k": (14, 2, 7, 5, 22),
}
"""What label files hold for the ground, buildings, roads, vegetation and water of a town: VOC's background, chair,
bicycle, potted plant and sofa; Cityscapes' terrain, building, road, vegetation and sky; ADE20K's earth, building, road,
tree and water."""
TINTS = np.array([(150, 130, 110), (200, 60, 50), (90, 90, 100), (60, 140, 60), (50, 80, 180)], np.float32)


def town_images(
    seed: int, size: tuple[int, int], count: int
) -> Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Images (H,W,3) of parts of a town, tinted by class, and their classes (H,W), 0 to 4; no part is shown twice."""
    town = make_town(seed, height=1024, width=1024)
    height, width = size
    ground = np.where(town.valid, town.truth, 0).astype(np.uint8)
    seen = 0.6 * town.image.transpose(1, 2, 0) + 0.4 * TINTS[ground]
    places = [
        (top, left) for top in range(0, 1025 - height, height) for left in range(0, 1025 - width, width)
    ]
    # Those that show most kinds of things come first: all classes are in training and validation.
    kinds = [len(np.unique(ground[t : t + height, x : x + width])) for t, x in places]
    for index in np.argsort([-kind for kind in kinds], kind="stable")[:count]:
        top, left = places[index]
        part = slice(top, top + height), slice(left, left + width)
        yield seen[part].astype(np.uint8), ground[part]


def save(path: Path, pixels: NDArray[np.uint8], *, palette: bool = False) -> None:
    """An image file of what its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def make_sets(root: Path) -> None:
    """VOCdevkit/VOC2012 (with trainaug), coco, cityscapes and ADEChallengeData2016 in the folder."""
    done = root / "done"
    if done.is_file():
        return
    lists: dict[str, list[str]] = {}
    for number, (split, count) in enumerate(IMAGES.items()):
        for k, (image, classes) in enumerate(town_images(number, SIZES["voc"], count), start=1):
            name = f"2007_{1000 * number + k:06d}"
            labels = np.array(VALUES["voc"], np.uint8)[classes]
            voc = root / "VOCdevkit" / "VOC2012"
            save(voc / "JPEGImages" / f"{name}.jpg", image)
            for folder in ("SegmentationClass", "SegmentationClassAug"):
                save(voc / folder / f"{name}.png", labels, palette=True)
            lists.setdefault(split, []).append(name)
        city = {"train": "aachen", "val": "lindau"}[split]
        for k, (image, classes) in enumerate(town_images(10 + number, SIZES["cityscapes"], count)):
            name = f"{city}_{k:06d}_000019"
            inside = Path(split) / city
            save(root / "cityscapes" / "leftImg8bit" / inside / f"{name}_leftImg8bit.png", image)
            ids = np.array(VALUES["cityscapes"], np.uint8)[classes]
            save(root / "cityscapes" / "gtFine" / inside / f"{name}_gtFine_labelIds.png", ids)
        folder = {"train": "training", "val": "validation"}[split]
        for k, (image, classes) in enumerate(town_images(20 + number, SIZES["ade20k"], count), start=1):
            ade, name = root / "ADEChallengeData2016", f"ADE_{split}_{k:08d}"
            save(ade / "images" / folder / f"{name}.jpg", image)
            save(ade / "annotations" / folder / f"{name}.png", np.array(VALUES["ade20k"], np.uint8)[classes])
        write_coco(root / "coco", f"{split}2017", town_images(30 + number, SIZES["coco"], count))
    lists["trainaug"], lists["trainval"] = lists["train"], lists["train"] + lists["val"]
    for split, names in lists.items():
        path = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    done.touch()


def write_coco(
    root: Path, folder: str, images: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
) -> None:
    """COCO's images and annotations; an instance is what hangs together of a class, without its holes."""
    category = dict(zip(range(1, 21), CATEGORIES, strict=True))
    document: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    document["categories"] = [{"id": key, "name": name} for key, name in CATEGORIES.items()]
    for number, (image, classes) in enumerate(images, start=1):
        name = f"{number:012d}.jpg"
        save(root / folder / name, image)
        height, width = classes.shape
        document["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        for geometry, value in shapes(classes, mask=classes > 0):
            outline = shape(geometry).exterior
            document["annotations"].append({
                "id": len(document["annotations"]) + 1, "image_id": number, "iscrowd": 0, "bbox": [0, 0, 1, 1],
                "category_id": category[VALUES["voc"][int(value)]],
                "segmentation": [[float(n) for point in outline.coords for n in point]],
                "area": float(shape(geometry).area),
            })  # fmt: skip
    path = root / "annotations" / f"instances_{folder}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
