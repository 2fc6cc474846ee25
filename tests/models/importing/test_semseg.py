"""semseg's PSPNet (hszhao/semseg), computed from its state dict, against what the importer makes of it.

Held about the project (read: in the tables this project keeps; memory: its module code, by heart):
- read: the names `layer0.{0,1,3,4,6,7}` (three 3×3, 64, 64, 128 channels, so that layer1 sees 128), `layer1..4`,
  `ppm.features.{0..3}.{1,2}`, `cls.{0,1,4}`, `aux.{0,1,4}` with the prefix `module.` in `state_dict`; the 3×3 strides;
  layer3 and layer4 are dilated by 2 and 4 in every block, the first included; corners are aligned; bins 1/2/3/6
  averaged, concat [x,1,2,3,6]; 3×3 to 512, BatchNorm, ReLU, dropout, 1×1 with bias; the auxiliary head is 3×3 to 256
  on layer3; RGB with ImageNet's statistics times 255.
- memory, sure: the dilation is set on the built ResNet (`conv2`: dilation and padding 2 or 4, stride 1;
  `downsample.0`: stride 1), so there is output stride 8 only; the max-pool 3/2/1 without ceil_mode is layer0's last
  member; BatchNorm's eps is 1e-5; the pool's convolution has no bias; a model trained has `aux` in its file, since
  `aux` is left out only when the module is built in eval mode; an image's sides minus 1 are multiples of 8, and with
  zoom_factor 8 the logits are upsampled to the image with aligned corners inside the network.
- memory: the file holds `epoch`, `state_dict`, `optimizer`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from aerial_seg.errors import InputError

if TYPE_CHECKING:
    from tests.models.importing.conftest import Agreement, Layers, Saved, State, Weights

CLASSES = 21
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)
BINS = (1, 2, 3, 6)
RGB = (("red", 123.675, 58.395), ("green", 116.28, 57.12), ("blue", 103.53, 57.375))


def random_state(weights: Weights, depth: int) -> State:
    weights.deep_stem("layer0", 64, 128)
    weights.residual_layers("", depth, stem_channels=128)
    for branch in range(4):
        weights.convolution(f"ppm.features.{branch}.1", 512, 2048, 1)
        weights.normalisation(f"ppm.features.{branch}.2", 512)
    for head, hidden, inputs in (("cls", 512, 4096), ("aux", 256, 1024)):
        weights.convolution(f"{head}.0", hidden, inputs, 3)
        weights.normalisation(f"{head}.1", hidden)
        weights.convolution(f"{head}.4", CLASSES, hidden, 1, bias=True)
    return weights.state


def checkpoint(state: State) -> dict[str, Any]:
    """The file as tool/train.py wrote it from a DistributedDataParallel, weights in float32."""
    single = {
        f"module.{name}": value.float() if value.is_floating_point() else value
        for name, value in state.items()
    }
    momentum = {0: {"momentum_buffer": torch.zeros(3)}}
    groups = [{"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "params": [0]}]
    return {"epoch": 50, "state_dict": single, "optimizer": {"state": momentum, "param_groups": groups}}


def features(layers: Layers, state: State, image: Tensor, depth: int) -> list[Tensor]:
    x = layers.deep_stem(state, "layer0", image)
    x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    found = []
    for layer, (blocks, stride, dilation) in enumerate(
        zip(layers.blocks[depth], STRIDES, DILATIONS, strict=True), 1
    ):
        x = layers.residual_layer(state, f"layer{layer}", x, stride=stride, dilations=[dilation] * blocks)
        found.append(x)
    return found


def head_logits(layers: Layers, state: State, name: str, x: Tensor) -> Tensor:
    return layers.convolution(
        state, f"{name}.4", layers.unit(state, (f"{name}.0", f"{name}.1"), x, padding=1)
    )


def reference(layers: Layers, state: State, image: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Logits and auxiliary logits in eval mode, as with zoom_factor 1: before the upsampling."""
    _, _, third, last = features(layers, state, image, depth)
    parts = [last]
    for branch, bins in enumerate(BINS):
        names = (f"ppm.features.{branch}.1", f"ppm.features.{branch}.2")
        pooled = layers.unit(state, names, functional.adaptive_avg_pool2d(last, bins))
        parts.append(layers.resized(pooled, last.shape[2:], align_corners=True))
    logits = head_logits(layers, state, "cls", torch.cat(parts, dim=1))
    return logits, head_logits(layers, state, "aux", third)


