"""A run's curves, pictures and settings as TensorBoard reads them."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aerial_seg.files.durable import disk_errors
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.report.chip_views import ChipViews, Pixels
from aerial_seg.report.pace import Pace
from aerial_seg.training.callbacks import Callback, Checkpoint, Step

MOST_POINTS = 2000
"""Of the training curves: of longer runs a point is the mean of several updates."""
MOST_CHIPS = 4
_LONGEST = 512
"""Pixels of a picture's side: larger chips are thinned out."""
_SECONDS_BETWEEN_FLUSHES = 5
"""A killed run has lost what came after its last flush; what it wrote after its last checkpoint is drawn anew."""
_MOST_TEXT = 200

MISSING = (
    "TensorBoard's curves are not written because the package tensorboard is not installed; to have them, "
    'run pip install "aerial-seg[tensorboard]"'
)


def is_installed() -> bool:
    """Whether event files can be written here; the package is not imported yet."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoard(Callback):
    """Writes event files into `folder`: losses, rates, images/s, mIoU, IoU per class, chips with label and map.

    settings: the run's hyperparameters, nested as a recipe is. chips: the validation chips, some of which are shown,
    always the same; None without any. A run that goes on takes back what the run before had written after the
    checkpoint that it goes on from.
    """

    def __init__(
        self, folder: Path, *, legend: Legend, settings: Mapping[str, Any], chips: ChipViews | None
    ) -> None:
        self._folder, self._legend, self._settings, self._chips = folder, legend, settings, chips
        self._pace = Pace()
        self._every = 1
        self._losses: list[float] = []
        self._shown: tuple[int, ...] = ()
        self._writer: Any = None

    def on_start(self, iteration: int, iterations: int) -> None:
        """Open an event file; of a run that begins, tell its settings, classes and chips."""
        # Imported here because it takes a second.
        from torch.utils.tensorboard import SummaryWriter

        self._every = max(1, iterations // MOST_POINTS)
        with disk_errors(self._folder):
            self._writer = SummaryWriter(
                str(self._folder),
                # Of a run that was ended before its first checkpoint all is there once already.
                purge_step=iteration + 1 if iteration else 0,
                flush_secs=_SECONDS_BETWEEN_FLUSHES,
            )
            if self._chips is not None:
                count = min(MOST_CHIPS, len(self._chips))
                self._shown = tuple(int(k) for k in np.linspace(0, len(self._chips) - 1, count).round())
            if not iteration:
                self._tell_settings()
                self._show_chips()

    def on_step(self, step: Step) -> None:
        """Take in one update, and write a point now and then."""
        self._pace.add(step)
        self._losses.append(step.loss)
        if step.iteration % self._every:
            return
        values = {
            "train/loss": sum(self._losses) / len(self._losses),
            "train/learning_rate": step.learning_rate,
            "train/images_per_second": self._pace.images_per_second,
        }
        self._losses = []
        self._add(values, step.iteration)

    def on_validation(self, checkpoint: Checkpoint) -> None:
        """Write the scores, and the maps of the chips."""
        scores = checkpoint.scores
        with disk_errors(self._folder):
            if scores is not None:
                ious = {f"IoU/{one.name}": one.iou for one in scores.classes}
                self._add({"validation/mIoU": scores.miou, **ious}, checkpoint.iteration)
            if self._chips is not None:
                maps = self._chips.maps(checkpoint, self._shown)
                for number, channels in zip(self._shown, maps, strict=True):
                    self._image(number, "map", self._coloured(channels), checkpoint.iteration)
            self._writer.flush()
        self._pace.pause()

    def on_end(self, iteration: int) -> None:
        """Close the event file."""
        del iteration
        self.close()

    def close(self) -> None:
        """Put all events on the disk and close the file, however the run ended; again it does nothing."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with disk_errors(self._folder):
                writer.close()

    def _add(self, values: Mapping[str, float], iteration: int) -> None:
        """A point in each curve; where a value is not defined there is none."""
        with disk_errors(self._folder):
            for name, value in values.items():
                if not math.isnan(value):
                    self._writer.add_scalar(name, value, iteration)

    def _tell_settings(self) -> None:
        from torch.utils.tensorboard.summary import hparams

        # Not by add_hparams: that opens a second file, after which TensorBoard would read no more of this one.
        summaries = hparams(flat(self._settings), {"validation/mIoU": 0.0})  # type: ignore[no-untyped-call]
        for summary in summaries:
            self._writer.file_writer.add_summary(summary, 0)
        rows = [f"| {entry.value} | {entry.name} | {entry.colour} |" for entry in self._legend.entries]
        self._writer.add_text("classes", "\n".join(["| value | class | colour |", "|--:|---|---|", *rows]), 0)

    def _show_chips(self) -> None:
        for number in self._shown:
            assert self._chips is not None
            image, labels = self._chips.picture(number)
            self._image(number, "image", image, 0)
            self._image(number, "label", self._coloured(labels), 0)

    def _image(self, number: int, what: str, picture: Pixels, iteration: int) -> None:
        assert self._chips is not None
        step = math.ceil(max(picture.shape) / _LONGEST)
        tag = f"{self._chips.names[number]}/{what}"
        self._writer.add_image(tag, picture[::step, ::step], iteration, dataformats="HWC")

    def _coloured(self, channels: Pixels) -> Pixels:
        """(H,W,3): every class in its colour, unlabelled pixels in white."""
        colours = self._legend.colours()[self._legend.value_table()]
        colours[IGNORE] = 255
        coloured: Pixels = colours[channels]
        return coloured


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, bool | int | float | str]:
    """The settings by dotted names, as `training.learning_rate`; what is no number, truth or text becomes a text."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in settings.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif isinstance(value, bool | int | float | str):
            found[name] = value
        else:
            found[name] = str(value)[:_MOST_TEXT]
    return found
