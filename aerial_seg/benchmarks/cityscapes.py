"""Cityscapes, fine and coarse annotations: ids as published in the files, train ids as channels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aerial_seg.benchmarks.dataset import Example
from aerial_seg.benchmarks.labels import UNKNOWN, class_rows, legend_of
from aerial_seg.benchmarks.layout import PublishedLayout, find_root, named_files
from aerial_seg.errors import InputError
from aerial_seg.legend import IGNORE

_IMAGE = "_leftImg8bit.png"
_INSIDE = ("cityscapes", "Cityscapes")
_FINE, _COARSE, _EXTRA = "gtFine", "gtCoarse", "train_extra"
_PARTS: dict[str, tuple[tuple[str, str | None], ...]] = {
    "val": (("val", _FINE),),
    "train": (("train", _FINE),),
    "trainval": (("train", _FINE), ("val", _FINE)),
    _EXTRA: ((_EXTRA, _COARSE),),
    "coarse": (("train", _COARSE), ("val", _COARSE)),
    "train_coarse": (("train", _FINE), (_EXTRA, _COARSE)),
    "trainval_coarse": (("train", _FINE), ("val", _FINE), (_EXTRA, _COARSE)),
    "test": (("test", None),),
}
"""Each split's folders of images, with the folder of their labels; the dummy labels of test are not used."""
_IMAGES = {"val": 500, "train": 2_975, _EXTRA: 19_998, "test": 1_525}
"""Published images by folder."""


@dataclass(frozen=True, slots=True)
class CityscapesClass:
    """One row of the publishers' table. id: −1 (the licence plate) to 33; train_id: the channel, 255 = ignored."""

    id: int
    name: str
    train_id: int
    category: str
    colour: str


CLASSES: tuple[CityscapesClass, ...] = tuple(CityscapesClass(**row) for row in class_rows("cityscapes"))
"""Every id of the publishers, 0–33 and then −1."""

SCORED: tuple[CityscapesClass, ...] = tuple(
    sorted((row for row in CLASSES if row.train_id != IGNORE), key=lambda row: row.train_id)
)
"""The 19 classes in channel order."""

CATEGORIES: dict[str, tuple[int, ...]] = {
    row.category: tuple(other.train_id for other in SCORED if other.category == row.category)
    for row in SCORED
}
"""The seven categories and the train ids in each; the category score counts pixels of all of them alike."""


def _tables() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    train_ids = np.full(256, UNKNOWN, np.uint8)
    for row in CLASSES:
        train_ids[row.id % 256] = row.train_id  # −1 is 255 in a uint8 file
    ids = np.full(256, UNKNOWN, np.uint8)
    for scored in SCORED:
        ids[scored.train_id] = scored.id
    ids[IGNORE] = 0  # as cityscapesScripts: the first row of the table with that train id, `unlabeled`
    return train_ids, ids


_TRAIN_IDS, _IDS = _tables()


