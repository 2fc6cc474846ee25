"""What a run draws while it goes on: its curves, its validation chips, and files for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from aerial_seg.jobs.train.data import Dataset
from aerial_seg.jobs.train.run_folder import CURVES, EVENTS, LOG, SAMPLES
from aerial_seg.recipe.document import Recipe
from aerial_seg.report import tensorboard
from aerial_seg.report.chip_maps import ChipMaps
from aerial_seg.report.chip_views import ChipViews
from aerial_seg.report.curves import Curves
from aerial_seg.report.samples import SamplesPicture
from aerial_seg.training.callbacks import Callback
from aerial_seg.training.state import TrainingState


@contextmanager
def pictures(
    folder: Path,
    dataset: Dataset,
    recipe: Recipe,
    state: TrainingState,
    device: torch.device,
    *,
    events: bool,
) -> Iterator[tuple[Callback, ...]]:
    """Yield what draws into a run's folder from where its state stands; in the end no file is open.

    events: whether TensorBoard's are wanted. Where its package is not installed they are left out; see `missing`.
    """
    chips = None
    val = dataset.data.val
    if val is not None:
        maps = ChipMaps(state.network, val, device)
        chips = ChipViews(val, dataset.data.val_names, dataset.bands, dataset.legend, maps.maps)
    found: list[Callback] = [
        Curves(
            dataset.legend,
            folder / CURVES,
            log=folder / LOG,
            monitor=recipe.training.monitor,
            best=state.search.iteration,
        )
    ]
    if chips is not None:
        found.append(
            SamplesPicture(chips, folder / SAMPLES, of_scenes=recipe.training.validate_on == "scenes")
        )
    with ExitStack() as opened:
        if events and tensorboard.is_installed():
            settings = recipe.model_dump(mode="json")
            board = tensorboard.TensorBoard(
                folder / EVENTS, legend=dataset.legend, settings=settings, chips=chips
            )
            opened.callback(board.close)
            found.append(board)
        yield tuple(found)


def missing(*, events: bool) -> tuple[str, ...]:
    """Return a note where what is wanted cannot be written here."""
    return (tensorboard.MISSING,) if events and not tensorboard.is_installed() else ()
