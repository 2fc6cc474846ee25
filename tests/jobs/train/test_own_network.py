"""A network of one's own: trained, gone on with, loaded with its class, and refused by name without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from own_networks import Small, plain

from aerial_seg.errors import AerialSegError, InputError, OutputError, SettingsError
from aerial_seg.inference.segmenter import load
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.models.file import load_model, read_card
from aerial_seg.models.network import OwnNetwork
from aerial_seg.recipe.document import Recipe
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.callbacks import Callback, Step

ON_CPU = TrainSettings(device="cpu")
GEOMETRY = ModelGeometry(4, 4, 4)


class Ending(Callback):
    """Asks the run to end after an update."""

    def on_step(self, step: Step) -> None:
        """The fourth."""
        if step.iteration == 4:
            raise KeyboardInterrupt


def test_a_network_of_ones_own_is_trained_gone_on_with_and_loaded(
    chips: Path, small: Callable[..., Recipe], sums: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    weights = Small().state_dict()

    def new() -> Small:
        network = Small()
        network.load_state_dict(weights)
        return network

    recipe = small(learning_rate="1e-2")
    whole = train(chips, recipe, tmp_path / "whole", ON_CPU, network=new())
    with pytest.raises((AerialSegError, KeyboardInterrupt)):
        train(chips, recipe, tmp_path / "torn", ON_CPU, network=new(), callbacks=[Ending()])
    with pytest.raises(OutputError, match="own_network"):
        train(chips, recipe, tmp_path / "torn", ON_CPU)
    torn = train(chips, recipe, tmp_path / "torn", ON_CPU, network=Small())
    assert sums(torn.run) == sums(whole.run)

    assert read_card(whole.model).own_network == "Small"
    model = load_model(whole.model, network=Small())
    assert not model.network.training
    image = np.random.default_rng(0).integers(0, 255, (3, 70, 90), dtype=np.uint8)
    classes = load(whole.model, device="cpu", network=Small())(image).classes
    assert classes.shape == (70, 90)
    for attempt in (
        lambda: load_model(whole.model),
        lambda: predict(whole.model, chips.parent / "image.tif", tmp_path / "mask.tif"),
    ):
        with pytest.raises(
            InputError, match=r"weights of Small, a network of one's own .* load_model\(path, network=…\)"
        ):
            attempt()
    with pytest.raises(InputError, match="weights of Small, but network is a Sequential"):
        load_model(whole.model, network=OwnNetwork(plain(), GEOMETRY))


def test_a_plain_module_is_trained_with_its_geometry(
    chips: Path, small: Callable[..., Recipe], tmp_path: Path
) -> None:
    report = train(chips, small(iterations=2), tmp_path / "run", ON_CPU, network=plain(), geometry=GEOMETRY)
    network = OwnNetwork(plain(), GEOMETRY)
    load_model(report.model, network=network)
    with pytest.raises(InputError, match="in Python, give a new one"):
        load_model(report.model)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": plain()}, r"network is a Sequential, wanted with geometry=ModelGeometry\(…\)"),
        ({"network": Small(), "geometry": GEOMETRY}, "network is a Small, which has its geometry"),
        ({"geometry": GEOMETRY}, "none is given; leave it out"),
        (
            {"network": Small(classes=5)},
            r"logits of shape \(1, 5, 8, 8\) .* wanted \(1, 2, 8, 8\): 2 classes",
        ),
        (
            {"network": plain(), "geometry": ModelGeometry(8, 8, 8)},
            r"wanted \(1, 2, 4, 4\): .* logit stride 8",
        ),
    ],
)
def test_what_cannot_be_trained_is_told(
    given: dict, message: str, chips: Path, small: Callable[..., Recipe], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        train(chips, small(), tmp_path / "run", ON_CPU, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_card_of_a_recipes_network_is_written_as_before(
    chips: Path, small: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Older versions read it: they refuse keys that they do not know."""
    report = train(chips, small(iterations=1), tmp_path / "run", ON_CPU)
    assert b"own_network" not in report.model.read_bytes()
    assert read_card(report.model).own_network is None
    with pytest.raises(InputError, match="weights of the fcn of its recipe, but network is a Small"):
        load_model(report.model, network=Small())
