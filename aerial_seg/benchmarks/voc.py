"""PASCAL VOC 2012, with the extra training labels of SBD."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from aerial_seg.benchmarks.dataset import Example
from aerial_seg.benchmarks.labels import UNKNOWN, class_rows, legend_of
from aerial_seg.benchmarks.layout import PublishedLayout, find_root, missing_files, read_list
from aerial_seg.errors import InputError
from aerial_seg.legend import IGNORE

_INSIDE = ("VOC2012", "VOCdevkit/VOC2012")
_SBD_INSIDE = (
    "SBD", "sbd", "SBD/dataset", "sbd/dataset", "benchmark_RELEASE/dataset", "SBD/benchmark_RELEASE/dataset",
    "sbd/benchmark_RELEASE/dataset", "VOCaug/dataset",
)  # fmt: skip
_TRAIN, _VAL, _TRAINAUG = 1_464, 1_449, 10_582


class Voc(PublishedLayout):
    """VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation} and, for trainaug, SBD or SegmentationClassAug.

    Splits val, train and trainval are VOC's lists; test has images only. trainaug = (VOC train ∪ SBD train ∪ SBD val)
    − VOC val: the images of VOC train in its order, then the new ones of SBD train, then those of SBD val. Where
    SegmentationClassAug and the list trainaug.txt that comes with it lie in VOC2012, that list and its order hold.
    A trainaug label is SegmentationClassAug/ID.png if there is that folder (or VOC's own where a converter left VOC's
    train images out of it), else VOC's own for images of VOC train, else SBD's cls/ID.mat.
    SBD is looked for in VOC2012, beside it and beside VOCdevkit, as SBD, sbd, benchmark_RELEASE/dataset and the like.
    """

    name = "voc"
    title = "PASCAL VOC 2012"
    splits = ("val", "train", "trainval", "trainaug", "test")
    published: ClassVar[Mapping[str, int]] = {
        "val": _VAL,
        "train": _TRAIN,
        "trainval": _TRAIN + _VAL,
        "trainaug": _TRAINAUG,
        "test": 1_456,
    }
    legend = legend_of(class_rows("voc"))
    table = np.full(256, UNKNOWN, np.uint8)
    table[:21], table[IGNORE] = range(21), IGNORE
    allowed = "0–20 and 255"
    archive = "VOCtrainval_11-May-2012.tar"

    def __init__(self, root: Path) -> None:
        """root: VOC2012 or a folder that holds VOC2012 or VOCdevkit/VOC2012; InputError if it is none."""
        marks = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
        super().__init__(find_root(root, _INSIDE, marks, title=self.title))

    def expected(self, split: str) -> tuple[Example, ...]:
        if split == "trainaug":
            return self._augmented()
        return tuple(self._example(name, labelled=split != "test") for name in read_list(self._list(split)))

    def checked_splits(self) -> tuple[str, ...]:
        """val, train and trainval; test and trainaug where their own archives were unpacked."""
        wanted = ["val", "train", "trainval"]
        if self._has_augmented():
            wanted.append("trainaug")
        return (*wanted, "test") if self._list("test").is_file() else tuple(wanted)

    def _has_augmented(self) -> bool:
        if (self.root / "SegmentationClassAug").is_dir() or self._list("trainaug").is_file():
            return True
        return next(self._sbd_folders(), None) is not None

    def submission_values(self) -> NDArray[np.uint8]:
        return self.legend.value_table()

    def strays(self) -> Iterable[str]:
        """The labels in SegmentationClass whose image is in none of the lists that are there."""
        folder = self.root / "SegmentationClass"
        lists = [path for path in map(self._list, ("train", "val", "trainval")) if path.is_file()]
        if not lists or not folder.is_dir():
            return
        try:
            listed = {name for path in lists for name in read_list(path)}
        except InputError:
            return  # a broken list is a problem of its split already
        known = ", ".join(path.name for path in lists)
        for path in sorted(folder.glob("*.png")):
            if path.stem not in listed and not path.name.startswith("."):
                yield f"{path} is in none of {known}; restore the list or take it away"

    def hint(self, path: Path) -> str:
        if path.suffix == ".mat":
            return "unpack SBD's benchmark.tgz"
        if path.parent.name == "SegmentationClassAug":
            return "unpack SegmentationClassAug, or take that folder away to use SBD's own files"
        return super().hint(path)

    def _list(self, split: str) -> Path:
        return self.root / "ImageSets" / "Segmentation" / f"{split}.txt"

    def _example(self, name: str, *, labelled: bool = True) -> Example:
        label = self.root / "SegmentationClass" / f"{name}.png"
        return Example(name, self.root / "JPEGImages" / f"{name}.jpg", label if labelled else None)

    def _augmented(self) -> tuple[Example, ...]:
        train, val = read_list(self._list("train")), read_list(self._list("val"))
        ready = self.root / "SegmentationClassAug"
        sbd: Path | None = None
        if ready.is_dir() and self._list("trainaug").is_file():
            names = read_list(self._list("trainaug"))
            leaked = set(names) & set(val)
            if leaked:
                raise InputError(
                    f"{self._list('trainaug')} lists {len(leaked)} images of VOC val, the first is {min(leaked)}; "
                    "training on them would spoil the score: take them out"
                )
        else:
            sbd = self._find_sbd()
            union = dict.fromkeys((*train, *read_list(sbd / "train.txt"), *read_list(sbd / "val.txt")))
            held_out = frozenset(val)
            names = tuple(name for name in union if name not in held_out)
        _require_published(names, train=len(train), val=len(val))
        return tuple(self._augmented_examples(names, frozenset(train), sbd))

    def _augmented_examples(
        self, names: tuple[str, ...], train: frozenset[str], sbd: Path | None
    ) -> Iterator[Example]:
        ready = self.root / "SegmentationClassAug"
        use_ready = ready.is_dir()
        absent = (
            frozenset(missing_files(ready / f"{name}.png" for name in names)) if use_ready else frozenset()
        )
        for name in names:
            plain = self._example(name)
            label = ready / f"{name}.png"
            if name in train and (not use_ready or label in absent):
                yield plain
            elif use_ready or sbd is None:
                yield Example(name, plain.image, label)
            else:
                yield Example(name, plain.image, sbd / "cls" / f"{name}.mat")

    def _find_sbd(self) -> Path:
        found = next(
            (
                f
                for f in self._sbd_folders()
                if all((f / name).is_file() for name in ("train.txt", "val.txt"))
            ),
            None,
        )
        if found is not None:
            return found
        devkit = self.root.absolute().parent
        raise InputError(
            f"trainaug needs SBD's train.txt, val.txt and cls/*.mat, looked for in {', '.join(_SBD_INSIDE)} of "
            f"{', '.join(map(str, self._sbd_places()))}; unpack benchmark.tgz into {devkit / 'SBD'}, or put "
            f"SegmentationClassAug into {self.root} and its list at {self._list('trainaug')}"
        )

    def _sbd_places(self) -> list[Path]:
        devkit = self.root.absolute().parent
        return [self.root, devkit, *([devkit.parent] if devkit.name == "VOCdevkit" else [])]

    def _sbd_folders(self) -> Iterator[Path]:
        """The folders that hold a list of SBD's."""
        for place in self._sbd_places():
            for folder in (place / name for name in _SBD_INSIDE):
                if (folder / "train.txt").is_file() or (folder / "cls").is_dir():
                    yield folder


def _require_published(names: tuple[str, ...], *, train: int, val: int) -> None:
    if (train, val) == (_TRAIN, _VAL) and len(names) != _TRAINAUG:
        raise InputError(
            f"trainaug comes to {len(names):,} images, wanted {_TRAINAUG:,} from VOC's train and val lists of "
            f"{train:,} and {val:,}; restore SBD's train.txt and val.txt, or trainaug.txt"
        )
