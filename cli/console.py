"""What commands share in talking: progress and notes to stderr, tables and JSON to stdout.

Names of files, classes and layers come from outside, so all that is printed goes through here: nothing in it can
steer a terminal. Settings that the library's messages name are told as the running command's options; what is no
message, a name in a table, stays as it is.
"""

from __future__ import annotations

import io
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import click

from aerial_seg.printable import printable

from .setting_options import as_flags

if TYPE_CHECKING:
    from types import TracebackType

    from aerial_seg.intervals import Intervals
    from aerial_seg.legend import Legend
    from aerial_seg.metrics import Scores


_MESSAGES = frozenset({"doubts", "notes", "numbers", "placed", "remarks", "reason", "problem", "problems"})
"""Entries of documents that hold messages; all others are data."""

_SECONDS_BETWEEN_LINES = 30.0


def write_every_letter() -> None:
    """What stdout's encoding has no letter for is written out, as \\u2192, where Python would stop with an error.

    On Windows a file or a pipe takes the letters of one region.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


class Bar(Protocol):
    """A ProgressBar that can also tell the state of what it is about."""

    def update(self, n: int = 1) -> object: ...

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> object: ...

    def __enter__(self) -> Bar: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def bar(label: str, *, total: int, unit: str, done: int = 0) -> Bar:
    """A progress bar on stderr when it is a terminal; in a file or a pipe a line now and then, after half a minute.

    done: of the total, by a run before this one; the time left is told by what this one does. A bar that begins below
    another one vanishes when it ends.
    """
    told = printable(label, lines=False)
    if not sys.stderr.isatty():
        return _Lines(told, total, unit, done)
    from tqdm import tqdm

    return tqdm(
        total=total, desc=told, unit=unit, file=sys.stderr, dynamic_ncols=True, initial=done, leave=None
    )


def duration(seconds: float) -> str:
    """The time in hours and minutes, or in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


class _Lines:
    """How far one long step is, in lines, for whoever reads a log: of a server's job, of a container being built."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self._label, self._total, self._units = label, total, unit if unit == "px" else f"{unit}s"
        self._done, self._before, self._begun = done, done, time.monotonic()
        self._told = self._begun
        self._state = ""

    def update(self, n: int = 1) -> None:
        """Tell how far it is, unless that was told a short while ago."""
        self._done += n
        now = time.monotonic()
        if now - self._told < _SECONDS_BETWEEN_LINES:
            return
        self._told = now
        spent, here = now - self._begun, self._done - self._before
        line = f"{self._label}: {self._done:,} of {self._total:,} {self._units} after {duration(spent)}"
        if here > 0 and self._done <= self._total:
            line += f", about {duration(spent / here * (self._total - self._done))} to go"
        with suppress(OSError, ValueError):  # nobody listens any more
            say(f"{line}; {self._state}" if self._state else line, err=True)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """What the lines to come tell at their end."""
        del refresh
        self._state = printable(s, lines=False)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def with_flags(document: Any, *, told: bool = False) -> Any:
    """The document with its messages as they are printed."""
    match document:
        case str():
            return as_flags(document) if told else document
        case Mapping():
            return {key: with_flags(value, told=key in _MESSAGES) for key, value in document.items()}
        case list() | tuple():
            return [with_flags(value, told=told) for value in document]
        case _:
            return document


def say(text: object = "", *, err: bool = False) -> None:
    """The text on stdout, or on stderr; what would steer a terminal is written out. Its line ends stay."""
    click.echo(printable(str(text)), err=err)


def note(text: str) -> None:
    """One line of comment on stderr."""
    say(as_flags(text), err=True)


def note_beside_bars(text: str) -> None:
    """As `note`, from any thread and while bars are shown: they are drawn again below the line."""
    say_beside_bars(as_flags(text))


def say_beside_bars(text: str) -> None:
    """One line on stderr, likewise, that names no settings."""
    from tqdm import tqdm

    with suppress(OSError, ValueError), tqdm.external_write_mode(file=sys.stderr):  # nobody listens any more
        say(one_line(text), err=True)


def notes(texts: Iterable[str]) -> None:
    """What was mended, moved or left out."""
    for text in texts:
        say(f"note: {one_line(as_flags(text))}", err=True)


def print_json(document: Any) -> None:
    """The document on stdout, in ASCII: JSON writes out everything else."""
    # DEL is the one control character that JSON leaves as it is; it can only lie in a text.
    click.echo(json.dumps(with_flags(document), indent=2, default=str).replace("\x7f", "\\u007f"))


class _Painted(str):
    """A cell of our own making that holds a terminal's codes on purpose."""

    __slots__ = ()


