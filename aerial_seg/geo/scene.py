"""A made-up aerial scene with exact labels: a town that a network learns in minutes and colour alone cannot map.

Roofs, roads, water, trees and ground take their colours from overlapping palettes; what tells them apart is shape and
texture within about 60 pixels: ridges and shadows, lane marks, smoothness, crowns, rows. All lengths below are pixels,
(x, y) = (column, row), so the ground sample distance changes how large that world is, not how it looks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.features import rasterize
from rasterio.profiles import Profile
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from aerial_seg.errors import OutputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE, Legend, make_legend

SCENE_LEGEND: Legend = make_legend(
    {0: "background", 1: "building", 2: "road", 3: "vegetation", 4: "water"}, background=(0,)
)
"""What the pixels of a scene's truth mean; the labels' `class` column holds all names but the background's."""

SMALLEST_SIDE = 256
PLACE_METRES = 4000
_PLACES_EAST, _PLACES_NORTH = 50, 150

Floats = NDArray[np.float32]

_SOIL, _CLAY, _ASPHALT, _CONCRETE = (158, 138, 110), (160, 126, 104), (122, 122, 118), (174, 168, 154)
_GRASS, _OLIVE, _DARK_GREEN, _DARK = (130, 138, 98), (116, 116, 84), (80, 98, 74), (86, 88, 80)
_ROOFS = (_SOIL, _CLAY, _ASPHALT, _CONCRETE, _GRASS, _OLIVE, _DARK)
_PAVED = (_ASPHALT, _DARK, _CONCRETE, _ASPHALT)
_GRAVEL = (_SOIL, _CLAY, _CONCRETE)
_GROUND = (_SOIL, _CLAY, _GRASS, _OLIVE, _CONCRETE, _ASPHALT, _DARK_GREEN)
_WATERS = (_DARK_GREEN, _OLIVE, _DARK, _ASPHALT, (108, 100, 80))
_CROWNS = (_DARK_GREEN, _OLIVE, _GRASS, (110, 102, 76), (98, 106, 90))


@dataclass(frozen=True, slots=True)
class Scene:
    """One made-up orthophoto.

    grid: UTM zone 33 N. image (3,H,W) uint8, 1–255 where valid and 0 elsewhere. valid (H,W) bool, True = measured.
    truth (H,W) uint8, values of SCENE_LEGEND, 255 where invalid: the labels, rasterised.
    labels: polygons in the grid's CRS with a `class` column; polygons of different classes do not overlap.
    """

    grid: Grid
    image: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    truth: NDArray[np.uint8]
    labels: gpd.GeoDataFrame


@dataclass(frozen=True, slots=True)
class ScenePaths:
    """The files of a written scene: image and truth GeoTIFF, labels GeoPackage."""

    image: Path
    labels: Path
    truth: Path


@dataclass(frozen=True, slots=True)
class _Road:
    line: LineString
    width: float
    paved: bool

    def surface(self, inset: float = 0.0) -> BaseGeometry:
        return self.line.buffer(self.width / 2 - inset)


@dataclass(frozen=True, slots=True)
class _Roof:
    """A gable roof: its ridge runs along `angle` through the centre."""

    x: float
    y: float
    angle: float
    along: float
    across: float

    def outline(self) -> Polygon:
        a, b = self.along / 2, self.across / 2
        return Polygon([self.at(-a, -b), self.at(a, -b), self.at(a, b), self.at(-a, b)])

    def at(self, along: float, across: float) -> tuple[float, float]:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.x + along * cos - across * sin, self.y + along * sin + across * cos


@dataclass(frozen=True, slots=True)
class _Layout:
    """What stands where, in pixels; crowns (N,3) are x, y, radius."""

    shape: tuple[int, int]
    parcels: list[Polygon]
    roads: list[_Road]
    waters: list[BaseGeometry]
    buildings: list[list[_Roof]]
    crowns: NDArray[np.float64]


