"""What a run trains on: the chips that `tile` cut, or a benchmark as its publishers ship it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.benchmarks.catalogue import BENCHMARKS, open_benchmark
from aerial_seg.benchmarks.dataset import Benchmark
from aerial_seg.benchmarks.training_data import (
    BANDS,
    class_counts,
    fingerprint,
    image_scenes,
    open_split,
)
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.files.names import check_input
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting
from aerial_seg.progress import announce
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import recipe_names
from aerial_seg.training.batches import TrainingData
from aerial_seg.training.crops import ChipReader
from aerial_seg.training.manifest import (
    DOCUMENT,
    SPLITS,
    TrainingStatistics,
    class_statistics,
    open_manifest,
)
from aerial_seg.training.samples.chip_store import stores
from aerial_seg.training.samples.colour import require_colours
from aerial_seg.training.samples.repeats import (
    Repeats,
    counted_pixels,
    rarity_note,
    rarity_weights,
    repeat_notes,
    repeats_of,
    require_classes,
)
from aerial_seg.training.validation.chip_scenes import chip_scenes
from aerial_seg.training.validation.ground import ground_of
from aerial_seg.training.validation.outcome import ValidationGround
from aerial_seg.training.validation.scenes import Scene

COUNTED = "counted_class_weights"
"""In run.json: that the recipe asked for weights by frequency, and has numbers there that were counted."""


@dataclass(frozen=True, slots=True)
class ValidationData:
    """Hold what checkpoints can be judged on.

    ground: what the samples are. class_pixels: labelled pixels by class name, where they are counted. scenes: gives
    the scenes that they lie in, and notes, for a folder that lasts and a tile's side.
    """

    ground: ValidationGround
    class_pixels: Mapping[str, int] | None
    scenes: Callable[[Path, int], tuple[tuple[Scene, ...], tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Hold what a run needs to know about its data, be they chips or a benchmark.

    gsd: metres per pixel; None where the images have no place on earth. fingerprint: equal for equal data. files: of
    its images and labels, which are read again and again. addresses: of images on servers. overfit: how many chips it
    was cut down to, see overfit. validation: None without validation chips. class_weights: by median frequency; None
    where that is not known. count_classes: counts labelled pixels of the training images, (images, classes), where
    nobody did and it can be done. notes: on how it is taken.
    """

    data: TrainingData
    legend: Legend
    bands: tuple[Band, ...]
    gsd: float | None
    fingerprint: str
    files: tuple[Path, ...]
    overfit: int | None = None
    validation: ValidationData | None = None
    class_weights: Mapping[str, float] | None = None
    notes: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    count_classes: Callable[[], NDArray[np.int64]] | None = None

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


def open_dataset(root: Path, recipe: Recipe) -> Dataset:
    """Return the data that the recipe asks for. Raises InputError when the folder holds data of the other kind."""
    check_input(root)
    settings = recipe.data
    holds_chips = (root / DOCUMENT).is_file()
    if settings.benchmark is None:
        found = None if holds_chips else _recognise(root)
        if found is not None:
            own = f"{found.name}/deeplabv3"
            remedy = f"use a recipe for it such as {own}"
            if own not in recipe_names():
                remedy = f'set data.benchmark = "{found.name}" in it'
            raise InputError(
                f"{root} is {found.title}, but the recipe is for chips that `aerial-seg tile` made; {remedy}"
            )
        return _open_chips(root, recipe)
    if holds_chips:
        raise InputError(
            f"{root} is a chip dataset, but the recipe trains on the benchmark {settings.benchmark}; "
            "use a recipe for chips such as deeplabv3, or name the folder of the benchmark"
        )
    return _open_examples(open_benchmark(settings.benchmark, root), recipe)


