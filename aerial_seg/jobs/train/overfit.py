"""Training on a few chips only, to see whether a network learns at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aerial_seg.bands import Band
from aerial_seg.errors import SettingsError
from aerial_seg.jobs.train.data import Dataset
from aerial_seg.legend import IGNORE
from aerial_seg.mentions import setting
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.pixels import Choose, Pixels, Sample, whole

_LOOKED_AT = 200
"""Training chips among which the few are chosen."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Read some of the images, by their numbers."""

    images: ChipStore
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def bands(self) -> tuple[Band, ...]:
        """What images are normalised by."""
        return self.images.bands

    def name(self, index: int) -> str:
        """Return what people call image number `index` of the subset."""
        return self.images.name(self.numbers[index])

    def shape(self, index: int) -> tuple[int, int]:
        """Return its height and width."""
        return self.images.shape(self.numbers[index])

    def read(self, index: int, choose: Choose = whole) -> Pixels:
        """Return the chosen window of it."""
        return self.images.read(self.numbers[index], choose)


def few_chips(dataset: Dataset, count: int) -> Dataset:
    """Return the dataset whose training and validation chips are the same `count` training chips.

    Those that show most classes, and of these those with most labelled pixels, so that there is something to learn.
    Raises SettingsError where there are fewer.
    """
    train = dataset.data.train
    if count > len(train):
        raise SettingsError(
            f"{setting('overfit')} is {count}, but there are {len(train)} training chips; choose at most so many"
        )
    among = min(len(train), max(count, _LOOKED_AT))
    looked_at = np.linspace(0, len(train) - 1, among).round().astype(int).tolist()
    ranked = sorted(looked_at, key=lambda number: _worth(train[number]), reverse=True)
    numbers = tuple(sorted(ranked[:count]))
    data = replace(
        dataset.data,
        train=ChipStore(Subset(train, numbers)),
        val=ChipStore(Subset(train, numbers)),
        val_names=tuple(map(train.name, numbers)),
        repeats=None,
    )
    return replace(dataset, data=data, overfit=count, notes=())


def _worth(sample: Sample) -> tuple[int, int]:
    labels = sample[1].numpy()
    known = labels[labels != IGNORE]
    return len(np.unique(known)), known.size


def without_augmentation(recipe: Recipe) -> Recipe:
    """Return the recipe whose crops are cut from the chips as they are."""
    plain = AugmentationSettings(
        flips=False, rot90=False, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, band_noise=0.0
    )
    return recipe.model_copy(update={"augmentation": plain})


def overfit_note(count: int) -> str:
    """Say what the scores of such a run are worth."""
    chips = "the same chip" if count == 1 else f"the same {count} chips"
    return (
        f"this run trains and validates on {chips}, without augmentation: its scores tell whether the network learns, "
        "and nothing of how good it is"
    )