def make_scene(seed: int, *, height: int, width: int, gsd: float = 0.5) -> Scene:
    """A scene of height × width pixels that is the same for the same arguments, bit by bit.

    gsd is in metres per pixel. Seeds below 7500 lie at places that do not overlap. From 512 pixels a side on every class
    is present. Raises SettingsError on a negative seed or a size that does not fit into one place.
    """
    _check(seed, height=height, width=width, gsd=gsd)
    rng = np.random.default_rng(seed)
    grid = _place(seed, height=height, width=width, gsd=gsd)
    layout = _plan(rng, grid.shape)
    valid = _flight_strip(rng, grid.shape)
    pixels = _separate(layout)
    rows = [(name, polygon) for name, polygons in pixels.items() for polygon in polygons]
    ground = [shapely.transform(p, lambda xy: np.stack(grid.transform * xy.T, axis=1)) for _, p in rows]
    labels = gpd.GeoDataFrame({"class": [name for name, _ in rows]}, geometry=ground, crs=grid.crs)
    values = {entry.name: entry.value for entry in SCENE_LEGEND.entries}
    mask = _burn(ground, [values[name] for name, _ in rows], grid.shape, transform=grid.transform)
    image = _paint(rng, layout, mask)
    return Scene(
        grid=grid,
        image=np.where(valid, image, np.uint8(0)),
        valid=valid,
        truth=np.where(valid, mask, IGNORE).astype(np.uint8),
        labels=labels,
    )


def write_scene(scene: Scene, folder: Path) -> ScenePaths:
    """image.tif, labels.gpkg and truth.tif lie in the folder, each complete or absent.

    The image declares nodata 0; no valid pixel holds a 0, so its valid pixels are recovered exactly.
    """
    paths = ScenePaths(folder / "image.tif", folder / "labels.gpkg", folder / "truth.tif")
    colours = {entry.value: (*entry.rgb, 255) for entry in SCENE_LEGEND.entries}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_raster(scene.grid, scene.image, paths.image, nodata=0)
        _write_raster(scene.grid, scene.truth[None], paths.truth, nodata=IGNORE, colours=colours)
        partial = paths.labels.with_name("partial-labels.gpkg")
        partial.unlink(missing_ok=True)
        scene.labels.to_file(partial, layer="labels", driver="GPKG")
        partial.replace(paths.labels)
    except (OSError, rasterio.errors.RasterioError) as error:
        raise OutputError(f"the scene cannot be written to {folder} ({error}); choose another folder") from error
    return paths


def _write_raster(
    grid: Grid,
    bands: NDArray[np.uint8],
    path: Path,
    *,
    nodata: int,
    colours: dict[int, tuple[int, int, int, int]] | None = None,
) -> None:
    partial = path.with_name(f"partial-{path.name}")
    profile = Profile(
        driver="GTiff", dtype="uint8", count=len(bands), height=grid.height, width=grid.width, crs=grid.crs,
        transform=grid.transform, nodata=nodata, tiled=True, blockxsize=256, blockysize=256, compress="deflate",
    )  # fmt: skip
    with rasterio.open(partial, "w", **profile) as out:
        out.write(bands)
        if colours:
            out.write_colormap(1, colours)
            out.set_band_description(1, "class")
    os.replace(partial, path)


