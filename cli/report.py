"""aerial-seg report"""

from __future__ import annotations

from pathlib import Path

import click

from aerial_seg.jobs.report.settings import ReportSettings
from aerial_seg.labels.settings import LabelSettings

from . import console, options
from .help.short import ShortHelp
from .setting_options import from_settings


@click.command(
    "report",
    cls=ShortHelp,
    common=(
        "--output",
        "--labels",
        "--image",
        "--run",
        "--assessment",
        "--classes",
        "--class-field",
        "--overwrite",
    ),
    epilog="""\b
Examples:
  aerial-seg report map.tif --image ortho.tif -o report.html
  aerial-seg report map.tif --image ortho.tif --labels truth.gpkg --class-field type -o report.html
  aerial-seg report map.tif --labels truth.tif --run run --assessment accuracy.json -o report.html
  aerial-seg report map.tif --image ortho.tif --labels truth.tif -o report.png
  aerial-seg report map.tif --image ortho.tif -o map.qgz""",
)
@click.argument("mask", metavar="MASK", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path),
    help="A page (.html) for any browser, a picture (.png), or a QGIS project (.qgz).",
)  # fmt: skip
@click.option(
    "--labels", multiple=True, metavar="LABELS",
    help="Polygons or class rasters to set the map against (may be repeated for rasters).",
)  # fmt: skip
@from_settings(ReportSettings)
@from_settings(LabelSettings, "label_settings")
@options.as_json
def command(
    mask: Path,
    *,
    output: Path,
    labels: tuple[str, ...],
    settings: ReportSettings,
    label_settings: LabelSettings,
    as_json: bool,
) -> None:
    """Show a map and say how good it is.

    A picture shows image, truth, map and errors side by side. A QGIS project holds imagery, mask, confidence, labels
    and the polygons of the mask's name beside it, styled and in groups. A page is one file that needs no network: map,
    imagery, confidence, labels and errors as layers, the area of each class and, with --labels, the scores of
    `evaluate` with 95 % intervals, the confusion matrix, how true the confidence is, and the places where the map errs
    most. The confidence is MASK_confidence.tif, where `predict --confidence` left it beside the mask.
    """
    from aerial_seg.jobs.report.job import report_map

    report = report_map(mask, output, labels, settings, label_settings, console.bar)
    console.notes(report.notes)
    if as_json:
        console.print_json(
            {
                "report": str(report.path),
                "area_unit": report.unit,
                "areas": dict(zip(report.legend.names, report.areas, strict=True)),
                **({} if report.evaluation is None else report.evaluation.scores.as_json()),
            }
        )
    else:
        console.say(report.path)
