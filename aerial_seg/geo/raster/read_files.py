"""All files that stand behind what a command reads, so that none of them is written by it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.remote import file_behind, is_remote
from aerial_seg.geo.raster.vrt_members import named_sources

_BESIDE_RASTER = (".aux.xml", ".ovr", ".msk", ".vat.dbf", ".vat.cpg")
"""Beside NAME.tif as NAME.tif.ovr; GDAL names some of them only when it has looked into them."""
_BESIDE_VECTOR = (
    ".shx",
    ".dbf",
    ".prj",
    ".cpg",
    ".qix",
    ".sbn",
    ".sbx",
    ".csvt",
    ".gfs",
    ".map",
    ".dat",
    ".id",
    ".tab",
)
"""Beside NAME.shp as NAME.dbf."""
_BESIDE_DATABASE = ("-wal", "-shm", "-journal")
_PARTS = re.compile(r'[":|]')


def raster_files(infos: Iterable[RasterInfo]) -> Iterator[Path]:
    """The files of these rasters: their own, sidecars, members of VRTs however deep, the file of a subdataset."""
    seen: set[str] = set()
    for info in infos:
        for name in (info.path, *info.files):
            yield from _files_of(name, seen)


def vector_files(path: Path | str) -> Iterator[Path]:
    """The files of a vector layer: FILE, or FILE|layername=NAME, and what belongs to it."""
    for file in _named(str(path)):
        yield file
        beside = [file.with_suffix(suffix) for suffix in _BESIDE_VECTOR if file.name]
        beside += [file.with_name(file.name + suffix) for suffix in _BESIDE_DATABASE]
        yield from (one for one in beside if one.is_file())


def _files_of(name: str, seen: set[str]) -> Iterator[Path]:
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name in seen or is_remote(name) or name.startswith("<"):
            continue
        seen.add(name)
        for file in _named(name):
            yield file
            # By their texts: with Paths it takes twice as long, of each of thousands of rasters.
            besides = [f"{file}{suffix}" for suffix in _BESIDE_RASTER]
            yield from (Path(beside) for beside in besides if os.path.isfile(beside))  # noqa: PTH113
            if file.suffix.lower() == ".vrt":
                with suppress(OSError):  # GDAL tells what cannot be read
                    sources = list(named_sources(file))
                    waiting += [str(file.parent / one) if near else one for one, near in sources]


def _named(name: str) -> Iterator[Path]:
    """The files or folders that a name stands for: itself, the archive around it, or that of a subdataset."""
    with suppress(OSError, ValueError):
        file = file_behind(name) if not Path(name).is_dir() else Path(name)
        if file is not None:
            yield file
            return
    for part in _PARTS.split(name):
        with suppress(OSError, ValueError):
            if part and (Path(part).is_file() or Path(part).is_dir()):
                yield Path(part)
