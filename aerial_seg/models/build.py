"""From a recipe to a network: ours by the papers, smp's by name, and every choice checked."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.models.backbone.cascade import further_blocks
from aerial_seg.models.backbone.deformable import deform_stage
from aerial_seg.models.backbone.dilation import MultiGrid, Striding, dilate_stages, set_multi_grid
from aerial_seg.models.backbone.encoders import (
    check_encoder,
    library_errors,
    make_encoder,
    make_library_dilated_encoder,
    no_weights,
    pretrained_name,
)
from aerial_seg.models.backbone.stages import can_dilate, stages_of
from aerial_seg.models.backbone.stem import set_batch_norm_eps
from aerial_seg.models.choices import check_choices
from aerial_seg.models.heads.blocks import Decoder
from aerial_seg.models.heads.build import make_auxiliary, make_head
from aerial_seg.models.network import (
    DilatedNetwork,
    MultiScaleNetwork,
    Network,
    SmpNetwork,
    check_output_stride,
)
from aerial_seg.models.unused import drop_modules, unused_modules
from aerial_seg.models.weights_source import weights_file
from aerial_seg.recipe.model import OWN_ARCHITECTURES, ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry

_SET_BY_US = {"encoder_name", "encoder_weights", "in_channels", "classes", "aux_params", "kwargs"}


def build_network(settings: ModelSettings, *, bands: int, classes: int) -> Network:
    """Build a new network with `bands` input bands and `classes` output channels, in training mode.

    It holds what its logits depend on and nothing else (see unused.py).
    Raises SettingsError for an unknown architecture, encoder or option, naming the nearest known one, and for a choice
    that would do nothing.
    """
    if weights_file(settings) is not None:
        raise SettingsError(
            f"model.weights is the file {settings.weights}, which fills a network that was built with none; build it "
            "so and call start_from"
        )
    network = _build(settings, bands, classes)
    if not network.runs_whole:
        drop_modules(network, _unused(network, settings, bands, classes))
    return network


_UNUSED: dict[tuple[str, int, int, bool], tuple[str, ...]] = {}
"""The modules that a network does without, by settings, bands, classes, and whether it had no weights.

