"""mmsegmentation's FCN, PSPNet, DeepLabv3 and DeepLabv3+ on ResNets."""

from __future__ import annotations

from typing import Literal

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.mentions import setting
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import (
    ImportedNetwork,
    Outputs,
    Plan,
    Training,
    carry_out,
    first_block_last,
    without_auxiliary,
)
from aerial_seg.models.importing.mmseg_config import config_of, form_of_config
from aerial_seg.models.importing.mmseg_form import (
    NAMES,
    Form,
    form_of_name,
    published,
    read_form,
)
from aerial_seg.models.importing.recognise import (
    BASIC_ENCODERS,
    ENCODERS,
    ask,
    find_encoder,
    require_convolutions,
)
from aerial_seg.recipe.model import ModelSettings

_REMEDY = (
    "wanted a checkpoint of mmsegmentation's fcn, pspnet, deeplabv3 or deeplabv3plus on resnet18, 50, 101 or 152 "
    f"({NAMES})"
)
_LOGITS = "decode_head.conv_seg."
_AUXILIARY = "auxiliary_head."
_FUSING = {"deeplabv3": "head.project.0.weight", "deeplabv3+": "head.aspp.project.0.weight"}
"""Ours; its inputs are in another order, for their image pooling comes first and ours last."""
_FIRST_BLOCK = "backbone.layer1.0.conv1.weight"
_BOTTLENECK = "backbone.layer1.0.conv3.weight"

