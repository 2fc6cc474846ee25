"""A finished raster as a Cloud Optimized GeoTIFF whose bytes depend on nothing but its content."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.windows import Window

from aerial_seg.files.names import exact
from aerial_seg.geo.raster.covered import BLOCK, FilledBlocks, source_boxes
from aerial_seg.geo.raster.opening import open_dataset
from aerial_seg.outputs import sparse_cog
from aerial_seg.outputs.durable import disk_errors, reading_back, require_written, settled_file
from aerial_seg.outputs.overviews import chunks, write_overviews

_LEVEL = 6
"""Of DEFLATE, which every GIS program reads, unlike ZSTD. Level 9 packs masks 10 % tighter at a fifth of the speed."""

_CACHE_BYTES = 64_000_000
"""GDAL's block cache beside a few blocks of all bands: by default it grows to a twentieth of the machine's memory."""


@dataclass(frozen=True, slots=True)
class CogStyle:
    """All that a COG says beside its pixels.

    descriptions: one per band. overviews: "mode" for classes, never averaged, else "average". palette: pixel value →
    RGBA. scale: what one step of a pixel value means.
    """

    descriptions: tuple[str, ...]
    overviews: str
    tags: Mapping[str, str] = field(default_factory=dict)
    palette: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float | None = None


def write_cog(source: Path, final: Path, *, style: CogStyle) -> None:
    """`final` is a COG with the pixels of the VRT `source`, read back and compared pixel by pixel.

    source: a VRT of SegmentStore. Scratch files lie beside it for a while. Equal pixels and style give equal bytes,
    however the pixels were cut into segments. Raises OutputError when the disk does not take it; then `final` is as
    it was before.
    """
    dressed = source.with_name(f"{source.stem}.copy.vrt")
    scratch = source.with_name(f"{source.stem}.overviews")
    cache = _CACHE_BYTES + 4 * len(style.descriptions) * BLOCK * BLOCK
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with rasterio.Env(GDAL_CACHEMAX=cache), disk_errors(final):
            filled = _filled(source)
            overviews = write_overviews(source, scratch, reduction=style.overviews, filled=filled)
            _dress(source, [level.path for level in overviews], style).write(dressed)
            blocks = [filled, *(level.filled for level in overviews)]
            with settled_file(final) as partial:
                if not _copy_part(dressed, partial, scratch, blocks):
                    _copy(dressed, partial)
                require_written(_shows_the_same(dressed, partial, blocks), final)
    finally:
        dressed.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _filled(source: Path) -> FilledBlocks:
    """Blocks of a VRT that a source of it lies in; of the others there is nothing to read."""
    root = Xml.parse(source).getroot()
    height, width = int(root.attrib["rasterYSize"]), int(root.attrib["rasterXSize"])
    boxes = source_boxes(root)
    return FilledBlocks(height, width, [Window(0, 0, width, height)] if boxes is None else boxes)


def _copy_part(source: Path, final: Path, scratch: Path, blocks: Sequence[FilledBlocks]) -> bool:
    """Whether `final` is the copy already, of no more than the part of `source` that holds something."""
    with open_dataset(source) as dataset:
        if not sparse_cog.worthwhile(blocks, dataset.count):
            return False
    shown, part = source.with_suffix(".part.vrt"), scratch / "part.tif"
    try:
        sparse_cog.write_part(source, shown, blocks)
        _copy(shown, part, bigtiff="YES")
        return sparse_cog.spread(part, final, blocks)
    finally:
        shown.unlink(missing_ok=True)


def _copy(source: Path, final: Path, *, bigtiff: str = "IF_SAFER") -> None:
    rasterio.shutil.copy(
        exact(source),
        exact(final),
        driver="COG",
        compress="DEFLATE",
        level=_LEVEL,
        blocksize=BLOCK,
        overviews="AUTO",
        # Should GDAL ever have to make overviews itself: left alone it averages class numbers and invents classes.
        overview_resampling="MODE",
        num_threads="ALL_CPUS",
        bigtiff=bigtiff,
        sparse_ok=True,
        statistics="NO",
    )


def _dress(source: Path, overviews: list[Path], style: CogStyle) -> Xml.ElementTree[Xml.Element[str]]:
    """The VRT with all that the COG is to say: GDAL's COG driver copies, it cannot be written to."""
    tree = Xml.parse(source)
    root = tree.getroot()
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
            Xml.SubElement(
                overview, "SourceFilename", relativeToVRT="1"
            ).text = f"{level.parent.name}/{level.name}"
            Xml.SubElement(overview, "SourceBand").text = str(number)
    return tree


def _add_palette(band: Xml.Element, palette: Mapping[int, tuple[int, int, int, int]]) -> None:
    Xml.SubElement(band, "ColorInterp").text = "Palette"
    table = Xml.SubElement(band, "ColorTable")
    for _, rgba in sorted(palette.items()):
        Xml.SubElement(table, "Entry", {f"c{k}": str(part) for k, part in enumerate(rgba, start=1)})


def _shows_the_same(source: Path, copy: Path, blocks: Sequence[FilledBlocks]) -> bool:
    """Whether both hold equal pixels at full size and in every overview: a thread's lost write is not reported.

    blocks: those of each size, the largest first, that hold something: the others were never written.
    """
    for level, filled in zip((None, *range(len(blocks) - 1)), blocks, strict=True):
        options = {} if level is None else {"OVERVIEW_LEVEL": level}
        with (
            rasterio.open(exact(source), **options) as wanted,
            rasterio.open(exact(copy), NUM_THREADS="ALL_CPUS", **options) as got,
        ):
            if (got.shape, got.count, got.dtypes) != (wanted.shape, wanted.count, wanted.dtypes):
                return False
            for window in filled.among(chunks(got.height, got.width, bands=2 * got.count)):
                if not np.array_equal(got.read(window=window), wanted.read(window=window)):
                    return False
    with reading_back(copy) as got:
        return len(got.overviews(1)) == len(blocks) - 1
