"""Rows of a raster in chunks of fixed height, whatever pieces they come in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from aerial_seg.numba_kernels import Bytes
from aerial_seg.polygonize.batch import CHUNK_ROWS, Codes

Rows = Iterable[tuple[Codes, Bytes | None]]
"""Class codes (h, W) uint16 and stored confidence (h, W) uint8 or None, from north to south, pieces of any height."""


def in_row_chunks(rows: Rows, height: int = CHUNK_ROWS) -> Iterator[tuple[Codes, Bytes | None]]:
    """The same rows in chunks of `height`, the last one shorter."""
    held: list[tuple[Codes, Bytes | None]] = []
    have = 0
    for codes, levels in rows:
        start = 0
        while start < len(codes):
            stop = min(len(codes), start + height - have)
            held.append((codes[start:stop], None if levels is None else levels[start:stop]))
            have, start = have + stop - start, stop
            if have == height:
                yield _whole(held)
                held, have = [], 0
    if held:
        yield _whole(held)


def _whole(pieces: list[tuple[Codes, Bytes | None]]) -> tuple[Codes, Bytes | None]:
    levels = [piece for _, piece in pieces if piece is not None]
    codes = np.ascontiguousarray(np.concatenate([codes for codes, _ in pieces]))
    return codes, np.ascontiguousarray(np.concatenate(levels)) if levels else None
