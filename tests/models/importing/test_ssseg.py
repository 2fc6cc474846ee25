"""sssegmentation's FCN, DeepLabv3 and PSPNet, computed from their state dicts, against what the importer makes of them.

Held about the project (read: in the tables this project keeps; memory: its module code, by heart):
- read: the names `backbone_net.stem.*`, `backbone_net.layerN`; FCN `decoder.{0,1,3,4,7}`, two 3×3 convolutions and no
  conv_cat; PSPNet `ppm_net.branches.{i}.{1,2}`, `ppm_net.bottleneck.{0,1}`, `decoder.1`; DeepLabv3
  `aspp_net.parallel_branches.{i}.{0,1}`, `global_branch.{1,2}`, `bottleneck.{0,1}`, fused by a 3×3 convolution of 512
  channels with the pool last, no multi-grid; `auxiliary_decoder.{0,1,4}` of 512 channels on the third stage; the 3×3
  strides; the first block of a dilated stage has the previous rate; stem 32, 32, 64; weights under `model` or
  `model_ema`; corners are not aligned.
- memory, sure: `decoder.1` follows from Dropout2d being the decoder's member 0; 1×1 convolutions to the classes have a
  bias, the others none; BatchNorm's eps is 1e-5; max-pool 3/2/1 without ceil_mode; rates 1/12/24/36 at os8, 1/6/12/18
  at os16; the pool's branch is upsampled without aligned corners as well; PSPNet concatenates [x,1,2,3,6].
- memory: one auxiliary decoder is stored plainly, not as a member 0 of a list; all three models have it; the
  statistics are ImageNet's times 255 on RGB; the file holds `cur_epoch`, `cur_iter`, `optimizer` beside `model`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from laws import few
from torch import Tensor
from torch.nn import functional

from aerial_seg.errors import InputError, SettingsError

if TYPE_CHECKING:
    from tests.models.importing.conftest import Agreement, Layers, Saved, State, Weights

CLASSES = 21
STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1)}
DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2)}
RATES = {8: (1, 12, 24, 36), 16: (1, 6, 12, 18)}
POOLS = (1, 2, 3, 6)
RGB = (("red", 123.675, 58.395), ("green", 116.28, 57.12), ("blue", 103.53, 57.375))
HEADS = ("fcn", "deeplabv3", "pspnet")


@dataclass(frozen=True, slots=True)
class Case:
    """What a config says beside the keys. A thin image lets the widest rates reach over the map at little cost."""

    arch: str
    stride: int = 8
    shape: tuple[int, int, int] = (1, 65, 97)
    called: bool = False


def cases() -> Iterator[Any]:
    """(model, case), those of one model in a row: its file is written once."""
    thin, large, slow = (1, 17, 313), (2, 129, 161), pytest.mark.slow
    for head in HEADS:
        model = (head, 50)
        yield pytest.param(model, Case(f"{head}_resnet50os8", called=True), id=f"{head}_resnet50os8")
        yield pytest.param(model, Case(f"{head}_resnet50os16", 16), id=f"{head}_resnet50os16")
        for stride in (8, 16):
            case = Case(f"{head}_resnet50os{stride}", stride, thin)
            if head == "deeplabv3":
                yield pytest.param(model, case, id=f"{case.arch}-thin", marks=slow if stride == 8 else [])
            yield pytest.param(model, replace(case, shape=large), id=f"{case.arch}-large", marks=slow)
        model = (head, 101)
        for stride, shape in ((8, (1, 65, 97)), (16, large)):
            case = Case(f"{head}_resnet101os{stride}", stride, shape)
            yield pytest.param(model, case, id=f"{case.arch}", marks=slow)


def sequential(weights: Weights, name: str, first: int, shape: tuple[int, int, int]) -> None:
    """Convolution and normalisation as members `first` and `first + 1` of a Sequential."""
    weights.convolution(f"{name}.{first}", *shape)
    weights.normalisation(f"{name}.{first + 1}", shape[0])


def random_state(weights: Weights, head: str, depth: int) -> State:
    weights.deep_stem("backbone_net.stem", 32, 64)
    weights.residual_layers("backbone_net.", depth)
    if head == "fcn":
        sequential(weights, "decoder", 0, (512, 2048, 3))
        sequential(weights, "decoder", 3, (512, 512, 3))
    elif head == "deeplabv3":
        for branch in range(4):
            name = f"aspp_net.parallel_branches.{branch}"
            sequential(weights, name, 0, (512, 2048, 1 if branch == 0 else 3))
        sequential(weights, "aspp_net.global_branch", 1, (512, 2048, 1))
        sequential(weights, "aspp_net.bottleneck", 0, (512, 5 * 512, 3))
    else:
        for branch in range(4):
            sequential(weights, f"ppm_net.branches.{branch}", 1, (512, 2048, 1))
        sequential(weights, "ppm_net.bottleneck", 0, (512, 2048 + 4 * 512, 3))
    weights.convolution("decoder.7" if head == "fcn" else "decoder.1", CLASSES, 512, 1, bias=True)
    sequential(weights, "auxiliary_decoder", 0, (512, 1024, 3))
    weights.convolution("auxiliary_decoder.4", CLASSES, 512, 1, bias=True)
    return weights.state


def checkpoint(state: State, key: str = "model") -> dict[str, Any]:
    """The file as the trainer wrote it, weights in float32."""
    single = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    return {"cur_epoch": 60, "cur_iter": 39_660, "optimizer": {"state": {}, "param_groups": []}, key: single}


def features(layers: Layers, state: State, image: Tensor, depth: int, stride: int) -> list[Tensor]:
    x = layers.deep_stem(state, "backbone_net.stem", image)
    x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    found = []
    for stage in range(4):
        dilations = [DILATIONS[stride][stage]] * layers.blocks[depth][stage]
        if dilations[0] > 1:
            dilations[0] //= 2
        name = f"backbone_net.layer{stage + 1}"
        x = layers.residual_layer(state, name, x, stride=STRIDES[stride][stage], dilations=dilations)
        found.append(x)
    return found


def decoded(layers: Layers, state: State, x: Tensor, head: str, stride: int) -> Tensor:
    """The 512 channels that the last 1×1 convolution sees."""
    size = x.shape[2:]

    def member(name: str, first: int, y: Tensor, **placement: int) -> Tensor:
        return layers.unit(state, (f"{name}.{first}", f"{name}.{first + 1}"), y, **placement)

    def resized(y: Tensor) -> Tensor:
        return layers.resized(y, size, align_corners=False)

    if head == "fcn":
        return member("decoder", 3, member("decoder", 0, x, padding=1), padding=1)
    if head == "deeplabv3":
        parts = []
        for branch, rate in enumerate(RATES[stride]):
            padding = 0 if branch == 0 else rate
            parts.append(member(f"aspp_net.parallel_branches.{branch}", 0, x, padding=padding, dilation=rate))
        parts.append(resized(member("aspp_net.global_branch", 1, functional.adaptive_avg_pool2d(x, 1))))
        return member("aspp_net.bottleneck", 0, torch.cat(parts, dim=1), padding=1)
    pooled = [functional.adaptive_avg_pool2d(x, bins) for bins in POOLS]
    parts = [x] + [resized(member(f"ppm_net.branches.{i}", 1, y)) for i, y in enumerate(pooled)]
    return member("ppm_net.bottleneck", 0, torch.cat(parts, dim=1), padding=1)


def reference(
    layers: Layers, state: State, image: Tensor, model: tuple[str, int], stride: int
) -> tuple[Tensor, Tensor]:
    """Logits and auxiliary logits in eval mode (dropout is the identity), before any upsampling."""
    head, depth = model
    _, _, third, last = features(layers, state, image, depth, stride)
    classifier = "decoder.7" if head == "fcn" else "decoder.1"
    logits = layers.convolution(state, classifier, decoded(layers, state, last, head, stride))
    hidden = layers.unit(state, ("auxiliary_decoder.0", "auxiliary_decoder.1"), third, padding=1)
    return logits, layers.convolution(state, "auxiliary_decoder.4", hidden)


@pytest.mark.parametrize(("model", "case"), few(cases(), quick=2))
def test_imported_network_computes_what_ssseg_computes(
    model: tuple[str, int],
    case: Case,
    saved: Saved,
    weights: type[Weights],
    layers: Layers,
    agreement: Agreement,
    images: Callable[[Sequence[int]], Tensor],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    head, depth = model

    def make() -> tuple[State, Any]:
        made = random_state(weights(depth + len(head)), head, depth)
        return made, checkpoint(made, "model_ema" if head == "pspnet" else "model")

    state, path = saved(model, make)
    image = images(case.shape)
    imported = imported_from(path, "ssseg", case.arch)
    assert imported.network.geometry.output_stride == case.stride
    assert imported.network.geometry.align_corners is False
    assert imported.classes == CLASSES
    agreement.bands(imported, RGB)
    with torch.inference_mode():
        wanted = reference(layers, state, image, model, case.stride)
    agreement.network(imported, image, wanted, align_corners=False)
    if case.called:  # once per head: it costs another pass
        agreement.forward(imported, image, wanted[0])


def test_the_output_stride_is_asked_for_and_the_files_name_tells_it(
    weights: type[Weights], tmp_path: Path, imported_from: Callable[[Path, str, str | None], Any]
) -> None:
    """Both strides are published of every network, and no tensor tells them apart."""
    document = checkpoint(random_state(weights(None), "pspnet", 50))
    torch.save(document, tmp_path / "last.pth")
    with pytest.raises(SettingsError) as caught:
        imported_from(tmp_path / "last.pth", "ssseg", None)
    offered = re.findall(r'`arch="(\w+)"` \(output stride (\d+)\)', str(caught.value))
    assert offered == [("pspnet_resnet50os8", "8"), ("pspnet_resnet50os16", "16")]
    for arch, stride in offered:
        imported = imported_from(tmp_path / "last.pth", "ssseg", arch)
        assert (imported.settings.output_stride, imported.notes) == (int(stride), ())
    (tmp_path / "last.pth").rename(tmp_path / "pspnet_resnet50os16_voc.pth")
    imported = imported_from(tmp_path / "pspnet_resnet50os16_voc.pth", "ssseg", None)
    assert imported.settings.output_stride == 16
    assert imported.notes == ('the network was read from the file\'s name: `arch="pspnet_resnet50os16_voc"`',)
    (tmp_path / "pspnet_resnet50os16_voc.pth").rename(tmp_path / "fcn_resnet50os16.pth")
    with pytest.raises(SettingsError, match=r"the file's name tells the head fcn, but .* holds pspnet"):
        imported_from(tmp_path / "fcn_resnet50os16.pth", "ssseg", None)


@pytest.mark.parametrize(
    ("head", "key"),
    [
        ("fcn", "backbone_net.layer2.1.bn2.running_mean"),
        ("pspnet", "ppm_net.branches.3.1.weight"),
    ],
)
def test_missing_key_is_named(
    head: str,
    key: str,
    weights: type[Weights],
    stored: Callable[[Any], AbstractContextManager[Path]],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    state = random_state(weights(None), head, 50)
    del state[key]
    with stored(checkpoint(state)) as path, pytest.raises(InputError, match=re.escape(key)):
        imported_from(path, "ssseg", f"{head}_resnet50os8")


@pytest.mark.parametrize("key", ["decoder.9.weight", "backbone_net.layer2.9.conv1.weight"])
def test_additional_key_is_named(
    key: str,
    weights: type[Weights],
    stored: Callable[[Any], AbstractContextManager[Path]],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    state = random_state(weights(None), "fcn", 50)
    state[key] = torch.ones(4, dtype=torch.float64)
    with stored(checkpoint(state)) as path, pytest.raises(InputError, match=re.escape(key)):
        imported_from(path, "ssseg", "fcn_resnet50os8")