def _check(seed: int, *, height: int, width: int, gsd: float) -> None:
    if seed < 0:
        raise SettingsError(f"seed {seed} is negative; give 0 or more")
    if not (math.isfinite(gsd) and gsd > 0):
        raise SettingsError(f"a GSD of {gsd} m is not a pixel size; give for example 0.5")
    if min(height, width) < SMALLEST_SIDE:
        raise SettingsError(
            f"a scene of {width} × {height} pixels has no room for a town; give at least {SMALLEST_SIDE} a side"
        )
    if max(height, width) * gsd > PLACE_METRES:
        raise SettingsError(
            f"a scene of {width} × {height} pixels at {gsd} m is longer than {PLACE_METRES} m, where the next seed's"
            f" place begins; give at most {int(PLACE_METRES / gsd)} pixels a side"
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
    inside += 3 * _noise(rng, shape, 40) + 1.5 * _noise(rng, shape, 7)
    return np.asarray(inside > np.quantile(inside, rng.uniform(0.035, 0.07)))


# --- layout -----------------------------------------------------------------------------------------------------------


def _plan(rng: np.random.Generator, shape: tuple[int, int]) -> _Layout:
    area = shape[0] * shape[1]
    waters = _waters(rng, shape, rng.uniform(0.10, 0.14) * area)
    roads, parcels = _streets(rng, shape, shapely.union_all(waters))
    surface = shapely.union_all([road.surface() for road in roads])
    taken = shapely.union_all([surface.buffer(3), shapely.union_all(waters).buffer(8)])
    buildings = _buildings(rng, shape, roads, taken, rng.uniform(0.12, 0.145) * area)
    outlines = [part.outline().buffer(6) for roofs in buildings for part in roofs]
    crowns = _trees(rng, shape, [taken.buffer(4), *outlines], rng.uniform(0.17, 0.21) * area)
    return _Layout(shape, parcels, roads, waters, buildings, crowns)


def _waters(rng: np.random.Generator, shape: tuple[int, int], area: float) -> list[BaseGeometry]:
    """A river across the scene, then lakes until the wanted area is reached."""
    height, width = shape
    frame = shapely.box(0, 0, width, height)
    t = np.linspace(-0.1, 1.1, 80)
    sway = 0.08 * np.sin(t * rng.uniform(5, 8) + rng.uniform(0, 6)) + 0.03 * np.sin(t * 17 + rng.uniform(0, 6))
    course = rng.uniform(0.25, 0.75) + rng.uniform(-0.3, 0.3) * (t - 0.5) + sway
    xy = np.stack([t * width, course * height], axis=1)
    if rng.random() < 0.5:
        xy = np.stack([course * width, t * height], axis=1)
    river = LineString(xy)
    broad = min(78.0, 0.6 * area / river.intersection(frame).length)
    waters = [river.buffer(broad / 2).intersection(frame)]
    while (missing := area - shapely.union_all(waters).area) > 0.01 * area:
        size = math.sqrt(missing / math.pi) if missing < 12_000 else rng.uniform(45, 90)
        turn = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        bays = sum(rng.uniform(-0.5, 0.5) / k * np.sin(k * turn + rng.uniform(0, 6)) for k in (2, 3, 4, 5))
        radius = max(size, 12.0) * (1 + 0.5 * bays)
        x, y = rng.uniform(0.06, 0.94) * width, rng.uniform(0.06, 0.94) * height
        lake = Polygon(np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)).buffer(0)
        waters = [*waters, lake.intersection(frame).difference(shapely.union_all(waters))]
    return waters


def _streets(
    rng: np.random.Generator, shape: tuple[int, int], water: BaseGeometry
) -> tuple[list[_Road], list[Polygon]]:
    """A warped town grid; only its two main roads cross water. The ground between is cut into parcels."""
    height, width = shape
    frame = shapely.box(0, 0, width, height)
    count = math.ceil(math.hypot(height, width) / 225) + 3
    u, v = ((np.arange(count) - count / 2 + rng.uniform(-0.14, 0.14, count)) * 225 for _ in range(2))
    angle, phase = rng.uniform(0, math.pi / 2), rng.uniform(0, 6, 4)

    def warp(along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.float64]:
        p = along + 34 * np.sin(across / 120 + phase[0]) + 7 * np.sin(across / 43 + phase[1])
        q = across + 34 * np.sin(along / 120 + phase[2]) + 7 * np.sin(along / 43 + phase[3])
        cos, sin = math.cos(angle), math.sin(angle)
        return np.stack([width / 2 + p * cos - q * sin, height / 2 + p * sin + q * cos], axis=1)

    t = np.linspace(0, 1, 16)
    main, minor, parcels = [], [], []
    for i in range(count - 1):
        for j in range(count - 1):
            du, dv = u[i + 1] - u[i], v[j + 1] - v[j]
            lines = (warp(u[i] + t * du, v[j] + 0 * t), i, j), (warp(u[i] + 0 * t, v[j] + t * dv), j, i)
            for points, _, rank in lines:
                line = LineString(points).intersection(frame)
                if not isinstance(line, LineString) or line.length < 8:
                    continue
                if rank == count // 2:
                    main.append(line)
                elif line.distance(water) > 12 and rng.random() < 0.9:
                    minor.append(line)
            cuts = np.linspace(0, 1, int(rng.integers(2, 4)))
            for low, high in zip(cuts[:-1], cuts[1:], strict=True):
                bottom, top = warp(u[i] + t * du, v[j] + dv * low + 0 * t), warp(u[i] + t * du, v[j] + dv * high + 0 * t)
                parcels.append(Polygon(np.concatenate([bottom, top[::-1]])))
    metres = 1.45 * sum(line.length for line in main) + sum(line.length for line in minor)
    broad = float(np.clip(rng.uniform(0.095, 0.11) * height * width / metres, 11, 19))
    roads = [_Road(line, broad * 1.45, True) for line in main]
    return roads + [_Road(line, broad, bool(rng.random() < 0.7)) for line in minor], parcels


