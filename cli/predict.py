"""aerial-seg predict"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import console, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aerial_seg.geo.raster.band_choice import BandChoice
    from aerial_seg.jobs.predict.many_scenes import SceneOutcome
    from aerial_seg.jobs.predict.settings import Forecast, PredictReport


@click.command(
    "predict",
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
@click.option(
    "--vectors", type=click.Path(path_type=Path), help="Also write polygons: .gpkg, .shp or .geojson."
)
@click.option("--mosaic", is_flag=True, help="Predict all rasters as one map; later ones lie on top.")
@click.option(
    "--aoi", metavar="FILE",
    help="Predict only what the polygons of this vector file cover. The mask keeps the raster's grid and is nodata "
    "outside; tiles outside do not run.",
)  # fmt: skip
@click.option(
    "--aoi-layer",
    metavar="NAME",
    help="Layer of the --aoi file, if it holds several; as FILE|layername=NAME.",
)
@click.option("--aoi-crs", metavar="EPSG:CODE", help="CRS of an --aoi file that carries none.")
@click.option(
    "--bounds",
    type=options.FiniteFloat(),
    nargs=4,
    metavar="W S E N",
    help="The same for a box in the raster's CRS.",
)
@click.option("--tile-size", type=options.PIXELS, metavar="PX", help="Side of a tile; default: the model's.")
@click.option(
    "--overlap", type=options.PIXELS_OR_NONE, metavar="PX", help="Pixels that neighbouring tiles blend over."
)
@click.option(
    "--halo",
    type=options.PIXELS_OR_NONE,
    metavar="PX",
    help="Context around each tile that is run and dropped.",
)
@click.option(
    "--window", type=click.Choice(["linear", "cosine", "gaussian", "centre"]), default="linear", show_default=True,
    help="How tiles are weighted where they overlap; centre: a hard crop, no blending.",
)  # fmt: skip
@click.option(
    "--blend", type=click.Choice(["logits", "probabilities"]), default="logits", show_default=True,
    help="What is averaged where tiles overlap.",
)  # fmt: skip
@click.option(
    "--tta", metavar="flips,rot90,scales=S:S", default="",
    help="Run every tile in 4 (flips or rot90) or 8 orientations (both), each also at these scales beside 1, as "
    "scales=0.5:0.75:1.25, and average: a little better, as much slower.",
)  # fmt: skip
@click.option(
    "--crf", is_flag=True,
    help="Move the classes' borders to the image's edges: a DenseCRF with DeepLabv2's parameters, on the raster's own "
    "grid. Takes long: 11 s per million pixels with 2 classes, 25 s with 20. Needs pip install 'aerial-seg[crf]'.",
)  # fmt: skip
@click.option(
    "--crf-parameters", metavar="NAME=VALUE,...",
    help="As --crf, with other parameters: iterations=10, pos_w=3, pos_xy_std=1, bi_w=4, bi_xy_std=67 (pixels), "
    "bi_rgb_std=3 (grey levels) are the defaults.",
)  # fmt: skip
@click.option(
    "--confidence", is_flag=True, help="Also write OUT_confidence.tif: probability of the class that won."
)
@click.option("--probabilities", is_flag=True, help="Also write OUT_probabilities.tif: one band per class.")
@click.option(
    "--stac", is_flag=True, help="Also write OUT.json: a STAC Item with place, classes and provenance."
)
@click.option(
    "--datetime", "taken", metavar="TIME[/TIME]",
    help="When the imagery was taken, for the STAC Item: 2024-05-03T10:00:00Z, or the first and the last time with a "
    "slash between. Default: what the raster's tags tell, else when its file was written; the Item says which.",
)  # fmt: skip
@click.option(
    "--batch-size",
    type=options.PIXELS,
    metavar="N",
    help="Tiles run at once; default: the model's, fewer where memory is short.",
)
@click.option(
    "--force-gsd", is_flag=True, help="Go on where the pixel size is more than 4 times off the model's."
)
@click.option(
    "--engine", type=click.Choice(["auto", "eager", "compile", "onnx", "openvino"]), default="auto",
    show_default=True,
    help="How the network runs; auto compiles it when there are tiles enough to pay for that. onnx and openvino run "
    "on the CPU and need pip install 'aerial-seg[onnx]' or 'aerial-seg[openvino]'.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True,
    help="Numbers the network computes in; auto takes what the hardware is fast at.",
)  # fmt: skip
@click.option(
    "--max-memory", type=options.ByteSize(), metavar="SIZE",
    help="Memory the process may use, as 2GB or 800MB; the raster is then cut into column panels. The map does not "
    "depend on it. Default: half of the machine's.",
)  # fmt: skip
@click.option(
    "--dry-run", is_flag=True, help="Say what it would take: tiles, memory, disk, time. Writes nothing."
)
@click.option("--restart", is_flag=True, help="Forget what an interrupted run of this output had finished.")
@options.band_options
@options.nodata
@options.no_georef
@options.device
@options.overwrite
@options.as_json
def command(
    model: Path,
    rasters: tuple[str, ...],
    output: Path,
    *,
    vectors: Path | None,
    mosaic: bool,
    aoi: str | None,
    aoi_layer: str | None,
    aoi_crs: str | None,
    bounds: tuple[float, float, float, float] | None,
    tile_size: int | None,
    overlap: int | None,
    halo: int | None,
    window: str,
    blend: str,
    tta: str,
    crf: bool,
    crf_parameters: str | None,
    confidence: bool,
    probabilities: bool,
    stac: bool,
    taken: str | None,
    batch_size: int | None,
    force_gsd: bool,
    engine: str,
    precision: str,
    max_memory: int | None,
    dry_run: bool,
    restart: bool,
    band_choice: BandChoice,
    nodata: float | None,
    no_georef: bool,
    device: str,
    overwrite: bool,
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
    from aerial_seg.crf.settings import parse_crf
    from aerial_seg.jobs.predict.job import forecast_prediction, predict_scenes
    from aerial_seg.jobs.predict.many_scenes import all_or_raise
    from aerial_seg.jobs.predict.settings import PredictSettings

    settings = PredictSettings(
        tile_size=tile_size,
        halo=halo,
        overlap=overlap,
        window=window,
        blend=blend,
        tta=tuple(kind.strip() for kind in tta.split(",") if kind.strip()),
        crf=parse_crf(crf_parameters or "") if crf or crf_parameters is not None else None,
        nodata=nodata,
        bands=band_choice,
        mosaic=mosaic,
        aoi=aoi,
        aoi_layer=aoi_layer,
        aoi_crs=aoi_crs,
        bounds=bounds,
        georeferenced=not no_georef,
        force_gsd=force_gsd,
        confidence=confidence,
        probabilities=probabilities,
        stac=stac,
        taken=taken,
        vectors=vectors,
        batch_size=batch_size,
        device=device,
        engine=engine,
        precision=precision,
        max_memory=max_memory,
        overwrite=overwrite,
        restart=restart,
    )
    if dry_run:
        _print_forecasts(forecast_prediction(model, rasters, output, settings), as_json)
        return
    outcomes = predict_scenes(model, rasters, output, settings, console.bar)
    if as_json:
        console.print_json([outcome.as_dict() for outcome in outcomes])
    else:
        for outcome in outcomes:
            if outcome.report is not None:
                _print_report(outcome.report)
        if len(outcomes) > 1:
            _print_outcomes(outcomes)
    all_or_raise(outcomes)


def _print_outcomes(outcomes: Sequence[SceneOutcome]) -> None:
    rows = []
    for outcome in outcomes:
        made, seconds = outcome.report, f"{outcome.seconds:.1f}"
        if made is None:
            rows.append([outcome.source, "", "", seconds, outcome.outcome])
        else:
            total = made.height * made.width
            share = f"{made.nodata_pixels / total:.1%}"
            rows.append([outcome.source, f"{total:,}", share, seconds, outcome.outcome])
    console.say()
    console.table(["scene", "pixels", "nodata", "seconds", "outcome"], rows)


def _print_report(report: PredictReport) -> None:
    console.notes(report.notes)
    if report.resampled_to is not None:
        console.note(f"note: resampled to the model's {report.resampled_to:.3g} m for the network")
    total = max(1, report.height * report.width)
    rows = [[name, f"{pixels:,}", f"{pixels / total:.1%}"] for name, pixels in report.class_pixels.items()]
    rows.append(["(nodata)", f"{report.nodata_pixels:,}", f"{report.nodata_pixels / total:.1%}"])
    console.table(["class", "pixels", "share"], rows)
    console.say(
        f"\n{report.mask}: {report.width} × {report.height} px from {report.source}, "
        f"{report.tiles} tiles run, {report.tiles_skipped} skipped as nodata or outside"
    )
    if report.resumed_rows:
        console.note(f"note: went on after {report.resumed_rows:,} rows that an interrupted run had finished")
    if report.vectors is not None:
        console.notes(report.vectors.notes)
        counts = ", ".join(f"{c.name}: {c.polygons:,}" for c in report.vectors.classes)
        console.say(f"{report.vectors.path}: {report.vectors.polygons:,} polygons ({counts})")


def _print_forecasts(forecasts: Sequence[Forecast], as_json: bool) -> None:
    if as_json:
        console.print_json([asdict(one) for one in forecasts])
        return
    for one in forecasts:
        console.notes(one.notes)
    head = ["raster", "pixels", "tiles", "side", "panels", "memory", "disk", "time at most"]
    rows = [
        [
            one.source,
            f"{one.width:,} × {one.height:,}",
            f"{one.tiles:,}",
            str(one.tile_size),
            str(one.panels),
            f"{one.memory / 1e9:.2f} GB",
            f"{one.disk / 1e9:.2f} GB",
            _duration(one.seconds),
        ]
        for one in forecasts
    ]
    console.table(head, rows)
    console.say(f"\n{forecasts[0].engine}; nothing was written")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