def with_class_weights(recipe: Recipe, dataset: Dataset, before: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe with numbers for class weights by median frequency, if it asks for these.

    A benchmark's training labels are counted for it, all of them; before: the run.json of a run that is gone on with,
    which has the numbers where its data are the same.
    Raises SettingsError where chips come from a version of `tile` that did not count their pixels.
    """
    if not isinstance(recipe.training.class_weights, str):
        return recipe
    weights = _weights_before(before, dataset) or dataset.class_weights
    if weights is None and dataset.count_classes is not None:
        images = len(dataset.data.train)
        announce(f"note: the labels of {images:,} training images are counted for training.class_weights")
        counts = class_statistics(dataset.legend.names, dataset.count_classes())
        weights = TrainingStatistics(bands=(), classes=counts).class_weights()
    if weights is None:
        raise SettingsError(
            f"training.class_weights is '{recipe.training.class_weights}', but the dataset tells no frequencies of its "
            "classes; wanted chips that this version of `aerial-seg tile` made: run it again, or write the weights by "
            "class name"
        )
    training = recipe.training.model_copy(update={"class_weights": dict(weights)})
    return recipe.model_copy(update={"training": training})


def _weights_before(before: Mapping[str, Any] | None, dataset: Dataset) -> Mapping[str, float] | None:
    """The numbers that the run counted; None where it began with other data or numbers, which is refused later on."""
    if before is None or before.get("data_fingerprint") != dataset.fingerprint or not before.get(COUNTED):
        return None
    told = before["recipe"]["training"].get("class_weights")
    return told if isinstance(told, dict) and told else None


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


@dataclass(frozen=True, slots=True)
class _Sampling:
    """Which images come more often, the classes' weights where crops are balanced by rarity, what to say of both."""

    repeats: Repeats | None = None
    rarity: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()


def _sampling(
    recipe: Recipe, names: Sequence[str], count: Callable[[], NDArray[np.int64]], *, what: str
) -> _Sampling:
    """How the recipe takes its images. count: gives (images, classes) labelled pixels."""
    sampling, training = recipe.sampling, recipe.training
    is_repeated = bool(sampling.repeat_threshold or sampling.repeat_classes)
    is_rare = sampling.balanced_crops > 0 and sampling.balanced_by == "rarity"
    if not (is_repeated or is_rare):
        return _Sampling()
    require_classes(sampling, names)  # before all labels are read
    pixels = count()
    notes: list[str] = []
    repeats, rarity = None, None
    if is_repeated:
        crops = training.iterations * training.batch_size
        notes += repeat_notes(sampling, names, pixels, crops=crops, what=what)
        repeats = repeats_of(sampling, names, pixels)
    if is_rare:
        rarity = rarity_weights(pixels)
        notes.append(rarity_note(names, rarity, sampling.balanced_crops))
    return _Sampling(repeats, rarity, tuple(notes))


def _open_chips(root: Path, recipe: Recipe) -> Dataset:
    settings, by_scenes = recipe.data, recipe.training.validate_on == "scenes"
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
    _require_two_classes(root, document.class_pixels, settings.train)
    require_colours(recipe.augmentation, document.bands)
    readers = [ChipReader(chips, document.bands, document.legend) for chips in (train_chips, val_chips)]
    kept = stores(*readers[: 2 if val_chips else 1])
    sampling = _sampling(
        recipe,
        document.legend.names,
        lambda: counted_pixels([chip.pixels for chip in train_chips], recipe.sampling, root),
        what="chips",
    )
    data = TrainingData(
        train=kept[0],
        val=kept[1] if val_chips else None,
        names=document.legend.names,
        val_names=tuple(chip.name for chip in val_chips),
        repeats=sampling.repeats,
        rarity=sampling.rarity,
    )
    validation = None
    if val_chips:
        validation = ValidationData(
            ground_of(manifest, settings.val),
            document.class_pixels.get(settings.val),
            lambda folder, side: chip_scenes(manifest, settings.val, folder, side=side),
        )
    # The images of all splits are seen around validation scenes.
    seen = manifest.chips if by_scenes else (*train_chips, *val_chips)
    return Dataset(
        data=data,
        legend=document.legend,
        bands=document.bands,
        gsd=document.gsd,
        fingerprint=document.fingerprint,
        files=manifest.files(seen),
        validation=validation,
        class_weights=None if document.statistics is None else document.statistics.class_weights(),
        notes=(
            *sampling.notes,
            *_shared_notes((chip.name for chip in train_chips), data.val_names, what="chips"),
        ),
        addresses=manifest.addresses,
    )


def _require_two_classes(root: Path, pixels: Mapping[str, Mapping[str, int]], split: str) -> None:
    """Raises InputError where the chips show one class only: a network that always says so has an IoU of 1."""
    held = {name: [key for key, count in of.items() if count] for name, of in pixels.items()}
    if split not in held or len(held[split]) > 1:
        return
    everywhere = {key for keys in held.values() for key in keys}
    what = f"its only class is '{held[split][0]}'" if held[split] else "they hold no labelled pixel"
    remedy = (
        f"run `aerial-seg tile` with another {setting('seed')}, smaller {setting('val')} and {setting('test')} or "
        f"smaller blocks ({setting('block')})"
        if len(everywhere) > 1
        else "run `aerial-seg tile` again, which names the remedy for its labels"
    )
    raise InputError(
        f"{root} cannot be trained on: of its {split} chips {what}, wanted pixels of two classes; {remedy}"
    )


def _open_examples(benchmark: Benchmark, recipe: Recipe) -> Dataset:
    readers = [open_split(benchmark, split) for split in (recipe.data.train, recipe.data.val)]
    legend = benchmark.legend
    sampling = _sampling(recipe, legend.names, lambda: class_counts(readers[0]), what="images")
    train, val = stores(*readers)
    data = TrainingData(
        train=train,
        val=val,
        names=legend.names,
        val_names=tuple(example.name for example in readers[1].examples),
        repeats=sampling.repeats,
        rarity=sampling.rarity,
    )
    photographs = [[benchmark.photograph(one) for one in reader.examples] for reader in readers]
    # One file may hold the labels of a whole split.
    files = tuple(
        file
        for reader in readers
        for file in dict.fromkeys(file for example in reader.examples for file in example.files)
    )
    validation = ValidationData(
        ValidationGround.of_images(data.val_names), None, lambda folder, side: (image_scenes(readers[1]), ())
    )
    return Dataset(
        data,
        legend,
        BANDS,
        None,
        fingerprint(benchmark, readers),
        files,
        validation=validation,
        count_classes=lambda: class_counts(readers[0]),
        notes=(
            *sampling.notes,
            *(note for split in (recipe.data.train, recipe.data.val) for note in benchmark.notes(split)),
            *_shared_notes(*photographs, what="images"),
        ),
    )


def _shared_notes(train: Iterable[str], val: Sequence[str], *, what: str) -> tuple[str, ...]:
    """What to say of images that are trained on and validated on, by what tells each from all others."""
    shared = len(set(train) & set(val))
    if not shared:
        return ()
    return (
        f"{shared:,} of the {len(val):,} validation {what} are training {what} too: their scores tell how well these "
        "were learnt, not how well others will be mapped",
    )
