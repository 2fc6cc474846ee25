"""aerial-seg tile"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aerial_seg.jobs.tile.settings import TileSettings

from . import console, options
from .help.short import ShortHelp
from .setting_options import from_settings

if TYPE_CHECKING:
    from aerial_seg.jobs.tile.job import TileReport


@click.command(
    "tile",
    cls=ShortHelp,
    common=(
        "--labels",
        "--output",
        "--class-field",
        "--classes",
        "--gsd",
        "--chip-size",
        "--val",
        "--test",
        "--nodata",
        "--append",
        "--overwrite",
        "--dry-run",
    ),
    epilog="""\b
Examples:
  aerial-seg tile ortho.tif --labels buildings.gpkg -o chips
  aerial-seg tile tiles/ --labels landcover.shp --class-field type --gsd 0.25 -o chips
  aerial-seg tile tiles/ --labels landcover.shp --class-field type -o chips --dry-run
  aerial-seg tile 'scenes/*.tif' --labels labels.tif --unlabelled 0 --test '*_north.tif' -o chips""",
)
@click.argument("rasters", nargs=-1, required=True, metavar="RASTER...")
@click.option(
    "--labels",
    required=True,
    multiple=True,
    metavar="PATH",
    help="Polygons (GeoPackage, Shapefile, GeoJSON), or class rasters (files, folder, glob; may be repeated).",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the new dataset."
)
@from_settings(TileSettings)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check all inputs, tell every problem at once, errors first, and what would be made. Nothing is written.",
)
@options.as_json
def command(
    rasters: tuple[str, ...],
    labels: tuple[str, ...],
    output: Path,
    *,
    settings: TileSettings,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Cut rasters and labels into a chip dataset for training.

    RASTER is one or more GeoTIFFs, VRTs, folders or globs. The dataset holds image and label chips, the index layer
    chips.gpkg for QGIS (footprint, split, source, class pixels), dataset.json, and qa/index.html with pictures to look
    at; with --index-only no images, which are read from the rasters then. Training, validation and test chips never
    overlap on the ground.
    """
    if dry_run:
        from aerial_seg.jobs.tile.dry_run import forecast_tiling

        from .reports import problems, tile_forecast

        forecast = forecast_tiling(rasters, labels, output, settings, console.bar)
        tile_forecast.show(forecast, as_json=as_json)
        problems.end(forecast.problems)
        return
    from aerial_seg.jobs.tile.job import tile

    report = tile(rasters, labels, output, settings, console.bar)
    console.notes(report.notes)
    if as_json:
        console.print_json(
            {
                "dataset": report.dataset,
                "chips": report.chips,
                "class_pixels": report.class_pixels,
                "gsd": report.gsd,
                "statistics": None if report.statistics is None else report.statistics.model_dump(),
            }
        )
    else:
        _print_table(report)


def _print_table(report: TileReport) -> None:
    console.split_class_table(report.legend, report.class_pixels)
    chips = ", ".join(f"{count} {split}" for split, count in report.chips.items())
    at = f" at {report.gsd:.3g} m" if report.gsd else ""
    console.say(f"\n{report.dataset}: {chips} chips{at}")
    weights = {} if report.statistics is None else report.statistics.class_weights()
    if len(weights) > 1:
        told = ", ".join(f'"{name}" = {weight:g}' for name, weight in weights.items())
        console.say(f"weights by median frequency, for [training] of a recipe: class_weights = {{ {told} }}")
