"""aerial-seg predict"""

from __future__ import annotations

from pathlib import Path

import click

from aerial_seg.jobs.predict.settings import PredictSettings

from . import console, options
from .help.short import ShortHelp
from .reports.predict_report import show_forecasts, show_outcomes, show_report
from .setting_options import from_settings


@click.command(
    "predict",
    cls=ShortHelp,
    common=(
        "--output",
        "--vectors",
        "--mosaic",
        "--aoi",
        "--tta",
        "--confidence",
        "--nodata",
        "--max-memory",
        "--device",
        "--overwrite",
        "--dry-run",
    ),
    epilog="""\b
Examples:
  aerial-seg predict run/best.safetensors ortho.tif -o map.tif
  aerial-seg predict run/best.safetensors ortho.tif -o map.tif --vectors map.gpkg
  aerial-seg predict a.safetensors,b.safetensors ortho.tif -o map.tif --tta flips,scales=0.75:1.25
  aerial-seg predict run/best.safetensors @scenes.txt -o masks --aoi districts.gpkg
  aerial-seg predict run/best.safetensors tiles/ --mosaic --nodata 255 -o map.tif
  aerial-seg predict run/best.safetensors country.vrt -o map.tif --confidence --max-memory 4GB --dry-run""",
)
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL[,MODEL...]")
@click.argument("rasters", nargs=-1, required=True, metavar="RASTER...")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path),
    help="The mask (.tif); of several rasters without --mosaic, a folder.",
)  # fmt: skip
@from_settings(PredictSettings)
@click.option(
    "--dry-run", is_flag=True, help="Say what it would take: tiles, memory, disk, time. Writes nothing."
)
@options.as_json
def command(
    model: Path,
    rasters: tuple[str, ...],
    output: Path,
    *,
    settings: PredictSettings,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Predict the class of every pixel of a raster of any size.

    Writes a Cloud Optimized GeoTIFF on the raster's own grid with the classes' colours and names, 255 where nothing
    was measured, and a QGIS style beside it. A raster whose pixel size differs from the model's is resampled for the
    network; the mask comes back on the raster's grid. Of several models with commas between, the class probabilities
    are averaged; the first one tells tiling, pixel values and colours.

    Of several rasters (files, folders, globs, and @LIST for the lines of a text file) one that cannot be predicted
    does not stop the others; it is named in the end, with exit code 1.

    Memory does not grow with the raster. A run that was interrupted, even by a power cut, goes on where it stopped
    when the same command is given again.
    """
    from aerial_seg.jobs.predict.job import forecast_prediction, predict_scenes
    from aerial_seg.jobs.predict.many_scenes import all_or_raise

    if dry_run:
        show_forecasts(forecast_prediction(model, rasters, output, settings), as_json=as_json)
        return
    outcomes = predict_scenes(model, rasters, output, settings, console.bar)
    if as_json:
        console.print_json([outcome.as_dict() for outcome in outcomes])
    else:
        for outcome in outcomes:
            if outcome.report is not None:
                show_report(outcome.report)
        if len(outcomes) > 1:
            show_outcomes(outcomes)
    all_or_raise(outcomes)
