"""Further stages of a recipe: each is a whole recipe, and what is wrong with one is told when the recipe is loaded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aerial_seg.errors import SettingsError
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe, parse_recipe

FIRST = """
[data]
train = "train"
[model]
output_stride = 16
[training]
iterations = 5
learning_rate = 0.007
class_weights = { tree = 2.0 }
"""
TWO = """
[[stage]]
name = "fine"
data.train = "val"
model.output_stride = 8
training.learning_rate = 0.001
[stage.training.class_weights]
road = 3.0
"""
THREE = """
[[stage]]
name = "back"
start = "best"
[stage.model]
output_stride = 16
"""


def test_a_stage_is_the_one_before_but_for_its_keys() -> None:
    recipe = parse_recipe(FIRST + TWO + THREE, "mine")
    first, second, third = recipe.by_stage()
    assert first == parse_recipe(FIRST, "mine")
    assert second == change_recipe(
        first,
        {
            "data.train": "val",
            "model.output_stride": 8,
            "model.trained_stride": 16,
            "model.weights": "stage-1/last.safetensors",
            "training.learning_rate": 0.001,
            "training.class_weights": {"tree": 2.0, "road": 3.0},
        },
    )
    back = {
        "model.output_stride": 16,
        "model.trained_stride": None,
        "model.weights": "stage-2/best.safetensors",
    }
    assert third == change_recipe(second, back)
    assert first.by_stage() == (first,)


def test_what_a_recipe_says_of_stages_outlives_its_files_and_is_silent_where_there_are_none() -> None:
    recipe = parse_recipe(FIRST + TWO + THREE, "mine")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe
    assert "stage" not in Recipe().model_dump()
    assert "stage" not in json.loads(recipe.by_stage()[2].model_dump_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training.learning_rat = 1",
            r"recipe mine: unknown key 'stage\.0\.training\.learning_rat'; did you mean 'learning_rate'\?; known",
        ),
        ("trainin.crop = 64", r"unknown key 'stage\.0\.trainin'; did you mean 'training'\?; known here: name, start"),
        ("stage = []", r"unknown key 'stage\.0\.stage'"),
        ("training = 1", r"'stage\.0\.training' is 1: wanted a table with some of the keys of \[training\]"),
        ("training.crop = 0", r"'stage\.0\.training\.crop' is 0: wanted one number of pixels"),
        ("training.class_weights = 'mean'", r"'stage\.0\.training\.class_weights' is 'mean': .*'median' or"),
        ("model.encoder = 'resnet34'", r"'stage\.0\.model\.encoder' .* can change output_stride and dropout; set it"),
        ("model.weights = 'x.pth'", r"'stage\.0\.model\.weights' .* the weights of the one before; leave it out"),
        ("model.trained_stride = 16", r"'stage\.0\.model\.trained_stride'"),
        ("start = 'first'", r"'stage\.0\.start' is 'first'"),
    ],
)  # fmt: skip
def test_a_stages_bad_key_is_told_with_its_place_when_the_recipe_is_loaded(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_recipe(f'{FIRST}[[stage]]\nname = "fine"\n{text}', "mine")


def test_a_stage_can_unset_what_the_one_before_has() -> None:
    first = FIRST + "[batch_norm]\ndecay = 0.9997\n[sampling]\nrepeat_classes = { tree = 2.0, road = 3.0 }\n"
    unset = 'unset = ["batch_norm.decay", "sampling.repeat_classes.road", "training.class_weights"]\n'
    recipe = parse_recipe(f'{first}[[stage]]\nname = "fine"\n{unset}batch_norm.momentum = 0.05', "mine")
    before, stage = recipe.by_stage()
    assert before.batch_norm.decay == 0.9997
    assert (stage.batch_norm.decay, stage.batch_norm.momentum) == (None, 0.05)
    assert stage.sampling.repeat_classes == {"tree": 2.0}
    assert (before.training.class_weights, stage.training.class_weights) == ({"tree": 2.0}, {})
    assert Recipe.model_validate_json(recipe.model_dump_json(), strict=True) == recipe


@pytest.mark.parametrize(
    ("unset", "message"),
    [
        (
            "batch_norm.decay",
            r"'stage\.0\.unset' names batch_norm\.decay, which the stage before does not set",
        ),
        (
            "training.class_weights.road",
            r"names training\.class_weights\.road, which the stage before does not",
        ),
        ("training.crp", r"'stage\.0\.unset' names training\.crp, which is no key of a recipe"),
        ("batch_norm", r"names batch_norm, which is no key of a recipe"),
        ("stage.0", r"names stage\.0, which is no key of a recipe"),
        ("model.output_stride.x", r"names model\.output_stride\.x, which the stage before does not set"),
        (
            "model.encoder",
            r"'stage\.0\.unset' is 'model\.encoder': a stage has the network of the one before",
        ),
        ("training.iterations", r"stage\.0\.'unset' names training\.iterations, which is set here too"),
    ],
)
def test_what_a_stage_cannot_unset_is_told(unset: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_recipe(f'{FIRST}[[stage]]\nname = "fine"\nunset = ["{unset}"]\ntraining.iterations = 7', "mine")


def test_a_stage_has_a_name_of_its_own() -> None:
    with pytest.raises(SettingsError, match=r"'stage\.0\.name' is missing; add it"):
        parse_recipe("[[stage]]\ntraining.crop = 64", "mine")
    with pytest.raises(SettingsError, match=r"'stage\.1\.name' is 'fine': a stage before it is called so"):
        parse_recipe(2 * '[[stage]]\nname = "fine"\n', "mine")
    with pytest.raises(
        SettingsError, match=r"Recipe: unknown key 'stage\.0\.training\.crp'; did you mean 'crop'"
    ):
        Recipe(stage=[{"name": "fine", "training": {"crp": 2}}])  # fmt: skip


@pytest.mark.parametrize("which", ["0", "fine"])
def test_a_stages_keys_are_set_by_its_number_or_name(which: str) -> None:
    recipe = parse_recipe(FIRST + TWO, "mine")
    changes = [f"stage.{which}.training.iterations=100", f"stage.{which}.training.class_weights.road=4"]
    first, second = change_recipe(recipe, [*changes, f"stage.{which}.start=best"]).by_stage()
    assert (first.training.iterations, second.training.iterations) == (5, 100)
    assert second.training.class_weights == {"tree": 2.0, "road": 4.0}
    assert second.training.learning_rate == 0.001
    assert second.model.weights == "stage-1/best.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["stage.0.training.learning_rat=1"], r"learning_rat'; did you mean 'stage.0.training.learning_rate'\?"),
        (["stage.fine.crop=1"], r"unknown key 'stage.fine.crop'; did you mean 'stage.fine.training.crop'\?"),
        (["stage.1.training.crop=1"], r"stage.1.training.crop: there is no stage '1'; those of the recipe: 0 \(fine\)"),
        (["stage=1"], "stage is a list of tables, wanted a key of one of them, as stage.0.tr"),
        (["stage.0=1"], "stage is a list of tables"),
        (["stage.0.training=1"], "stage.0.training is a table of the recipe, wanted one of its keys, as stage.0.tr"),
        (["stage.0.training.crop=0"], "recipe with stage.0.training.crop: 'stage.0.training.crop' is 0"),
        (["stage.0.training.crop=32", "stage.fine.training.crop=64"], "stage.fine.training.crop are set at once"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_of_a_stage_is_told(changes: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        change_recipe(parse_recipe(FIRST + TWO, "mine"), changes)
    with pytest.raises(
        SettingsError, match=r"there is no stage .0.; the recipe has none, write \[\[stage\]\] into its file"
    ):
        change_recipe(Recipe(), ["stage.0.training.crop=1"])
