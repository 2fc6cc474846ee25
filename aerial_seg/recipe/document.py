"""The recipe: everything that a training run needs to know besides where its data lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from aerial_seg.recipe.batch_norm import BatchNormSettings
from aerial_seg.recipe.crops import AugmentationSettings, SamplingSettings
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.recipe.section import Pixels, Section
from aerial_seg.recipe.training import TrainingSettings


class DataSettings(Section):
    """What the recipe trains on: chips that `tile` made (benchmark None) or a benchmark in its publishers' layout.

    train and val: the splits to learn from and to validate on. Chips have train, val and test; VOC also trainval and
    trainaug (with SBD's labels); Cityscapes also trainval, train_extra (20,000 further images, coarse labels), coarse
    (the coarse labels of trainval), train_coarse and trainval_coarse (fine labels, and the coarse ones of train_extra).
    COCO is read with VOC's classes, to pretrain networks for VOC: train and val are those of 2017, train2014 and
    val2014 the older ones; images to train on show more than 1,000 px of these classes.
    """

    benchmark: Literal["voc", "cityscapes", "ade20k", "coco"] | None = None
    train: str = "train"
    val: str = "val"


class PredictionSettings(Section):
    """How the trained model is tiled unless `predict` is told otherwise; None: derived from the network."""

    tile_size: Pixels = 512
    halo: Annotated[int, Field(ge=0, le=65_536)] | None = None
    overlap: Annotated[int, Field(ge=0, le=65_536)] | None = None
    batch_size: Pixels = 4


class Recipe(Section):
    """Hold everything that a training run needs to know besides where its data lie."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    batch_norm: BatchNormSettings = BatchNormSettings()
    sampling: SamplingSettings = SamplingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    prediction: PredictionSettings = PredictionSettings()


def as_meant(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's document with what older versions did without saying so, where today's default is another."""
    changes = recipe.get("augmentation")
    if not isinstance(changes, Mapping):
        return dict(recipe)
    return {**recipe, "augmentation": {"stay_inside": False, **changes}}
