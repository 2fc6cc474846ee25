from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from aerial_seg.bands import Band
from aerial_seg.errors import SettingsError
from aerial_seg.legend import make_legend
from aerial_seg.models.backbone.deformable import DeformableConv
from aerial_seg.models.backbone.dilation import set_rate
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.models.restride import with_output_stride
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.upsample import PixelAxis


def trained(**settings: object) -> TrainedModel:
    """A network with its first weights and with running statistics that are not the initial ones."""
    torch.manual_seed(0)
    facts = {"head_channels": 8, "output_stride": 16, "weights": "none"} | settings
    model = ModelSettings.model_validate(facts)
    network = build_network(model, bands=3, classes=2)
    network.train()(torch.randn(2, 3, 64, 64))
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=model),
        legend=make_legend({0: "background", 1: "building"}, background=[0]),
        bands=tuple(Band(name=n, dtype="uint8", mean=9, std=2, p2=1, p98=20) for n in "rgb"),
        gsd=None,
        class_bias=(0.0, 0.5),
        iteration=3,
        validation_miou=None,
        data_fingerprint="f",
    )
    return TrainedModel(network=network.eval(), card=card, sha256="s")


def aspp_rates(model: TrainedModel) -> list[int]:
    convs = [m for m in model.network.head.branches.modules() if isinstance(m, nn.Conv2d)]
    return [conv.dilation[0] for conv in convs if conv.kernel_size == (3, 3)]


def in_float64(model: TrainedModel) -> Network:
    return copy.deepcopy(model.network).double()


def photograph(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("stride", "rates"), [(32, [3, 6, 9]), (8, [12, 24, 36]), (4, [24, 48, 72])])
def test_silent_error_15_all_rates_follow_the_output_stride_and_the_weights_stay(
    stride: int, rates: list[int]
) -> None:
    model = trained(architecture="deeplabv3")
    assert aspp_rates(model) == [6, 12, 18]
    other = with_output_stride(model, stride)
    assert aspp_rates(other) == rates
    assert other.network.geometry.output_stride == other.network.geometry.logit_stride == stride
    assert not other.network.training
    before, after = model.network.state_dict(), other.network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert aspp_rates(model) == [6, 12, 18]
    assert other.card is model.card


# On the finest lattice a ResNet-50 takes four times as long, and has nothing that its coarser ones lack.
@pytest.mark.parametrize(
    ("encoder", "at", "asked"),
    [
        *(("resnet18", at, asked) for at, asked in ((16, 8), (16, 4), (8, 4), (32, 8))),
        *(("resnet50", at, asked) for at, asked in ((16, 8), (32, 8))),
        *(pytest.param("resnet50", at, asked, marks=pytest.mark.slow) for at, asked in ((16, 4), (8, 4))),
    ],
)
def test_silent_error_15_cells_that_both_lattices_share_have_the_same_features_and_logits(
    encoder: str, at: int, asked: int
) -> None:
    """Atrous consistency, on sides that no stride divides. Source: Chen et al. 2017, section 3.1."""
    model = trained(architecture="fcn", encoder=encoder, output_stride=at)
    other = with_output_stride(model, asked)
    image, step = photograph(65, 97), at // asked
    with torch.inference_mode():
        old, new = in_float64(model), in_float64(other)
        features: list[torch.Tensor] = []
        for network in (new, old):
            network.encoder.register_forward_hook(lambda _, __, stages: features.append(stages[-1]))
        logits = [network(image) for network in (new, old)]
        assert len(features) == 2
        for fine, coarse in (features, logits):
            torch.testing.assert_close(fine[:, :, ::step, ::step], coarse, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("at", "asked"), [(8, 16), (4, 32)])
def test_a_coarser_lattice_has_a_part_of_the_finer_ones_features(at: int, asked: int) -> None:
    model = trained(architecture="deeplabv3", output_stride=at)
    other = with_output_stride(model, asked)
    image, step = photograph(65, 97), asked // at
    with torch.inference_mode():
        dense, sparse = (in_float64(one).encoder(image)[-1] for one in (model, other))
    torch.testing.assert_close(dense[:, :, ::step, ::step], sparse, rtol=1e-9, atol=1e-9)


def test_a_head_of_rate_1_cannot_look_less_far() -> None:
    with pytest.raises(
        SettingsError, match=r"the rate 1 of head\..* would become 0\.5; .*train a model at that"
    ):
        with_output_stride(trained(architecture="fcn", output_stride=8), 16)


def test_silent_error_15_building_at_the_other_stride_alone_is_another_network() -> None:
    """What the rebuilt network's own rates would give: the first block of a dilated stage looks twice as far."""
    model = trained(architecture="fcn", encoder="resnet50")
    plain = build_network(
        model.card.recipe.model.model_copy(update={"output_stride": 8}), bands=3, classes=2
    ).eval()
    plain.load_state_dict(model.network.state_dict())
    image = photograph(65, 97)
    with torch.inference_mode():
        wrong = plain.double()(image)[:, :, ::2, ::2]
        right = in_float64(model)(image)
    assert (wrong - right).abs().max() > 0.01 * right.abs().max()


