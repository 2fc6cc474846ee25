"""Coordinate systems in which the earth comes round again: longitudes, and the x of cylindrical projections."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from aerial_seg.geo.systems import horizontal, is_local

Floats = NDArray[np.float64]

_FURTHEST = 1e10
"""Units beyond which no projected coordinate lies: millimetres around the earth would."""
TURNS = 3
"""Ways around the earth that longitudes are followed on either side of 0."""
_LATITUDES = (0.0, 40.0, -25.0)


@cache
def turn_of(crs: CRS | None) -> float | None:
    """How far x goes, in units of the CRS, until the same ground comes again: 360 in degrees; None where it does not.

    In a cylindrical projection x grows with the longitude alone, and evenly: so it is found, not by a list of names.
    """
    if crs is None or is_local(crs):
        return None
    flat = horizontal(crs)
    if flat.is_geographic:
        return 2 * math.pi / float(flat.axis_info[0].unit_conversion_factor)
    own = flat.geodetic_crs
    if not flat.is_projected or own is None:
        return None
    whole = 2 * math.pi / float(own.axis_info[0].unit_conversion_factor)
    try:
        forward = Transformer.from_crs(own, flat, always_xy=True)
    except ProjError:
        return None
    lon = np.arange(-170.0, 171.0, 10.0) * (whole / 360)
    slopes = []
    for latitude in _LATITUDES:
        lat = np.full(len(lon), latitude * whole / 360)
        ends = [np.asarray(forward.transform(lon + step * whole / 360, lat)[0]) for step in (0.0, 1.0)]
        with np.errstate(invalid="ignore"):  # infinite on both sides
            slopes.append((ends[1] - ends[0]) / (whole / 360))
    slope = float(np.median(slopes))
    with np.errstate(invalid="ignore"):
        even = np.abs(np.array(slopes) - slope) <= 1e-6 * abs(slope)
    # One step in a row may lie across the cut.
    if not (math.isfinite(slope) and slope > 0 and (even.sum(axis=1) >= len(lon) - 1).all()):
        return None
    return slope * whole


@cache
def limits_of(crs: CRS | None) -> tuple[float, float]:
    """The largest |x| and |y| that are a place in the CRS, whichever way around the earth they go."""
    flat = None if crs is None or is_local(crs) else horizontal(crs)
    if flat is None or not flat.is_geographic:
        return _FURTHEST, _FURTHEST
    turn = turn_of(flat) or 360.0
    return TURNS * turn, turn / 4 * (1 + 1e-9)


def turned(x: Floats, reference: Floats | float, turn: float | None) -> Floats:
    """x moved by whole turns as near to the reference as it comes."""
    return x if turn is None else x - turn * np.round((x - reference) / turn)


def copies(bounds: Floats, west: float, east: float, turn: float | None) -> tuple[NDArray[np.int64], Floats]:
    """What of boxes (n, 4) meets west…east when it is moved by whole turns: their rows (k,) and the moves (k,).

    A box that goes all the way around may come twice; without a turn nothing moves. Rows ascend.
    """
    with np.errstate(invalid="ignore"):
        if turn is None:
            rows = np.flatnonzero((bounds[:, 0] <= east) & (bounds[:, 2] >= west))
            return rows, np.zeros(len(rows))
        first = np.ceil((west - bounds[:, 2]) / turn)
        last = np.floor((east - bounds[:, 0]) / turn)
        count = np.nan_to_num(last - first + 1, nan=0.0).clip(0).astype(np.int64)
    rows = np.repeat(np.arange(len(bounds)), count)
    order = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    return rows, (first[rows] + order) * turn
