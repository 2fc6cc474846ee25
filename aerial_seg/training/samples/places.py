"""Where a crop is cut from its image: how far it is zoomed, where its window lies, and how that is turned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.samples.draws import Draw
from aerial_seg.training.samples.numbers import uniforms

_STRETCHES = 50
"""Pairs of zooms that are drawn until one is near enough to the image's own shape: as tensorpack's RandomResize."""

Pixel = tuple[int, int]
"""Row and column in an image."""
Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Say which place of the image pixel (i, j) of a turned crop, or of the part that is no padding, shows.

    rows: (a, b, c), and the place is in row a + b·(i + ½) + c·(j + ½), counted in pixels from the image's upper edge;
    cols: likewise from its left edge. steps: pixels of the image to one of the crop, down and across.
    """

    rows: tuple[float, float, float]
    cols: tuple[float, float, float]
    steps: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Place:
    """Say what of an image becomes which part of a crop.

    rows, cols: inside the image. height, width: of that part in the crop, whose first pixel is at (top, left); the rest
    of the crop is padding. turn: None where the window's sides are that part's; else the window encloses it.
    """

    rows: slice
    cols: slice
    height: int
    width: int
    top: int
    left: int
    turn: Turn | None = None


def place(
    change: Draw,
    settings: AugmentationSettings,
    *,
    height: int,
    width: int,
    crop: Size,
    held: Pixel | None = None,
) -> Place:
    """Where a crop of this size is cut from an image of this height and width.

    The zoom is one of `scale`; with stay_inside in that part of it whose windows fit into the image; where none does,
    the largest zoom. A window that does not fit slides over the image. held: a pixel that the window is to hold; what
    cannot hold it where it is turned, near an edge, is not turned.
    """
    angle = 0.0 if change.more is None else change.more.angle
    grown = _grown(crop, _direction(angle)) if angle and settings.stay_inside else (1.0, 1.0)
    framed = crop[0] * grown[0], crop[1] * grown[1]
    zooms = _zooms(change, settings, height=height, width=width, crop=framed)
    tall, wide = (max(1, round(side / zoom)) for side, zoom in zip(crop, zooms, strict=True))
    if angle:
        turned = _turned(change, settings, (tall, wide), size=(height, width), crop=crop, held=held)
        if held is None or _shows(turned, held):
            return turned
    rows, down, top = _along(height, tall, crop[0], change.down, None if held is None else held[0])
    cols, across, left = _along(width, wide, crop[1], change.across, None if held is None else held[1])
    return Place(rows, cols, down, across, top, left)


def _zooms(
    change: Draw, settings: AugmentationSettings, *, height: int, width: int, crop: tuple[float, float]
) -> tuple[float, float]:
    """The zooms of height and width. crop: height and width of what has to fit into the image."""
    base = 1.0
    if settings.base_size is not None:
        base = min(max(settings.base_size) / max(height, width), min(settings.base_size) / min(height, width))
    least = max(crop[0] / (height * base), crop[1] / (width * base)) if settings.stay_inside else 0.0
    if not settings.aspect or change.more is None:
        zoom = _zoom(settings, change.zoom, least) * base
        return zoom, zoom
    parts = [change.zoom, *uniforms(change.more.stretch, 2 * _STRETCHES - 1)]
    zooms = [_zoom(settings, part, least) * base for part in parts]
    for across, down in zip(zooms[::2], zooms[1::2], strict=True):
        if abs(across / down - 1) < settings.aspect:
            return down, across
    return zooms[0], zooms[0]


def _zoom(settings: AugmentationSettings, part: float, least: float) -> float:
    """The zoom at `part` in [0, 1) of those that are not below `least`; the largest where all are."""
    small, large = min(settings.scale), max(settings.scale)
    if settings.scale_distribution == "log-uniform":
        low, high = math.log(small), math.log(large)
        if least > 0:
            low = min(high, max(low, math.log(least)))
        return math.exp(low + part * (high - low))
    if settings.scale_distribution == "uniform":
        small = min(large, max(small, least))
        return small + part * (large - small)
    assert settings.scale_step is not None
    count = int((large - small) / settings.scale_step + 1)
    all_of_them = [small + k * (large - small) / max(1, count - 1) for k in range(count)]
    fitting = [zoom for zoom in all_of_them if zoom >= least * (1 - 1e-9)] or [max(all_of_them)]
    return fitting[int(part * len(fitting))]


def _along(length: int, side: int, crop: int, where: float, held: int | None) -> tuple[slice, int, int]:
    """Pixels of the image, their number in the crop and their first place there, along one axis."""
    first, room = 0, abs(length - side)
    if held is not None and side <= length:
        first, room = max(0, held - side + 1), min(held, room)
    offset = first + int(where * (room - first + 1))
    if side <= length:
        return slice(offset, offset + side), crop, 0
    size = max(1, round(length * crop / side))
    return slice(0, length), size, min(round(offset * crop / side), crop - size)


def _direction(angle: float) -> tuple[float, float]:
    """Cosine and sine of so many degrees."""
    return math.cos(math.radians(angle)), math.sin(math.radians(angle))