def test_aspp_branches_are_consistent_but_for_the_image_pooling() -> None:
    model = trained(architecture="deeplabv3")
    other = with_output_stride(model, 8)
    image = photograph(65, 97)
    with torch.inference_mode():
        old, new = in_float64(model), in_float64(other)
        sparse, dense = old.encoder(image)[-1], new.encoder(image)[-1]
        for k, (before, after) in enumerate(zip(old.head.branches, new.head.branches, strict=True)):
            difference = (after(dense)[:, :, ::2, ::2] - before(sparse)).abs().max()
            assert (difference < 1e-9) == (k < 4), f"branch {k} differs by {difference}"


@pytest.mark.parametrize(("at", "asked"), [(16, 8), (16, 4), (8, 16), (4, 16)])
def test_a_cell_keeps_the_place_that_it_was_trained_for(at: int, asked: int) -> None:
    """Feature cell i lies at pixel s·i; what was learnt at s·i + (t−1)/2 must not move to s·i + (s−1)/2."""
    other = with_output_stride(trained(architecture="deeplabv3", output_stride=at), asked)
    assert other.network.geometry.cell_span == at
    axis = PixelAxis.of(other.network.geometry, run=320, pixels=320)
    where = axis.low + axis.share
    inside = slice(at, 320 - 2 * max(at, asked))
    pixels = np.arange(320)[inside]
    np.testing.assert_allclose(where[inside] * asked + (at - 1) / 2, pixels, atol=1e-4)


@pytest.mark.parametrize("architecture", ["fcn", "pspnet"])
def test_other_heads_of_ours_follow_too(architecture: str) -> None:
    other = with_output_stride(trained(architecture=architecture), 8)
    assert other.network(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 8, 8)


def test_the_same_stride_is_the_same_model() -> None:
    model = trained()
    assert with_output_stride(model, 16) is model


def test_smps_networks_cannot_be_rebuilt() -> None:
    model = trained(architecture="Unet", head_channels=None)
    with pytest.raises(
        SettingsError, match=r"8 is asked for, but Unet has 32 .*protocol without output_stride"
    ):
        with_output_stride(model, 8)


def test_rates_that_cannot_follow_are_told() -> None:
    model = trained(architecture="deeplabv3", aspp_rates=(2, 3, 5))
    with pytest.raises(SettingsError, match=r"the rate 3 of head\..* would become 1\.5"):
        with_output_stride(model, 32)
    assert aspp_rates(with_output_stride(model, 8)) == [4, 6, 10]


def test_an_unknown_stride_is_refused() -> None:
    with pytest.raises(SettingsError, match="12 is asked for, but the network can have 4, 8, 16, 32"):
        with_output_stride(trained(), 12)


@pytest.mark.parametrize("architecture", ["deeplabv2", "deeplabv3"])
@pytest.mark.parametrize(("at", "asked"), [(16, 8), (8, 16), (8, 4)])
def test_networks_that_round_sides_up_follow_too(architecture: str, at: int, asked: int) -> None:
    """A side of 65 cells is that of stride 8 with its border; no cell is 7 pixels."""
    model = trained(architecture=architecture, ceil_mode=True, output_stride=at)
    assert with_output_stride(model, asked).network.geometry.output_stride == asked


def test_a_refused_stride_leaves_deformable_convolutions_as_they_were() -> None:
    network = trained(architecture="deeplabv3", deformable=True, head="default", output_stride=8).network
    reaches = [m.reach for m in network.modules() if isinstance(m, DeformableConv)]
    assert reaches
    set_rate(network.head.branches[1][0], 3)
    with pytest.raises(SettingsError, match="cannot look equally far"):
        network.set_output_stride(16)
    assert [m.reach for m in network.modules() if isinstance(m, DeformableConv)] == reaches


@pytest.mark.parametrize("architecture", ["fcn", "deeplabv3", "deeplabv3+"])
def test_a_network_built_for_weights_of_another_stride_is_theirs_brought_to_its_own(
    architecture: str,
) -> None:
    """model.trained_stride: logits right after the change, multi-grid and atrous rates included, to the bit."""
    facts = {"architecture": architecture, "head_channels": 8, "multi_grid": (1, 2), "output_stride": 16}
    model = trained(**facts)
    wanted = with_output_stride(model, 8)
    settings = ModelSettings.model_validate(facts | {"output_stride": 8, "trained_stride": 16})
    network = build_network(settings, bands=3, classes=2).eval()
    network.load_state_dict(model.network.state_dict())
    image = photograph(64, 96).float()
    with torch.inference_mode():
        assert torch.equal(network(image), wanted.network(image))
    # Training teaches a cell its own pixels, so its tiles are stitched as any network's.
    assert network.geometry == replace(wanted.network.geometry, cell_span=None)
