"""mmsegmentation's FCN, DeepLabv3 and PSPNet, computed from their state dicts, against what the importer makes of them.

Held about the project, 0.x and 1.x alike (read: in the tables this project keeps; memory: its module code, by heart):
- read: the names `backbone.stem.{0,1,3,4,6,7}` (ResNetV1c: 32, 32, 64 channels) or `conv1`/`bn1` (plain ResNet,
  "r50b"), `decode_head.conv_seg`, `convs`, `conv_cat`, `image_pool.1`, `aspp_modules`, `psp_modules.{0..3}.1`,
  `bottleneck`, `auxiliary_head`; RGB with ImageNet's statistics times 255; strides and dilations per stage; DeepLabv3
  concatenates the pool first, then 1×1 and the three rates, and fuses with a 3×3 convolution of 512 channels; PSPNet
  concatenates [x,1,2,3,6]; FCN has two 3×3 convolutions and conv_cat over cat(x, out); 769 configurations align the
  corners.
- memory, sure: `style='pytorch'`, so the 3×3 strides; `contract_dilation=True` halves the first block's dilation where
  it is above 1; `multi_grid` holds for the last stage only, replaces dilations by its own numbers and overrules the
  contraction (the first block gets multi_grid[0]); conv_cat is 3×3 with padding 1; ConvModule is convolution without
  bias, BatchNorm (eps 1e-5), ReLU; `conv_seg` is 1×1 with bias; the auxiliary FCNHead is one 3×3 to 256, without
  concat, on the third stage, for all three heads; rates 1/12/24/36 in d8, 1/6/12/18 in d16; align_corners reaches the
  pools' upsampling inside the heads as well; max-pool 3/2/1 without ceil_mode; the data preprocessor's statistics are
  not saved.
- memory: `meta` holds CLASSES and PALETTE in 0.x. No published config is an FCN or PSPNet at d16: those follow from
  the backbone's settings that the DeepLabv3 ones have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torchvision
from laws import few
from torch import Tensor, nn
from torch.nn import functional

from aerial_seg.errors import InputError

if TYPE_CHECKING:
    from tests.models.importing.conftest import Agreement, Layers, Saved, State, Weights

CLASSES = 7
STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1)}
DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2)}
RATES = {8: (1, 12, 24, 36), 16: (1, 6, 12, 18)}
POOLS = (1, 2, 3, 6)
RGB = (("red", 123.675, 58.395), ("green", 116.28, 57.12), ("blue", 103.53, 57.375))


@dataclass(frozen=True, slots=True)
class Case:
    """What a config says beside the keys. A thin image lets the widest rates reach over the map at little cost."""

    arch: str | None
    stride: int = 8
    shape: tuple[int, int, int] = (1, 65, 97)
    multi_grid: tuple[int, ...] | None = None
    align_corners: bool = False


THIN = (1, 17, 313)
LARGE = (2, 129, 161)
HEADS = ("fcn", "deeplabv3", "pspnet")


def cases() -> Iterator[Any]:
    """(model, case), those of one model in a row: its file is written once."""
    slow = pytest.mark.slow
    for head in HEADS:
        model = (head, 50, True)
        aspp = head == "deeplabv3"
        yield pytest.param(model, Case(None), id=f"{head}_r50-default")
        yield pytest.param(model, Case(f"{head}_r50-d16", 16), id=f"{head}_r50-d16")
        if aspp:
            yield pytest.param(model, Case("deeplabv3_r50-d8", shape=THIN), id="deeplabv3_r50-d8-thin")
            case = Case("deeplabv3_r50-d16-mg124", 16, THIN, (1, 2, 4))
            yield pytest.param(model, case, id="deeplabv3_r50-d16-mg124-thin")
        case = Case(f"{head}_r50-d8-769", 8, align_corners=True)
        yield pytest.param(model, case, id=f"{case.arch}", marks=[] if head == "pspnet" else [slow])
        for stride in (8, 16):
            case = Case(f"{head}_r50-d{stride}", stride, LARGE)
            yield pytest.param(model, case, id=f"{case.arch}-large", marks=slow)
        model = (head, 101, True)
        for stride, shape in ((8, (1, 65, 97)), (16, LARGE)):
            case = Case(f"{head}_r101-d{stride}", stride, shape)
            yield pytest.param(model, case, id=f"{case.arch}", marks=slow)
        if aspp:
            case = Case("deeplabv3_r101-d16-mg124", 16, LARGE, (1, 2, 4))
            yield pytest.param(model, case, id=f"{case.arch}", marks=slow)
    yield pytest.param(("pspnet", 50, False), Case("pspnet_r50b-d8"), id="pspnet_r50b-d8", marks=slow)


def backbone_state(weights: Weights, depth: int, *, deep_stem: bool) -> None:
    if deep_stem:
        weights.deep_stem("backbone.stem", 32, 64)
    else:
        weights.convolution("backbone.conv1", 64, 3, 7)
        weights.normalisation("backbone.bn1", 64)
    weights.residual_layers("backbone.", depth)


def conv_module(weights: Weights, name: str, outputs: int, inputs: int, side: int) -> None:
    weights.convolution(f"{name}.conv", outputs, inputs, side)
    weights.normalisation(f"{name}.bn", outputs)


def random_state(
    weights: Weights, head: str, depth: int, *, deep_stem: bool, classes: int = CLASSES
) -> State:
    backbone_state(weights, depth, deep_stem=deep_stem)
    weights.convolution("decode_head.conv_seg", classes, 512, 1, bias=True)
    if head == "fcn":
        conv_module(weights, "decode_head.convs.0", 512, 2048, 3)
        conv_module(weights, "decode_head.convs.1", 512, 512, 3)
        conv_module(weights, "decode_head.conv_cat", 512, 2048 + 512, 3)
    elif head == "deeplabv3":
        conv_module(weights, "decode_head.image_pool.1", 512, 2048, 1)
        for branch in range(4):
            conv_module(weights, f"decode_head.aspp_modules.{branch}", 512, 2048, 1 if branch == 0 else 3)
        conv_module(weights, "decode_head.bottleneck", 512, 5 * 512, 3)
    else:
        for branch in range(4):
            conv_module(weights, f"decode_head.psp_modules.{branch}.1", 512, 2048, 1)
        conv_module(weights, "decode_head.bottleneck", 512, 2048 + 4 * 512, 3)
    weights.convolution("auxiliary_head.conv_seg", classes, 256, 1, bias=True)
    conv_module(weights, "auxiliary_head.convs.0", 256, 1024, 3)
    return weights.state


def checkpoint(state: State) -> dict[str, Any]:
    """The file as mmcv's save_checkpoint wrote it, weights in float32."""
    single = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    names = tuple(f"class {index}" for index in range(CLASSES))
    palette = [[index, 2 * index, 255 - index] for index in range(CLASSES)]
    return {
        "meta": {"mmseg_version": "0.30.0", "iter": 80_000, "CLASSES": names, "PALETTE": palette},
        "state_dict": single,
    }


