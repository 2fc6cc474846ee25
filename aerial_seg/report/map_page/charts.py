"""Charts as SVG that takes its colours from the page: bars, intervals, lines, and how true probabilities are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aerial_seg.report.map_page.html import text

_ROW, _LEFT, _WIDTH = 26, 170, 720
_LONGEST_LABEL = 24
_PLOT = (640, 300)
_MARGIN = 52


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: its name, its length, its colour, what is written at its end, and the ends of its interval."""

    name: str
    value: float
    colour: str
    shown: str
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart: points (x, y), and the CSS class that says how it is drawn."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str


def bars(title: str, rows: Sequence[Bar], *, most: float | None = None) -> str:
    """Horizontal bars from 0; most: where the axis ends, by default at the longest."""
    ends = [end for row in rows for end in (row.value, row.high) if math.isfinite(end)]
    whole = most or max([*ends, 0.0]) or 1.0
    room = _WIDTH - _LEFT - 130
    height = _ROW * len(rows) + 8
    parts = [_begin(title, _WIDTH, height)]
    for k, row in enumerate(rows):
        top = _ROW * k + 5
        middle = top + (_ROW - 8) / 2
        label = row.name if len(row.name) <= _LONGEST_LABEL else row.name[: _LONGEST_LABEL - 1] + "…"
        parts.append(
            f'<text class="label" x="{_LEFT - 8}" y="{middle + 4:g}" text-anchor="end">{text(label)}</text>'
        )
        length = room * _inside(row.value / whole)
        parts.append(
            f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="{_ROW - 8}" fill="{text(row.colour)}">'
            f"<title>{text(row.name)}: {text(row.shown)}</title></rect>"
        )
        end = length
        if math.isfinite(row.low) and math.isfinite(row.high):
            low, high = (_LEFT + room * _inside(one / whole) for one in (row.low, row.high))
            parts.append(
                f'<path class="whisker" d="M{low:.1f} {middle:g}H{high:.1f}M{low:.1f} {middle - 4:g}v8M{high:.1f} '
                f'{middle - 4:g}v8"/>'
            )
            end = max(end, high - _LEFT)
        parts.append(f'<text x="{_LEFT + end + 6:.1f}" y="{middle + 4:g}">{text(row.shown)}</text>')
    return "".join([*parts, "</svg>"])


def lines(title: str, shown: Sequence[Line], *, across: str, up: str, log: bool = False) -> str:
    """Lines over one axis. across, up: what the axes are. log: whether the upper one is logarithmic."""
    points = [point for line in shown for point in line.points if _drawn(point, log)]
    if not points:
        return ""
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = (end(_up(p[1], log) for p in points) for end in (min, max))
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)
    width, height = _PLOT
    parts = [_begin(title, width, height)]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        right = _MARGIN + (point[0] - x0) / (x1 - x0) * (width - _MARGIN - 16)
        return right, height - 40 - (_up(point[1], log) - y0) / (y1 - y0) * (height - 60)

    for k in range(5):
        level = y0 + (y1 - y0) * k / 4
        y = height - 40 - (height - 60) * k / 4
        shown_level = 10**level if log else level
        parts.append(f'<path class="grid" d="M{_MARGIN} {y:.1f}H{width - 16}"/>')
        parts.append(f'<text x="{_MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{shown_level:.3g}</text>')
        x = _MARGIN + (width - _MARGIN - 16) * k / 4
        parts.append(
            f'<text x="{x:.1f}" y="{height - 22}" text-anchor="middle">{x0 + (x1 - x0) * k / 4:,.4g}</text>'
        )
    for line in shown:
        places = [place(point) for point in line.points if _drawn(point, log)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="line {line.style}" d="{path}"><title>{text(line.name)}</title></path>')
    parts.append(f'<text x="{width / 2:g}" y="{height - 4}" text-anchor="middle">{text(across)}</text>')
    parts.append(f'<text x="4" y="12">{text(up)}</text>')
    return "".join([*parts, "</svg>"])


def reliability(title: str, bins: Sequence[tuple[float, float, int]]) -> str:
    """The share of right pixels against the stated probability; bins: stated, right, pixels."""
    width, height = 400, 400
    side = 320

    def place(x: float, y: float) -> tuple[float, float]:
        return 56 + x * side, 24 + (1 - y) * side

    largest = max((pixels for _, _, pixels in bins), default=1)
    parts = [_begin(title, width, height)]
    for k in range(6):
        level = k / 5
        x, y = place(level, level)
        parts.append(f'<path class="grid" d="M56 {y:.1f}H{56 + side}M{x:.1f} 24V{24 + side}"/>')
        parts.append(f'<text x="50" y="{y + 4:.1f}" text-anchor="end">{level:.1f}</text>')
        parts.append(f'<text x="{x:.1f}" y="{24 + side + 16}" text-anchor="middle">{level:.1f}</text>')
    parts.append(
        f'<path class="line dashed" d="M56 {24 + side}L{56 + side} 24"><title>as stated</title></path>'
    )
    drawn = [place(stated, right) for stated, right, _ in bins]
    if drawn:
        parts.append('<path class="line first" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in drawn) + '"/>')
    for (x, y), (stated, right, pixels) in zip(drawn, bins, strict=True):
        radius = 3 + 7 * math.sqrt(pixels / largest)
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
            f"<title>stated {stated:.3f}, right {right:.3f}, {pixels:,} px</title></circle>"
        )
    parts.append(
        f'<text x="{56 + side / 2:g}" y="{height - 8}" text-anchor="middle">stated probability</text>'
    )
    parts.append('<text x="4" y="14">share that is right</text>')
    return "".join([*parts, "</svg>"])


def _begin(title: str, width: int, height: int) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="{text(title)}">'
    )


def _inside(share: float) -> float:
    return min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0


def _drawn(point: tuple[float, float], log: bool) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1]) and (not log or point[1] > 0)


def _up(value: float, log: bool) -> float:
    return math.log10(value) if log else value
