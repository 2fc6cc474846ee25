"""aerial-seg predict"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import console, options

if TYPE_CHECKING:
    from aerial_seg.jobs.predict import PredictReport


@click.command(
    "predict",
    epilog="""\b
Examples:
  aerial-seg predict run/best.safetensors ortho.tif -o map.tif
  aerial-seg predict run/best.safetensors ortho.tif -o map.tif --vectors map.gpkg
  aerial-seg predict run/best.safetensors tiles/ --mosaic --nodata 255 -o map.tif""",
)
@click.argument("model", type=click.Path(path_type=Path))
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
    "--tile-size", type=click.IntRange(1), metavar="PX", help="Side of a tile; default: the model's."
)
@click.option(
    "--overlap", type=click.IntRange(0), metavar="PX", help="Pixels that neighbouring tiles blend over."
)
@click.option(
    "--halo", type=click.IntRange(0), metavar="PX", help="Context around each tile that is run and dropped."
)
@click.option(
    "--batch-size", type=click.IntRange(1), metavar="N", help="Tiles run at once; default: the model's."
)
@click.option(
    "--force-gsd", is_flag=True, help="Go on where the pixel size is more than 4 times off the model's."
)
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
    tile_size: int | None,
    overlap: int | None,
    halo: int | None,
    batch_size: int | None,
    force_gsd: bool,
    nodata: float | None,
    no_georef: bool,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Predict the class of every pixel of a raster of any size.

    Writes a Cloud Optimized GeoTIFF on the raster's own grid with the classes' colours and names, 255 where nothing
    was measured, and a QGIS style beside it. A raster whose pixel size differs from the model's is resampled for the
    network; the mask comes back on the raster's grid.
    """
    from aerial_seg.jobs.predict import PredictSettings, predict

    settings = PredictSettings(
        tile_size=tile_size,
        halo=halo,
        overlap=overlap,
        batch_size=batch_size,
        device=device,
        vectors=vectors,
        nodata=nodata,
        mosaic=mosaic,
        georeferenced=not no_georef,
        force_gsd=force_gsd,
        overwrite=overwrite,
    )
    reports = predict(model, rasters, output, settings, console.bar)
    if as_json:
        console.print_json([asdict(report) for report in reports])
        return
    for report in reports:
        _print_report(report)


def _print_report(report: PredictReport) -> None:
    console.notes(report.notes)
    if report.resampled_to is not None:
        console.note(f"note: resampled to the model's {report.resampled_to:.3g} m for the network")
    total = max(1, report.height * report.width)
    rows = [[name, f"{pixels:,}", f"{pixels / total:.1%}"] for name, pixels in report.class_pixels.items()]
    rows.append(["(nodata)", f"{report.nodata_pixels:,}", f"{report.nodata_pixels / total:.1%}"])
    console.table(["class", "pixels", "share"], rows)
    click.echo(
        f"\n{report.mask}: {report.width} × {report.height} px from {report.source}, "
        f"{report.tiles} tiles run, {report.tiles_skipped} skipped as nodata"
    )
    if report.vectors is not None:
        console.notes(report.vectors.notes)
        counts = ", ".join(f"{c.name}: {c.polygons:,}" for c in report.vectors.classes)
        click.echo(f"{report.vectors.path}: {report.vectors.polygons:,} polygons ({counts})")
