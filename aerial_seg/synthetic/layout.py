"""Where things stand in a made-up town: water, roads, houses, trees and the ground between, as polygons.

Lengths are pixels and (x, y) = (column, row); y points down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry

Floats = NDArray[np.float32]
PIXELS = Affine.identity()


@dataclass(frozen=True, slots=True)
class Road:
    line: LineString
    width: float
    paved: bool

    def surface(self, inset: float = 0.0) -> BaseGeometry:
        return self.line.buffer(self.width / 2 - inset)


@dataclass(frozen=True, slots=True)
class Roof:
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
class _Weave:
    """The town's bent street plan: (u, v) along and across the streets → (x, y)."""

    shape: tuple[int, int]
    angle: float
    phase: NDArray[np.float64]

    def curve(self, start: tuple[float, float], end: tuple[float, float]) -> NDArray[np.float64]:
        """The bent line between two points of the plan, (16,2) x, y."""
        u, v = np.linspace(start, end, 16).T
        p = u + 34 * np.sin(v / 120 + self.phase[0]) + 7 * np.sin(v / 43 + self.phase[1])
        q = v + 34 * np.sin(u / 120 + self.phase[2]) + 7 * np.sin(u / 43 + self.phase[3])
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.stack(
            [self.shape[1] / 2 + p * cos - q * sin, self.shape[0] / 2 + p * sin + q * cos], axis=1
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands where, in pixels; crowns (N,3) are x, y, radius."""

    shape: tuple[int, int]
    parcels: list[Polygon]
    roads: list[Road]
    waters: list[BaseGeometry]
    buildings: list[list[Roof]]
    crowns: NDArray[np.float64]


def plan_layout(rng: np.random.Generator, shape: tuple[int, int]) -> Layout:
    """A town in a frame of shape (height, width); about an eighth each is water and roofs, a tenth road."""
    area = shape[0] * shape[1]
    waters = _waters(rng, shape, rng.uniform(0.10, 0.14) * area)
    roads, parcels = _streets(rng, shape, shapely.union_all(waters))
    surface = shapely.union_all([road.surface() for road in roads])
    taken = shapely.union_all([surface.buffer(3), shapely.union_all(waters).buffer(8)])
    buildings = _buildings(rng, shape, roads, taken, rng.uniform(0.12, 0.145) * area)
    outlines = [part.outline().buffer(6) for roofs in buildings for part in roofs]
    crowns = _trees(rng, shape, [taken.buffer(4), *outlines], rng.uniform(0.17, 0.21) * area)
    return Layout(shape, parcels, roads, waters, buildings, crowns)


def _waters(rng: np.random.Generator, shape: tuple[int, int], area: float) -> list[BaseGeometry]:
    """A river across the town, then lakes until the wanted area is reached."""
    height, width = shape
    frame = shapely.box(0, 0, width, height)
    t = np.linspace(-0.1, 1.1, 80)
    sway = 0.08 * np.sin(t * rng.uniform(5, 8) + rng.uniform(0, 6))
    sway += 0.03 * np.sin(t * 17 + rng.uniform(0, 6))
    course = rng.uniform(0.25, 0.75) + rng.uniform(-0.3, 0.3) * (t - 0.5) + sway
    xy = np.stack([t * width, course * height], axis=1)
    if rng.random() < 0.5:
        xy = np.stack([course * width, t * height], axis=1)
    river = LineString(xy)
    broad = min(78.0, 0.6 * area / river.intersection(frame).length)
    waters = [river.buffer(broad / 2).intersection(frame)]
    turn = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    for attempt in range(4000):
        missing = area - sum(water.area for water in waters)
        if missing < 0.02 * area:
            break
        bays = sum(rng.uniform(-0.25, 0.25) / k * np.sin(k * turn + rng.uniform(0, 6)) for k in (2, 3, 4, 5))
        radius = max(12, min(rng.uniform(45, 90) * 0.999**attempt, math.sqrt(missing / math.pi))) * (1 + bays)
        x, y = rng.uniform(0.06, 0.94) * width, rng.uniform(0.06, 0.94) * height
        shore = Polygon(np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1))
        lake = shore.intersection(frame)
        if min(lake.distance(water) for water in waters) > 30:
            waters.append(lake)
    return waters


def _streets(
    rng: np.random.Generator, shape: tuple[int, int], water: BaseGeometry
) -> tuple[list[Road], list[Polygon]]:
    """A warped town grid; only its two main roads cross water. The ground between is cut into parcels."""
    count = math.ceil(math.hypot(*shape) / 225) + 3
    u, v = ((np.arange(count) - count / 2 + rng.uniform(-0.14, 0.14, count)) * 225 for _ in range(2))
    weave = _Weave(shape, rng.uniform(0, math.pi / 2), rng.uniform(0, 6, 4))
    frame = shapely.box(0, 0, shape[1], shape[0])
    main: list[LineString] = []
    minor: list[LineString] = []
    parcels = []
    for i, j in product(range(count - 1), repeat=2):
        here = (u[i], v[j])
        for end, rank in (((u[i + 1], v[j]), j), ((u[i], v[j + 1]), i)):
            line = LineString(weave.curve(here, end)).intersection(frame)
            if not isinstance(line, LineString) or line.length < 8:
                continue
            if rank == count // 2:
                main.append(line)
            elif line.distance(water) > 12 and rng.random() < 0.9:
                minor.append(line)
        for low, high in pairwise(np.linspace(v[j], v[j + 1], int(rng.integers(2, 4)))):
            near, far = (weave.curve((u[i], at), (u[i + 1], at)) for at in (low, high))
            parcels.append(Polygon(np.concatenate([near, far[::-1]])))
    length = 1.45 * sum(line.length for line in main) + sum(line.length for line in minor)
    broad = float(np.clip(rng.uniform(0.095, 0.11) * shape[0] * shape[1] / length, 11, 19))
    roads = [Road(line, broad * 1.45, True) for line in main]
    return roads + [Road(line, broad, bool(rng.random() < 0.7)) for line in minor], parcels


def _buildings(
    rng: np.random.Generator,
    shape: tuple[int, int],
    roads: Sequence[Road],
    taken: BaseGeometry,
    area: float,
) -> list[list[Roof]]:
    """Houses along the roads, denser in some quarters, until the wanted area is reached."""
    quarter = smooth_noise(rng, shape, 220)
    frame = shapely.box(4, 4, shape[1] - 4, shape[0] - 4)
    wishes = [roofs for road in roads for side in (-1, 1) for roofs in _frontage(rng, road, side)]
    outlines = np.array([shapely.union_all([part.outline() for part in roofs]) for roofs in wishes])
    shapely.prepare(taken)
    fits = ~shapely.intersects(taken, outlines) & shapely.contains_properly(frame, outlines)
    centres = shapely.get_coordinates(shapely.centroid(outlines)).astype(int)
    column, row = np.clip(centres[:, 0], 0, shape[1] - 1), np.clip(centres[:, 1], 0, shape[0] - 1)
    order = np.argsort(-(quarter[row, column] + 0.5 * rng.normal(size=len(wishes))), kind="stable")
    first, second = shapely.STRtree(outlines).query(outlines, predicate="dwithin", distance=5)
    built: list[list[Roof]] = []
    for k in order:
        if area <= 0:
            break
        if fits[k]:
            built.append(wishes[k])
            area -= outlines[k].area
            fits[second[first == k]] = False
    return built


def _frontage(rng: np.random.Generator, road: Road, side: int) -> Iterable[list[Roof]]:
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
            street = Roof(here.x, here.y, angle, 1, 1)
            roof = Roof(*street.at(0, off), angle + rng.normal(0, 0.03), along, across)
            wing = rng.uniform(0.4, 0.5) * along
            x, y = roof.at(rng.choice([-1, 1]) * (along - wing) / 2, side * across * 0.45)
            annex = Roof(x, y, roof.angle + math.pi / 2, across * 1.1, wing)
            yield [roof, annex] if rng.random() < 0.3 else [roof]
        s += along + rng.uniform(7, 20)


def _trees(
    rng: np.random.Generator, shape: tuple[int, int], taken: Sequence[BaseGeometry], area: float
) -> NDArray[np.float64]:
    """Woods, clumps and a few single trees on free ground: (N,3) x, y, radius."""
    height, width = shape
    pitch = 13
    x, y = np.meshgrid(np.arange(pitch / 2, width, pitch), np.arange(pitch / 2, height, pitch))
    xy = np.column_stack([x.ravel(), y.ravel()])
    xy = xy + rng.uniform(-4, 4, xy.shape)
    radius = rng.uniform(8.5, 13, len(xy))
    column, row = np.clip(xy.astype(int), 0, (width - 1, height - 1)).T
    wood = 1.2 * smooth_noise(rng, shape, 130) + 0.6 * smooth_noise(rng, shape, 45)
    score = wood[row, column] + 0.22 * rng.normal(size=len(xy))
    free = burn(taken, [1] * len(taken), shape)[row, column] == 0
    # One crown of the pitch covers about 200 pixels that no other covers.
    wanted = min(int(free.sum()), round(area / 200))
    best = np.argsort(np.where(free, -score, np.inf), kind="stable")[:wanted]
    return np.column_stack([xy, radius])[np.sort(best)]


def separate(layout: Layout) -> dict[str, list[Polygon]]:
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


def burn(
    shapes: Sequence[BaseGeometry],
    values: Iterable[int],
    grid_shape: tuple[int, int],
    *,
    transform: Affine = PIXELS,
    dtype: str = "uint8",
) -> NDArray[np.integer]:
    """Each shape's value at the pixels whose centre it holds, the last shape on top; 0 elsewhere."""
    pairs = [(shape, value) for shape, value in zip(shapes, values, strict=True) if not shape.is_empty]
    if not pairs:
        return np.zeros(grid_shape, dtype)
    return np.asarray(rasterize(pairs, out_shape=grid_shape, transform=transform, dtype=dtype))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Floats:
    """Smooth noise (H,W) of about unit spread; its blobs are `scale` pixels wide."""
    coarse = rng.normal(0, 1.5, [math.ceil(side / scale) + 2 for side in shape]).astype(np.float32)
    for axis, side in enumerate(shape):
        at = np.arange(side) / scale
        low = at.astype(int)
        part = (at - low).astype(np.float32)
        part = (part * part * (3 - 2 * part)).reshape(-1, *[1] * (1 - axis))
        coarse = coarse.take(low, axis) * (1 - part) + coarse.take(low + 1, axis) * part
    return coarse
