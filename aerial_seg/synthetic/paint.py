"""What a made-up town looks like from above: an orthophoto painted over a layout."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import translate
from shapely.ops import substring

from aerial_seg.synthetic.layout import Floats, Layout, burn, smooth_noise

_SOIL, _CLAY, _ASPHALT, _CONCRETE = (158, 138, 110), (160, 126, 104), (122, 122, 118), (174, 168, 154)
_GRASS, _OLIVE, _DARK_GREEN, _DARK = (130, 138, 98), (116, 116, 84), (80, 98, 74), (86, 88, 80)
_ROOFS = (_SOIL, _CLAY, _ASPHALT, _CONCRETE, _GRASS, _OLIVE, _DARK)
_PAVED = (_ASPHALT, _DARK, _CONCRETE, _ASPHALT)
_GRAVEL = (_SOIL, _CLAY, _CONCRETE)
_GROUND = (_SOIL, _CLAY, _GRASS, _OLIVE, _CONCRETE, _ASPHALT, _DARK_GREEN)
_WATERS = (_DARK_GREEN, _OLIVE, _DARK, _ASPHALT, (108, 100, 80))
_CROWNS = (_DARK_GREEN, _OLIVE, _GRASS, (110, 102, 76), (98, 106, 90))


def paint(
    rng: np.random.Generator, layout: Layout, *, wood: NDArray[np.bool_], water: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """The picture (3,H,W) uint8, 1–255, of a layout; wood and water (H,W) are its tree and water pixels."""
    shape = layout.shape
    sun = rng.uniform(math.radians(25), math.radians(65))
    canvas = _ground(rng, layout)
    _paint_water(rng, canvas, layout)
    _paint_roads(rng, canvas, layout)
    canvas *= _shadows(layout, sun)[..., None]
    _paint_roofs(rng, canvas, layout, sun)
    _paint_crowns(rng, canvas, layout, wood, sun)
    smooth = np.where(water, 0.45, 1.0).astype(np.float32)
    canvas += (smooth * rng.normal(0, 5, shape).astype(np.float32))[..., None]
    light = 1 + 0.06 * smooth_noise(rng, shape, 400) + rng.uniform(-0.05, 0.05)
    tint = 1 + rng.uniform(-0.03, 0.03, 3)
    seen = canvas * light[..., None] * tint + rng.normal(0, 2.5, canvas.shape)
    return np.ascontiguousarray(np.clip(np.rint(seen), 1, 255).astype(np.uint8).transpose(2, 0, 1))


def _ground(rng: np.random.Generator, layout: Layout) -> Floats:
    """Parcels of soil and grass, some ploughed in rows."""
    count = len(layout.parcels)
    parcel = burn(layout.parcels, range(1, count + 1), layout.shape, dtype="int32")
    colour = _colours(rng, _GROUND, count + 1)
    angle, pitch = rng.uniform(0, math.pi, count + 1), rng.uniform(6, 11, count + 1)
    depth = np.where(rng.random(count + 1) < 0.6, rng.uniform(7, 13, count + 1), 0)
    y, x = np.mgrid[: layout.shape[0], : layout.shape[1]].astype(np.float32)
    kx, ky = (2 * math.pi / pitch * np.array([np.cos(angle), np.sin(angle)])).astype(np.float32)
    rows = depth.astype(np.float32)[parcel] * np.sin(kx[parcel] * x + ky[parcel] * y)
    mottle = 7 * smooth_noise(rng, layout.shape, 5) + 7 * smooth_noise(rng, layout.shape, 24)
    return np.asarray(colour[parcel] + (rows + mottle)[..., None])


def _paint_water(rng: np.random.Generator, canvas: Floats, layout: Layout) -> None:
    """Each river or lake between two colours of its own, from depth to shallow over some 100 pixels."""
    body = burn(layout.waters, range(1, len(layout.waters) + 1), layout.shape, dtype="int32")
    deep, shallow = (_colours(rng, _WATERS, len(layout.waters) + 1) for _ in range(2))
    depth = np.clip(0.5 + 0.5 * smooth_noise(rng, layout.shape, 110), 0, 1)
    wet = body > 0
    colour = deep[body[wet]] + (shallow - deep)[body[wet]] * depth[wet][:, None]
    canvas[wet] = colour + 4 * smooth_noise(rng, layout.shape, 60)[wet][:, None]


def _paint_roads(rng: np.random.Generator, canvas: Floats, layout: Layout) -> None:
    """Paved roads have kerb lines and a dashed centre line, gravel roads two wheel tracks."""
    roads = sorted(layout.roads, key=lambda road: road.paved)
    lane = burn([road.surface() for road in roads], range(1, len(roads) + 1), layout.shape, dtype="int32")
    paved, gravel = (_colours(rng, palette, len(roads) + 1) for palette in (_PAVED, _GRAVEL))
    is_paved = np.array([False] + [road.paved for road in roads])
    # Half the town's colour of its kind, half the stretch's own: crossings stay calm.
    colour = np.where(is_paved[:, None], 0.5 * (paved[0] + paved), 0.5 * (gravel[0] + gravel))
    on = lane > 0
    worn = 3 * smooth_noise(rng, layout.shape, 18) + 1.5 * smooth_noise(rng, layout.shape, 3)
    canvas[on] = colour[lane[on]] + worn[on][:, None]
    hard = [road for road in roads if road.paved]
    inner = shapely.union_all([road.surface(inset=3.2) for road in hard])
    kerb = shapely.union_all([road.surface(inset=1.4) for road in hard]).difference(inner)
    dashes = [
        substring(road.line, start, start + 8).buffer(0.9, cap_style="flat")
        for road in hard
        for start in np.arange(6, road.line.length - 12, 17)
    ]
    tracks = [
        road.line.offset_curve(side * road.width / 5).buffer(1.5)
        for road in roads
        if not road.paved
        for side in (-1, 1)
    ]
    canvas[burn([kerb], [1], layout.shape) > 0] += 30
    canvas[burn(dashes, [1] * len(dashes), layout.shape) > 0] += 45
    canvas[burn(tracks, [1] * len(tracks), layout.shape) > 0] += 16


def _shadows(layout: Layout, sun: float) -> Floats:
    """A factor per pixel: soft shadows of houses and trees, away from the sun."""
    dx, dy = 11 * math.cos(sun), 11 * math.sin(sun)
    casts = [
        shapely.union_all([part.outline(), translate(part.outline(), dx, dy)]).convex_hull
        for roofs in layout.buildings
        for part in roofs
    ]
    casts += list(
        shapely.buffer(shapely.points(layout.crowns[:, :2] + (dx * 0.6, dy * 0.6)), layout.crowns[:, 2])
    )
    shade = burn(casts, [1] * len(casts), layout.shape).astype(np.float32)
    return np.asarray(1 - 0.42 * _blur(shade, 2))


def _paint_roofs(rng: np.random.Generator, canvas: Floats, layout: Layout, sun: float) -> None:
    """Two planes per roof, lit by the sun, with tile courses and a bright ridge."""
    tiles = smooth_noise(rng, layout.shape, 3)
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
    rng: np.random.Generator, canvas: Floats, layout: Layout, wood: NDArray[np.bool_], sun: float
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
    height += 0.9 * smooth_noise(rng, layout.shape, 3)
    down, across = np.gradient(_blur(height, 1))
    lit = np.clip(across * math.cos(sun) + down * math.sin(sun), -1.2, 1.2)
    kinds = _colours(rng, _CROWNS, 12)
    column, row = np.clip(layout.crowns[:, :2].astype(int), 0, (layout.shape[1] - 1, layout.shape[0] - 1)).T
    stand = smooth_noise(rng, layout.shape, 90)[row, column] + 0.4 * rng.normal(size=len(layout.crowns))
    own = kinds[np.clip(6 + 3 * stand, 0, 11).astype(int)]
    own = own + rng.normal(0, 7, (len(own), 1)).astype(np.float32)
    shine = 0.90 + 0.38 * lit + 0.02 * np.minimum(height, 9)
    canvas[wood] = own[owner[wood]] * shine[wood][:, None]


def _colours(rng: np.random.Generator, palette: Sequence[tuple[int, int, int]], count: int) -> Floats:
    """(count, 3): drawn from the palette, each lighter or darker and a little off in hue."""
    drawn = np.array(palette, np.float32)[rng.integers(len(palette), size=count)]
    return np.asarray(drawn * rng.uniform(0.84, 1.14, (count, 1)) + rng.normal(0, 3, (count, 3)), np.float32)


def _window(
    bounds: tuple[float, float, float, float], shape: tuple[int, int]
) -> tuple[tuple[slice, slice], Floats, Floats]:
    """The pixels that hold the bounds (left, top, right, bottom), as slices and as x, y of their centres."""
    left, top = (max(math.floor(b), 0) for b in bounds[:2])
    right, bottom = (min(math.ceil(b), side) for b, side in zip(bounds[2:], shape[::-1], strict=True))
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32) + np.float32(0.5)
    return np.s_[top:bottom, left:right], x, y


def _blur(image: Floats, radius: int) -> Floats:
    """The mean over a square of 2·radius + 1 pixels, edges repeated."""
    size = 2 * radius + 1
    for axis in (0, 1):
        pad = [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)]
        total = np.cumsum(np.pad(image, pad, mode="edge"), axis=axis, dtype=np.float64)
        ends = np.arange(size, total.shape[axis])
        image = ((total.take(ends, axis) - total.take(ends - size, axis)) / size).astype(np.float32)
    return image
