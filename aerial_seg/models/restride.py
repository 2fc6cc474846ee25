"""A trained network at another output stride: the same weights, the strides and all the rates that belong to it."""

from __future__ import annotations

from dataclasses import replace

from aerial_seg.errors import SettingsError
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import OWN, build_network
from aerial_seg.recipe import ModelSettings


def with_output_stride(model: TrainedModel, output_stride: int) -> TrainedModel:
    """The model with its network rebuilt at this output stride, in evaluation mode; its card says so.

    The network is built anew from its recipe and takes the weights strictly, so the rates of the ASPP follow the
    stride: strides alone would leave it looking half as far. Denser features are close to the old ones, not their
    superset: a dilated stage's first block has the stage's full rate here, though its 3×3 convolution strides.
    The model itself where it already has that stride.

    Raises SettingsError for a network of smp's, whose stride is fixed, and for ASPP rates that are no whole numbers
    at one of the two strides.
    Source: Chen et al. 2017, Rethinking Atrous Convolution, sections 3.3 and 4.2.
    """
    settings = model.card.recipe.model
    if settings.architecture not in OWN:
        stride = model.network.geometry.output_stride
        raise SettingsError(
            f"output stride {output_stride} is asked for, but {settings.architecture} has {stride} and cannot be "
            f"rebuilt at another; use a protocol without output_stride (mmseg), or train one of {', '.join(OWN)}"
        )
    if settings.output_stride == output_stride:
        return model
    wanted = ModelSettings.model_validate(settings.model_dump() | {"output_stride": output_stride})
    _check_rates(settings, output_stride)
    network = build_network(
        wanted.model_copy(update={"weights": "none"}),
        bands=len(model.card.bands),
        classes=len(model.card.legend),
    )
    network.load_state_dict(model.network.state_dict(), strict=True)
    network.eval()
    return replace(model, network=network, card=_card_with(model.card, wanted))


def _check_rates(settings: ModelSettings, output_stride: int) -> None:
    if settings.architecture != "deeplabv3":
        return
    for stride in (settings.output_stride, output_stride):
        uneven = [str(rate) for rate in settings.aspp_rates if rate * 16 % stride]
        if uneven:
            raise SettingsError(
                f"ASPP rates {', '.join(uneven)} (at output stride 16) are no whole numbers at {stride}, so the "
                f"network does not look equally far at {settings.output_stride} and {output_stride}; use a protocol "
                "without output_stride, or train with even aspp_rates"
            )


def _card_with(card: ModelCard, settings: ModelSettings) -> ModelCard:
    return card.model_copy(update={"recipe": card.recipe.model_copy(update={"model": settings})})
