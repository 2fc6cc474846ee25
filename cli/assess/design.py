"""aerial-seg assess design"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aerial_seg.jobs.assess.settings import DesignSettings

from .. import console, options
from ..setting_options import from_settings
from .units import area_unit

if TYPE_CHECKING:
    from aerial_seg.jobs.assess.design import DesignReport


@click.command(
    "design",
    epilog="""\b
Examples:
  aerial-seg assess design map.tif -o points.gpkg
  aerial-seg assess design map.tif --class-accuracy building=0.9,road=0.7 --seed 1 -o points.gpkg""",
)
@click.argument("mask", metavar="MASK", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The points, a GeoPackage."
)
@from_settings(DesignSettings)
@options.as_json
def design_command(mask: Path, *, output: Path, settings: DesignSettings, as_json: bool) -> None:
    """Draw a stratified random sample of a mask as points to be labelled.

    Fill the field `reference` of each point in QGIS: its form offers the classes by name. The map's own class is not
    shown there, so that nobody agrees with it unawares.
    """
    from aerial_seg.jobs.assess.design import design_sample

    report = design_sample(mask, output, settings, console.bar)
    console.notes(report.notes)
    if as_json:
        console.print_json(_design_json(report))
        return
    factor, unit = area_unit(report.unit, sum(report.areas))
    rows = [
        [name, f"{area * factor:,.2f}", f"{area / sum(report.areas):.2%}", f"{expected:.2f}", f"{points:,}"]
        for name, area, expected, points in zip(
            report.legend.names, report.areas, report.expected, report.points, strict=True
        )
    ]
    rows.append(["all", f"{sum(report.areas) * factor:,.2f}", "", "", f"{sum(report.points):,}"])
    console.table(["class", f"area ({unit})", "share", "expected accuracy", "points"], rows)
    console.note(
        f"{report.path}: label its {sum(report.points):,} points; if classes are as accurate as expected, the overall "
        f"accuracy will have a standard error of {report.standard_error:.3f}"
    )


def _design_json(report: DesignReport) -> dict[str, object]:
    classes = [
        {"name": name, "value": value, "points": points, "mapped_area": area, "expected_accuracy": expected}
        for name, value, points, area, expected in zip(
            report.legend.names,
            report.legend.values,
            report.points,
            report.areas,
            report.expected,
            strict=True,
        )
    ]
    return {
        "points": str(report.path),
        "count": sum(report.points),
        "area_unit": report.unit,
        "standard_error": report.standard_error,
        "classes": classes,
    }
