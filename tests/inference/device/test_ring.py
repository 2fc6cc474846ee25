"""Tiles that are cut on a device hold, bit for bit, what numpy makes of the raster's own windows."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.bands import Band, normalise
from aerial_seg.inference.device.feed import FedRows
from aerial_seg.inference.device.held_valid import HeldValid
from aerial_seg.inference.device.pixels import carrier_type
from aerial_seg.inference.device.ring import DeviceRing, mirrored_window
from aerial_seg.models.device import CpuTransfer

CPU = torch.device("cpu")


def band(number: int) -> Band:
    return Band(name=f"b{number}", dtype="uint16", mean=1000 + 7.3 * number, std=333.3 + number, p2=0, p98=1)


def fed(image: np.ndarray, valid: np.ndarray, rows: range) -> FedRows:
    """As a RowFeed gives them."""
    part = slice(rows.start, rows.stop)
    rows_of_it = image[:, part].transpose(1, 2, 0)
    pixels = torch.empty(rows_of_it.shape, dtype=carrier_type(str(image.dtype)))
    pixels.numpy().view(image.dtype)[:] = rows_of_it
    if valid[part].all():
        return FedRows(rows, pixels, None, None)
    return FedRows(rows, pixels, torch.from_numpy(valid[part].astype(np.uint8)), valid[part])


@settings(max_examples=examples(80), deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    side=st.integers(1, 24),
    step=st.integers(1, 24),
    halo=st.integers(0, 9),
    part=st.integers(1, 9),
    empty=st.sampled_from(["nothing", "some", "the north"]),
    picked=st.sampled_from([(0, 1, 2), (2, 0), (1, 1, 0, 2)]),
    seed=st.integers(0, 99),
)
def test_tiles_are_normalised_and_mirrored_as_numpy_does_it(
    height: int,
    width: int,
    side: int,
    step: int,
    halo: int,
    part: int,
    empty: str,
    picked: tuple[int, ...],
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, 2**16, (3, height, width), dtype=np.uint16)
    valid = np.ones((height, width), np.bool_)
    if empty == "some":
        valid = random.random((height, width)) < 0.7
    elif empty == "the north":
        valid[: height // 2] = False
    planes = [(number, band(place)) for place, number in enumerate(picked)]
    ring = DeviceRing(
        3, range(width), rows=side, dtype="uint16", planes=planes, transfer=CpuTransfer(), device=CPU
    )
    lefts = range(-min(halo, side - 1), width, step)
    across = torch.from_numpy(np.stack([mirrored_window(left, side, width) for left in lefts]))
    held = 0
    for top in range(-min(halo, side - 1), height, step):
        rows = range(max(0, top), min(top + side, height))
        held = max(held, rows.start)
        while held < rows.stop:
            stop = min(held + part, rows.stop)
            ring.place(fed(image, valid, range(held, stop)))
            held = stop
        shown = mirrored_window(top, side, height)
        tiles = ring.cut(shown, ring.slots_of(shown), across)
        assert tiles.permute(0, 2, 3, 1).is_contiguous()
        for left, tile in zip(lefts, tiles.numpy(), strict=True):
            cols = range(max(0, left), min(left + side, width))
            window = np.s_[rows.start : rows.stop, cols.start : cols.stop]
            own = normalise(
                image[list(picked)][:, *window], valid[window], [statistics for _, statistics in planes]
            )
            beyond = (
                (rows.start - top, top + side - rows.stop),
                (cols.start - left, left + side - cols.stop),
            )
            np.testing.assert_array_equal(tile, np.pad(own, ((0, 0), *beyond), mode="symmetric"))


@settings(max_examples=examples(80), deadline=None)
@given(data=st.data(), width=st.integers(1, 20), height=st.integers(1, 30), seed=st.integers(0, 99))
def test_held_rows_tell_tiles_and_finished_rows_what_was_measured(
    data: st.DataObject, width: int, height: int, seed: int
) -> None:
    """Whatever order both ask in, each moving south; rows that were not read count as not measured."""
    random = np.random.default_rng(seed)
    valid = random.random((height, width)) < random.choice([0.05, 0.5, 1.0])
    left = data.draw(st.integers(0, width - 1))
    kept = slice(left, data.draw(st.integers(left + 1, width)))
    held, reading, tiles, finished = HeldValid(width, kept, finished=True), 0, 0, 0
    known = np.zeros_like(valid)
    while finished < height:
        action = data.draw(st.sampled_from(["read", "leave out", "tiles", "finished"]))
        if action in ("read", "leave out") and reading < height:
            rows = range(reading, data.draw(st.integers(reading + 1, height)))
            reading, part = rows.stop, slice(rows.start, rows.stop)
            if action == "read":
                known[part] = valid[part]
                held.add(rows, None if valid[part].all() else valid[part])
        elif action == "tiles" and tiles < reading:
            tiles = data.draw(st.integers(tiles, reading - 1))
            rows = range(tiles, data.draw(st.integers(tiles + 1, reading)))
            np.testing.assert_array_equal(
                held.measured_columns(rows), known[rows.start : rows.stop].any(axis=0)
            )
        elif action == "finished" and finished < reading:
            rows = range(finished, data.draw(st.integers(finished + 1, reading)))
            finished = rows.stop
            check(held.take(rows), known[rows.start : rows.stop], kept)
        elif reading == height:
            rows = range(finished, height)
            check(held.take(rows), known[rows.start : rows.stop], kept)
            break


def check(taken: np.ndarray | None, known: np.ndarray, kept: slice) -> None:
    """None says that all is measured."""
    if taken is None:
        assert known[:, kept].all()
    else:
        np.testing.assert_array_equal(taken, known[:, kept])


def test_held_rows_are_forgotten_when_nobody_needs_them() -> None:
    held = HeldValid(8, slice(0, 8), finished=True)
    for row in range(1000):
        held.add(range(row, row + 1), np.zeros((1, 8), np.bool_))
        held.measured_columns(range(max(0, row - 9), row + 1))
        held.take(range(max(0, row - 19), max(0, row - 19) + 1))
    assert len(held._rows) == 20
