"""Where label rasters without CRS lie: on the raster of their name, or where their names as map tiles say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from affine import Affine

from aerial_seg.choices import MapTileRows
from aerial_seg.documents import listed
from aerial_seg.errors import InputError
from aerial_seg.geo.grid import whole_outline
from aerial_seg.geo.map_tiles.names import Extent, TileName, counts_from_south, extent_of, read_names
from aerial_seg.geo.map_tiles.placing import grid_of_tile, is_tile
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.labels.label_file import LabelFile
from aerial_seg.labels.pairing.by_name import Pairs, pair_by_name


@dataclass(frozen=True, slots=True)
class Beside:
    """The rasters that labels are for. rows: how map tiles among these or the labels count theirs."""

    infos: Sequence[RasterInfo]
    rows: MapTileRows = "auto"


def place_beside(files: Sequence[LabelFile], beside: Beside) -> tuple[tuple[LabelFile, ...], tuple[str, ...]]:
    """The label rasters in their places, and notes on how these were found; as they are where all have a CRS.

    One label raster of one raster, both without CRS, pairs pixel by pixel whatever the names are. Raises InputError
    where names do not tell which label raster is which raster's, or where two that belong together differ in size.
    """
    infos = beside.infos
    unplaced = [file for file in files if file.grid.crs is None]
    pictures = [info for info in infos if info.grid.crs is None]
    if not unplaced or not infos or (pictures and len(files) == len(infos) == 1):
        return tuple(files), ()
    if len(unplaced) < len(files) or 0 < len(pictures) < len(infos):
        return tuple(files), ()  # what has a CRS beside what has none is refused by name when it is burnt
    paths = [Path(info.path) for info in infos], [file.path for file in files]
    pairs = pair_by_name(*paths)
    exact = isinstance(pairs, Pairs) and pairs.exact and _alike(pairs, files, infos)
    if not exact and not pictures:
        tiles = _as_tiles(files, beside)
        if tiles is not None:
            return tiles
    if isinstance(pairs, InputError):
        if len(infos) == 1:
            return tuple(files), ()
        raise pairs
    return _paired(pairs, files, infos)


def _alike(pairs: Pairs, files: Sequence[LabelFile], infos: Sequence[RasterInfo]) -> bool:
    return all(files[k].grid.shape == info.grid.shape for k, info in zip(pairs.labels, infos, strict=True))


def _paired(
    pairs: Pairs, files: Sequence[LabelFile], infos: Sequence[RasterInfo]
) -> tuple[tuple[LabelFile, ...], tuple[str, ...]]:
    for number, info in zip(pairs.labels, infos, strict=True):
        got, wanted = files[number].grid.shape, info.grid.shape
        if got != wanted:
            raise InputError(
                f"{files[number].path} has {got[1]} × {got[0]} pixels, but {info.path}, to which it belongs by its "
                f"name, has {wanted[1]} × {wanted[0]}; without a CRS they pair pixel by pixel: give both one size, or "
                "the labels a CRS (gdal_edit.py -a_srs EPSG:…)"
            )
    placed = tuple(
        replace(files[k], grid=info.grid.for_polygons())
        for k, info in zip(pairs.labels, infos, strict=True)
    )  # fmt: skip
    some = f"{len(placed)} label rasters" if len(placed) > 1 else "the label raster"
    notes = [
        f"{some} without CRS {'are' if len(placed) > 1 else 'is'} paired with the rasters by name, pixel by pixel, as "
        f"{placed[0].path} with {infos[0].path}"
    ]
    if pairs.unused:
        told = listed(map(str, pairs.unused), most=3)
        notes.append(
            f"{len(pairs.unused)} label rasters have no raster of their name and are not used: {told}"
        )
    return placed, tuple(notes)


def _as_tiles(
    files: Sequence[LabelFile], beside: Beside
) -> tuple[tuple[LabelFile, ...], tuple[str, ...]] | None:
    """The label rasters where their names as map tiles say; None where they say nothing."""
    paths = [file.path for file in files]
    if beside.rows == "off" or not all(is_tile(file.grid) for file in files):
        return None
    names = read_names(paths)
    if names is None:
        return None
    south = beside.rows == "tms" or (beside.rows == "auto" and _count_from_south(names, paths, beside))
    lying = [name.flipped() for name in names] if south else names
    placed = tuple(
        replace(file, grid=grid_of_tile(name, file.grid)) for file, name in zip(files, lying, strict=True)
    )
    some = f"{len(files)} label rasters without CRS are map tiles by their names" if len(files) > 1 else (
        "the label raster without CRS is a map tile by its name"
    )  # fmt: skip
    return placed, (
        f"{some}, placed in EPSG:3857: zoom {names[0].zoom}, rows counted from the {'south' if south else 'north'}",
    )


def _count_from_south(names: Sequence[TileName], paths: Sequence[Path], beside: Beside) -> bool:
    """Whether a file says so, or the imagery lies on them only then."""
    if counts_from_south(paths):
        return True
    boxes = [whole_outline(info.grid).bounds for info in beside.infos]
    here, flipped = (
        [*map(extent_of, ([one] for one in some))] for some in (names, [n.flipped() for n in names])
    )
    return not _meet(here, boxes) and _meet(flipped, boxes)


def _meet(some: Sequence[Extent], others: Sequence[Extent]) -> bool:
    a, b = np.array(some)[:, None], np.array(others)[None]
    apart = (a[..., :2] >= b[..., 2:]) | (b[..., :2] >= a[..., 2:])
    return bool((~apart.any(axis=-1)).any())


def lay_apart(infos: Sequence[RasterInfo], step: int) -> list[RasterInfo]:
    """Pictures without CRS, each with a place of its own on one plane, in rows and columns, with room between them.

    step: pixels of which the room from one to the next is a multiple. What each shows is taken for other ground.
    """
    cell = [
        step * (1 + math.ceil(max(sides) / step))
        for sides in zip(*(i.grid.shape for i in infos), strict=True)
    ]
    across = math.ceil(math.sqrt(len(infos)))
    return [
        replace(
            info,
            grid=replace(
                info.grid, transform=Affine(1, 0, k % across * cell[1], 0, -1, -(k // across) * cell[0])
            ),
        )
        for k, info in enumerate(infos)
    ]
