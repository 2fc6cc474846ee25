"""A made-up town seen from the air, with exact labels: a network learns it in minutes, colour alone cannot map it.

Roofs, roads, water, trees and ground take their colours from overlapping palettes; what tells them apart is
shape and texture within about 60 pixels: ridges and shadows, lane marks, smoothness, crowns, rows. Its sizes
are pixels: the ground sample distance changes how large that world is, not how it looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import rasterio.errors
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.profiles import Profile
from shapely.affinity import affine_transform

from aerial_seg.errors import SettingsError
from aerial_seg.files import durable
from aerial_seg.files.disk import write_failure
from aerial_seg.files.names import exact
from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE, Legend, make_legend
from aerial_seg.outputs.durable import settled_file
from aerial_seg.outputs.geopackage import write_geopackage
from aerial_seg.outputs.qgis_style import SUFFIX, StyleClass, class_polygons, class_raster, style_text
from aerial_seg.synthetic.layout import burn, plan_layout, separate, smooth_noise
from aerial_seg.synthetic.paint import paint

TOWN_LEGEND: Legend = make_legend(
    {0: "background", 1: "building", 2: "road", 3: "vegetation", 4: "water"}, background=(0,)
)
"""What the pixels of a truth mean; the labels' `class` column holds all names but the background's."""

_LABEL_STYLE = class_polygons(
    [
        StyleClass(entry.name, entry.name, entry.colour)
        for entry in TOWN_LEGEND.entries
        if not entry.background
    ],
    column="class",
)

SMALLEST_SIDE = 256
PLACE_METRES = 4000
_PLACES_EAST, _PLACES_NORTH = 50, 150

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Town:
    """One made-up orthophoto.

    grid: UTM zone 33 N. image (3,H,W) uint8, 1–255 where valid, 0 elsewhere.
    valid (H,W) bool, True = measured.
    truth (H,W) uint8, values of TOWN_LEGEND, 255 where invalid: the labels, rasterised.
    labels: polygons in the grid's CRS with a `class` column; polygons of different classes do not overlap.
    """

    grid: Grid
    image: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    truth: NDArray[np.uint8]
    labels: gpd.GeoDataFrame


@dataclass(frozen=True, slots=True)
class TownPaths:
    """The files of a written town: image and truth GeoTIFF, labels GeoPackage."""

    image: Path
    labels: Path
    truth: Path


def make_town(seed: int, *, height: int, width: int, gsd: float = 0.5) -> Town:
    """Make up a town of height × width pixels that is the same for the same arguments, bit by bit.

    gsd is in metres per pixel. Seeds below 7500 lie at places that do not overlap. From 512 pixels a side on
    every class is present. Raises SettingsError on a negative seed or a size that does not fit into a place.
    """
    _check(seed, height=height, width=width, gsd=gsd)
    rng = np.random.default_rng(seed)
    grid = _place(seed, height=height, width=width, gsd=gsd)
    layout = plan_layout(rng, grid.shape)
    valid = _flight_strip(rng, grid.shape)
    pixels = separate(layout)
    rows = [(name, polygon) for name, polygons in pixels.items() for polygon in polygons]
    ground = [affine_transform(polygon, grid.transform.to_shapely()) for _, polygon in rows]
    labels = gpd.GeoDataFrame({"class": [name for name, _ in rows]}, geometry=ground, crs=grid.crs)
    values = {entry.name: entry.value for entry in TOWN_LEGEND.entries}
    mask = burn(ground, [values[name] for name, _ in rows], grid.shape, transform=grid.transform)
    image = paint(rng, layout, wood=mask == values["vegetation"], water=mask == values["water"])
    return Town(
        grid=grid,
        image=np.where(valid, image, np.uint8(0)),
        valid=valid,
        truth=np.where(valid, mask, IGNORE).astype(np.uint8),
        labels=labels,
    )


make_scene = make_town
"""The former name of make_town, kept for those who import it."""


def write_town(town: Town, folder: Path) -> TownPaths:
    """image.tif, labels.gpkg and truth.tif (with its QGIS style) lie in the folder, each complete or absent.

    The image declares nodata 0; no valid pixel holds a 0, so its valid pixels are recovered exactly.
    """
    paths = TownPaths(folder / "image.tif", folder / "labels.gpkg", folder / "truth.tif")
    colours = {entry.value: (*entry.rgb, 255) for entry in TOWN_LEGEND.entries}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_raster(town.grid, town.image, paths.image, nodata=0)
        _write_raster(town.grid, town.truth[None], paths.truth, nodata=IGNORE, colours=colours)
        write_labels(town.labels, paths.labels)
        paths.truth.with_suffix(SUFFIX).write_bytes(style_text(class_raster(TOWN_LEGEND)).encode())
    except OSError as error:
        raise write_failure(error, folder, "choose another folder") from error
    return paths


def write_labels(labels: gpd.GeoDataFrame, path: Path) -> None:
    """The layer `labels` of the GeoPackage `path`, complete or absent, and equal bytes for equal labels."""
    # GDAL asks for the suffix.
    draft = path.with_name(f"partial-{path.name}")
    with durable.settled_file(path, draft=draft, remedy="choose another folder") as partial:
        write_geopackage(labels, partial, layer="labels", style=style_text(_LABEL_STYLE))


def _write_raster(
    grid: Grid,
    bands: NDArray[np.uint8],
    path: Path,
    *,
    nodata: int,
    colours: dict[int, tuple[int, int, int, int]] | None = None,
) -> None:
    profile = Profile(
        driver="GTiff", dtype="uint8", count=len(bands), height=grid.height, width=grid.width, crs=grid.crs,
        transform=grid.transform, nodata=nodata, tiled=True, compress="deflate",
        blockxsize=256, blockysize=256,
    )  # fmt: skip
    with settled_file(path) as partial, rasterio.open(exact(partial), "w", **profile) as out:
        out.write(bands)
        if colours:
            out.write_colormap(1, colours)
            out.set_band_description(1, "class")


def _check(seed: int, *, height: int, width: int, gsd: float) -> None:
    if seed < 0:
        raise SettingsError(f"seed {seed} is negative; give 0 or more")
    if not (math.isfinite(gsd) and gsd > 0):
        raise SettingsError(f"a GSD of {gsd} m is not a pixel size; give for example 0.5")
    if min(height, width) < SMALLEST_SIDE:
        raise SettingsError(
            f"an image of {width} × {height} pixels has no room for a town;"
            f" give at least {SMALLEST_SIDE} a side"
        )
    if max(height, width) * gsd > PLACE_METRES:
        raise SettingsError(
            f"an image of {width} × {height} pixels at {gsd} m is longer than {PLACE_METRES} m, where"
            f" the next seed's place begins; give at most {int(PLACE_METRES / gsd)} pixels a side"
        )


def _place(seed: int, *, height: int, width: int, gsd: float) -> Grid:
    north, east = divmod(seed % (_PLACES_EAST * _PLACES_NORTH), _PLACES_EAST)
    left, top = 400_000 + east * PLACE_METRES, 5_200_000 + (north + 1) * PLACE_METRES
    transform = Affine(gsd, 0.0, left, 0.0, -gsd, top)
    return Grid(crs=CRS.from_epsg(32633), transform=transform, height=height, width=width)


def _flight_strip(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A slightly rotated frame with a ragged edge; 3.5–7 % of the pixels lie outside."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = math.radians(rng.uniform(1.2, 2.5) * rng.choice([-1, 1]))
    across = (x - width / 2) * math.cos(angle) + (y - height / 2) * math.sin(angle)
    down = (y - height / 2) * math.cos(angle) - (x - width / 2) * math.sin(angle)
    inside = np.minimum(width / 2 - np.abs(across), height / 2 - np.abs(down))
    inside += 3 * smooth_noise(rng, shape, 40) + 1.5 * smooth_noise(rng, shape, 7)
    return np.asarray(inside > np.quantile(inside, rng.uniform(0.035, 0.07)))
