"""mmsegmentation's FCN, PSPNet and DeepLabv3 on ResNets."""

from __future__ import annotations

from aerial_seg.bands import IMAGENET_BANDS
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork, Plan, carry_out, first_block_last
from aerial_seg.models.importing.recognise import (
    check_arch,
    find_encoder,
    read_arch,
    require_convolutions,
)
from aerial_seg.recipe.model import ModelSettings

_ARCH = r"(?P<head>fcn|pspnet|deeplabv3)_r(?P<depth>50|101|152)b?-d(?P<stride>8|16)(?P<extra>(-mg124|-769)*)"
_NAMES = "fcn_r50-d8, deeplabv3_r101-d16-mg124, pspnet_r50-d8-769, …"
_REMEDY = (
    f"wanted a checkpoint of mmsegmentation's fcn, pspnet or deeplabv3 on resnet50, 101 or 152 ({_NAMES})"
)
_LOGITS = "decode_head.conv_seg.weight"
_BOTTLENECK = "backbone.layer1.0.conv3.weight"
_ABSOLUTE_GRID = (1, 2, 4)

_OUTSIDE_THE_HEAD = (
    ("encoder.conv1.0.", "backbone.stem.0."),
    ("encoder.conv1.1.", "backbone.stem.1."),
    ("encoder.conv1.3.", "backbone.stem.3."),
    ("encoder.conv1.4.", "backbone.stem.4."),
    ("encoder.conv1.6.", "backbone.stem.6."),
)
_DEEP_NORM = (("encoder.bn1.", "backbone.stem.7."),)
_REST = (
    ("encoder.", "backbone."),
    ("auxiliary.0.0.", "auxiliary_head.convs.0.conv."),
    ("auxiliary.0.1.", "auxiliary_head.convs.0.bn."),
    ("auxiliary.2.", "auxiliary_head.conv_seg."),
    ("head.classify.1.", "decode_head.conv_seg."),
)
_HEADS = {
    "fcn": (
        *((f"head.convs.{k}.0.", f"decode_head.convs.{k}.conv.") for k in range(2)),
        *((f"head.convs.{k}.1.", f"decode_head.convs.{k}.bn.") for k in range(2)),
        ("head.fuse.0.", "decode_head.conv_cat.conv."),
        ("head.fuse.1.", "decode_head.conv_cat.bn."),
    ),
    "deeplabv3": (
        ("head.branches.4.conv.", "decode_head.image_pool.1.conv."),
        ("head.branches.4.norm.", "decode_head.image_pool.1.bn."),
        *((f"head.branches.{k}.0.", f"decode_head.aspp_modules.{k}.conv.") for k in range(4)),
        *((f"head.branches.{k}.1.", f"decode_head.aspp_modules.{k}.bn.") for k in range(4)),
        ("head.project.0.", "decode_head.bottleneck.conv."),
        ("head.project.1.", "decode_head.bottleneck.bn."),
    ),
    "pspnet": (
        ("head.whole.conv.", "decode_head.psp_modules.0.1.conv."),
        ("head.whole.norm.", "decode_head.psp_modules.0.1.bn."),
        *((f"head.parts.{k}.1.0.", f"decode_head.psp_modules.{k + 1}.1.conv.") for k in range(3)),
        *((f"head.parts.{k}.1.1.", f"decode_head.psp_modules.{k + 1}.1.bn.") for k in range(3)),
        ("head.fuse.0.", "decode_head.bottleneck.conv."),
        ("head.fuse.1.", "decode_head.bottleneck.bn."),
    ),
}
"""Beginnings of names, ours and mmseg's; the first that fits counts."""


def import_mmseg(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The checkpoint's network with its weights, whose logits before upsampling are mmsegmentation's.

    Images are RGB of 0–255 with ImageNet's mean and std. What no name or shape tells comes from arch, mmseg's own name
    of the configuration: output stride (d8, d16; without arch 8), `-mg124` (its multi-grid takes the place of the
    stage's rate), `-769` (align_corners). The first block of a dilated stage keeps the rate of the stage before;
    DeepLabv3's image pooling comes first in its concatenation, so the fusing convolution's inputs are reordered.
    Raises InputError for the weights of another network, SettingsError for a name that contradicts them.
    """
    named = read_arch(arch, _ARCH, wanted=_NAMES)
    tensors = checkpoint.tensors
    require_convolutions(checkpoint, (_BOTTLENECK, _LOGITS), remedy=_REMEDY)
    encoder = find_encoder(checkpoint, r"backbone\.layer([1-4])\.(\d+)\.", remedy=_REMEDY)
    head = _head_of(checkpoint)
    check_arch(named, head=head, encoder=encoder, path=checkpoint.path)
    is_deep = "backbone.stem.0.weight" in tensors
    has_grid = "-mg124" in named.extra
    settings = ModelSettings(
        architecture=head,
        encoder=encoder,
        output_stride=named.stride or 8,
        stem="deep32" if is_deep else "7x7",
        dilation_placement="contracted",
        multi_grid=_ABSOLUTE_GRID if has_grid else (),
        multi_grid_rates="absolute" if has_grid else "unit",
        head="mmseg" if head == "deeplabv3" else "default",
        align_corners="-769" in named.extra,
        auxiliary="auxiliary_head.conv_seg.weight" in tensors,
        weights="none",
    )
    stem = (*_OUTSIDE_THE_HEAD, *_DEEP_NORM) if is_deep else ()
    pooled = tensors.get("decode_head.image_pool.1.conv.weight")
    plan = Plan(
        settings,
        bands=IMAGENET_BANDS,
        classes=len(tensors[_LOGITS]),
        names=(*stem, *_REST, *_HEADS[head]),
        what=f"mmsegmentation's {head}_{encoder}",
        reordered={} if pooled is None else {"head.project.0.weight": first_block_last(len(pooled))},
    )
    return carry_out(plan, checkpoint)


def _head_of(checkpoint: Checkpoint) -> str:
    tensors = checkpoint.tensors
    if "decode_head.image_pool.1.conv.weight" in tensors:
        return "deeplabv3"
    return "pspnet" if "decode_head.psp_modules.0.1.conv.weight" in tensors else "fcn"


def mmseg_names(settings: ModelSettings) -> tuple[tuple[str, str], ...]:
    """Beginnings of names, ours and mmsegmentation's, of a network of an architecture that both have."""
    stem = () if settings.stem == "7x7" else (*_OUTSIDE_THE_HEAD, *_DEEP_NORM)
    return (*stem, *_REST, *_HEADS.get(settings.architecture, ()))
