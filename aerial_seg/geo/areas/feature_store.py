"""Polygons on disk, found by where they lie: what is kept in memory of a feature is a fraction of a byte."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

from aerial_seg.errors import OutputError
from aerial_seg.files.operating_system import forget_pages

Geometries = NDArray[np.object_]
Boxes = NDArray[np.float64]
Choose: TypeAlias = Callable[[Boxes], tuple[NDArray[np.int64], NDArray[np.float64]]]
"""From boxes (n, 4) to those that are wanted: their rows (k,), ascending, and how far x moves there (k,)."""

_RECORD = np.dtype(
    [
        ("box", np.float64, 4),
        ("begin", np.int64),
        ("size", np.int64),
        ("place", np.int64),
        ("fid", np.int64),
        ("code", np.int32),
    ]
)
_BLOCK = 256
"""Features that lie near each other, of which memory holds one box: an eighth of a byte of each."""
_BLOCKS_AT_ONCE = 128
"""That are looked through together: two megabytes, should all of them be near."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Features that were found, in the order in which they lie on top of each other: the last one is the topmost.

    geometries: (k,) polygons. moves: (k,) how far x moves; with moves one may be there twice. codes, fids: (k,).
    """

    geometries: Geometries
    moves: NDArray[np.float64]
    codes: NDArray[np.int32]
    fids: NDArray[np.int64]


class FeatureStore:
    """Polygons with a code and a number each in two files without a name, in blocks of such as lie near each other."""

    def __init__(self) -> None:
        self._shapes, self._table = _Pages(), _Pages()
        self._boxes: list[Boxes] = []
        self._blocks = np.zeros((0, 4))
        self._ends = np.zeros(1, np.int64)
        self._sizes: list[int] = []
        self._count = 0
        self._order = "place"

    def add(
        self, geometries: Geometries, boxes: Boxes, codes: NDArray[np.int32], fids: NDArray[np.int64]
    ) -> None:
        """These (n,) come after those that are there. boxes: (n, 4) west, south, east, north of each."""
        order = _side_by_side(boxes)
        wkb = shapely.to_wkb(geometries[order])
        rows = np.zeros(len(order), _RECORD)
        rows["box"], rows["code"], rows["fid"] = boxes[order], codes[order], fids[order]
        rows["size"] = np.fromiter(map(len, wkb), np.int64, len(wkb))
        rows["begin"] = self._shapes.length + np.cumsum(rows["size"]) - rows["size"]
        rows["place"] = self._count + order
        self._count += len(order)
        self._shapes.append(b"".join(wkb))
        self._table.append(rows.tobytes())
        if len(rows):
            begins = np.arange(0, len(rows), _BLOCK)
            low = np.minimum.reduceat(rows["box"][:, :2], begins)
            high = np.maximum.reduceat(rows["box"][:, 2:], begins)
            self._boxes.append(np.hstack([low, high]))
            self._sizes += np.diff(np.append(begins, len(rows))).tolist()

    def close(self, *, by_fid: bool) -> None:
        """No more will come. by_fid: they came in any order, and lie on top of each other in that of their numbers."""
        if self._boxes:
            self._blocks = np.concatenate(self._boxes)
            self._ends = np.append(0, np.cumsum(self._sizes))
        self._boxes, self._sizes = [], []
        self._order = "fid" if by_fid else "place"
        self._shapes.close()
        self._table.close()

    def any(self, choose: Choose) -> bool:
        """Whether a feature's box is chosen."""
        return any(len(rows) for rows, _ in self._chosen(choose))

    def find(self, choose: Choose) -> Stored:
        """The features whose boxes are chosen. Several threads may ask at once."""
        parts = list(self._chosen(choose))
        if not parts:
            rows, moves = np.zeros(0, _RECORD), np.zeros(0)
        else:
            rows, moves = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(rows[self._order], kind="stable")
        rows, moves = rows[order], moves[order]
        return Stored(
            self._geometries(rows),
            moves,
            np.ascontiguousarray(rows["code"]),
            np.ascontiguousarray(rows["fid"]),
        )

    def _chosen(self, choose: Choose) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
        """Records (k,) whose boxes are chosen, and their moves (k,)."""
        near = np.unique(choose(self._blocks)[0])
        if not len(near):
            return
        table = np.frombuffer(self._table.content, _RECORD)
        try:
            for run in np.split(near, np.flatnonzero(np.diff(near) > 1) + 1):
                for first in range(0, len(run), _BLOCKS_AT_ONCE):
                    some = run[first : first + _BLOCKS_AT_ONCE]
                    part = table[self._ends[some[0]] : self._ends[some[-1] + 1]]
                    rows, moves = choose(part["box"])
                    yield part[rows], moves
        finally:
            self._table.forget()

    def _geometries(self, rows: NDArray[Any]) -> Geometries:
        content = self._shapes.content
        out = np.full(len(rows), None, object)
        ends = (rows["begin"] + rows["size"]).tolist()
        out[:] = [content[a:b] for a, b in zip(rows["begin"].tolist(), ends, strict=True)]
        self._shapes.forget()
        found: Geometries = shapely.from_wkb(out)
        return found


class _Pages:
    """Bytes that are written once and then read from the disk wherever one looks."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._map: mmap.mmap | None = None
        self.length = 0

    def append(self, content: bytes) -> None:
        try:
            self._file.write(content)
        except OSError as error:
            raise _full(error) from error
        self.length += len(content)

    def close(self) -> None:
        """No more will come."""
        with self._file:
            self._file.flush()
            if self.length:
                self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    @property
    def content(self) -> mmap.mmap | bytes:
        return b"" if self._map is None else self._map

    def forget(self) -> None:
        """Pages that were looked at count as this process's memory until it says that it is done with them."""
        if self._map is not None:
            forget_pages(self._map)


def _full(error: OSError) -> OutputError:
    return OutputError(
        f"the folder for temporary files, {tempfile.gettempdir()}, takes no more ({error.strerror or error}): "
        "labels are kept there while they are used; free some room, or name another folder with TMPDIR"
    )


def _side_by_side(boxes: Boxes) -> NDArray[np.int64]:
    """An order (n,) of boxes (n, 4) in which blocks of neighbours lie near each other: strips, from west to east."""
    x, y = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    blocks = -(-len(boxes) // _BLOCK)
    strips = max(1, round(blocks**0.5))
    strip = np.empty(len(boxes), np.int64)
    strip[np.argsort(y, kind="stable")] = np.arange(len(boxes)) * strips // max(1, len(boxes))
    return np.lexsort((x, strip))
