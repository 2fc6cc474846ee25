"""models: what can be built and what it costs, without a weight being allocated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import segmentation_models_pytorch as smp
import torch
from torch.utils.flop_counter import FlopCounterMode

from aerial_seg.errors import AerialSegError, SettingsError
from aerial_seg.models.backbone.encoders import RESNET269
from aerial_seg.models.build import architectures
from aerial_seg.models.meta import build_on_meta
from aerial_seg.models.network import Network
from aerial_seg.recipe.model import ModelSettings

SIDE = 512
"""Side of the image that is counted, in pixels: the usual tile."""

_CANNOT = (
    AerialSegError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError
)  # fmt: skip
"""What smp's and timm's constructors and forwards raise for an encoder that does not fit, each in its own way."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Hold the facts of one architecture with one encoder.

    parameters: all that are trained, the auxiliary head included. gflops_per_mpx: 10⁹ floating-point operations of a
    forward per 10⁶ pixels of a 512 × 512 image; a multiply-add counts as two, only convolutions and matrix products
    count, and training heads do not. output_stride: how far the encoder shrinks; logit_stride: pixels per logit cell.
    problem: why it cannot be built, all numbers being None then, or why it cannot run that image and has no GFLOPs.
    """

    architecture: str
    parameters: int | None = None
    gflops_per_mpx: float | None = None
    output_stride: int | None = None
    logit_stride: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class EncoderFacts:
    """Name one encoder as recipes do; weights: the pretrained ones that can be downloaded."""

    name: str
    family: str
    weights: tuple[str, ...]


def list_models(encoder: str = "resnet18", *, bands: int = 3, classes: int = 2) -> tuple[ModelFacts, ...]:
    """List every architecture with this encoder, ours first, then smp's; those that cannot be built say why.

    Raises SettingsError for numbers below 1 and for an encoder with which nothing can be built.
    """
    for name, value in (("bands", bands), ("classes", classes)):
        if value < 1:
            raise SettingsError(f"{name} must be at least 1, got {value}")
    rows = tuple(_facts(name, encoder, bands, classes) for name in architectures())
    if all(row.parameters is None for row in rows):
        raise SettingsError(f"no architecture can be built with {encoder}: {rows[0].problem}")
    return rows


def list_encoders() -> tuple[EncoderFacts, ...]:
    """List the encoders with a name of their own; all of timm's go by `tu-NAME` besides."""
    libraries = {
        name: EncoderFacts(
            name=name,
            family=entry["encoder"].__name__.removesuffix("Encoder"),
            weights=tuple(entry["pretrained_settings"]),
        )
        for name, entry in smp.encoders.encoders.items()
    }
    ours = {RESNET269: EncoderFacts(name=RESNET269, family="ResNet", weights=())}
    return tuple(facts for _, facts in sorted((libraries | ours).items()))


def _facts(architecture: str, encoder: str, bands: int, classes: int) -> ModelFacts:
    settings = ModelSettings(architecture=architecture, encoder=encoder)
    try:
        network = build_on_meta(settings, bands=bands, classes=classes)
    except _CANNOT as error:
        return ModelFacts(architecture=architecture, problem=_one_line(error))
    built = ModelFacts(
        architecture=architecture,
        parameters=sum(weight.numel() for weight in network.parameters()),
        output_stride=network.geometry.output_stride,
        logit_stride=network.geometry.logit_stride,
    )
    side = network.geometry.nearest_valid_sides(SIDE)[1]
    try:
        return replace(built, gflops_per_mpx=_flops(network, bands, side) / side**2 / 1e3)
    except _CANNOT as error:
        return replace(
            built, problem=f"takes no image of {side} px ({_one_line(error)}); use another encoder"
        )


def _flops(network: Network, bands: int, side: int) -> int:
    """Floating-point operations of one image's forward."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, bands, side, side, device="meta"))
    return int(counter.get_total_flops())


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, AerialSegError) else f"{type(error).__name__}: {text}"
