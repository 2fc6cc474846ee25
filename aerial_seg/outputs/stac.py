"""A STAC Item beside a mask: where it lies, what its values mean, what it was made with."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import shapely
import shapely.affinity

from aerial_seg.errors import InputError
from aerial_seg.geo.areas.polygons import ground_of
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.opening import described
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.outputs.acquisition import Taken
from aerial_seg.outputs.durable import settled_file
from aerial_seg.version import __version__

_EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("projection/v1.1.0", "raster/v1.1.0", "classification/v2.0.0", "processing/v1.2.0")
)
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_MEDIA_TYPES: Mapping[str, str] = {
    ".gpkg": "application/geopackage+sqlite3",
    ".shp": "application/vnd.shp",
    ".shx": "application/vnd.shx",
    ".dbf": "application/vnd.dbf",
    ".geojson": "application/geo+json",
    ".json": "application/geo+json",
    ".geojsonl": "application/x-ndjson",
    ".geojsons": "application/x-ndjson",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
    ".geoparquet": "application/vnd.apache.parquet",
    ".csv": "text/csv",
    ".csvt": "text/csv",
    ".prj": "text/plain",
    ".cpg": "text/plain",
    ".qml": "application/xml",
}
"""Of the files that polygons lie in, by suffix."""
_BESIDE = (".shx", ".dbf", ".prj", ".cpg", ".qml", ".csvt")
"""Suffixes of files that only make sense beside another."""
_NODATA_NAME = "nodata"
_IN_PATHS = "/!$&'()*+,;=:@"
"""What a path may hold besides letters, digits and _.-~ (RFC 3986, pchar)."""
VECTORS = "vectors"
"""The asset that the polygons' main file is; its other files' names begin so."""


@dataclass(frozen=True, slots=True)
class Catalogued:
    """What a STAC Item tells of a mask.

    files: the result's, the mask first, all of them there; the rasters among them become assets. taken: when the
    imagery was. parameters: all that the result depends on, fit for JSON.
    """

    files: Sequence[Path]
    grid: Grid
    legend: Legend
    taken: Taken
    sources: Sequence[str]
    parameters: Mapping[str, Any]


def item_name(mask: str) -> str:
    """The file name of the STAC Item beside a mask of this name: OUT.json."""
    return str(Path(mask).with_suffix(".json"))


def write_item(file: Path, facts: Catalogued) -> Path:
    """`file` is a STAC 1.0 Item with the projection, raster, classification and processing extensions.

    Source: https://github.com/radiantearth/stac-spec/blob/v1.0.0/item-spec/item-spec.md and the extensions' schemas.
    """
    place, box = _place(facts.grid)
    document = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": os.fsencode(facts.files[0].stem).decode("utf-8", "replace"),
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
    file.write_text(_text(document), encoding="utf-8", newline="\n")
    return file


def list_vectors(item: Path, files: Sequence[Path], *, draft: Path | None = None) -> None:
    """The Item names these files of polygons, the main one first, beside the rasters; they have to be there already.

    draft: where to write the new Item, for who puts it in its place; None: there at once.
    """
    document = json.loads(item.read_text(encoding="utf-8"))
    assets = {key: asset for key, asset in document["assets"].items() if not key.startswith(VECTORS)}
    main, *others = files
    assets[VECTORS] = _vector_asset(main, item, "polygons of the classes", "data")
    for file in others:
        ending = file.name.removeprefix(main.stem).strip("._").replace(".", "_")
        if file.suffix.lower() in _BESIDE:
            asset = _vector_asset(file, item, f"belongs to {main.name}", "metadata")
        else:
            asset = _vector_asset(file, item, "more polygons of the classes", "data")
        assets[f"{VECTORS}_{ending}"] = asset
    with settled_file(draft or item) as partial:
        partial.write_text(_text(document | {"assets": assets}), encoding="utf-8", newline="\n")


def _vector_asset(file: Path, item: Path, title: str, role: str) -> dict[str, Any]:
    assert file.is_file(), f"{file} is to be named before it is there"
    kind = _MEDIA_TYPES.get(file.suffix.lower(), "application/octet-stream")
    return {"href": _reference(file, item.parent), "type": kind, "title": title, "roles": [role]}


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _reference(file: Path, folder: Path) -> str:
    """The file as a relative reference (IRI) from the folder.

    What references may hold stays as it is, letters of all scripts included: pystac takes those to local files as file
    names, and a server's clients escape them themselves. Spaces, %, # and ? have to be escaped for both.
    """
    try:
        where = os.path.relpath(file.parent.resolve(), folder.resolve())
    except ValueError:  # Windows: on another drive, where no relative reference leads
        return file.resolve().as_uri()
    path = "".join(
        letter
        if letter.isprintable() and not letter.isascii()
        else quote(os.fsencode(letter), safe=_IN_PATHS)
        for letter in Path(where, file.name).as_posix()
    )
    return path if path.startswith("../") else f"./{path}"


def _time(taken: Taken) -> dict[str, str | None]:
    """A STAC Item's time; the specification has a range, and so an unknown one, as null between start and end."""
    source = {"aerial_seg:datetime_source": taken.source}
    if taken.first is None or taken.last is None:
        return {
            "datetime": None,
            "start_datetime": "1970-01-01T00:00:00Z",
            "end_datetime": "9999-12-31T23:59:59Z",
            **source,
        }
    if taken.first == taken.last:
        return {"datetime": _rfc3339(taken.first), **source}
    return {
        "datetime": None,
        "start_datetime": _rfc3339(taken.first),
        "end_datetime": _rfc3339(taken.last),
        **source,
    }


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


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
    size = _pixel_size(facts.grid)
    assets = {"mask": {**_asset(mask, "classes", size), "classification:classes": _classes(facts.legend)}}
    for file in others:
        layer = file.stem.removeprefix(f"{mask.stem}_")
        assets[layer] = _asset(file, layer, size)
        if layer == "probabilities":
            assets[layer]["description"] = (
                f"one band per class, in this order: {', '.join(facts.legend.names)}"
            )
    return assets


