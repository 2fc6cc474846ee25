"""Rows into Shapefiles, as many as it takes: past 2 GB GDAL fails late or warns only, and leaves what can be read."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio.raw
from numpy.typing import NDArray

from aerial_seg.errors import OutputError
from aerial_seg.mentions import setting
from aerial_seg.vectors.files import dbf_date, numbered
from aerial_seg.vectors.ogr_sink import OgrSink, OgrTarget
from aerial_seg.vectors.schema import Column, FeatureSchema, Kind, Rows

LIMIT = 1_900_000_000
"""Bytes of a .shp or a .dbf."""

_HEADER = 100
_RECORD = 52
"""Bytes of a polygon before its rings and vertices; 4 more for each ring, 16 for each vertex."""
_EXTRA_WIDTH = 32
"""Bytes of a text column whose words are not known before; GDAL widens it where a word is longer."""


class ShapefileSink:
    """Writes rows to `path`, or beside it to NAME_001.shp, NAME_002.shp … when one cannot hold them.

    Where the next file begins depends on the features alone. Ends with `finish` or `abort`.
    """

    def __init__(self, path: Path, target: OgrTarget, schema: FeatureSchema, *, grown: bool = False) -> None:
        """grown: the file is there and rows are added; it cannot be divided any more."""
        self._path, self._target, self._schema, self._grown = path, target, schema, grown
        self._drafts: list[Path] = []
        self._sink = self._open(path)

    def write(self, rows: Rows) -> None:
        """The rows are handed over. Raises OutputError for one polygon, or a file that grows, above the limit."""
        sizes = shape_bytes(rows)
        while len(rows):
            fitting = self._fitting(sizes)
            if fitting == 0:
                self._next(int(sizes[0]))
                continue
            self._sink.write(rows.part(0, fitting))
            self._shp += int(sizes[:fitting].sum())
            self._dbf += self._row_bytes * fitting
            self._count += fitting
            rows, sizes = rows.part(fitting, len(rows)), sizes[fitting:]

    def finish(self) -> tuple[Path, ...]:
        """The files are complete and closed; returns them. Raises OSError where one lacks what was handed over."""
        self._close()
        return tuple(self._drafts)

    def abort(self) -> None:
        """The files are closed, in whatever state."""
        self._sink.abort()

    def _open(self, path: Path) -> OgrSink:
        target = replace(self._target, layer=path.stem)
        if not self._grown:
            create_empty(path, target, self._schema)
        with path.with_suffix(".dbf").open("rb") as table:
            self._row_bytes = int.from_bytes(table.read(12)[10:], "little")
        self._shp, self._dbf = path.stat().st_size, path.with_suffix(".dbf").stat().st_size
        self._count = (path.with_suffix(".shx").stat().st_size - _HEADER) // 8
        self._drafts.append(path)
        return OgrSink(path, target, append=True)

    def _fitting(self, sizes: NDArray[np.int64]) -> int:
        """How many of the next rows the open file still takes."""
        shapes = int(np.searchsorted(np.cumsum(sizes), LIMIT - self._shp, side="right"))
        return min(shapes, max(0, LIMIT - self._dbf) // self._row_bytes)

    def _next(self, size: int) -> None:
        if self._grown:
            raise OutputError(
                f"{self._path.name} would grow beyond {LIMIT / 1e9:.2f} GB, the most for a Shapefile; "
                "write another one, or a .gpkg"
            )
        if _HEADER + size > LIMIT:
            raise OutputError(
                f"one polygon takes {size / 1e9:.2f} GB, wanted at most {LIMIT / 1e9:.2f} GB for a Shapefile; "
                f"write a .gpkg, or cut polygons ({setting('split_grid')})"
            )
        self._close()
        self._sink = self._open(numbered(self._path, len(self._drafts) + 1))

    def _close(self) -> None:
        self._sink.finish()
        # GDAL is silent about some writes that the disk did not take. A widened column makes the .dbf longer.
        path = self._drafts[-1]
        shp, shx, dbf = (path.with_suffix(suffix).stat().st_size for suffix in (".shp", ".shx", ".dbf"))
        if shp != self._shp or shx != _HEADER + 8 * self._count or dbf < self._dbf:
            raise OSError(f"{path.name} lacks some of its features")


def shape_bytes(rows: Rows) -> NDArray[np.int64]:
    """(f,) bytes that each row takes in a .shp."""
    wkb = rows.wkb
    # Of both every ring takes 4 bytes and every vertex 16; heads are 9 per geometry and part, or 52 per record.
    sizes: NDArray[np.int64] = np.diff(wkb.offsets) - 9 - 9 * wkb.parts() + _RECORD
    return sizes


def create_empty(path: Path, target: OgrTarget, schema: FeatureSchema) -> None:
    """An empty Shapefile whose text columns are as wide as their words: 80 bytes each, GDAL's own, would double it."""
    words = {"class_name": schema.legend.names, "source": (schema.source,), "model_id": (schema.model_id,)}
    with warnings.catch_warnings():
        # A mask without CRS is allowed here.
        warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
        pyogrio.raw.write(
            path,
            geometry=np.empty(0, object),
            field_data=[_empty(column, words.get(column.name)) for column in schema.columns],
            fields=[column.name for column in schema.columns],
            **target.arguments(),
        )


def _empty(column: Column, words: tuple[str | None, ...] | None) -> NDArray[np.generic]:
    if column.kind is not Kind.TEXT:
        return np.empty(0, column.kind.value)
    width = _EXTRA_WIDTH if words is None else max(len(word.encode()) if word else 1 for word in words)
    return np.empty(0, f"<U{max(width, 1)}")


def set_dbf_date(path: Path) -> None:
    """The closed .dbf carries FIXED_DATE: GDAL dates it when it adds rows, whatever it was told at first."""
    with path.open("r+b") as file:
        file.seek(1)
        file.write(dbf_date())