def _buildings(
    rng: np.random.Generator,
    shape: tuple[int, int],
    roads: Sequence[_Road],
    taken: BaseGeometry,
    area: float,
) -> list[list[_Roof]]:
    """Houses along the roads, denser in some quarters, until the wanted area is reached."""
    quarter = _noise(rng, shape, 220)
    frame = shapely.box(4, 4, shape[1] - 4, shape[0] - 4)
    wishes = [roofs for road in roads for side in (-1, 1) for roofs in _frontage(rng, road, side)]
    outlines = np.array([shapely.union_all([part.outline() for part in roofs]) for roofs in wishes])
    shapely.prepare(taken)
    fits = ~shapely.intersects(taken, outlines) & shapely.contains_properly(frame, outlines)
    centres = shapely.get_coordinates(shapely.centroid(outlines)).astype(int)
    column, row = np.clip(centres[:, 0], 0, shape[1] - 1), np.clip(centres[:, 1], 0, shape[0] - 1)
    order = np.argsort(-(quarter[row, column] + 0.5 * rng.normal(size=len(wishes))), kind="stable")
    first, second = shapely.STRtree(outlines).query(outlines, predicate="dwithin", distance=5)
    built: list[list[_Roof]] = []
    for k in order:
        if area <= 0:
            break
        if fits[k]:
            built.append(wishes[k])
            area -= outlines[k].area
            fits[second[first == k]] = False
    return built


def _frontage(rng: np.random.Generator, road: _Road, side: int) -> Iterable[list[_Roof]]:
    """House wishes along one side of a road, in one or two rows; some are L-shaped, some are halls."""
    s = rng.uniform(14, 30)
    while s < road.line.length - 20:
        hall = rng.random() < 0.15
        along = rng.uniform(60, 90) if hall else rng.uniform(30, 50)
        across = rng.uniform(40, 55) if hall else rng.uniform(25, 36)
        here, ahead = (road.line.interpolate(s + along / 2 + step) for step in (0.0, 1.0))
        angle = math.atan2(ahead.y - here.y, ahead.x - here.x)
        for back in (0.0, across + rng.uniform(14, 30)):
            off = side * (road.width / 2 + rng.uniform(9, 16) + across / 2 + back)
            street = _Roof(here.x, here.y, angle, 1, 1)
            roof = _Roof(*street.at(0, off), angle + rng.normal(0, 0.03), along, across)
            wing = rng.uniform(0.4, 0.5) * along
            x, y = roof.at(rng.choice([-1, 1]) * (along - wing) / 2, side * across * 0.45)
            yield [roof, _Roof(x, y, roof.angle + math.pi / 2, across * 1.1, wing)] if rng.random() < 0.3 else [roof]
        s += along + rng.uniform(7, 20)


def _trees(
    rng: np.random.Generator, shape: tuple[int, int], taken: Sequence[BaseGeometry], area: float
) -> NDArray[np.float64]:
    """Woods, clumps and a few single trees on free ground: (N,3) x, y, radius."""
    height, width = shape
    pitch = 13
    grid = np.stack(np.meshgrid(np.arange(pitch / 2, width, pitch), np.arange(pitch / 2, height, pitch)), axis=-1)
    xy = grid.reshape(-1, 2)
    xy = xy + rng.uniform(-4, 4, xy.shape)
    radius = rng.uniform(8.5, 13, len(xy))
    column, row = np.clip(xy.astype(int), 0, (width - 1, height - 1)).T
    wood = 1.2 * _noise(rng, shape, 130) + 0.6 * _noise(rng, shape, 45)
    score = wood[row, column] + 0.22 * rng.normal(size=len(xy))
    free = _burn(taken, [1] * len(taken), shape)[row, column] == 0
    best = np.argsort(np.where(free, -score, np.inf), kind="stable")[: min(int(free.sum()), round(area / 200))]
    return np.column_stack([xy, radius])[np.sort(best)]


