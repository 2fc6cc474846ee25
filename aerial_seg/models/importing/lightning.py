"""Lightning checkpoints of torchgeo's and terratorch's segmentation tasks: smp's networks, told by hyper_parameters."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aerial_seg.bands import Band
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.mentions import setting
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork
from aerial_seg.models.importing.records import Record, named_in
from aerial_seg.models.importing.smp import (
    SmpNetworkFacts,
    ask_for_bands,
    carry_out_smp,
    facts_of_name,
)
from aerial_seg.printable import shortened

_TORCHGEO = {
    "unet": "Unet",
    "deeplabv3+": "DeepLabV3Plus",
    "upernet": "UPerNet",
    "segformer": "Segformer",
    "dpt": "DPT",
}
"""What torchgeo's SemanticSegmentationTask calls smp's networks."""
_PARTS_OF_A_TASK: Mapping[str, str] = MappingProxyType({
    "criterion.": "the training's loss",
    "train_metrics.": "the training's scores",
    "val_metrics.": "the training's scores",
    "test_metrics.": "the training's scores",
})  # fmt: skip
_UNSIGNED_BYTES = ("red", "green", "blue")


def import_torchgeo(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The network of a torchgeo SemanticSegmentationTask, whose logits are smp's.

    hyper_parameters tell model, backbone and classes; without them arch does, as unet_resnet50. Three bands without a
    word of them are RGB over 255, as torchgeo's data modules make them unless they say otherwise; others are asked for.
    Raises InputError for another task or network, SettingsError for what is needed.
    """
    told = named_in(checkpoint.told.get("hyper_parameters"))
    if arch is not None:
        facts = facts_of_name(arch)
    else:
        kind = _word(told, "model", checkpoint, arch="unet_resnet50")
        if kind not in _TORCHGEO:
            raise _refusal(checkpoint, "hyper_parameters.model", kind, " or ".join(_TORCHGEO))
        facts = SmpNetworkFacts(_TORCHGEO[kind], _word(told, "backbone", checkpoint, arch="unet_resnet50"))
    if told.get("task") == "multilabel":
        raise _refusal(
            checkpoint, "hyper_parameters.task", "multilabel", "binary or multiclass, one class per pixel"
        )
    return carry_out_smp(
        _completed(facts, "model.", _over_255(checkpoint, told), "torchgeo's data modules"), checkpoint
    )


def import_terratorch(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The network of a terratorch SemanticSegmentationTask that its SMPModelFactory made, whose logits are smp's.

    hyper_parameters.model_args tell model, backbone and options; without them arch does, as unet_resnet50. Bands are
    asked for: terratorch's data modules take their means and deviations from the training's own configuration.
    Raises InputError for another task or factory, SettingsError for what is needed.
    """
    told = named_in(checkpoint.told.get("hyper_parameters"))
    if arch is not None:
        facts = facts_of_name(arch)
    else:
        factory = told.get("model_factory")
        if factory not in (None, "SMPModelFactory"):
            raise _refusal(checkpoint, "hyper_parameters.model_factory", str(factory), "SMPModelFactory")
        arguments = named_in(told.get("model_args"))
        options = {
            key.removeprefix("backbone_smp_"): value
            for key, value in arguments.items()
            if key.startswith("backbone_smp_")
        }
        facts = SmpNetworkFacts(
            _word(arguments, "model", checkpoint, arch="unet_resnet50"),
            _word(arguments, "backbone", checkpoint, arch="unet_resnet50"),
            options=options,
        )
    if not checkpoint.bands:
        raise ask_for_bands(checkpoint, _told_bands(told))
    return carry_out_smp(_completed(facts, "model.smp_model.", (), ""), checkpoint)


def _completed(facts: SmpNetworkFacts, prefix: str, bands: tuple[Band, ...], whose: str) -> SmpNetworkFacts:
    assumed = (
        (
            f"assumed RGB of 0 to 255 divided by 255, as {whose} do unless they say otherwise: pass {setting('bands')} "
            "if it was trained otherwise",
        )
        if bands
        else ()
    )
    return SmpNetworkFacts(
        facts.architecture,
        facts.encoder,
        prefix=prefix,
        options=facts.options,
        bands=bands,
        left_out=_PARTS_OF_A_TASK,
        notes=(*facts.notes, *assumed),
    )


def _over_255(checkpoint: Checkpoint, told: Mapping[str, Any]) -> tuple[Band, ...]:
    if checkpoint.bands or told.get("in_channels", 3) != len(_UNSIGNED_BYTES):
        return ()
    return tuple(Band(name=name, dtype="uint8", mean=0, std=255, p2=0, p98=255) for name in _UNSIGNED_BYTES)


def _told_bands(told: Mapping[str, Any]) -> int:
    arguments = named_in(told.get("model_args"))
    channels, bands = arguments.get("in_channels"), arguments.get("bands")
    if isinstance(channels, int):
        return channels
    return len(bands) if isinstance(bands, list | tuple) else 3


def _word(told: Mapping[str, Any], key: str, checkpoint: Checkpoint, *, arch: str) -> str:
    value = told.get(key)
    if isinstance(value, Record):
        value = next(iter(value.given), None)
    if not isinstance(value, str):
        raise SettingsError(
            f"{checkpoint.path} does not say its {key} in hyper_parameters; pass {setting('arch', arch)} (architecture "
            "and encoder)"
        )
    return value


def _refusal(checkpoint: Checkpoint, key: str, got: str, wanted: str) -> InputError:
    return InputError(
        f"{checkpoint.path} was trained with {key} = {shortened(got)}, of which no network is made here; wanted "
        f"{wanted}"
    )
