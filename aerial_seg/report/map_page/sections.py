"""What a page says in numbers: areas, scores, confusion, how true probabilities are, and the places to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aerial_seg.intervals import Intervals
from aerial_seg.legend import Legend
from aerial_seg.metrics import Scores
from aerial_seg.report.map_page.charts import Bar, bars, reliability
from aerial_seg.report.map_page.content import Areas, Content, Place
from aerial_seg.report.map_page.html import Cell, Section, count, notes, number, table, text, with_table

_BINS = 10
_LEVELS = 250
"""Of a confidence byte: this one is a probability of 1."""
_MOST_CLASSES = 60
"""Rows of a confusion matrix that a page shows; of more only those with most errors."""


def area_section(areas: Areas, legend: Legend) -> Section:
    """The ground of each class."""
    factor, unit, digits = area_unit(areas.unit, sum(areas.areas))
    whole, pixels = sum(areas.areas), sum(areas.pixels)
    rows = [
        [
            Cell(entry.name, colour=entry.colour),
            number(areas.areas[k] * factor, digits),
            Cell(f"{areas.areas[k] / whole:.2%}", repr(areas.areas[k] / whole)),
            count(areas.pixels[k]),
        ]
        for k, entry in enumerate(legend.entries)
    ]
    rows.append([Cell("all"), number(whole * factor, digits), Cell("100.00%", "1"), count(pixels)])
    shown = [
        Bar(entry.name, areas.areas[k], entry.colour, f"{areas.areas[k] / whole:.1%}")
        for k, entry in enumerate(legend.entries)
    ]
    measured = "on the ellipsoid" if areas.unit == "m2" else "in pixels: nobody knows what a pixel measures"
    told = f"<p>Ground that the map gives each class, {measured}."
    if areas.nodata:
        told += f" {areas.nodata:,} pixels have no class and are no part of it."
    behind = table("area per class", ["class", f"area ({unit})", "share", "pixels"], rows)
    return Section(
        "areas", "Area per class", f"{told}</p>" + with_table(bars("Area per class", shown), behind)
    )


def area_unit(unit: str, whole: float) -> tuple[float, str, int]:
    """By what to multiply areas, the unit that they are told in then, and decimals."""
    if unit == "px":
        return 1.0, "px", 0
    return (1e-6, "km²", 3) if whole >= 1e9 else (1e-4, "ha", 3) if whole >= 1e5 else (1.0, "m²", 1)


def score_section(scores: Scores, intervals: Intervals | None, legend: Legend, told: str = "") -> Section:
    """Every score with its interval."""
    rows = [
        [
            Cell(one.name, colour=entry.colour),
            *_with_interval(one.iou, intervals, f"iou_{one.name}"),
            *_with_interval(one.f1, intervals, f"f1_{one.name}"),
            *_with_interval(one.precision, intervals, f"precision_{one.name}"),
            *_with_interval(one.recall, intervals, f"recall_{one.name}"),
            count(one.pixels),
        ]
        for one, entry in zip(scores.classes, legend.entries, strict=True)
    ]
    span = [] if intervals is None else ["low", "high"]
    head = ["class"]
    for name in ("IoU", "F1", "precision", "recall"):
        head += [name, *(f"{name} {end}" for end in span)]
    means = [
        (f"mIoU over {scores.counted} of {len(scores.classes)} classes", scores.miou, "miou"),
        ("pixel accuracy", scores.pixel_accuracy, "pixel_accuracy"),
        ("mean accuracy", scores.mean_accuracy, "mean_accuracy"),
        ("frequency-weighted IoU", scores.frequency_weighted_iou, "frequency_weighted_iou"),
    ]
    mean_rows = [[Cell(name), *_with_interval(value, intervals, key)] for name, value, key in means]
    drawn = []
    for one, entry in zip(scores.classes, legend.entries, strict=True):
        low, high = (math.nan, math.nan) if intervals is None else intervals.of(f"iou_{one.name}")
        shown = "–" if math.isnan(one.iou) else f"{one.iou:.3f}"
        drawn.append(Bar(one.name, one.iou, entry.colour, shown, low, high))
    html = f"<p>{text(told)}</p>" if told else ""
    html += table("means", ["score", "value", *span], mean_rows)
    html += "<h3>IoU per class</h3>"
    html += with_table(
        bars("IoU per class", drawn, most=1.0), table("scores per class", [*head, "true pixels"], rows)
    )
    lost = f", {scores.unpredicted:,} labelled but not mapped" if scores.unpredicted else ""
    html += f"<p>{scores.ignored:,} pixels are unlabelled{lost}; they count nowhere.</p>"
    return Section("scores", "Scores", html)


def told_intervals(intervals: Intervals, square: int) -> str:
    """What the intervals are of."""
    units = f"{intervals.units} {intervals.unit}{'' if intervals.units == 1 else 's'}"
    size = f" of {square:,} pixels a side" if square else ""
    few = "; so few tell little" if intervals.units < 5 else ""
    return (
        f"Intervals are of 95 %: how far a score would move with other ground like this, from a bootstrap over {units}"
        f"{size}{few}."
    )


def _with_interval(value: float, intervals: Intervals | None, name: str) -> list[Cell]:
    if intervals is None:
        return [number(value)]
    low, high = intervals.of(name)
    return [number(value), number(low), number(high)]


def confusion_section(scores: Scores) -> Section:
    """The confusion matrix, shaded by row, whole for copying."""
    counts, names = np.array(scores.confusion, np.int64), [one.name for one in scores.classes]
    off = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    kept = sorted(np.argsort(-off, kind="stable")[:_MOST_CLASSES].tolist())
    rows = []
    for k in kept:
        whole = int(counts[k].sum())
        rows.append(
            [
                Cell(names[k]),
                *(
                    Cell(
                        _counted(int(counts[k, m])),
                        str(int(counts[k, m])),
                        shade=int(counts[k, m]) / max(1, whole),
                    )
                    for m in kept
                ),
                count(whole),
            ]
        )
    told = "Rows are the truth, columns the map; the darker, the larger a share of its row."
    if len(kept) < len(names):
        told += f" The {len(kept)} of {len(names)} classes with most errors."
    head = ["truth \\ map", *(names[k] for k in kept), "all"]
    return Section(
        "confusion", "Confusion matrix", f"<p>{text(told)}</p>" + table("confusion matrix", head, rows)
    )


def _counted(pixels: int) -> str:
    return f"{pixels:,}"


def reliability_section(bins: NDArray[np.int64]) -> Section | None:
    """Whether what is called 0.9 sure is right nine times of ten; nothing where no pixel was compared."""
    levels = bins[: _LEVELS + 1].astype(np.float64)
    number_of = levels.sum(axis=1)
    if not number_of.sum():
        return None
    stated = np.arange(_LEVELS + 1) / _LEVELS
    place = np.minimum((stated * _BINS).astype(np.int64), _BINS - 1)
    rows, drawn, error = [], [], 0.0
    for k in range(_BINS):
        here = place == k
        pixels = float(number_of[here].sum())
        span = f"{k / _BINS:.1f}–{(k + 1) / _BINS:.1f}"
        if not pixels:
            rows.append([Cell(span), Cell("–", ""), Cell("–", ""), count(0)])
            continue
        mean, right = float((stated * number_of)[here].sum() / pixels), float(levels[here, 1].sum() / pixels)
        error += pixels * abs(mean - right)
        rows.append([Cell(span), number(mean), number(right), count(int(pixels))])
        drawn.append((mean, right, int(pixels)))
    error /= float(number_of.sum())
    told = (
        f"Below the dashed line the map is surer than it is right. Expected calibration error {error:.3f}: by so much "
        "stated and true shares differ, in the mean over pixels (ten bins)."
    )
    behind = table("reliability", ["stated", "mean stated", "right", "pixels"], rows)
    chart = reliability("How often what is stated is right", drawn)
    return Section("reliability", "Reliability", f"<p>{text(told)}</p>" + with_table(chart, behind))


def place_section(places: Sequence[Place]) -> Section | None:
    """The places to look at, each with a button that goes there."""
    if not places:
        return None
    scored = places[0].confidence is None
    if scored:
        title, head = (
            "Worst places",
            ["place", "what most often", "wrong", "wrong pixels", "cost in mIoU", "row", "column"],
        )
        told = "The places that cost the mIoU most, the worst first. Press one, and the map goes there."
    else:
        title, head = "Least certain places", ["place", "mostly", "mean confidence", "row", "column"]
        told = "Where the map is least sure of its classes. Press one, and the map goes there."
    rows = []
    for k, one in enumerate(places):
        button = Cell(f"show {k + 1}", str(k + 1), place=k)
        where = [count(one.top), count(one.left)]
        if one.confidence is None:
            share = one.wrong / max(1, one.known)
            told_share = Cell(f"{share:.1%}", repr(share))
            rows.append([button, Cell(one.told), told_share, count(one.wrong), number(one.cost, 4), *where])
        else:
            rows.append([button, Cell(one.told), number(one.confidence), *where])
    return Section("places", title, f"<p>{text(told)}</p>" + table(title.lower(), head, rows))


def fact_section(content: Content) -> Section:
    """Where all this comes from."""
    rows = [[Cell(name), Cell(value)] for name, value in content.facts]
    html = table("provenance", ["what", "value"], rows)
    if content.notes:
        html += "<h3>Remarks</h3>" + notes(content.notes)
    return Section("provenance", "Provenance", html)
