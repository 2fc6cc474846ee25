"""Where the chips of each split lie, as a picture with north up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from aerial_seg.legend import Legend
from aerial_seg.report.chip_sheet import Column, Pixels, Row, draw_sheet
from aerial_seg.report.qa.chips import QaChip

SPLIT_COLOURS = {"train": "#0072b2", "val": "#e69f00", "test": "#cc3d8f"}
"""Told apart by eyes of any kind, on green and on grey ground."""
_SIDE, _SMALL_SIDE = 640, 320
_SCATTERED = 0.02
"""Share of the map that chips cover below which each source has a map of its own: else all would be dots."""
_MOST_MAPS, _COLUMNS = 12, 3
_OBLONG = 10.0


def draw_split_map(chips: Sequence[QaChip], legend: Legend, path: Path) -> None:
    """PNG: every chip in the colour of its split, at its place in the index; blanks hold no chip."""
    boxes = shapely.bounds(np.array([chip.place for chip in chips], dtype=object))
    by_source = Counter(chip.source for chip in chips)
    if len(by_source) == 1 or _covered(boxes) >= _SCATTERED:
        rows, others = [_map_of(chips, "all chips", side=_SIDE)], 0
    else:
        rows = [
            _map_of([chip for chip in chips if chip.source == source], source, side=_SMALL_SIDE)
            for source, _ in by_source.most_common(_MOST_MAPS)
        ]
        others = len(by_source) - len(rows)
    deep = -(-len(rows) // _COLUMNS)
    columns = [Column("", ("",), rows[first : first + deep]) for first in range(0, len(rows), deep)]
    key = [(_rgb(colour), split) for split, colour in SPLIT_COLOURS.items() if _count(chips, split)]
    more = f"; {others} sources with fewer chips are not shown" if others else ""
    sources = "1 source" if len(by_source) == 1 else f"{len(by_source):,} sources"
    title = f"Splits: {len(chips):,} chips of {sources}{more}"
    draw_sheet(columns, (), legend, path, title=title, more=key)


def _map_of(chips: Sequence[QaChip], name: str, *, side: int) -> Row:
    told = ", ".join(f"{split} {_count(chips, split):,}" for split in SPLIT_COLOURS if _count(chips, split))
    return Row(f"{name}: {told}", (_picture(chips, side),))


def _picture(chips: Sequence[QaChip], side: int) -> Pixels:
    outlines = np.array([chip.place for chip in chips], dtype=object)
    boxes = shapely.bounds(outlines)
    west, south = boxes[:, :2].min(axis=0)
    east, north = boxes[:, 2:].max(axis=0)
    # Chips are squares on the ground, whatever a degree is long there.
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    taller = float(np.clip(np.median(widths / heights), 1 / _OBLONG, _OBLONG))
    zoom = (side - 1) / max(east - west, (north - south) * taller)
    width = max(1, round((east - west) * zoom)) + 1
    height = max(1, round((north - south) * taller * zoom)) + 1
    picture = Image.new("RGB", (width, height), "white")
    write = ImageDraw.Draw(picture)
    for outline, chip in zip(outlines, chips, strict=True):
        x, y = np.asarray(outline.exterior.coords)[:, :2].T
        places = zip((x - west) * zoom, (north - y) * taller * zoom, strict=True)
        write.polygon(
            [(float(a), float(b)) for a, b in places], fill=SPLIT_COLOURS[chip.split], outline="white"
        )
    write.rectangle((0, 0, width - 1, height - 1), outline="#999999")
    return np.asarray(picture)


def _covered(boxes: NDArray[np.float64]) -> float:
    """The share of the whole that the chips' boxes cover, at most."""
    west, south = boxes[:, :2].min(axis=0)
    east, north = boxes[:, 2:].max(axis=0)
    own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return float(own.sum() / max((east - west) * (north - south), np.finfo(float).tiny))


def _count(chips: Sequence[QaChip], split: str) -> int:
    return sum(chip.split == split for chip in chips)


def _rgb(colour: str) -> tuple[int, int, int]:
    number = int(colour[1:], 16)
    return number >> 16, number >> 8 & 255, number & 255
