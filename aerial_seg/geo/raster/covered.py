"""Which part of a raster holds anything, told by the file itself: of the rest no pixel has to be read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from rasterio.enums import MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window

BLOCK = 512
"""Side of the blocks that finished rasters are made of."""

_SOURCES = ("SimpleSource", "ComplexSource", "AveragedSource", "KernelFilteredSource")
_FEWEST_BLOCKS = 64
"""A file of fewer blocks is read as fast as it is asked about them."""
_MOST_BLOCKS = 4_000_000
"""Asking about more takes longer than a dozen seconds; a raster of 1,000,000² pixels has as many, in blocks of 512."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Some rows and columns of a raster, at least one of each."""

    rows: range
    cols: range

    @classmethod
    def whole(cls, height: int, width: int) -> Extent:
        """All of a raster."""
        return cls(range(height), range(width))

    def shared(self, other: Extent) -> Extent:
        """What both hold; where that is nothing, one pixel of this one."""
        return Extent(_shared(self.rows, other.rows), _shared(self.cols, other.cols))

    def grown(self, by: int, height: int, width: int) -> Extent:
        """With so many pixels around it, as far as the raster has them."""
        return Extent(
            range(max(0, self.rows.start - by), min(self.rows.stop + by, height)),
            range(max(0, self.cols.start - by), min(self.cols.stop + by, width)),
        )

    def in_blocks(self, height: int, width: int, *, rows: int = BLOCK, cols: int = BLOCK) -> Extent:
        """Grown to multiples of these sides, or to the raster's ends."""
        return Extent(_grown(self.rows, rows, height), _grown(self.cols, cols, width))

    @property
    def pixels(self) -> int:
        """How many there are."""
        return len(self.rows) * len(self.cols)


def _shared(one: range, other: range) -> range:
    start, stop = max(one.start, other.start), min(one.stop, other.stop)
    return range(start, stop) if start < stop else range(one.start, one.start + 1)


def _grown(span: range, side: int, length: int) -> range:
    return range(span.start // side * side, min(-(-span.stop // side) * side, length))


def covered_extent(dataset: DatasetReader) -> Extent | None:
    """The smallest rectangle that the file says all its pixels lie in; outside of it all hold one and the same.

    The boxes of a VRT's sources, the blocks that a TIFF has; None where there is none of them. The whole raster where
    nothing is known.
    """
    whole = Extent.whole(dataset.height, dataset.width)
    # A mask of its own, which may lie in another file, has blocks of its own.
    flags = dataset.mask_flag_enums[0]
    own_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    if dataset.driver == "VRT":
        boxes = _boxes_of_vrt(str(dataset.name), mask=own_mask)
        return whole if boxes is None else _around(boxes, whole)
    if dataset.driver == "GTiff" and not own_mask:
        return _blocks_of_tiff(dataset, whole)
    return whole


def source_boxes(root: Xml.Element) -> list[Window] | None:
    """Where a VRT's sources lie, in whole pixels; None where not all of them tell, or where pixels are computed."""
    boxes: dict[tuple[str, ...], Window] = {}
    if root.get("subClass"):
        return None
    for band in root.iter("VRTRasterBand"):
        if band.get("subClass"):
            return None
        for source in band:
            if source.tag in ("SourceFilename", "PixelFunctionType", "ArraySource"):
                return None
            if source.tag not in _SOURCES:
                continue
            box = source.find("DstRect")
            if box is None:
                return None
            numbers = tuple(box.get(key, "") for key in ("xOff", "yOff", "xSize", "ySize"))
            if numbers not in boxes:
                boxes[numbers] = _whole_pixels(*map(float, numbers))
    return list(boxes.values())


def _whole_pixels(left: float, top: float, width: float, height: float) -> Window:
    x, y = math.floor(left), math.floor(top)
    return Window(x, y, math.ceil(left + width) - x, math.ceil(top + height) - y)


def _boxes_of_vrt(name: str, *, mask: bool) -> list[Window] | None:
    """mask: whether it has a mask, which is to be among its bands."""
    try:
        root = Xml.fromstring(name if name.startswith("<") else Path(name).read_text(encoding="utf-8"))
        return None if mask and root.find("MaskBand") is None else source_boxes(root)
    except (OSError, ValueError, Xml.ParseError):
        return None  # on a server, or in an archive


def _around(boxes: Iterable[Window], whole: Extent) -> Extent | None:
    edges = [(box.row_off, box.row_off + box.height, box.col_off, box.col_off + box.width) for box in boxes]
    if not edges:
        return None
    tops, bottoms, lefts, rights = zip(*edges, strict=True)
    found = Extent(range(min(tops), max(bottoms)), range(min(lefts), max(rights)))
    return whole.shared(found)


def _blocks_of_tiff(dataset: DatasetReader, whole: Extent) -> Extent | None:
    """Around the blocks that any band has; few blocks are read as fast as they are asked for."""
    rows, cols = dataset.block_shapes[0]
    down, across = -(-dataset.height // rows), -(-dataset.width // cols)
    if not _FEWEST_BLOCKS <= down * across <= _MOST_BLOCKS or len(set(dataset.block_shapes)) > 1:
        return whole
    # A file with pixels side by side has one block for all bands.
    bands = dataset.indexes if dataset.interleaving.name != "pixel" else (1,)

    def there(y: int, x: int) -> bool:
        item = f"BLOCK_OFFSET_{x}_{y}"
        return any(dataset.get_tag_item(item, "TIFF", bidx=band) is not None for band in bands)

    top = next((y for y in range(down) if any(there(y, x) for x in range(across))), None)
    if top is None:
        return None
    bottom = next(y for y in reversed(range(down)) if any(there(y, x) for x in range(across)))
    held = range(top, bottom + 1)
    left = next(x for x in range(across) if any(there(y, x) for y in held))
    right = next(x for x in reversed(range(across)) if any(there(y, x) for y in held))
    return Extent(
        range(top * rows, min((bottom + 1) * rows, dataset.height)),
        range(left * cols, min((right + 1) * cols, dataset.width)),
    )
