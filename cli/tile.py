"""aerial-seg tile"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import console, options

if TYPE_CHECKING:
    from aerial_seg.geo.labels.settings import LabelSettings
    from aerial_seg.geo.raster.band_choice import BandChoice
    from aerial_seg.jobs.tile.job import TileReport


@click.command(
    "tile",
    epilog="""\b
Examples:
  aerial-seg tile ortho.tif --labels buildings.gpkg -o chips
  aerial-seg tile tiles/ --labels landcover.shp --class-field type --gsd 0.25 -o chips
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
@options.label_options
@click.option(
    "--gsd", type=options.FiniteFloat(1e-9, 1e6), metavar="M", help="Resample to M metres per pixel."
)
@click.option(
    "--chip-size",
    type=options.Whole(16, 65_536),
    default=512,
    show_default=True,
    metavar="PX",
    help="Side of a chip.",
)
@click.option(
    "--split-by",
    type=click.Choice(["block", "source"]),
    default="block",
    show_default=True,
    help="What is never divided between training, validation and test.",
)
@click.option(
    "--block",
    type=options.PIXELS,
    default=2,
    show_default=True,
    metavar="CHIPS",
    help="Side of a split block.",
)
@click.option(
    "--val",
    default="0.15",
    show_default=True,
    metavar="FRACTION|GLOB",
    help="Validation chips: a fraction, or the sources whose file name matches.",
)
@click.option(
    "--test", default="0.15", show_default=True, metavar="FRACTION|GLOB", help="Test chips, likewise."
)
@click.option("--seed", type=options.SEED, default=0, show_default=True, help="Seed of the split.")
@options.band_options
@options.nodata
@options.no_georef
@options.overwrite
@options.as_json
def command(
    rasters: tuple[str, ...],
    labels: tuple[str, ...],
    output: Path,
    *,
    label_settings: LabelSettings,
    gsd: float | None,
    chip_size: int,
    split_by: str,
    block: int,
    val: str,
    test: str,
    seed: int,
    band_choice: BandChoice,
    nodata: float | None,
    no_georef: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Cut rasters and labels into a chip dataset for training.

    RASTER is one or more GeoTIFFs, VRTs, folders or globs. The dataset holds image and label chips, the index layer
    chips.gpkg for QGIS (footprint, split, source, class pixels) and dataset.json. Training, validation and test
    chips never overlap on the ground.
    """
    from aerial_seg.jobs.tile.job import tile
    from aerial_seg.jobs.tile.settings import TileSettings

    settings = TileSettings(
        labels=label_settings,
        chip_size=chip_size,
        gsd=gsd,
        split_by=split_by,
        block=block,
        val=val,
        test=test,
        seed=seed,
        nodata=nodata,
        bands=band_choice,
        georeferenced=not no_georef,
        overwrite=overwrite,
    )
    report = tile(rasters, labels, output, settings, console.bar)
    console.notes(report.notes)
    if as_json:
        console.print_json(
            {
                "dataset": report.dataset,
                "chips": report.chips,
                "class_pixels": report.class_pixels,
                "gsd": report.gsd,
            }
        )
    else:
        _print_table(report)


def _print_table(report: TileReport) -> None:
    totals = {
        name: sum(pixels[name] for pixels in report.class_pixels.values()) for name in report.legend.names
    }
    console.class_table(report.legend, totals)
    chips = ", ".join(f"{count} {split}" for split, count in report.chips.items())
    at = f" at {report.gsd:.3g} m" if report.gsd else ""
    console.say(f"\n{report.dataset}: {chips} chips{at}")
