"""GeoParquet files read through pyarrow, a batch of rows at a time. Needs the extra `parquet`.

Source: GeoParquet 1.1.0, https://geoparquet.org/releases/v1.1.0/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError

from aerial_seg.errors import InputError
from aerial_seg.files.names import exact

SUFFIXES = (".parquet", ".geoparquet", ".pq")
_REMEDY = "or save the layer as a GeoPackage (.gpkg), with QGIS for example"


def is_parquet(path: str) -> bool:
    """Whether the file's name says that it is GeoParquet, which the GDAL of pyogrio's wheel cannot read."""
    return path.lower().endswith(SUFFIXES)


class ParquetLayer:
    """One GeoParquet file of this machine. Raises InputError for what is none."""

    def __init__(self, path: str) -> None:
        if find_spec("pyarrow") is None:
            raise InputError(
                f"{path} is GeoParquet, which needs pyarrow, and that is not installed; "
                f"pip install 'aerial-seg[parquet]', {_REMEDY}"
            )
        self._arrow: Any = import_module("pyarrow")
        self.path = path
        try:
            self._file: Any = import_module("pyarrow.parquet").ParquetFile(exact(path))
            self._names = tuple(map(str, self._file.schema_arrow.names))
            self._geo = self._metadata()
        except (self._arrow.ArrowException, OSError) as error:
            raise InputError(
                f"{path} is not a Parquet file that can be read ({_first_line(error)}); copy it again, {_REMEDY}"
            ) from error
        self._column: Mapping[str, Any] = self._geo["columns"][self._geo["primary_column"]]

    def _metadata(self) -> dict[str, Any]:
        # Of the file, not of its schema: there it stands only where it was known before the first row.
        raw = (self._file.metadata.metadata or {}).get(b"geo")
        try:
            geo = json.loads(raw) if raw is not None else {}
            name = geo["primary_column"]
            encoding = geo["columns"][name]["encoding"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} is a Parquet file without a column of geometries (its metadata 'geo' names none); "
                "wanted GeoParquet, as vectorize and GDAL write it"
            ) from error
        if encoding != "WKB" or name not in self._names:
            raise InputError(
                f"{self.path} holds its geometries as '{encoding}', wanted WKB; write it again with that encoding, "
                f"{_REMEDY}"
            )
        return dict(geo)

    @property
    def crs(self) -> CRS | None:
        """None where the file says that it knows none; without a word it is longitude, latitude (the standard)."""
        if "crs" not in self._column:
            return CRS("OGC:CRS84")
        stated = self._column["crs"]
        try:
            return None if stated is None else CRS.from_user_input(json.dumps(stated))
        except (CRSError, TypeError) as error:
            raise InputError(
                f"{self.path} states a CRS that cannot be understood ({_first_line(error)}); {_REMEDY[3:]}"
            ) from error

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the columns that are no geometries."""
        return tuple(name for name in self._names if name not in self._geo["columns"] and name != "bbox")

    @property
    def features(self) -> int:
        """Rows of the file."""
        return int(self._file.metadata.num_rows)

    def batches(
        self, fields: Sequence[str], *, size: int, geometry: bool
    ) -> Iterator[tuple[NDArray[np.object_], NDArray[np.int64], dict[str, NDArray[Any]]]]:
        """WKB (n,), row numbers (n,) and the fields' values, so many rows at a time."""
        primary = self._geo["primary_column"]
        columns = [*fields, *([primary] if geometry else [])]
        first = 0
        try:
            for batch in self._file.iter_batches(size, columns=columns):
                rows = batch.num_rows
                wkb = np.full(rows, None, object)
                if geometry:
                    wkb[:] = batch.column(columns.index(primary)).to_pylist()
                values = {name: _values(batch.column(k)) for k, name in enumerate(fields)}
                yield wkb, np.arange(first, first + rows, dtype=np.int64), values
                first += rows
        except (self._arrow.ArrowException, OSError) as error:
            raise InputError(
                f"{self.path} could not be read beyond row {first} ({_first_line(error)}); "
                "the file is damaged or incomplete: copy it again"
            ) from error


def _values(column: Any) -> NDArray[Any]:
    """As pyogrio gives them: numbers as numbers, the rest as objects, None for NULL."""
    pylist = column.to_pylist()
    out = np.empty(len(pylist), object)
    out[:] = pylist
    return out


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
