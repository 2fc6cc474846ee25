"""A STAC Item beside a mask: where it lies, what its values mean, what it was made with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.affinity

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.opened import described
from aerial_seg.geo.polygons import ground_of
from aerial_seg.geo.remote import is_remote, last_modified
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.version import __version__

_EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("projection/v1.1.0", "classification/v2.0.0", "processing/v1.2.0")
)
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_TAGS = ("ACQUISITIONDATETIME", "TIFFTAG_DATETIME", "NITF_IDATIM")
_FORMS = (
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S",
    "%Y:%m:%d %H:%M:%S",
    "%Y%m%d%H%M%S",
)


@dataclass(frozen=True, slots=True)
class Catalogued:
    """What a STAC Item tells of a mask.

    files: the result's, the mask first; the rasters among them become assets. taken: when the imagery was, UTC,
    None where nothing tells. parameters: all that the result depends on, fit for JSON.
    """

    files: Sequence[Path]
    grid: Grid
    legend: Legend
    taken: datetime | None
    sources: Sequence[str]
    parameters: Mapping[str, Any]


def item_name(mask: str) -> str:
    """The file name of the STAC Item beside a mask of this name: OUT.json."""
    return str(Path(mask).with_suffix(".json"))


def write_item(file: Path, facts: Catalogued) -> Path:
    """`file` is a STAC 1.0 Item with the projection, classification and processing extensions.

    Source: https://github.com/radiantearth/stac-spec/blob/v1.0.0/item-spec/item-spec.md and the extensions' schemas.
    """
    place, box = _place(facts.grid)
    document = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": facts.files[0].stem,
        "geometry": place,
        **({} if box is None else {"bbox": box}),
        "properties": {
            **_time(facts.taken),
            **_projection(facts.grid),
            "processing:software": {"aerial-seg": __version__},
            "processing:lineage": f"classes predicted from {', '.join(facts.sources)}",
            "aerial_seg:parameters": dict(facts.parameters),
        },
        "links": [],
        "assets": _assets(facts),
    }
    file.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return file


def time_taken(raster: Path | str) -> datetime | None:
    """When the raster was taken, as its tags tell (UTC where they name no zone); else when its file was written.

    Of a raster on a web server the server tells that; None where nothing does.
    """
    with described(raster) as dataset:
        tags = {**dataset.tags(ns="IMAGERY"), **dataset.tags()}
    for text in (tags[name] for name in _TAGS if name in tags):
        for form in _FORMS:
            try:
                found = datetime.strptime(text.strip(), form)
            except ValueError:
                continue
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    path = Path(raster)
    if path.is_file():
        return datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    return last_modified(path) if is_remote(path) else None


def _time(taken: datetime | None) -> dict[str, str | None]:
    """A STAC Item's time; the specification has an unknown one as null within a range."""
    if taken is None:
        return {
            "datetime": None,
            "start_datetime": "1970-01-01T00:00:00Z",
            "end_datetime": "9999-12-31T23:59:59Z",
        }
    return {"datetime": taken.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def _place(grid: Grid) -> tuple[dict[str, Any] | None, list[float] | None]:
    """The footprint in WGS84, cut at the antimeridian, and its box, west > east if it was; None off the earth.

    Around a pole it holds all longitudes, up to the pole.
    """
    if grid.crs is None or grid.is_local:
        return None, None
    try:
        footprint = grid.footprint_lonlat()
    except InputError:
        return None, None  # on another body, or where the CRS has no numbers
    lon, lat = shapely.get_coordinates(footprint).T
    ring = np.column_stack([np.unwrap(lon, period=360), lat])
    around = abs(ring[-1, 0] - ring[0, 0]) > 180
    if around:
        pole = 90 if lat.mean() > 0 else -90
        ring = np.vstack([ring, [[ring[-1, 0], pole], [ring[0, 0], pole]]])
    outline = ground_of(shapely.Polygon(ring))
    pieces: list[Any] = []
    for turn in (-360, 0, 360):
        piece = outline.intersection(shapely.box(turn - 180, -90, turn + 180, 90))
        if piece.area > 0:
            pieces.append(shapely.affinity.translate(piece, xoff=-turn))
    west, south, east, north = outline.bounds
    west, east = (-180, 180) if around else ((west + 180) % 360 - 180, east if east <= 180 else east - 360)
    box = [west, south, east, north]
    geometry = shapely.orient_polygons(shapely.union_all(pieces))
    return json.loads(shapely.to_geojson(geometry)), [float(number) for number in box]


def _projection(grid: Grid) -> dict[str, Any]:
    epsg = None if grid.crs is None else grid.crs.to_epsg()
    return {
        "proj:epsg": epsg,
        **({} if grid.crs is None or epsg is not None else {"proj:wkt2": grid.crs.to_wkt()}),
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
        "proj:bbox": list(grid.bounds),
    }


def _assets(facts: Catalogued) -> dict[str, Any]:
    """The mask and its companions, each under its layer's name."""
    mask, *others = (file for file in facts.files if file.suffix.lower() in (".tif", ".tiff"))
    assets = {"mask": {**_asset(mask, "classes"), "classification:classes": _classes(facts.legend)}}
    for file in others:
        layer = file.stem.removeprefix(f"{mask.stem}_")
        assets[layer] = _asset(file, layer)
    return assets


def _asset(file: Path, title: str) -> dict[str, Any]:
    return {"href": f"./{file.name}", "type": _COG, "title": title, "roles": ["data"]}


def _classes(legend: Legend) -> list[dict[str, Any]]:
    """Names are short words in the extension; the legend's own stay as titles."""
    found: list[dict[str, Any]] = [
        {
            "value": entry.value,
            "name": re.sub(r"[^0-9A-Za-z_-]+", "_", entry.name),
            "title": entry.name,
            "color_hint": entry.colour[1:].upper(),
        }
        for entry in legend.entries
    ]
    return [*found, {"value": IGNORE, "name": "nodata", "title": "not measured", "nodata": True}]
