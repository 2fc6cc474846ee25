"""log.csv: a row for every update, appended while the run goes on, cut where a run that goes on stood."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aerial_seg.files.durable import disk_errors, settled_file, sync
from aerial_seg.metrics import Scores
from aerial_seg.training.callbacks import Callback, Checkpoint, Step

_HEAD = ("iteration", "loss", "learning_rate")


@dataclass(frozen=True, slots=True)
class ValidationRow:
    """Hold what the log tells of one validation. ious: by class; NaN where a score is not defined."""

    iteration: int
    miou: float
    ious: dict[str, float]


@dataclass(slots=True)
class History:
    """Hold what log.csv tells: iteration, loss and learning rate of every update, and every validation."""

    losses: list[tuple[int, float, float]] = field(default_factory=list)
    validations: list[ValidationRow] = field(default_factory=list)


class Log(Callback):
    """Append a row to log.csv for every update: iteration, loss, learning_rate, and mIoU and IoUs where validated.

    A row is given to the system as soon as it is whole; `sync` puts all of them on the disk.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """names: of the classes that are validated; none without validation chips."""
        self._path = path
        self._columns = [*_HEAD, *(["miou", *(f"iou_{name}" for name in names)] if names else [])]
        self._row: list[str] | None = None

    def begin(self, iteration: int) -> int:
        """Keep the rows of the first `iteration` updates and no others; return how many there are."""
        rows = _rows(self._path)[:iteration] if iteration else []
        kept = [row for number, row in enumerate(rows, start=1) if row[0] == str(number)]
        self._write_all(kept)
        return len(kept)

    def on_step(self, step: Step) -> None:
        """Append the row of the update before, and wait whether this one is validated."""
        self._write()
        self._row = [str(step.iteration), f"{step.loss:.6g}", f"{step.learning_rate:.6g}"]

    def on_validation(self, checkpoint: Checkpoint) -> None:
        """Add the scores to the row of the update that they follow."""
        if checkpoint.scores is None:
            return
        scores = [f"{n:.6f}" for n in _numbers(checkpoint.scores)]
        if self._row is not None:
            self._row += scores
            return
        # The run was asked to end while it validated, and goes on with that.
        rows = _rows(self._path)
        self._write_all([*rows[:-1], rows[-1][: len(_HEAD)] + scores])

    def sync(self) -> None:
        """Put every row on the disk. Raises OutputError where the disk does not take them."""
        self._write()
        with disk_errors(self._path):
            sync(self._path)

    def _write_all(self, rows: Sequence[Sequence[str]]) -> None:
        with settled_file(self._path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self._columns, *rows])

    def _write(self) -> None:
        if self._row is None:
            return
        text = io.StringIO(newline="")
        csv.writer(text).writerow(self._row)
        with disk_errors(self._path), self._path.open("ab") as file:
            file.write(text.getvalue().encode("utf-8"))
        self._row = None


def read_log(path: Path) -> History:
    """Return what log.csv tells; a last row that a crash has cut is left out, as is a log that is not there."""
    history = History()
    columns = _columns(path)
    for row in _rows(path):
        iteration = int(row[0])
        history.losses.append((iteration, float(row[1]), float(row[2])))
        if len(row) > len(_HEAD) and row[3]:
            scores = [_as_float(text) for text in row[3:]]
            names = [name.removeprefix("iou_") for name in columns[4:]]
            history.validations.append(
                ValidationRow(iteration, scores[0], dict(zip(names, scores[1:], strict=False)))
            )
    return history


def _numbers(scores: Scores) -> Iterator[float]:
    yield scores.miou
    yield from (entry.iou for entry in scores.classes)


def _as_float(text: str) -> float:
    return float(text) if text else math.nan


def _columns(path: Path) -> list[str]:
    with _opened(path) as file:
        return next(csv.reader(file), [])


def _rows(path: Path) -> list[list[str]]:
    """The whole rows: up to the first that is none."""
    rows: list[list[str]] = []
    with _opened(path) as file:
        text = file.read()
    whole = text[: text.rfind("\n") + 1]
    for row in list(csv.reader(io.StringIO(whole, newline="")))[1:]:
        if len(row) < len(_HEAD) or not row[0].isascii() or not row[0].isdigit():
            break
        rows.append(row)
    return rows


def _opened(path: Path) -> io.TextIOBase:
    if not path.is_file():
        return io.StringIO()
    return path.open(encoding="utf-8", errors="replace", newline="")
