"""A benchmark's examples as training samples: the same store, crops, loop and validation as chips."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from aerial_seg.band_names import RGB, role
from aerial_seg.bands import IMAGENET_BANDS, Band, normalise
from aerial_seg.benchmarks.dataset import Benchmark, Example
from aerial_seg.benchmarks.labels import check_sizes, image_size, read_image
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.operating_system import usable_cores
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.legend import IGNORE
from aerial_seg.training.processes import told_count_here
from aerial_seg.training.samples.pixels import Choose, Pixels, Sample, whole
from aerial_seg.training.validation.scenes import Rectangle, Scene, ScenePart

# ImageNet's statistics on the scale 0-255: what the encoders' weights were trained with and what the reference results
# of mmseg and semseg normalise with, so they are not measured on the benchmark itself.
BANDS = IMAGENET_BANDS

_COUNTED: dict[str, NDArray[np.int64]] = {}
"""Labelled pixels of splits, by the state of their labels: stages, weights and repeats ask for the same ones."""
_MOST_COUNTED = 4


def photograph_order(bands: Sequence[Band]) -> tuple[int, ...] | None:
    """Where in red, green, blue each of a model's bands lies; None where their names are not those three.

    Names that all say nothing (band 1, band 2, band 3) are taken for red, green and blue.
    """
    roles = [role(band.name) for band in bands]
    if len(roles) == len(RGB) and not any(roles):
        return tuple(range(len(RGB)))
    return tuple(RGB.index(str(name)) for name in roles) if sorted(map(str, roles)) == sorted(RGB) else None


def read_normalised(path: Path, bands: Sequence[Band]) -> Tensor:
    """image (3,H,W) float32 in the bands' order and units; every pixel of a photograph is measured.

    Raises InputError for bands that a photograph has not, by their names.
    """
    order = photograph_order(bands)
    if order is None:
        raise InputError(
            f"{path} is a photograph in red, green and blue, wanted {', '.join(band.name for band in bands)}; "
            "use a model of those three"
        )
    image = np.moveaxis(read_image(path), 2, 0)[list(order)]
    return torch.from_numpy(normalise(image, np.ones(image.shape[1:], np.bool_), bands))


@dataclass(frozen=True, slots=True)
class ExampleReader:
    """These labelled examples by number, decoded from the publishers' own files every time."""

    benchmark: Benchmark
    examples: tuple[Example, ...]
    bands: tuple[Band, ...] = BANDS

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        """image (3,H,W) float32, RGB in units of BANDS; labels (H,W) uint8 channels, 255 = ignored.

        Raises InputError when image and label differ in size.
        """
        return self.read(index).sample(self.bands)

    def name(self, index: int) -> str:
        """The publishers' own id."""
        return self.examples[index].name

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of image `index`; only the header is read."""
        width, height = image_size(self.examples[index].image)
        return height, width

    def read(self, index: int, choose: Choose = whole) -> Pixels:
        """The chosen window of example `index`; PNG and JPEG are decoded as a whole.

        Raises InputError when image and label differ in size.
        """
        example = self.examples[index]
        image = np.moveaxis(read_image(example.image), 2, 0)
        labels = self.benchmark.read_labels(example)
        if labels.shape != image.shape[1:]:
            check_sizes(example)
        return Pixels(image, None, labels).cut(choose(*labels.shape))


def open_split(benchmark: Benchmark, split: str) -> ExampleReader:
    """The samples of one split in the publishers' order.

    Raises SettingsError for a split that does not exist or has no labels, InputError for one without images.
    """
    examples = benchmark.examples(split)
    if not examples:
        raise InputError(
            f"split '{split}' of {benchmark.title} in {benchmark.root} lists no image, wanted one at least; "
            "unpack the publishers' archive again"
        )
    bare = sum(example.label is None for example in examples)
    if bare:
        others = ", ".join(name for name in benchmark.splits if name != split)
        raise SettingsError(
            f"{bare} of {len(examples)} images in split '{split}' of {benchmark.title} have no label; "
            f"set data.train and data.val to other splits ({others})"
        )
    return ExampleReader(benchmark, examples)


def class_counts(reader: ExampleReader) -> NDArray[np.int64]:
    """(images, classes) labelled pixels of each example, not to be written to.

    Every label is decoded, on all cores that are at hand, the first time; as long as their files stay as they are,
    whoever asks again gets the same counts.
    """
    key = _state_of_labels(reader)
    if key not in _COUNTED:
        _COUNTED[key] = _counted(reader)
        _COUNTED[key].flags.writeable = False
        for old in tuple(_COUNTED)[:-_MOST_COUNTED]:
            del _COUNTED[old]
    return _COUNTED[key]


def _state_of_labels(reader: ExampleReader) -> str:
    """Equal for the same labels as long as nobody writes them."""
    files = {example.label for example in reader.examples if example.label is not None}
    states = {file: (stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())}
    facts = [
        reader.benchmark.name,
        [(one.name, str(one.label), states.get(one.label)) for one in reader.examples],  # type: ignore[arg-type]
    ]
    return hashlib.sha256(repr(facts).encode("utf-8", "replace")).hexdigest()


def _counted(reader: ExampleReader) -> NDArray[np.int64]:
    classes = len(reader.benchmark.legend)

    def count(example: Example) -> NDArray[np.int64]:
        labels = reader.benchmark.read_labels(example)
        return np.bincount(labels.ravel(), minlength=IGNORE + 1)[:classes].astype(np.int64)

    # Threads do: decoding and counting let go of the interpreter.
    with ThreadPoolExecutor(max(1, usable_cores() // told_count_here())) as threads:
        return np.stack(list(threads.map(count, reader.examples)))


def fingerprint(benchmark: Benchmark, splits: Sequence[ExampleReader]) -> str:
    """SHA-256 over the benchmark's name and, split by split, every example's name and the byte sizes of its files.

    Equal for equal copies wherever they lie and whenever they were unpacked. Nothing is decoded: two calls to the
    file system per example, so a change that keeps every file's size is not seen.
    """
    facts = {
        "benchmark": benchmark.name,
        "splits": [
            [[example.name, _size(example.image), _size(example.label)] for example in reader.examples]
            for reader in splits
        ],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _size(path: Path | None) -> int | None:
    return None if path is None else path.stat().st_size


def image_scenes(reader: ExampleReader) -> tuple[Scene, ...]:
    """The examples as scenes that are mapped as `predict` maps images: each a whole one, all of whose labels count."""
    return tuple(_scene(reader, example) for example in reader.examples)


def _scene(reader: ExampleReader, example: Example) -> Scene:
    width, height = image_size(example.image)
    rows, cols = range(height), range(width)

    def opened() -> ArrayRaster:
        image = np.moveaxis(read_image(example.image), 2, 0)
        return ArrayRaster(image, grid=Grid(None, Affine.identity(), height, width), name=str(example.image))

    def labels() -> NDArray[np.uint8]:
        found = reader.benchmark.read_labels(example)
        if found.shape != (height, width):
            check_sizes(example)
        return found

    part = ScenePart(example.name, rows, cols, labels)
    return Scene(example.name, height, width, opened, (Rectangle(rows, cols, (part,)),))
