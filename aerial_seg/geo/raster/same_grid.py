"""Whether two files lie pixel on pixel, so that their bands can be stacked."""

from __future__ import annotations

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid

_TOLERANCE = 0.01
"""How far apart, in pixels, two corners may lie: what rounding in text headers and sidecars makes of one grid."""


def require_same_grid(got: Grid, wanted: Grid, *, got_name: str, wanted_name: str) -> None:
    """Raises InputError, in one line with both grids, unless shape, CRS and all corners are the same."""
    if got.shape == wanted.shape and got.crs == wanted.crs and _corners_apart(got, wanted) <= _TOLERANCE:
        return
    raise InputError(
        f"{got_name} ({_text(got)}) cannot be stacked on {wanted_name} ({_text(wanted)}), wanted one grid; "
        "warp it onto the raster's (gdalwarp -t_srs … -te … -ts …)"
    )


def _corners_apart(got: Grid, wanted: Grid) -> float:
    """The largest distance of two corners on one axis, in pixels of the wanted grid."""
    to_pixels = ~wanted.transform
    return max(
        abs(float(have) - want)
        for corner in ((0, 0), (wanted.width, 0), (wanted.width, wanted.height), (0, wanted.height))
        for have, want in zip(to_pixels * (got.transform * corner), corner, strict=True)
    )


def _text(grid: Grid) -> str:
    matrix = grid.transform
    turned = ", rotated" if matrix.b or matrix.d else ""
    return (
        f"{grid.width} × {grid.height} px of {abs(matrix.a):.6g} × {abs(matrix.e):.6g} from {matrix.c:.10g}, "
        f"{matrix.f:.10g}{turned} in {grid.crs.to_string() if grid.crs is not None else 'no CRS'}"
    )
