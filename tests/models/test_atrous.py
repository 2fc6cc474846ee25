"""Atrous consistency: shared weights at several output strides agree where the lattices meet, and what breaks it.

In the spirit of deeplab2's test of the same name. Source: Chen et al. 2017, Rethinking Atrous Convolution, section 3.1.
"""

from __future__ import annotations

import copy

import pytest
import torch
from laws import few
from torch import Tensor, nn

from aerial_seg.errors import SettingsError
from aerial_seg.models.build import build_network
from aerial_seg.models.network import DilatedNetwork, Network
from aerial_seg.recipe.model import ModelSettings

SIDE = 65
CONTRACTED = {"dilation_placement": "contracted", "encoder": "resnet50", "head_channels": 8}


def network(output_stride: int, weights: Network | None = None, **choices: object) -> DilatedNetwork:
    """In float64, batch norms with gain 1 and statistics of their own; with the weights of another if given."""
    torch.manual_seed(0)
    settings = ModelSettings.model_validate(CONTRACTED | {"output_stride": output_stride} | choices)
    made = build_network(settings, bands=3, classes=2).double().eval()
    assert isinstance(made, DilatedNetwork)
    if weights is not None:
        made.load_state_dict(weights.state_dict())
        return made
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return made


def photograph(side: int = SIDE) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def apart(dense: Tensor, sparse: Tensor) -> float:
    """Largest difference on the cells that both lattices have, relative to the largest value."""
    step = (dense.shape[-1] - 1) // (sparse.shape[-1] - 1)
    return ((dense[:, :, ::step, ::step] - sparse).abs().max() / sparse.abs().max()).item()


@pytest.mark.parametrize("side", [SIDE, pytest.param(225, marks=pytest.mark.slow)])
@pytest.mark.parametrize("encoder", ["resnet50", pytest.param("resnet101", marks=pytest.mark.slow)])
def test_the_backbone_is_consistent_where_contracted_and_not_where_full(encoder: str, side: int) -> None:
    for placement in ("contracted", "full"):
        choices = {"architecture": "fcn", "encoder": encoder, "dilation_placement": placement}
        shared = network(32, **choices)
        with torch.inference_mode():
            sparse = shared.encoder(photograph(side))[-1]
            for stride in (16, 8, 4):
                dense = network(stride, shared, **choices).encoder(photograph(side))[-1]
                assert (apart(dense, sparse) < 1e-10) == (placement == "contracted"), (stride, placement)
                assert placement == "contracted" or apart(dense, sparse) > 0.01


def test_full_placement_is_consistent_where_the_1x1_strides() -> None:
    choices = {"architecture": "fcn", "stride_placement": "1x1", "dilation_placement": "full"}
    shared = network(32, **choices)
    sparse = shared.encoder(photograph())[-1]
    assert apart(network(8, shared, **choices).encoder(photograph())[-1], sparse) < 1e-10


def test_last_unit_striding_is_consistent() -> None:
    choices = {"architecture": "fcn", "stride_placement": "last-unit"}
    shared = network(32, **choices)
    sparse = shared.encoder(photograph())[-1]
    for stride in (16, 8):
        assert apart(network(stride, shared, **choices).encoder(photograph())[-1], sparse) < 1e-10


@pytest.mark.parametrize("multi_grid", few([(1, 2), ()], quick=1))
def test_the_cascade_is_consistent_up_to_stride_256(multi_grid: tuple[int, ...]) -> None:
    """Rates of block4 to block7 at stride 16 are 2, 4, 8, 16 times the unit rates."""
    choices = {"architecture": "deeplabv3-cascade", "encoder": "resnet18", "head_channels": None}
    shared = network(256, **choices, multi_grid=multi_grid)
    image = photograph(257)
    with torch.inference_mode():
        sparse = shared(image)
        assert sparse.shape[2:] == (2, 2)
        for stride in (128, 32, 16):
            dense = network(stride, shared, **choices, multi_grid=multi_grid)
            assert apart(dense(image), sparse) < 1e-10, stride
            if stride == 16:
                stages = [dense.encoder.layer4, *dense.head.blocks]
                units = multi_grid or (1, 1)
                for stage, rate in zip(stages, (2, 4, 8, 16), strict=True):
                    # Contracted: a stage's first 3×3 has the rate of the stage before.
                    rates = [conv.dilation[0] for unit in stage for conv in (unit.conv1, unit.conv2)]
                    assert rates == [rate // 2 * units[0], rate * units[0], rate * units[1], rate * units[1]]


def test_full_placement_breaks_the_cascade() -> None:
    choices = {
        "architecture": "deeplabv3-cascade", "encoder": "resnet18", "head_channels": None, "dilation_placement": "full"
    }  # fmt: skip
    shared = network(32, **choices)
    image = photograph(129)
    with torch.inference_mode():
        assert apart(network(16, shared, **choices)(image), shared(image)) > 0.01


def at_strides(shared: DilatedNetwork, strides: tuple[int, ...]) -> dict[int, DilatedNetwork]:
    """Copies whose output stride was changed afterwards, heads and all."""
    found = {}
    for stride in strides:
        found[stride] = copy.deepcopy(shared)
        found[stride].set_output_stride(stride)
    return found


def test_fcn_with_its_heads_dilation_scaled_is_consistent() -> None:
    shared = network(16, architecture="fcn")
    changed = at_strides(shared, (8, 4))
    image = photograph(65)
    with torch.inference_mode():
        for stride, dense in changed.items():
            rates = {conv.dilation[0] for conv in dense.head.modules() if isinstance(conv, nn.Conv2d)}
            assert rates == {16 // stride, 1}, "1×1 convolutions keep theirs"
            assert apart(dense(image), shared(image)) < 1e-10
    assert apart(network(8, shared, architecture="fcn")(image), shared(image)) > 0.01, (
        "rates of the head matter"
    )


def test_aspp_without_image_pooling_is_consistent_and_image_pooling_breaks_it() -> None:
    shared = network(16, architecture="deeplabv3")
    with torch.inference_mode():
        image = photograph(65)
        sparse = [branch(shared.encoder(image)[-1]) for branch in shared.head.branches]
        for dense in at_strides(shared, (8, 4)).values():
            pairs = zip(dense.head.branches, sparse, strict=True)
            differences = [apart(branch(dense.encoder(image)[-1]), before) for branch, before in pairs]
            assert max(differences[:-1]) < 1e-10
            assert differences[-1] > 1e-4


def test_going_there_and_back_changes_nothing() -> None:
    shared = network(16, architecture="deeplabv3", multi_grid=(1, 2, 4))
    image = photograph()
    with torch.inference_mode():
        before = shared(image)
        shared.set_output_stride(4)
        assert shared(image).shape[-1] == 17
        shared.set_output_stride(16)
        assert torch.equal(shared(image), before)


def test_a_refused_stride_leaves_the_network_as_it_was() -> None:
    shared = network(16, architecture="fcn")
    image = photograph()
    with torch.inference_mode():
        before = shared(image)
        with pytest.raises(SettingsError, match="cannot look equally far"):
            shared.set_output_stride(32)
        assert torch.equal(shared(image), before)
        assert shared.geometry.output_stride == 16
