"""semseg's PSPNet, the PyTorch code of its author."""

from __future__ import annotations

from aerial_seg.bands import IMAGENET_BANDS
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork, Outputs, Plan, Training, carry_out
from aerial_seg.models.importing.recognise import (
    check_arch,
    find_encoder,
    read_arch,
    require_convolutions,
)
from aerial_seg.recipe.model import ModelSettings

_ARCH = r"(?P<head>pspnet)(?P<depth>50|101|152|269)"
_NAMES = "pspnet50, pspnet101, pspnet152 or pspnet269"
_REMEDY = f"wanted a checkpoint of semseg's {_NAMES}"
_LOGITS = "cls.4.weight"
_CITYSCAPES = 19
_CROP, _CITYSCAPES_CROP = (473, 473), (713, 713)
"""As its configurations train: ADE20K and VOC, Cityscapes."""

_PLACES = (
    *((f"encoder.conv1.{k}.", f"layer0.{k}.") for k in (0, 1, 3, 4, 6)),
    ("encoder.bn1.", "layer0.7."),
    ("encoder.", ""),
    ("head.whole.conv.", "ppm.features.0.1."),
    ("head.whole.norm.", "ppm.features.0.2."),
    *((f"head.parts.{k}.1.0.", f"ppm.features.{k + 1}.1.") for k in range(3)),
    *((f"head.parts.{k}.1.1.", f"ppm.features.{k + 1}.2.") for k in range(3)),
    ("head.fuse.0.", "cls.0."),
    ("head.fuse.1.", "cls.1."),
    ("head.classify.1.", "cls.4."),
    ("auxiliary.0.0.", "aux.0."),
    ("auxiliary.0.1.", "aux.1."),
    ("auxiliary.2.", "aux.4."),
)
"""Beginnings of names, ours and semseg's; the first that fits counts."""


def import_semseg(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The checkpoint's network with its weights, whose logits before upsampling are semseg's.

    Images are RGB of 0–255 with ImageNet's mean and std. Output stride 8; every 3×3 of a dilated stage has the full
    rate; cells lie at pixel 8·i (align_corners), so sides are 8·n + 1 (473, 713). arch: its name, which is checked.
    Raises InputError for the weights of another network, SettingsError for a name that contradicts them.
    """
    named = read_arch(arch, _ARCH, wanted=_NAMES)
    require_convolutions(checkpoint, ("layer0.0.weight", "ppm.features.0.1.weight", _LOGITS), remedy=_REMEDY)
    encoder = find_encoder(checkpoint, r"layer([1-4])\.(\d+)\.", remedy=_REMEDY)
    check_arch(named, head="pspnet", encoder=encoder, path=checkpoint.path)
    settings = ModelSettings(
        architecture="pspnet",
        encoder=encoder,
        output_stride=8,
        stem="deep64",
        dilation_placement="full",
        align_corners=True,
        auxiliary="aux.4.weight" in checkpoint.tensors,
        weights="none",
    )
    classes = len(checkpoint.tensors[_LOGITS])
    crop = _CITYSCAPES_CROP if classes == _CITYSCAPES else _CROP
    plan = Plan(
        settings,
        IMAGENET_BANDS,
        classes,
        _PLACES,
        what=f"semseg's pspnet on {encoder}",
        outputs=Outputs(("cls.4.",), "aux.", "aux.4."),
        training=Training(crop),
    )
    return carry_out(plan, checkpoint)