def train_id_of(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """Train ids of published ids, one look-up; −1 and 255 (−1 as uint8) are ignored: 255.

    ids: any whole numbers, any shape. Raises InputError for an id that the publishers do not have.
    """
    return _looked_up(ids, _TRAIN_IDS, allowed="ids 0–33, −1 and 255")


def id_of(train_ids: NDArray[Any]) -> NDArray[np.uint8]:
    """Published ids of train ids, one look-up; 255 becomes 0 (`unlabeled`), so that `train_id_of` brings it back.

    train_ids: any whole numbers, any shape. Raises InputError for what is no train id.
    """
    return _looked_up(train_ids, _IDS, allowed="train ids 0–18, −1 and 255")


class Cityscapes(PublishedLayout):
    """leftImg8bit/FOLDER/CITY/NAME_leftImg8bit.png, gtFine/FOLDER/CITY/NAME_gtFine_labelIds.png, and gtCoarse likewise.

    NAME is {city}_{sequence}_{frame}. val, train and test are their folders and nothing else, with fine labels, images
    sorted by name; the labels of test that the publishers ship are dummies and are not used. Further splits, their
    folders one behind the other: trainval (fine); train_extra: its images with coarse labels; coarse: the coarse labels
    of train and val; train_coarse and trainval_coarse: fine labels of train (and val) and the coarse ones of
    train_extra. Source: Chen et al. 2017, Rethinking Atrous Convolution, appendix on Cityscapes, which trained for the
    test server on "trainval" and the coarse images together. A coarse label holds the same ids as a fine one.
    """

    name = "cityscapes"
    title = "Cityscapes"
    splits = tuple(_PARTS)
    published: ClassVar[Mapping[str, int]] = {
        split: sum(_IMAGES[folder] for folder, _ in parts) for split, parts in _PARTS.items()
    }
    legend = legend_of([{"name": row.name, "colour": row.colour} for row in SCORED])
    table = _TRAIN_IDS
    allowed = "the ids 0–33 and 255 (−1)"
    archive = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"

    def __init__(self, root: Path) -> None:
        """root: the folder with leftImg8bit and gtFine, or one that holds it as `cityscapes`; InputError if none."""
        super().__init__(find_root(root, _INSIDE, ("leftImg8bit", _FINE), title=self.title))

    def expected(self, split: str) -> tuple[Example, ...]:
        return tuple(
            example for folder, kind in _PARTS[split] for example in self._expected_part(folder, kind)
        )

    def _expected_part(self, folder: str, kind: str | None) -> Iterator[Example]:
        images = self.root / "leftImg8bit" / folder
        labels, ending = (None, "") if kind is None else (self.root / kind / folder, _label_ending(kind))
        if not images.is_dir():
            raise InputError(f"folder {images} is missing; unpack {_archives(folder, kind)}")
        cities = _named(images, _IMAGE)
        if labels is not None:
            cities |= _named(labels, ending)  # a label without its image is a missing image
        for name, city in sorted(cities.items()):
            yield Example(
                name,
                images / city / f"{name}{_IMAGE}",
                None if labels is None else labels / city / f"{name}{ending}",
            )

    def checked_splits(self) -> tuple[str, ...]:
        """Those with fine labels and test; with coarse ones where the archives of all their parts were unpacked."""
        return tuple(split for split, parts in _PARTS.items() if all(self._is_there(*part) for part in parts))

    def _is_there(self, folder: str, kind: str | None) -> bool:
        if kind != _COARSE:
            return True
        places = [self.root / _COARSE / folder]
        if folder == _EXTRA:
            places.append(self.root / "leftImg8bit" / folder)
        return any(place.is_dir() for place in places)

    def _absence(self, split: str) -> str:
        missing = [_archives(*part) for part in _PARTS[split] if not self._is_there(*part)]
        return f"split {split}: unpack {' and '.join(dict.fromkeys(missing))} into {self.root}"

    def submission_values(self) -> NDArray[np.uint8]:
        values = np.full(256, IGNORE, np.uint8)
        values[: len(SCORED)] = [row.id for row in SCORED]
        return values

    def hint(self, path: Path) -> str:
        kind = path.relative_to(self.root).parts[0]
        folder = path.parent.parent.name
        other = path.with_name(path.name.replace("_labelIds", "_labelTrainIds"))
        if other != path and other.is_file():
            return (
                f"{other.name} is there, but *{_label_ending(kind)} is wanted: unpack {_ARCHIVES[kind]}, "
                "createTrainIdLabelImgs is not needed"
            )
        if kind == _COARSE:
            return f"unpack {_ARCHIVES[_COARSE]}"
        return f"unpack {_IMAGES_OF_EXTRA}" if folder == _EXTRA else super().hint(path)


_ARCHIVES = {_FINE: "gtFine_trainvaltest.zip", _COARSE: "gtCoarse.zip"}
_IMAGES_OF_EXTRA = "leftImg8bit_trainextra.zip"


def _label_ending(kind: str) -> str:
    return f"_{kind}_labelIds.png"


def _archives(folder: str, kind: str | None) -> str:
    """The archives that hold this part."""
    images = _IMAGES_OF_EXTRA if folder == _EXTRA else "leftImg8bit_trainvaltest.zip"
    return f"{images} and {_ARCHIVES[kind or _FINE]}"


def _named(folder: Path, suffix: str) -> dict[str, str]:
    """Name → city of the files in the folder's cities."""
    if not folder.is_dir():
        return {}
    cities = (path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {
        name: city
        for city in sorted(cities)
        for name in named_files(folder / city, suffix, rf"{re.escape(city)}_\d+_\d+")
    }


def _looked_up(numbers: NDArray[Any], table: NDArray[np.uint8], *, allowed: str) -> NDArray[np.uint8]:
    numbers = np.asarray(numbers)
    if numbers.dtype.kind not in "iu":
        raise InputError(f"got {numbers.dtype} numbers, wanted whole ones: {allowed}; convert them first")
    inside = (numbers >= -1) & (numbers <= 255)
    found = table[np.where(inside, numbers, 0).astype(np.intp) % 256]
    strange = ~inside | (found == UNKNOWN)
    if strange.any():
        values = np.unique(numbers[strange])
        shown = ", ".join(map(str, values[:8].tolist()))
        raise InputError(
            f"got {int(strange.sum())} px of {shown}, wanted {allowed}; is this the other kind of id?"
        )
    return found
