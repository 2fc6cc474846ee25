"""The heads against what their papers write, computed by hand."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from aerial_seg.models.backbone.cascade import further_blocks
from aerial_seg.models.backbone.deformable import DeformableConv
from aerial_seg.models.backbone.encoders import encoder_names, make_encoder
from aerial_seg.models.backbone.stages import stages_of
from aerial_seg.models.build import build_network
from aerial_seg.models.heads.aspp import ASPPHead, ASPPSumHead
from aerial_seg.models.heads.decoders import BoundaryRefinement, LargeKernel
from aerial_seg.models.heads.fcn import FCNHead
from aerial_seg.models.heads.psp import PSPHead, Pyramid
from aerial_seg.models.network import MSC_SCALES, MultiScaleNetwork
from aerial_seg.recipe.model import ModelSettings


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def pooled_by_definition(features: Tensor, bins: int, pooling: str) -> Tensor:
    """Part i of n over a length l: cells ⌊i·l/n⌋ to ⌈(i+1)·l/n⌉."""
    height, width = features.shape[2:]
    rows = []
    for i in range(bins):
        row = []
        for j in range(bins):
            top, bottom = i * height // bins, math.ceil((i + 1) * height / bins)
            left, right = j * width // bins, math.ceil((j + 1) * width / bins)
            part = features[:, :, top:bottom, left:right]
            row.append(part.amax((2, 3)) if pooling == "max" else part.mean((2, 3)))
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


@settings(deadline=None, max_examples=examples(25))
@given(
    height=st.integers(1, 23),
    width=st.integers(1, 23),
    pooling=st.sampled_from(["average", "max"]),
    reduce=st.booleans(),
    align_corners=st.booleans(),
    bins=st.sampled_from([(1, 2, 3, 6), (1,), (6, 3), (2, 1, 5)]),
)
def test_psp_pooling_is_the_papers_at_any_size(
    height: int, width: int, pooling: str, reduce: bool, align_corners: bool, bins: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    pyramid = Pyramid(bins, pooling, reduce)
    head = PSPHead(8, 2, pyramid=pyramid, channels=4, align_corners=align_corners).eval()
    features = noise(2, 8, height, width)
    seen, parts = [features], iter(head.parts)
    for count in bins:
        pooled = pooled_by_definition(features, count, pooling)
        if count == 1:
            if reduce:
                pooled = torch.relu(head.whole.norm(head.whole.conv(pooled)))
        else:
            part = next(parts)
            pooled = part[1](pooled) if reduce else pooled
        seen.append(interpolate(pooled, size=(height, width), mode="bilinear", align_corners=align_corners))
    with torch.no_grad():
        wanted = head.classify(head.fuse(torch.cat(seen, dim=1)))
        torch.testing.assert_close(head(features), wanted, rtol=1e-4, atol=1e-5)


def test_fcn_without_concatenation_is_two_convolutions() -> None:
    head = FCNHead(8, 2, channels=4, concat=False).eval()
    features = noise(1, 8, 5, 7)
    torch.testing.assert_close(head(features), head.classify(head.convs(features)))
    assert not [name for name in head.state_dict() if name.startswith("fuse")]


def test_deeplabv2_adds_four_biased_convolutions() -> None:
    head = ASPPSumHead(8, 3, rates=(6, 12, 18, 24))
    features = noise(1, 8, 9, 11)
    wanted = sum(
        conv2d(features, conv.weight, conv.bias, padding=rate, dilation=rate)
        for conv, rate in zip(head.branches, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(head(features), wanted)
    for conv in head.branches:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.2)
        assert not conv.bias.any()


@pytest.mark.parametrize(
    ("stride", "head", "rates"),
    [
        (8, "default", [6, 12, 18, 24]),
        (16, "default", [3, 6, 9, 12]),
        (8, "largefov", [12]),
        (4, "largefov", [24]),
    ],
)
def test_deeplabv2s_rates_are_given_at_stride_8(stride: int, head: str, rates: list[int]) -> None:
    made = ModelSettings(architecture="deeplabv2", output_stride=stride, head=head)
    branches = build_network(made, bands=3, classes=2).head.branches
    assert [conv.dilation[0] for conv in branches] == rates


def test_multi_scale_fusion_is_the_largest_of_three_forwards() -> None:
    torch.manual_seed(0)
    network = build_network(
        ModelSettings(architecture="deeplabv2", msc=True, output_stride=8), bands=3, classes=2
    ).eval()
    assert isinstance(network, MultiScaleNetwork)
    image = noise(1, 3, 64, 96)
    with torch.inference_mode():
        whole = network.base(image)
        others = [
            interpolate(
                network.base(interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)),
                size=whole.shape[2:],
                mode="bilinear",
                align_corners=False,
            )
            for scale in (0.5, 0.75)
        ]
        assert MSC_SCALES == (0.5, 0.75)
        torch.testing.assert_close(network(image), torch.stack([whole, *others]).amax(0))
        members, _ = network.forward_members(image)
    assert len(members) == 4, "the largest, and each scale's, all with a loss of their own in training"
    assert (network(image) > whole).any()


def test_multi_scale_tiles_line_up_at_all_three_scales() -> None:
    """A tile whose origin is a multiple of the origin step sees the same cells as the whole image, inside."""
    torch.manual_seed(0)
    settings = ModelSettings(
        architecture="deeplabv2", msc=True, output_stride=8, aspp_rates=(1,), head="largefov"
    )
    network = build_network(settings, bands=3, classes=2).eval()
    for module in network.modules():
        # A short sight, so that the inside of a tile is far from its border.
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.weight.data[:, :, [0, 0, 0, 2, 2, 2, 1, 1], [0, 1, 2, 0, 1, 2, 0, 2]] = 0
    step = network.geometry.origin_step
    assert step == 32
    image = noise(1, 3, 192, 192)
    with torch.inference_mode():
        whole = network(image)
        tile = network(image[:, :, step : step + 128, step : step + 128])
        cell = step // 8
        inside = whole[:, :, cell : cell + 16, cell : cell + 16]
        torch.testing.assert_close(tile[:, :, 6:-6, 6:-6], inside[:, :, 6:-6, 6:-6], rtol=1e-4, atol=1e-5)
        moved = network(image[:, :, 8 : 8 + 128, 8 : 8 + 128])
        beside = whole[:, :, 1:17, 1:17]
        assert (moved[:, :, 6:-6, 6:-6] - beside[:, :, 6:-6, 6:-6]).abs().max() > 1e-3


def test_mmsegs_aspp_is_wider_and_fuses_by_a_3x3() -> None:
    network = build_network(ModelSettings(head="mmseg"), bands=3, classes=2)
    head = network.head
    assert isinstance(head, ASPPHead)
    assert head.project[0].weight.shape == (512, 5 * 512, 3, 3)
    assert isinstance(head.classify[0], nn.Dropout2d)


def test_an_aspp_without_image_pooling_sees_no_farther_than_its_largest_rate() -> None:
    settings = {"output_stride": 16, "encoder": "resnet18", "aspp_rates": [2]}
    for pooled, sees_all in ((True, True), (False, False)):
        network = build_network(
            ModelSettings.model_validate({**settings, "image_pooling": pooled}), bands=3, classes=2
        )
        head = network.head.eval()
        assert isinstance(head, ASPPHead)
        assert head.project[0].weight.shape == (256, (3 if pooled else 2) * 256, 1, 1)
        point = torch.zeros(1, 512, 15, 15)
        point[:, :, 7, 7] = 1
        seen = (head(point) - head(torch.zeros_like(point)))[0].abs().sum(0) > 1e-9
        if sees_all:
            assert seen.all()
        else:
            assert seen.nonzero().amin(0).tolist() == [5, 5]
            assert seen.nonzero().amax(0).tolist() == [9, 9]


def test_a_large_kernel_sees_a_cross_product_and_its_two_orders_are_added() -> None:
    kernel = LargeKernel(2, 3, 5)
    point = torch.zeros(1, 2, 15, 15)
    point[:, :, 7, 7] = 1
    seen = (kernel(point) - kernel(torch.zeros_like(point)))[0].abs().sum(0) > 1e-7
    assert seen.nonzero().amin(0).tolist() == [5, 5]
    assert seen.nonzero().amax(0).tolist() == [9, 9]
    assert seen.sum() == 25
    torch.testing.assert_close(kernel(point), kernel.tall_first(point) + kernel.wide_first(point))


def test_boundary_refinement_is_a_residual() -> None:
    refine = BoundaryRefinement(3)
    scores = noise(1, 3, 6, 6)
    torch.testing.assert_close(refine(scores) - scores, refine.residual(scores))


def test_a_cascades_blocks_begin_as_copies_of_block4() -> None:
    torch.manual_seed(0)
    encoder = make_encoder(ModelSettings(encoder="resnet50"), 3)
    block4 = stages_of(encoder)[-1]
    for copied in further_blocks(encoder, 3):
        theirs, ours = block4.state_dict(), copied.state_dict()
        for name, weight in ours.items():
            origin = "1.conv1.weight" if name == "0.conv1.weight" else name
            assert torch.equal(weight, theirs[origin]), name
        assert set(theirs) - set(ours) == {name for name in theirs if name.startswith("0.downsample.")}
        assert copied(noise(1, 2048, 4, 4)).shape == (1, 2048, 2, 2)


def test_deformable_kernels_begin_as_plain_ones_and_then_move() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 5, 3, padding=2, dilation=2, bias=False)
    deformable = DeformableConv(plain)
    features = noise(1, 4, 9, 9)
    torch.testing.assert_close(deformable(features), plain(features), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        deformable.offset.bias[0::2] = 1.0  # every tap a cell further down
    moved = deformable(features)[:, :, 2:-3, 2:-2]
    torch.testing.assert_close(moved, plain(features)[:, :, 3:-2, 2:-2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stem", "widths"), [("deep32", [32, 32, 64]), ("deep64", [64, 64, 128])])
@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_deep_stems(encoder: str, stem: str, widths: list[int]) -> None:
    made = make_encoder(ModelSettings(encoder=encoder, stem=stem), 4)
    convs = [module for module in made.conv1 if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == widths
    assert [conv.stride[0] for conv in convs] == [2, 1, 1]
    assert convs[0].in_channels == 4
    features = made(noise(1, 4, 64, 64))
    assert [found.shape[1] for found in features] == made.out_channels
    assert made.out_channels[1] == widths[-1]
    assert made.layer1[0].conv1.in_channels == widths[-1]


@pytest.mark.parametrize(("stem", "name"), [("deep32", "resnet50c"), ("deep64", "resnet50s")])
def test_a_deep_stem_has_the_imagenet_weights_of_timms_resnet_with_it(
    stem: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held to timm's own network, whose weights are drawn here: there is no network to download them by."""
    make, asked = timm.create_model, []

    def create(wanted: str, *, pretrained: bool) -> nn.Module:
        asked.append((wanted, pretrained))
        torch.manual_seed(5)
        made: nn.Module = make(wanted, pretrained=False)
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
                nn.init.uniform_(module.weight, 0.5, 1.0)
        return made

    theirs = create(f"{name}.gluon_in1k", pretrained=False).eval()
    monkeypatch.setattr(timm, "create_model", create)
    ours = make_encoder(ModelSettings(encoder="resnet50", stem=stem, weights="imagenet"), 3).eval()
    assert asked[-1] == (f"{name}.gluon_in1k", True)
    image = noise(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)[-1], theirs.forward_features(image))  # type: ignore[operator]
        # Six bands are the three twice over, each of half the weight, so that a constant image keeps its response.
        six = make_encoder(ModelSettings(encoder="resnet50", stem=stem, weights="imagenet"), 6).eval()
        torch.testing.assert_close(
            six(torch.cat([image, image], dim=1))[-1], ours(image)[-1], rtol=1e-4, atol=1e-4
        )


