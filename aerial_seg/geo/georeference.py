"""Whether a raster's pixels have a place in a CRS, and if not, what it has instead and how that becomes a place."""

from __future__ import annotations

from dataclasses import dataclass

from rasterio.io import DatasetReader


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Why a raster's pixels have no place in a CRS. `got` goes on after the file's name; `remedy` is an order."""

    got: str
    remedy: str


def why_unplaced(dataset: DatasetReader) -> Unplaced | None:
    """What an opened raster has instead of a CRS with a geotransform; None when it has both.

    GDAL shows a missing geotransform as the identity. A file whose CRS is written down beside control points or
    polynomials has one all the same: its pixels would silently lie at the origin of the CRS.
    """
    if dataset.crs and not dataset.transform.is_identity:
        return None
    if dataset.gcps[0]:
        return Unplaced(
            "is placed by ground control points only", "warp it first (gdalwarp -t_srs EPSG:… in.tif out.tif)"
        )
    if dataset.rpcs:
        return Unplaced(
            "is placed by rational polynomial coefficients (RPC) only",
            "orthorectify it first (gdalwarp -rpc -to RPC_DEM=dem.tif -t_srs EPSG:… in.tif out.tif)",
        )
    if dataset.crs:
        return Unplaced(
            "has a CRS but no geotransform",
            "give it its corners (gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM) or its world file (.tfw)",
        )
    return Unplaced("has no CRS", "give it one (gdal_edit.py -a_srs EPSG:…)")
