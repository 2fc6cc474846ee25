"""What decides a map beside the tensors of mmsegmentation: names, configurations as text, files' names, or the user."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aerial_seg.bands import IMAGENET_BANDS
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.jobs.import_weights import import_weights
from aerial_seg.mentions import settings_in
from aerial_seg.models.file import read_card
from aerial_seg.models.importing.checkpoint import read_checkpoint
from aerial_seg.models.importing.config_text import read_config
from aerial_seg.models.importing.mmseg_config import form_of_config
from aerial_seg.models.importing.mmseg_form import Form, form_of_name, published, read_form
from aerial_seg.models.importing.sources import import_checkpoint

if TYPE_CHECKING:
    from tests.models.importing.conftest import Agreement

CONFIG = """
crop_size = (512, 1024)
data_preprocessor = dict(bgr_to_rgb={rgb}, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], type='SegDataPreProcessor')
model = dict(
    auxiliary_head=dict(
        channels=64, concat_input=False, in_index=2, num_classes={auxiliary}, num_convs=1, type='FCNHead'),
    backbone=dict(
        contract_dilation=True, depth=18, dilations=(1, 1, 1, 2), norm_cfg=dict(type='SyncBN', requires_grad=True),
        strides=(1, 2, 2, 1), style='pytorch', type='ResNetV1c', {more}),
    data_preprocessor=dict(bgr_to_rgb={rgb}, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0]),
    decode_head=dict(
        align_corners={aligned}, c1_channels=12, c1_in_channels=64, channels=128, dilations=(1, 6, 12, 18), in_index=3,
        num_classes=2, {head} type='DepthwiseSeparableASPPHead'))
