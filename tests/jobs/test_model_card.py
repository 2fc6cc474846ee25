"""The card of a model file: the keys that scripts read, and that its numbers are the model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aerial_seg.bands import Band
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.tile_choice import choose_tile
from aerial_seg.jobs.info.job import info
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, load_model, save_model
from aerial_seg.models.receptive_field.field import receptive_field
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.recipe.training import TrainingSettings

FCN = ModelSettings(architecture="fcn", head_channels=8, output_stride=16)

ALWAYS = (
    "kind", "path", "architecture", "encoder", "parameters", "output_stride", "logit_stride", "tile_sides",
    "tile_size", "classes", "bands", "gsd_m", "iteration", "validation_miou", "tool_version", "sha256",
)  # fmt: skip
"""The keys that the card had before it had parts."""


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes an untrained model of two bands and two classes; `facts` replace parts of its document."""

    def write(
        settings: ModelSettings = FCN, *, prediction: PredictionSettings | None = None, **facts: Any
    ) -> Path:
        recipe = Recipe(
            model=settings,
            training=TrainingSettings(iterations=70, crop=96, dice_weight=0.5, class_weights={"road": 2}),
            augmentation=AugmentationSettings(rot90=False),
            prediction=prediction or PredictionSettings(tile_size=256),
        )
        document = {
            "tool_version": "0.0.test",
            "recipe": recipe,
            "legend": make_legend({0: "background", 7: "road"}, background=[0]),
            "bands": tuple(
                Band(name=name, dtype="uint16", mean=900, std=200, p2=80, p98=2000) for name in ("red", "nir")
            ),
            "gsd": 0.25,
            "class_bias": (0.0, 0.75),
            "iteration": 60,
            "validation_miou": 0.625,
            "data_fingerprint": "of the data",
        }
        path = tmp_path / "model.safetensors"
        state = build_network(settings, bands=2, classes=2).state_dict()
        save_model(state, ModelCard.model_validate(document | facts), path)
        return path

    return write


def test_the_card_is_json_and_keeps_its_first_keys(written: Callable[..., Path]) -> None:
    path = written()
    card = info(path)
    assert tuple(card)[: len(ALWAYS)] == ALWAYS
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert card["classes"] == {"0": "background", "7": "road"}
    assert card["bands"]["nir"] == "uint16, mean 900, std 200"


def test_the_network_is_the_one_that_is_loaded(written: Callable[..., Path]) -> None:
    path = written()
    card, model = info(path), load_model(path)
    network = card["network"]
    auxiliary = model.network.get_submodule("auxiliary").parameters()
    assert network["parameters"]["auxiliary"] == sum(weight.numel() for weight in auxiliary) > 0
    total = sum(weight.numel() for weight in model.network.parameters())
    assert sum(network["parameters"].values()) == card["parameters"] == total
    assert network["choices"] == {"head_channels": 8, "output_stride": 16}
    assert (network["output_stride"], network["logit_stride"], network["origin_step"]) == (16, 16, 16)
    field = receptive_field(model.network, 2)
    assert field.rows is not None
    told = network["receptive_field"]
    assert told["rows"] == {"first": field.rows.first, "last": field.rows.last, "side": field.rows.side}
    assert (told["side"], told["halo"], told["reason"]) == (field.side, field.halo, None)
    assert (card["file"]["sha256"], card["file"]["bytes"]) == (model.sha256, path.stat().st_size)


def test_what_goes_in_and_comes_out(written: Callable[..., Path]) -> None:
    card = info(written())
    assert card["input"]["gsd_m"] == 0.25
    assert [band["name"] for band in card["input"]["bands"]] == ["red", "nir"]
    assert card["input"]["bands"][1] == {
        "number": 2, "name": "nir", "dtype": "uint16", "mean": 900, "std": 200, "p2": 80, "p98": 2000,
    }  # fmt: skip
    background, road = card["output"]["classes"]
    assert (background["channel"], background["value"], background["background"]) == (0, 0, True)
    assert (road["channel"], road["value"], road["name"], road["bias"]) == (1, 7, "road", 0.75)
    # Of a file that does not tell how sure its score is.
    unknown = dict.fromkeys(("on", "monitor", "value", "unit", "units", "intervals", "doubts"))
    assert card["validation"] == {"miou": 0.625, "iteration": 60, **unknown}


def test_a_trained_model_tells_its_recipe_and_an_imported_one_its_source(
    written: Callable[..., Path],
) -> None:
    trained = info(written())["training"]
    assert (trained["origin"], trained["iterations"], trained["crop"]) == ("trained", 70, 96)
    assert (trained["dice_weight"], trained["class_weights"]) == (0.5, {"road": 2})
    assert trained["augmentation"]["rot90"] is False
    imported = info(
        written(data_fingerprint="imported from torchvision, checkpoint sha256 00ff", validation_miou=None)
    )["training"]
    assert imported["source"] == "torchvision, checkpoint sha256 00ff"
    assert imported.keys() == trained.keys()
    assert {key for key, value in imported.items() if value is not None} == {"origin", "source"}


@pytest.mark.parametrize(("halo", "covers"), [(320, True), (16, False), (None, False)])
def test_the_halo_is_the_one_that_predict_uses(
    written: Callable[..., Path], halo: int | None, covers: bool
) -> None:
    path = written(prediction=PredictionSettings(tile_size=960, halo=halo))
    told = info(path)
    shape, _ = choose_tile(Ensemble.of([load_model(path)], [path]), tile_size=None, halo=None, overlap=None)
    prediction = told["prediction"]
    assert (prediction["tile_size"], prediction["halo"]) == (shape.side, shape.halo)
    assert prediction["overlap"] == shape.overlap
    assert prediction["halo_covers"] is covers
    assert prediction["problem"] is None


def test_a_tile_size_with_which_predict_would_stop_is_told(written: Callable[..., Path]) -> None:
    card = info(written(prediction=PredictionSettings(tile_size=250)))
    assert "try 240 or 256" in card["prediction"]["problem"]
    assert card["prediction"]["halo"] is card["prediction"]["halo_covers"] is None


def test_a_network_that_sees_everything_says_why(written: Callable[..., Path]) -> None:
    settings = ModelSettings(architecture="pspnet", head_channels=8, auxiliary=False)
    network = info(written(settings))["network"]
    assert network["parameters"]["auxiliary"] == 0
    field = network["receptive_field"]
    assert field["side"] is field["rows"] is field["cols"] is field["halo"] is None
    assert field["reason"] == "pooling over the whole map"
