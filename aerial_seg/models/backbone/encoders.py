"""Encoders by name: the library's, the deepest ResNet of the PSPNet paper, and what a recipe changes about them."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import nn
from torchvision.models.resnet import Bottleneck

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.mentions import setting
from aerial_seg.models.backbone.stages import place_strides
from aerial_seg.models.backbone.stem import deepen_stem, set_ceil_mode
from aerial_seg.recipe.model import ModelSettings

RESNET269 = "resnet269"
"""[3, 30, 48, 8] bottlenecks. Source: Zhao et al. 2017, Pyramid Scene Parsing Network, section 5.1 (PSPNet269)."""

DEPTH = 5
LIBRARY_STRIDES = (8, 16, 32)
"""Output strides that smp and timm can give their encoders."""

_PROBE = 128

_WITH_DEEP_STEM = {"deep32": "c", "deep64": "s"}
"""What timm calls the ResNet with such a stem (resnet101c, resnet101s): gluon's, which mmseg's v1c weights are too."""


def encoder_names() -> tuple[str, ...]:
    """The encoders with a name of their own; all of timm's go by `tu-NAME` besides."""
    return (*smp.encoders.get_encoder_names(), RESNET269)


def check_encoder(name: str) -> None:
    """Raises SettingsError for an unknown encoder, naming the nearest known one."""
    known = encoder_names()
    if name.startswith("tu-"):
        timms = name.removeprefix("tu-")
        if not timm.models.is_model(timms):
            near = did_you_mean(timms.split(".")[0], timm.list_models())
            raise SettingsError(f"timm has no encoder '{timms}'{near}; `timm.list_models()` lists them")
        plain, _, asked = timms.partition(".")
        tags = timm_tags(plain)
        if asked and asked not in tags:
            raise SettingsError(
                f"timm has no weights '{asked}' of {plain}{did_you_mean(asked, tags)}; "
                f"known: {', '.join(tags) or 'none'}"
            )
    elif name not in known:
        raise SettingsError(
            f"there is no encoder '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}, and timm's as tu-NAME"
        )


def timm_tags(plain: str) -> tuple[str, ...]:
    """What timm calls its weights of an encoder, without the encoder's name."""
    return tuple(full.partition(".")[2] for full in timm.list_pretrained(f"{plain}.*"))


def make_encoder(settings: ModelSettings, bands: int) -> Any:
    """The recipe's encoder at output stride 32, with its stem, strides and weights; first-layer weights are spread.

    An encoder of smp: forward(image (N,C,H,W)) gives its feature maps, the image first; out_channels are their widths.
    Raises SettingsError for an unknown encoder, a choice that it cannot have, and weights that cannot be had.
    """
    check_encoder(settings.encoder)
    encoder = _library_encoder(settings, bands) if settings.stem == "7x7" else _deep_encoder(settings, bands)
    place_strides(encoder, settings.stride_placement)
    if settings.ceil_mode:
        set_ceil_mode(encoder)
    return encoder


def deep_stem_weights(settings: ModelSettings) -> str:
    """What timm calls the encoder that has both this stem and these weights. Raises SettingsError where it has none."""
    name = f"{settings.encoder}{_WITH_DEEP_STEM[settings.stem]}.gluon_in1k"
    if settings.weights != "imagenet" or name not in timm.list_pretrained(name):
        raise SettingsError(
            f"model.stem is {settings.stem}, which the {settings.weights} weights of {settings.encoder} have not; "
            'set weights = "none", name a file with weights of that stem, or use resnet50, resnet101 or resnet152, of '
            "which there are imagenet weights with it"
        )
    return name


def _deep_encoder(settings: ModelSettings, bands: int) -> Any:
    """The encoder with a deep stem, and with the weights that timm has of it where the recipe wants some."""
    source = None if settings.weights == "none" else deep_stem_weights(settings)
    # Three bands first, as smp does: it spreads the weights of three over any other number.
    begun = 3 if source else bands
    encoder = _library_encoder(settings.model_copy(update={"weights": "none"}), begun)
    deepen_stem(encoder, settings.stem)
    if source is None:
        return encoder
    try:
        theirs = timm.create_model(source, pretrained=True).state_dict()
    except library_errors() as error:
        raise no_weights(settings) from error
    encoder.load_state_dict(theirs)
    encoder.set_in_channels(bands, pretrained=True)
    return encoder


def make_library_dilated_encoder(settings: ModelSettings, bands: int) -> Any:
    """The recipe's encoder at its output stride, as its own library dilates it.

    For encoders without ResNet stages. Raises SettingsError where the library cannot, or does something else.
    """
    stride = settings.output_stride
    problem = f"{settings.encoder} cannot have output stride {stride}"
    remedy = "use a ResNet, ResNeXt or SE-ResNeXt encoder (resnet18 …), or one of smp's architectures (Unet, FPN, …)"
    if stride not in LIBRARY_STRIDES:
        raise SettingsError(f"{problem}, it has no stages that can be dilated here; {remedy}")
    try:
        encoder = _library_encoder(settings, bands, output_stride=stride)
        actual = _actual_stride(encoder, bands)
    except (NotImplementedError, ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"{problem}: {reason[:200]}; {remedy}") from error
    if actual != stride:
        raise SettingsError(f"{problem}, its library makes it {actual}; {remedy}")
    return encoder


def _actual_stride(encoder: nn.Module, bands: int) -> int:
    was_training = encoder.training
    with torch.no_grad():
        features = encoder.eval()(torch.zeros(1, bands, _PROBE, _PROBE))
    encoder.train(was_training)
    return _PROBE // int(features[-1].shape[-1])


def pretrained_name(settings: ModelSettings) -> str | bool | None:
    """What smp calls the recipe's weights; None for fresh ones."""
    if settings.weights == "none":
        return None
    # timm's names tell the weights themselves.
    return True if settings.encoder.startswith("tu-") else settings.weights


def library_errors() -> tuple[type[Exception], ...]:
    """What the libraries raise when weights cannot be downloaded: transport errors are no OSErrors."""
    from huggingface_hub import errors

    transport: type[Exception] = errors.__dict__["HTTPError"]
    return (OSError, transport)


def _library_encoder(settings: ModelSettings, bands: int, output_stride: int = 32) -> Any:
    if settings.encoder == RESNET269:
        return _resnet269(settings, bands)
    try:
        return smp.encoders.get_encoder(
            settings.encoder,
            in_channels=bands,
            depth=DEPTH,
            weights=pretrained_name(settings),
            output_stride=output_stride,
        )
    except library_errors() as error:
        raise no_weights(settings) from error


def _resnet269(settings: ModelSettings, bands: int) -> Any:
    if settings.weights != "none":
        raise SettingsError(
            f'{RESNET269} has no {settings.weights} weights in the libraries; set weights = "none" or name a file that '
            "holds them"
        )
    widths = [3, 64, 256, 512, 1024, 2048]
    encoder: Any = ResNetEncoder(out_channels=widths, block=Bottleneck, layers=[3, 30, 48, 8])
    encoder.set_in_channels(bands, pretrained=False)
    return encoder


def no_weights(settings: ModelSettings) -> SettingsError:
    """The error for weights that could not be downloaded."""
    return SettingsError(
        f"the {settings.weights} weights of {settings.encoder} could not be downloaded; connect to the internet once, "
        f'or train with {setting("weights", "none")} (weights = "none") or with {setting("weights", "FILE")}'
    )
