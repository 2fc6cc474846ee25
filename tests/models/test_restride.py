from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from aerial_seg.bands import Band
from aerial_seg.errors import SettingsError
from aerial_seg.legend import make_legend
from aerial_seg.models.dilation import dilate
from aerial_seg.models.file import ModelCard, TrainedModel, load_model, save_model
from aerial_seg.models.network import build_network
from aerial_seg.models.restride import with_output_stride
from aerial_seg.recipe import ModelSettings, Recipe


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


def encoder_rates(model: TrainedModel) -> list[set[tuple[int, int]]]:
    stages = (getattr(model.network.encoder, name) for name in ("layer2", "layer3", "layer4"))
    return [{m.dilation for m in stage.modules() if isinstance(m, nn.Conv2d)} for stage in stages]


@pytest.mark.parametrize(
    ("stride", "rates", "encoder"),
    [(32, [3, 6, 9], (1, 1, 1)), (8, [12, 24, 36], (1, 2, 4)), (4, [24, 48, 72], (2, 4, 8))],
)
def test_silent_error_15_all_rates_follow_the_output_stride_and_the_weights_stay(
    stride: int, rates: list[int], encoder: tuple[int, ...]
) -> None:
    model = trained(architecture="deeplabv3")
    assert aspp_rates(model) == [6, 12, 18]
    other = with_output_stride(model, stride)
    assert aspp_rates(other) == rates
    assert encoder_rates(other) == [{(rate, rate)} for rate in encoder]
    assert other.network.geometry.output_stride == other.network.geometry.logit_stride == stride
    assert other.card.recipe.model.output_stride == stride
    assert not other.network.training
    before, after = model.network.state_dict(), other.network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert aspp_rates(model) == [6, 12, 18]
    assert model.card.recipe.model.output_stride == 16


def test_silent_error_15_only_rescaled_rates_look_as_far_as_in_training() -> None:
    """At half the stride an ASPP branch gives the old values on every second cell; with the old rates it does not."""
    model = trained(architecture="deeplabv3")
    other = with_output_stride(model, 8)
    dense = torch.randn(1, 512, 49, 49, generator=torch.Generator().manual_seed(0)).double()
    sparse = dense[:, :, ::2, ::2]
    for old, new in zip(model.network.head.branches[1:4], other.network.head.branches[1:4], strict=True):
        old, new = old.double(), new.double()
        torch.testing.assert_close(new(dense)[:, :, ::2, ::2], old(sparse))
        assert (old(dense)[:, :, ::2, ::2] - old(sparse)).abs().max() > 0.01


def test_silent_error_15_changing_strides_alone_is_another_network() -> None:
    model = trained(architecture="deeplabv3")
    image = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        right = with_output_stride(model, 8).network(image)
        dilate(model.network.encoder, 8)
        wrong = model.network(image)
    assert right.shape == wrong.shape == (1, 2, 12, 16)
    assert (right - wrong).abs().max() > 0.01 * right.abs().max()


@pytest.mark.parametrize("architecture", ["fcn", "pspnet"])
def test_other_heads_of_ours_follow_too(architecture: str) -> None:
    other = with_output_stride(trained(architecture=architecture), 8)
    assert other.network(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 8, 8)


def test_the_same_stride_is_the_same_model() -> None:
    model = trained()
    assert with_output_stride(model, 16) is model


def test_a_model_at_another_stride_can_be_saved_and_loaded(tmp_path: Path) -> None:
    other = with_output_stride(trained(), 8)
    save_model(other.network.state_dict(), other.card, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.network(image), other.network(image))


def test_smps_networks_cannot_be_rebuilt() -> None:
    model = trained(architecture="Unet", head_channels=None)
    with pytest.raises(
        SettingsError, match=r"8 is asked for, but Unet has 32 .*protocol without output_stride"
    ):
        with_output_stride(model, 8)


@pytest.mark.parametrize(("trained_at", "asked"), [(16, 32), (32, 16)])
def test_rates_that_cannot_follow_are_told(trained_at: int, asked: int) -> None:
    model = trained(architecture="deeplabv3", aspp_rates=(2, 3, 5), output_stride=trained_at)
    with pytest.raises(
        SettingsError, match=r"ASPP rates 3, 5 \(at output stride 16\) are no whole numbers at 32"
    ):
        with_output_stride(model, asked)
    assert aspp_rates(with_output_stride(trained(aspp_rates=(2, 3, 5)), 8)) == [4, 6, 10]


def test_an_unknown_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="output_stride"):
        with_output_stride(trained(), 12)
