"""aerial-seg vectorize"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from . import console, options


@click.command(
    "vectorize",
    epilog="""\b
Examples:
  aerial-seg vectorize map.tif map.gpkg
  aerial-seg vectorize map.tif buildings.shp --classes building --min-area 25m2 --simplify 1.5px""",
)
@click.argument("mask", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--min-area", metavar="25m2|100px", help="Merge smaller patches into their neighbours first.")
@click.option(
    "--simplify", default="1.5px", show_default=True, metavar="1.5px|0.8m|0",
    help="Straighten edges by about this much; shared edges stay shared, raster borders stay exact.",
)  # fmt: skip
@click.option(
    "--classes", metavar="LIST", help="Classes to write, 'building,road', or 'all' to include background."
)
@options.overwrite
@options.as_json
def command(
    mask: Path,
    output: Path,
    *,
    min_area: str | None,
    simplify: str,
    classes: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn a mask into clean polygons.

    OUT's suffix chooses the format: GeoPackage (.gpkg), Shapefile (.shp) or GeoJSON (.geojson). Polygons carry
    class_id, class_name and area_m2 (geodesic), are valid, and fit together without gaps or overlaps.
    """
    from aerial_seg.geo.measures import parse_area, parse_length
    from aerial_seg.jobs.vectorize import VectorizeSettings, vectorize

    settings = VectorizeSettings(
        min_area=parse_area(min_area) if min_area is not None else None,
        simplify=parse_length(simplify),
        classes=tuple(name.strip() for name in classes.split(",")) if classes is not None else None,
        overwrite=overwrite,
    )
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
    click.echo(f"\n{output}")
