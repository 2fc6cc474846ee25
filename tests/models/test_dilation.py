"""Where the dilation goes: torchvision's ResNets and the atrous law as oracles."""

from __future__ import annotations

import copy
import functools

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torchvision.models import resnet50

from aerial_seg.bands import IMAGENET_BANDS
from aerial_seg.errors import SettingsError
from aerial_seg.legend import make_legend
from aerial_seg.models.backbone.dilation import MultiGrid, Placement, Striding, dilate_stages, set_multi_grid
from aerial_seg.models.backbone.stages import stages_of
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.restride import with_output_stride
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings


@functools.cache
def undilated(name: str) -> nn.Module:
    """An encoder of fixed weights, gamma 1, beta 0 and running statistics that are not the initial ones."""
    torch.manual_seed(0)
    made = smp.encoders.get_encoder(name, weights=None)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return made.double().eval()


def encoder(
    name: str, stride: int, placement: Placement = "full", multi_grid: tuple[int, ...] = ()
) -> nn.Module:
    made = copy.deepcopy(undilated(name))
    stages = stages_of(made)
    dilate_stages(Striding.of(stages), stride, placement=placement)
    set_multi_grid(stages[-1], MultiGrid(multi_grid))
    return made


def rates(made: nn.Module, stage: str) -> list[int]:
    """Rates of the 3×3 convolutions of a stage, in the order of its blocks."""
    convs = [
        m for m in getattr(made, stage).modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    assert all(conv.padding == conv.dilation for conv in convs)
    return [conv.dilation[0] for conv in convs]


def features(made: nn.Module, height: int = 33, width: int = 97) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, height, width, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        return made(image)[-1]


@pytest.mark.parametrize(
    ("stride", "replaced"), [(32, (0, 0, 0)), (16, (0, 0, 1)), (8, (0, 1, 1)), (4, (1, 1, 1))]
)
def test_contracted_is_torchvisions_placement(stride: int, replaced: tuple[int, ...]) -> None:
    theirs = resnet50(weights=None, replace_stride_with_dilation=[bool(one) for one in replaced])
    ours = dict(encoder("resnet50", stride, "contracted").named_modules())
    for name, conv in theirs.named_modules():
        if isinstance(conv, nn.Conv2d):
            assert ours[name].stride == conv.stride, name
            if conv.kernel_size != (1, 1):
                assert (ours[name].dilation, ours[name].padding) == (conv.dilation, conv.padding), name


@pytest.mark.parametrize(
    ("placement", "layer3", "layer4"),
    [("contracted", [1, 2, 2, 2, 2, 2], [2, 4, 4]), ("full", [2, 2, 2, 2, 2, 2], [4, 4, 4])],
)
def test_the_first_block_of_a_dilated_stage_decides_the_placement(
    placement: Placement, layer3: list[int], layer4: list[int]
) -> None:
    made = encoder("resnet50", 8, placement)
    assert rates(made, "layer2") == [1, 1, 1, 1]
    assert rates(made, "layer3") == layer3
    assert rates(made, "layer4") == layer4


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_atrous_consistency_contracted(name: str) -> None:
    """One set of weights at four strides. Source: Chen et al. 2017, section 3.1; deeplab2's test of the same name."""
    sparse = features(encoder(name, 32, "contracted"))
    for stride in (16, 8, 4):
        dense = features(encoder(name, stride, "contracted"))
        step = 32 // stride
        torch.testing.assert_close(dense[:, :, ::step, ::step], sparse, rtol=1e-10, atol=1e-10)


def test_full_placement_breaks_atrous_consistency() -> None:
    sparse = features(encoder("resnet50", 32))
    for stride in (16, 8, 4):
        step = 32 // stride
        difference = features(encoder("resnet50", stride))[:, :, ::step, ::step] - sparse
        assert difference.abs().max() > 0.01 * sparse.abs().max()


def test_where_the_first_1x1_strides_both_placements_are_the_same() -> None:
    torch.testing.assert_close(
        features(encoder("se_resnet50", 8)), features(encoder("se_resnet50", 8, "contracted"))
    )


@pytest.mark.parametrize(
    ("stride", "placement", "expected"),
    [
        (16, "full", [2, 4, 8]),  # Chen et al. 2017, section 3.2.1: 2·(1, 2, 4)
        (8, "full", [4, 8, 16]),
        (32, "full", [1, 2, 4]),
        (16, "contracted", [1, 4, 8]),
        (8, "contracted", [2, 8, 16]),
    ],
)
def test_multi_grid_indexes_bottlenecks(stride: int, placement: Placement, expected: list[int]) -> None:
    plain, made = encoder("resnet50", stride, placement), encoder("resnet50", stride, placement, (1, 2, 4))
    assert [block.conv2.dilation[0] for block in made.layer4] == expected
    assert [block.conv2.stride[0] for block in made.layer4] == [2 if stride == 32 else 1, 1, 1]
    inside = {conv.dilation for block in made.layer4 for conv in (block.conv1, block.conv3)}
    assert len(inside) == 1
    assert [rates(made, name) for name in ("layer2", "layer3")] == [
        rates(plain, name) for name in ("layer2", "layer3")
    ]
    assert features(made, 33, 33).shape == features(plain, 33, 33).shape


def test_multi_grid_keeps_atrous_consistency() -> None:
    sparse = features(encoder("resnet50", 32, "contracted", (1, 2, 4)))
    dense = features(encoder("resnet50", 8, "contracted", (1, 2, 4)))
    torch.testing.assert_close(dense[:, :, ::4, ::4], sparse, rtol=1e-10, atol=1e-10)
    assert (sparse - features(encoder("resnet50", 32, "contracted"))).abs().max() > 0.01 * sparse.abs().max()


def test_silent_error_15_the_multi_grid_follows_a_changed_output_stride() -> None:
    torch.manual_seed(0)
    settings = ModelSettings(
        architecture="fcn", encoder="resnet18", output_stride=16, head_channels=8, multi_grid=(1, 2)
    )
    network = build_network(settings, bands=3, classes=2).eval()
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=settings),
        legend=make_legend({0: "background", 1: "building"}),
        bands=IMAGENET_BANDS,
        gsd=None,
        class_bias=(0.0, 0.0),
        iteration=0,
        validation_miou=None,
        data_fingerprint="f",
    )
    other = with_output_stride(TrainedModel(network=network, card=card, sha256="s"), 8).network
    assert rates(network.encoder, "layer4") == [2, 2, 4, 4]
    image = torch.randn(1, 3, 33, 97, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(
            other.double()(image)[:, :, ::2, ::2], network.double()(image), rtol=1e-9, atol=1e-9
        )


def test_unit_rates_of_basic_blocks_are_per_block_too() -> None:
    assert rates(encoder("resnet18", 16, multi_grid=(1, 2)), "layer4") == [2, 2, 4, 4]


@pytest.mark.parametrize("unit_rates", [(1, 2), (1, 2, 4, 8)])
def test_another_number_of_unit_rates_than_blocks_is_refused(unit_rates: tuple[int, ...]) -> None:
    settings = ModelSettings(encoder="resnet50", multi_grid=unit_rates)
    with pytest.raises(SettingsError, match=rf"{len(unit_rates)} unit rates .* has 3 blocks; give one"):
        build_network(settings, bands=3, classes=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ModelSettings(architecture="Unet", multi_grid=(1, 2)), "multi_grid is for fcn"),
        (ModelSettings(architecture="Unet", head="torchvision"), "head is for fcn"),
        (ModelSettings(architecture="FPN", dilation_placement="contracted"), "dilation_placement is for fcn"),
        (ModelSettings(architecture="pspnet", head="torchvision"), "has no pspnet; leave it out"),
    ],
)
def test_a_choice_that_would_do_nothing_is_refused(settings: ModelSettings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build_network(settings, bands=3, classes=2)


def test_settings_of_older_model_files_mean_what_they_meant() -> None:
    new = {"head", "dilation_placement", "multi_grid"}
    old = {key: value for key, value in ModelSettings().model_dump(mode="json").items() if key not in new}
    assert ModelSettings.model_validate(old) == ModelSettings()
    network = build_network(ModelSettings(encoder="resnet50", output_stride=8), bands=3, classes=2)
    assert [set(rates(network.encoder, stage)) for stage in ("layer3", "layer4")] == [{2}, {4}]
    assert [type(module) for module in network.head.classify] == [nn.Dropout, nn.Conv2d]
    assert isinstance(network.auxiliary[1], nn.Dropout2d)
