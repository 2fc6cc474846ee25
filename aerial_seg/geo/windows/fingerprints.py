"""Whether the files that windows are read from are still the ones that they were cut from, days or machines later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from aerial_seg.errors import InputError
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.read_files import raster_files
from aerial_seg.geo.raster.remote import same_version, without_signature
from aerial_seg.geo.raster.unchanged import facts_beside, versions

_FACTS = ".aux.xml"
_MASK = ".msk"
_REMEDY = "put the file back as it was (a link to it will do), or run `aerial-seg tile` again"


class FileState(BaseModel):
    """What tells a file from every other: its bytes. written_ns: when it was written; if still then, none is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    written_ns: int
    sha256: str


class SourceStates(BaseModel):
    """The files behind rasters: of this machine by their paths, of servers by what these tell of them.

    facts: of sidecars that say something of their raster, as its nodata value; by their paths, without statistics,
    which QGIS writes when somebody looks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, FileState]
    facts: dict[str, str]
    servers: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, infos: Iterable[RasterInfo]) -> SourceStates:
        """As they are now; every local file is read as a whole."""
        infos = list(infos)
        paths = sorted(set(_local(infos)))
        told = {str(path): facts_beside(path) for path in paths}
        names = [name for info in infos for name in (info.path, *info.files)]
        return cls(
            files={str(path): _state(path) for path in paths},
            facts={path: facts for path, facts in told.items() if facts is not None},
            servers={name: tuple(version) for name, version in versions(names).items()},
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """A line on rasters of which nothing will tell whether they changed."""
        silent = [without_signature(name) for name, version in self.servers.items() if not any(version)]
        if not silent:
            return ()
        more = f" (and {len(silent) - 1} more)" if len(silent) > 1 else ""
        return (f"it will not be seen whether {silent[0]}{more} changes: the server does not tell",)

    def require_same(self, reader: Path) -> None:
        """Raises InputError, naming the first and how many, where files are gone or hold something else now.

        reader: whose images they are. A copy of a file, with another time, is the same: its bytes are compared.
        """
        gone = [path for path in self.files if not Path(path).is_file()]
        if gone:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            raise InputError(
                f"{reader} holds no images and reads them from {gone[0]}{more}, which "
                f"{'are' if more else 'is'} not there any more; {_REMEDY}"
            )
        changed = list(self._changes())
        if changed:
            more = f", and {len(changed) - 1} more changed" if len(changed) > 1 else ""
            name, how = changed[0]
            raise InputError(
                f"{reader} holds no images and reads them from {name}, which changed since ({how}){more}: chips of "
                f"today would not be those that were cut; {_REMEDY}"
            )

    def _changes(self) -> Iterator[tuple[str, str]]:
        for path, before in self.files.items():
            stat = Path(path).stat()
            if stat.st_size != before.bytes:
                yield path, f"it had {before.bytes:,} bytes and has {stat.st_size:,}"
            elif stat.st_mtime_ns != before.written_ns and _digest(path, stat.st_mtime_ns) != before.sha256:
                yield path, "it has as many bytes, but others"
            elif facts_beside(Path(path)) != self.facts.get(path):
                yield path, f"what {Path(path).name}{_FACTS} says of it is something else"
            elif not path.endswith(_MASK) and _is_masked_now(path, self.files):
                yield path, f"there is a mask {Path(path).name}{_MASK} now"
        now = versions(list(self.servers))
        for name, version in self.servers.items():
            if not same_version(version, now[name]):
                told = ", ".join(filter(None, version)), ", ".join(filter(None, now[name]))
                yield without_signature(name), f"the server told {told[0]} and now tells {told[1]}"


def _is_masked_now(path: str, files: dict[str, FileState]) -> bool:
    mask = path + _MASK
    return mask not in files and Path(mask).is_file()


def _local(infos: Iterable[RasterInfo]) -> Iterator[Path]:
    """All files of this machine that the rasters are read from; sidecars of facts are looked into elsewhere."""
    for found in raster_files(infos):
        path = found.absolute()
        inside = (one for one in sorted(path.rglob("*")) if one.is_file()) if path.is_dir() else (path,)
        yield from (one for one in inside if not one.name.endswith(_FACTS))


def _state(path: Path) -> FileState:
    stat = path.stat()
    digest = _digest(str(path), stat.st_mtime_ns)
    return FileState(bytes=stat.st_size, written_ns=stat.st_mtime_ns, sha256=digest)


@lru_cache(maxsize=65_536)
def _digest(path: str, written_ns: int) -> str:
    """Of the whole file, as it was written then: read once in a process."""
    del written_ns
    with open(path, "rb") as file:  # noqa: PTH123 - file_digest takes what is open
        return hashlib.file_digest(file, "sha256").hexdigest()
