"""What a run needs before its folder is touched: data, a network with its first weights, settings that fit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load
from torch import nn

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.protect import Inputs
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.tile_choice import stitched_prediction
from aerial_seg.jobs.train.company import Plan
from aerial_seg.jobs.train.continuing import require_same, require_same_weights
from aerial_seg.jobs.train.data import Dataset, open_dataset, with_class_weights
from aerial_seg.jobs.train.overfit import few_chips, without_augmentation
from aerial_seg.jobs.train.run_folder import Run
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.jobs.train.stages import AskedStage
from aerial_seg.jobs.train.validation import open_validator
from aerial_seg.mentions import setting
from aerial_seg.models.build import build_network
from aerial_seg.models.device import to_device
from aerial_seg.models.meta import build_on_meta
from aerial_seg.models.network import Network, OwnNetwork, check_shapes
from aerial_seg.models.pretrained import start_from
from aerial_seg.models.weights_source import check_weights
from aerial_seg.recipe.document import Recipe
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.batch_norm.norms import check_statistics
from aerial_seg.training.freezing import check_freezing, training_notes
from aerial_seg.training.loss import class_weight_tensor
from aerial_seg.training.loss_terms.terms import check_loss
from aerial_seg.training.manifest import DOCUMENT, INDEX


@dataclass(frozen=True, slots=True)
class Beginning:
    """Hold the untrained network with the weights that it starts from; sha256: of their file, if they are one's.

    recipe: with a tile that the network stitches well.
    """

    network: Network
    recipe: Recipe
    notes: tuple[str, ...] = ()
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Hold what a run needs before its folder is touched. recipe: as it is trained. job: what run.json knows it by."""

    recipe: Recipe
    dataset: Dataset
    beginning: Beginning
    still: Unchanged
    job: dict[str, Any]


def prepare(
    stage: AskedStage,
    given: tuple[Path, Network | None],
    run: Path,
    settings: TrainSettings,
    plan: Plan,
    before: Run | None,
    *,
    ahead: bool = False,
) -> Prepared:
    """Open the data and build the network, on its device; nothing is written.

    given: dataset and a network of one's own. before: the run that is gone on with. ahead: a later stage is only tried
    out, and what it will begin with is not there yet. Raises OutputError, SettingsError or InputError for what cannot
    be trained so.
    """
    dataset, own = given
    recipe = stage.recipe
    # Nothing kept, nothing to take the place of the first weights: a run that was stopped so early begins as it began.
    anew = (before is None or not before.is_kept) and not ahead
    weights = stage.weights(run) if anew else None
    inputs = [dataset] if weights is None or stage.is_later else [dataset, weights]
    Inputs(inputs).refuse_folder(run)
    if anew:
        _check_weights(stage, weights)
        check_freezing(recipe)
    still = Unchanged([dataset / DOCUMENT, dataset / INDEX, *([] if weights is None else [weights])])
    opened, recipe = open_stage(stage, dataset, settings, before)
    still.add([*opened.files, *opened.addresses])
    job = {
        "recipe": recipe.model_dump(mode="json"),
        "data_fingerprint": opened.fingerprint,
        "data": opened.extent(),
        **same_in_all(stage, own, settings),
    }
    if before is not None:
        require_same(before, job)
    torch.manual_seed(recipe.training.seed)
    beginning = _begin(recipe, opened, own, weights, anew=anew)
    check_loss(recipe.training, beginning.network.geometry, parts=plan.accumulate)
    if before is not None and anew:
        require_same_weights(before, recipe.model.weights, beginning.sha256)
    to_device(beginning.network, plan.device)
    return Prepared(recipe, opened, beginning, still, job)


def same_in_all(stage: AskedStage, own: Network | None, settings: TrainSettings) -> dict[str, Any]:
    """What run.json knows every stage of a run by."""
    return {
        "own_network": None if own is None else own.name,
        "overfit": settings.overfit,
        **stage.job(),
    }


def open_stage(
    stage: AskedStage, dataset: Path, settings: TrainSettings, before: Run | None = None
) -> tuple[Dataset, Recipe]:
    """Open the data of a stage; the recipe has numbers in place of what only the data tell.

    before: the run that is gone on with, which has these numbers.
    """
    opened = open_dataset(dataset, stage.recipe)
    recipe = with_class_weights(stage.recipe, opened, None if before is None else before.document)
    if settings.overfit is not None:
        opened, recipe = few_chips(opened, settings.overfit), without_augmentation(recipe)
    return opened, recipe