_SEPARABLE = (
    ("0", "depthwise_conv.conv"),
    ("1", "depthwise_conv.bn"),
    ("3", "pointwise_conv.conv"),
    ("4", "pointwise_conv.bn"),
)
"""A depthwise separable convolution's parts, ours and theirs."""
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
    "deeplabv3+": (
        ("head.aspp.branches.4.conv.", "decode_head.image_pool.1.conv."),
        ("head.aspp.branches.4.norm.", "decode_head.image_pool.1.bn."),
        ("head.aspp.branches.0.0.", "decode_head.aspp_modules.0.conv."),
        ("head.aspp.branches.0.1.", "decode_head.aspp_modules.0.bn."),
        *(
            (f"head.aspp.branches.{k}.{ours}.", f"decode_head.aspp_modules.{k}.{theirs}.")
            for k in range(1, 4)
            for ours, theirs in _SEPARABLE
        ),
        ("head.aspp.project.0.", "decode_head.bottleneck.conv."),
        ("head.aspp.project.1.", "decode_head.bottleneck.bn."),
        ("head.low_level.0.", "decode_head.c1_bottleneck.conv."),
        ("head.low_level.1.", "decode_head.c1_bottleneck.bn."),
        *(
            (f"head.refine.{k}.{ours}.", f"decode_head.sep_bottleneck.{k}.{theirs}.")
            for k in range(2)
            for ours, theirs in _SEPARABLE
        ),
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

    What no name or shape tells (strides, rates, multi-grid, align_corners, normalisation, crop) is taken from arch, or
    from the configuration that its trainings write beside the weights, or from the file's own name where that is one of
    mmseg's. Without any of these: where mmseg publishes one network of these tensors and so many classes, that one, and
    a note; where it publishes several, they are asked for.
    The first block of a dilated stage keeps the rate of the stage before; in DeepLabv3 and v3+ the image pooling comes
    first in the concatenation, so the fusing convolution's inputs are reordered.
    Raises InputError for the weights of another network, SettingsError for a name that contradicts them, and for one
    that is needed.
    """
    tensors = checkpoint.tensors
    require_convolutions(checkpoint, (_FIRST_BLOCK, f"{_LOGITS}weight"), remedy=_REMEDY)
    pattern = r"backbone\.layer([1-4])\.(\d+)\."
    kinds = ENCODERS if _BOTTLENECK in tensors else BASIC_ENCODERS
    encoder = find_encoder(checkpoint, pattern, remedy=_REMEDY, encoders=kinds)
    head, classes = _head_of(checkpoint), len(tensors[f"{_LOGITS}weight"])
    form, notes = _form(checkpoint, arch, head=head, encoder=encoder)
    is_deep = "backbone.stem.0.weight" in tensors
    stem = (*_OUTSIDE_THE_HEAD, *_DEEP_NORM) if is_deep else ()
    pooled = tensors.get("decode_head.image_pool.1.conv.weight")
    plan = Plan(
        _settings(checkpoint, form, head=head, encoder=encoder),
        bands=form.bands,
        classes=classes,
        names=(*stem, *_REST, *_HEADS[head]),
        what=f"mmsegmentation's {head}_{encoder}",
        reordered={} if pooled is None else {_FUSING[head]: first_block_last(len(pooled))},
        outputs=Outputs((_LOGITS,), _AUXILIARY, f"{_AUXILIARY}conv_seg."),
        training=Training(form.crop, form.threshold),
        notes=notes,
    )
    has_auxiliary = any(name.startswith(_AUXILIARY) for name in tensors)
    if has_auxiliary and form.why_no_auxiliary:
        plan, checkpoint = without_auxiliary(plan, checkpoint, form.why_no_auxiliary)
    return carry_out(plan, checkpoint)


def mmseg_names(settings: ModelSettings) -> tuple[tuple[str, str], ...]:
    """Beginnings of names, ours and mmsegmentation's, of a network of an architecture that both have."""
    stem = () if settings.stem == "7x7" else (*_OUTSIDE_THE_HEAD, *_DEEP_NORM)
    return (*stem, *_REST, *_HEADS.get(settings.architecture, ()))


def _settings(checkpoint: Checkpoint, form: Form, *, head: str, encoder: str) -> ModelSettings:
    tensors = checkpoint.tensors
    is_basic = _BOTTLENECK not in tensors
    width = len(tensors[_widest(head)])
    low_level = tensors.get("decode_head.c1_bottleneck.conv.weight")
    auxiliary = tensors.get(f"{_AUXILIARY}conv_seg.weight")
    placement = (
        "contracted-first"
        if is_basic and form.dilation_placement == "contracted"
        else form.dilation_placement
    )
    kind: Literal["mmseg", "default", "no-concat"] = "mmseg" if head.startswith("deeplabv3") else "default"
    if head == "fcn" and not form.concat:
        kind = "no-concat"
    return ModelSettings(
        architecture=head,
        encoder=encoder,
        output_stride=form.output_stride,
        stem="deep32" if "backbone.stem.0.weight" in tensors else "7x7",
        dilation_placement=placement,
        stage_rates=form.stage_rates,
        multi_grid=form.multi_grid,
        multi_grid_rates="absolute" if form.multi_grid else "unit",
        bn_eps=form.bn_eps,
        head=kind,
        head_channels=None if width == 512 else width,
        head_rate=form.head_rate,
        low_level_channels=None if low_level is None or len(low_level) == 48 else len(low_level),
        aspp_rates=form.aspp_rates,
        bins=form.bins,
        dropout=form.dropout,
        align_corners=form.align_corners,
        auxiliary=auxiliary is not None,
        auxiliary_channels=None if auxiliary is None else int(auxiliary.shape[1]),
        weights="none",
    )


def _form(
    checkpoint: Checkpoint, arch: str | None, *, head: str, encoder: str
) -> tuple[Form, tuple[str, ...]]:
    """What decides the map, from whoever tells it, and what to say of that."""
    path, config = checkpoint.path, config_of(checkpoint)
    named = None if arch is None else read_form(arch)
    if config is not None:
        form = form_of_config(config, path)
        _check(form, f"the configuration in {path}", head=head, encoder=encoder)
        if named is not None:
            _check_same(named, form, path=path)
        read = "strides, rates and crop" if checkpoint.bands else "strides, rates, bands and crop"
        return form, (f"{read} were read from the configuration in the checkpoint",)
    if named is not None:
        _check(named, setting("arch"), head=head, encoder=encoder)
        return named, ()
    by_file = form_of_name(path.stem)
    if by_file is not None:
        _check(by_file, f"the name of {path}", head=head, encoder=encoder)
        return by_file, (f"the network was read from the file's name, {setting('arch', path.stem)}",)
    depth = int(encoder.removeprefix("resnet"))
    classes = len(checkpoint.tensors[f"{_LOGITS}weight"])
    choices = published(head, depth, classes)
    if choices:
        raise ask(checkpoint, choices, what=f"mmsegmentation's {head} on {encoder} with {classes} classes")
    other = setting("arch", f"{head.replace('+', 'plus')}_r{depth}-d16")
    assumed = ["output stride 8", "no multi-grid", "align_corners false"]
    if not checkpoint.bands:
        assumed.append("ImageNet's mean and std of RGB")
    return Form(), (
        f"assumed {', '.join(assumed[:-1])} and {assumed[-1]}, as mmseg publishes it for {classes} classes: pass "
        f"{other} or the name of its configuration if trained otherwise",
    )


def _check(form: Form, who: str, *, head: str, encoder: str) -> None:
    """Raises SettingsError where a name or a configuration tells another network than the tensors are of."""
    told = form.depth and f"resnet{form.depth}"
    for what, said, found in (("head", form.head, head), ("encoder", told, encoder)):
        if said is not None and said != found:
            raise SettingsError(
                f"{who} tells the {what} {said}, but the tensors are of {found}; give that network's own name as "
                f"{setting('arch')}, or leave {setting('arch')} out"
            )


def _check_same(named: Form, form: Form, *, path: object) -> None:
    """Raises SettingsError where arch tells another network than the configuration in the checkpoint."""
    for what in ("head", "depth", "output_stride", "stage_rates", "multi_grid", "align_corners", "head_rate"):
        one, other = getattr(named, what), getattr(form, what)
        if one != other:
            raise SettingsError(
                f"{setting('arch')} tells {what} {one}, but the configuration in {path} has {other}, which it was "
                f"trained with; leave {setting('arch')} out"
            )


def _widest(head: str) -> str:
    """The layer of the head whose outputs are as many as its width."""
    return f"decode_head.{'convs.0' if head == 'fcn' else 'bottleneck'}.conv.weight"


def _head_of(checkpoint: Checkpoint) -> str:
    """Raises InputError for a head that is none of those known here."""
    tensors = checkpoint.tensors
    marks = {
        "deeplabv3+": "decode_head.c1_bottleneck.conv.weight",
        "deeplabv3": "decode_head.image_pool.1.conv.weight",
        "pspnet": "decode_head.psp_modules.0.1.conv.weight",
        "fcn": "decode_head.convs.0.conv.weight",
    }
    head = next((name for name, mark in marks.items() if mark in tensors), None)
    if head is None or _widest(head) not in tensors:
        raise InputError(
            f"{checkpoint.path} is not recognised, it has no decode_head of {', '.join(marks)}; {_REMEDY}"
        )
    return head
