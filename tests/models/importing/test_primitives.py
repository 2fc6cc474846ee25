"""The layers that the references are made of compute what torchvision's ResNet computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from tests.models.importing.conftest import Agreement, Layers, Weights

PLACEMENTS = {
    8: ([False, True, True], (1, 2, 1, 1), (1, 1, 2, 4)),
    16: ([False, False, True], (1, 2, 2, 1), (1, 1, 1, 2)),
    32: ([False, False, False], (1, 2, 2, 2), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("output_stride", PLACEMENTS)
def test_residual_layers_are_those_of_torchvision(
    output_stride: int,
    weights: type[Weights],
    layers: Layers,
    agreement: Agreement,
    images: Callable[[Sequence[int]], Tensor],
) -> None:
    replaced, strides, dilations = PLACEMENTS[output_stride]
    random = weights(5)
    random.convolution("conv1", 64, 3, 7)
    random.normalisation("bn1", 64)
    random.residual_layers("", 50)
    with torch.device("meta"):
        network = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=replaced)
    network.fc = torch.nn.Identity()
    network.load_state_dict(random.state, assign=True)
    network.eval()
    image = images((2, 33, 41))
    with torch.inference_mode():
        x = layers.unit(random.state, ("conv1", "bn1"), image, stride=2, padding=3)
        x = functional.max_pool2d(x, 3, 2, 1)
        wanted = network.maxpool(network.relu(network.bn1(network.conv1(image))))
        agreement.equal(x, wanted)
        for layer, (blocks, stride, dilation) in enumerate(
            zip((3, 4, 6, 3), strides, dilations, strict=True), 1
        ):
            rates = [max(1, dilation // 2)] + [dilation] * (blocks - 1)
            x = layers.residual_layer(random.state, f"layer{layer}", x, stride=stride, dilations=rates)
            wanted = getattr(network, f"layer{layer}")(wanted)
            agreement.equal(x, wanted)
    assert 0.1 < float(x.std()) < 10  # neither vanished nor grown: a tolerance of 1e-10 means something


def test_agreement_notices_what_is_small(agreement: Agreement) -> None:
    wanted = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(1, 3, 2, 2)
    agreement.equal(wanted.clone(), wanted)
    for wrong in (wanted + 1e-9, wanted[:, :, :1], wanted.float(), wanted * float("nan")):
        with pytest.raises(AssertionError):
            agreement.equal(wrong, wanted)