def block_dilations(blocks: int, dilation: int, multi_grid: Sequence[int] | None) -> list[int]:
    """mmseg's ResLayer with contract_dilation."""
    if multi_grid is not None:
        return [multi_grid[block] for block in range(blocks)]
    first = dilation // 2 if dilation > 1 else dilation
    return [first] + [dilation] * (blocks - 1)


def features(layers: Layers, state: State, image: Tensor, depth: int, case: Case) -> list[Tensor]:
    if "backbone.stem.0.weight" in state:
        x = layers.deep_stem(state, "backbone.stem", image)
    else:
        x = layers.unit(state, ("backbone.conv1", "backbone.bn1"), image, stride=2, padding=3)
    x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    found = []
    for stage in range(4):
        multi_grid = case.multi_grid if stage == 3 else None
        dilations = block_dilations(layers.blocks[depth][stage], DILATIONS[case.stride][stage], multi_grid)
        x = layers.residual_layer(
            state, f"backbone.layer{stage + 1}", x, stride=STRIDES[case.stride][stage], dilations=dilations
        )
        found.append(x)
    return found


def decoded(layers: Layers, state: State, x: Tensor, head: str, case: Case) -> Tensor:
    """The decode head up to the 512 channels that conv_seg sees."""
    size = x.shape[2:]

    def module(name: str, y: Tensor, **placement: int) -> Tensor:
        return layers.unit(state, (f"decode_head.{name}.conv", f"decode_head.{name}.bn"), y, **placement)

    def resized(y: Tensor) -> Tensor:
        return layers.resized(y, size, align_corners=case.align_corners)

    if head == "fcn":
        y = module("convs.1", module("convs.0", x, padding=1), padding=1)
        return module("conv_cat", torch.cat([x, y], dim=1), padding=1)
    if head == "deeplabv3":
        parts = [resized(module("image_pool.1", functional.adaptive_avg_pool2d(x, 1)))]
        for branch, rate in enumerate(RATES[case.stride]):
            padding = 0 if rate == 1 else rate
            parts.append(module(f"aspp_modules.{branch}", x, padding=padding, dilation=rate))
    else:
        pooled = [functional.adaptive_avg_pool2d(x, bins) for bins in POOLS]
        parts = [x] + [resized(module(f"psp_modules.{i}.1", y)) for i, y in enumerate(pooled)]
    return module("bottleneck", torch.cat(parts, dim=1), padding=1)


def reference(
    layers: Layers, state: State, image: Tensor, model: tuple[str, int], case: Case
) -> tuple[Tensor, Tensor]:
    """Logits and auxiliary logits in eval mode (dropout is the identity), before any upsampling."""
    head, depth = model
    _, _, third, last = features(layers, state, image, depth, case)
    logits = layers.convolution(state, "decode_head.conv_seg", decoded(layers, state, last, head, case))
    names = ("auxiliary_head.convs.0.conv", "auxiliary_head.convs.0.bn")
    auxiliary = layers.convolution(
        state, "auxiliary_head.conv_seg", layers.unit(state, names, third, padding=1)
    )
    return logits, auxiliary


