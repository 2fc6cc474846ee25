"""The options of vectorize, which become one VectorizeSettings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import click

from . import options

_CLEAN = (
    click.option("--min-area", metavar="25m2|100px", help="Merge smaller patches into their neighbours first."),
    click.option(
        "--fill-holes", metavar="10m2|50px",
        help="Give smaller patches of other classes that lie inside one polygon that polygon's class.",
    ),
    click.option(
        "--smooth-mask", type=options.PIXELS, metavar="N",
        help="Before that, give every pixel the commonest class of the N × N pixels around it (3, 5, …).",
    ),
)  # fmt: skip
_SHAPE = (
    click.option(
        "--simplify", default="1.5px", show_default=True, metavar="1.5px|0.8m|0",
        help="Straighten edges by about this much; shared edges stay shared, raster borders stay exact.",
    ),
    click.option(
        "--simplify-method", type=click.Choice(["douglas-peucker", "visvalingam"]), default="douglas-peucker",
        show_default=True, help="Which vertices go: those near the new edge, or those of small triangles.",
    ),
    click.option("--smooth", is_flag=True, help="Cut the corners of shared edges; they stay shared."),
    click.option(
        "--connectivity", type=click.Choice(["4", "8"]), default="4", show_default=True,
        help="8: patches that touch at corners are one feature of several polygons.",
    ),
    click.option(
        "--split-grid", type=options.Whole(1, 1_000_000_000), metavar="PX",
        help="Cut polygons along a grid this wide, so that a road network is not one giant polygon.",
    ),
    click.option("--instances", metavar="LIST", help="Classes whose touching objects are told apart: 'building'."),
    click.option(
        "--regularize", metavar="LIST",
        help="Classes whose outlines become right-angled where that fits; column reg_status says where.",
    ),
)  # fmt: skip
_LAYER = (
    click.option(
        "--of", "--output-format", "of", metavar="FORMAT",
        help="Format, where the suffix does not tell: GPKG, Shapefile, GeoJSON, GeoJSONSeq, FlatGeobuf, Parquet, CSV.",
    ),
    click.option("--dst-crs", metavar="EPSG:CODE", help="CRS to write; by default the mask's (GeoJSON: WGS84)."),
    click.option("--layer", metavar="NAME", help="Name of the layer, by default that of the file."),
    click.option("--append", is_flag=True, help="Add to the layer that is there (GeoPackage, Shapefile)."),
    click.option("--overwrite", is_flag=True, help="Replace an existing output."),
)  # fmt: skip
_WHICH = (
    click.option(
        "--classes", metavar="LIST", help="Classes to write, 'building,road', or 'all' to include background."
    ),
    click.option(
        "--confidence", type=click.Path(path_type=Path), metavar="RASTER",
        help="What predict --confidence wrote; by default MASK_confidence.tif, where it lies beside the mask.",
    ),
)  # fmt: skip


def polygon_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options about polygons; the command gets them as one VectorizeSettings, `settings`."""

    @functools.wraps(command)
    def with_settings(
        *,
        min_area: str | None,
        fill_holes: str | None,
        smooth_mask: int | None,
        simplify: str,
        simplify_method: str,
        smooth: bool,
        connectivity: str,
        split_grid: int | None,
        instances: str | None,
        regularize: str | None,
        of: str | None,
        dst_crs: str | None,
        layer: str | None,
        append: bool,
        overwrite: bool,
        classes: str | None,
        confidence: Path | None,
        **others: object,
    ) -> None:
        from aerial_seg.geo.measures import parse_area, parse_length
        from aerial_seg.jobs.vectorize import settings as of_job

        settings = of_job.VectorizeSettings(
            classes=_names(classes) if classes is not None else None,
            confidence=confidence,
            clean=of_job.CleanSettings(
                smooth_mask=smooth_mask,
                fill_holes=parse_area(fill_holes) if fill_holes is not None else None,
                min_area=parse_area(min_area) if min_area is not None else None,
            ),
            shape=of_job.ShapeSettings(
                simplify=parse_length(simplify),
                method="visvalingam" if simplify_method == "visvalingam" else "douglas-peucker",
                smooth=smooth,
                connectivity=8 if connectivity == "8" else 4,
                split_grid=split_grid,
                instances=_names(instances or ""),
                regularize=_names(regularize or ""),
            ),
            layer=of_job.LayerSettings(
                format=of, dst_crs=dst_crs, layer=layer, append=append, overwrite=overwrite
            ),
        )
        command(settings=settings, **others)

    for option in reversed((*_CLEAN, *_SHAPE, *_WHICH, *_LAYER)):
        with_settings = option(with_settings)
    return with_settings


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
