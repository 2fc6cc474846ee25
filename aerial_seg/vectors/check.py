"""Whether a closed file holds all that was handed over: GDAL says nothing of what it lost when it closed the file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from aerial_seg.numba_kernels import Bytes, kernel
from aerial_seg.outputs.geopackage import indexed_features
from aerial_seg.vectors.formats import CSV, FLATGEOBUF, GEOJSON, GEOJSON_LINES, GPKG, VectorFormat

_PIECE = 1 << 24
_FGB_MAGIC, _FGB_NODE_BYTES = 8, 40
_FGB_NODE_SIZE, _FGB_USUAL_NODE = 9, 16
"""The header's field that says how many children a node of the index has (0: no index), and what it is unsaid.

Source: https://github.com/flatgeobuf/flatgeobuf, header.fbs and "packed Hilbert R-tree".
"""


def require_features(path: Path, form: VectorFormat, *, layer: str, count: int, grown: bool) -> None:
    """Raises OSError unless the file ends where `count` features end. Other formats are checked by their sinks.

    grown: some of the features were there before; of a spatial index on them nothing is known.
    """
    if form is GPKG:
        whole = _geopackage_features(path, layer, grown=grown) == count
    elif form is FLATGEOBUF:
        whole = _flatgeobuf_features(path, count) == count
    elif form in (GEOJSON, GEOJSON_LINES, CSV):
        least = {GEOJSON.name: count + 1, GEOJSON_LINES.name: count, CSV.name: count + 1}[form.name]
        whole = _lines(path) >= least and _ends(
            path, b"]\n}\n" if form is GEOJSON else b"\n" if least else b""
        )
    else:
        return
    if not whole:
        raise OSError("it lacks some of its features")


def _geopackage_features(path: Path, layer: str, *, grown: bool) -> int:
    """Features of the layer, of a new one those that its spatial index has: where that is whole, the rest is."""
    if not grown:
        return indexed_features(path, layer)
    with closing(sqlite3.connect(path)) as database:
        quoted = layer.replace('"', '""')
        (count,) = database.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()
    return int(count)


def _lines(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            total += piece.count(b"\n")
    return total


def _ends(path: Path, ending: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(ending)))
        return file.read() == ending or not ending


def _flatgeobuf_features(path: Path, count: int) -> int:
    """How many features follow the header and the index of `count` features, −1 where the last one is cut."""
    with path.open("rb") as file:
        file.seek(_FGB_MAGIC)
        header = file.read(int.from_bytes(file.read(4), "little"))
        nodes = _index_nodes(count, _fgb_node_size(header))
        at, found = _FGB_MAGIC + 4 + len(header) + nodes * _FGB_NODE_BYTES, 0
        # A mapped file would count as memory of ours.
        while file.seek(at) == at and len(piece := file.read(_PIECE)) >= 4:
            records, length = _count_sized(np.frombuffer(piece, np.uint8))
            at, found = at + length, found + records
    return found if at == path.stat().st_size else -1


def _index_nodes(count: int, children: int) -> int:
    """Nodes of the index over so many features: a leaf for each, and levels above up to a root, over one leaf too."""
    if count == 0 or children < 2:
        return 0
    nodes = level = count
    while True:
        level = -(-level // children)
        nodes += level
        if level == 1:
            return nodes


def _fgb_node_size(header: bytes) -> int:
    """The field of the flat buffer: its root table names a table of offsets, 0 for a field that is not there."""
    root = int.from_bytes(header[:4], "little")
    offsets = root - int.from_bytes(header[root : root + 4], "little", signed=True)
    place = 4 + 2 * _FGB_NODE_SIZE
    if place >= int.from_bytes(header[offsets : offsets + 2], "little"):
        return _FGB_USUAL_NODE
    at = int.from_bytes(header[offsets + place : offsets + place + 2], "little")
    return int.from_bytes(header[root + at : root + at + 2], "little") if at else _FGB_USUAL_NODE


@kernel
def _count_sized(piece: Bytes) -> tuple[int, int]:
    """Records that begin in the piece, each led by its size in 4 bytes, and where the next one begins."""
    at, found = 0, 0
    while at + 4 <= piece.size:
        size = 0
        for k in range(4):
            size |= int(piece[at + k]) << (8 * k)
        at += 4 + size
        found += 1
    return found, at
