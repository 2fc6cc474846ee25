"""Several rasters as one: a VRT whose order is documented and whose pixels are copied, not interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from affine import Affine

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster import RasterInfo, raster_info

_GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "float32": "Float32", "float64": "Float64",
}  # fmt: skip

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Mosaic:
    """A written VRT; `largest_shift` is how far, in pixels, a source was moved to sit on the common grid."""

    path: Path
    sources: int
    largest_shift: float


def write_mosaic(paths: Sequence[Path], vrt: Path) -> Mosaic:
    """`vrt` shows all rasters as one; where they overlap, the later one in `paths` lies on top where it measured.

    The common pixel is the finest of the sources. Web-mercator tiles stored in degrees differ slightly in pixel
    height from row to row: a source whose size rounds to its own number of pixels is copied pixel for pixel, any
    other one is resampled bilinearly by GDAL. Raises InputError when CRS, bands or dtype differ, or for rotation.
    """
    infos = [raster_info(path) for path in paths]
    for info in infos:
        _check_alike(info, infos[0])
    grid = _common_grid([info.grid for info in infos])
    root = _vrt_root(infos[0], grid)
    shift = 0.0
    for info in infos:
        left, top, right, bottom = _place(info.grid, grid)
        snapped = round(left), round(top), round(right), round(bottom)
        exact = snapped[2] - snapped[0] == info.grid.width and snapped[3] - snapped[1] == info.grid.height
        place = snapped if exact else (left, top, right, bottom)
        if exact:
            shift = max(
                shift, *(abs(a - b) for a, b in zip((left, top, right, bottom), snapped, strict=True))
            )
        _add_raster(root, info, place)
    Xml.ElementTree(root).write(vrt)
    return Mosaic(path=vrt, sources=len(infos), largest_shift=shift)


def _check_alike(info: RasterInfo, first: RasterInfo) -> None:
    if info.grid.transform.b or info.grid.transform.d or info.grid.transform.e >= 0:
        raise InputError(
            f"{info.path} is rotated or south-up, wanted north-up rasters in a mosaic; warp it first"
        )
    for what, got, wanted in (
        ("CRS", _crs_name(info.grid), _crs_name(first.grid)),
        ("number of bands", len(info.bands), len(first.bands)),
        ("dtype", info.dtype, first.dtype),
        ("nodata value", repr(info.nodata), repr(first.nodata)),
    ):
        if got != wanted:
            raise InputError(
                f"{info.path} has {what} {got}, but {first.path} has {wanted}; a mosaic needs one: "
                "convert the odd one or predict them separately"
            )
    if info.dtype not in _GDAL_TYPES:
        raise InputError(
            f"{info.path} has dtype {info.dtype}, wanted one of {', '.join(_GDAL_TYPES)}; convert it"
        )


def _crs_name(grid: Grid) -> str:
    return grid.crs.to_string() if grid.crs is not None else "none"


def _common_grid(grids: Sequence[Grid]) -> Grid:
    boxes = [grid.bounds for grid in grids]
    left, bottom = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, top = max(b[2] for b in boxes), max(b[3] for b in boxes)
    across = min(grid.transform.a for grid in grids)
    down = min(-grid.transform.e for grid in grids)
    return Grid(
        crs=grids[0].crs,
        transform=Affine(across, 0, left, 0, -down, top),
        height=round((top - bottom) / down),
        width=round((right - left) / across),
    )


def _place(source: Grid, common: Grid) -> Box:
    """The source's box in pixels of the common grid: left, top, right, bottom."""
    left, bottom, right, top = source.bounds
    to_pixels = ~common.transform
    (x0, y0), (x1, y1) = to_pixels * (left, top), to_pixels * (right, bottom)
    return x0, y0, x1, y1


def _vrt_root(first: RasterInfo, grid: Grid) -> Xml.Element:
    root = Xml.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs is not None:
        Xml.SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = grid.crs.to_wkt("WKT1_GDAL")
    Xml.SubElement(root, "GeoTransform").text = ", ".join(repr(float(n)) for n in grid.transform.to_gdal())
    for number, name in enumerate(first.names, start=1):
        band = Xml.SubElement(root, "VRTRasterBand", dataType=_GDAL_TYPES[first.dtype], band=str(number))
        Xml.SubElement(band, "Description").text = name
        if first.nodata is not None:
            Xml.SubElement(band, "NoDataValue").text = repr(first.nodata)
    if first.nodata is None:
        # Ground between the sources has no value of its own: a mask band says that it was not measured.
        Xml.SubElement(Xml.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
    return root


def _add_raster(root: Xml.Element, info: RasterInfo, place: Box) -> None:
    """The raster's measured pixels lie on top of what `root` shows already."""
    name, bands, mask = str(Path(info.path).absolute()), info.bands, f"mask,{info.bands[0]}"
    if info.alpha is not None:
        name, bands, mask = _alpha_as_mask(info, name), tuple(range(1, len(bands) + 1)), "mask,1"
    for element, band in zip(root.findall("VRTRasterBand"), bands, strict=True):
        source = _add_source(element, info, name, str(band), place)
        if info.nodata is None:
            Xml.SubElement(source, "UseMaskBand").text = "true"
        else:
            Xml.SubElement(source, "NODATA").text = repr(info.nodata)
    for element in root.findall("MaskBand/VRTRasterBand"):
        Xml.SubElement(_add_source(element, info, name, mask, place), "NODATA").text = "0"


def _alpha_as_mask(info: RasterInfo, name: str) -> str:
    """A VRT, as text, of the same raster: GDAL itself sees a mask in alpha only beside one or three bands."""
    root = _vrt_root(info, info.grid)
    whole = 0.0, 0.0, float(info.grid.width), float(info.grid.height)
    elements = [*root.findall("VRTRasterBand"), root.find("MaskBand/VRTRasterBand")]
    for element, band in zip(elements, (*info.bands, info.alpha), strict=True):
        if element is not None:
            _add_source(element, info, name, str(band), whole)
    return Xml.tostring(root, encoding="unicode")


def _add_source(element: Xml.Element, info: RasterInfo, name: str, band: str, place: Box) -> Xml.Element:
    source = Xml.SubElement(element, "ComplexSource", resampling="bilinear")
    Xml.SubElement(source, "SourceFilename", relativeToVRT="0").text = name
    Xml.SubElement(source, "SourceBand").text = band
    left, top, right, bottom = place
    for tag, x, y, width, height in (
        ("SrcRect", 0.0, 0.0, float(info.grid.width), float(info.grid.height)),
        ("DstRect", left, top, right - left, bottom - top),
    ):
        Xml.SubElement(source, tag, xOff=repr(x), yOff=repr(y), xSize=repr(width), ySize=repr(height))
    return source
