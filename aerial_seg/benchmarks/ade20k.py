"""ADE20K in the form of the SceneParsing benchmark: 150 classes, 0 in a label file is void."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from aerial_seg.benchmarks.dataset import Example
from aerial_seg.benchmarks.labels import UNKNOWN, class_rows, legend_of
from aerial_seg.benchmarks.layout import PublishedLayout, find_root, named_files
from aerial_seg.errors import InputError
from aerial_seg.legend import IGNORE

_CLASSES = 150
_FOLDERS = {"val": "validation", "train": "training"}
_TEST_FOLDERS = ("images/testing", "release_test/testing", "../release_test/testing")


class Ade20k(PublishedLayout):
    """ADEChallengeData2016/{images,annotations}/{training,validation}/ADE_{train,val}_NUMBER.{jpg,png}.

    Images are sorted by name. A label file holds 0 = void, which becomes 255 = ignored, and 1–150, which become the
    channels 0–149. The test images (release_test.zip, no labels) are an archive of their own; they are looked for in
    images/testing and in release_test/testing inside and beside ADEChallengeData2016.
    """

    name = "ade20k"
    title = "ADE20K SceneParsing"
    splits = ("val", "train", "test")
    published: ClassVar[Mapping[str, int]] = {"val": 2_000, "train": 20_210, "test": 3_352}
    legend = legend_of(class_rows("ade20k"))
    # A table, not `value - 1`: that makes 255 of 0 by luck of uint8, and 254 of 255.
    table = np.full(256, UNKNOWN, np.uint8)
    table[0] = IGNORE
    table[1 : _CLASSES + 1] = range(_CLASSES)
    allowed = "0 (void) and 1–150"
    archive = "ADEChallengeData2016.zip"

    def __init__(self, root: Path) -> None:
        """root: ADEChallengeData2016 or the folder that holds it; InputError if it is neither."""
        marks = [f"{kind}/{split}" for kind in ("images", "annotations") for split in _FOLDERS.values()]
        super().__init__(find_root(root, ("ADEChallengeData2016",), marks, title=self.title))

    def expected(self, split: str) -> tuple[Example, ...]:
        if split == "test":
            found = named_files(self._test_folder(), ".jpg", r"ADE_test_\d{8}")
            return tuple(Example(name, path, None) for name, path in found.items())
        images = self.root / "images" / _FOLDERS[split]
        labels = self.root / "annotations" / _FOLDERS[split]
        if not images.is_dir():
            raise InputError(f"folder {images} is missing; unpack {self.archive}")
        pattern = rf"ADE_{split}_\d{{8}}"
        # A label without its image is a missing image.
        names = named_files(images, ".jpg", pattern) | named_files(labels, ".png", pattern)
        return tuple(Example(name, images / f"{name}.jpg", labels / f"{name}.png") for name in sorted(names))

    def submission_values(self) -> NDArray[np.uint8]:
        values = np.full(256, IGNORE, np.uint8)
        values[:_CLASSES] = np.arange(1, _CLASSES + 1)
        return values

    def checked_splits(self) -> tuple[str, ...]:
        """val and train, and test where its own archive was unpacked."""
        return self.splits if self._find_test_folder() else ("val", "train")

    def _find_test_folder(self) -> Path | None:
        places = (self.root.absolute() / folder for folder in _TEST_FOLDERS)
        return next((place for place in places if place.is_dir()), None)

    def _test_folder(self) -> Path:
        found = self._find_test_folder()
        if found is None:
            raise InputError(
                f"split test needs the images of release_test.zip, looked for in {', '.join(_TEST_FOLDERS)} of "
                f"{self.root}; unpack it there"
            )
        return found
