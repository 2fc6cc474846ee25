"""What lies around a point that somebody labels: imagery, and in its middle the pixel that is meant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_SIDE = 512
"""Pixels that a picture has at least: small chips are enlarged, pixel by pixel."""
_GAP, _ARM = 10, 24
"""Where the cross hairs begin and end, from the outline of the pixel."""
_LINE, _EDGE = (255, 255, 255), (200, 30, 30)


def draw_point(image: NDArray[np.uint8], outline: NDArray[np.float64]) -> Image.Image:
    """The image (H,W,3), enlarged, with the outline (n, 2) of a map's pixel, x and y in the image's pixels, in it.

    Cross hairs point to it where it is too small to be seen; what is meant stays bare.
    """
    times = max(1, -(-_SIDE // max(image.shape[:2])))
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    corners = outline * times
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    x, y = (left + right) / 2, (top + bottom) / 2
    arms = [
        ((left - _GAP - _ARM, y), (left - _GAP, y)),
        ((right + _GAP, y), (right + _GAP + _ARM, y)),
        ((x, top - _GAP - _ARM), (x, top - _GAP)),
        ((x, bottom + _GAP), (x, bottom + _GAP + _ARM)),
    ]
    ring = [tuple(corner) for corner in (*corners, corners[0])]
    for colour, width in ((_LINE, 4), (_EDGE, 2)):
        pen.line(ring, fill=colour, width=width)
        for arm in arms:
            pen.line(arm, fill=colour, width=width)
    return picture
