"""One contract battery for every network, and the papers' structure where it can be counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from aerial_seg.errors import SettingsError
from aerial_seg.models.backbone.dilation import Striding, dilate_stages
from aerial_seg.models.backbone.stages import stages_of
from aerial_seg.models.build import build_network
from aerial_seg.models.heads.aspp import ASPPHead
from aerial_seg.models.heads.blocks import ImagePooling
from aerial_seg.models.heads.fcn import FCNHead
from aerial_seg.models.heads.psp import PSPHead
from aerial_seg.recipe.model import ModelSettings

OWN = [
    ModelSettings(architecture=name, output_stride=stride, head_channels=16)
    for name in ("fcn", "deeplabv3", "pspnet")
    for stride in (4, 8, 16, 32)
]
SMP = [ModelSettings(architecture=name) for name in ("Unet", "DeepLabV3Plus", "FPN")]


@pytest.mark.parametrize("settings", [*OWN, *SMP], ids=lambda s: f"{s.architecture}-{s.output_stride}")
def test_every_network_keeps_its_word(settings: ModelSettings) -> None:
    torch.manual_seed(0)
    network = build_network(settings, bands=4, classes=3).eval()
    geometry = network.geometry
    side = geometry.nearest_valid_sides(64)[1]
    image = torch.randn(2, 4, side, side + geometry.origin_step)
    with torch.no_grad():
        logits = network(image)
        main, auxiliary = network.forward_training(image)
    assert logits.shape == (2, 3, geometry.cells(side), geometry.cells(side + geometry.origin_step))
    assert torch.equal(logits, main)
    if auxiliary is not None:
        assert auxiliary.shape[:2] == (2, 3)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("settings", [OWN[1], OWN[5], OWN[9], SMP[0]], ids=lambda s: s.architecture)
def test_every_parameter_gets_a_gradient(settings: ModelSettings) -> None:
    network = build_network(settings, bands=3, classes=3).train()
    main, auxiliary = network.forward_training(torch.randn(2, 3, 64, 64))
    loss = main.square().mean() + (auxiliary.square().mean() if auxiliary is not None else 0)
    loss.backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not without


@pytest.mark.parametrize("settings", [OWN[1], OWN[5], OWN[9]], ids=lambda s: s.architecture)
def test_a_single_image_can_be_trained_on(settings: ModelSettings) -> None:
    network = build_network(settings, bands=3, classes=2).train()
    main, _ = network.forward_training(torch.randn(1, 3, 64, 64))
    main.sum().backward()


@pytest.mark.parametrize(
    ("stride", "rates"), [(32, (1, 1, 1)), (16, (1, 1, 2)), (8, (1, 2, 4)), (4, (2, 4, 8))]
)
def test_dilation_rates_follow_the_output_stride(stride: int, rates: tuple[int, ...]) -> None:
    network = build_network(ModelSettings(output_stride=stride), bands=3, classes=2)
    for name, rate in zip(("layer2", "layer3", "layer4"), rates, strict=True):
        convs = [m for m in getattr(network.encoder, name).modules() if isinstance(m, nn.Conv2d)]
        assert {conv.dilation for conv in convs} == {(rate, rate)}
        assert max(conv.stride[0] for conv in convs) == (1 if rate > 1 else 2)


def test_dilated_features_are_the_undilated_ones_seen_more_densely() -> None:
    """The atrous law: features at output stride 8, subsampled, equal those at 32 with the same weights.

    It holds exactly for a stage whose striding convolutions come first and whose taps are spread by the stride.
    """
    torch.manual_seed(0)
    stage = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, padding=1, bias=False),
    ).double()
    dense = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, padding=2, dilation=2, bias=False),
    ).double()
    dense.load_state_dict(stage.state_dict())
    image = torch.randn(1, 2, 33, 33, dtype=torch.float64)
    torch.testing.assert_close(dense(image)[:, :, ::2, ::2], stage(image))


def test_aspp_rates_scale_with_the_output_stride() -> None:
    def rates(stride: int) -> list[int]:
        network = build_network(ModelSettings(output_stride=stride), bands=3, classes=2)
        convs = [m for m in network.head.branches.modules() if isinstance(m, nn.Conv2d)]
        return [conv.dilation[0] for conv in convs if conv.kernel_size == (3, 3)]

    assert rates(16) == [6, 12, 18]
    assert rates(8) == [12, 24, 36]
    assert rates(4) == [24, 48, 72]


def test_aspp_is_its_five_branches_side_by_side() -> None:
    torch.manual_seed(1)
    head = ASPPHead(8, 2, rates=(1, 2, 3), channels=4).eval()
    features = torch.randn(1, 8, 9, 7)
    pooled = head.branches[-1]
    manual = torch.relu(pooled.norm(pooled.conv(adaptive_avg_pool2d(features, 1)))).expand(-1, -1, 9, 7)
    branches = [*(branch(features) for branch in list(head.branches)[:-1]), manual]
    expected = head.classify(head.project(torch.cat(branches, dim=1)))
    torch.testing.assert_close(head(features), expected)
    assert len(head.branches) == 5


def test_psp_is_its_bins_beside_the_features() -> None:
    torch.manual_seed(1)
    head = PSPHead(8, 2, channels=4).eval()
    features = torch.randn(1, 8, 12, 12)
    parts = [features]
    whole = torch.relu(head.whole.norm(head.whole.conv(adaptive_avg_pool2d(features, 1))))
    parts.append(whole.expand(-1, -1, 12, 12))
    for bin_, part in zip((2, 3, 6), head.parts, strict=True):
        pooled = part[1](adaptive_avg_pool2d(features, bin_))
        parts.append(interpolate(pooled, size=(12, 12), mode="bilinear", align_corners=False))
    torch.testing.assert_close(head(features), head.classify(head.fuse(torch.cat(parts, dim=1))))


def test_fcn_concatenates_its_input() -> None:
    head = FCNHead(8, 2, channels=4)
    assert head.fuse[0].in_channels == 12


def test_image_pooling_of_one_image_uses_running_statistics() -> None:
    pooling = ImagePooling(3, 2).train()
    before = pooling.norm.running_mean.clone()
    out = pooling(torch.randn(1, 3, 4, 4))
    assert torch.isfinite(out).all()
    assert torch.equal(pooling.norm.running_mean, before)
    pooling(torch.randn(2, 3, 4, 4))
    assert not torch.equal(pooling.norm.running_mean, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ModelSettings(architecture="unett"), "did you mean 'Unet'"),
        (ModelSettings(encoder="resnet81"), "did you mean 'resnet18'"),
        (ModelSettings(encoder="vgg11"), "vgg11 cannot have output stride 8"),
        (ModelSettings(architecture="Unet", options={"depthh": 3}), "check model.options"),
        (ModelSettings(options={"x": 1}), "are for smp's architectures"),
    ],
)
def test_what_cannot_be_built_is_told_with_a_remedy(settings: ModelSettings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build_network(settings, bands=3, classes=2)


def test_weights_that_cannot_be_downloaded_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.get_encoder", offline)
    with pytest.raises(SettingsError, match='weights = "none"'):
        build_network(ModelSettings(weights="imagenet"), bands=3, classes=2)


def test_dilating_leaves_weights_alone() -> None:
    network = build_network(ModelSettings(output_stride=32), bands=3, classes=2)
    before = {name: weight.clone() for name, weight in network.encoder.state_dict().items()}
    dilate_stages(Striding.of(stages_of(network.encoder)), 8)
    after = network.encoder.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
