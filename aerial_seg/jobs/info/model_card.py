"""What a colleague asks who is handed a model file: what it is, what it expects, what it says, how it came about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aerial_seg.bands import Band
from aerial_seg.errors import SettingsError
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.tile_choice import choose_tile
from aerial_seg.models.file import ModelCard, TrainedModel, load_on_meta
from aerial_seg.models.network import Network
from aerial_seg.models.receptive_field.field import Reach, ReceptiveField, receptive_field
from aerial_seg.models.validated import Validated
from aerial_seg.recipe.model import OWN_ARCHITECTURES, ModelSettings

_IMPORTED = "imported from "
"""What the data fingerprint of a model begins with that was not trained here."""
_ESSENTIALS = (
    "iterations", "crop", "batch_size", "optimizer", "learning_rate", "weight_decay", "auxiliary_weight",
    "loss", "loss_at", "label_smoothing", "dice_weight", "lovasz_weight", "class_weights", "ema_decay", "seed",
)  # fmt: skip


def model_card(path: Path) -> dict[str, Any]:
    """Return the card of a model file, JSON-ready; the weights are checked but not kept.

    At the top, as long as there is `info`: kind, path, architecture, encoder, parameters (all), output_stride,
    logit_stride, tile_sides, tile_size, classes (name by pixel value), bands (text by name), gsd_m, iteration,
    validation_miou, tool_version, sha256. Below them:

    network: architecture; encoder; choices (settings that differ from their defaults); parameters.network and
        .auxiliary (of the training head); output_stride; logit_stride; origin_step; align_corners; receptive_field.
        receptive_field: side in pixels, null: the whole image; rows and cols (first and last pixel from the cell's
        own, side); halo: context that makes a tile's logits those of the whole image, null: none does; reason of null.
    prediction: what `predict` does unless told otherwise: tile_size, halo, overlap, batch_size in pixels and tiles;
        halo_covers: whether the halo is that of the receptive field; problem, and null before it: why it cannot run.
    input: bands (number from 1, name, dtype, mean, std, p2, p98, scaled: true where the rasters' scale and offset were
        applied, stored_offsets: what they declared where they were not), gsd_m.
    output: classes (channel, value, name, colour, background, bias added to the logits).
    training: origin (trained or imported); source (of imported weights); data; initial_weights; the recipe's
        iterations, crop (side, or height and width), batch_size, optimizer, learning_rate, weight_decay,
        auxiliary_weight, loss, loss_at, label_smoothing, dice_weight, lovasz_weight, class_weights, ema_decay, seed and
        augmentation, all null where the weights were imported.
    validation: miou, iteration; on (chips or scenes), monitor and value (what the checkpoint was chosen by), unit and
        units (what the intervals were drawn from), intervals (95 %, by score), doubts; null in older files.
    eight_bits: null, or of a model of 8-bit weights: layers (how many), kept (layers in float32, with the error that 8
        bits would have), chips, seed, source_sha256, miou and source_miou (on the same validation chips).
    file: bytes, sha256, schema_version, tool_version, data_fingerprint, notes (what loading it left out).

    Raises InputError for a file that `predict` would not take.
    """
    model = load_on_meta(path)
    card, network = model.card, model.network
    field = receptive_field(network, len(card.bands))
    return {
        **_flat(path, model),
        "network": _network(card.recipe.model, network, field),
        "prediction": _prediction(model, field),
        "input": {
            "bands": [{"number": k, **band.model_dump()} for k, band in enumerate(card.bands, start=1)],
            "gsd_m": card.gsd,
        },
        "output": {
            "classes": [
                {"channel": k, **entry.model_dump(), "bias": card.class_bias[k]}
                for k, entry in enumerate(card.legend.entries)
            ]
        },
        "training": _training(card),
        "validation": _validation(card),
        "eight_bits": _eight_bits(card),
        "file": {
            "bytes": path.stat().st_size,
            "sha256": model.sha256,
            "schema_version": card.schema_version,
            "tool_version": card.tool_version,
            "data_fingerprint": card.data_fingerprint,
            "notes": list(model.notes),
        },
    }


def _units(band: Band) -> str:
    """In which units its numbers are, where the rasters said something of it."""
    if band.scaled:
        return " by scale and offset"
    if band.stored_offsets:
        return f" as stored with declared offset {' or '.join(f'{one:.9g}' for one in band.stored_offsets)}"
    return ""


def _flat(path: Path, model: TrainedModel) -> dict[str, Any]:
    """The keys that were there before the card had parts."""
    card, geometry = model.card, model.network.geometry
    plus = " plus 1" if geometry.ends else ""
    return {
        "kind": "model",
        "path": str(path),
        "architecture": card.recipe.model.architecture,
        "encoder": card.recipe.model.encoder,
        "parameters": sum(weight.numel() for weight in model.network.parameters()),
        "output_stride": geometry.output_stride,
        "logit_stride": geometry.logit_stride,
        "tile_sides": f"multiples of {geometry.origin_step}{plus}",
        "tile_size": card.prediction.tile_size,
        "classes": {str(entry.value): entry.name for entry in card.legend.entries},
        "bands": {
            band.name: f"{band.dtype}{_units(band)}, mean {band.mean:.4g}, std {band.std:.4g}"
            for band in card.bands
        },
        "gsd_m": card.gsd,
        "iteration": card.iteration,
        "validation_miou": card.validation_miou,
        "tool_version": card.tool_version,
        "sha256": model.sha256,
    }


def _network(settings: ModelSettings, network: Network, field: ReceptiveField) -> dict[str, Any]:
    geometry = network.geometry
    counts = {"network": 0, "auxiliary": 0}
    for name, weight in network.named_parameters():
        counts["auxiliary" if "auxiliary" in name.split(".") else "network"] += weight.numel()
    # Where training began is told there; files of old name atrous rates whatever the network.
    untold = {"architecture", "encoder", "weights"}
    untold |= set() if settings.architecture in OWN_ARCHITECTURES else {"aspp_rates"}
    chosen = settings.model_dump(mode="json", exclude_defaults=True)
    return {
        "architecture": settings.architecture,
        "encoder": settings.encoder,
        "choices": {name: value for name, value in chosen.items() if name not in untold},
        "parameters": counts,
        "output_stride": geometry.output_stride,
        "logit_stride": geometry.logit_stride,
        "origin_step": geometry.origin_step,
        "align_corners": geometry.align_corners,
        "receptive_field": {
            "side": field.side,
            "rows": _reach(field.rows),
            "cols": _reach(field.cols),
            "halo": field.halo,
            "reason": field.reason,
        },
    }


def _reach(reach: Reach | None) -> dict[str, int] | None:
    return None if reach is None else {"first": reach.first, "last": reach.last, "side": reach.side}


def _prediction(model: TrainedModel, field: ReceptiveField) -> dict[str, Any]:
    wanted = model.card.prediction
    try:
        shape, _ = choose_tile(Ensemble((model,)), tile_size=None, halo=None, overlap=None)
    except SettingsError as error:
        sizes = dict.fromkeys(("halo", "overlap", "halo_covers"))
        return {
            "tile_size": wanted.tile_size,
            **sizes,
            "batch_size": wanted.batch_size,
            "problem": str(error),
        }
    return {
        "tile_size": shape.side,
        "halo": shape.halo,
        "overlap": shape.overlap,
        "halo_covers": field.halo is not None and shape.halo >= field.halo,
        "batch_size": wanted.batch_size,
        "problem": None,
    }


def _validation(card: ModelCard) -> dict[str, Any]:
    told = dict.fromkeys(Validated.model_fields) if card.validated is None else card.validated.model_dump()
    return {"miou": card.validation_miou, "iteration": card.iteration, **told}


def _eight_bits(card: ModelCard) -> dict[str, Any] | None:
    if card.eight_bits is None:
        return None
    told = card.eight_bits.model_dump(exclude={"folded", "biased", "layers"})
    return {"layers": len(card.eight_bits.layers), **told}


def _training(card: ModelCard) -> dict[str, Any]:
    """The recipe's essentials; of imported weights only where they are from, because no recipe made them."""
    recipe, fingerprint = card.recipe, card.data_fingerprint
    if fingerprint.startswith(_IMPORTED):
        nothing = dict.fromkeys(("data", "initial_weights", *_ESSENTIALS, "augmentation"))
        return {"origin": "imported", "source": fingerprint.removeprefix(_IMPORTED), **nothing}
    training = recipe.training.model_dump(mode="json")
    return {
        "origin": "trained",
        "source": None,
        "data": recipe.data.model_dump(mode="json"),
        "initial_weights": recipe.model.weights,
        **{name: training[name] for name in _ESSENTIALS},
        "augmentation": recipe.augmentation.model_dump(mode="json"),
    }
