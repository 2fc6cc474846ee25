"""torchvision's FCN and DeepLabv3 on ResNet-50 and -101."""

from __future__ import annotations

from aerial_seg.bands import IMAGENET_BANDS
from aerial_seg.errors import InputError
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork, Outputs, Plan, Training, carry_out
from aerial_seg.models.importing.recognise import (
    Arch,
    check_arch,
    find_encoder,
    read_arch,
    require_convolutions,
)
from aerial_seg.models.importing.records import named_in
from aerial_seg.recipe.model import ModelSettings

_STEM = "backbone.conv1.weight"
_MOBILE = "backbone.0.0.weight"
"""The stem of MobileNetV3, whose layers have numbers alone."""
_BOTTLENECK = "backbone.layer1.0.conv3.weight"
_LOGITS = "classifier.4.weight"
_AUXILIARY = "aux_classifier."
_ASPP = "classifier.0.convs.0.0.weight"
_REMEDY = "wanted the state dict of torchvision's " + ", ".join(
    f"{head}_{encoder}" for head in ("fcn", "deeplabv3") for encoder in ("resnet50", "resnet101")
)

_OUTSIDE_THE_HEAD = (
    ("encoder.", "backbone."),
    ("auxiliary.0.0.", "aux_classifier.0."),
    ("auxiliary.0.1.", "aux_classifier.1."),
    ("auxiliary.2.", "aux_classifier.4."),
)
_HEADS = {
    "fcn": (
        ("head.0.0.", "classifier.0."),
        ("head.0.1.", "classifier.1."),
        ("head.2.", "classifier.4."),
    ),
    "deeplabv3": (
        ("head.branches.4.conv.", "classifier.0.convs.4.1."),
        ("head.branches.4.norm.", "classifier.0.convs.4.2."),
        ("head.branches.", "classifier.0.convs."),
        ("head.project.", "classifier.0.project."),
        ("head.classify.1.0.", "classifier.1."),
        ("head.classify.1.1.", "classifier.2."),
        ("head.classify.2.", "classifier.4."),
    ),
}
"""Beginnings of names, ours and torchvision's; the first that fits counts."""


def import_torchvision(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The checkpoint's network with its weights, whose logits before upsampling are torchvision's.

    torchvision upsamples them to the image with align_corners=False. It takes RGB of 0–1 less ImageNet's mean over its
    std, which is what the bands say on 0–255. What no name or shape tells is taken from its builders: output stride 8,
    the first block of a dilated stage at the rate of the stage before, atrous rates 12, 24, 36 at that stride.
    arch: torchvision's name of the network, which is checked.
    Raises InputError for the weights of another network, with the names that do not fit.
    """
    _refuse_others(checkpoint)
    named = read_arch(
        arch,
        r"(?P<head>fcn|deeplabv3)_resnet(?P<depth>50|101)",
        wanted="fcn_resnet50, deeplabv3_resnet101, …",
    )
    settings = _recognise(checkpoint, named)
    classes = len(checkpoint.tensors[_LOGITS])
    names = (*_OUTSIDE_THE_HEAD, *_HEADS[settings.architecture])
    what = f"torchvision's {settings.architecture}_{settings.encoder}"
    outputs = Outputs(("classifier.4.",), _AUXILIARY, f"{_AUXILIARY}4.")
    plan = Plan(
        settings, IMAGENET_BANDS, classes, names, what, outputs=outputs, training=Training((480, 480))
    )
    return carry_out(plan, checkpoint)


def _refuse_others(checkpoint: Checkpoint) -> None:
    """Raises InputError for its networks on MobileNetV3, by the name that its reference trainer keeps, if it does."""
    told = named_in(checkpoint.told.get("args")).get("model")
    if _MOBILE in checkpoint.tensors:
        name = f"{told}, " if isinstance(told, str) else ""
        raise InputError(
            f"{checkpoint.path} is {name}on MobileNetV3, of which no network is made here; {_REMEDY}"
        )


def _recognise(checkpoint: Checkpoint, arch: Arch) -> ModelSettings:
    tensors = checkpoint.tensors
    require_convolutions(checkpoint, (_STEM, _BOTTLENECK, _LOGITS), remedy=_REMEDY)
    encoder = find_encoder(checkpoint, r"backbone\.layer([1-4])\.(\d+)\.", remedy=_REMEDY)
    head = "deeplabv3" if _ASPP in tensors else "fcn"
    check_arch(arch, head=head, encoder=encoder, path=checkpoint.path)
    return ModelSettings(
        architecture=head,
        encoder=encoder,
        output_stride=8,
        head="torchvision",
        dilation_placement="contracted",
        aspp_rates=(6, 12, 18) if head == "deeplabv3" else None,
        dropout=0.5 if head == "deeplabv3" else 0.1,
        auxiliary=any(name.startswith(_AUXILIARY) for name in tensors),
        weights="none",
    )


def torchvision_names(settings: ModelSettings) -> tuple[tuple[str, str], ...]:
    """Beginnings of names, ours and torchvision's, of a network of an architecture that both have."""
    return (*_OUTSIDE_THE_HEAD, *_HEADS.get(settings.architecture, ()))