def test_last_unit_striding_is_slims_beta() -> None:
    """Blocks 1 to 3 stride in their last unit, whose shortcut subsamples; block 4 does not stride."""
    settings = ModelSettings(
        encoder="resnet50", stride_placement="last-unit", dilation_placement="contracted", output_stride=32
    )
    encoder = build_network(settings, bands=3, classes=2).encoder
    for stage, stride in zip(stages_of(encoder), (2, 2, 2, 1), strict=True):
        units = list(stage.children())
        assert [unit.conv2.stride[0] for unit in units] == [1] * (len(units) - 1) + [stride]
        assert units[0].downsample[0].stride == (1, 1)
        if stride == 2:
            assert isinstance(units[-1].downsample, nn.MaxPool2d)
    dense = build_network(settings.model_copy(update={"output_stride": 8}), bands=3, classes=2).encoder
    rates = [[unit.conv2.dilation[0] for unit in stage.children()] for stage in stages_of(dense)]
    assert rates == [[1, 1, 1], [1, 1, 1, 1], [2, 2, 2, 2, 2, 2], [4, 4, 4]]


def test_resnet269_is_the_deepest_of_the_pspnet_paper() -> None:
    assert "resnet269" in encoder_names()
    with torch.device("meta"):
        encoder = make_encoder(ModelSettings(encoder="resnet269"), 3)
    assert [len(list(stage.children())) for stage in stages_of(encoder)] == [3, 30, 48, 8]
    assert 1 + 3 * sum([3, 30, 48, 8]) + 1 == 269
