"""aerial-seg assess"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aerial_seg.jobs.assess.settings import AssessSettings, DesignSettings

from . import console, options
from .setting_options import from_settings

if TYPE_CHECKING:
    from aerial_seg.assessment import Estimate
    from aerial_seg.jobs.assess.design import DesignReport
    from aerial_seg.jobs.assess.report import AssessReport


@click.group(
    "assess",
    subcommand_metavar="design|report [ARGS]...",
    epilog="""\b
Examples:
  aerial-seg assess design map.tif -o points.gpkg
  aerial-seg assess design map.tif --standard-error 0.01 --minimum 75 --image ortho.tif -o points.gpkg
  aerial-seg assess report points.gpkg map.tif""",
)
def command() -> None:
    """State a map's accuracy and the areas of its classes, with intervals, as science wants them.

    design draws a random sample of the map's pixels, class by class; you look at each point in QGIS and say what is
    there; report estimates from that (Olofsson et al. 2014, Remote Sensing of Environment 148).
    """


@command.command(
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
    factor, unit = _unit(report.unit, sum(report.areas))
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


@command.command(
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
    factor, unit = _unit(report.unit, sum(report.mapped))
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


def _unit(unit: str, whole: float) -> tuple[float, str]:
    """By what to multiply the areas, and the unit that they are told in then."""
    if unit == "px":
        return 1.0, "px"
    return (1e-6, "km²") if whole >= 1e9 else (1e-4, "ha") if whole >= 1e5 else (1.0, "m²")


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
