"""Rows into a GeoParquet file, a row group at a time. Needs the extra `parquet`.

Source: GeoParquet 1.1.0, https://geoparquet.org/releases/v1.1.0/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from aerial_seg.errors import OutputError
from aerial_seg.vectors.arrow_stream import GEOMETRY, RowStream
from aerial_seg.vectors.schema import Column, Rows

_GROUP = 65536
"""Rows of a group: what is gathered before it is written."""


def check_pyarrow(path: Path) -> None:
    """Raises OutputError unless GeoParquet can be written here."""
    if find_spec("pyarrow") is None:
        raise OutputError(
            f"{path.name} needs pyarrow, which is not installed; "
            "pip install 'aerial-seg[parquet]', or write a .gpkg"
        )


class GeoParquetSink:
    """Writes rows to `path`; groups do not depend on how the rows came. Ends with `finish` or `abort`."""

    def __init__(self, path: Path, columns: tuple[Column, ...], crs: CRS | None) -> None:
        self._pyarrow: Any = import_module("pyarrow")
        self._parquet: Any = import_module("pyarrow.parquet")
        pyarrow = self._pyarrow
        self._path, self._columns, self._crs = path, columns, crs
        self._count = 0
        schema = pyarrow.RecordBatchReader.from_stream(RowStream(columns, lambda: None)).schema
        # Offsets of 32 bits are what every reader knows.
        narrow = {pyarrow.large_binary(): pyarrow.binary(), pyarrow.large_string(): pyarrow.string()}
        self._schema = pyarrow.schema([(part.name, narrow.get(part.type, part.type)) for part in schema])
        self._writer = self._parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting = self._schema.empty_table()
        self._box = np.array([np.inf, np.inf, -np.inf, -np.inf])

    def write(self, rows: Rows) -> None:
        """The rows are in the file, or wait for their group to fill up."""
        pyarrow = self._pyarrow
        if len(rows) == 0:
            return
        handed = iter((rows, None))
        reader = pyarrow.RecordBatchReader.from_stream(RowStream(self._columns, lambda: next(handed)))
        self._waiting = pyarrow.concat_tables([self._waiting, reader.read_all().cast(self._schema)])
        left, bottom, right, top = shapely.total_bounds(shapely.from_wkb(rows.wkb.objects()))
        self._box[:2] = np.minimum(self._box[:2], (left, bottom))
        self._box[2:] = np.maximum(self._box[2:], (right, top))
        self._count += len(rows)
        while len(self._waiting) >= _GROUP:
            self._write_group()

    def finish(self) -> None:
        """The file is complete and closed."""
        if len(self._waiting):
            self._write_group()
        self._writer.add_key_value_metadata({"geo": json.dumps(self._geo())})
        self._writer.close()
        if self._parquet.read_metadata(self._path).num_rows != self._count:
            raise OSError("it lacks some of its features")

    def abort(self) -> None:
        """The file is closed, in whatever state."""
        self._waiting = self._schema.empty_table()
        with suppress(OSError):
            self._writer.close()

    def _write_group(self) -> None:
        self._writer.write_table(self._waiting.slice(0, _GROUP).combine_chunks(), row_group_size=_GROUP)
        self._waiting = self._waiting.slice(_GROUP)

    def _geo(self) -> Mapping[str, Any]:
        """The file's metadata. `crs` null says unknown; without it readers take WGS84."""
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": ["MultiPolygon"],
            "crs": None if self._crs is None else self._crs.to_json_dict(),
            "orientation": "counterclockwise",
            "edges": "planar",
        }
        if np.isfinite(self._box).all():
            column["bbox"] = self._box.tolist()
        return {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