def swatch(colour: str) -> str:
    """Two blanks in this colour on a terminal; elsewhere the colour's name."""
    if not sys.stdout.isatty():
        return colour
    number = int(colour[1:], 16)
    return _Painted(click.style("  ", bg=(number >> 16, number >> 8 & 255, number & 255)))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """Columns on stdout: the first `left` of them aligned left, the others right."""
    lines = [
        [cell if isinstance(cell, _Painted) else one_line(cell) for cell in row] for row in (head, *rows)
    ]
    widths = [max(len(click.unstyle(line[k])) for line in lines) for k in range(len(head))]
    for line in lines:
        cells = [
            _pad(cell, width, left=k < left) for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def one_line(text: str) -> str:
    """The text as a cell or a line may hold it: line ends and tabs are written out as well."""
    return printable(text, lines=False)


def _pad(cell: str, width: int, *, left: bool) -> str:
    blanks = " " * (width - len(click.unstyle(cell)))
    return cell + blanks if left else blanks + cell


def split_class_table(legend: Legend, by_split: Mapping[str, Mapping[str, int]]) -> None:
    """class_table of all splits together. by_split: split → class name → labelled pixels."""
    class_table(legend, {name: sum(pixels[name] for pixels in by_split.values()) for name in legend.names})


def class_table(legend: Legend, pixels: dict[str, int], *, area_per_pixel: float | None = None) -> None:
    """class, swatch, pixels, share and, where the pixel's ground is known, hectares."""
    total = max(1, sum(pixels.values()))
    head = ["class", "value", "colour", "pixels", "share"] + (["hectares"] if area_per_pixel else [])
    rows = []
    for entry in legend.entries:
        count = pixels.get(entry.name, 0)
        row = [entry.name, str(entry.value), swatch(entry.colour), f"{count:,}", f"{count / total:.1%}"]
        rows.append(row + ([f"{count * area_per_pixel / 1e4:,.2f}"] if area_per_pixel else []))
    table(head, rows)


def score_tables(scores: Scores, intervals: Intervals | None = None) -> None:
    """Per-class scores, the means with the number of classes counted, and the confusion matrix."""
    class_scores(scores, intervals)
    names = [c.name for c in scores.classes]
    say("\nconfusion, rows = truth, columns = prediction")
    table(
        ["", *names],
        [[name, *(f"{n:,}" for n in row)] for name, row in zip(names, scores.confusion, strict=True)],
    )


def class_scores(scores: Scores, intervals: Intervals | None = None) -> None:
    """Per-class scores, and the means with the number of classes counted; beside IoU and F1 their 95 % intervals."""
    head = ["class", "IoU", *_interval_head(intervals), "F1", *_interval_head(intervals)]
    rows = [
        [
            c.name,
            number(c.iou),
            *_interval_cell(intervals, f"iou_{c.name}"),
            number(c.f1),
            *_interval_cell(intervals, f"f1_{c.name}"),
            number(c.precision),
            number(c.recall),
            f"{c.pixels:,}",
        ]
        for c in scores.classes
    ]
    table([*head, "precision", "recall", "true pixels"], rows)

    def told(value: float, name: str) -> str:
        return " ".join([number(value), *(f"({cell})" for cell in _interval_cell(intervals, name))])

    say(
        f"\nmIoU {told(scores.miou, 'miou')} over {scores.counted} of {len(scores.classes)} classes, "
        f"pixel accuracy {told(scores.pixel_accuracy, 'pixel_accuracy')}, "
        f"mean accuracy {told(scores.mean_accuracy, 'mean_accuracy')}, "
        f"frequency-weighted IoU {told(scores.frequency_weighted_iou, 'frequency_weighted_iou')}; "
        f"{scores.ignored:,} px unlabelled"
        + (f", {scores.unpredicted:,} px labelled but nodata in the mask" if scores.unpredicted else "")
    )
    if intervals is not None:
        units = f"{intervals.units} {intervals.unit}{'s' if intervals.units != 1 else ''}"
        say(f"95 % intervals: a bootstrap over {units}")


def _interval_head(intervals: Intervals | None) -> list[str]:
    return [] if intervals is None else ["95 %"]


def _interval_cell(intervals: Intervals | None, name: str) -> list[str]:
    """How far the score would move with other chips, as a cell where there are intervals at all."""
    if intervals is None:
        return []
    low, high = intervals.of(name)
    return ["–" if math.isnan(low) else f"{low:.3f}–{high:.3f}"]


def number(value: float) -> str:
    """Four decimals, or NaN."""
    return "NaN" if math.isnan(value) else f"{value:.4f}"
