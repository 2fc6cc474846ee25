"""What numpy makes of smaller versions and GDAL's COG driver of a raster: the oracles of our own overviews and COGs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS as RasterioCRS

from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE
from aerial_seg.outputs.cog import CogStyle

Bytes = NDArray[np.uint8]


def halved_axis(length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first and the last pixel that each pixel of the half axis stands for."""
    half = -(-length // 2)
    borders = (2 * np.arange(half + 1) * length + half) // (2 * half)
    return borders[:-1], borders[1:] - 1


def most_frequent(a: Bytes, b: Bytes, c: Bytes, d: Bytes) -> Bytes:
    """Of four classes the one that is there most often, of equals the first; 255 only where all are 255."""
    first = np.where(a != IGNORE, a, np.where(b != IGNORE, b, np.where(c != IGNORE, c, d)))
    of_c = np.where((c == d) & (c != IGNORE), c, first)
    of_b = np.where(((b == c) | (b == d)) & (b != IGNORE), b, of_c)
    return np.where(((a == b) | (a == c) | (a == d)) & (a != IGNORE), a, of_b)


def mean(a: Bytes, b: Bytes, c: Bytes, d: Bytes) -> Bytes:
    """The mean, halves rounded up, of those of four that are not 255; 255 only where all are 255."""
    parts = np.stack([a, b, c, d])
    measured = parts != IGNORE
    total, count = np.where(measured, parts, 0).sum(axis=0, dtype=np.int64), measured.sum(axis=0)
    rounded = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count > 0, rounded, IGNORE).astype(np.uint8)


def half(values: Bytes, *, classes: bool) -> Bytes:
    """values (bands, h, w) at half the size."""
    (top, bottom), (left, right) = halved_axis(values.shape[-2]), halved_axis(values.shape[-1])
    four = (values[:, rows][:, :, cols] for rows in (top, bottom) for cols in (left, right))
    return (most_frequent if classes else mean)(*four)


def sizes_of(values: Bytes, *, classes: bool) -> list[Bytes]:
    """values (bands, h, w), halved and halved again until a block holds it all."""
    sizes = [values]
    while max(sizes[-1].shape[1:]) > 512:
        sizes.append(half(sizes[-1], classes=classes))
    return sizes


def gdals_cog(
    folder: Path, values: Bytes, place: Grid, style: CogStyle, *, classes: bool, bigtiff: str = "IF_SAFER"
) -> Path:
    """The COG that GDAL's own driver makes of values (bands, h, w) and of the smaller versions that numpy makes."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = sizes_of(values, classes=classes)
    for number, size in enumerate(sizes):
        profile: dict[str, Any] = {
            "driver": "GTiff", "height": size.shape[1], "width": size.shape[2], "count": len(size),
            "dtype": "uint8", "nodata": IGNORE, "photometric": "MINISBLACK", "tiled": True, "SPARSE_OK": True,
        }  # fmt: skip
        if number == 0:
            profile |= {"transform": place.transform}
            profile |= {} if place.crs is None else {"crs": RasterioCRS.from_wkt(place.crs.to_wkt())}
        with rasterio.open(folder / f"{number}.tif", "w", **profile) as file:
            file.write(size)
    rasterio.shutil.copy(folder / "0.tif", folder / "0.vrt", driver="VRT")
    _dress(folder / "0.vrt", style, len(sizes))
    rasterio.shutil.copy(
        folder / "0.vrt", folder / "gdal.tif", driver="COG", compress="DEFLATE", level=6, blocksize=512,
        overviews="AUTO", bigtiff=bigtiff, sparse_ok=True, statistics="NO",
    )  # fmt: skip
    return folder / "gdal.tif"


def _dress(path: Path, style: CogStyle, sizes: int) -> None:
    """The VRT says what the style says, and has the smaller versions that lie beside it."""
    tree = Xml.parse(path)
    root = tree.getroot()
    for said in root.findall("Metadata"):
        root.remove(said)
    tags = Xml.Element("Metadata")
    for key, value in sorted(style.tags.items()):
        Xml.SubElement(tags, "MDI", key=key).text = value
    root.insert(0, tags)
    for number, band in enumerate(root.findall("VRTRasterBand"), start=1):
        for said in band.findall("ColorInterp"):
            band.remove(said)
        Xml.SubElement(band, "Description").text = style.descriptions[number - 1]
        if style.scale is not None:
            Xml.SubElement(band, "Offset").text = "0"
            Xml.SubElement(band, "Scale").text = repr(style.scale)
        if style.palette is not None:
            Xml.SubElement(band, "ColorInterp").text = "Palette"
            table = Xml.SubElement(band, "ColorTable")
            for _, rgba in sorted(style.palette.items()):
                Xml.SubElement(table, "Entry", {f"c{k}": str(part) for k, part in enumerate(rgba, start=1)})
        for level in range(1, sizes):
            overview = Xml.SubElement(band, "Overview")
            Xml.SubElement(overview, "SourceFilename", relativeToVRT="1").text = f"{level}.tif"
            Xml.SubElement(overview, "SourceBand").text = str(number)
    tree.write(path)
