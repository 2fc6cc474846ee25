"""deeplab-pytorch's DeepLabv2, with or without its multi-scale wrapper."""

from __future__ import annotations

from aerial_seg.bands import Band
from aerial_seg.mentions import setting
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork, Outputs, Plan, Training, carry_out
from aerial_seg.models.importing.recognise import (
    check_arch,
    find_encoder,
    read_arch,
    require_convolutions,
)
from aerial_seg.recipe.model import ModelSettings

_ARCH = r"(?P<head>deeplabv2)s?_resnet(?P<depth>50|101|152)(?P<extra>(_msc)?)"
_NAMES = "deeplabv2_resnet101_msc or deeplabv2_resnet101"
_SMALL = "deeplabv2s"
_SMALL_RATES = (3, 6, 9, 12)
"""Of its variant DeepLabV2S. Source: read in libs/models/__init__.py."""
_REMEDY = f"wanted a checkpoint of deeplab-pytorch's {_NAMES}"
_WRAPPER = "base."

_CAFFE_BANDS = tuple(
    Band(name=name, dtype="uint8", mean=mean, std=1.0, p2=0, p98=255)
    for name, mean in (("blue", 104.008), ("green", 116.669), ("red", 122.675))
)
"""BGR of 0–255 less its mean, as the Caffe models were trained."""

_UNITS = {
    "conv1.": "reduce.conv.",
    "bn1.": "reduce.bn.",
    "conv2.": "conv3x3.conv.",
    "bn2.": "conv3x3.bn.",
    "conv3.": "increase.conv.",
    "bn3.": "increase.bn.",
    "downsample.0.": "shortcut.conv.",
    "downsample.1.": "shortcut.bn.",
}
_MOST_UNITS = 36
_CROP = 321
"""Side of the training crops. Source: read in its configs, IMAGE.SIZE.TRAIN; the lattice is stretched over them by
labels that are resized to it (main.py, resize_labels), and over images by interpolate with align_corners=False."""


def import_deeplab_pytorch(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The checkpoint's network with its weights, whose logits before upsampling are deeplab-pytorch's.

    Images are BGR of 0–255 less their mean. Output stride 8, the first 1×1 of a strided stage strides, dilated stages
    have the full rate, the max-pool counts a half-filled window, four 3×3 convolutions of rates 6, 12, 18, 24 are
    added; its variant of rates 3, 6, 9, 12 has the same tensors and has to be told (deeplabv2s_resnet101_msc). The 41
    cells of its training crops of 321 px were stretched over these. The multi-scale wrapper (image at 1,
    0.75 and 0.5, largest logit) is there where names begin with `base.`, or as arch tells: deeplabv2_resnet101_msc,
    deeplabv2_resnet101.
    Raises InputError for the weights of another network, SettingsError for a name that contradicts them.
    """
    named = read_arch(arch, _ARCH, wanted=_NAMES)
    is_wrapped = all(name.startswith(_WRAPPER) for name in checkpoint.tensors)
    theirs = _WRAPPER if is_wrapped else ""
    logits = f"{theirs}aspp.c0.weight"
    require_convolutions(checkpoint, (f"{theirs}layer1.conv1.conv.weight", logits), remedy=_REMEDY)
    encoder = find_encoder(checkpoint, theirs + r"layer([2-5])\.block(\d+)\.", remedy=_REMEDY)
    check_arch(named, head="deeplabv2", encoder=encoder, path=checkpoint.path)
    is_small = arch is not None and arch.startswith(_SMALL)
    settings = ModelSettings(
        architecture="deeplabv2",
        encoder=encoder,
        output_stride=8,
        stride_placement="1x1",
        dilation_placement="full",
        ceil_mode=True,
        aspp_rates=_SMALL_RATES if is_small else None,
        stretched_side=_CROP,
        msc=is_wrapped if arch is None else named.extra == "_msc",
        auxiliary=False,
        weights="none",
    )
    classes = len(checkpoint.tensors[logits])
    names = _names("base." if settings.msc else "", theirs)
    what = f"deeplab-pytorch's DeepLabv2 on {encoder}"
    outputs = Outputs(tuple(f"{theirs}aspp.c{k}." for k in range(4)))
    training = Training((_CROP, _CROP))
    notes = () if arch is not None else (_assumption(encoder, is_wrapped),)
    plan = Plan(settings, _CAFFE_BANDS, classes, names, what, outputs=outputs, training=training, notes=notes)
    return carry_out(plan, checkpoint)


def _assumption(encoder: str, is_wrapped: bool) -> str:
    other = setting("arch", f"{_SMALL}_{encoder}{'_msc' if is_wrapped else ''}")
    rates = ", ".join(map(str, _SMALL_RATES))
    return (
        f"assumed atrous rates 6, 12, 18, 24, of which all its published models are: pass {other} for {rates}"
    )


def _names(ours: str, theirs: str) -> list[tuple[str, str]]:
    """Beginnings of names, ours and theirs, behind what wraps either."""
    units = [
        (f"{ours}encoder.layer{stage}.{unit}.{here}", f"{theirs}layer{stage + 1}.block{unit + 1}.{there}")
        for stage in range(1, 5)
        for unit in range(_MOST_UNITS)
        for here, there in _UNITS.items()
    ]
    return [
        (f"{ours}encoder.conv1.", f"{theirs}layer1.conv1.conv."),
        (f"{ours}encoder.bn1.", f"{theirs}layer1.conv1.bn."),
        *units,
        (f"{ours}head.branches.", f"{theirs}aspp.c"),
    ]
