"""What it costs to turn tiles' logits into classes: normalise, stitch, upsample, argmax; milliseconds per megapixel.

    python tests/speed/stitch.py [--rounds 7] [--json FILE]

512 tiles with step 384 and logit stride 8, on one thread; compilation excluded. "Smooth" logits are what networks give:
fields that change over some 16 cells, so that most neighbouring cells agree and classes meet along borders. "Noise" is
the worst case: no two cells agree. The rows with confidence also make its layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
from machine import facts
from numpy.typing import NDArray

from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import Tile, TilePart, TilePlan, tile_shape
from aerial_seg.tiling.stitch import SwathStitcher
from aerial_seg.tiling.upsample import PixelAxis, RowUpsampler

GEOMETRY = ModelGeometry(output_stride=8, logit_stride=8, origin_step=8)
TILES_ACROSS = 6
BARS = {6: 1.5, 150: 6.0}
"""Milliseconds per megapixel on smooth logits, at this number of classes."""

Floats = NDArray[np.float32]


def smooth_logits(cells: int, classes: int, *, scale: int) -> Floats:
    """(cells, cells, classes): random values every `scale` cells, cubically between them, and a little noise."""
    random = np.random.default_rng(0)
    between = _cubic(cells, scale)
    coarse = random.normal(0, 4, (between.shape[1], between.shape[1], classes))
    fields = np.einsum("ia,jb,abk->ijk", between, between, coarse, optimize=True)
    return (fields + random.normal(0, 0.05, fields.shape)).astype(np.float32)


def _cubic(cells: int, scale: int) -> NDArray[np.float64]:
    """The matrix (cells, knots) of a Catmull-Rom spline with a knot every `scale` cells."""
    knots = cells // scale + 4
    at = np.arange(cells) / scale
    low, t = at.astype(int), at % 1
    weights = (
        np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]) / 2
    )
    matrix = np.zeros((cells, knots))
    for k in range(4):
        matrix[np.arange(cells), low + k] = weights[k]
    return matrix


def noise_logits(cells: int, classes: int) -> Floats:
    """(cells, cells, classes) of independent values."""
    return np.random.default_rng(0).normal(0, 4, (cells, cells, classes)).astype(np.float32)


def agreement(logits: Floats) -> float:
    """The share of squares whose four corners have one class."""
    best = logits.argmax(axis=2)
    same = (
        (best[1:, 1:] == best[:-1, 1:]) & (best[1:, 1:] == best[1:, :-1]) & (best[1:, 1:] == best[:-1, :-1])
    )
    return float(same.mean())


class Case:
    """A square raster of 6 × 6 tiles, its tiles' logits at hand as a network would give them."""

    def __init__(self, name: str, logits: Floats, plan: TilePlan, *, confidence: bool = False) -> None:
        self.name, self.classes, self.agreement = name, logits.shape[2], agreement(logits)
        self._plan, self._confidence = plan, confidence
        side, stride = GEOMETRY.cells(plan.shape.side), GEOMETRY.logit_stride
        self._tiles: list[list[tuple[Tile, Floats]]] = [
            [
                (tile, logits[top : top + side, left : left + side].copy())
                for tile in plan.tiles_of_row(row)
                for top, left in [(tile.core_top // stride, tile.core_left // stride)]
            ]
            for row in range(len(plan.rows.origins))
        ]

    def seconds(self) -> float:
        """How long one raster takes."""
        rows, cols = (
            PixelAxis.of(GEOMETRY, run=a.length, pixels=a.length) for a in (self._plan.rows, self._plan.cols)
        )
        start = time.perf_counter()
        stitcher = SwathStitcher(TilePart.whole(self._plan), classes=self.classes)
        upsampler = RowUpsampler(rows, cols, confidence=self._confidence)
        made = 0
        for tiles in self._tiles:
            for tile, logits in tiles:
                stitcher.add(tile, logits)
            made += sum(done.channels.size for done in upsampler.push(stitcher.close_row()))
        assert made == self._plan.rows.length * self._plan.cols.length
        return time.perf_counter() - start

    @property
    def megapixels(self) -> float:
        return self._plan.rows.length * self._plan.cols.length / 1e6


def cases() -> list[Case]:
    """Every row of the table."""
    shape = tile_shape(GEOMETRY, 512)
    length = shape.step * TILES_ACROSS
    plan = TilePlan.of(height=length, width=length, shape=shape)
    cells = GEOMETRY.cells(plan.rows.origins[-1] + shape.side)
    found = []
    for classes in BARS:
        smooth, noise = smooth_logits(cells, classes, scale=16), noise_logits(cells, classes)
        found += [
            Case(f"smooth, {classes} classes", smooth, plan),
            Case(f"noise, {classes} classes", noise, plan),
            Case(f"smooth, {classes} classes, confidence", smooth, plan, confidence=True),
        ]
    return found


def measure(rounds: int) -> list[dict[str, Any]]:
    """Medians of interleaved rounds, ms per megapixel."""
    table = cases()
    for case in table:
        case.seconds()  # compiles
    seconds: dict[str, list[float]] = {case.name: [] for case in table}
    for _ in range(rounds):
        for case in table:
            seconds[case.name].append(case.seconds())
    rows = []
    for case in table:
        per_megapixel = [1000 * s / case.megapixels for s in seconds[case.name]]
        bar = BARS[case.classes] if case.name == f"smooth, {case.classes} classes" else None
        rows.append({
            "case": case.name,
            "squares_that_agree": round(case.agreement, 3),
            "ms_per_mpx": round(statistics.median(per_megapixel), 2),
            "fastest": round(min(per_megapixel), 2),
            "bar": bar,
        })  # fmt: skip
    return rows


def main() -> None:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = {**facts(), "numba": numba.__version__}
    print(*(f"{name}: {value}" for name, value in machine.items()), sep="\n")
    rows = measure(options.rounds)
    for row in rows:
        bar = f"bar {row['bar']}" if row["bar"] else ""
        print(
            f"{row['case']:36} {row['ms_per_mpx']:8.2f} ms/Mpx (fastest {row['fastest']:.2f})  "
            f"{row['squares_that_agree']:.0%} of squares agree  {bar}"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "stitch": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
