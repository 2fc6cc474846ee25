"""DeepLabV3Plus-Pytorch's DeepLabv3 and DeepLabv3+ on ResNets (VainF's code)."""

from __future__ import annotations

from aerial_seg.bands import IMAGENET_BANDS
from aerial_seg.errors import InputError
from aerial_seg.mentions import setting
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import (
    ImportedNetwork,
    Outputs,
    Plan,
    Training,
    carry_out,
    first_block_last,
)
from aerial_seg.models.importing.recognise import (
    check_arch,
    find_encoder,
    read_arch,
    require_convolutions,
)
from aerial_seg.recipe.model import ModelSettings

_ARCH = (
    r"((best|latest)_)?(?P<head>deeplabv3plus|deeplabv3)_resnet(?P<depth>50|101)(_(voc|cityscapes))?"
    r"(_os(?P<stride>8|16))?"
)
_NAMES = "deeplabv3plus_resnet101_os16, deeplabv3_resnet50_os8, …"
_REMEDY = (
    f"wanted a checkpoint of DeepLabV3Plus-Pytorch's deeplabv3 or deeplabv3plus on resnet50 or 101 ({_NAMES})"
)
_STEM, _BOTTLENECK = "backbone.conv1.weight", "backbone.layer1.0.conv3.weight"
_LOW_LEVEL = "classifier.project.0.weight"
_CROP = 513
_CITYSCAPES = 19
_OUTPUTS = {"deeplabv3": "classifier.classifier.4.", "deeplabv3plus": "classifier.classifier.3."}
_NAMES_OF = {
    "deeplabv3": (
        ("encoder.", "backbone."),
        ("head.branches.4.conv.", "classifier.classifier.0.convs.4.1."),
        ("head.branches.4.norm.", "classifier.classifier.0.convs.4.2."),
        ("head.branches.", "classifier.classifier.0.convs."),
        ("head.project.", "classifier.classifier.0.project."),
        ("head.classify.1.0.", "classifier.classifier.1."),
        ("head.classify.1.1.", "classifier.classifier.2."),
        ("head.classify.2.", "classifier.classifier.4."),
    ),
    "deeplabv3plus": (
        ("encoder.", "backbone."),
        ("head.aspp.branches.4.conv.", "classifier.aspp.convs.4.1."),
        ("head.aspp.branches.4.norm.", "classifier.aspp.convs.4.2."),
        ("head.aspp.branches.", "classifier.aspp.convs."),
        ("head.aspp.project.", "classifier.aspp.project."),
        ("head.low_level.", "classifier.project."),
        ("head.refine.0.", "classifier.classifier."),
        ("head.classify.1.", "classifier.classifier.3."),
    ),
}
"""Beginnings of names, ours and DeepLabV3Plus-Pytorch's; the first that fits counts."""


def import_vainf(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The checkpoint's network with its weights, whose logits before upsampling are DeepLabV3Plus-Pytorch's.

    Images are RGB of 0–255 with ImageNet's mean and std. The output stride comes from arch or from the file's name
    (best_deeplabv3plus_resnet50_voc_os16.pth), else it is 16, with which its training program begins and of which all
    its published results are, and a note says so. The first block of a dilated stage keeps the rate of the stage
    before; DeepLabv3+ refines by one 3×3 convolution over the low-level features and the pyramid's, in that order.
    Raises InputError for the weights of another network, SettingsError for a name that contradicts them.
    """
    named = read_arch(arch, _ARCH, wanted=_NAMES, path=checkpoint.path)
    tensors = checkpoint.tensors
    head = "deeplabv3plus" if _LOW_LEVEL in tensors else "deeplabv3"
    _refuse_others(checkpoint)
    logits = _OUTPUTS[head]
    require_convolutions(checkpoint, (_STEM, _BOTTLENECK, f"{logits}weight"), remedy=_REMEDY)
    encoder = find_encoder(checkpoint, r"backbone\.layer([1-4])\.(\d+)\.", remedy=_REMEDY)
    check_arch(named, head=head, encoder=encoder, path=checkpoint.path)
    classes = len(tensors[f"{logits}weight"])
    stride = named.stride or 16
    assumed = () if named.stride else (_assumption(head, encoder),)
    low_level = len(tensors[_LOW_LEVEL]) if _LOW_LEVEL in tensors else 0
    settings = ModelSettings(
        architecture="deeplabv3+" if low_level else "deeplabv3",
        encoder=encoder,
        output_stride=stride,
        head="vainf" if low_level else "torchvision",
        dilation_placement="contracted",
        # Theirs drops out in the pyramid, before the refinement, which no prediction sees.
        dropout=0.1,
        # Its crops of VOC are stride·n + 1 pixels wide, and its logits are stretched over them.
        stretched_side=None if classes == _CITYSCAPES else _CROP,
        auxiliary=False,
        weights="none",
    )
    plan = Plan(
        settings,
        IMAGENET_BANDS,
        classes,
        _NAMES_OF[head],
        what=f"DeepLabV3Plus-Pytorch's {head} on {encoder}",
        reordered={"head.refine.0.0.weight": first_block_last(low_level)} if low_level else {},
        outputs=Outputs((logits,)),
        training=Training((768, 768) if classes == _CITYSCAPES else (_CROP, _CROP)),
        notes=(*filter(None, [named.note]), *assumed),
    )
    return carry_out(plan, checkpoint)


def _assumption(head: str, encoder: str) -> str:
    other = setting("arch", f"{head}_{encoder}_os8")
    return (
        f"assumed output stride 16, its training program's first choice: pass {other} if it was trained at 8"
    )


def _refuse_others(checkpoint: Checkpoint) -> None:
    """Raises InputError for its other encoders and heads, which are told by their names."""
    for mark, what in (
        ("backbone.low_level_features.", "MobileNetV2, whose padding comes before its 1×1 convolutions"),
        ("backbone.high_level_features.", "MobileNetV2, whose padding comes before its 1×1 convolutions"),
        ("backbone.stage4.", "HRNet"),
    ):
        if any(name.startswith(mark) for name in checkpoint.tensors):
            raise InputError(f"{checkpoint.path} is on {what}, of which no network is made here; {_REMEDY}")
    if any(".body." in name for name in checkpoint.tensors):
        raise InputError(
            f"{checkpoint.path} was trained with separable convolutions (its option separable_conv), of which no "
            f"network is made here; {_REMEDY}"
        )
