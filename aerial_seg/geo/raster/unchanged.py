"""Whether the files that a long work reads are still those that it began with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from aerial_seg.errors import AerialSegError, InputError
from aerial_seg.files.journal import forget
from aerial_seg.files.names import shown
from aerial_seg.geo.raster.opening import described
from aerial_seg.geo.raster.remote import (
    file_behind,
    gdal_name,
    is_remote,
    remote_version,
    same_version,
    without_signature,
)
from aerial_seg.mentions import SAME_CALL

InputState = dict[str, list[Any]]
"""Size and time of files by their names, and what servers tell of theirs."""

EVERY = 10.0
"""Seconds between two looks while the work goes on; a server is asked once each time, not once a tile."""

_FACTS = ".aux.xml"
_VECTORS = (".shp", ".gpkg", ".geojson", ".json", ".fgb", ".parquet", ".csv", ".kml", ".gml")
_SHAPEFILE = (".shx", ".dbf", ".prj", ".cpg")
_EMPTY = ("PAMRasterBand", "Metadata")
_ASKED_AT_ONCE = 8

_Looks = tuple[int | str, ...] | None
"""What tells a file from another: size, time and identity; None where there is none."""


class ChangedError(InputError):
    """A file is not the one any more that the work began with: what was made mixes two of them.

    what: the file and how it changed, for who has something to say of its own.
    """

    what: str | None = None


def state_of(paths: Iterable[Path | str], files: Iterable[str] = (), *, without: str = "") -> InputState:
    """The files behind these rasters as they are now: by name size and time, and what servers tell of theirs.

    files: all that GDAL reads them from, sidecars and members of VRTs. without: the name of a file of our own.
    """
    names = _once(files, paths)
    found = {file for name in names if (file := file_behind(name)) is not None}
    stats = {str(file): file.stat() for file in sorted(found) if file.name != without}
    return {
        **{name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
        **{_told(name): list(version) for name, version in versions(names).items()},
    }


def _once(files: Iterable[str], paths: Iterable[Path | str]) -> list[str]:
    """GDAL names a raster among its files, which would be looked at twice."""
    return list(dict.fromkeys((*files, *map(str, paths))))


def files_of(paths: Iterable[Path | str]) -> list[str]:
    """All files that GDAL reads these rasters from; of one that cannot be opened none, which opening it will tell.

    One on a server has no others beside it, and looking would ask the server.
    """
    found: list[str] = []
    for path in paths:
        if is_remote(path):
            continue
        with suppress(InputError), described(path) as dataset:
            found.extend(dataset.files)
    return found


def label_files(paths: Iterable[Path]) -> list[str]:
    """As files_of, for labels: rasters, and vector files with those that belong to a Shapefile."""
    paths = list(paths)
    vectors = [path for path in paths if path.suffix.lower() in _VECTORS or _is_in_geodatabase(path)]
    parts = [path.with_suffix(suffix) for path in vectors for suffix in _SHAPEFILE]
    return [*files_of(path for path in paths if path not in vectors), *(str(p) for p in parts if p.is_file())]


def _is_in_geodatabase(path: Path) -> bool:
    return path.parent.suffix.lower() == ".gdb"


def versions(names: Iterable[Path | str]) -> dict[str, tuple[str, ...]]:
    """What servers tell of their rasters, by GDAL's name for each."""
    remote = list(dict.fromkeys(gdal_name(name) for name in names if is_remote(name)))
    if not remote:
        return {}
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as asking:
        return dict(zip(remote, asking.map(remote_version, remote), strict=True))


def _told(name: str) -> str:
    return without_signature(name).removeprefix("/vsicurl/")


