"""A small benchmark, predictions for it, and what lies in its archives."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aerial_seg.benchmarks.dataset import Benchmark, CheckReport, Example
from aerial_seg.benchmarks.submission import write_submission
from aerial_seg.legend import make_legend
from aerial_seg.progress import Progress, silent

# Typed in again: the publishers' tables. channel → value
VALUES = {
    "voc": list(range(21)),
    "cityscapes": [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33],
    "ade20k": list(range(1, 151)),
}
TITLES = {"voc": "PASCAL VOC 2012", "cityscapes": "Cityscapes", "ade20k": "ADE20K"}
NAMES = {
    "voc": ["2008_000006", "2007_000033", "2011_003256"],
    "cityscapes": ["berlin_000001_000019", "berlin_000000_000019", "bielefeld_000000_066195"],
    "ade20k": ["ADE_test_00000002", "ADE_test_00000001", "ADE_test_00000003"],
}
SUFFIX = {"voc": ".tar.gz", "cityscapes": ".zip", "ade20k": ".zip"}
KINDS = tuple(VALUES)


class SmallBenchmark(Benchmark):
    """Three images of a test split, in sizes of their own."""

    splits = ("test", "val")

    def __init__(self, root: Path, kind: str) -> None:
        super().__init__(root)
        self.name, self.title = kind, TITLES[kind]
        self.legend = make_legend({k: f"class {k}" for k in range(len(VALUES[kind]))})
        for number, name in enumerate(NAMES[kind]):
            Image.new("RGB", (41 + number, 30 + 2 * number)).save(root / f"{name}.jpg")

    def examples(self, split: str) -> tuple[Example, ...]:
        assert split in self.splits
        return tuple(Example(name, self.root / f"{name}.jpg", None) for name in NAMES[self.name])

    def read_labels(self, example: Example) -> NDArray[np.uint8]:
        raise AssertionError(f"{example.name}: a submission needs no labels")

    def submission_values(self) -> NDArray[np.uint8]:
        table = np.full(256, 255, np.uint8)
        table[: len(self.legend)] = VALUES[self.name]
        return table

    def check(self, progress: Progress = silent) -> CheckReport:
        raise AssertionError("not asked here")


def make_small(folder: Path, kind: str) -> SmallBenchmark:
    root = folder / f"{kind} root"
    root.mkdir()
    return SmallBenchmark(root, kind)


Channels = dict[str, NDArray[np.uint8]]


def predict(small: SmallBenchmark, folder: Path) -> tuple[list[tuple[Example, Path]], Channels]:
    """Random predictions; the first as grey PNG, the others with a palette in which nothing is where VOC has it."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(7)
    pairs, channels = [], {}
    for number, example in enumerate(small.examples("test")):
        shape = (30 + 2 * number, 41 + number)
        made = random.integers(0, len(small.legend), shape).astype(np.uint8)
        picture = Image.fromarray(made)
        if number:
            picture.putpalette(random.integers(0, 256, 768).astype(np.uint8).tobytes())
        path = folder / f"{example.name}.png"
        picture.save(path)
        pairs.append((example, path))
        channels[example.name] = made
    return pairs, channels


def submit(small: SmallBenchmark, folder: Path) -> Path:
    pairs, _ = predict(small, folder / "predictions")
    out = folder / f"submission{SUFFIX[small.name]}"
    write_submission(small, pairs, out, split="test")
    return out


def unpack(file: Path) -> dict[str, bytes]:
    if file.name.endswith(".zip"):
        with zipfile.ZipFile(file) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    found = {}
    with tarfile.open(file) as tar:
        for entry in tar:
            content = tar.extractfile(entry)
            assert content is not None
            found[entry.name] = content.read()
    return found


def png(values: NDArray[np.generic], palette: NDArray[np.uint8] | None = None) -> bytes:
    picture = Image.fromarray(values)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


INSIDE = {
    "voc": "results/VOC2012/Segmentation/comp6_test_cls/{}.png",
    "cityscapes": "{}_pred_labelIds.png",
    "ade20k": "{}.png",
}
