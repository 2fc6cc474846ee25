"""One small interface for every network: image in, logits at a stated stride out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.models.backbone.dilation import dilate
from aerial_seg.models.heads.aspp import ASPPHead
from aerial_seg.models.heads.fcn import AuxiliaryHead, FCNHead, PlainHead
from aerial_seg.models.heads.psp import PSPHead
from aerial_seg.recipe import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry

OWN = ("fcn", "deeplabv3", "pspnet")
_FOR_OWN_ONLY = ("head", "dilation_placement", "multi_grid")
_SET_BY_US = {"encoder_name", "encoder_weights", "in_channels", "classes", "aux_params", "kwargs"}


class Network(nn.Module):
    """A network that states its geometry.

    `forward` takes image (N,C,H,W) float32, normalised, with sides that `geometry` calls valid, and returns logits
    (N,K,H/s,W/s) at its logit stride s. `forward_training` adds the auxiliary logits, or None.
    """

    geometry: ModelGeometry

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,h,w)."""
        raise NotImplementedError

    def forward_training(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """As forward, with the logits of the auxiliary head where the network has one."""
        return self(image), None


class DilatedNetwork(Network):
    """A dilated ResNet with one of our heads and, in training, an auxiliary head on the stage before the last."""

    def __init__(
        self, encoder: nn.Module, head: nn.Module, auxiliary: nn.Module | None, output_stride: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.auxiliary = auxiliary
        self.geometry = ModelGeometry(
            output_stride=output_stride, logit_stride=output_stride, origin_step=output_stride
        )

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H/s,W/s)."""
        logits: Tensor = self.head(self.encoder(image)[-1])
        return logits

    def forward_training(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the head and of the auxiliary head, each at its own stride."""
        features = self.encoder(image)
        side = None if self.auxiliary is None else self.auxiliary(features[-2])
        return self.head(features[-1]), side


class SmpNetwork(Network):
    """Any architecture of segmentation_models_pytorch; its logits come at full resolution.

    Their own upsampling (often align_corners on even sides) does not line up across tiles at a lower stride, so they
    are blended after it: logit stride 1. Origins keep the encoder's whole stride.
    """

    def __init__(self, model: nn.Module, *, output_stride: int, origin_step: int) -> None:
        super().__init__()
        self.model = model
        self.geometry = ModelGeometry(output_stride=output_stride, logit_stride=1, origin_step=origin_step)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H,W)."""
        logits: Tensor = self.model(image)
        return logits


def build_network(settings: ModelSettings, *, bands: int, classes: int) -> Network:
    """A new network with `bands` input bands and `classes` output channels, in training mode.

    Raises SettingsError for an unknown architecture, encoder or option, naming the nearest known one.
    """
    if settings.architecture in OWN:
        if settings.options:
            raise SettingsError(
                f"model.options {sorted(settings.options)} are for smp's architectures; {settings.architecture} "
                "takes head, head_channels, aspp_rates, dilation_placement, multi_grid, dropout and auxiliary"
            )
        return _build_own(settings, bands, classes)
    return _build_smp(settings, bands, classes)


def _build_own(settings: ModelSettings, bands: int, classes: int) -> Network:
    encoder = _encoder(settings, bands)
    dilate(
        encoder,
        settings.output_stride,
        placement=settings.dilation_placement,
        multi_grid=settings.multi_grid,
    )
    *_, before, inside = encoder.out_channels
    head = _head(settings, inside, classes)
    side = _auxiliary(settings, before, classes) if settings.auxiliary else None
    return DilatedNetwork(encoder, head, side, settings.output_stride)


def _auxiliary(settings: ModelSettings, inside: int, classes: int) -> nn.Module:
    if settings.head == "torchvision":
        # Its 0.1 stays whatever the main head has.
        return PlainHead(inside, classes)
    return AuxiliaryHead(inside, classes, dropout=settings.dropout)


def _head(settings: ModelSettings, inside: int, classes: int) -> nn.Module:
    dropout, wanted = settings.dropout, settings.head_channels
    torchvisions = settings.head == "torchvision"
    if settings.architecture == "fcn":
        if torchvisions:
            return PlainHead(inside, classes, channels=wanted, dropout=dropout)
        return FCNHead(inside, classes, channels=wanted or 512, dropout=dropout)
    if settings.architecture == "pspnet":
        if torchvisions:
            raise SettingsError(
                "model.head is 'torchvision', which has no pspnet; leave it out, or use fcn or deeplabv3"
            )
        return PSPHead(inside, classes, channels=wanted or 512, dropout=dropout)
    rates = [max(1, rate * 16 // settings.output_stride) for rate in settings.aspp_rates]
    return ASPPHead(
        inside, classes, rates=rates, channels=wanted or 256, dropout=dropout, refine=torchvisions
    )


def _encoder(settings: ModelSettings, bands: int) -> Any:
    _check_encoder(settings.encoder)
    weights = None if settings.weights == "none" else settings.weights
    try:
        return smp.encoders.get_encoder(settings.encoder, in_channels=bands, depth=5, weights=weights)
    except OSError as error:
        raise _no_weights(settings) from error


def _build_smp(settings: ModelSettings, bands: int, classes: int) -> Network:
    names = architectures()
    by_name = {name.lower(): name for name in names if name not in OWN}
    name = by_name.get(settings.architecture.lower())
    if name is None:
        raise SettingsError(
            f"there is no architecture '{settings.architecture}'{did_you_mean(settings.architecture, names)}; "
            f"known: {', '.join(names)}"
        )
    _check_own_choices(settings)
    _check_encoder(settings.encoder)
    kind = getattr(smp, name)
    _check_options(settings.options, kind)
    weights = None if settings.weights == "none" else settings.weights
    try:
        model = kind(
            encoder_name=settings.encoder,
            encoder_weights=weights,
            in_channels=bands,
            classes=classes,
            **settings.options,
        )
    except OSError as error:
        raise _no_weights(settings) from error
    except (TypeError, ValueError, KeyError) as error:
        raise SettingsError(
            f"{name} with {settings.encoder} cannot be made: {error}; check model.options"
        ) from error
    stride = int(model.encoder.output_stride)
    return SmpNetwork(model, output_stride=stride, origin_step=max(32, stride))


def architectures() -> tuple[str, ...]:
    """The names that a recipe's model.architecture takes: ours, then smp's in alphabetical order."""
    kinds = vars(smp).items()
    theirs = (
        n for n, kind in kinds if inspect.isclass(kind) and issubclass(kind, smp.base.SegmentationModel)
    )
    return (*OWN, *sorted(theirs))


def _check_own_choices(settings: ModelSettings) -> None:
    for name in _FOR_OWN_ONLY:
        if getattr(settings, name) != ModelSettings.model_fields[name].default:
            raise SettingsError(
                f"model.{name} is for {', '.join(OWN)}, and {settings.architecture} is smp's; leave it out"
            )


def _check_options(options: Mapping[str, object], kind: type[nn.Module]) -> None:
    """smp's classes swallow keywords they do not know; a misspelt one must not vanish."""
    known = sorted(set(inspect.signature(kind).parameters) - _SET_BY_US)
    for key in options:
        if key not in known:
            raise SettingsError(
                f"model.options has '{key}', which {kind.__name__} does not know{did_you_mean(key, known)}; "
                f"known: {', '.join(known)}; check model.options"
            )


def _check_encoder(name: str) -> None:
    known = smp.encoders.get_encoder_names()
    if name not in known and not name.startswith("tu-"):
        raise SettingsError(
            f"there is no encoder '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}, and timm's as tu-NAME"
        )


def _no_weights(settings: ModelSettings) -> SettingsError:
    return SettingsError(
        f"the {settings.weights} weights of {settings.encoder} could not be downloaded; "
        'connect to the internet once, or set model.weights = "none" to train from scratch'
    )
