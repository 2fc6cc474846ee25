"""The recipe's keys of the loss: what cannot apply is refused, and the remedies are taken."""

from __future__ import annotations

import pytest

from aerial_seg.errors import SettingsError
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe, load_recipe
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.loss_terms.terms import Terms, check_loss


def changed(**keys: object) -> Recipe:
    return change_recipe(load_recipe("default"), {f"training.{key}": value for key, value in keys.items()})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"focal_gamma": 2},
            r'focal_gamma is 2, which loss cross-entropy has no use for; leave it out, or set loss = "f',
        ),
        (
            {"ohem_threshold": 0.7, "loss": "focal"},
            r'ohem_threshold is 0.7, which loss focal .* set loss = "ohem"',
        ),
        ({"ohem_min_kept": 9}, "ohem_min_kept is 9, which loss cross-entropy has no use for"),
        (
            {"label_smoothing": 0.1, "loss": "focal"},
            "label_smoothing is 0.1, but loss focal has no smoothed labels",
        ),
        ({"loss": "none", "dice_weight": 0}, "loss is none and there is nothing else to learn from"),
        ({"loss": "none", "lovasz_weight": 1, "class_weights": {"a": 2}}, "which loss none does not have"),
        ({"loss": "ohem", "loss_at": "logits", "crop": 512}, "chooses among the pixels of labels"),
        (
            {"loss": "ohem", "crop": 256},
            r"100,000, but a crop of 256 has 65,536 pixels.*set ohem_min_kept = 12500",
        ),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"loss": "lovasz"}, "'training.loss' is 'lovasz'"),
    ],
)
def test_keys_that_cannot_apply_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        changed(**keys)


def test_the_remedies_are_taken() -> None:
    assert changed(loss="focal", focal_gamma=3).training.focal_exponent == 3
    assert changed(loss="focal").training.focal_exponent == 2
    assert changed(loss="ohem", ohem_min_kept=12500, crop=256).training.hard_below == 0.7
    assert changed(loss="none", lovasz_weight=1, dice_weight=0).training.loss == "none"
    assert changed(loss="ohem", crop=512).training.hard_at_least == 100_000


def test_what_a_network_or_parts_cannot_have_is_refused_before_the_run() -> None:
    at_logits = changed(loss_at="logits").training
    check_loss(at_logits, ModelGeometry(8, 8, 8), parts=2)
    with pytest.raises(SettingsError, match=r"logits have the labels' size.*training.loss_at = \"labels\""):
        check_loss(at_logits, ModelGeometry(32, 1, 32), parts=1)
    hard = changed(loss="ohem", crop=512).training
    check_loss(hard, ModelGeometry(8, 8, 8), parts=1)
    with pytest.raises(SettingsError, match=r'training.loss = "ohem" needs the whole batch'):
        check_loss(hard, ModelGeometry(8, 8, 8), parts=4)


def test_old_recipes_have_the_loss_they_had() -> None:
    assert Terms.of(Recipe().training) == Terms()
    assert Terms.of(change_recipe(Recipe(), {"training.dice_weight": 1}).training) == Terms(dice_weight=1.0)