Running a network to see them takes most of the time of loading a small one; they are the same the next time.
"""


def _unused(network: Network, settings: ModelSettings, bands: int, classes: int) -> tuple[str, ...]:
    """The names of what this network does without."""
    key = settings.model_dump_json(), bands, classes, any(weight.is_meta for weight in network.parameters())
    if key not in _UNUSED:
        _UNUSED[key] = unused_modules(network, bands=bands)
    return _UNUSED[key]


def _build(settings: ModelSettings, bands: int, classes: int) -> Network:
    if settings.architecture not in OWN_ARCHITECTURES:
        return _build_smp(settings, bands, classes)
    check_choices(settings)
    if settings.trained_stride is not None:
        before = {"output_stride": settings.trained_stride, "trained_stride": None}
        network = _build(settings.model_copy(update=before), bands, classes)
        network.set_output_stride(settings.output_stride)
        network.take_own_places()
        return network
    return _build_of_one_stride(settings, bands, classes)


def _build_of_one_stride(settings: ModelSettings, bands: int, classes: int) -> Network:
    network = _build_own(settings, bands, classes)
    if settings.bn_eps is not None:
        set_batch_norm_eps(network, settings.bn_eps)
    return MultiScaleNetwork(network) if settings.msc else network


def architectures() -> tuple[str, ...]:
    """List the names that a recipe's model.architecture takes: ours, then smp's in alphabetical order."""
    kinds = vars(smp).items()
    theirs = (
        n for n, kind in kinds if inspect.isclass(kind) and issubclass(kind, smp.base.SegmentationModel)
    )
    return (*OWN_ARCHITECTURES, *sorted(theirs))


def _build_own(settings: ModelSettings, bands: int, classes: int) -> DilatedNetwork:
    encoder = make_encoder(settings, bands)
    if not can_dilate(encoder):
        return _library_dilated(settings, bands, classes)
    blocks = _cascade(settings, encoder)
    stages = [*stages_of(encoder), *blocks]
    if settings.deformable:
        deform_stage(stages[3])
    strides = Striding.of(stages)
    check_output_stride(settings.output_stride, strides)
    dilate_stages(
        strides, settings.output_stride, placement=settings.dilation_placement, rates=settings.stage_rates
    )
    grid = MultiGrid(settings.multi_grid, absolute=settings.multi_grid_rates == "absolute")
    for stage in stages[3:]:
        set_multi_grid(stage, grid)
    head = make_head(settings, encoder.out_channels, classes, blocks=blocks)
    return _assembled(settings, encoder, head, classes, strides)


def _cascade(settings: ModelSettings, encoder: nn.Module) -> list[nn.Module]:
    if settings.architecture != "deeplabv3-cascade":
        return []
    return further_blocks(encoder, settings.last_block - 4)


def _library_dilated(settings: ModelSettings, bands: int, classes: int) -> DilatedNetwork:
    """A network on an encoder without ResNet stages; what only those can have is refused."""
    for name in ("dilation_placement", "stage_rates", "multi_grid", "deformable"):
        if getattr(settings, name) != ModelSettings.model_fields[name].default:
            raise SettingsError(
                f"model.{name} is for ResNets, and {settings.encoder} is dilated by its own library; leave it out, "
                "or use a ResNet, ResNeXt or SE-ResNeXt encoder"
            )
    if settings.architecture == "deeplabv3-cascade":
        raise SettingsError(
            f"deeplabv3-cascade continues a ResNet's last stage, which {settings.encoder} has not; use a ResNet encoder"
        )
    encoder = make_library_dilated_encoder(settings, bands)
    head = make_head(settings, encoder.out_channels, classes, blocks=())
    return _assembled(settings, encoder, head, classes, None)


def _assembled(
    settings: ModelSettings, encoder: Any, head: nn.Module, classes: int, strides: Striding | None
) -> DilatedNetwork:
    side = make_auxiliary(settings, encoder.out_channels[-2], classes) if settings.auxiliary else None
    stride = settings.output_stride
    logit_stride = head.stride if isinstance(head, Decoder) else stride
    geometry = ModelGeometry(
        output_stride=stride,
        logit_stride=logit_stride,
        origin_step=max(stride, logit_stride),
        align_corners=settings.align_corners,
        stretched_side=settings.stretched_side,
    )
    return DilatedNetwork(encoder, head, side, geometry=geometry, strides=strides)


def _build_smp(settings: ModelSettings, bands: int, classes: int) -> Network:
    names = architectures()
    by_name = {name.lower(): name for name in names if name not in OWN_ARCHITECTURES}
    name = by_name.get(settings.architecture.lower())
    if name is None:
        raise SettingsError(
            f"there is no architecture '{settings.architecture}'{did_you_mean(settings.architecture, names)}; "
            f"known: {', '.join(names)}"
        )
    check_choices(settings)
    check_encoder(settings.encoder)
    kind = getattr(smp, name)
    _check_options(settings.options, kind)
    try:
        model = kind(
            encoder_name=settings.encoder,
            encoder_weights=pretrained_name(settings),
            in_channels=bands,
            classes=classes,
            **settings.options,
        )
    except library_errors() as error:
        raise no_weights(settings) from error
    except (TypeError, ValueError, KeyError) as error:
        raise SettingsError(
            f"{name} with {settings.encoder} cannot be made: {error}; check model.options"
        ) from error
    stride = int(model.encoder.output_stride)
    return SmpNetwork(model, output_stride=stride, origin_step=max(32, stride))


def unknown_options(architecture: str, options: Collection[str]) -> tuple[str, ...]:
    """Those of the options that smp's class of this name does not have."""
    known = _options_of(getattr(smp, architecture))
    return tuple(key for key in options if key not in known)


def _options_of(kind: type[nn.Module]) -> list[str]:
    return sorted(set(inspect.signature(kind).parameters) - _SET_BY_US)


def _check_options(options: Mapping[str, object], kind: type[nn.Module]) -> None:
    """smp's classes swallow keywords they do not know; a misspelt one must not vanish."""
    known = _options_of(kind)
    for key in options:
        if key not in known:
            raise SettingsError(
                f"model.options has '{key}', which {kind.__name__} does not know{did_you_mean(key, known)}; "
                f"known: {', '.join(known)}; check model.options"
            )
    if options.get("decoder_use_norm") == "inplace" and find_spec("inplace_abn") is None:
        raise SettingsError(
            "model.options has decoder_use_norm = inplace, which needs the package inplace_abn; install it, or use "
            "batchnorm"
        )
