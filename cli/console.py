"""What commands share in talking: progress and notes to stderr, tables and JSON to stdout."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aerial_seg.legend import Legend
    from aerial_seg.metrics import Scores
    from aerial_seg.progress import ProgressBar


def bar(label: str, *, total: int, unit: str) -> ProgressBar:
    """A progress bar on stderr when it is a terminal, silence otherwise."""
    from tqdm import tqdm

    return tqdm(total=total, desc=label, unit=unit, disable=None, file=sys.stderr, dynamic_ncols=True)


def note(text: str) -> None:
    """One line of comment on stderr."""
    click.echo(text, err=True)


def notes(texts: Iterable[str]) -> None:
    """What was mended, moved or left out."""
    for text in texts:
        note(f"note: {text}")


def print_json(document: Any) -> None:
    """The document on stdout."""
    click.echo(json.dumps(document, indent=2, default=str))


def swatch(colour: str) -> str:
    """Two blanks in this colour on a terminal; elsewhere the colour's name."""
    if not sys.stdout.isatty():
        return colour
    number = int(colour[1:], 16)
    return click.style("  ", bg=(number >> 16, number >> 8 & 255, number & 255))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns on stdout: the first aligned left, the others right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(click.unstyle(line[k])) for line in lines) for k in range(len(head))]
    for line in lines:
        cells = [
            _pad(cell, width, left=k == 0) for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _pad(cell: str, width: int, *, left: bool) -> str:
    blanks = " " * (width - len(click.unstyle(cell)))
    return cell + blanks if left else blanks + cell


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


def score_tables(scores: Scores) -> None:
    """Per-class scores, the means with the number of classes counted, and the confusion matrix."""
    class_scores(scores)
    names = [c.name for c in scores.classes]
    click.echo("\nconfusion, rows = truth, columns = prediction")
    table(
        ["", *names],
        [[name, *(f"{n:,}" for n in row)] for name, row in zip(names, scores.confusion, strict=True)],
    )


def class_scores(scores: Scores) -> None:
    """Per-class scores, and the means with the number of classes counted."""
    rows = [
        [c.name, *(number(n) for n in (c.iou, c.f1, c.precision, c.recall)), f"{c.pixels:,}"]
        for c in scores.classes
    ]
    table(["class", "IoU", "F1", "precision", "recall", "true pixels"], rows)
    click.echo(
        f"\nmIoU {number(scores.miou)} over {scores.counted} of {len(scores.classes)} classes, "
        f"pixel accuracy {number(scores.pixel_accuracy)}, mean accuracy {number(scores.mean_accuracy)}, "
        f"frequency-weighted IoU {number(scores.frequency_weighted_iou)}; "
        f"{scores.ignored:,} px unlabelled"
        + (f", {scores.unpredicted:,} px labelled but nodata in the mask" if scores.unpredicted else "")
    )


def number(value: float) -> str:
    """Four decimals, or NaN."""
    return "NaN" if math.isnan(value) else f"{value:.4f}"