@pytest.mark.parametrize(("model", "case"), few(cases(), quick=4))
def test_imported_network_computes_what_mmseg_computes(
    model: tuple[str, int, bool],
    case: Case,
    saved: Saved,
    weights: type[Weights],
    layers: Layers,
    agreement: Agreement,
    images: Callable[[Sequence[int]], Tensor],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    head, depth, deep_stem = model

    def make() -> tuple[State, Any]:
        made = random_state(weights(depth + len(head)), head, depth, deep_stem=deep_stem)
        return made, checkpoint(made)

    state, path = saved(model, make)
    image = images(case.shape)
    imported = imported_from(path, "mmseg", case.arch)
    assert imported.network.geometry.output_stride == case.stride
    assert imported.network.geometry.align_corners is case.align_corners
    assert imported.classes == CLASSES
    agreement.bands(imported, RGB)
    with torch.inference_mode():
        wanted = reference(layers, state, image, (head, depth), case)
    agreement.network(imported, image, wanted, align_corners=case.align_corners)
    if case.arch is None:  # once per head: it costs another pass
        agreement.forward(imported, image, wanted[0])


@pytest.mark.parametrize("stride", [8, 16])
def test_backbone_is_torchvisions_with_a_deep_stem(
    stride: int,
    weights: type[Weights],
    layers: Layers,
    agreement: Agreement,
    images: Callable[[Sequence[int]], Tensor],
) -> None:
    """The contracted placement is torchvision's own; the state dict leaves no key over and misses none."""
    random = weights(3)
    backbone_state(random, 50, deep_stem=True)
    with torch.device("meta"):
        network = torchvision.models.resnet50(replace_stride_with_dilation=[False, stride == 8, True])
        network.conv1 = nn.Sequential(
            *(
                layer
                for inputs, outputs, step in ((3, 32, 2), (32, 32, 1), (32, 64, 1))
                for layer in (
                    nn.Conv2d(inputs, outputs, 3, step, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                )
            )
        )  # fmt: skip
    network.bn1, network.avgpool, network.fc = nn.Identity(), nn.Identity(), nn.Identity()
    renamed = {
        name.removeprefix("backbone.").replace("stem.", "conv1."): value
        for name, value in random.state.items()
    }
    network.load_state_dict(renamed, assign=True)
    image = images((1, 33, 49))
    with torch.inference_mode():
        wanted = network.eval()(image)
        got = features(layers, random.state, image, 50, Case(None, stride))[-1]
    agreement.equal(got.flatten(1), wanted)


@pytest.mark.parametrize(("head", "millions"), [("fcn", 68.6), ("pspnet", 68.1)])
def test_state_has_as_many_parameters_as_published(
    head: str, millions: float, weights: type[Weights]
) -> None:
    """SegFormer (Xie et al. 2021), table 2: mmseg's models with ResNet-101 and the 150 classes of ADE20K."""
    state = random_state(weights(None), head, 101, deep_stem=True, classes=150)
    learnt = [value for name, value in state.items() if "running" not in name and "tracked" not in name]
    assert round(sum(value.numel() for value in learnt) / 1e6, 1) == millions


def test_multi_grid_replaces_the_dilation_and_contraction_halves_it() -> None:
    assert block_dilations(3, 2, (1, 2, 4)) == [1, 2, 4]
    assert block_dilations(3, 4, None) == [2, 4, 4]
    assert block_dilations(3, 2, None) == [1, 2, 2]
    assert block_dilations(3, 1, None) == [1, 1, 1]


@pytest.mark.parametrize(
    ("head", "key"),
    [
        ("fcn", "backbone.stem.3.weight"),
        ("deeplabv3", "decode_head.image_pool.1.bn.bias"),
        ("pspnet", "decode_head.conv_seg.bias"),
    ],
)
def test_missing_key_is_named(
    head: str,
    key: str,
    weights: type[Weights],
    stored: Callable[[Any], AbstractContextManager[Path]],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    state = random_state(weights(None), head, 50, deep_stem=True)
    del state[key]
    with stored(checkpoint(state)) as path, pytest.raises(InputError, match=re.escape(key)):
        imported_from(path, "mmseg", f"{head}_r50-d8")


@pytest.mark.parametrize(
    "key",
    ["decode_head.surprise.weight", "backbone.layer2.1.conv4.weight", "backbone.layer2.9.conv1.weight"],
)
def test_additional_key_is_named(
    key: str,
    weights: type[Weights],
    stored: Callable[[Any], AbstractContextManager[Path]],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    state = random_state(weights(None), "fcn", 50, deep_stem=True)
    state[key] = torch.ones(4, dtype=torch.float64)
    with stored(checkpoint(state)) as path, pytest.raises(InputError, match=re.escape(key)):
        imported_from(path, "mmseg", "fcn_r50-d8")
