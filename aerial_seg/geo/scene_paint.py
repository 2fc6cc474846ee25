"""What a made-up scene looks like from above: an orthophoto painted over a layout."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import translate
from shapely.ops import substring

from aerial_seg.geo.scene_layout import Floats, Layout, Road, burn, smooth_noise

_SOIL, _CLAY, _ASPHALT, _CONCRETE = (158, 138, 110), (160, 126, 104), (122, 122, 118), (174, 168, 154)
_GRASS, _OLIVE, _DARK_GREEN, _DARK = (130, 138, 98), (116, 116, 84), (80, 98, 74), (86, 88, 80)
_ROOFS = (_SOIL, _CLAY, _ASPHALT, _CONCRETE, _GRASS, _OLIVE, _DARK)
_PAVED = (_ASPHALT, _DARK, _CONCRETE, _ASPHALT)
_GRAVEL = (_SOIL, _CLAY, _CONCRETE)
_GROUND = (_SOIL, _CLAY, _GRASS, _OLIVE, _CONCRETE, _ASPHALT, _DARK_GREEN)
_WATERS = (_DARK_GREEN, _OLIVE, _DARK, _ASPHALT, (108, 100, 80))
_CROWNS = (_DARK_GREEN, _OLIVE, _GRASS, (110, 102, 76), (98, 106, 90))


def paint(rng: np.random.Generator, layout: Layout, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
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
    light = 1 + 0.06 * smooth_noise(rng, shape, 400) + rng.uniform(-0.05, 0.05)
    tint = 1 + rng.uniform(-0.03, 0.03, 3)
    canvas = canvas * light[..., None] * tint + rng.normal(0, 2.5, canvas.shape)
    return np.ascontiguousarray(np.clip(np.rint(canvas), 1, 255).astype(np.uint8).transpose(2, 0, 1))


def _ground(rng: np.random.Generator, layout: Layout) -> Floats:
    """Parcels of soil and grass, some ploughed in rows."""
    count = len(layout.parcels)
    parcel = burn(layout.parcels, range(1, count + 1), layout.shape, dtype="int32")
    colour = _colours(rng, _GROUND, count + 1)
    angle, pitch = rng.uniform(0, math.pi, count + 1), rng.uniform(6, 11, count + 1)
    depth = np.where(rng.random(count + 1) < 0.6, rng.uniform(7, 13, count + 1), 0)
    y, x = np.mgrid[: layout.shape[0], : layout.shape[1]].astype(np.float32)
    wave = (2 * math.pi / pitch).astype(np.float32)
    kx, ky = (
        (np.cos(angle).astype(np.float32) * wave)[parcel],
        (np.sin(angle).astype(np.float32) * wave)[parcel],
    )
    rows = depth.astype(np.float32)[parcel] * np.sin(kx * x + ky * y)
    mottle = 7 * smooth_noise(rng, layout.shape, 5) + 7 * smooth_noise(rng, layout.shape, 24)
    return np.asarray(colour[parcel] + (rows + mottle)[..., None])


def _paint_water(rng: np.random.Generator, canvas: Floats, layout: Layout, mask: NDArray[np.uint8]) -> None:
    body = burn(layout.waters, range(1, len(layout.waters) + 1), layout.shape, dtype="int32")
    colour = _colours(rng, _WATERS, len(layout.waters) + 1)
    swell = 5 * smooth_noise(rng, layout.shape, 60)
    wet = body > 0
    canvas[wet] = colour[body[wet]] + swell[wet][:, None]


def _paint_roads(rng: np.random.Generator, canvas: Floats, layout: Layout) -> None:
    """Paved roads have dashed kerb and centre lines, gravel roads two wheel tracks."""
    roads = sorted(layout.roads, key=lambda road: road.paved)
    lane = burn([road.surface() for road in roads], range(1, len(roads) + 1), layout.shape, dtype="int32")
    paved, gravel = (_colours(rng, palette, len(roads) + 1) for palette in (_PAVED, _GRAVEL))
    is_paved = np.array([False] + [road.paved for road in roads])
    # One colour per kind and scene, a little of its own per stretch: crossings stay calm.
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
    rng: np.random.Generator, canvas: Floats, layout: Layout, mask: NDArray[np.uint8], sun: float
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
    kinds = _colours(rng, _CROWNS, 3)
    wood = np.digitize(smooth_noise(rng, layout.shape, 110), (-0.3, 0.3))
    own = rng.normal(0, 7, (len(layout.crowns), 1)).astype(np.float32)
    green = mask == 3
    shine = 0.92 + 0.30 * lit + 0.02 * np.minimum(height, 9)
    canvas[green] = (kinds[wood[green]] + own[owner[green]]) * shine[green][:, None]


def _colours(rng: np.random.Generator, palette: Sequence[tuple[int, int, int]], count: int) -> Floats:
    """(count, 3): drawn from the palette, each lighter or darker and a little off in hue."""
    drawn = np.array(palette, np.float32)[rng.integers(len(palette), size=count)]
    return np.asarray(drawn * rng.uniform(0.84, 1.14, (count, 1)) + rng.normal(0, 3, (count, 3)), np.float32)