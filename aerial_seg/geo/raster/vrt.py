"""The parts of a GDAL VRT, as XML: its size and place, its bands, its mask, and what these are copied from."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from xml.etree import ElementTree as Xml

from affine import Affine
from rasterio.io import DatasetReader

from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.geo.raster.values.scaling import Scaling

GDAL_TYPES = MappingProxyType({
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "uint64": "UInt64", "int64": "Int64", "float32": "Float32", "float64": "Float64",
})  # fmt: skip
"""What GDAL calls a dtype."""

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""


def new_vrt(
    *, height: int, width: int, transform: Affine | None = None, wkt: str | None = None
) -> Xml.Element:
    """A VRT of this size without bands, placed where a transform and a CRS are given."""
    root = Xml.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    if wkt is not None:
        Xml.SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = wkt
    if transform is not None:
        Xml.SubElement(root, "GeoTransform").text = ", ".join(map(repr, map(float, transform.to_gdal())))
    return root


def add_band(
    root: Xml.Element,
    dtype: str,
    *,
    name: str = "",
    nodata: float | None = None,
    scaling: Scaling | None = None,
) -> Xml.Element:
    """The VRT has one more band; of its sources a later one lies on top. scaling: what its numbers are said to mean."""
    # Counted in one step where the last child is a band, or thousands of bands take minutes.
    last = root[-1] if len(root) else root
    place = str(int(last.get("band", "0")) + 1 if last.tag == "VRTRasterBand" else _bands(root) + 1)
    band = Xml.SubElement(root, "VRTRasterBand", dataType=GDAL_TYPES[dtype], band=place)
    if name:
        Xml.SubElement(band, "Description").text = name
    if nodata is not None:
        Xml.SubElement(band, "NoDataValue").text = repr(nodata)
    if scaling is not None and not scaling.says_nothing:
        Xml.SubElement(band, "Offset").text = repr(scaling.offset)
        Xml.SubElement(band, "Scale").text = repr(scaling.scale)
    return band


def _bands(root: Xml.Element) -> int:
    return len(root.findall("VRTRasterBand"))


def add_mask(root: Xml.Element) -> Xml.Element:
    """The VRT's pixels are measured where this band of one byte is not 0, whatever nodata its other bands declare."""
    return Xml.SubElement(Xml.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")


def add_source(band: Xml.Element, name: str, number: int | str, *, kind: str = "SimpleSource") -> Xml.Element:
    """The band shows band `number` of the raster that GDAL calls `name`; `mask,1` is the mask of its band 1."""
    source = Xml.SubElement(band, kind)
    Xml.SubElement(source, "SourceFilename", relativeToVRT="0").text = name
    Xml.SubElement(source, "SourceBand").text = str(number)
    return source


def add_where_measured(mask: Xml.Element, name: str, number: int | str) -> Xml.Element:
    """The mask is 255 where the source is not 0; elsewhere what its other sources said stays."""
    source = add_source(mask, name, number, kind="ComplexSource")
    for tag, value in (("NODATA", "0"), ("ScaleOffset", "255"), ("ScaleRatio", "0")):
        Xml.SubElement(source, tag).text = value
    return source


def take_least(band: Xml.Element) -> None:
    """The band shows the least of its sources, not the topmost: a mask that every one of them must grant."""
    if len(band) > 1:  # GDAL's function gives nothing for one
        band.set("subClass", "VRTDerivedRasterBand")
        Xml.SubElement(band, "PixelFunctionType").text = "min"


def place_source(source: Xml.Element, box: Box, *, height: int, width: int) -> None:
    """All of the source, of this size, is shown in the box of the VRT."""
    left, top, right, bottom = box
    for tag, x, y, across, down in (
        ("SrcRect", 0.0, 0.0, float(width), float(height)),
        ("DstRect", left, top, right - left, bottom - top),
    ):
        Xml.SubElement(source, tag, xOff=repr(x), yOff=repr(y), xSize=repr(across), ySize=repr(down))


def as_text(root: Xml.Element) -> str:
    """What GDAL opens in place of a file's name."""
    return Xml.tostring(root, encoding="unicode")


def source_name(dataset: DatasetReader) -> str:
    """What a VRT calls an opened raster: GDAL takes a relative path as it is where the VRT has no place of its own."""
    name = str(dataset.name)
    inner = find_subdataset(name)
    if inner is not None and not inner.file.startswith("/vsi"):
        return inner.absolute()
    return str(Path(name).absolute()) if not name.startswith("<") and Path(name).exists() else name