def _separate(layout: _Layout) -> dict[str, list[Polygon]]:
    """Polygons per class, in pixels, that share no area: a road goes over water, a tree under everything."""
    frame = shapely.box(0, 0, layout.shape[1], layout.shape[0])
    building = [shapely.union_all([part.outline() for part in roofs]) for roofs in layout.buildings]
    road = shapely.union_all([road.surface() for road in layout.roads]).intersection(frame)
    water = shapely.union_all(layout.waters).difference(road)
    crowns = shapely.buffer(shapely.points(layout.crowns[:, :2]), layout.crowns[:, 2], quad_segs=4)
    wood = shapely.union_all(crowns).buffer(3, quad_segs=3).buffer(-3, quad_segs=3).intersection(frame)
    solid = shapely.union_all([*building, road, water])
    parts = {
        "building": [piece.difference(road).difference(water) for piece in building],
        "road": [road.difference(shapely.union_all(building))],
        "water": [water.difference(shapely.union_all(building))],
        "vegetation": [wood.difference(solid)],
    }
    return {name: _polygons(pieces) for name, pieces in parts.items()}


def _polygons(pieces: Sequence[BaseGeometry]) -> list[Polygon]:
    """The polygons in the pieces; crumbs below four pixels of area are no label anyone would draw."""
    single = shapely.get_parts(shapely.get_parts(np.array(pieces)))
    return [p for p in single if isinstance(p, Polygon) and p.area >= 4]


# --- picture ----------------------------------------------------------------------------------------------------------


