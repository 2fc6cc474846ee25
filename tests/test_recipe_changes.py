from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.errors import SettingsError
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe, load_recipe, parse_recipe
from aerial_seg.recipe.section import Section


def keys() -> list[tuple[str, Any]]:
    """Every key of the recipe, with its default."""
    sections = [(name, getattr(Recipe(), name)) for name in Recipe.model_fields if name != "stage"]
    return [(f"{name}.{key}", value) for name, one in sections for key, value in one.model_dump().items()]


def written(value: Any) -> str:
    """As TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {written(one)}" for key, one in value.items()) + "}"
    return f"'{value}'" if isinstance(value, str) else repr(value)


@pytest.mark.parametrize(("key", "value"), keys())
def test_every_key_of_a_recipe_can_be_set(key: str, value: Any) -> None:
    """To its own default, where it has one that TOML can write: the recipe stays as it was."""
    assert change_recipe(Recipe(), {key: value}) == Recipe()
    if value is not None:
        assert change_recipe(Recipe(), [f"{key}={written(value)}"]) == Recipe()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("training.learning_rate=3e-4", "[training]\nlearning_rate = 3e-4"),
        ("training.iterations = 1_000", "[training]\niterations = 1000"),
        ("model.encoder=resnet34", "[model]\nencoder = 'resnet34'"),
        ("model.architecture=deeplabv3+", "[model]\narchitecture = 'deeplabv3+'"),
        ("model.weights=my weights/a=b.pth", "[model]\nweights = 'my weights/a=b.pth'"),
        ('model.encoder="resnet34"', "[model]\nencoder = 'resnet34'"),
        ("training.calibrate=true", "[training]\ncalibrate = true"),
        ("augmentation.scale=[0.8, 1.25]", "[augmentation]\nscale = [0.8, 1.25]"),
        ("model.options={decoder_channels = [16, 8]}", "[model.options]\ndecoder_channels = [16, 8]"),
        ("model.options.decoder_channels=[16, 8]", "[model.options]\ndecoder_channels = [16, 8]"),
        ('training.class_weights."a = b.c"=2', '[training.class_weights]\n"a = b.c" = 2'),
    ],
)
def test_a_change_means_what_the_same_line_means_in_a_recipe(change: str, text: str) -> None:
    assert change_recipe(Recipe(), [change]) == parse_recipe(text, "mine")


@settings(max_examples=examples(60))
@given(st.text())
def test_whatever_is_typed_ends_in_a_recipe_or_in_one_line(text: str) -> None:
    for typed in (text, f"model.encoder={text}", f"{text}=1", f"training.class_weights.{text}=1"):
        changed = changed_or_told(typed)
        # One key, and nothing else, differs; where it cannot, one line tells why.
        if isinstance(changed, str):
            assert "\n" not in changed
            continue
        before, after = Recipe().model_dump(), changed.model_dump()
        assert sum(before[table][key] != after[table][key] for table in before for key in before[table]) <= 1


def changed_or_told(change: str) -> Recipe | str:
    try:
        return change_recipe(Recipe(), [change])
    except SettingsError as error:
        return str(error)


@settings(max_examples=examples(60))
@given(st.from_regex(r"[A-Za-z_][A-Za-z0-9_+./ -]{0,20}", fullmatch=True))
def test_a_bare_word_is_a_text_unless_toml_knows_it(word: str) -> None:
    try:
        meant = tomllib.loads(f"v = {word}")["v"]
    except tomllib.TOMLDecodeError:
        meant = word.strip()
    if isinstance(meant, str):
        assert change_recipe(Recipe(), [f"model.encoder={word}"]).model.encoder == meant


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.learning_rat=1"], r"unknown key 'training.learning_rat'; did you mean 'training.learning_rate'\?"),
        (["learning_rate=1"], r"did you mean 'training.learning_rate'\?"),
        (["model.learning_rate=1"], r"did you mean 'training.learning_rate'\?"),
        (["learning_rat=1"], r"did you mean 'training.learning_rate'\?"),
        (["trainin.crop=1"], r"did you mean 'training.crop'\?"),
        (["training.crop=0"], "recipe with training.crop: 'training.crop' is 0"),
        (["training.crop=big"], "'training.crop' is 'big'"),
        (["training.optimizer=rmsprop"], "'training.optimizer' is 'rmsprop'"),
        (["training.crop.x=1"], "training.crop.x: crop holds 256 and no table"),
        (["training={crop = 1}"], "training is a table of the recipe, wanted one of its keys, as training.iterations="),
        (["training.crop"], "wanted KEY=VALUE"),
        (["=1"], "names no key"),
        (["training.crop="], "no value"),
        (["model.options={a = 1"], "no value"),
        (["model.encoder='resnet"], "no value"),
        (["training.crop=1\nseed = 2"], "sets more than one key"),
        (["training.crop=64", "training.crop=128"], "training.crop and training.crop are set at once"),
        (
            ["training.class_weights.a=1", "training.class_weights={b = 2}"],
            "training.class_weights.a and training.class_weights are set at once",
        ),
        ("training.crop=64", "changes is 'training.crop=64', wanted a mapping"),
        ({"training.crop": 0}, "'training.crop' is 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_told(changes: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        change_recipe(Recipe(), changes)


def test_a_recipe_is_loaded_with_its_changes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[training]\ncrop = 64\nbatch_size = 3\n", encoding="utf-8")
    recipe = load_recipe(path, {"training.crop": 128})
    assert (recipe.training.crop, recipe.training.batch_size) == (128, 3)
    assert isinstance(recipe, Section)
    with pytest.raises(SettingsError, match=r"mine.toml with training.crop: 'training.crop' is 0"):
        load_recipe(path, ["training.crop=0"])


def test_none_takes_a_value_away_where_there_is_none_by_default() -> None:
    """TOML has no null; elsewhere it is a text like others."""
    staged = parse_recipe('[batch_norm]\ndecay = 0.9\n[[stage]]\nname = "more"', "mine")
    asked = ["batch_norm.decay=none", "stage.more.training.patience=none"]
    recipe = change_recipe(staged, asked)
    assert recipe.batch_norm.decay is None
    assert recipe.by_stage()[1].training.patience is None
    assert change_recipe(staged, ["model.weights=none"]).model.weights == "none"
    with pytest.raises(SettingsError, match=r"training\.crop' is 'none'"):
        change_recipe(staged, ["training.crop=none"])
