"""A key of a recipe that would do nothing without another one is refused, with a remedy that works."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from made_chips import MadeReader

from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.errors import SettingsError
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.recipe.document import Recipe, as_meant
from aerial_seg.recipe.idle import NEEDS, Needs
from aerial_seg.recipe.loading import change_recipe
from aerial_seg.recipe.rates import RateSettings
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.optimisation import base_rate
from aerial_seg.training.samples.chip_store import ChipStore

VALUES: dict[str, Any] = {
    "augmentation.aspect": 0.15,
    "augmentation.rotation_probability": 0.5,
    "augmentation.blur_side": 3,
    "augmentation.contrast_about": "zero",
    "augmentation.band_noise": 0.5,
    "augmentation.light_probability": 0.5,
    "augmentation.light_range": [0.0, 255.0],
    "sampling.balanced_by": "rarity",
    "training.adam_beta2": 0.99,
    "training.adam_epsilon": 1e-3,
    "training.head_factors": "gradient",
    "training.weight_decay_on": "weights",
    "training.milestones": [0.5],
    "training.step_factor": 0.5,
    "training.power": 2.0,
    "training.end_rate": 1e-4,
    "training.end_rate_factor": 0.01,
    "training.rate_every": 10,
    "training.poly_from": "warmup",
    "training.freeze_iterations": 3,
    "training.auxiliary_weight": 0.3,
    "model.auxiliary_channels": 64,
    "batch_norm.synchronised": False,
}
"""Of each key one that is not its default."""
OTHERS: dict[str, tuple[Any, Any]] = {
    "augmentation.scale": ([1.0, 1.0], [0.5, 2.0]),
    "augmentation.rotation": (0.0, 10.0),
    "augmentation.blur": (0.0, 0.5),
    "augmentation.contrast": (0.0, 0.2),
    "augmentation.brightness": (0.0, 0.2),
    "augmentation.hue": (0.0, 18.0),
    "augmentation.saturation": (0.0, 0.5),
    "sampling.balanced_crops": (0.0, 0.5),
    "training.optimizer": ("sgd", "adamw"),
    "training.weight_decay": (0.0, 1e-4),
    "training.freeze": ("none", "encoder"),
    "model.auxiliary": (False, True),
    "batch_norm.statistics": ("averaged", "batch"),
}
"""Off and on."""
STEPS = {"training.schedule": "step", "training.milestones": [0.5]}


class Photographs(MadeReader):
    """In red, green and blue."""

    @property
    def bands(self) -> tuple[Band, ...]:
        return IMAGENET_BANDS


def off_and_on(needs: Needs) -> tuple[dict[str, Any], dict[str, Any]]:
    """What turns all off that the key needs, and what turns the first of it on."""
    if needs.of == ("training.schedule",):
        warm = {"training.warmup": 3}
        off, on = (STEPS, {"training.schedule": "poly", "training.milestones": []})
        own = {key: value for key, value in off.items() if key != needs.key}
        return (on | warm, own) if needs.wanted == "step" else (off | warm, on)
    off = {other: OTHERS[other][0] for other in needs.of}
    if needs.key == "training.head_factors":
        return off | {"training.head_rate_factor": 5.0}, {"training.optimizer": "adam"}
    return off, {needs.of[0]: OTHERS[needs.of[0]][1]}


@pytest.mark.parametrize("needs", NEEDS, ids=lambda one: one.key)
def test_a_key_without_what_it_needs_is_refused_and_both_remedies_work(needs: Needs) -> None:
    off, on = off_and_on(needs)
    asked = {**off, needs.key: VALUES[needs.key]}
    with pytest.raises(SettingsError) as told:
        change_recipe(Recipe(), asked)
    message = str(told.value)
    assert f"{needs.key} is " in message
    assert all(other in message for other in needs.of)
    change_recipe(Recipe(), {**asked, **on})
    (back,) = re.findall(rf"or ({re.escape(needs.key)} = \S+)$", message)
    given = [f"{key}={json.dumps(value)}" for key, value in off.items() if key != needs.key]
    change_recipe(Recipe(), [*given, back])


def test_every_change_of_crops_changes_some_or_is_refused_on_its_own() -> None:
    """All off but one: whatever is taken without a word does something."""
    still: dict[str, Any] = {
        "flips": False, "rot90": False, "scale": (1, 1), "brightness": 0.0, "contrast": 0.0, "band_noise": 0.0,
        "stay_inside": False,
    }  # fmt: skip
    given: dict[str, Any] = {
        "flips": "horizontal", "rot90": True, "scale": (0.5, 2.0), "base_size": (40, 40), "aspect": 0.15,
        "rotation": 10.0, "rotation_probability": 0.5, "blur": 0.5, "blur_side": 3, "brightness": 0.2, "contrast": 0.2,
        "contrast_about": "zero", "band_noise": 0.5, "hue": 18.0, "saturation": 0.5, "light_probability": 0.5,
        "light_range": (0.0, 255.0),
        "cat_max_ratio": 0.26,
    }  # fmt: skip
    of_zooms = {"scale_distribution", "scale_step", "stay_inside"}
    """How zooms are drawn: of a single one there is nothing to tell."""
    assert {*given, *of_zooms} == {*AugmentationSettings.model_fields}
    reader = Photographs([(30, 36)] * 4)

    def crops(told: AugmentationSettings) -> list[torch.Tensor]:
        made = CropDataset(ChipStore(reader), length=12, crop=16, augmentation=told, seed=0)
        return [image for image, _ in made]

    plain = crops(AugmentationSettings(**still))
    for key, value in given.items():
        try:
            recipe = change_recipe(
                Recipe(augmentation=AugmentationSettings(**still)), {f"augmentation.{key}": value}
            )
        except SettingsError as error:
            assert f"augmentation.{key} is " in str(error)  # noqa: PT017 - either this or a difference
            continue
        made = crops(recipe.augmentation)
        assert any(not torch.equal(one, other) for one, other in zip(made, plain, strict=True)), key


def test_every_key_of_the_schedule_changes_a_rate_or_is_refused_on_its_own() -> None:
    def rates(recipe: Recipe) -> list[float]:
        return [base_rate(k, recipe.training) for k in range(20)]

    start = change_recipe(Recipe(), {"training.iterations": 20})
    given: dict[str, Any] = {
        "milestones": [0.5], "step_factor": 0.5, "power": 2.0, "end_rate": 1e-4, "end_rate_factor": 0.01, "warmup": 4,
        "warmup_factor": 0.2, "poly_from": "warmup", "learning_rate": 0.1, "schedule": "step",
        "rate_every": 10,
    }  # fmt: skip
    of_the_optimiser = {key for key in RateSettings.model_fields if key not in given} - {"iterations"}
    assert of_the_optimiser == {
        "optimizer", "momentum", "adam_beta2", "adam_epsilon", "weight_decay", "weight_decay_on", "head_rate_factor",
        "head_bias_rate_factor", "auxiliary_rate_factor", "head_factors",
    }  # fmt: skip
    for beside in ({}, STEPS):
        begun = change_recipe(start, beside)
        for key, value in given.items():
            if f"training.{key}" in beside:
                continue
            try:
                changed = change_recipe(begun, {f"training.{key}": value})
            except SettingsError as error:
                assert key in str(error)  # noqa: PT017 - either this or a difference
                continue
            assert rates(changed) != rates(begun), key


def test_what_older_versions_took_and_recorded_is_read_without_its_idle_keys() -> None:
    recorded = Recipe().model_dump(mode="json")
    recorded["augmentation"] |= {"rotation_probability": 0.5, "blur_side": 7}
    recorded["training"] |= {"adam_beta2": 0.9, "power": 2.0}
    read = Recipe.model_validate_json(json.dumps(as_meant(recorded)), strict=True)
    assert read == change_recipe(Recipe(), {"training.power": 2.0})
    assert recorded["augmentation"]["blur_side"] == 7
