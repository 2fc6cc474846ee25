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
_OF_REGRESSION = frozenset({"mse", "rmse", "mae", "huber"})
"""Losses of tasks whose single output is a number, not a class; their networks are smp's as well."""
_OTHER_TASKS = ("Regression", "ChangeDetection")
_OPTION, _OLDER_OPTION = "smp_", "backbone_smp_"
"""Before smp's keywords in terratorch's model_args. Source: SMPModelFactory.build_model; the second is of its versions
that took `smp_` out of what begins with `backbone_`."""


def import_torchgeo(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The network of a torchgeo SemanticSegmentationTask, whose logits are smp's.

    hyper_parameters tell model, backbone and classes; without them arch does, as unet_resnet50. Three bands without a
    word of them are RGB over 255, as torchgeo's data modules make them unless they say otherwise; others are asked for.
    Raises InputError for another task or network, SettingsError for what is needed.
    """
    told = _segmentation(checkpoint)
    # Until its version 0.4 they were called otherwise.
    model, encoder = (
        ("segmentation_model", "encoder_name") if "segmentation_model" in told else ("model", "backbone")
    )
    if arch is not None:
        facts = facts_of_name(arch)
    else:
        kind = _word(told, model, checkpoint, arch="unet_resnet50")
        if kind not in _TORCHGEO:
            raise _refusal(checkpoint, f"hyper_parameters.{model}", kind, " or ".join(_TORCHGEO))
        facts = SmpNetworkFacts(_TORCHGEO[kind], _word(told, encoder, checkpoint, arch="unet_resnet50"))
    if told.get("task") == "multilabel":
        raise _refusal(
            checkpoint, "hyper_parameters.task", "multilabel", "binary or multiclass, one class per pixel"
        )
    notes = _ignored(told, told.get("num_classes"))
    return carry_out_smp(_completed(facts, "model.", _over_255(checkpoint, told), notes=notes), checkpoint)


def import_terratorch(checkpoint: Checkpoint, arch: str | None = None) -> ImportedNetwork:
    """The network of a terratorch SemanticSegmentationTask that its SMPModelFactory made, whose logits are smp's.

    hyper_parameters.model_args tell model, backbone and options; without them arch does, as unet_resnet50. Bands are
    asked for, in the order that model_args names: terratorch's data modules take their means and deviations from the
    training's own configuration, which is in no checkpoint.
    Raises InputError for another task or factory, SettingsError for what is needed, and for bands in another order.
    """
    told = _segmentation(checkpoint)
    arguments = named_in(told.get("model_args"))
    if arch is not None:
        facts = facts_of_name(arch)
    else:
        factory = told.get("model_factory")
        if factory not in (None, "SMPModelFactory"):
            raise _refusal(checkpoint, "hyper_parameters.model_factory", str(factory), "SMPModelFactory")
        options, notes = _options(arguments)
        facts = SmpNetworkFacts(
            _word(arguments, "model", checkpoint, arch="unet_resnet50"),
            _word(arguments, "backbone", checkpoint, arch="unet_resnet50"),
            options=options,
            notes=notes,
        )
    names = _band_names(arguments)
    if not checkpoint.bands:
        raise ask_for_bands(checkpoint, _told_bands(arguments, names), names)
    notes = _ignored(told, arguments.get("num_classes")) + _check_order(checkpoint, names)
    return carry_out_smp(_completed(facts, "model.smp_model.", (), notes=notes), checkpoint)


def _segmentation(checkpoint: Checkpoint) -> Mapping[str, object]:
    """hyper_parameters by name. Raises InputError for those of a task whose outputs are no classes of one image."""
    told = named_in(checkpoint.told.get("hyper_parameters"))
    # Lightning's command line keeps the task's class.
    kind = str(told.get("_class_path", ""))
    if any(other in kind.rpartition(".")[2] for other in _OTHER_TASKS):
        raise _refusal(checkpoint, "hyper_parameters._class_path", kind, "a SemanticSegmentationTask")
    loss = told.get("loss")
    if isinstance(loss, str) and loss in _OF_REGRESSION:
        raise _refusal(
            checkpoint, "hyper_parameters.loss", f"{loss}, a regression's", "a SemanticSegmentationTask"
        )
    return told


def _options(arguments: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """smp's keywords in model_args, and what to say of those that only some versions of terratorch read."""
    older, newer = (
        {key.removeprefix(before): value for key, value in arguments.items() if key.startswith(before)}
        for before in (_OLDER_OPTION, _OPTION)
    )
    if not older:
        return newer, ()
    return {**older, **newer}, (
        f"model_args.{_OLDER_OPTION}… ({', '.join(older)}) were taken as smp's options, as terratorch read them once; "
        f"its later versions pass them over and read {_OPTION}… instead",
    )


def _ignored(told: Mapping[str, object], classes: object) -> tuple[str, ...]:
    """What to say where one of the classes was the training's ignore_index."""
    index = told.get("ignore_index")
    if not isinstance(index, int) or not isinstance(classes, int) or not 0 <= index < classes:
        return ()
    return (
        f"class {index} was the training's ignore_index: its pixels were passed over, so where the map says {index} "
        "nothing was learnt",
    )


def _band_names(arguments: Mapping[str, object]) -> tuple[str, ...]:
    """What model_args calls the bands, as words: HLSBands by their values, numbers as they are."""
    bands = arguments.get("bands")
    if not isinstance(bands, list | tuple):
        return ()
    return tuple(str(next(iter(band.given), "?") if isinstance(band, Record) else band) for band in bands)


def _check_order(checkpoint: Checkpoint, names: tuple[str, ...]) -> tuple[str, ...]:
    """What the training calls the bands. Raises SettingsError where they are given in another order."""
    given, told = [band.name.lower() for band in checkpoint.bands], [name.lower() for name in names]
    if given != told and sorted(given) == sorted(told):
        raise SettingsError(
            f"{setting('bands')} has {', '.join(given)}, but {checkpoint.path} was trained on {', '.join(told)}; give "
            "them in that order"
        )
    if not told or given == told:
        return ()
    return (f"its training calls the bands {', '.join(names)}; they were given as {', '.join(given)}",)


def _completed(
    facts: SmpNetworkFacts, prefix: str, bands: tuple[Band, ...], *, notes: tuple[str, ...]
) -> SmpNetworkFacts:
    assumed = (
        (
            "assumed RGB of 0 to 255 divided by 255, as torchgeo's data modules do unless they say otherwise: pass "
            f"{setting('bands')} if it was trained otherwise",
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
        notes=(*facts.notes, *notes, *assumed),
    )


def _over_255(checkpoint: Checkpoint, told: Mapping[str, Any]) -> tuple[Band, ...]:
    if checkpoint.bands or told.get("in_channels", 3) != len(_UNSIGNED_BYTES):
        return ()
    return tuple(Band(name=name, dtype="uint8", mean=0, std=255, p2=0, p98=255) for name in _UNSIGNED_BYTES)


def _told_bands(arguments: Mapping[str, object], names: tuple[str, ...]) -> int:
    channels = arguments.get("in_channels")
    return channels if isinstance(channels, int) else len(names) or 3


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
