"""From a coverage to a vector file: the feature table in the mask's CRS, written whole or not at all."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from pyproj.exceptions import ProjError

from aerial_seg.errors import InputError, OutputError
from aerial_seg.geo.grid import WGS84, Grid, to_lonlat
from aerial_seg.geo.polygonize import Coverage
from aerial_seg.legend import Legend

Geometries = NDArray[np.object_]

_DRIVERS = {".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".geojson": "GeoJSON"}
_SHAPEFILE_PARTS = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_SHAPEFILE_INDEXES = (".qix", ".sbn", ".sbx")
_SHAPEFILE_LIMIT = 1_900_000_000
"""Bytes. Past 2 GB GDAL fails late or warns only, and leaves a truncated file that can be read."""
_STRAIGHT_M = 100.0
"""Between vertices this near, a straight line of a usual CRS leaves the geodesic by about a millimetre."""


def feature_table(coverage: Coverage, grid: Grid, legend: Legend) -> gpd.GeoDataFrame:
    """One row per polygon, in the CRS of the grid: class_id int32, class_name, area_m2 float64, geometry.

    Geometries are valid MultiPolygons of one part, exteriors counter-clockwise. area_m2 is geodesic (WGS84),
    NaN when the grid has no CRS. Every value of the coverage must be in the legend. Raises InputError when
    the polygons do not survive the grid's transform or lie outside of what its CRS covers.
    """
    names = {entry.value: entry.name for entry in legend.entries}
    polygons = _in_crs(coverage.geometries, grid)
    columns = {
        "class_id": coverage.values.astype(np.int32),
        "class_name": np.array([names[int(value)] for value in coverage.values], object),
        "area_m2": geodesic_areas(coverage.geometries, grid),
    }
    parts = np.arange(len(polygons))
    geometry = shapely.multipolygons(polygons, indices=parts) if len(parts) else polygons
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=grid.crs)


def _to_crs(pixels: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Pixel coordinates (n,2) x, y → CRS coordinates (n,2)."""
    a, b, c, d, e, f = tuple(grid.transform)[:6]
    x, y = pixels[:, 0], pixels[:, 1]
    # No matrix product: BLAS may round one shared vertex in two ways.
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


def _in_crs(geometries: Geometries, grid: Grid) -> Geometries:
    placed = shapely.transform(geometries, lambda pixels: _to_crs(pixels, grid))
    broken = int((~shapely.is_valid(placed)).sum())
    if broken:
        raise InputError(
            f"{broken} of {len(placed)} polygons collapse under the mask's transform "
            f"{tuple(grid.transform)[:6]}, wanted pixels that float64 can tell apart; check the georeference"
        )
    oriented: Geometries = shapely.orient_polygons(placed)
    return oriented


def geodesic_areas(geometries: Geometries, grid: Grid) -> NDArray[np.float64]:
    """Square metres on the WGS84 ellipsoid of Polygons in pixel space, (n,) float64; NaN without a CRS.

    Sides are straight in the CRS and followed in steps of 100 m, or of a pixel where pixels are larger.
    """
    gsd = grid.gsd()
    if grid.crs is None or gsd is None:
        return np.full(len(geometries), math.nan)
    if len(geometries) == 0:
        return np.zeros(0)
    dense = shapely.segmentize(geometries, max(1.0, _STRAIGHT_M / max(gsd)))
    _, pixels, (ring_offsets, polygon_offsets) = shapely.to_ragged_array(dense)
    try:
        x, y = _to_crs(pixels, grid).T
        lon, lat = to_lonlat(grid.crs).transform(x, y, errcheck=True)
    except ProjError as error:
        raise InputError(
            f"the polygons' place cannot be computed in the mask's CRS ({error}); check its CRS"
        ) from error
    if not (np.isfinite(lon) & (np.abs(lat) <= 90)).all():
        raise InputError("the mask reaches outside of what its CRS covers; check its CRS and transform")
    rings = np.array(
        [
            abs(WGS84.polygon_area_perimeter(lon[start:end], lat[start:end])[0])
            for start, end in pairwise(ring_offsets)
        ]
    )
    shells = polygon_offsets[:-1]
    return np.asarray(2 * rings[shells] - np.add.reduceat(rings, shells))


