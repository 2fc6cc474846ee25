"""COCO's instances as semantic labels of PASCAL VOC's 21 classes: what networks for VOC are pretrained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aerial_seg.benchmarks.coco_index import DIGITS, CocoIndex, read_index
from aerial_seg.benchmarks.dataset import Example
from aerial_seg.benchmarks.layout import PublishedLayout, find_root
from aerial_seg.benchmarks.voc import Voc
from aerial_seg.errors import InputError
from aerial_seg.legend import IGNORE

CATEGORIES: dict[int, str] = {
    5: "airplane", 2: "bicycle", 16: "bird", 9: "boat", 44: "bottle", 6: "bus", 3: "car", 17: "cat", 62: "chair",
    21: "cow", 67: "dining table", 18: "dog", 19: "horse", 4: "motorcycle", 1: "person", 64: "potted plant",
    20: "sheep", 63: "couch", 7: "train", 72: "tv",
}  # fmt: skip
"""COCO's id and name of VOC's classes 1 to 20, in VOC's order. Source: torchvision's reference training."""

LEAST_PIXELS = 1_000
"""Of instances of VOC's classes, beyond which an image is trained on. Source: Chen et al. 2017, DeepLabv3, 4.2."""

_CHANNEL = {category: channel for channel, category in enumerate(CATEGORIES, start=1)}
_FOLDERS = {"val": "val2017", "train": "train2017", "val2014": "val2014", "train2014": "train2014"}
_INSIDE = ("coco", "COCO")
_FEWEST = 6
"""Numbers of a polygon: three corners."""


