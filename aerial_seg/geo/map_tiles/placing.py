"""Map tiles without georeference get the one that their names tell: wherever rasters are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as Xml

import rasterio.shutil
from pyproj import CRS as ProjectedCRS
from rasterio.crs import CRS

from aerial_seg.choices import MapTileRows
from aerial_seg.documents import listed
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.names import exact
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.map_tiles.names import (
    Extent,
    TileName,
    counts_from_south,
    extent_of,
    read_names,
    zooms_of_folders,
)
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.geo.raster.opening import described
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.vrt import source_name
from aerial_seg.mentions import setting

_MERCATOR = ProjectedCRS.from_epsg(3857)
_SIDES = 64
"""Pixels that the side of a map tile is a multiple of."""


@dataclass(frozen=True, slots=True)
class Placing:
    """Say how rasters are placed. rows: see choices.MapTileRows. georeferenced: False to take none as placed."""

    rows: MapTileRows = "auto"
    georeferenced: bool = True
    bands: BandChoice = ALL_BANDS


@dataclass(frozen=True, slots=True)
class Placed:
    """Hold rasters that have a place. opened_as: of each what is opened for it. notes: what was taken for granted.

    rows: how the rows of map tiles count; None where the rasters are none.
    """

    infos: list[RasterInfo]
    opened_as: list[Path]
    notes: tuple[str, ...] = ()
    rows: Literal["slippy", "tms"] | None = None


def place_tiles(
    infos: Sequence[RasterInfo],
    placing: Placing,
    folder: Path,
    labelled: Callable[[], Extent | None] = lambda: None,
) -> Placed:
    """The rasters, map tiles among them placed by VRTs in `folder`; as they are where one of them has a CRS.

    labelled: gives the box of the labels, which tells from which side rows count. Raises InputError where nothing does.
    """
    paths = [Path(info.path) for info in infos]
    asked = placing.rows
    placed = [info.path for info in infos if info.unplaced is None]
    if asked == "off" or placed or not infos:
        if asked in ("slippy", "tms") and placed:
            raise _no_tiles(
                asked, f"{placed[0]} has a place of its own ({len(placed)} of {len(infos)} rasters)"
            )
        return Placed(list(infos), paths)
    zooms = zooms_of_folders(paths)
    if len(zooms) > 1 and placing.georeferenced:
        raise InputError(
            f"the map tiles are of the zooms {', '.join(map(str, sorted(zooms)))}, which show the same ground; name "
            f"the folder of one, as {paths[0].absolute().parents[1]}"
        )
    names = read_names(paths) if all(is_tile(info.grid) for info in infos) else None
    if names is None:
        if asked != "auto":
            raise _no_tiles(asked, f"the {len(infos)} rasters are not squares named so (first: {paths[0]})")
        return Placed(list(infos), paths)
    if not placing.georeferenced:
        return Placed(list(infos), paths, (_ignored(names),))
    _refuse_what_has_no_colours(infos, placing)
    names, rows, how = _from_north(names, paths, asked, labelled)
    opened = [
        _placed(info.path, name, folder / f"tile-{k}" / f"{Path(info.path).stem}.vrt")
        for k, (info, name) in enumerate(zip(infos, names, strict=True))
    ]
    found = [
        replace(raster_info(vrt, placing.bands), path=info.path, files=info.files, tagged=info.tagged)
        for vrt, info in zip(opened, infos, strict=True)
    ]
    note = f"{_told(names)} (rows {how})"
    return Placed(found, opened, (note,), rows)


def tile_grids(
    infos: Sequence[RasterInfo], asked: MapTileRows, labelled: Callable[[], Extent | None]
) -> tuple[list[Grid], str] | None:
    """The grids of rasters that are map tiles by their names, and a note on it; None where they are none.

    For whoever needs no more of them than where their pixels lie. Raises as place_tiles.
    """
    paths = [Path(info.path) for info in infos]
    placed = [info.path for info in infos if info.unplaced is None]
    names = None if placed or not all(is_tile(info.grid) for info in infos) else read_names(paths)
    if names is None or asked == "off":
        if asked in ("slippy", "tms"):
            raise _no_tiles(asked, f"{(placed or [infos[0].path])[0]} is not")
        return None
    names, _, how = _from_north(names, paths, asked, labelled)
    return [grid_of_tile(name, info.grid) for name, info in zip(names, infos, strict=True)], (
        f"{_told(names)} (rows {how})"
    )


def grid_of_tile(name: TileName, grid: Grid) -> Grid:
    """The grid of a map tile of as many pixels as this one."""
    place = name.transform(height=grid.height, width=grid.width)
    return Grid(_MERCATOR, place, height=grid.height, width=grid.width)


def _told(names: Sequence[TileName]) -> str:
    first = names[0]
    some = f"{len(names)} rasters without CRS are map tiles by their names" if len(names) > 1 else (
        "a raster without CRS is a map tile by its name"
    )  # fmt: skip
    which = "the first in " if len(names) > 1 else ""
    where = f"{which}column {first.column}, row {first.row} from the north"
    return f"{some}, placed in EPSG:3857: zoom {first.zoom}, {where}"


def _ignored(names: Sequence[TileName]) -> str:
    first = names[0]
    return (
        f"{len(names)} rasters without CRS are map tiles by their names (zoom {first.zoom}), and "
        f"{setting('georeferenced', False)} takes them as pictures without a place; leave it out to place them by name"
    )


def _refuse_what_has_no_colours(infos: Sequence[RasterInfo], placing: Placing) -> None:
    """Raises InputError for palettes, and SettingsError for what is stacked on a raster that only its name places."""
    palettes = [info.path for info in infos if info.has_palette]
    if palettes:
        raise InputError(
            f"{len(palettes)} map tiles hold numbers of a palette's colours ({listed(palettes, most=3)}), which mean "
            "others in each; turn them into colours first (gdal_translate -expand rgb in.png out.png)"
        )
    if placing.bands.stack:
        raise SettingsError(
            f"{placing.bands.stack[0]} cannot be stacked on {infos[0].path}, which its name alone places; make one "
            "raster of both first (gdal_merge.py -separate)"
        )


def _no_tiles(asked: MapTileRows, why: str) -> SettingsError:
    return SettingsError(
        f"{setting('map_tiles', asked)} is for rasters without CRS that are squares named z/x/y, z-x-y or x-y-z, but "
        f"{why}; leave it out"
    )


def is_tile(grid: Grid) -> bool:
    """Map tiles are squares of 256 px or the like; 2024-05-11.tif is most often a day."""
    height, width = grid.shape
    return height == width and height % _SIDES == 0


def _from_north(
    names: list[TileName], paths: Sequence[Path], asked: str, labelled: Callable[[], Extent | None]
) -> tuple[list[TileName], Literal["slippy", "tms"], str]:
    """The tiles with rows from the north, how these count, and what told it."""
    flipped = [name.flipped() for name in names]
    if asked == "slippy":
        return names, "slippy", "as asked"
    if asked == "tms":
        return flipped, "tms", "counted from the south, as asked"
    if counts_from_south(paths):
        return flipped, "tms", "counted from the south, as tilemapresource.xml says"
    box = labelled()
    meets = [box is not None and _meet(extent_of(one), box) for one in (names, flipped)]
    if meets == [False, True]:
        return flipped, "tms", "counted from the south, as only then labels lie on them"
    if meets == [True, False]:
        return names, "slippy", "as labels lie on them"
    if meets == [True, True]:
        raise InputError(
            f"labels lie on the map tiles whether their rows count from the north or from the south; say which: "
            f"{setting('map_tiles', 'slippy')} or {setting('map_tiles', 'tms')}"
        )
    return names, "slippy", f"as most map tiles count; {setting('map_tiles', 'tms')} if from the south"


def _meet(a: Extent, b: Extent) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _placed(path: str, name: TileName, vrt: Path) -> Path:
    """`vrt` shows all of the tile, in its place: bands in their order with all that the file says of them."""
    vrt.parent.mkdir()
    with described(path) as dataset:
        source, transform = source_name(dataset), name.transform(height=dataset.height, width=dataset.width)
        rasterio.shutil.copy(source_name(dataset), exact(vrt), driver="VRT")
    root = Xml.fromstring(vrt.read_text(encoding="utf-8"))
    for named in root.iter("SourceFilename"):
        named.text = source
        named.set("relativeToVRT", "0")
        # Two threads may not read one dataset.
        named.set("shared", "0")
    for unplaced in (*root.findall("SRS"), *root.findall("GeoTransform"), *root.findall("GCPList")):
        root.remove(unplaced)
    placed = Xml.Element("GeoTransform")
    placed.text = ", ".join(map(repr, transform.to_gdal()))
    system = Xml.Element("SRS", dataAxisToSRSAxisMapping="1,2")
    system.text = CRS.from_epsg(3857).to_wkt()
    root[:0] = [system, placed]
    vrt.write_text(Xml.tostring(root, encoding="unicode"), encoding="utf-8", newline="\n")
    return vrt
