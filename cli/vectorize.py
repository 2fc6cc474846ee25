"""aerial-seg vectorize"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from aerial_seg.vectors.from_mask.settings import VectorizeSettings

from . import console, options
from .help.short import ShortHelp
from .setting_options import from_settings


@click.command(
    "vectorize",
    cls=ShortHelp,
    common=(
        "--min-area",
        "--fill-holes",
        "--simplify",
        "--smooth",
        "--instances",
        "--regularize",
        "--classes",
        "--dst-crs",
        "--overwrite",
    ),
    epilog="""\b
Examples:
  aerial-seg vectorize map.tif map.gpkg
  aerial-seg vectorize map.tif buildings.shp --classes building --min-area 25m2 --simplify 1.5px
  aerial-seg vectorize map.tif roads.fgb --classes road --fill-holes 20m2 --smooth --dst-crs EPSG:4326""",
)
@click.argument("mask", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@from_settings(VectorizeSettings)
@options.as_json
def command(mask: Path, output: Path, *, settings: VectorizeSettings, as_json: bool) -> None:
    """Turn a mask into clean polygons.

    MASK is any raster of class numbers. OUT's suffix chooses the format: GeoPackage (.gpkg), Shapefile (.shp), GeoJSON
    (.geojson), newline GeoJSON (.geojsonl), FlatGeobuf (.fgb), GeoParquet (.parquet) or CSV with WKT (.csv). Polygons
    carry class_id, class_name, area_m2 and perim_m (geodesic), n_px, source and model_id, with confidence also
    conf_mean and conf_min. They are valid and fit together without gaps or overlaps. QGIS shows them in the mask's
    colours; of a mask without a geotransform they lie where QGIS shows it (row r at y = −r). Memory does not grow with
    the mask.
    """
    from aerial_seg.jobs.vectorize.job import vectorize

    report = vectorize(mask, output, settings, console.bar)
    console.notes(report.notes)
    if as_json:
        console.print_json(asdict(report))
        return
    console.table(
        ["class", "polygons", "hectares"],
        [
            [c.name, f"{c.polygons:,}", "–" if c.area_m2 is None else f"{c.area_m2 / 1e4:,.2f}"]
            for c in report.classes
        ],
    )
    layers = [file for file in report.files if file.suffix == output.suffix]
    console.say("\n" + "\n".join(map(str, layers)))