def _paint(rng: np.random.Generator, layout: _Layout, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture (3,H,W) uint8, 1–255, of a layout whose classes per pixel are `mask`."""
    shape = layout.shape
    sun = rng.uniform(math.radians(25), math.radians(65))
    canvas = _ground(rng, layout)
    _paint_water(rng, canvas, layout, mask)
    _paint_roads(rng, canvas, layout)
    canvas *= _shadows(layout, sun)[..., None]
    _paint_roofs(rng, canvas, layout, sun)
    _paint_crowns(rng, canvas, layout, mask, sun)
    smooth = np.where(mask == 4, 0.45, 1.0).astype(np.float32)
    canvas += (smooth * rng.normal(0, 5, shape).astype(np.float32))[..., None]
    light = 1 + 0.06 * _noise(rng, shape, 400) + rng.uniform(-0.05, 0.05)
    tint = 1 + rng.uniform(-0.03, 0.03, 3)
    canvas = canvas * light[..., None] * tint + rng.normal(0, 2.5, canvas.shape)
    return np.ascontiguousarray(np.clip(np.rint(canvas), 1, 255).astype(np.uint8).transpose(2, 0, 1))


def _ground(rng: np.random.Generator, layout: _Layout) -> Floats:
    """Parcels of soil and grass, some ploughed in rows."""
    count = len(layout.parcels)
    parcel = _burn(layout.parcels, range(1, count + 1), layout.shape, dtype="int32")
    colour = _colours(rng, _GROUND, count + 1)
    angle, pitch = rng.uniform(0, math.pi, count + 1), rng.uniform(6, 11, count + 1)
    depth = np.where(rng.random(count + 1) < 0.6, rng.uniform(7, 13, count + 1), 0)
    y, x = np.mgrid[: layout.shape[0], : layout.shape[1]].astype(np.float32)
    wave = (2 * math.pi / pitch).astype(np.float32)
    kx, ky = (np.cos(angle).astype(np.float32) * wave)[parcel], (np.sin(angle).astype(np.float32) * wave)[parcel]
    rows = depth.astype(np.float32)[parcel] * np.sin(kx * x + ky * y)
    mottle = 7 * _noise(rng, layout.shape, 5) + 7 * _noise(rng, layout.shape, 24)
    return np.asarray(colour[parcel] + (rows + mottle)[..., None])


def _paint_water(
    rng: np.random.Generator, canvas: Floats, layout: _Layout, mask: NDArray[np.uint8]
) -> None:
    body = _burn(layout.waters, range(1, len(layout.waters) + 1), layout.shape, dtype="int32")
    colour = _colours(rng, _WATERS, len(layout.waters) + 1)
    swell = 5 * _noise(rng, layout.shape, 60)
    wet = body > 0
    canvas[wet] = colour[body[wet]] + swell[wet][:, None]


def _paint_roads(rng: np.random.Generator, canvas: Floats, layout: _Layout) -> None:
    """Paved roads have dashed kerb and centre lines, gravel roads two wheel tracks."""
    roads = sorted(layout.roads, key=lambda road: road.paved)
    lane = _burn([road.surface() for road in roads], range(1, len(roads) + 1), layout.shape, dtype="int32")
    paved, gravel = (_colours(rng, palette, len(roads) + 1) for palette in (_PAVED, _GRAVEL))
    is_paved = np.array([False] + [road.paved for road in roads])
    # One colour per kind and scene, a little of its own per stretch: crossings stay calm.
    colour = np.where(is_paved[:, None], 0.5 * (paved[0] + paved), 0.5 * (gravel[0] + gravel))
    on = lane > 0
    worn = 3 * _noise(rng, layout.shape, 18) + 1.5 * _noise(rng, layout.shape, 3)
    canvas[on] = colour[lane[on]] + worn[on][:, None]
    hard = [road for road in roads if road.paved]
    inner = shapely.union_all([road.surface(inset=3.2) for road in hard])
    kerb = shapely.union_all([road.surface(inset=1.4) for road in hard]).difference(inner)
    dashes = [
        shapely.ops.substring(road.line, start, start + 8).buffer(0.9, cap_style="flat")
        for road in hard
        for start in np.arange(6, road.line.length - 12, 17)
    ]
    tracks = [
        road.line.offset_curve(side * road.width / 5).buffer(1.5) for road in roads if not road.paved for side in (-1, 1)
    ]
    canvas[_burn([kerb], [1], layout.shape) > 0] += 30
    canvas[_burn(dashes, [1] * len(dashes), layout.shape) > 0] += 45
    canvas[_burn(tracks, [1] * len(tracks), layout.shape) > 0] += 16


def _shadows(layout: _Layout, sun: float) -> Floats:
    """A factor per pixel: soft shadows of houses and trees, away from the sun."""
    dx, dy = 11 * math.cos(sun), 11 * math.sin(sun)
    casts = [
        shapely.union_all([part.outline(), shapely.affinity.translate(part.outline(), dx, dy)]).convex_hull
        for roofs in layout.buildings
        for part in roofs
    ]
    casts += list(shapely.buffer(shapely.points(layout.crowns[:, :2] + (dx * 0.6, dy * 0.6)), layout.crowns[:, 2]))
    shade = _burn(casts, [1] * len(casts), layout.shape).astype(np.float32)
    return np.asarray(1 - 0.42 * _blur(shade, 2))


def _paint_roofs(rng: np.random.Generator, canvas: Floats, layout: _Layout, sun: float) -> None:
    """Two planes per roof, lit by the sun, with tile courses and a bright ridge."""
    tiles = _noise(rng, layout.shape, 3)
    for roofs, colour in zip(layout.buildings, _colours(rng, _ROOFS, len(layout.buildings)), strict=True):
        steep = rng.uniform(0.10, 0.24)
        for part in roofs:
            window, x, y = _window(part.outline().bounds, layout.shape)
            cos, sin = math.cos(part.angle), math.sin(part.angle)
            u = (x - part.x) * cos + (y - part.y) * sin
            v = (y - part.y) * cos - (x - part.x) * sin
            roof = (np.abs(u) <= part.along / 2) & (np.abs(v) <= part.across / 2)
            # The plane at v > 0 faces (-sin, cos); the sun stands against the shadows.
            facing = sin * math.cos(sun) - cos * math.sin(sun)
            plane = 1 + steep * facing * np.sign(v) + 0.02 * np.sin(u * (2 * math.pi / 5))
            paint = colour * plane[..., None] + 4 * tiles[window][..., None]
            paint[np.abs(v) < 1.2] += 22
            paint[(np.abs(u) > part.along / 2 - 1.5) | (np.abs(v) > part.across / 2 - 1.5)] -= 14
            canvas[window][roof] = paint[roof]


def _paint_crowns(
    rng: np.random.Generator, canvas: Floats, layout: _Layout, mask: NDArray[np.uint8], sun: float
) -> None:
    """Domes lit from the sun's side; where two meet, the higher one is seen."""
    height = np.zeros(layout.shape, np.float32)
    owner = np.zeros(layout.shape, np.int32)
    for k, (cx, cy, radius) in enumerate(layout.crowns):
        window, x, y = _window((cx - radius, cy - radius, cx + radius, cy + radius), layout.shape)
        dome = np.sqrt(np.maximum(radius**2 - (x - cx) ** 2 - (y - cy) ** 2, 0)).astype(np.float32)
        above = dome > height[window]
        height[window][above] = dome[above]
        owner[window][above] = k
    height += 0.9 * _noise(rng, layout.shape, 3)
    down, across = np.gradient(_blur(height, 1))
    lit = np.clip(across * math.cos(sun) + down * math.sin(sun), -1.2, 1.2)
    kinds = _colours(rng, _CROWNS, 3)
    wood = np.digitize(_noise(rng, layout.shape, 110), (-0.3, 0.3))
    own = rng.normal(0, 7, (len(layout.crowns), 1)).astype(np.float32)
    green = mask == 3
    shine = 0.92 + 0.30 * lit + 0.02 * np.minimum(height, 9)
    canvas[green] = (kinds[wood[green]] + own[owner[green]]) * shine[green][:, None]


def _colours(rng: np.random.Generator, palette: Sequence[tuple[int, int, int]], count: int) -> Floats:
    """(count, 3): drawn from the palette, each lighter or darker and a little off in hue."""
    drawn = np.array(palette, np.float32)[rng.integers(len(palette), size=count)]
    return np.asarray(drawn * rng.uniform(0.84, 1.14, (count, 1)) + rng.normal(0, 4, (count, 3)), np.float32)


# --- pixels -----------------------------------------------------------------------------------------------------------


def _window(
    bounds: tuple[float, float, float, float], shape: tuple[int, int]
) -> tuple[tuple[slice, slice], Floats, Floats]:
    """The pixels that hold the bounds (left, top, right, bottom), as slices and as x, y of their centres."""
    left, top = (max(math.floor(b), 0) for b in bounds[:2])
    right, bottom = (min(math.ceil(b), side) for b, side in zip(bounds[2:], shape[::-1], strict=True))
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32) + np.float32(0.5)
    return np.s_[top:bottom, left:right], x, y


