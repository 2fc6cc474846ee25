from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.predictor import Predictor
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.device import pick_device
from aerial_seg.models.file import ModelCard, load_model, read_card, save_model
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings


def make_card(**changes: object) -> ModelCard:
    facts: dict[str, object] = {
        "tool_version": "test",
        "recipe": Recipe(model=ModelSettings(head_channels=8, output_stride=16)),
        "legend": make_legend({0: "background", 1: "building"}, background=[0]),
        "bands": tuple(Band(name=n, dtype="uint8", mean=9, std=2, p2=1, p98=20) for n in "rgb"),
        "gsd": 0.25,
        "class_bias": (0.0, 0.5),
        "iteration": 3,
        "validation_miou": 0.5,
        "data_fingerprint": "f",
    }
    return ModelCard.model_validate(facts | changes)


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    card = make_card()
    path = tmp_path / "model.safetensors"
    save_model(build_network(card.recipe.model, bands=3, classes=2).state_dict(), card, path)
    return path


def test_a_model_file_returns_card_and_weights(model_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(make_card().recipe.model, bands=3, classes=2)
    loaded = load_model(model_path)
    assert loaded.card == make_card() == read_card(model_path)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, loaded.network.state_dict()[name])
    assert not loaded.network.training
    assert list(model_path.parent.iterdir()) == [model_path]


@pytest.mark.parametrize("keep", [0, 4, 100, 2000, -1])
def test_a_truncated_file_is_told_from_a_model(model_path: Path, keep: int) -> None:
    whole = model_path.read_bytes()
    model_path.write_bytes(whole[:keep])
    with pytest.raises(InputError, match=r"cut off|not a safetensors|damaged"):
        load_model(model_path)


def test_foreign_files_are_told(tmp_path: Path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("not a model at all, just some text")
    with pytest.raises(InputError, match="not a safetensors"):
        load_model(text)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(InputError, match="another tool"):
        load_model(foreign)
    with pytest.raises(InputError, match="does not exist"):
        load_model(tmp_path / "absent.safetensors")


def test_missing_and_surplus_weights_are_refused(model_path: Path) -> None:
    card = make_card()
    weights = build_network(card.recipe.model, bands=3, classes=2).state_dict()
    for change in ("missing", "surplus"):
        changed = dict(weights)
        changed.pop(next(iter(changed))) if change == "missing" else changed.update(extra=torch.zeros(1))
        save_file(changed, model_path, metadata={"aerial_seg": card.model_dump_json()})
        with pytest.raises(InputError, match="does not hold the weights"):
            load_model(model_path)


def test_a_loaded_model_predicts(model_path: Path) -> None:
    model = load_model(model_path)
    settings = EngineSettings(engine="eager", precision="fp32", device="cpu")
    predictor = Predictor(model, settings=settings, batch_size=2, side=64, tiles=1)
    image = np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)
    logits = predictor.run([image])[0]
    with torch.inference_mode():
        bare = model.network(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_allclose(logits[..., 0], bare[0], atol=1e-5)
    np.testing.assert_allclose(logits[..., 1], bare[1] + 0.5, atol=1e-5)


def test_logits_that_are_no_numbers_are_told_with_the_weight_that_may_cause_them(model_path: Path) -> None:
    """A finite weight of 3e38 made every pixel class 0, exit 0."""
    model = load_model(model_path)
    name, weight = [
        (n, w) for n, w in model.network.named_parameters() if n.startswith("head") and w.ndim == 4
    ][-1]
    with torch.no_grad():
        weight[0] = 3e38
    settings = EngineSettings(engine="eager", precision="fp32", device="cpu")
    predictor = Predictor(model, settings=settings, batch_size=1, side=64, tiles=1)
    image = 10 * np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)
    for _ in range(2):  # of several scenes each is told
        with pytest.raises(
            InputError,
            match=rf"no numbers or beyond 1e\+10, .*largest weight is 3e\+38, in {re.escape(name)}: ",
        ):
            predictor.run([image])


def test_devices_that_are_not_there_are_told() -> None:
    assert pick_device("cpu").type == "cpu"
    for name in ("cuda:99", "tpu", "mps:9"):
        with pytest.raises(Exception, match=r"use auto, cpu|use cpu or auto"):
            pick_device(name)
