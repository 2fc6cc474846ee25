"""Pieces of a page: text that is never markup, and tables that can be copied as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from aerial_seg.printable import printable


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table. shown: what is read. value: what is copied, where that is another text.

    colour: #rrggbb of a swatch before it. shade: 0 to 1, how dark its ground is. place: number of a place on the map,
    which a button in the cell goes to.
    """

    shown: str
    value: str | None = None
    colour: str | None = None
    shade: float | None = None
    place: int | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: its anchor, its heading and its HTML."""

    anchor: str
    title: str
    html: str


def text(value: object) -> str:
    """The value as a browser is to show it: names come from outside, and nothing in them is markup."""
    return escape(printable(str(value), lines=False), quote=True)


def number(value: float, digits: int = 3) -> Cell:
    """A number rounded for reading, whole for copying; a dash for NaN."""
    if math.isnan(value):
        return Cell("–", "")
    return Cell(f"{value:,.{digits}f}", repr(value))


def count(value: int) -> Cell:
    """A whole number."""
    return Cell(f"{value:,}", str(value))


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[Cell | str]], *, caption: str = "") -> str:
    """A table with a button that copies it as CSV. name: of it, for that button."""
    lines = [
        '<div class="table"><div class="scroll"><table>',
        *([f"<caption>{text(caption)}</caption>"] if caption else []),
        "<thead><tr>" + "".join(f'<th scope="col">{text(one)}</th>' for one in head) + "</tr></thead><tbody>",
    ]
    for row in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        lines.append(
            "<tr>" + _cell(cells[0], "th") + "".join(_cell(cell, "td") for cell in cells[1:]) + "</tr>"
        )
    lines += [
        "</tbody></table></div>",
        f'<button type="button" class="copy" aria-label="Copy as CSV: {text(name)}">Copy as CSV</button></div>',
    ]
    return "\n".join(lines)


def _cell(cell: Cell, tag: str) -> str:
    attributes = ' scope="row"' if tag == "th" else ""
    if cell.value is not None:
        attributes += f' data-value="{text(cell.value)}"'
    if cell.shade is not None:
        share = 0.55 * min(1.0, max(0.0, cell.shade))
        attributes += f' style="background:rgba(213,94,0,{share:.2f})"'
    swatch = (
        "" if cell.colour is None else f'<span class="swatch" style="background:{text(cell.colour)}"></span>'
    )
    inside = text(cell.shown)
    if cell.place is not None:
        inside = f'<button type="button" class="go" data-place="{cell.place}">{inside}</button>'
    return f"<{tag}{attributes}>{swatch}{inside}</{tag}>"


def with_table(chart: str, behind: str) -> str:
    """A chart, and the table behind it, which opens."""
    return f"<figure>{chart}<details><summary>The numbers</summary>{behind}</details></figure>"


def notes(told: Sequence[str]) -> str:
    """Remarks as a list; nothing where there are none."""
    if not told:
        return ""
    return '<ul class="notes">' + "".join(f"<li>{text(one)}</li>" for one in told) + "</ul>"
