"""What a run trains on: the chips that `tile` cut, or a benchmark as its publishers ship it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aerial_seg.bands import Band
from aerial_seg.benchmarks.catalogue import BENCHMARKS, open_benchmark
from aerial_seg.benchmarks.dataset import Benchmark
from aerial_seg.benchmarks.training_data import BANDS, fingerprint, open_split
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.files.names import check_input
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting
from aerial_seg.recipe import DataSettings
from aerial_seg.training.crops import ChipReader, ChipStore
from aerial_seg.training.loop import TrainingData
from aerial_seg.training.manifest import DOCUMENT, SPLITS, open_manifest


@dataclass(frozen=True, slots=True)
class Dataset:
    """Hold what a run needs to know about its data, be they chips or a benchmark.

    gsd: metres per pixel; None where the images have no place on earth. fingerprint: equal for equal data. files: of
    its images and labels, which are read again and again. overfit: how many chips it was cut down to, see overfit.
    """

    data: TrainingData
    legend: Legend
    bands: tuple[Band, ...]
    gsd: float | None
    fingerprint: str
    files: tuple[Path, ...]
    overfit: int | None = None

    def extent(self) -> dict[str, Any]:
        """Return how many files and bytes there are, and a sum of all names and sizes: equal for a copy.

        Raises InputError where one is gone.
        """
        sizes = [(file.name, _stat(file).st_size) for file in self.files]
        digest = hashlib.sha256(repr(sizes).encode("utf-8", "replace")).hexdigest()[:16]
        return {"files": len(sizes), "bytes": sum(size for _, size in sizes), "sizes": digest}

    def written_after(self, moment: int) -> tuple[Path, ...]:
        """Return the files that were written later than this, in nanoseconds since 1970."""
        return tuple(file for file in self.files if _stat(file).st_mtime_ns > moment)

    def newest(self) -> int:
        """Return when the last of the files was written, in nanoseconds since 1970."""
        return max((_stat(file).st_mtime_ns for file in self.files), default=0)


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except FileNotFoundError as error:
        raise InputError(f"{file} is gone; put it back, or run `aerial-seg tile` again") from error


def open_dataset(root: Path, settings: DataSettings) -> Dataset:
    """Return the data that the recipe asks for. Raises InputError when the folder holds data of the other kind."""
    check_input(root)
    holds_chips = (root / DOCUMENT).is_file()
    if settings.benchmark is None:
        found = None if holds_chips else _recognise(root)
        if found is not None:
            raise InputError(
                f"{root} is {found.title}, but the recipe is for chips that `aerial-seg tile` made; "
                f"use a recipe for it such as {found.name}/deeplabv3"
            )
        return _open_chips(root, settings)
    if holds_chips:
        raise InputError(
            f"{root} is a chip dataset, but the recipe trains on the benchmark {settings.benchmark}; "
            "use a recipe for chips such as deeplabv3, or name the folder of the benchmark"
        )
    return _open_examples(open_benchmark(settings.benchmark, root), settings)


def _recognise(root: Path) -> Benchmark | None:
    """The benchmark that lies under `root`, as far as one can be read there."""
    for name in BENCHMARKS:
        try:
            benchmark = open_benchmark(name, root)
            benchmark.examples("train")
        except InputError:
            continue
        return benchmark
    return None


def _open_chips(root: Path, settings: DataSettings) -> Dataset:
    manifest = open_manifest(root)
    document = manifest.document
    for key, name in (("train", settings.train), ("val", settings.val)):
        if name not in SPLITS:
            raise SettingsError(
                f"data.{key} is '{name}', which is no split of a chip dataset{did_you_mean(name, SPLITS)}; "
                f"known: {', '.join(SPLITS)}"
            )
    train_chips, val_chips = manifest.split(settings.train), manifest.split(settings.val)
    if not train_chips:
        raise InputError(
            f"{root} holds no training chip; run `aerial-seg tile` with smaller {setting('val')} and {setting('test')}"
        )
    readers = [ChipReader(chips, document.bands, document.legend) for chips in (train_chips, val_chips)]
    data = TrainingData(
        train=ChipStore(readers[0]),
        val=ChipStore(readers[1]) if val_chips else None,
        names=document.legend.names,
        val_names=tuple(chip.name for chip in val_chips),
    )
    files = [file for chip in (*train_chips, *val_chips) for file in (chip.image, chip.labels)]
    return Dataset(data, document.legend, document.bands, document.gsd, document.fingerprint, tuple(files))


def _open_examples(benchmark: Benchmark, settings: DataSettings) -> Dataset:
    readers = [open_split(benchmark, split) for split in (settings.train, settings.val)]
    legend = benchmark.legend
    data = TrainingData(
        train=ChipStore(readers[0]),
        val=ChipStore(readers[1]),
        names=legend.names,
        val_names=tuple(example.name for example in readers[1].examples),
    )
    files = tuple(file for reader in readers for example in reader.examples for file in example.files)
    return Dataset(data, legend, BANDS, None, fingerprint(benchmark, readers), files)
