"""The whole-image forward that validation and the benchmark protocols share."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from aerial_seg.bands import Band
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings


def trained(network: Network, bias: tuple[float, float]) -> TrainedModel:
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(),
        legend=make_legend({0: "background", 1: "road"}),
        bands=tuple(Band(name=f"band {b}", dtype="uint8", mean=0, std=1, p2=0, p98=9) for b in range(2)),
        gsd=None,
        class_bias=bias,
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    return TrainedModel(network, card, "0" * 64)


@pytest.mark.parametrize("architecture", ["fcn", "Unet"])
def test_a_prepared_forward_gives_the_folded_networks_logits_with_the_class_bias(architecture: str) -> None:
    torch.manual_seed(6)
    network = build_network(ModelSettings(architecture=architecture, encoder="resnet18"), bands=2, classes=2)
    model = trained(network.eval(), bias=(0.0, 0.75))
    prepared = PaddedForward.prepared(model, EngineSettings("auto", "fp32", "cpu"))
    assert prepared.any_side == network.any_side
    assert prepared.runtime is not None
    assert (prepared.runtime.engine, prepared.runtime.batch_size) == ("eager", 1)
    bias = torch.tensor([0.0, 0.75])[None, :, None, None]
    for height, width in ((37, 53), (65, 127)):
        image = torch.randn(1, 2, height, width)
        high, wide = map(prepared.run_side, (height, width))
        padded = pad(image, (0, wide - width, 0, high - height))
        with torch.inference_mode():
            alone = network(padded.to(memory_format=torch.channels_last)) + bias
        # The prepared network's batch norms are folded into its convolutions: the last digits may differ.
        torch.testing.assert_close(prepared.cells(image), alone, rtol=1e-3, atol=1e-3)
