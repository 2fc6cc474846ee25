"""The files that a VRT is made of, looked for before anything is read from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from aerial_seg.errors import InputError

_LISTED = 5
_DEEPEST = 16
"""VRTs in VRTs. Each level costs GDAL file handles and a call within a call; a thousand end the process."""


def require_members(path: Path) -> None:
    """Raises InputError that lists the missing files of a VRT on this machine; other rasters have none.

    GDAL opens such a VRT and fails where the hole is read, hours later; at a pipe it waits for ever. Raises it, too,
    for VRTs nested too deeply.
    """
    try:
        missing = list(dict.fromkeys(_missing(path)))
    except OSError as error:
        raise InputError(
            f"the files of {path} cannot be looked for ({error.strerror or error}); check their names and permissions"
        ) from error
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise InputError(
            f"{path} is a VRT of files that are not there: {', '.join(missing[:_LISTED])}{more}; copy them beside it, "
            "or make the VRT again from the files that you have"
        )


def _missing(path: Path) -> Iterator[str]:
    """The files that are not there, level by level; each file is looked into once, whoever names it."""
    seen: set[Path] = set()
    level, depth = [path], 0
    while level:
        if depth > _DEEPEST:
            raise InputError(
                f"{path} is a VRT of VRTs nested more than {_DEEPEST} deep, the next being {level[0]}; make one VRT of "
                "the rasters themselves (gdalbuildvrt)"
            )
        depth += 1
        below: list[Path] = []
        for vrt in level:
            if vrt.suffix.lower() != ".vrt" or not vrt.is_file() or vrt.resolve() in seen:
                continue
            seen.add(vrt.resolve())
            for member in _members(vrt):
                if member.is_file() or member.is_dir():
                    below.append(member)
                else:
                    yield str(member)
        level = [member for member in below if member.suffix.lower() == ".vrt"]


def _members(path: Path) -> Iterator[Path]:
    """The files of this machine that a VRT names."""
    for name, is_relative in named_sources(path):
        # Subdatasets, servers and GDAL's virtual files are not ours to look for.
        if name and ":" not in name[2:] and not name.startswith(("/vsi", "<")):
            yield path.parent / name if is_relative else Path(name)


def named_sources(path: Path) -> Iterator[tuple[str, bool]]:
    """What a VRT names as its sources, and whether from its own folder; nothing where it is no XML. Raises OSError."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError):  # an encoding that is none, too
        return  # GDAL says what is wrong with it
    for tag in ("SourceFilename", "SourceDataset"):
        for source in root.iter(tag):
            is_relative = source.get("relativeToVRT", source.get("relativetoVRT", "0")) == "1"
            yield (source.text or "").strip(), is_relative
