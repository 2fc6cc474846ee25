"""Rows into a file through GDAL: one opening for any number of batches, in a thread of its own beside the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Event

import pyogrio
from pyproj import CRS

from aerial_seg.errors import OutputError
from aerial_seg.outputs.geopackage import CREATION_OPTIONS
from aerial_seg.outputs.geopackage import DRIVER as GPKG_DRIVER
from aerial_seg.vectors.arrow_stream import GEOMETRY, RowStream, Stopped
from aerial_seg.vectors.schema import Column, Rows

_LEAST_GDAL = (3, 8, 0)
_CHUNK = 4096
"""Features that GDAL takes at once. It keeps the GIL meanwhile, so this is how long the other threads may wait."""
_WAITING = 4
"""Chunks that wait for GDAL: with them memory stays flat however many features come."""
_CONFIG = {
    # A draft that a power failure damages was no result yet; it is synced before it becomes one.
    "OGR_SQLITE_SYNCHRONOUS": "OFF",
    # A GeoPackage's index goes on in the file past this, or it would grow to 100 MB; 40 MiB are 500,000 features.
    "OGR_GPKG_MAX_RAM_USAGE_RTREE": str(40 * 2**20),
    # pyogrio raises GDAL's errors; what GDAL prints of them as well, it catches in the main thread only.
    "CPL_LOG": os.devnull,
}


def check_gdal(path: Path) -> None:
    """Raises OutputError unless pyogrio's GDAL takes streams."""
    if pyogrio.__gdal_version__ < _LEAST_GDAL:
        found, wanted = (".".join(map(str, version)) for version in (pyogrio.__gdal_version__, _LEAST_GDAL))
        raise OutputError(
            f"{path.name} would be written by GDAL {found}, wanted {wanted} or later; upgrade pyogrio"
        )


@dataclass(frozen=True, slots=True)
class OgrTarget:
    """What GDAL is to write. driver: its name. options: of the layer. crs None: the file names none."""

    driver: str
    layer: str
    crs: CRS | None
    columns: tuple[Column, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, object]:
        """What pyogrio's writing functions call these."""
        return {
            "driver": self.driver,
            "layer": self.layer,
            "crs": None if self.crs is None else crs_text(self.crs),
            "geometry_type": "MultiPolygon",
            "encoding": "UTF-8" if self.driver == "ESRI Shapefile" else None,
            "layer_options": dict(self.options),
            "dataset_options": CREATION_OPTIONS if self.driver == GPKG_DRIVER else None,
        }


def crs_text(crs: CRS) -> str:
    """The CRS as GDAL reads it: by its number where it is exactly that one."""
    authority = crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else crs.to_wkt()


class OgrSink:
    """Writes rows to `path` as they come. Every sink ends with `finish` or `abort`.

    GDAL pulls rows from a stream while ours are pushed: between the two stand a thread and a short queue.
    """

    def __init__(self, path: Path, target: OgrTarget, *, append: bool = False) -> None:
        """append: to the layer that the file has."""
        self._queue: Queue[Rows | Stopped | None] = Queue(_WAITING)
        self._done = Event()
        self._ended = False
        self._held: Rows | None = None
        self._pool = ThreadPoolExecutor(1, "vector-writer")
        self._work = self._pool.submit(self._run, path, target, append)

    def write(self, rows: Rows) -> None:
        """The rows are handed over. Raises what GDAL raised for these or earlier ones."""
        # Transactions leave traces in a database: they must not depend on how the rows came.
        rows = rows if self._held is None else self._held.joined(rows)
        whole = len(rows) - len(rows) % _CHUNK
        for start in range(0, whole, _CHUNK):
            if self._done.is_set():
                self.finish()
            self._queue.put(rows.part(start, start + _CHUNK))
        self._held = rows.part(whole, len(rows)) if whole < len(rows) else None

    def finish(self) -> None:
        """The file is complete and closed. Raises what GDAL raised."""
        if self._held is not None:
            self._queue.put(self._held)
        self._queue.put(None)
        self._pool.shutdown()
        self._work.result()

    def abort(self) -> None:
        """The file is closed, in whatever state, and GDAL has let go of it. Nothing happens after `finish`."""
        if not self._work.done():
            self._queue.put(Stopped())
            wait([self._work])
        self._pool.shutdown()

    def _run(self, path: Path, target: OgrTarget, append: bool) -> None:
        stream = RowStream(target.columns, self._take)
        try:
            pyogrio.write_arrow(stream, path, geometry_name=GEOMETRY, append=append, **target.arguments())
        finally:
            self._done.set()
            # Whoever waits to hand over rows must not wait for ever.
            while not self._ended:
                self._take()

    def _take(self) -> Rows | Stopped | None:
        rows = self._queue.get()
        self._ended = not isinstance(rows, Rows)
        return rows


@contextmanager
def writing_config() -> Iterator[None]:
    """GDAL writes databases without waiting for the disk, and prints nothing, as long as the block lasts.

    An option that somebody has set stays as it is.
    """
    ours = {name: value for name, value in _CONFIG.items() if pyogrio.get_gdal_config_option(name) is None}
    pyogrio.set_gdal_config_options(ours)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(dict.fromkeys(ours))