def check_ahead(
    stages: Sequence[AskedStage], given: tuple[Path, Network | None], settings: TrainSettings
) -> None:
    """Raise an error for what a later stage would be refused for, before the first of these begins.

    stages: the one that is next, then the later ones. given: dataset and a network of one's own.
    """
    dataset, own = given
    if len(stages) < 2:
        return
    first, recipe = open_stage(stages[0], dataset, settings)
    model, begun = recipe.model, own if own is not None else _on_meta(recipe, first)
    for stage in stages[1:]:
        with _in_stage(stage):
            check_freezing(stage.recipe)
            opened, recipe = open_stage(stage, dataset, settings)
            if (opened.legend, opened.bands) != (first.legend, first.bands):
                raise InputError(
                    f"its classes or bands are others than those of {stages[0].at}; wanted data of the same kind: "
                    "choose another data.train, or begin another run"
                )
            class_weight_tensor(recipe.training.class_weights, opened.data.names)
            if own is not None and recipe.model.trained_stride is not None:
                raise SettingsError(
                    "it changes model.output_stride, which a network of one's own decides itself; leave it out"
                )
            is_same = own is not None or model.output_stride == recipe.model.output_stride
            network = begun if is_same else _on_meta(recipe, opened)
            _check_crop(network, recipe)
            stitched_prediction(network.geometry, recipe.prediction)
            training_notes(network, recipe)
            check_loss(recipe.training, network.geometry, parts=settings.accumulate)
            with open_validator(opened, recipe, network):
                pass


def _check_crop(network: Network, recipe: Recipe) -> None:
    height, width = recipe.training.crop_size
    network.geometry.check_crop(height=height, width=width)


def _on_meta(recipe: Recipe, opened: Dataset) -> Network:
    return build_on_meta(recipe.model, bands=len(opened.bands), classes=len(opened.legend))


@contextmanager
def _in_stage(stage: AskedStage) -> Iterator[None]:
    """An error of the block names the stage that it is of."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"{stage.at}: {error}") from error
    except InputError as error:
        raise InputError(f"{stage.at}: {error}") from error


def _check_weights(stage: AskedStage, weights: Path | None) -> None:
    if not stage.is_later:
        check_weights(stage.recipe.model)
    elif weights is None or not weights.is_file():
        raise InputError(
            f"{weights} is gone, with which {stage.at} begins; put it back, or pass {setting('restart', True)} to "
            "begin anew"
        )


def _begin(
    recipe: Recipe,
    dataset: Dataset,
    given: Network | None,
    file: Path | None,
    *,
    anew: bool,
) -> Beginning:
    """The network, with its first weights where the run begins anew. Raises for what cannot be trained or predicted.

    file: of its first weights, where they are one's.
    """
    own = anew and file is None
    settings = recipe.model if own else recipe.model.model_copy(update={"weights": "none"})
    counts = {"bands": len(dataset.bands), "classes": len(dataset.legend)}
    network = given if given is not None else build_network(settings, **counts)
    _check_crop(network, recipe)
    prediction, grown = stitched_prediction(network.geometry, recipe.prediction)
    unusual = (*grown, *training_notes(network, recipe))
    recipe = recipe.model_copy(update={"prediction": prediction})
    if given is not None:
        check_shapes(given, crop=recipe.training.crop_size, **counts)
    notes, sha256 = _load_first(network, file, dataset, own=given is not None)
    if anew:
        check_statistics(network, recipe.batch_norm)
    return Beginning(network, recipe, (*notes, *unusual), sha256)


def _load_first(
    network: Network, file: Path | None, dataset: Dataset, *, own: bool
) -> tuple[tuple[str, ...], str | None]:
    """Fill the network with the weights in the file, if there is one: what to say of them, and their sha256."""
    if file is None:
        return (), None
    notes: tuple[str, ...] = ()
    if own:
        network.load_state_dict(load(file.read_bytes()), strict=True)
    else:
        bands = [band.name for band in dataset.bands]
        notes = start_from(network, file, bands=bands, classes=dataset.legend.names, statistics=dataset.bands)
    with file.open("rb") as content:
        return notes, hashlib.file_digest(content, "sha256").hexdigest()


def own_network(
    network: Network | nn.Module | None, geometry: ModelGeometry | None, recipe: Recipe
) -> Network | None:
    """The network of one's own, if there is one. Raises SettingsError where its geometry is missing, or told twice."""
    if network is None:
        if geometry is not None:
            raise SettingsError("geometry is that of a network of one's own, and none is given; leave it out")
        return None
    if isinstance(network, Network) == (geometry is not None):
        raise SettingsError(
            f"network is a {type(network).__name__}, "
            + (
                "which has its geometry; leave geometry out"
                if geometry
                else "wanted with geometry=ModelGeometry(…)"
            )
        )
    if recipe.model.weights != "none":
        raise SettingsError(
            f"model.weights is {recipe.model.weights}, which a network of one's own is not filled with; load it "
            'yourself and set model.weights = "none"'
        )
    return network if isinstance(network, Network) else OwnNetwork(network, cast(ModelGeometry, geometry))
