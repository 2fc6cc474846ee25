"""What both carriers of the lattice cost: stitch, upsample, argmax; milliseconds per megapixel.

    python tests/speed/carriers.py [--device cpu|cuda] [--rounds 5] [--across 6] [--classes 6 21 150] [--json FILE]

512 tiles with step 384, logit strides 8 and 16, smooth logits (see stitch.py) that lie where the carrier wants them:
in the host's memory, channels last, or planar on the device in batches, where a network would leave them. Both are on
one thread. Rounds of all rows are interleaved, so that a machine that others share slows both carriers alike; `CPU` is
the process' own milliseconds in its fastest round, which others do not lengthen. On a GPU, `launching` is what the
host's thread needs until all is asked for, and `network` the share of the time of a network that makes 2,070 tiles
per second (DeepLabv3 R50 OS16, bf16, H200).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from machine import facts
from numpy.typing import NDArray
from stitch import smooth_logits
from torch import Tensor

from aerial_seg.inference.device.lattice import DeviceStitcher
from aerial_seg.inference.device.upsample import DeviceUpsampler
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import Tile, TilePart, TilePlan, tile_shape
from aerial_seg.tiling.stitch import SwathStitcher
from aerial_seg.tiling.upsample import PixelAxis, RowUpsampler

SIDE = 512
TILES_PER_SECOND = 2070
ROWS = 3
"""Rows of tiles: enough that most rows have a neighbour."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Seconds:
    """until: all is asked for. whole: all is there. cpu: of this process, until all is asked for."""

    until: float
    whole: float
    cpu: float


class Case:
    """A raster of ROWS × across tiles, its tiles' logits at hand."""

    def __init__(self, classes: int, stride: int, across: int) -> None:
        self.classes, self.stride = classes, stride
        self.geometry = ModelGeometry(output_stride=stride, logit_stride=stride, origin_step=stride)
        shape = tile_shape(self.geometry, SIDE)
        self.plan = TilePlan.of(height=shape.step * ROWS, width=shape.step * across, shape=shape)
        self.part = TilePart.whole(self.plan)
        self.axes = tuple(
            PixelAxis.of(self.geometry, run=axis.length, pixels=axis.length)
            for axis in (self.plan.rows, self.plan.cols)
        )
        side = self.geometry.cells(SIDE)
        field = smooth_logits(2 * side, classes, scale=16)
        # A few tiles take turns: logits of a whole row would not fit beside 150 classes.
        self.tiles = [field[at : at + side, at : at + side].copy() for at in range(0, side, side // 4)]

    @property
    def megapixels(self) -> float:
        return self.plan.rows.length * self.plan.cols.length / 1e6

    def rows(self) -> list[list[Tile]]:
        return [list(self.part.tiles_of_row(row)) for row in self.part.rows.tiles]

    def on_host(self, *, confidence: bool) -> Seconds:
        start, cpu = time.perf_counter(), time.process_time()
        stitcher = SwathStitcher(self.part, classes=self.classes)
        upsampler = RowUpsampler(*self.axes, confidence=confidence)
        for tiles in self.rows():
            for tile in tiles:
                stitcher.add(tile, self.tiles[tile.col % len(self.tiles)])
            for _ in upsampler.push(stitcher.close_row()):
                pass
        done = time.perf_counter() - start
        return Seconds(done, done, time.process_time() - cpu)

    def on_device(self, device: torch.device, batch: Tensor, *, confidence: bool) -> Seconds:
        wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        wait()
        start, cpu = time.perf_counter(), time.process_time()
        stitcher = DeviceStitcher(self.part, classes=self.classes, device=device)
        upsampler = DeviceUpsampler(*self.axes, confidence=confidence, device=device)
        for tiles in self.rows():
            for first in range(0, len(tiles), len(batch)):
                some = tiles[first : first + len(batch)]
                stitcher.add(some, batch[: len(some)])
            for _ in upsampler.push(stitcher.close_row()):
                pass
        until, cpu = time.perf_counter() - start, time.process_time() - cpu
        wait()
        return Seconds(until, time.perf_counter() - start, cpu)

    def batch(self, device: torch.device, size: int) -> Tensor:
        """Planar logits (size, K, n, n) on the device."""
        some = [self.tiles[at % len(self.tiles)].transpose(2, 0, 1) for at in range(size)]
        return torch.from_numpy(np.stack(some)).to(device)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians of interleaved rounds, all rows of the table in every round."""
    device = torch.device(options.device)
    cases = [Case(k, stride, options.across) for stride in options.strides for k in options.classes]
    seconds: dict[tuple[int, str, bool], list[Seconds]] = {}
    for turn in range(options.rounds + 1):
        for at, case in enumerate(cases):
            batch = case.batch(device, options.batch)
            for confidence in (False, True):
                host = case.on_host(confidence=confidence)
                there = case.on_device(device, batch, confidence=confidence)
                if turn:  # the first one compiles
                    seconds.setdefault((at, "host", confidence), []).append(host)
                    seconds.setdefault((at, "device", confidence), []).append(there)
    rows = []
    for (at, carrier, confidence), taken in seconds.items():
        case = cases[at]
        each = [1000 * s.whole / case.megapixels for s in taken]
        rows.append({
            "logit_stride": case.stride,
            "classes": case.classes,
            "confidence": confidence,
            "carrier": "numba" if carrier == "host" else f"torch on {device}",
            "ms_per_mpx": round(statistics.median(each), 3),
            "fastest": round(min(each), 3),
            "launching_ms_per_mpx": round(
                statistics.median(1000 * s.until / case.megapixels for s in taken), 3
            ),
            "cpu_ms_per_mpx": round(1000 * min(s.cpu for s in taken) / case.megapixels, 3),
            "network": round(statistics.median(each) / 1000 * TILES_PER_SECOND * 384**2 / 1e6, 3),
        })  # fmt: skip
    return rows


def main() -> None:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--across", type=int, default=6, help="tiles of a row")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, nargs="+", default=[6, 21, 150])
    parser.add_argument("--strides", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as numba's kernels
    machine = {**facts(), "numba": numba.__version__}
    if options.device != "cpu":
        machine["gpu"] = torch.cuda.get_device_name(options.device)
    print(*(f"{name}: {value}" for name, value in machine.items()), sep="\n")
    rows = measure(options)
    for row in rows:
        print(
            f"stride {row['logit_stride']:2}, {row['classes']:3} classes{', confidence' * row['confidence']:12}  "
            f"{row['carrier']:14} {row['ms_per_mpx']:9.3f} ms/Mpx (fastest {row['fastest']:.3f})  "
            f"CPU {row['cpu_ms_per_mpx']:.3f}  launching {row['launching_ms_per_mpx']:.3f}  "
            f"network {row['network']:.0%}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine, "carriers": rows}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
