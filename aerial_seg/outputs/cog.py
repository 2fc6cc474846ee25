"""A finished raster as a Cloud Optimized GeoTIFF whose bytes depend on nothing but its content."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.windows import Window

from aerial_seg.files.names import exact
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.legend import IGNORE
from aerial_seg.outputs.assembly import assemble, checksum_of, needs_bigtiff
from aerial_seg.outputs.durable import disk_errors, reading_back, require_written, settled_file, sync
from aerial_seg.outputs.overviews import Version
from aerial_seg.outputs.packing import LEVEL
from aerial_seg.outputs.pieces import read_pieces
from aerial_seg.outputs.segments import Layer, SegmentStore


@dataclass(frozen=True, slots=True)
class CogStyle:
    """All that a COG says beside its pixels.

    descriptions: one per band. palette: pixel value → RGBA. scale: what one step of a pixel value means.
    """

    descriptions: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    palette: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float | None = None


def write_cog(store: SegmentStore, layer: Layer, final: Path, *, style: CogStyle) -> None:
    """`final` is a COG of the layer, of the very blocks of its pieces, which were read back and compared.

    All rows must be there. Scratch files lie beside the pieces for a while. Equal pixels and style give equal bytes,
    however the pixels were cut into pieces. Raises OutputError when the disk does not take it; then `final` is as it
    was before.
    """
    try:
        with disk_errors(final), settled_file(final) as partial:
            versions = store.versions(layer)
            with tempfile.TemporaryDirectory(prefix="cog-", dir=store.folder) as folder:
                skeleton = _skeleton(store.grid, versions, style, Path(folder))
                checksum = assemble(skeleton, partial, versions)
            sync(partial)
            require_written(
                checksum_of(partial) == checksum and _reads_well(partial, versions, layer.bands), final
            )
    finally:
        store.forget_versions(layer)


def _skeleton(grid: Grid, versions: Sequence[Version], style: CogStyle, folder: Path) -> Path:
    """GDAL's own COG that says all that the whole is to say, and has one block of nodata of every size."""
    sides = [tuple(min(side, BLOCK) for side in version.shape) for version in versions]
    for number, size in enumerate(sides):
        tree = _dressed(grid, size, style, range(1, len(sides))) if number == 0 else _empty(size, style)
        tree.write(folder / f"{number}.vrt")
    skeleton = folder / "skeleton.tif"
    rasterio.shutil.copy(
        exact(folder / "0.vrt"),
        exact(skeleton),
        driver="COG",
        compress="DEFLATE",
        level=LEVEL,
        blocksize=BLOCK,
        overviews="AUTO",
        bigtiff="YES" if needs_bigtiff(versions, len(style.descriptions)) else "NO",
        sparse_ok=True,
        statistics="NO",
    )
    return skeleton


def _empty(size: Sequence[int], style: CogStyle) -> Xml.ElementTree[Xml.Element[str]]:
    """A VRT of nodata."""
    height, width = map(str, size)
    root = Xml.Element("VRTDataset", rasterXSize=width, rasterYSize=height)
    for number in range(1, len(style.descriptions) + 1):
        band = Xml.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(number))
        Xml.SubElement(band, "NoDataValue").text = str(IGNORE)
    return Xml.ElementTree(root)


def _dressed(
    grid: Grid, size: Sequence[int], style: CogStyle, overviews: range
) -> Xml.ElementTree[Xml.Element[str]]:
    """A VRT of nodata with all that the COG is to say: GDAL's COG driver copies, it cannot be written to."""
    tree = _empty(size, style)
    root = tree.getroot()
    if grid.crs is not None:
        # Without an axis mapping of its own GDAL takes x before y, as the transform does.
        Xml.SubElement(root, "SRS").text = grid.crs.to_wkt()
    if grid.transform != Affine.identity():
        numbers = ", ".join(repr(float(n)) for n in grid.transform.to_gdal())
        Xml.SubElement(root, "GeoTransform").text = numbers
    tags = Xml.SubElement(root, "Metadata")
    for key, value in sorted(style.tags.items()):
        Xml.SubElement(tags, "MDI", key=key).text = value
    bands = root.findall("VRTRasterBand")
    for number, (band, description) in enumerate(zip(bands, style.descriptions, strict=True), start=1):
        Xml.SubElement(band, "Description").text = description
        if style.scale is not None:
            Xml.SubElement(band, "Offset").text = "0"
            Xml.SubElement(band, "Scale").text = repr(style.scale)
        if style.palette is not None:
            _add_palette(band, style.palette)
        for level in overviews:
            overview = Xml.SubElement(band, "Overview")
            Xml.SubElement(overview, "SourceFilename", relativeToVRT="1").text = f"{level}.vrt"
            Xml.SubElement(overview, "SourceBand").text = str(number)
    return tree


def _add_palette(band: Xml.Element, palette: Mapping[int, tuple[int, int, int, int]]) -> None:
    Xml.SubElement(band, "ColorInterp").text = "Palette"
    table = Xml.SubElement(band, "ColorTable")
    for _, rgba in sorted(palette.items()):
        Xml.SubElement(table, "Entry", {f"c{k}": str(part) for k, part in enumerate(rgba, start=1)})


def _reads_well(copy: Path, versions: Sequence[Version], bands: int) -> bool:
    """Whether GDAL finds every size in the file, and of each its last block where all others leave it."""
    with reading_back(copy) as dataset:
        if len(dataset.overviews(1)) != len(versions) - 1:
            return False
    for level, version in zip((None, *range(len(versions) - 1)), versions, strict=True):
        options = {} if level is None else {"OVERVIEW_LEVEL": level}
        with rasterio.open(exact(copy), **options) as dataset:
            if (dataset.shape, dataset.count, set(dataset.dtypes)) != (version.shape, bands, {"uint8"}):
                return False
            last = _last_block(version)
            if last is None:
                continue
            rows, cols = last
            window = Window(cols.start, rows.start, len(cols), len(rows))
            wanted = read_pieces(version.pieces.overlapping(rows, cols), bands, rows, cols)
            if not np.array_equal(np.moveaxis(dataset.read(window=window), 0, -1), wanted):
                return False
    return True


def _last_block(version: Version) -> tuple[range, range] | None:
    """The rows and columns of the southernmost block that holds something, of these of the easternmost."""
    height, width = version.shape
    for top in reversed(range(0, height, BLOCK)):
        rows = range(top, min(top + BLOCK, height))
        for piece in reversed(version.pieces.overlapping(rows, range(width))):
            if piece.blocks is None:
                continue
            filled = np.flatnonzero(piece.blocks.filled[(top - piece.rows.start) // BLOCK])
            if len(filled):
                left = piece.cols.start + int(filled[-1]) * BLOCK
                return rows, range(left, min(left + BLOCK, width))
    return None