class Unchanged:
    """The files of a work as they were when it began.

    paths: rasters or other files. files: what GDAL reads them from besides. without: the name of a file of our own.
    """

    def __init__(self, paths: Iterable[Path | str], files: Iterable[str] = (), *, without: str = "") -> None:
        self._without = without
        self._named: set[str] = set()
        self._local: dict[Path, _Looks] = {}
        self._remote: dict[str, tuple[str, ...]] = {}
        self._looked = time.monotonic()
        self._found: ChangedError | None = None
        self.add(paths, files)

    def add(self, paths: Iterable[Path | str], files: Iterable[str] = ()) -> None:
        """These are held to what they are now; those that are held already, to what they were then."""
        # GDAL names the raster, which was named when the work began, among its files.
        names = [name for name in _once(files, paths) if name not in self._named]
        for name in names:
            file = file_behind(name)
            if file is None:
                continue
            self._named.add(name)
            if file.name != self._without:
                # An .aux.xml may come to be while the file is read.
                for one in (file, file.with_name(file.name + _FACTS)):
                    self._local.setdefault(one, _looks(one))
        remote = [name for name in names if is_remote(name)]
        self._remote |= versions(name for name in remote if gdal_name(name) not in self._remote)

    @property
    def notes(self) -> tuple[str, ...]:
        """A line on the rasters of which nothing tells whether they change: GDAL does not pass on what stores say."""
        silent = [_told(name) for name, version in self._remote.items() if not any(version)]
        if not silent:
            return ()
        more = f" (and {len(silent) - 1} more)" if len(silent) > 1 else ""
        return (
            f"it cannot be told whether {silent[0]}{more} changed while it was read: the server does not say",
        )

    def check(self) -> None:
        """Raises ChangedError unless every file is what it was, at this look and all before."""
        try:
            if self._found is not None:
                raise self._found
            self._look()
        except ChangedError as error:
            self._found = error
            raise

    def _look(self) -> None:
        self._looked = time.monotonic()
        for file, before in self._local.items():
            now = _looks(file)
            if now != before:
                raise _changed(shown(file), _difference(before, now))
        for name, now in versions(self._remote).items():
            before = self._remote[name]
            if not same_version(before, now) and not self._is_back(name, before):
                told = ", ".join(filter(None, before)), ", ".join(filter(None, now))
                raise _changed(_told(name), f"the server told {told[0]} and now tells {told[1]}")

    def _is_back(self, name: str, before: tuple[str, ...]) -> bool:
        """Whether one of several servers that answer in turn still tells what was told first."""
        return any(same_version(before, remote_version(name)) for _ in range(3))

    def check_now_and_then(self) -> None:
        """As `check`, at most EVERY so many seconds."""
        if time.monotonic() - self._looked >= EVERY:
            self.check()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """The block, which reads the files, ends in ChangedError if one changed, whatever error it has of its own."""
        try:
            yield
        except (AerialSegError, OSError):
            self.check()
            raise
        self.check()


@contextmanager
def kept_only_if(still: Unchanged, work: Path) -> Iterator[None]:
    """Raise ChangedError for any error of the block if its files changed; nothing of the work is kept then."""
    try:
        with still.holding():
            yield
    except ChangedError:
        forget(work)
        raise


def facts_beside(raster: Path) -> str | None:
    """A sum of what the .aux.xml beside a raster says, as far as that is no statistics; None where it says nothing."""
    looks = _looks(raster.with_name(raster.name + _FACTS))
    return None if looks is None else str(looks[0])


def _looks(file: Path) -> _Looks:
    try:
        if file.name.endswith(_FACTS):
            return _facts(file.read_bytes())
        stat = file.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _facts(sidecar: bytes) -> _Looks:
    """An .aux.xml without statistics, which QGIS puts there when somebody only looks at the raster."""
    try:
        root = Xml.fromstring(sidecar.decode("utf-8", "replace"))
    except (Xml.ParseError, ValueError, LookupError):
        return (hashlib.sha256(sidecar).hexdigest(),)
    for element in list(root.iter()):
        for child in list(element):
            named = child.get("key", "").startswith("STATISTICS_")
            if named or child.tag == "Histograms":
                element.remove(child)
    texts = [(each.tag, *sorted(each.items()), (each.text or "").strip()) for each in root.iter()]
    # Bands that said statistics only say nothing now.
    told = [one for one in texts if one[-1] or (len(one) > 2 and one[0] not in _EMPTY)]
    return (hashlib.sha256(repr(told).encode()).hexdigest(),) if told else None


def _difference(before: _Looks, now: _Looks) -> str:
    if now is None:
        return "it is gone"
    if before is None:
        return "it was not there before"
    if len(now) == 1:
        return "it says something else"
    if before[0] != now[0]:
        return f"it had {before[0]:,} bytes and has {now[0]:,}"
    return "it was written again" if before[1] != now[1] else "another file took its place"


def _changed(name: str, what: str) -> ChangedError:
    told = f"{name} changed while it was read ({what})"
    error = ChangedError(
        f"{told}, so what was made of it mixes two files and is not kept; {SAME_CALL} when nothing writes to it "
        "any more"
    )
    error.what = told
    return error
