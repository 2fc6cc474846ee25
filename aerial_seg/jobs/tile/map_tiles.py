"""Map tiles without georeference get the one that their names tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as Xml

from rasterio.crs import CRS

from aerial_seg.documents import listed
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.raster.chosen_bands import chosen_vrt
from aerial_seg.geo.raster.opening import described
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.tile_names import (
    Extent,
    TileName,
    counts_from_south,
    extent_of,
    read_names,
    zooms_of_folders,
)
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.mentions import setting

_SIDES = 64
"""Pixels that the side of a map tile is a multiple of."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Hold rasters that have a place. opened_as: of each what is opened for it. notes: what was taken for granted."""

    infos: list[RasterInfo]
    opened_as: list[Path]
    notes: tuple[str, ...] = ()


def place_tiles(
    infos: Sequence[RasterInfo],
    settings: TileSettings,
    folder: Path,
    labelled: Callable[[], Extent | None],
) -> Placed:
    """The rasters, map tiles among them placed by VRTs in `folder`; as they are where one of them has a CRS.

    labelled: gives the box of the labels, which tells from which side rows count. Raises InputError where nothing does.
    """
    paths = [Path(info.path) for info in infos]
    asked = settings.map_tiles
    placed = [info.path for info in infos if info.unplaced is None]
    if asked == "off" or not settings.georeferenced or placed:
        if asked in ("slippy", "tms"):
            raise _no_tiles(
                asked, f"{placed[0]} has a place of its own ({len(placed)} of {len(infos)} rasters)"
            )
        return Placed(list(infos), paths)
    zooms = zooms_of_folders(paths)
    if len(zooms) > 1:
        raise InputError(
            f"the map tiles are of the zooms {', '.join(map(str, sorted(zooms)))}, which show the same ground; name "
            f"the folder of one, as {paths[0].absolute().parents[1]}"
        )
    names = read_names(paths) if all(_is_tile(info) for info in infos) else None
    if names is None:
        if asked != "auto":
            raise _no_tiles(asked, f"the {len(infos)} rasters are not squares named so (first: {paths[0]})")
        return Placed(list(infos), paths)
    palettes = [info.path for info in infos if info.has_palette]
    if palettes:
        raise InputError(
            f"{len(palettes)} map tiles hold numbers of a palette's colours ({listed(palettes, most=3)}), which mean "
            "others in each; turn them into colours first (gdal_translate -expand rgb in.png out.png)"
        )
    names, how = _from_north(names, paths, asked, labelled)
    opened = [
        _placed(info, name, folder / f"tile-{k}" / f"{Path(info.path).stem}.vrt")
        for k, (info, name) in enumerate(zip(infos, names, strict=True))
    ]
    found = [
        replace(raster_info(vrt, settings.bands), path=info.path, files=info.files, tagged=info.tagged)
        for vrt, info in zip(opened, infos, strict=True)
    ]
    first = names[0]
    note = (
        f"{len(names)} rasters without CRS are map tiles by their names, placed in EPSG:3857: zoom {first.zoom}, the "
        f"first in column {first.column}, row {first.row} from the north ({how})"
    )
    return Placed(found, opened, (note,))


def _no_tiles(asked: str, why: str) -> SettingsError:
    return SettingsError(
        f"{setting('map_tiles', asked)} is for rasters without CRS that are squares named z/x/y, z-x-y or x-y-z, but "
        f"{why}; leave it out"
    )


def _is_tile(info: RasterInfo) -> bool:
    """Map tiles are squares of 256 px or the like; 2024-05-11.tif is most often a day."""
    height, width = info.grid.shape
    return height == width and height % _SIDES == 0


def _from_north(
    names: list[TileName], paths: Sequence[Path], asked: str, labelled: Callable[[], Extent | None]
) -> tuple[list[TileName], str]:
    """The tiles with rows from the north, and what told how they count."""
    flipped = [name.flipped() for name in names]
    if asked != "auto":
        return (names, "as asked") if asked == "slippy" else (flipped, "counted from the south, as asked")
    if counts_from_south(paths):
        return flipped, "counted from the south, as tilemapresource.xml says"
    box = labelled()
    meets = [box is not None and _meet(extent_of(one), box) for one in (names, flipped)]
    if meets == [False, True]:
        return flipped, "counted from the south, as only then labels lie on them"
    if meets == [True, False]:
        return names, "as labels lie on them"
    if meets == [True, True]:
        raise InputError(
            f"labels lie on the map tiles whether their rows count from the north or from the south; say which: "
            f"{setting('map_tiles', 'slippy')} or {setting('map_tiles', 'tms')}"
        )
    return names, "as most map tiles count"


def _meet(a: Extent, b: Extent) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _placed(info: RasterInfo, name: TileName, vrt: Path) -> Path:
    """`vrt` shows the tile in its place."""
    with described(info.path) as dataset:
        root = Xml.fromstring(chosen_vrt(dataset, info.bands))
        transform = name.transform(height=dataset.height, width=dataset.width)
    placed = Xml.Element("GeoTransform")
    placed.text = ", ".join(map(repr, transform.to_gdal()))
    system = Xml.Element("SRS", dataAxisToSRSAxisMapping="1,2")
    system.text = CRS.from_epsg(3857).to_wkt()
    root[:0] = [system, placed]
    vrt.parent.mkdir()
    vrt.write_text(Xml.tostring(root, encoding="unicode"), encoding="utf-8", newline="\n")
    return vrt
