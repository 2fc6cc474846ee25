"""Which choice of a recipe concerns which network: one that would do nothing is refused, not ignored."""

from __future__ import annotations

from collections.abc import Mapping

from aerial_seg.errors import SettingsError
from aerial_seg.models.backbone.stages import STAGES
from aerial_seg.recipe.model import OWN_ARCHITECTURES, ModelSettings

_APPLIES: Mapping[str, tuple[str, ...]] = {
    "image_pooling": ("deeplabv3",),
    "last_block": ("deeplabv3-cascade",),
    "bins": ("pspnet",),
    "pooling": ("pspnet",),
    "reduce_bins": ("pspnet",),
    "kernel": ("gcn",),
    "msc": ("deeplabv2",),
    "head_rate": ("fcn",),
    "low_level_channels": ("deeplabv3+",),
}
"""Choices of some of our networks."""

_OWN_ONLY = (
    "head", "stem", "stride_placement", "dilation_placement", "stage_rates", "multi_grid", "multi_grid_rates",
    "ceil_mode", "bn_eps", "deformable", "align_corners", "stretched_side", "auxiliary_channels", "trained_stride",
)  # fmt: skip

_HEADS: Mapping[str, tuple[str, ...]] = {
    "torchvision": ("fcn", "deeplabv3"),
    "mmseg": ("deeplabv3", "deeplabv3+"),
    "vainf": ("deeplabv3+",),
    "no-concat": ("fcn",),
    "largefov": ("deeplabv2",),
}


def check_choices(settings: ModelSettings) -> None:
    """Raises SettingsError for a choice that the architecture does not have, or that contradicts another."""
    architecture = settings.architecture
    is_own = architecture in OWN_ARCHITECTURES
    for name in _OWN_ONLY:
        if not is_own and _is_chosen(settings, name):
            raise SettingsError(_not_for(name, OWN_ARCHITECTURES, architecture))
    for name, own in _APPLIES.items():
        if architecture not in own and _is_chosen(settings, name):
            raise SettingsError(_not_for(name, own, architecture))
    if settings.head != "default" and architecture not in _HEADS[settings.head]:
        raise SettingsError(
            f"model.head is '{settings.head}', which has no {architecture}; leave it out, or use "
            f"{' or '.join(_HEADS[settings.head])}"
        )
    if is_own and settings.options:
        raise SettingsError(
            f"model.options {sorted(settings.options)} are for smp's architectures; {architecture} has choices of its "
            "own (head, head_channels, dilation_placement, multi_grid, dropout, auxiliary, …)"
        )
    _check_together(settings)


def _check_together(settings: ModelSettings) -> None:
    if settings.multi_grid_rates == "absolute" and not settings.multi_grid:
        raise SettingsError(
            "model.multi_grid_rates is 'absolute' without model.multi_grid; give the rates, or leave it out"
        )
    if settings.stride_placement == "last-unit":
        if settings.dilation_placement != "contracted":
            raise SettingsError(
                "model.stride_placement is 'last-unit', which leaves the units before it at their rate; set "
                'dilation_placement = "contracted"'
            )
        if settings.architecture in ("deeplabv3+", "gcn", "deeplabv3-cascade"):
            raise SettingsError(
                f"model.stride_placement is 'last-unit', with which {settings.architecture} cannot be built: no stage "
                "ends at stride 4; leave it at 3x3"
            )
    if settings.trained_stride == settings.output_stride:
        raise SettingsError(
            f"model.trained_stride is {settings.trained_stride}, as is output_stride; leave trained_stride out"
        )
    if settings.stage_rates and len(settings.stage_rates) != len(STAGES):
        raise SettingsError(
            f"model.stage_rates has {len(settings.stage_rates)} rates {list(settings.stage_rates)}, wanted one for "
            f"each of the {len(STAGES)} stages, as [1, 1, 2, 4]"
        )
    if settings.head_rate != 1 and settings.head == "torchvision":
        raise SettingsError(
            'model.head_rate is for the two convolutions of fcn\'s own head, which head = "torchvision" has not; '
            "leave one of them out"
        )
    if settings.kernel % 2 == 0:
        raise SettingsError(
            f"model.kernel is {settings.kernel}, wanted an odd number; try {settings.kernel + 1}"
        )
    if settings.stretched_side is not None and settings.align_corners:
        raise SettingsError(
            f"model.stretched_side is {settings.stretched_side}, which is about cells without align_corners; leave one "
            "of the two out"
        )
    if settings.msc and settings.align_corners:
        raise SettingsError(
            "model.msc scales images by 0.5 and 0.75, which do not keep sides of s·n + 1; leave align_corners out"
        )


def _is_chosen(settings: ModelSettings, name: str) -> bool:
    return bool(getattr(settings, name) != ModelSettings.model_fields[name].default)


def _not_for(name: str, own: tuple[str, ...], architecture: str) -> str:
    whose = "" if architecture in OWN_ARCHITECTURES else " is smp's"
    return f"model.{name} is for {', '.join(own)}, and {architecture}{whose or ' has no use for it'}; leave it out"
