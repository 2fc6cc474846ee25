"""How a run's recipe has checkpoints judged: on chips or on scenes, by which score, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from aerial_seg.errors import SettingsError
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.tile_choice import choose_tile
from aerial_seg.jobs.train.data import Dataset, ValidationData
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.validation.monitor import LOSS, Monitor, require_validation
from aerial_seg.training.validation.outcome import ValidationGround
from aerial_seg.training.validation.validator import ChipValidator, SceneValidator, Validator
from aerial_seg.version import __version__


@contextmanager
def open_validator(dataset: Dataset, recipe: Recipe, network: Network) -> Iterator[Validator | None]:
    """Inside, the network can be judged as the recipe wants it; None where there is nothing to judge it on.

    Raises SettingsError for a score that validation does not tell, and for settings that cannot apply.
    """
    training, data, store = recipe.training, dataset.validation, dataset.data.val
    monitor = Monitor(training.monitor, dataset.legend.names)
    if store is None:
        require_validation(
            monitor=training.monitor, patience=training.patience, validate_on=training.validate_on
        )
        yield None
        return
    if (
        data is None or data.ground.names != dataset.data.val_names
    ):  # training chips, tried whether they are learnt
        ground = ValidationGround(dataset.data.val_names, dataset.data.val_names, "chip")
        if training.validate_on != "chips":
            raise SettingsError(
                f"training.validate_on is {training.validate_on}, but the chips that are validated on lie in no "
                'scenes; use training.validate_on = "chips"'
            )
    else:
        ground = data.ground
        _require_class(monitor, data)
    names, calibrate = dataset.legend.names, training.calibrate
    if data is None or training.validate_on == "chips":
        yield ChipValidator(store, ground, names, monitor, calibrate)
        return
    if monitor.name == LOSS:
        raise SettingsError(
            'training.monitor is loss, which is not known of scenes; use "miou", or training.validate_on = "chips"'
        )
    card = _card(dataset, recipe)
    model = TrainedModel(network=network, card=card, sha256="")
    shape, _ = choose_tile(Ensemble((model,)), tile_size=None, halo=None, overlap=None)
    with TemporaryDirectory() as folder:
        scenes, notes = data.scenes(Path(folder), shape.side)
        yield SceneValidator(scenes, ground.with_notes(notes), card, monitor, calibrate)


def _require_class(monitor: Monitor, data: ValidationData) -> None:
    """A class that no validation pixel is of has no score, and no checkpoint would ever be better than another."""
    name = monitor.of_class
    if name is not None and data.class_pixels is not None and not data.class_pixels.get(name):
        raise SettingsError(
            f"training.monitor is {monitor.name}, but no validation pixel is {name}; "
            "use miou, or cut other validation chips with `aerial-seg tile`"
        )


def _card(dataset: Dataset, recipe: Recipe) -> ModelCard:
    """What a model file of this run will ask of `predict`, but for the threshold, which validation chooses."""
    return ModelCard(
        tool_version=__version__,
        recipe=recipe,
        legend=dataset.legend,
        bands=dataset.bands,
        gsd=dataset.gsd,
        class_bias=(0.0,) * len(dataset.legend),
        iteration=0,
        validation_miou=None,
        data_fingerprint=dataset.fingerprint,
    )