class Coco(PublishedLayout):
    """annotations/instances_(train|val)(2017|2014).json and the images in train2017, val2017, train2014, val2014.

    Splits train and val are those of 2017 (train2017 is what papers call trainval minus minival of 2014), train2014 and
    val2014 the older ones; images come in the order of their ids. Image folders may lie in a folder `images`.

    Labels are VOC's channels, drawn from the instances each time they are read: polygons as pycocotools fills them,
    other classes are background, and ignored (255) is what several instances cover, as in torchvision's reference
    training, and what a crowd covers: it is a region with objects of a class among other things, which COCO's own
    evaluation does not count either; torchvision takes it for one object.
    The training splits leave out images whose instances of VOC's classes (crowds not among them) have an area of
    1,000 px or less by their annotations' own count, as DeepLabv3 and torchvision do; the validation splits are whole.
    """

    name = "coco"
    title = "COCO with the classes of PASCAL VOC"
    splits = tuple(_FOLDERS)
    published: ClassVar[Mapping[str, int]] = {
        "val": 5_000,
        "train": 118_287,
        "val2014": 40_504,
        "train2014": 82_783,
    }
    legend = Voc.legend
    table = Voc.table
    allowed = Voc.allowed
    archive = "annotations_trainval2017.zip, train2017.zip and val2017.zip"

    def __init__(self, root: Path) -> None:
        """root: the folder with annotations and the images' folders, or one that holds it as `coco`; or InputError."""
        folders = tuple(_FOLDERS.values())
        marks = ("annotations", *folders, *(f"images/{folder}" for folder in folders))
        super().__init__(find_root(root, _INSIDE, marks, title=self.title))
        self._indices: dict[str, CocoIndex] = {}

    @property
    def evaluated_as(self) -> str:
        """VOC: photographs of its kind and size, with its classes."""
        return Voc.name

    def expected(self, split: str) -> tuple[Example, ...]:
        index = self._index(split)
        images, label = self._images(split), self._annotations(split)
        return tuple(
            Example(Path(name).stem, images / name, label, (width, height))
            for name, (height, width), pixels in zip(
                index.names, index.sizes.tolist(), index.pixels.tolist(), strict=True
            )
            if pixels > LEAST_PIXELS or not _is_chosen(split)
        )

    def listed(self, split: str, found: tuple[Example, ...]) -> int:
        """How many images the publishers list, those that are left out among them."""
        return len(self._index(split).names)

    def photograph(self, example: Example) -> str:
        """Its id: the releases of 2014 and 2017 share photographs, and call them by different names."""
        return example.name[-DIGITS:]

    def notes(self, split: str) -> tuple[str, ...]:
        if not _is_chosen(split):
            return ()
        pixels = self._index(split).pixels
        without, few = int((pixels == 0).sum()), int(((pixels > 0) & (pixels <= LEAST_PIXELS)).sum())
        return (
            f"split {split} of COCO has {len(pixels) - without - few:,} of {len(pixels):,} images: {without:,} without "
            f"an instance of VOC's classes and {few:,} whose instances have {LEAST_PIXELS:,} px or fewer are left out",
        )

    def read_labels(self, example: Example) -> NDArray[np.uint8]:
        split = next(key for key in _FOLDERS if self._annotations(key) == example.label)
        index = self._index(split)
        number = index.number(example.name)
        height, width = index.sizes[number].tolist()
        # Masks come column by column, and so is the label until the end.
        once, labels = np.zeros((width, height), np.bool_), np.zeros((width, height), np.uint8)
        for annotation in index.annotations(number):
            mask = self._mask(annotation, height, width).T
            channel = IGNORE if annotation.get("iscrowd") else _CHANNEL[annotation["category_id"]]
            np.copyto(labels, np.uint8(channel), where=mask)
            np.copyto(labels, np.uint8(IGNORE), where=mask & once)
            once |= mask
        return np.ascontiguousarray(labels.T)

    def submission_values(self) -> NDArray[np.uint8]:
        return self.legend.value_table()

    def checked_splits(self) -> tuple[str, ...]:
        """Those whose annotations or images were unpacked."""
        return tuple(
            key for key in _FOLDERS if self._annotations(key).is_file() or self._images(key).is_dir()
        )

    def hint(self, path: Path) -> str:
        return f"unpack {path.parent.name}.zip into {self.root}"

    def _annotations(self, split: str) -> Path:
        return self.root / "annotations" / f"instances_{_FOLDERS[split]}.json"

    def _images(self, split: str) -> Path:
        inner = self.root / "images" / _FOLDERS[split]
        return inner if inner.is_dir() else self.root / _FOLDERS[split]

    def _index(self, split: str) -> CocoIndex:
        found = self._indices.get(split)
        if found is None:
            path = self._annotations(split)
            if not path.is_file():
                images = _FOLDERS[split]
                raise InputError(
                    f"{path} is missing; unpack annotations_trainval{images[-4:]}.zip and {images}.zip into {self.root}"
                )
            if find_spec("pycocotools") is None:
                raise InputError(
                    f"{path} needs pycocotools, which is not installed; pip install 'aerial-seg[benchmark]'"
                )
            found = self._indices[split] = read_index(path, CATEGORIES)
        return found

    def _mask(self, annotation: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_]:
        """(H,W) bool: what an instance covers."""
        what = f"annotation {annotation.get('id')}"
        region = annotation.get("segmentation")
        coco: Any = import_module("pycocotools.mask")
        if isinstance(region, dict):
            counts = region.get("counts")
            if (
                region.get("size") != [height, width]
                or not isinstance(counts, list)
                or not all(type(one) is int and one >= 0 for one in counts)
                or sum(counts) != height * width
            ):
                raise self._broken(what, f"runs that do not fill {width} × {height} px")
            found = coco.decode(coco.frPyObjects(region, height, width))
        else:
            self._check_polygons(what, region, height, width)
            found = coco.decode(coco.merge(coco.frPyObjects(region, height, width)))
        drawn: NDArray[np.uint8] = np.asarray(found)
        return drawn.view(np.bool_)

    def _check_polygons(self, what: str, region: object, height: int, width: int) -> None:
        if not isinstance(region, list) or not region:
            raise self._broken(what, "no polygon")
        side = max(height, width)
        for polygon in region:
            if not isinstance(polygon, list) or len(polygon) < _FEWEST or len(polygon) % 2:
                raise self._broken(
                    what, f"a polygon that is no list of {_FEWEST} or more coordinates in pairs"
                )
            if not _are_near(polygon, side):
                raise self._broken(what, f"a polygon that lies outside of {width} × {height} px")

    def _broken(self, what: str, has: str) -> InputError:
        return InputError(
            f"{what} in an instances file under {self.root / 'annotations'} has {has}; unpack the publishers' "
            "annotations again"
        )


def _is_chosen(split: str) -> bool:
    """Whether images are chosen by what they show: those to train on."""
    return split.startswith("train")


def _are_near(coordinates: Iterable[object], side: int) -> bool:
    """Whether these are numbers within a side of the image: others would take all memory to draw."""
    return all(
        isinstance(one, int | float) and not isinstance(one, bool) and -side <= one <= 2 * side
        for one in coordinates
    )
