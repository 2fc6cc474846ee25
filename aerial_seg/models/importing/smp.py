"""segmentation_models_pytorch's own networks, as it saves them, and as torchgeo's and terratorch's trainings do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import segmentation_models_pytorch as smp

from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.documents import DocumentError, parse_json, read_text
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.mentions import setting
from aerial_seg.models.build import architectures, unknown_options
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork, Outputs, Plan, carry_out
from aerial_seg.models.importing.recognise import require_convolutions
from aerial_seg.models.meta import build_on_meta
from aerial_seg.models.network import encoder_of, first_conv
from aerial_seg.printable import shortened
from aerial_seg.recipe.model import OWN_ARCHITECTURES, ModelSettings

_CONFIG = "config.json"
_LOGITS, _LOGITS_OF_DPT = "segmentation_head.0.", "segmentation_head.head.4."
_CLASSIFIER = "classification_head."
_NAMES = "unet_resnet34, deeplabv3plus_resnet50, fpn_efficientnet-b0, …"
_OF_THE_CLASS = frozenset(
    {"encoder_name", "encoder_weights", "in_channels", "classes", "aux_params", "activation"}
)
"""What of a saved configuration is no option of the network's shape, or has its own place."""


_RENAMED_OPTIONS = {
    "decoder_use_batchnorm": "decoder_use_norm",
    "psp_use_batchnorm": "decoder_use_norm",
    "upscale_mode": "decoder_interpolation",
}
"""Words of smp before 0.5, and today's. Source: their deprecations in smp 0.6."""
_OF_TIMM = re.compile(r"timm-((regnet|res2|resnest|mobilenetv3|gernet)\w*)")
"""Encoders that were classes of smp's own before 0.5 and are timm's own since, one name deeper."""
_OF_DEEPLABV3 = {"decoder.0.": "decoder.aspp.", "decoder.1.": "decoder.conv.", "decoder.2.": "decoder.bn."}
"""Beginnings of its names before 0.5, and today's."""


