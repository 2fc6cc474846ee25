"""The grids that chips are cut on: pixels as long on both axes, of one size in the whole dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.inference.match_gsd import gsd_of, is_square
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.mentions import setting


def run_grids(infos: Sequence[RasterInfo], settings: TileSettings) -> list[Grid]:
    """The grid that each source is cut on, none of them mirrored. Raises InputError when GSDs differ."""
    if settings.gsd is not None:
        return [info.grid.unmirrored().at_gsd(settings.gsd) for info in infos]
    sizes = _own_gsds(infos, settings)
    if sizes and max(sizes) > 1.1 * min(sizes):
        raise InputError(
            f"the rasters have GSDs from {min(sizes):.3g} to {max(sizes):.3g} m, wanted one within 10 %; "
            f"pass {setting('gsd', float(f'{max(sizes):.2g}'))} to resample all to one"
        )
    return [_square(info, settings) for info in infos]


def _square(info: RasterInfo, settings: TileSettings) -> Grid:
    """The same ground in pixels that are as long on both axes, as predict will see it."""
    grid = info.grid.unmirrored()
    gsd = gsd_of(grid, info.path, georeferenced=settings.georeferenced)
    return grid if gsd is None or is_square(gsd) else grid.at_gsd(math.sqrt(gsd[0] * gsd[1]))


def _own_gsds(infos: Sequence[RasterInfo], settings: TileSettings) -> list[float]:
    """Metres per pixel of every georeferenced raster, the geometric mean of down and across."""
    pairs = [gsd_of(info.grid, info.path, georeferenced=settings.georeferenced) for info in infos]
    return [math.sqrt(pair[0] * pair[1]) for pair in pairs if pair is not None]


def dataset_gsd(infos: Sequence[RasterInfo], settings: TileSettings) -> float | None:
    """Metres per pixel of all chips; None where the imagery has no place."""
    if settings.gsd is not None:
        return settings.gsd
    sizes = _own_gsds(infos, settings)
    return sum(sizes) / len(sizes) if sizes else None
