"""The head that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from aerial_seg.errors import SettingsError
from aerial_seg.models.heads.aspp import ASPPHead, ASPPSumHead
from aerial_seg.models.heads.cascade import CascadeHead
from aerial_seg.models.heads.decoders import LOW_LEVEL, DeepLabV3PlusHead, GCNHead, Refining
from aerial_seg.models.heads.fcn import AuxiliaryHead, FCNHead, PlainHead
from aerial_seg.models.heads.psp import PSPHead, Pyramid
from aerial_seg.recipe.model import ModelSettings

_V3_RATES, _V3_STRIDE = (6, 12, 18), 16
_V2_RATES, _V2_STRIDE = (6, 12, 18, 24), 8
_LARGEFOV_RATES = (12,)
"""Atrous rates of the papers and the output stride that they are given for."""


def make_head(
    settings: ModelSettings, channels: Sequence[int], classes: int, *, blocks: Sequence[nn.Module]
) -> nn.Module:
    """The recipe's head; channels: of the encoder's feature maps; blocks: a cascade's, for its head to run."""
    inside, dropout, width = channels[-1], settings.dropout, settings.head_channels
    match settings.architecture:
        case "fcn" if settings.head == "torchvision":
            return PlainHead(inside, classes, channels=width, dropout=dropout)
        case "fcn":
            concat = settings.head != "no-concat"
            return FCNHead(
                inside,
                classes,
                channels=width or 512,
                dropout=dropout,
                concat=concat,
                rate=settings.head_rate,
            )
        case "deeplabv2":
            return ASPPSumHead(inside, classes, rates=_rates(settings))
        case "deeplabv3":
            wide = 512 if settings.head == "mmseg" else 256
            return ASPPHead(
                inside,
                classes,
                rates=_rates(settings),
                channels=width or wide,
                dropout=dropout,
                variant=settings.head,
                image_pooling=settings.image_pooling,
            )
        case "deeplabv3-cascade":
            return CascadeHead(blocks, inside, classes, dropout=dropout)
        case "deeplabv3+":
            return _plus(settings, channels, classes)
        case "pspnet":
            return PSPHead(
                inside,
                classes,
                pyramid=Pyramid(settings.bins, settings.pooling, settings.reduce_bins),
                channels=width or 512,
                dropout=dropout,
                align_corners=settings.align_corners,
            )
        case _:
            return GCNHead(channels, classes, kernel=settings.kernel, align_corners=settings.align_corners)


def _plus(settings: ModelSettings, channels: Sequence[int], classes: int) -> DeepLabV3PlusHead:
    separable = settings.head == "mmseg"
    return DeepLabV3PlusHead(
        channels,
        classes,
        rates=_rates(settings),
        channels=settings.head_channels or (512 if separable else 256),
        dropout=settings.dropout,
        align_corners=settings.align_corners,
        refining=Refining(
            low_level=settings.low_level_channels or LOW_LEVEL,
            count=1 if settings.head == "vainf" else 2,
            separable=separable,
        ),
    )


def make_auxiliary(settings: ModelSettings, inside: int, classes: int) -> nn.Module:
    """The recipe's auxiliary head on a feature map of `inside` channels."""
    width = settings.auxiliary_channels
    if settings.head == "torchvision":
        # Its 0.1 stays whatever the main head has.
        return PlainHead(inside, classes, channels=width)
    return AuxiliaryHead(inside, classes, channels=width, dropout=settings.dropout, rate=settings.head_rate)


def _rates(settings: ModelSettings) -> list[int]:
    """Atrous rates at the recipe's output stride: twice as dense, twice the rate."""
    papers: tuple[int, ...]
    if settings.architecture == "deeplabv2":
        papers, stride = _LARGEFOV_RATES if settings.head == "largefov" else _V2_RATES, _V2_STRIDE
    else:
        papers, stride = _V3_RATES, _V3_STRIDE
    rates = settings.aspp_rates or papers
    if settings.head == "largefov" and len(rates) != 1:
        raise SettingsError(
            f"model.head is 'largefov', which has one rate, got aspp_rates {list(rates)}; give one"
        )
    return [max(1, rate * stride // settings.output_stride) for rate in rates]
