"""Keys of a recipe that do nothing without another one are refused, and dropped from what older versions wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from aerial_seg.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Needs:
    """Say that a key does nothing while all of others are off, and what turns one of these on.

    of: the others, from which the remedy takes the first. wanted: the value that turns it on, or several; None: any
    that is not nothing. harmless: what the key may be all the same, besides its default.
    """

    key: str
    of: tuple[str, ...]
    wanted: object = None
    harmless: tuple[object, ...] = ()


NEEDS = (
    Needs("augmentation.aspect", ("augmentation.scale",)),
    Needs("augmentation.rotation_probability", ("augmentation.rotation",)),
    Needs("augmentation.blur_side", ("augmentation.blur",)),
    Needs("augmentation.contrast_about", ("augmentation.contrast",)),
    Needs(
        "augmentation.band_noise",
        ("augmentation.brightness", "augmentation.contrast"),
        harmless=(0.0,),
    ),
    Needs(
        "augmentation.light_probability",
        ("augmentation.brightness", "augmentation.contrast", "augmentation.hue", "augmentation.saturation"),
    ),
    Needs(
        "augmentation.light_range",
        ("augmentation.brightness", "augmentation.contrast", "augmentation.hue", "augmentation.saturation"),
    ),
    Needs("sampling.balanced_by", ("sampling.balanced_crops",)),
    Needs("training.adam_beta2", ("training.optimizer",), wanted=("adamw", "adam")),
    Needs("training.adam_epsilon", ("training.optimizer",), wanted=("adamw", "adam")),
    Needs("training.head_factors", ("training.optimizer",), wanted=("adam",)),
    Needs("training.weight_decay_on", ("training.weight_decay",)),
    Needs("training.milestones", ("training.schedule",), wanted="step"),
    Needs("training.step_factor", ("training.schedule",), wanted="step"),
    Needs("training.power", ("training.schedule",), wanted="poly"),
    Needs("training.end_rate", ("training.schedule",), wanted="poly"),
    Needs("training.end_rate_factor", ("training.schedule",), wanted="poly"),
    Needs("training.rate_every", ("training.schedule",), wanted="poly"),
    Needs("training.poly_from", ("training.schedule",), wanted="poly"),
    Needs("training.freeze_iterations", ("training.freeze",), wanted="encoder"),
    Needs("training.auxiliary_weight", ("model.auxiliary",), wanted=True, harmless=(0.0,)),
    Needs("model.auxiliary_channels", ("model.auxiliary",), wanted=True),
    Needs("batch_norm.synchronised", ("batch_norm.statistics",), wanted="batch"),
)
"""Pairs that are not refused elsewhere. Others are, where the rest of their table is checked: the loss's keys
(TrainingSettings), warm-up (RateSettings), steps of zooms (AugmentationSettings), batch_norm.where (its norms), and
what only some networks have (models/choices.py). Momentum of batch norms whose statistics are frozen is told in a note:
a stage that freezes them has it from the one before."""


def check_idle(recipe: Mapping[str, BaseModel]) -> None:
    """Raises SettingsError for a key that does nothing without another. recipe: its tables by name."""
    for needs in NEEDS:
        table, key = needs.key.split(".")
        section = recipe[table]
        value, default = getattr(section, key), type(section).model_fields[key].default
        if value in (default, *needs.harmless) or any(
            _is_on(_value(recipe, other), needs.wanted) for other in needs.of
        ):
            continue
        others = " and ".join(f"{other} is {_told(_value(recipe, other))}" for other in needs.of)
        raise SettingsError(
            f"{needs.key} is {_told(value)}, but {others}, without which it does nothing; set "
            f"{_remedy(needs)}, or {needs.key} = {_told(default)}"
        )


def without_idle(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's document without such keys, which older versions took and recorded; it is not touched itself."""
    found = {name: dict(one) if isinstance(one, Mapping) else one for name, one in recipe.items()}
    for needs in NEEDS:
        table, key = needs.key.split(".")
        section = found.get(table)
        if isinstance(section, dict) and key in section:
            others = [other.split(".") for other in needs.of]
            given = [found.get(where) for where, _ in others]
            values = [
                one[name]
                for one, (_, name) in zip(given, others, strict=True)
                if isinstance(one, dict) and name in one
            ]
            # What is not recorded has a default that nobody chose: only values that are there turn a key off.
            if len(values) == len(others) and not any(_is_on(one, needs.wanted) for one in values):
                del section[key]
    return found


def _value(recipe: Mapping[str, BaseModel], path: str) -> object:
    table, key = path.split(".")
    return getattr(recipe[table], key)


def _is_on(value: object, wanted: object) -> bool:
    if wanted is not None:
        return value in wanted if isinstance(wanted, tuple) else value == wanted
    if isinstance(value, list | tuple):  # a range
        return len(set(value)) > 1
    return bool(value)


def _remedy(needs: Needs) -> str:
    wanted = needs.wanted[0] if isinstance(needs.wanted, tuple) else needs.wanted
    return needs.of[0] if wanted is None else f"{needs.of[0]} = {_told(wanted)}"


def _told(value: object) -> str:
    """As TOML writes it, or --set, which knows none."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return (
        f"{list(value)}"
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else f"{value}"
    )