def _burn(
    shapes: Sequence[BaseGeometry],
    values: Iterable[int],
    shape: tuple[int, int],
    *,
    transform: Affine = Affine.identity(),  # noqa: B008
    dtype: str = "uint8",
) -> NDArray[np.uint8]:
    pairs = [(geometry, value) for geometry, value in zip(shapes, values, strict=True) if not geometry.is_empty]
    if not pairs:
        return np.zeros(shape, dtype)
    return np.asarray(rasterize(pairs, out_shape=shape, transform=transform, dtype=dtype))


def _noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Floats:
    """Smooth noise (H,W) of about unit spread; its blobs are `scale` pixels wide."""
    coarse = rng.normal(0, 1.5, [math.ceil(side / scale) + 2 for side in shape]).astype(np.float32)
    for axis, side in enumerate(shape):
        at = np.arange(side) / scale
        low = at.astype(int)
        part = (at - low).astype(np.float32)
        part = (part * part * (3 - 2 * part)).reshape(-1, *[1] * (1 - axis))
        coarse = coarse.take(low, axis) * (1 - part) + coarse.take(low + 1, axis) * part
    return coarse


def _blur(image: Floats, radius: int) -> Floats:
    """The mean over a square of 2·radius + 1 pixels, edges repeated."""
    size = 2 * radius + 1
    for axis in (0, 1):
        pad = [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)]
        total = np.cumsum(np.pad(image, pad, mode="edge"), axis=axis, dtype=np.float64)
        ends = np.arange(size, total.shape[axis])
        image = ((total.take(ends, axis) - total.take(ends - size, axis)) / size).astype(np.float32)
    return image