def check_output(path: Path, *, crs: CRS | None, overwrite: bool) -> None:
    """Nothing known now will hinder `write_layer` from writing here; call it before the long work.

    Raises OutputError: unknown suffix, GeoJSON without CRS, no such folder, an existing file without
    `overwrite`, a GeoPackage that another program has open.
    """
    suffix = path.suffix.lower()
    if suffix not in _DRIVERS:
        raise OutputError(
            f"{path.name} ends in '{path.suffix}', wanted .gpkg (GeoPackage), .shp (Shapefile) or .geojson; "
            "rename the output"
        )
    if suffix == ".geojson" and crs is None:
        raise OutputError(
            f"{path.name} must be in WGS84 (RFC 7946) and the mask has no CRS; "
            "write .gpkg or .shp, or give the mask a CRS"
        )
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist; create it or write elsewhere")
    for part in _parts(path):
        if part.exists() and not overwrite:
            raise OutputError(f"{part} exists; pass --overwrite to replace it, or choose another name")
    journal = path.with_name(path.name + "-wal")
    if suffix == ".gpkg" and journal.exists():
        # SQLite would replay the old file's journal into the new one.
        raise OutputError(
            f"{path.name} is open in another program ({journal.name} exists); "
            "close it there, or choose another name"
        )


def write_layer(
    table: gpd.GeoDataFrame, path: Path, *, overwrite: bool = False, layer: str | None = None
) -> None:
    """The table is a complete vector file at `path`: .gpkg, .shp with its sidecars, or .geojson (RFC 7946).

    layer: its name inside the file, by default the file's stem. An empty table becomes an empty layer with
    all columns (GeoJSON can state no columns without features). Until the file is complete nothing lies under
    its name; a Shapefile's .shp comes last. Raises OutputError: see `check_output`; a Shapefile above
    1.9 GB; a failed write.
    """
    check_output(path, crs=table.crs, overwrite=overwrite)
    if path.suffix.lower() == ".shp":
        _check_shapefile(table, path)
    with _write_errors(path), TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        _write(table, draft, layer or path.stem)
        _publish(draft, path)


def _parts(path: Path) -> list[Path]:
    """The files that make up the layer; the one that readers open comes first."""
    if path.suffix.lower() != ".shp":
        return [path]
    return [path, *(path.with_suffix(suffix) for suffix in _SHAPEFILE_PARTS[1:])]


def shapefile_bytes(geometries: Geometries) -> int:
    """The size in bytes that a .shp of these polygons will have."""
    parts, _ = shapely.get_parts(geometries, return_index=True)
    rings = len(parts) + int(shapely.get_num_interior_rings(parts).sum())
    return 108 + 52 * len(geometries) + 4 * rings + 16 * int(shapely.get_num_coordinates(geometries).sum())


def _check_shapefile(table: gpd.GeoDataFrame, path: Path) -> None:
    size = shapefile_bytes(np.asarray(table.geometry.array))
    if size > _SHAPEFILE_LIMIT:
        raise OutputError(
            f"{path.name} would take {size / 1e9:.2f} GB, wanted at most {_SHAPEFILE_LIMIT / 1e9:.2f} GB; "
            "write a .gpkg instead"
        )
    long = [name for name in table["class_name"].unique() if len(name.encode()) > 254]
    if long:
        raise OutputError(
            f"the class name '{long[0][:30]}…' is too long for a Shapefile (254 bytes); write a .gpkg"
        )


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataSourceError, DataLayerError, OSError) as error:
        raise OutputError(
            f"{path} could not be written ({error}); "
            "free disk space, check the folder's permissions, or write elsewhere"
        ) from error


def _write(table: gpd.GeoDataFrame, draft: Path, layer: str) -> None:
    driver = _DRIVERS[draft.suffix.lower()]
    with warnings.catch_warnings():
        # A mask without CRS is allowed here; check_output refused where it is not.
        warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
        pyogrio.write_dataframe(
            table,
            draft,
            layer=layer,
            driver=driver,
            encoding="UTF-8",
            geometry_type="MultiPolygon",
            layer_options={"RFC7946": "YES"} if driver == "GeoJSON" else {},
        )


def _publish(draft: Path, path: Path) -> None:
    """Move the finished parts under their final names, the one that readers open last."""
    main, *sidecars = zip(_parts(draft), _parts(path), strict=True)
    if sidecars:
        # Never an old .shp over new sidecars, and no spatial index of the old one.
        for stale in (path, *(path.with_suffix(suffix) for suffix in _SHAPEFILE_INDEXES)):
            stale.unlink(missing_ok=True)
    for source, target in (*sidecars, main):
        if source.exists():
            _sync(source)
            source.replace(target)
        else:
            # A Shapefile without CRS has no .prj; an older one must not lend it its own.
            target.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
