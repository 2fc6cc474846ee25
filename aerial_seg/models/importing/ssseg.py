"""sssegmentation's FCN, PSPNet and DeepLabv3 on ResNets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from aerial_seg.bands import IMAGENET_BANDS
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork, Outputs, Plan, Training, carry_out
from aerial_seg.models.importing.recognise import (
    ask,
    check_arch,
    find_encoder,
    read_arch,
    require_convolutions,
)
from aerial_seg.recipe.model import ModelSettings

_ARCH = r"(?P<head>fcn|pspnet|deeplabv3)_resnet(?P<depth>50|101|152)os(?P<stride>8|16)(_\w+)?"
_NAMES = "fcn_resnet50os8, pspnet_resnet101os16, deeplabv3_resnet50os8, …"
_REMEDY = (
    f"wanted a checkpoint of sssegmentation's fcn, pspnet or deeplabv3 on resnet50, 101 or 152 ({_NAMES})"
)
_BOTTLENECK = "backbone_net.layer1.0.conv3.weight"
_AUXILIARY_HEAD = "auxiliary_decoder."
_AUXILIARY = "auxiliary_decoder.4.weight"

_STEM = (
    *((f"encoder.conv1.{k}.", f"backbone_net.stem.{k}.") for k in (0, 1, 3, 4, 6)),
    ("encoder.bn1.", "backbone_net.stem.7."),
)
_OUTSIDE_THE_HEAD = (
    ("encoder.", "backbone_net."),
    ("auxiliary.0.0.", "auxiliary_decoder.0."),
    ("auxiliary.0.1.", "auxiliary_decoder.1."),
    ("auxiliary.2.", "auxiliary_decoder.4."),
)
_HEADS = {
    "fcn": (
        ("head.convs.0.0.", "decoder.0."),
        ("head.convs.0.1.", "decoder.1."),
        ("head.convs.1.0.", "decoder.3."),
        ("head.convs.1.1.", "decoder.4."),
        ("head.classify.1.", "decoder.7."),
    ),
    "deeplabv3": (
        ("head.branches.4.conv.", "aspp_net.global_branch.1."),
        ("head.branches.4.norm.", "aspp_net.global_branch.2."),
        ("head.branches.", "aspp_net.parallel_branches."),
        ("head.project.", "aspp_net.bottleneck."),
        ("head.classify.1.", "decoder.1."),
    ),
    "pspnet": (
        ("head.whole.conv.", "ppm_net.branches.0.1."),
        ("head.whole.norm.", "ppm_net.branches.0.2."),
        *((f"head.parts.{k}.1.0.", f"ppm_net.branches.{k + 1}.1.") for k in range(3)),
        *((f"head.parts.{k}.1.1.", f"ppm_net.branches.{k + 1}.2.") for k in range(3)),
        ("head.fuse.", "ppm_net.bottleneck."),
        ("head.classify.1.", "decoder.1."),
    ),
}
"""Beginnings of names, ours and sssegmentation's; the first that fits counts."""
_HEAD_KINDS: Mapping[str, Literal["default", "mmseg", "no-concat"]] = {
    "fcn": "no-concat",
    "deeplabv3": "mmseg",
    "pspnet": "default",
}
_LOGITS = {"fcn": "decoder.7.weight", "deeplabv3": "decoder.1.weight", "pspnet": "decoder.1.weight"}


def import_ssseg(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The checkpoint's network with its weights, whose logits before upsampling are sssegmentation's.

    Images are RGB of 0–255 with ImageNet's mean and std. What no name or shape tells comes from arch, its own name of
    the configuration, or from the file's name where that is one: the output stride, which is asked for, because it
    publishes every network at both. The first block of a dilated stage keeps the rate of the
    stage before; FCN does not see its input again; the auxiliary head is as wide as its tensors say.
    Raises InputError for the weights of another network, SettingsError for a name that contradicts them or is needed.
    """
    named = read_arch(arch, _ARCH, wanted=_NAMES, path=checkpoint.path)
    tensors = checkpoint.tensors
    head = _head_of(checkpoint)
    require_convolutions(checkpoint, (_BOTTLENECK, _LOGITS[head]), remedy=_REMEDY)
    encoder = find_encoder(checkpoint, r"backbone_net\.layer([1-4])\.(\d+)\.", remedy=_REMEDY)
    check_arch(named, head=head, encoder=encoder, path=checkpoint.path)
    if named.stride is None:
        choices = {f"{head}_{encoder}os{stride}": f"output stride {stride}" for stride in (8, 16)}
        raise ask(checkpoint, choices, what=f"sssegmentation's {head} on {encoder}")
    is_deep = "backbone_net.stem.0.weight" in tensors
    has_auxiliary = _AUXILIARY in tensors
    settings = ModelSettings(
        architecture=head,
        encoder=encoder,
        output_stride=named.stride,
        stem="deep32" if is_deep else "7x7",
        dilation_placement="contracted",
        head=_HEAD_KINDS[head],
        auxiliary=has_auxiliary,
        auxiliary_channels=int(tensors[_AUXILIARY].shape[1]) if has_auxiliary else None,
        weights="none",
    )
    names = (*(_STEM if is_deep else ()), *_OUTSIDE_THE_HEAD, *_HEADS[head])
    what = f"sssegmentation's {head}_{encoder}"
    plan = Plan(
        settings,
        IMAGENET_BANDS,
        len(tensors[_LOGITS[head]]),
        names,
        what,
        outputs=Outputs(
            (_LOGITS[head].removesuffix("weight"),), _AUXILIARY_HEAD, _AUXILIARY.removesuffix("weight")
        ),
        training=Training((512, 512)),
        notes=tuple(filter(None, [named.note])),
    )
    return carry_out(plan, checkpoint)


def _head_of(checkpoint: Checkpoint) -> str:
    tensors = checkpoint.tensors
    if "aspp_net.bottleneck.0.weight" in tensors:
        return "deeplabv3"
    return "pspnet" if "ppm_net.bottleneck.0.weight" in tensors else "fcn"