@pytest.mark.parametrize(
    ("depth", "arch", "shape"),
    [
        pytest.param(50, None, (1, 65, 97), id="default"),
        pytest.param(50, "pspnet50", (2, 129, 161), id="pspnet50", marks=pytest.mark.slow),
        pytest.param(101, None, (2, 65, 97), id="default-101", marks=pytest.mark.slow),
        pytest.param(101, "pspnet101", (1, 129, 161), id="pspnet101", marks=pytest.mark.slow),
    ],
)
def test_imported_network_computes_what_semseg_computes(
    depth: int,
    arch: str | None,
    shape: tuple[int, int, int],
    saved: Saved,
    weights: type[Weights],
    layers: Layers,
    agreement: Agreement,
    images: Callable[[Sequence[int]], Tensor],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:

    def make() -> tuple[State, Any]:
        made = random_state(weights(depth), depth)
        return made, checkpoint(made)

    state, path = saved(depth, make)
    image = images(shape)
    imported = imported_from(path, "semseg", arch)
    assert imported.network.geometry.output_stride == 8
    assert imported.network.geometry.align_corners is True
    assert imported.classes == CLASSES
    agreement.bands(imported, RGB)
    with torch.inference_mode():
        wanted = reference(layers, state, image, depth)
    agreement.network(imported, image, wanted, align_corners=True)
    agreement.forward(imported, image, wanted[0])


def test_backbone_is_torchvisions_dilated_as_semseg_does_it(
    weights: type[Weights],
    layers: Layers,
    agreement: Agreement,
    images: Callable[[Sequence[int]], Tensor],
) -> None:
    """The loop over `conv2` and `downsample.0` is the project's own; no key is left over and none is missing."""
    state = random_state(weights(3), 50)
    with torch.device("meta"):
        network = torchvision.models.resnet50()
        network.conv1 = nn.Sequential(
            *(
                layer
                for inputs, outputs, step in ((3, 64, 2), (64, 64, 1), (64, 128, 1))
                for layer in (
                    nn.Conv2d(inputs, outputs, 3, step, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                )
            )
        )  # fmt: skip
        first = network.layer1[0]
        first.conv1 = nn.Conv2d(128, 64, 1, bias=False)
        first.downsample[0] = nn.Conv2d(128, 256, 1, bias=False)
    for layer, rate in ((network.layer3, 2), (network.layer4, 4)):
        for name, module in layer.named_modules():
            if "conv2" in name:
                module.dilation, module.padding, module.stride = (rate, rate), (rate, rate), (1, 1)
            elif "downsample.0" in name:
                module.stride = (1, 1)
    network.bn1, network.avgpool, network.fc = nn.Identity(), nn.Identity(), nn.Identity()
    renamed = {
        name.replace("layer0.", "conv1."): value for name, value in state.items() if name.startswith("layer")
    }
    network.load_state_dict(renamed, assign=True)
    image = images((1, 33, 49))
    with torch.inference_mode():
        wanted = network.eval()(image)
        got = features(layers, state, image, 50)[-1]
    agreement.equal(got.flatten(1), wanted)


@pytest.mark.parametrize("key", ["layer2.1.bn2.running_mean", "ppm.features.2.1.weight"])
def test_missing_key_is_named(
    key: str,
    weights: type[Weights],
    stored: Callable[[Any], AbstractContextManager[Path]],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    state = random_state(weights(None), 50)
    del state[key]
    with stored(checkpoint(state)) as path, pytest.raises(InputError, match=re.escape(key)):
        imported_from(path, "semseg", "pspnet50")


@pytest.mark.parametrize("key", ["ppm.features.4.1.weight", "layer2.9.conv1.weight"])
def test_additional_key_is_named(
    key: str,
    weights: type[Weights],
    stored: Callable[[Any], AbstractContextManager[Path]],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    state = random_state(weights(None), 50)
    state[key] = torch.ones(4, dtype=torch.float64)
    with stored(checkpoint(state)) as path, pytest.raises(InputError, match=re.escape(key)):
        imported_from(path, "semseg", "pspnet50")
