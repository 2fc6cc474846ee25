"""A model scored on the chips of a dataset, for whoever wants to know."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.inference.engines.eight_bits import whole_images
from aerial_seg.legend import Legend
from aerial_seg.models.device import to_device
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.training.crops import ChipReader
from aerial_seg.training.manifest import DatasetDocument, Manifest
from aerial_seg.training.validation.chip_scenes import open_chip_scenes
from aerial_seg.training.validation.chips import validate
from aerial_seg.training.validation.ground import ground_of
from aerial_seg.training.validation.monitor import Monitor
from aerial_seg.training.validation.outcome import Outcome, judge
from aerial_seg.training.validation.scenes import validate_scenes


def check_subject(card: ModelCard, document: DatasetDocument) -> None:
    """Raise InputError unless the dataset has the model's classes and bands."""
    known, held = (_subject_of(facts.legend, facts.bands) for facts in (card, document))
    if known != held:
        raise InputError(
            f"the model knows {known}, but the dataset has {held}; evaluate a model trained on such a dataset"
        )


def on_chips(
    model: TrainedModel,
    manifest: Manifest,
    split: str,
    *,
    on: str = "chips",
    target: torch.device,
    emulated: bool = False,
) -> Outcome:
    """Score a model on the chips of a split, or on that ground mapped as scenes.

    emulated: 8-bit weights are computed with as such also where that takes longer than with the numbers they stand for.
    """
    card, ground = model.card, ground_of(manifest, split)
    if on == "scenes":
        with open_chip_scenes(manifest, split, model.network, card) as (scenes, notes):
            tallies = validate_scenes(model.network, scenes, card, device=target, eight_bits=model.eight_bits)
        ground = ground.with_notes(notes)
    else:
        network, notes = whole_images(model, target, emulated=emulated)
        to_device(network, target)
        store = ChipReader(manifest.split(split), card.bands, card.legend)  # each chip is looked at once
        tallies = validate(
            network,
            store,
            classes=len(card.legend),
            device=target,
            bias=card.class_bias,
            names=ground.names,
        )
        ground = ground.with_notes(notes)
    names = card.legend.names
    return judge(
        tallies.ordered(ground.names), ground, names, calibrate=False, monitor=Monitor("miou", names)
    )


def _subject_of(legend: Legend, bands: Sequence[Band]) -> str:
    return f"{', '.join(legend.names)} on {len(bands)} bands of {bands[0].dtype}"
