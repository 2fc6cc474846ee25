from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aerial_seg.errors import SettingsError
from aerial_seg.models.build import build_network
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import load_recipe, parse_recipe, recipe_names
from aerial_seg.tiling.plan import tile_shape


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_builds_a_network_that_can_be_tiled(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        network = build_network(recipe.model.model_copy(update={"weights": "none"}), bands=3, classes=4)
    height, width = recipe.training.crop_size
    network.geometry.check_crop(height=height, width=width)
    prediction = recipe.prediction
    shape = tile_shape(
        network.geometry, prediction.tile_size, halo=prediction.halo, overlap=prediction.overlap
    )
    assert shape.step > 0


def test_an_unknown_key_names_the_nearest_one() -> None:
    with pytest.raises(
        SettingsError, match=r"unknown key 'training.learning_rat'; did you mean 'learning_rate'\?"
    ):
        parse_recipe("[training]\nlearning_rat = 0.1", "mine")


def test_an_unknown_table_names_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match="'model'"):
        parse_recipe("[modell]\nencoder = 'resnet18'", "mine")


@pytest.mark.parametrize(
    "text", ["[training]\niterations = 0", "[training]\noptimizer = 'rmsprop'", "[model]\noutput_stride = 7"]
)
def test_a_bad_value_names_its_key_and_what_was_got(text: str) -> None:
    key = text.split("\n")[1].split(" ")[0]
    with pytest.raises(SettingsError, match=key):
        parse_recipe(text, "mine")


def test_broken_toml_and_unknown_recipes_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not TOML"):
        parse_recipe("[training", "mine")
    with pytest.raises(SettingsError, match="did you mean 'deeplabv3'"):
        load_recipe("deeplab3")
    with pytest.raises(SettingsError, match="does not exist"):
        load_recipe(str(tmp_path / "absent.toml"))


def test_a_file_is_read_like_a_shipped_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[training]\niterations = 7\n", encoding="utf-8")
    assert load_recipe(str(path)).training.iterations == 7
    assert Recipe().training.iterations != 7
