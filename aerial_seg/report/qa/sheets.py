"""The contact sheets: chips with their labels, as many as one looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.geo.raster.values.byte_counts import byte_counts
from aerial_seg.legend import Legend
from aerial_seg.report.chip_sheet import Column, Pixels, Row, draw_sheet
from aerial_seg.report.colours import stored_colours
from aerial_seg.report.qa.chips import QaChip
from aerial_seg.report.qa.panels import PANEL, chip_panels, unlabelled_pattern, unmeasured_pattern

ReadChip: TypeAlias = Callable[[str], tuple[NDArray[np.generic], NDArray[np.bool_], Pixels]]
"""By a chip's name its image (C,H,W), valid (H,W), and labels (H,W) as channels, 255 = unlabelled."""
_COLUMNS = 2
_NAMED = 4
_CELL = 8
"""Pixels by which a window is moved: memory stays small beside a large chip."""
_PANELS = ("image", "labels", "both")
_DARK, _BRIGHT = 0.25, 0.4
"""Of white: a mean below the first is raised to the second."""


@dataclass(frozen=True, slots=True)
class ContactRow:
    """Hold one chip as a sheet shows it, and the channels that are seen there."""

    row: Row
    channels: frozenset[int]


def contact_rows(
    chosen: Sequence[tuple[QaChip, int | None]],
    *,
    read: ReadChip,
    bands: Sequence[Band],
    legend: Legend,
    threads: int = 1,
) -> list[ContactRow]:
    """A row for each. With a channel a chip is shown at full size where it holds most of that class.

    A chip that comes twice is read once, and no more than one for each of the threads, which all read, is in memory.
    """
    wanted: dict[str, tuple[QaChip, list[int | None]]] = {}
    for chip, channel in chosen:
        wanted.setdefault(chip.name, (chip, []))[1].append(channel)
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda one: _rows(one[0], one[1], read, bands, legend), wanted.values())
        by_chip = dict(zip(wanted, found, strict=True))
    return [by_chip[chip.name][channel] for chip, channel in chosen]


def draw_contact_sheet(chosen: Sequence[ContactRow], path: Path, *, legend: Legend, title: str) -> None:
    """PNG of these chips."""
    rows = [one.row for one in chosen]
    shown = frozenset[int]().union(*(one.channels for one in chosen))
    deep = max(1, -(-len(rows) // _COLUMNS))
    columns = [Column("", _PANELS, rows[first : first + deep]) for first in range(0, len(rows), deep)]
    more = (
        (unlabelled_pattern(14, 16), "unlabelled (255)"),
        (unmeasured_pattern(14, 16), "not measured (nodata)"),
    )
    draw_sheet(columns, shown, legend, path, title=title, more=more)


def _rows(
    chip: QaChip, ways: Sequence[int | None], read: ReadChip, bands: Sequence[Band], legend: Legend
) -> dict[int | None, ContactRow]:
    """By a channel, or None for the whole, the chip's row."""
    image, valid, channels = read(chip.name)
    caption = f"{chip.split} · {chip.name} · {_shares(chip, channels.size, legend)}"
    found: dict[int | None, ContactRow] = {}
    for channel in ways:
        if found and max(channels.shape) <= PANEL:
            found[channel] = next(iter(found.values()))  # either way it is shown whole
            continue
        rows, cols = slice(None), slice(None)
        if channel is not None:
            rows, cols = fullest_window(channels == channel, side=PANEL)
        part, measured, labels = image[:, rows, cols], valid[rows, cols], channels[rows, cols]
        seen = _brightened(stored_colours(part, measured, bands), bands)
        panels = chip_panels(seen, measured, labels, legend)
        present = frozenset(np.flatnonzero(byte_counts(labels)).tolist())
        found[channel] = ContactRow(Row(caption, panels), present)
    return found


def _brightened(picture: Pixels, bands: Sequence[Band]) -> Pixels:
    """Dark 8-bit imagery, as of water, so that one sees what is there; the curve is the same for a whole dataset."""
    level = float(np.mean([band.mean for band in bands])) / 255
    if any(band.dtype != "uint8" for band in bands) or not 0 < level < _DARK:
        return picture
    curve = np.rint(255 * (np.arange(256) / 255) ** (np.log(_BRIGHT) / np.log(level))).astype(np.uint8)
    brightened: Pixels = curve[picture]
    return brightened


def _shares(chip: QaChip, size: int, legend: Legend) -> str:
    """Per cent of the chip's pixels by class, the largest first, and of those without any."""
    order = sorted(np.flatnonzero(chip.counts).tolist(), key=lambda k: -int(chip.counts[k]))
    told = [f"{legend.entries[k].name} {_percent(chip.counts[k], size)}" for k in order[:_NAMED]]
    told += (
        [f"{others} more class{'es' if others > 1 else ''}"] if (others := len(order) - _NAMED) > 0 else []
    )
    unlabelled, unmeasured = chip.valid - int(chip.counts.sum()), size - chip.valid
    told += [f"unlabelled {_percent(unlabelled, size)}"] if unlabelled > 0 else []
    told += [f"not measured {_percent(unmeasured, size)}"] if unmeasured > 0 else []
    return ", ".join(told)


def _percent(part: int | np.integer, whole: int) -> str:
    return f"{100 * int(part) / whole:.2g} %" if part < whole else "100 %"


def fullest_window(where: NDArray[np.bool_], *, side: int) -> tuple[slice, slice]:
    """Rows and columns of a window no longer than `side` that holds most of the pixels where it is True."""
    height, width = where.shape
    tall, wide = min(side, height), min(side, width)
    cells = np.add.reduceat(where, np.arange(0, height, _CELL), axis=0, dtype=np.int32)
    cells = np.add.reduceat(cells, np.arange(0, width, _CELL), axis=1, dtype=np.int64)
    # Sums of all windows of so many cells, from those of the rectangles that begin in the corner.
    deep, across = (max(1, min(side // _CELL, count)) for count in cells.shape)
    above = np.pad(cells.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    held = above[deep:, across:] - above[:-deep, across:] - above[deep:, :-across] + above[:-deep, :-across]
    row, column = np.unravel_index(int(held.argmax()), held.shape)
    top, left = min(int(row) * _CELL, height - tall), min(int(column) * _CELL, width - wide)
    return slice(top, top + tall), slice(left, left + wide)