def _asset(file: Path, title: str, size: Mapping[str, float]) -> dict[str, Any]:
    return {
        "href": _reference(file, file.parent),
        "type": _COG,
        "title": title,
        "roles": ["data"],
        "raster:bands": _bands(file, size),
    }


def _bands(file: Path, size: Mapping[str, float]) -> list[dict[str, Any]]:
    """What the extension says of each band, as the file has it: without, clients take bytes for values."""
    with described(file) as dataset:
        facts = zip(dataset.dtypes, dataset.nodatavals, dataset.scales, dataset.offsets, strict=True)
        return [
            {
                "data_type": dtype,
                "sampling": "area",
                **({} if nodata is None else {"nodata": int(nodata) if nodata == int(nodata) else nodata}),
                **({} if (scale, offset) == (1, 0) else {"scale": scale, "offset": offset}),
                **size,
            }
            for dtype, nodata, scale, offset in facts
        ]


def _pixel_size(grid: Grid) -> dict[str, float]:
    """The mean of a pixel's height and width on the ground; nothing where it has no size."""
    try:
        gsd = grid.gsd()
    except InputError:
        return {}
    return {} if gsd is None else {"spatial_resolution": round(sum(gsd) / 2, 6)}


def _classes(legend: Legend) -> list[dict[str, Any]]:
    """Names are short words in the extension; the legend's own stay as titles."""
    found: list[dict[str, Any]] = [
        {
            "value": entry.value,
            "name": name,
            "title": entry.name,
            "color_hint": entry.colour[1:].upper(),
        }
        for entry, name in zip(legend.entries, _short_names(legend), strict=True)
    ]
    return [*found, {"value": IGNORE, "name": _NODATA_NAME, "title": "not measured", "nodata": True}]


def _short_names(legend: Legend) -> list[str]:
    """A name in [0-9A-Za-z-_] for every class, no two alike: its own where that fits, else what fits and its value.

    Accents go and other characters become `_`; the pixel value behind it makes it one of its own, and it stays the same
    whatever other classes there are.
    """
    own = {entry.name for entry in legend.entries if _fits(entry.name)}
    taken, names = {*own, _NODATA_NAME}, []
    for entry in legend.entries:
        name = entry.name if entry.name in own else f"{_word(entry.name) or 'class'}_{entry.value}"
        while name in taken and entry.name not in own:
            name += "_"
        taken.add(name)
        names.append(name)
    return names


def _fits(name: str) -> bool:
    return name != _NODATA_NAME and re.fullmatch(r"[0-9A-Za-z_-]+", name) is not None


def _word(name: str) -> str:
    plain = "".join(one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one))
    return re.sub(r"[^0-9A-Za-z_-]+", "_", plain).strip("_")
