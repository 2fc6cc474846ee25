"""What a page says of the run that trained a model, and of accuracy from a random sample."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from aerial_seg.legend import Legend
from aerial_seg.report.curves import LossCurve
from aerial_seg.report.map_page.charts import Bar, Line, bars, lines
from aerial_seg.report.map_page.content import Training
from aerial_seg.report.map_page.html import Cell, Section, count, notes, number, table, text, with_table
from aerial_seg.report.map_page.sections import area_unit

_SAMPLES_SIDE = 2000
_WHITE = "#ffffff"


def training_section(training: Training) -> Section:
    """Loss and mIoU over the run, and its worst chips."""
    curve = LossCurve()
    for row in training.history.losses:
        curve.add(*row)
    html = f"<p>{text(training.name)}: {len(training.history.losses):,} updates.</p>"
    if len(curve):
        drawn = curve.lines()
        points = list(zip(drawn["iteration"].tolist(), drawn["mean"].tolist(), strict=True))
        chart = lines("Loss", [Line("loss", points, "first")], across="iteration", up="loss (log)", log=True)
        rows = [
            [
                number(one, 1),
                number(mean, 5),
                number(low, 5),
                number(high, 5),
                Cell(f"{rate:.3g}", repr(rate)),
            ]
            for one, mean, low, high, rate in zip(
                *(drawn[name].tolist() for name in ("iteration", "mean", "lowest", "highest", "rate")),
                strict=True,
            )
        ]
        head = ["iteration", "mean loss", "lowest", "highest", "learning rate"]
        html += "<h3>Loss</h3>" + with_table(chart, table("loss", head, rows))
    if training.history.validations:
        found = training.history.validations
        chart = lines(
            "Validation mIoU", [Line("mIoU", [(one.iteration, one.miou) for one in found], "first")],
            across="iteration", up="mIoU",
        )  # fmt: skip
        names = list(found[-1].ious)
        rows = [
            [
                count(one.iteration),
                number(one.miou, 4),
                *(number(one.ious.get(name, math.nan), 4) for name in names),
            ]
            for one in found
        ]
        html += "<h3>Validation</h3>" + with_table(
            chart, table("validation", ["iteration", "mIoU", *names], rows)
        )
    if training.samples is not None:
        html += "<h3>Worst and typical validation chips</h3>" + picture(
            training.samples, "Worst and typical validation chips: image, labels, map and errors"
        )
    return Section("training", "Training", html)


def picture(content: bytes, name: str, *, side: int = _SAMPLES_SIDE) -> str:
    """A picture of any kind as a JPEG within the page, at most so many pixels a side."""
    with Image.open(io.BytesIO(content)) as opened:
        shown = opened.convert("RGB")
    shown.thumbnail((side, side))
    data = io.BytesIO()
    shown.save(data, "JPEG", quality=82)
    return f'<img src="{data_uri(data.getvalue(), "image/jpeg")}" alt="{text(name)}">'


def data_uri(content: bytes, kind: str) -> str:
    """The bytes as an address within the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def assessment_section(document: Mapping[str, Any], legend: Legend) -> Section:
    """Accuracy and areas with 95 % intervals, of what `assess report` wrote."""
    names = [one["name"] for one in document["classes"]]
    colours = {entry.name: entry.colour for entry in legend.entries}
    overall = document["overall"]
    html = (
        "<p>From a stratified random sample that people labelled (Olofsson et al. 2014): "
        f"{document['labelled_points']:,} points; overall accuracy "
        f"{_told(overall, 4)}. ± is half of a 95 % interval.</p>"
    )
    whole = sum(one["mapped_area"] for one in document["classes"])
    factor, unit, digits = area_unit(document["area_unit"], whole)
    drawn, rows = [], []
    for one in document["classes"]:
        area = {key: None if value is None else value * factor for key, value in one["area"].items()}
        drawn.append(
            Bar(one["name"], _number(area["value"]), colours.get(one["name"], _WHITE), _told(area, digits),
                _number(area["low"]), _number(area["high"]))
        )  # fmt: skip
        rows.append(
            [
                Cell(one["name"], colour=colours.get(one["name"])), count(one["points"]),
                *_estimate(one["users"], 4), *_estimate(one["producers"], 4),
                number(one["mapped_area"] * factor, digits), *_estimate(area, digits),
            ]
        )  # fmt: skip
    head = [
        "class", "points", "user's accuracy", "low", "high", "producer's accuracy", "low", "high",
        f"mapped ({unit})", f"area ({unit})", "low", "high",
    ]  # fmt: skip
    html += with_table(bars("Area per class by the sample", drawn), table("accuracy and areas", head, rows))
    matrix = [
        [Cell(name), *(number(share, 4) for share in row)]
        for name, row in zip(names, document["proportions"], strict=True)
    ]
    html += "<h3>Shares of the mapped ground</h3><p>Rows are the map, columns what was seen.</p>"
    html += table("error matrix", ["map \\ seen", *names], matrix)
    html += notes([str(one) for one in document.get("notes", ())])
    return Section("assessment", "Accuracy from a random sample", html)


def _estimate(one: Mapping[str, float | None], digits: int) -> Sequence[Cell]:
    return [number(_number(one[name]), digits) for name in ("value", "low", "high")]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _told(one: Mapping[str, float | None], digits: int) -> str:
    if one["value"] is None:
        return "–"
    margin = (
        "unknown" if one["high"] is None else f"{_number(one['high']) - _number(one['value']):,.{digits}f}"
    )
    return f"{_number(one['value']):,.{digits}f} ± {margin}"