@dataclass(frozen=True, slots=True)
class SmpNetworkFacts:
    """One of smp's networks, before its weights are looked at.

    prefix: before all its tensors' names. options: keywords of smp's class. bands: () where nobody tells them.
    left_out: beginnings of names that are no part of the network, and why. notes: what was assumed.
    """

    architecture: str
    encoder: str
    prefix: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    bands: tuple[Band, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def import_smp(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The checkpoint's network with its weights, whose logits are segmentation_models_pytorch's.

    What it is comes from the config.json of save_pretrained beside the weights, else from arch: architecture and
    encoder, as unet_resnet34, with smp's defaults. Three bands without a word of them are RGB, normalised as the
    encoder's own weights want it; others are asked for. An activation is left off: it is no part of logits.
    Raises InputError for the weights of another network, SettingsError for a name that is needed or contradicts them.
    """
    facts = _saved(checkpoint) if arch is None else facts_of_name(arch)
    if facts is None:
        raise SettingsError(
            f"{checkpoint.path} has no {_CONFIG} of save_pretrained beside it, and names of tensors do not tell smp's "
            f"networks apart; pass {setting('arch', 'unet_resnet34')} (architecture and encoder: {_NAMES})"
        )
    if facts.prefix == "" and all(name.startswith("model.") for name in checkpoint.tensors):
        facts = replace(facts, prefix="model.")
    return carry_out_smp(facts, checkpoint)


def facts_of_name(arch: str) -> SmpNetworkFacts:
    """What a name as unet_resnet34 says. Raises SettingsError for one of another form."""
    kind, _, encoder = arch.partition("_")
    known = {name.lower(): name for name in architectures() if name not in OWN_ARCHITECTURES}
    if not encoder or kind.lower() not in known:
        raise SettingsError(
            f"{setting('arch')} is '{arch}', wanted smp's architecture and encoder with _ between them ({_NAMES})"
            f"{did_you_mean(kind.lower(), known)}; architectures: {', '.join(known)}"
        )
    note = f"assumed smp's defaults for all options of {known[kind.lower()]}"
    return SmpNetworkFacts(known[kind.lower()], encoder, notes=(note,))


def carry_out_smp(facts: SmpNetworkFacts, checkpoint: Checkpoint) -> ImportedNetwork:
    """The network of these facts with the checkpoint's weights, as import_smp says."""
    facts = _in_todays_words(facts, checkpoint)
    checkpoint, notes = _without(facts, checkpoint)
    checkpoint = _with_todays_names(facts, checkpoint)
    what = f"smp's {facts.architecture} on {facts.encoder}"
    logits = facts.prefix + (_LOGITS_OF_DPT if facts.architecture == "DPT" else _LOGITS)
    require_convolutions(checkpoint, (f"{logits}weight",), remedy=f"wanted a state dict of {what}")
    settings = ModelSettings(
        architecture=facts.architecture, encoder=facts.encoder, options=dict(facts.options), weights="none"
    )
    channels = _channels(settings, facts, checkpoint)
    bands, assumed = _bands(facts, channels, checkpoint)
    plan = Plan(
        settings,
        bands,
        len(checkpoint.tensors[f"{logits}weight"]),
        names=(("model.", facts.prefix),),
        what=what,
        outputs=Outputs((logits,)),
        notes=(*facts.notes, *notes, *assumed),
    )
    return carry_out(plan, checkpoint)


def _saved(checkpoint: Checkpoint) -> SmpNetworkFacts | None:
    """What save_pretrained wrote beside the weights; None where there is nothing."""
    path = checkpoint.path.parent / _CONFIG
    if not path.is_file():
        return None
    try:
        document = parse_json(read_text(path))
    except DocumentError as error:
        raise InputError(
            f"{path} cannot be read ({error}); wanted the {_CONFIG} that save_pretrained wrote"
        ) from error
    kind = document.get("_model_class") if isinstance(document, Mapping) else None
    if not isinstance(kind, str):
        return None
    known = [name for name in architectures() if name not in OWN_ARCHITECTURES]
    if kind not in known:
        raise InputError(
            f"{path} tells the class {kind}, which smp {smp.__version__} does not have{did_you_mean(kind, known)}; "
            f"wanted {', '.join(known)}"
        )
    encoder = document.get("encoder_name")
    if not isinstance(encoder, str):
        raise InputError(f"{path} has no encoder_name; wanted the {_CONFIG} that save_pretrained wrote")
    options = {
        key: value for key, value in document.items() if key not in _OF_THE_CLASS and not key.startswith("_")
    }
    activation = document.get("activation")
    notes = (
        [] if activation is None else [f"its activation {activation} was left off, for logits are before it"]
    )
    return SmpNetworkFacts(kind, encoder, options=options, notes=tuple(notes))


def _in_todays_words(facts: SmpNetworkFacts, checkpoint: Checkpoint) -> SmpNetworkFacts:
    """The facts with the options as this version of smp calls them.

    Raises InputError for an option that it does not have, for the network is another one.
    """
    # The older word wins: smp itself passes it on over the newer one's default.
    older = {_RENAMED_OPTIONS[key]: value for key, value in facts.options.items() if key in _RENAMED_OPTIONS}
    options = {key: value for key, value in facts.options.items() if key not in _RENAMED_OPTIONS} | older
    unknown = unknown_options(facts.architecture, options)
    if unknown:
        told = ", ".join(f"{key} = {shortened(repr(options[key]))}" for key in unknown)
        raise InputError(
            f"{checkpoint.path} is told to be made with {told}, which {facts.architecture} of smp {smp.__version__} "
            "does not have, so that its network may be another one; wanted one of this version's options"
        )
    of_timm = _OF_TIMM.fullmatch(facts.encoder)
    if of_timm is None:
        return replace(facts, options=options)
    encoder = f"tu-{'tf_' if of_timm[2] == 'mobilenetv3' else ''}{of_timm[1]}"
    note = f"its encoder {facts.encoder} is called {encoder} by smp {smp.__version__}"
    return replace(facts, options=options, encoder=encoder, notes=(*facts.notes, note))


def _with_todays_names(facts: SmpNetworkFacts, checkpoint: Checkpoint) -> Checkpoint:
    """The tensors under the names that smp has for them since 0.5."""
    names = dict(_OF_DEEPLABV3) if facts.architecture == "DeepLabV3" else {}
    inside = f"{facts.prefix}encoder.model."
    if facts.encoder.startswith("tu-") and not any(name.startswith(inside) for name in checkpoint.tensors):
        names |= {"encoder.": "encoder.model."}
        if "gernet" in facts.encoder:
            names = {"encoder.stages.": "encoder.model.stages_"} | names

    def today(name: str) -> str:
        bare = name.removeprefix(facts.prefix)
        before = next((one for one in names if bare.startswith(one)), None)
        return name if before is None else f"{facts.prefix}{names[before]}{bare.removeprefix(before)}"

    return replace(checkpoint, tensors={today(name): tensor for name, tensor in checkpoint.tensors.items()})


def _without(facts: SmpNetworkFacts, checkpoint: Checkpoint) -> tuple[Checkpoint, tuple[str, ...]]:
    """The tensors without those that are no part of the network, and a note for each kind."""
    left_out = {f"{facts.prefix}{_CLASSIFIER}": "a classifier of whole images", **facts.left_out}
    tensors, notes = dict(checkpoint.tensors), []
    for beginning, what in left_out.items():
        found = [name for name in tensors if name.startswith(beginning)]
        if found:
            notes.append(f"{len(found)} tensors were left out ({beginning}…): {what}")
            tensors = {name: tensor for name, tensor in tensors.items() if name not in set(found)}
    return replace(checkpoint, tensors=tensors), tuple(notes)


def _channels(settings: ModelSettings, facts: SmpNetworkFacts, checkpoint: Checkpoint) -> int:
    """Bands that the first convolution of the checkpoint takes."""
    if checkpoint.bands:
        return len(checkpoint.bands)
    network = build_on_meta(settings, bands=3, classes=2)
    before, encoder = encoder_of(network)
    first = first_conv(encoder)
    name = next(f"{before}{name}" for name, module in encoder.named_modules() if module is first)
    theirs = f"{facts.prefix}{name.removeprefix('model.')}.weight"
    require_convolutions(checkpoint, (theirs,), remedy=f"wanted a state dict with smp's {facts.encoder}")
    return int(checkpoint.tensors[theirs].shape[1])


def _bands(
    facts: SmpNetworkFacts, channels: int, checkpoint: Checkpoint
) -> tuple[tuple[Band, ...], tuple[str, ...]]:
    """The bands of the training, and what of them was assumed. Raises SettingsError where nobody tells them."""
    if checkpoint.bands:
        return checkpoint.bands, ()
    if facts.bands:
        return facts.bands, ()
    if channels != len(IMAGENET_BANDS):
        raise ask_for_bands(checkpoint, channels)
    bands = _of_the_encoder(facts.encoder)
    told = ", ".join(f"{band.name} mean {band.mean:g}, std {band.std:g}" for band in bands)
    return bands, (
        f"assumed images of 0 to 255, normalised as the weights of {facts.encoder} want it ({told}): pass "
        f"{setting('bands')} if it was trained otherwise",
    )


def ask_for_bands(checkpoint: Checkpoint, channels: int, names: Sequence[str] = ()) -> SettingsError:
    """The error for bands whose normalisation no checkpoint tells. names: what the training calls them, in order."""
    if names:
        what = f"{channels} bands ({', '.join(names)}), and what they were normalised by is not in it"
    else:
        what = f"{channels} bands, and neither their order nor what they were normalised by is in it"
    return SettingsError(
        f"{checkpoint.path} takes {what}; pass {setting('bands')} with name, mean and std of each, in the order and "
        "the units of the training's rasters"
    )


def _of_the_encoder(encoder: str) -> tuple[Band, ...]:
    """As smp's preprocessing for this encoder, on pixels of 0 to 255; ImageNet's where it has none."""
    settings: Mapping[str, Mapping[str, Any]] = smp.encoders.encoders.get(encoder, {}).get(
        "pretrained_settings", {}
    )
    said = settings.get("imagenet") or next(iter(settings.values()), None)
    if said is None or said.get("mean") is None or said.get("std") is None:
        return IMAGENET_BANDS
    scale = 255.0 if (said.get("input_range") or [0, 1])[1] == 1 else 1.0
    names = ("blue", "green", "red") if said.get("input_space") == "BGR" else ("red", "green", "blue")
    return tuple(
        Band(name=name, dtype="uint8", mean=scale * mean, std=scale * std, p2=0, p98=255)
        for name, mean, std in zip(names, said["mean"], said["std"], strict=True)
    )
