"""aerial-seg assess report"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aerial_seg.jobs.assess.settings import AssessSettings

from .. import console, options
from ..setting_options import from_settings
from .units import area_unit

if TYPE_CHECKING:
    from aerial_seg.assessment import Estimate
    from aerial_seg.jobs.assess.report import AssessReport


@click.command(
    "report",
    epilog="""\b
Examples:
  aerial-seg assess report points.gpkg map.tif
  aerial-seg assess report points.gpkg map.tif -o accuracy.json""",
)
@click.argument("points", metavar="POINTS")
@click.argument("mask", metavar="MASK", type=click.Path(path_type=Path))
@from_settings(AssessSettings)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write all figures as JSON.")
@options.overwrite
@options.as_json
def report_command(
    points: str, mask: Path, *, settings: AssessSettings, output: Path | None, overwrite: bool, as_json: bool
) -> None:
    """Estimate accuracy and areas with 95 % intervals from labelled points.

    Prints the error matrix in estimated shares of the ground, overall, user's and producer's accuracy, and the area
    of each class as the map has it and as the points correct it.
    """
    from aerial_seg.files.protect import Inputs
    from aerial_seg.files.staging import check_writable, staged_files
    from aerial_seg.geo.raster.read_files import vector_files
    from aerial_seg.jobs.assess.report import assess

    if output is not None:
        check_writable(output, overwrite=overwrite)
        Inputs([mask, *vector_files(points)]).refuse([output])
    report = assess(points, mask, settings, console.bar)
    document = report.as_json()
    if output is not None:
        with staged_files(output, overwrite=overwrite) as folder:
            (folder / output.name).write_text(json.dumps(document, indent=2), encoding="utf-8", newline="\n")
    console.notes(report.notes)
    if as_json:
        console.print_json(document)
        return
    _tables(report)


def _tables(report: AssessReport) -> None:
    names, accuracy = report.legend.names, report.accuracy
    console.say("shares of the mapped ground (rows: map, columns: reference)")
    shares = [
        [name, *(f"{share:.4f}" for share in row)]
        for name, row in zip(names, accuracy.proportions, strict=True)
    ]
    console.table(["", *names], shares)
    factor, unit = area_unit(report.unit, sum(report.mapped))
    rows = [
        [
            name,
            f"{report.counts[k].sum():,}",
            _told(accuracy.users[k], 4),
            _told(accuracy.producers[k], 4),
            f"{report.mapped[k] * factor:,.2f}",
            _told(report.areas[k].times(factor), 2),
        ]
        for k, name in enumerate(names)
    ]
    console.say()
    head = ["class", "points", "user's accuracy", "producer's accuracy", f"mapped ({unit})", f"area ({unit})"]
    console.table(head, rows)
    console.say(f"\noverall accuracy {_told(accuracy.overall, 4)}; ± is half of a 95 % interval")


def _told(estimate: Estimate, digits: int) -> str:
    if estimate.value != estimate.value:
        return "–"
    margin = "unknown" if estimate.error != estimate.error else f"{estimate.margin:,.{digits}f}"
    return f"{estimate.value:,.{digits}f} ± {margin}"
