"""A sheet of chips: columns of rows of small pictures side by side, and a key of the classes' colours below."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from aerial_seg.legend import IGNORE, Legend

Pixels = NDArray[np.uint8]
Swatch = tuple[int, int, int] | Pixels
"""What the key shows of something: its colour, or a piece (14,16,3) of its pattern."""

SIDE = 256
"""Pixels of the longer side of a panel."""
_GAP, _LINE, _KEY = 6, 20, 26
_NARROWEST = 120
"""Of a panel's place: captions stand above two of them at least."""
_NAMED_CLASSES = 24


@dataclass(frozen=True, slots=True)
class Row:
    """One chip: what is said of it, and its panels (H,W,3) of one size."""

    caption: str
    panels: Sequence[Pixels]


@dataclass(frozen=True, slots=True)
class Column:
    """Chips below each other. names: of their panels."""

    title: str
    names: Sequence[str]
    rows: Sequence[Row]


def draw_sheet(
    columns: Sequence[Column],
    shown: Collection[int],
    legend: Legend,
    path: Path,
    *,
    title: str,
    more: Sequence[tuple[Swatch, str]] = (),
) -> None:
    """PNG of the columns that hold rows. shown: the channels that the key names; more: its other colours."""
    columns = [column for column in columns if column.rows]
    steps = [_panel_width(column) + _GAP for column in columns]
    widths = [len(column.names) * step for column, step in zip(columns, steps, strict=True)]
    key = _key(shown, legend, sum(widths) + _GAP, more)
    depths = [sum(_LINE + _depth(row) + _GAP for row in column.rows) for column in columns]
    whole = Image.new("RGB", (key.width, 3 * _LINE + max(depths, default=0) + key.height), "white")
    write = ImageDraw.Draw(whole)
    write.text((_GAP, 2), _shortened(title, key.width - _GAP, _font(14)), fill="black", font=_font(14))
    left = _GAP
    for column, width, step in zip(columns, widths, steps, strict=True):
        write.text((left, _LINE + 2), column.title, fill="black", font=_font(13))
        for k, name in enumerate(column.names):
            write.text((left + k * step, 2 * _LINE + 2), name, fill="#666666", font=_font(12))
        top = 3 * _LINE
        for row in column.rows:
            told = _shortened(row.caption, width - _GAP, _font(12))
            write.text((left, top + 2), told, fill="black", font=_font(12))
            for k, panel in enumerate(row.panels):
                whole.paste(Image.fromarray(panel), (left + k * step, top + _LINE))
            top += _LINE + _depth(row) + _GAP
        left += width
    whole.paste(key, (0, whole.height - key.height))
    whole.save(path, format="PNG", compress_level=1)


def _panel_width(column: Column) -> int:
    return max(_NARROWEST, *(int(panel.shape[1]) for row in column.rows for panel in row.panels))


def _depth(row: Row) -> int:
    return max(len(panel) for panel in row.panels)


def smaller(image: Pixels, *masks: Pixels, side: int = SIDE) -> tuple[Pixels, ...]:
    """Image (H,W,3) and masks (H,W) no longer than `side`: the image averaged, of the masks some pixels."""
    height, width = image.shape[:2]
    zoom = side / max(height, width)
    if zoom >= 1:
        return image, *masks
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    thinned = [np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in masks]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)), *thinned


def channel_colours(legend: Legend) -> Pixels:
    """Look-up table (256,3): channel to RGB; 255 and what is no class is black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(legend)] = [entry.rgb for entry in legend.entries]
    return colours


def _key(
    shown: Collection[int], legend: Legend, width: int, more: Sequence[tuple[Swatch, str]]
) -> Image.Image:
    """The colours' names, in as many lines of this width as they need."""
    present = sorted(set(shown) - {IGNORE})
    entries: list[tuple[Swatch, str]] = [
        (legend.entries[k].rgb, legend.entries[k].name) for k in present[:_NAMED_CLASSES]
    ]
    if len(present) > _NAMED_CLASSES:
        entries.append(((0, 0, 0), f"and {len(present) - _NAMED_CLASSES} more classes"))
    entries += more
    font = _font(12)
    places, left, line = [], _GAP, 0
    for _, name in entries:
        wide = round(font.getlength(name)) + 40
        if left + wide > width and left > _GAP:
            left, line = _GAP, line + 1
        places.append((left, line * _KEY))
        left += wide
    key = Image.new("RGB", (width, (line + 1) * _KEY), "white")
    write = ImageDraw.Draw(key)
    for (colour, name), (x, y) in zip(entries, places, strict=True):
        if isinstance(colour, np.ndarray):
            key.paste(Image.fromarray(colour[:14, :16]), (x, y + 5))
        flat = None if isinstance(colour, np.ndarray) else colour
        write.rectangle((x, y + 5, x + 16, y + 19), fill=flat, outline="#444444")
        write.text((x + 22, y + 5), name, fill="black", font=font)
    return key


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text with an ellipsis in its middle if it is wider than so many pixels: a name's end tells chips apart."""
    kept = len(text)
    told = text
    while font.getlength(told) > width and kept > 2:
        kept -= max(1, kept // 20)
        ahead = kept // 3
        told = f"{text[:ahead]}…{text[len(text) - (kept - ahead) :]}"
    return told


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own font: it ships with it and knows most alphabets."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