launcher = __import__('os').mkdir('sprung')
"""


def config(
    more: str = "", head: str = "", *, rgb: bool = True, aligned: bool = True, auxiliary: int = 2
) -> str:
    return CONFIG.format(more=more, head=head, rgb=rgb, aligned=aligned, auxiliary=auxiliary)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("pspnet_r50-d8_4xb4-80k_potsdam-512x512", Form("pspnet", 50, crop=(512, 512))),
        ("pspnet_r50-d8_512x512_4x4_80k_potsdam_20211219_043541-2dd5fe67.pth", Form("pspnet", 50, crop=(512, 512))),
        (
            "fcn-d6_r101b-d16_4xb2-80k_cityscapes-769x769.py",
            Form("fcn", 101, 16, head_rate=6, align_corners=True, crop=(769, 769)),
        ),
        (
            "fcn_d6_r50-d16_512x1024_40k_cityscapes_20210305_130133-98d5d1bc",
            Form("fcn", 50, 16, head_rate=6, crop=(512, 1024)),
        ),
        ("deeplabv3_r101-d16-mg124", Form("deeplabv3", 101, 16, multi_grid=(1, 2, 4))),
        ("deeplabv3plus_r18-d8_4xb4-80k_isaid-896x896", Form("deeplabv3+", 18, crop=(896, 896))),
        (
            "pspnet_r50-d32_rsb_4xb2-adamw-80k_cityscapes-512x1024",
            Form("pspnet", 50, 32, (1, 1, 2, 4), crop=(512, 1024)),
        ),
        ("pspnet_r50-d8-769", Form("pspnet", 50, align_corners=True, crop=(769, 769))),
    ],
)  # fmt: skip
def test_names_of_configurations_and_of_published_files_say_what_they_are(name: str, wanted: Form) -> None:
    assert form_of_name(name) == wanted


@pytest.mark.parametrize("name", ["fcn_r50-d8-mg999", "fcn_r50-d4", "iter_80000", "hrnet_w18", "pspnet", ""])
def test_other_names_are_none(name: str) -> None:
    assert form_of_name(name) is None
    with pytest.raises(
        SettingsError, match=r"wanted fcn_r50-d8, .* or the whole name of its configuration"
    ) as caught:
        read_form(name)
    offered = re.findall(r"[a-z0-9-]+_r\d+[\w-]*", str(caught.value).partition("wanted ")[2])
    assert len(offered) >= 6
    assert all(read_form(one) for one in offered)


def test_configurations_are_read_as_literals_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read = read_config(config() + "\nx = {'a': [-1, None, dict(b=2.5)], 3: ('c',)}\nimport os\ny = f(1)\n")
    assert read is not None
    assert read["x"] == {"a": [-1, None, {"b": 2.5}], 3: ("c",)}
    assert "launcher" not in read
    assert "y" not in read
    assert not list(tmp_path.iterdir())
    for odd in ("model = dict(", "\x00", "x = " + "(" * 500 + ")" * 500):
        assert read_config(odd) is None


def test_a_configuration_tells_all_that_decides_the_map() -> None:
    form = form_of_config(read_config(config(head="threshold=0.6, out_channels=1,")) or {}, Path("c.pth"))
    assert (form.head, form.depth, form.output_stride, form.stage_rates) == ("deeplabv3+", 18, 16, ())
    assert (form.aspp_rates, form.align_corners, form.crop, form.threshold) == (
        (6, 12, 18),
        True,
        (512, 1024),
        0.6,
    )
    assert [(band.name, band.mean, band.std) for band in form.bands] == [
        ("red", 1, 4), ("green", 2, 5), ("blue", 3, 6),
    ]  # fmt: skip
    bgr = form_of_config(read_config(config(rgb=False)) or {}, Path("c.pth"))
    assert [band.name for band in bgr.bands] == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (config("dcn=dict(type='DCN'),"), r"model\.backbone\.dcn = \{'type': 'DCN'\}.*wanted None or False"),
        (config().replace("'pytorch'", "'caffe'"), r"model\.backbone\.style = 'caffe'.*wanted pytorch"),
        (
            config().replace("ResNetV1c", "HRNet"),
            r"model\.backbone\.type = 'HRNet'.*wanted ResNet or ResNetV1c",
        ),
        (
            config().replace("(1, 2, 2, 1)", "(1, 1, 2, 1)"),
            r"strides = \(1, 1, 2, 1\).*wanted \(1, 2, 1, 1\) or",
        ),
        (
            config().replace("dilations=(1, 1, 1, 2)", "dilations=(1, 1, 1, 3)"),
            r"backbone\.dilations.*twice the one",
        ),
        (
            config().replace("(1, 6, 12, 18)", "(6, 12, 18)"),
            r"decode_head\.dilations = \(6, 12, 18\).*wanted 1, then",
        ),
        (
            config().replace("contract_dilation=True", "contract_dilation=False"),
            r"contract_dilation.*wanted True",
        ),
    ],
)
def test_what_no_network_here_can_be_is_refused_by_its_key(changed: str, message: str) -> None:
    with pytest.raises(InputError, match=r"c\.pth was trained with model\." + "|" + message) as caught:
        form_of_config(read_config(changed) or {}, Path("c.pth"))
    assert re.search(message, str(caught.value)), str(caught.value)


def test_only_cityscapes_has_several_maps_for_one_shape() -> None:
    assert published("pspnet", 50, 7) == {}
    assert list(published("pspnet", 50, 19)) == ["pspnet_r50-d8", "pspnet_r50-d8-769", "pspnet_r50-d32"]
    assert list(published("deeplabv3+", 18, 19)) == ["deeplabv3plus_r18-d8", "deeplabv3plus_r18-d8-769"]
    for name in published("fcn", 50, 19):
        assert read_form(name).head == "fcn"


class Block(nn.Module):
    """mmseg's BasicBlock: the rate is the first convolution's alone."""

    def __init__(self, inside: int, out: int, stride: int, rate: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, rate, rate, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        if stride > 1 or inside != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class Module(nn.Module):
    """mmcv's ConvModule."""

    def __init__(self, inside: int, out: int, kernel: int, rate: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = rate * (kernel // 2)
        self.conv = nn.Conv2d(inside, out, kernel, 1, padding, rate, groups, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class Separable(nn.Module):
    """mmcv's DepthwiseSeparableConvModule."""

    def __init__(self, inside: int, out: int, rate: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = Module(inside, inside, 3, rate, inside)
        self.pointwise_conv = Module(inside, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class Plus(nn.Module):
    """mmseg's DepthwiseSeparableASPPHead with the numbers of deeplabv3plus_r18."""

    def __init__(self, classes: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(128, classes, 1)
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), Module(512, 128, 1))
        self.aspp_modules = nn.ModuleList(
            [Module(512, 128, 1), *(Separable(512, 128, rate) for rate in rates)]
        )
        self.bottleneck = Module(5 * 128, 128, 3)
        self.c1_bottleneck = Module(64, 12, 1)
        self.sep_bottleneck = nn.Sequential(Separable(140, 128), Separable(128, 128))

    def forward(self, first: Tensor, last: Tensor, *, aligned: bool) -> Tensor:
        pooled = self.image_pool(last).expand(-1, -1, *last.shape[2:])
        y = self.bottleneck(torch.cat([pooled, *(one(last) for one in self.aspp_modules)], dim=1))
        low = self.c1_bottleneck(first)
        y = functional.interpolate(y, size=low.shape[2:], mode="bilinear", align_corners=aligned)
        return self.conv_seg(self.sep_bottleneck(torch.cat([y, low], dim=1)))


class Backbone(nn.Module):
    """mmseg's ResNetV1c of depth 18."""

    def __init__(self, strides: tuple[int, ...], rates: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, out, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
            layers += [nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        inside = 64
        for k, (stride, rate) in enumerate(zip(strides, rates, strict=True)):
            out = 64 * 2**k
            first = rate // 2 if rate > 1 else rate
            self.add_module(
                f"layer{k + 1}", nn.Sequential(Block(inside, out, stride, first), Block(out, out, 1, rate))
            )
            inside = out

    def forward(self, x: Tensor) -> list[Tensor]:
        x, found = functional.max_pool2d(self.stem(x), 3, 2, 1), []
        for k in range(4):
            x = self.get_submodule(f"layer{k + 1}")(x)
            found.append(x)
        return found


class Theirs(nn.Module):
    """deeplabv3plus_r18 with an auxiliary head."""

    def __init__(self, *, stride: int = 8, classes: int = 2, auxiliary: int = 2) -> None:
        super().__init__()
        eight = stride == 8
        self.backbone = Backbone(
            (1, 2, 1, 1) if eight else (1, 2, 2, 1), (1, 1, 2, 4) if eight else (1, 1, 1, 2)
        )
        self.decode_head = Plus(classes, (12, 24, 36) if eight else (6, 12, 18))
        self.auxiliary_head = nn.Module()
        self.auxiliary_head.convs = nn.Sequential(Module(256, 64, 3))
        self.auxiliary_head.conv_seg = nn.Conv2d(64, auxiliary, 1)

    def forward(self, image: Tensor, *, aligned: bool = False) -> tuple[Tensor, Tensor]:
        first, _, third, last = self.backbone(image)
        side = self.auxiliary_head.conv_seg(self.auxiliary_head.convs(third))
        return self.decode_head(first, last, aligned=aligned), side


def theirs(**facts: int) -> Theirs:
    torch.manual_seed(2)
    network = Theirs(**facts)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(
    ("stride", "text"), [(8, None), (16, config())], ids=["assumed-d8", "config-d16-aligned"]
)
def test_deeplabv3plus_on_resnet18_has_mmsegs_logits(
    stride: int,
    text: str | None,
    tmp_path: Path,
    agreement: Agreement,
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    network = theirs(stride=stride)
    meta = {} if text is None else {"cfg": text}
    torch.save({"state_dict": network.state_dict(), "meta": meta}, tmp_path / "last.pth")
    imported = imported_from(tmp_path / "last.pth", "mmseg", None)
    (note,) = imported.notes
    if text is None:
        assert note.startswith(
            "assumed output stride 8, no multi-grid, align_corners false and ImageNet's mean"
        )
        (mention,) = settings_in(note)
        assert imported_from(tmp_path / "last.pth", "mmseg", mention.value).settings.output_stride == 16
    else:
        assert note == "strides, rates, bands and crop were read from the configuration in the checkpoint"
        assert imported.training.crop == (512, 1024)
    told = replace(read_checkpoint(tmp_path / "last.pth"), bands=IMAGENET_BANDS)
    (note,) = import_checkpoint(told, "mmseg", arch=None).notes  # what --bands tells nobody assumed or read
    if text is None:
        assert note.startswith(
            "assumed output stride 8, no multi-grid and align_corners false, as mmseg publishes it"
        )
    else:
        assert note == "strides, rates and crop were read from the configuration in the checkpoint"
    image = torch.randn(1, 3, 65, 97, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = network.double()(image, aligned=text is not None)
    agreement.network(imported, image, wanted, align_corners=text is not None)


def test_crops_that_are_no_squares_make_square_tiles_of_their_shorter_side(tmp_path: Path) -> None:
    text = config(aligned=False)
    torch.save({"state_dict": theirs(stride=16).state_dict(), "meta": {"cfg": text}}, tmp_path / "last.pth")
    report = import_weights(tmp_path / "last.pth", tmp_path / "m.safetensors", source="mmseg")
    card = read_card(report.model)
    assert card.recipe.prediction.tile_size == 512
    (note,) = [note for note in report.notes if "crops" in note]
    assert note.startswith(
        "it was trained on crops of 512x1024 px (height, width); tiles are squares of 512 px"
    )


def test_an_arch_that_contradicts_the_configuration_is_refused(
    tmp_path: Path, imported_from: Callable[[Path, str, str | None], Any]
) -> None:
    torch.save({"state_dict": theirs().state_dict(), "meta": {"cfg": config()}}, tmp_path / "last.pth")
    with pytest.raises(
        SettingsError, match=r"`arch` tells output_stride 8, but the configuration in .* has 16"
    ):
        imported_from(tmp_path / "last.pth", "mmseg", "deeplabv3plus_r18-d8")
    with pytest.raises(SettingsError, match="`arch` tells head fcn"):
        imported_from(tmp_path / "last.pth", "mmseg", "fcn_r18-d8")


def test_what_tensors_cannot_tell_is_asked_for_and_every_choice_offered_works(
    tmp_path: Path, imported_from: Callable[[Path, str, str | None], Any]
) -> None:
    state = theirs(classes=19, auxiliary=19).state_dict()
    torch.save(state, tmp_path / "last.pth")
    with pytest.raises(SettingsError, match="of which 2 are published whose tensors are the same") as caught:
        imported_from(tmp_path / "last.pth", "mmseg", None)
    choices = [mention.value for mention in settings_in(str(caught.value))]
    assert choices == ["deeplabv3plus_r18-d8", "deeplabv3plus_r18-d8-769"]
    for choice, aligned in zip(choices, (False, True), strict=True):
        assert imported_from(tmp_path / "last.pth", "mmseg", choice).settings.align_corners is aligned
    named = tmp_path / "deeplabv3plus_r18-d8_769x769_80k_cityscapes_20201226_083346-f326e06a.pth"
    (tmp_path / "last.pth").rename(named)
    imported = imported_from(named, "mmseg", None)
    assert imported.settings.align_corners
    assert imported.training.crop == (769, 769)
    assert imported.notes[0].startswith("the network was read from the file's name")


def test_an_auxiliary_head_of_other_classes_is_left_out_with_a_note(
    tmp_path: Path, imported_from: Callable[[Path, str, str | None], Any]
) -> None:
    network = theirs(classes=2, auxiliary=5)
    torch.save(network.state_dict(), tmp_path / "last.pth")
    imported = imported_from(tmp_path / "last.pth", "mmseg", "deeplabv3plus_r18-d8")
    assert not imported.settings.auxiliary
    assert imported.notes == (
        "the auxiliary head (8 tensors) was left out: it has 5 classes, and the head has 2",
    )
    image = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.inference_mode():
        wanted = network.double()(image)[0]
        assert float((imported.network.double()(image) - wanted).abs().max()) < 1e-10


def test_one_output_becomes_background_and_class_by_its_sigmoid(
    tmp_path: Path, imported_from: Callable[[Path, str, str | None], Any]
) -> None:
    network = theirs(classes=1, auxiliary=1)
    torch.save(network.state_dict(), tmp_path / "last.pth")
    imported = imported_from(tmp_path / "last.pth", "mmseg", "deeplabv3plus_r18-d8")
    assert imported.classes == 2
    assert imported.training.has_background
    assert imported.training.threshold == 0.3  # mmseg's, where its configuration has none
    image = torch.randn(2, 3, 65, 97, dtype=torch.float64)
    with torch.inference_mode():
        pairs = zip(imported.network.double().forward_training(image), network.double()(image), strict=True)
        for two, one in pairs:
            assert float(two[:, 0].abs().max()) == 0
            assert float((two.softmax(dim=1)[:, 1:] - one.sigmoid()).abs().max()) < 1e-12
