"""The table of architectures: everything is in it, and its numbers are those of real networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from aerial_seg.errors import SettingsError
from aerial_seg.jobs.models import ModelFacts, architectures, list_encoders, list_models
from aerial_seg.models.build import build_network
from aerial_seg.models.network import Network
from aerial_seg.recipe.model import OWN_ARCHITECTURES, ModelSettings


@pytest.fixture(scope="module")
def rows() -> dict[str, ModelFacts]:
    return {row.architecture: row for row in list_models("resnet18", bands=4, classes=5)}


def test_every_architecture_is_listed_once(rows: dict[str, ModelFacts]) -> None:
    theirs = {kind.__name__ for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    assert set(rows) == {*OWN_ARCHITECTURES, *theirs}
    assert tuple(rows)[: len(OWN_ARCHITECTURES)] == OWN_ARCHITECTURES
    assert len(architectures()) == len(rows)


def test_what_cannot_be_built_says_why_and_the_rest_has_numbers(rows: dict[str, ModelFacts]) -> None:
    assert rows["DPT"].problem is not None
    assert "\n" not in rows["DPT"].problem
    built = {name for name, row in rows.items() if row.problem is None}
    assert built == set(rows) - {"DPT"}
    for row in rows.values():
        numbers = (row.parameters, row.gflops_per_mpx, row.output_stride, row.logit_stride)
        assert all(number is None for number in numbers) == (row.problem is not None)
        assert all(number is None or number > 0 for number in numbers)


def operations(network: Network, image: Tensor) -> int:
    """Counted from what each convolution really does: two for each weight and place that it is applied at."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += 2 * module.weight.numel() * output.shape[0] * output.shape[2] * output.shape[3]

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("architecture", ["fcn", "deeplabv3", "pspnet", "Unet", "FPN", "DeepLabV3Plus"])
def test_numbers_are_those_of_a_real_network(architecture: str, rows: dict[str, ModelFacts]) -> None:
    row = rows[architecture]
    network = build_network(ModelSettings(architecture=architecture), bands=4, classes=5).eval()
    assert row.parameters == sum(weight.numel() for weight in network.parameters())
    image = torch.zeros(1, 4, 128, 128)
    counted = operations(network, image) / (128 * 128) * 1e6 / 1e9
    # Image pooling is a convolution at one place whatever the size, so it weighs more in a smaller image.
    assert row.gflops_per_mpx == pytest.approx(counted, rel=5e-3)
    with torch.no_grad():
        assert network(image).shape[-1] * (row.logit_stride or 0) == 128


def test_output_strides_are_the_encoders_own(rows: dict[str, ModelFacts]) -> None:
    for name, row in rows.items():
        if row.problem is not None or name in OWN_ARCHITECTURES:
            continue
        model = getattr(smp, name)("resnet18", encoder_weights=None, in_channels=4, classes=5)
        with torch.no_grad():
            features = model.encoder.eval()(torch.zeros(1, 4, 128, 128))
        assert row.output_stride == 128 // features[-1].shape[-1], name
    assert {rows[name].output_stride for name in OWN_ARCHITECTURES} == {8}


@pytest.fixture
def of_these(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The table has these rows alone: what a test does not look at takes ten times as long as what it does."""

    def choose(*names: str) -> None:
        monkeypatch.setattr("aerial_seg.jobs.models.architectures", lambda: names)

    return choose


def test_an_encoder_that_cannot_be_dilated_leaves_the_others_in_the_table(
    of_these: Callable[..., None],
) -> None:
    of_these(*OWN_ARCHITECTURES, "Unet")
    rows = {row.architecture: row for row in list_models("vgg11")}
    for name in OWN_ARCHITECTURES:
        problem = rows[name].problem
        assert problem is not None
        assert "vgg11 cannot have output stride 8" in problem or "which vgg11 has not" in problem
    assert rows["Unet"].problem is None


def test_an_encoder_that_computes_while_it_is_built_is_counted_too(of_these: Callable[..., None]) -> None:
    of_these("Segformer")
    (row,) = list_models("mit_b0")
    settings = ModelSettings(architecture="Segformer", encoder="mit_b0")
    network = build_network(settings, bands=3, classes=2)
    assert row.parameters == sum(weight.numel() for weight in network.parameters())
    assert row.gflops_per_mpx is not None


def test_what_can_be_built_but_not_run_keeps_its_other_numbers(of_these: Callable[..., None]) -> None:
    of_these("DPT")
    (dpt,) = list_models("tu-vit_tiny_patch16_224")
    assert dpt.parameters is not None
    assert dpt.gflops_per_mpx is None
    assert dpt.problem is not None
    assert "512 px" in dpt.problem
    assert "224" in dpt.problem


def test_an_encoder_that_nothing_knows_is_refused(of_these: Callable[..., None]) -> None:
    of_these("fcn", "Unet")
    with pytest.raises(SettingsError, match="did you mean 'resnet18'"):
        list_models("resnet81")


@pytest.mark.parametrize(("bands", "classes"), [(0, 2), (3, 0)])
def test_numbers_below_one_are_refused(bands: int, classes: int) -> None:
    with pytest.raises(SettingsError, match="at least 1, got 0"):
        list_models(bands=bands, classes=classes)


def test_encoders_are_smps_and_the_deepest_resnet() -> None:
    kinds = list_encoders()
    assert [kind.name for kind in kinds] == sorted([*smp.encoders.get_encoder_names(), "resnet269"])
    resnet = next(kind for kind in kinds if kind.name == "resnet18")
    assert resnet.family == "ResNet"
    assert "imagenet" in resnet.weights