def _grown(crop: Size, turned: tuple[float, float]) -> tuple[float, float]:
    """How many times the crop's height and width those of the upright rectangle around it are, once it is turned."""
    cos, sin = map(abs, turned)
    height, width = crop
    return cos + width / height * sin, cos + height / width * sin


def _turned(
    change: Draw,
    settings: AugmentationSettings,
    sides: tuple[int, int],
    *,
    size: tuple[int, int],
    crop: Size,
    held: Pixel | None,
) -> Place:
    """The place of a crop that is turned counter-clockwise, in pixels of the zoomed image.

    sides: of the crop, in pixels of the image, whose height and width is `size`.
    """
    assert change.more is not None
    cos, sin = _direction(change.more.angle)
    steps = sides[0] / crop[0], sides[1] / crop[1]
    if settings.stay_inside:
        centre = _own_centre(change, (cos, sin), steps, size=size, crop=crop, held=held)
        (down, across), part, corner = (-crop[0] / 2, -crop[1] / 2), crop, (0, 0)
    else:
        centre = (size[0] / 2, size[1] / 2)
        (down, across), part, corner = _in_frame(change, (cos, sin), sides, size=size, crop=crop, held=held)
    # A place of the crop, seen from the centre and in its own pixels: (Y, X) = (down, across) + (i + ½, j + ½).
    turn = Turn(
        (centre[0] + steps[0] * (cos * down + sin * across), steps[0] * cos, steps[0] * sin),
        (centre[1] + steps[1] * (cos * across - sin * down), -steps[1] * sin, steps[1] * cos),
        steps,
    )
    rows, cols = (
        _enclosing(line, length, part, step)
        for line, length, step in zip((turn.rows, turn.cols), size, steps, strict=True)
    )
    return Place(rows, cols, *part, *corner, turn)


def _shows(there: Place, pixel: Pixel) -> bool:
    """Whether the pixel's centre is in a turned crop."""
    assert there.turn is not None
    (row, down_row, across_row), (col, down_col, across_col) = there.turn.rows, there.turn.cols
    away = pixel[0] + 0.5 - row, pixel[1] + 0.5 - col
    area = down_row * across_col - across_row * down_col
    down = (away[0] * across_col - away[1] * across_row) / area
    across = (away[1] * down_row - away[0] * down_col) / area
    return 0 <= down < there.height and 0 <= across < there.width


def _own_centre(
    change: Draw,
    turned: tuple[float, float],
    steps: tuple[float, float],
    *,
    size: tuple[int, int],
    crop: Size,
    held: Pixel | None,
) -> tuple[float, float]:
    """The centre of a crop whose enclosing rectangle lies in the image, or slides over it where that is smaller."""
    (cos, sin), grown = turned, _grown(crop, turned)
    found = []
    for axis, where in enumerate((change.down, change.across)):
        half = crop[axis] / 2 * steps[axis] * grown[axis]
        first, last = sorted((half, size[axis] - half))
        if held is None:
            found.append(first + where * (last - first))
            continue
        # The pixel's place in the crop, from the crop's centre, is anywhere.
        down, across = (change.down - 0.5) * crop[0], (change.across - 0.5) * crop[1]
        away = cos * down + sin * across if axis == 0 else cos * across - sin * down
        found.append(min(max(held[axis] + 0.5 - steps[axis] * away, first), last))
    return found[0], found[1]


def _in_frame(
    change: Draw,
    turned: tuple[float, float],
    sides: tuple[int, int],
    *,
    size: tuple[int, int],
    crop: Size,
    held: Pixel | None,
) -> tuple[tuple[float, float], tuple[int, int], tuple[int, int]]:
    """Where a crop lies in the frame of its image, as it does where nothing is turned.

    The first corner of what is no padding, seen from the image's centre and in pixels of the crop; its height and width
    in the crop; and its first place there.
    """
    steps = sides[0] / crop[0], sides[1] / crop[1]
    seen: tuple[int | None, int | None] = (None, None)
    if held is not None:
        cos, sin = turned
        down, across = ((held[k] + 0.5 - size[k] / 2) / steps[k] for k in (0, 1))
        back = cos * down - sin * across, cos * across + sin * down
        row, col = (min(max(math.floor(size[k] / 2 + steps[k] * back[k]), 0), size[k] - 1) for k in (0, 1))
        seen = row, col
    along = [
        _along(size[axis], sides[axis], crop[axis], where, seen[axis])
        for axis, where in enumerate((change.down, change.across))
    ]
    begin = [(window.start - size[axis] / 2) / steps[axis] for axis, (window, _, _) in enumerate(along)]
    return (begin[0], begin[1]), (along[0][1], along[1][1]), (along[0][2], along[1][2])


def _enclosing(line: tuple[float, float, float], length: int, part: tuple[int, int], step: float) -> slice:
    """The pixels of the image that a turned part of a crop is interpolated from, along one axis; one at least."""
    corners = [line[0] + line[1] * i + line[2] * j for i in (0, part[0]) for j in (0, part[1])]
    margin = 2 * step + 1
    begin = min(max(math.floor(min(corners) - margin), 0), length - 1)
    return slice(begin, max(begin + 1, min(math.ceil(max(corners) + margin), length)))
