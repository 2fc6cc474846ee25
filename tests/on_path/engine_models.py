"""Models to be run by engines."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aerial_seg.bands import Band
from aerial_seg.inference.engines.choose import COMPILE_PAYS, EngineSettings
from aerial_seg.inference.predictor import Predictor
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings

CPU = torch.device("cpu")
BIAS = (0.25, -0.5, 0.0)
FP32 = EngineSettings(engine="eager", precision="fp32", device="cpu")
SMALL = ModelSettings(architecture="deeplabv3", output_stride=16, head_channels=8)


def make_model(settings: ModelSettings = SMALL) -> TrainedModel:
    """A network of three bands and three classes whose batch norms have something to say."""
    torch.manual_seed(0)
    network = build_network(settings.model_copy(update={"weights": "none"}), bands=3, classes=3).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=settings),
        legend=make_legend({0: "background", 1: "building", 2: "road"}, background=[0]),
        bands=tuple(Band(name=n, dtype="uint8", mean=9, std=2, p2=1, p98=20) for n in "rgb"),
        gsd=0.25,
        class_bias=BIAS,
        iteration=3,
        validation_miou=0.5,
        data_fingerprint="f",
    )
    return TrainedModel(network, card, "0" * 64)


def images(count: int, side: int = 64) -> list[NDArray[np.float32]]:
    return [np.random.default_rng(k).normal(size=(3, side, side)).astype(np.float32) for k in range(count)]


def predictor(model: TrainedModel, settings: EngineSettings = FP32, *, batch_size: int = 2) -> Predictor:
    return Predictor(model, settings=settings, batch_size=batch_size, side=64, tiles=COMPILE_PAYS)
