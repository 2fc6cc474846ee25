"""One contract battery over all models: what every network promises, whatever its paper."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from aerial_seg.bands import Band
from aerial_seg.errors import SettingsError
from aerial_seg.inference.engines.prepare import prepare_network
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, load_model, save_model
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import OWN_ARCHITECTURES, ModelSettings

CPU = torch.device("cpu")


def small(architecture: str, **choices: object) -> ModelSettings:
    has_width = architecture not in ("deeplabv2", "deeplabv3-cascade", "gcn")
    facts = {"architecture": architecture, "output_stride": 16} | ({"head_channels": 16} if has_width else {})
    return ModelSettings.model_validate(facts | choices)


OWN = [small(name) for name in OWN_ARCHITECTURES]
VARIANTS = [
    small("fcn", head="no-concat", output_stride=4),
    small("fcn", head="torchvision", output_stride=32),
    small("fcn", encoder="resnet50", stem="deep32", dilation_placement="contracted"),
    small("pspnet", stem="deep64", align_corners=True, output_stride=8),
    small("pspnet", pooling="max", bins=(1, 3)),
    small("pspnet", reduce_bins=False),
    small("deeplabv2", head="largefov", output_stride=8),
    small("deeplabv2", msc=True, output_stride=8),
    small("deeplabv3", head="mmseg", multi_grid=(1, 2), bn_eps=1e-3),
    small("deeplabv3", head="torchvision", align_corners=True),
    small("deeplabv3", deformable=True),
    small("deeplabv3", image_pooling=False, aspp_rates=(6, 12, 18, 24)),
    small("deeplabv3-cascade", last_block=4),
    small("deeplabv3-cascade", output_stride=256),
    small("deeplabv3-cascade", output_stride=8, multi_grid=(1, 2), last_block=5),
    small("deeplabv3+", align_corners=True),
    small("gcn", kernel=7, output_stride=32),
    small("deeplabv2", encoder="resnet50", stride_placement="1x1", ceil_mode=True, output_stride=8),
    small("fcn", encoder="resnet50", stride_placement="last-unit", dilation_placement="contracted"),
    small("fcn", encoder="se_resnext50_32x4d"),
    small("fcn", encoder="tu-wide_resnet50_2", output_stride=8),
    small("deeplabv3", encoder="mobilenet_v2"),
]
SMP = [ModelSettings(architecture=name) for name in ("Unet", "UPerNet", "FPN", "DeepLabV3Plus")]
SMP += [ModelSettings(architecture="Segformer", encoder="mit_b0")]
ALL = [*OWN, *VARIANTS, *SMP]
QUICK = [*OWN, VARIANTS[7], VARIANTS[9], VARIANTS[10], SMP[0], SMP[-1]]
EVERY = [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in ALL if one not in QUICK)]


def name_of(settings: ModelSettings) -> str:
    chosen = settings.model_dump(exclude_defaults=True, exclude={"head_channels"})
    return "-".join(str(value) for value in chosen.values()) or "deeplabv3"


def fresh(settings: ModelSettings, *, bands: int = 3, classes: int = 3) -> Network:
    torch.manual_seed(0)
    return build_network(settings, bands=bands, classes=classes)


def lived_in(settings: ModelSettings, *, bands: int = 3) -> Network:
    """A network whose batch norms have statistics and gains of their own, in evaluation mode."""
    network = fresh(settings, bands=bands)
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.7, 1.3, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(std=0.1, generator=generator)
    return network.eval()


def valid_image(network: Network, *, bands: int = 3, count: int = 1) -> torch.Tensor:
    geometry = network.geometry
    height = geometry.nearest_valid_sides(64)[1]
    width = height + geometry.origin_step
    return torch.randn(count, bands, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("settings", ALL, ids=name_of)
def test_the_stated_strides_are_true_at_valid_sides(settings: ModelSettings) -> None:
    network = lived_in(settings)
    geometry, image = network.geometry, valid_image(network)
    with torch.inference_mode():
        logits = network(image)
        main, side = network.forward_training(image)
        members, _ = network.forward_members(image)
    assert logits.shape == (1, 3, *(geometry.cells(length) for length in image.shape[2:]))
    assert torch.equal(logits, main)
    assert torch.equal(logits, members[0])
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
    if side is not None:
        assert side.shape[:2] == (1, 3)
    if settings.architecture in OWN_ARCHITECTURES:
        assert geometry.output_stride == settings.output_stride


@pytest.mark.parametrize("settings", [*OWN, *VARIANTS], ids=name_of)
def test_odd_sides_have_a_cell_for_every_started_stride(settings: ModelSettings) -> None:
    network = lived_in(settings)
    if not network.any_side:
        assert settings.align_corners or settings.encoder in ("se_resnext50_32x4d", "mobilenet_v2")
        return
    for height, width in ((65, 97), (50, 31), (1, 7)):
        with torch.inference_mode():
            logits = network(torch.randn(1, 3, height, width))
        assert logits.shape[2:] == (network.geometry.cells(height), network.geometry.cells(width))


@pytest.mark.parametrize("bands", [1, 4, 13])
@pytest.mark.parametrize("settings", [*OWN, VARIANTS[3], *SMP[:2]], ids=name_of)
def test_any_number_of_bands(settings: ModelSettings, bands: int) -> None:
    network = lived_in(settings, bands=bands)
    image = valid_image(network, bands=bands).requires_grad_()
    network(image).square().sum().backward()
    assert image.grad is not None
    assert (image.grad.abs().amax(dim=(0, 2, 3)) > 0).all(), "every band is looked at"


@pytest.mark.parametrize("settings", EVERY, ids=name_of)
def test_a_training_step_changes_every_parameter(settings: ModelSettings) -> None:
    network = fresh(settings).double().train()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    # In float64 and twice: timm's last batch norms begin with a gain of 0, behind which there is no gradient at first.
    for step in range(2):
        image = valid_image(network, count=2).double() + step
        members, side = network.forward_members(image)
        losses = [
            logits.float().log_softmax(1)[:, step].mean() for logits in (*members, side) if logits is not None
        ]
        optimizer.zero_grad(set_to_none=True)
        (-sum(losses)).backward()
        optimizer.step()
    same = [name for name, weight in network.named_parameters() if torch.equal(weight, before[name])]
    assert not same


@pytest.mark.parametrize("settings", OWN, ids=name_of)
def test_evaluation_depends_on_no_other_image_of_the_batch_and_training_does(settings: ModelSettings) -> None:
    network = lived_in(settings)
    images = valid_image(network, count=2)
    with torch.inference_mode():
        together, alone = network(images)[:1], network(images[:1])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
        assert (network.train()(images)[:1] - alone).abs().max() > 1e-3


def card_of(settings: ModelSettings) -> ModelCard:
    return ModelCard(
        tool_version="test",
        recipe=Recipe(model=settings),
        legend=make_legend({0: "background", 1: "building", 2: "road"}),
        bands=tuple(Band(name=n, dtype="uint8", mean=9, std=2, p2=1, p98=20) for n in "rgb"),
        gsd=0.3,
        class_bias=(0.0, 0.0, 0.0),
        iteration=1,
        validation_miou=None,
        data_fingerprint="f",
    )


@pytest.mark.parametrize("settings", EVERY, ids=name_of)
def test_a_saved_network_comes_back_bit_for_bit(settings: ModelSettings, tmp_path: Path) -> None:
    network = lived_in(settings)
    save_model(network.state_dict(), card_of(settings), tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors").network
    held = network.state_dict()
    assert list(again.state_dict()) == list(held)
    assert all(torch.equal(tensor, held[name]) for name, tensor in again.state_dict().items())
    image = valid_image(network)
    with torch.inference_mode():
        assert torch.equal(again(image), network(image))
    assert again.geometry == network.geometry


@pytest.mark.parametrize("settings", EVERY, ids=name_of)
def test_folded_and_channels_last_the_logits_are_the_same(settings: ModelSettings) -> None:
    network = lived_in(settings)
    image = valid_image(network)
    run, notes = prepare_network(network, CPU, precision="fp32", example=lambda: image)
    assert not notes
    if settings.architecture in OWN_ARCHITECTURES:
        left = [module for module in run.modules() if isinstance(module, nn.BatchNorm2d)]
        # Convolutions that are read twice, and those of an auxiliary head that is gone, fold nothing.
        assert len(left) <= (1 if settings.encoder == "tu-wide_resnet50_2" else 0), f"{len(left)} left"
    with torch.inference_mode():
        wanted = network(image)
        difference = (run(image.to(memory_format=torch.channels_last)) - wanted).abs().max()
    assert difference <= 1e-4 * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("settings", EVERY, ids=name_of)
def test_compiled_the_logits_are_the_same(settings: ModelSettings) -> None:
    network = lived_in(settings)
    image = valid_image(network)
    with torch.inference_mode():
        wanted = network(image)
        difference = (torch.compile(copy.deepcopy(network))(image) - wanted).abs().max()
    torch.compiler.reset()
    assert difference <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("settings", EVERY, ids=name_of)
def test_exported_programs_compute_the_same(settings: ModelSettings) -> None:
    network = lived_in(settings)
    image = valid_image(network)
    with torch.no_grad():
        program = torch.export.export(network, (image,), strict=False).module()
        torch.testing.assert_close(program(image), network(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (small("fcn", msc=True), "msc is for deeplabv2, and fcn has no use for it"),
        (small("pspnet", last_block=5), "last_block is for deeplabv3-cascade"),
        (small("fcn", bins=(1, 2)), "bins is for pspnet"),
        (small("fcn", kernel=7), "kernel is for gcn"),
        (small("gcn", kernel=8), "wanted an odd number; try 9"),
        (
            small("deeplabv3", head="largefov"),
            "'largefov', which has no deeplabv3; leave it out, or use deeplabv2",
        ),
        (small("deeplabv2", head="largefov", aspp_rates=(6, 12)), "has one rate"),
        (small("deeplabv2", msc=True, align_corners=True), "leave align_corners out"),
        (small("deeplabv3", output_stride=64), "can have 4, 8, 16, 32"),
        (small("deeplabv3-cascade", output_stride=128, last_block=5), "can have 4, 8, 16, 32, 64"),
        (small("deeplabv3", multi_grid_rates="absolute"), "without model.multi_grid"),
        (small("fcn", stride_placement="1x1"), "is for bottlenecks .*BasicBlock"),
        (small("fcn", encoder="resnet50", stride_placement="last-unit"), 'dilation_placement = "contracted"'),
        (small("fcn", encoder="se_resnet50", stride_placement="1x1"), "does not stride in its 3×3"),
        (small("fcn", encoder="mobilenet_v2", stem="deep32"), "no single 7×7"),
        (small("fcn", encoder="mobilenet_v2", multi_grid=(1, 2)), "multi_grid is for ResNets"),
        (small("fcn", encoder="mobilenet_v2", output_stride=4), "cannot have output stride 4"),
        (small("deeplabv3-cascade", encoder="mobilenet_v2"), "continues a ResNet's last stage"),
        (small("fcn", stem="deep32", weights="imagenet"), "imagenet weights of resnet18 have not"),
        (small("fcn", encoder="resnet269", weights="imagenet"), "resnet269 has no imagenet weights"),
        (ModelSettings(encoder="tu-resnet51"), "timm has no encoder 'resnet51'"),
        (ModelSettings(architecture="Unet", stem="deep64"), "stem is for fcn, .*Unet is smp's; leave it out"),
    ],
    ids=lambda value: name_of(value) if isinstance(value, ModelSettings) else None,
)
def test_what_does_not_go_together_is_refused_with_a_remedy(settings: ModelSettings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build_network(settings, bands=3, classes=2)
