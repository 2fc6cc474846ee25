"""What lies in a folder that we made, and what somebody else put there: only the former is ever replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from aerial_seg.errors import OutputError

LIST = ".aerial-seg-files.json"
"""The names of all files that a run put into its folder."""

_OPEN = ("-wal", "-journal")
"""What SQLite keeps beside a database while a program writes to it."""
_DERIVED = (".aux.xml", ".ovr", ".msk", "-shm")
"""Suffixes of what GIS programs leave beside a file they open. Made from it, so it may go with it; a style that
somebody made (.qml) or a project is not."""
_DESKTOP = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory")
_NAMED = 5


def record_made(folder: Path) -> None:
    """Write into the folder's own list the names of all files that are in it now."""
    names = sorted(name for name in _entries(folder) if name != LIST)
    (folder / LIST).write_text(
        json.dumps(names, ensure_ascii=False, indent=0), encoding="utf-8", newline="\n"
    )


def require_own(folder: Path, own: Sequence[str] = ()) -> None:
    """Raise OutputError, naming them, if files lie in the folder that the run which made it did not put there.

    own: patterns of names that folders without a list, made by older versions, may hold. What GIS programs leave
    beside our files does not count; a database that somebody has open does.
    """
    listed = _listed(folder)
    others = []
    for name in _entries(folder):
        if name == LIST or name.rpartition("/")[2] in _DESKTOP or _is_own(name, listed, own):
            continue
        base = next((name.removesuffix(end) for end in (*_DERIVED, *_OPEN) if name.endswith(end)), None)
        if base is None or not _is_own(base, listed, own):
            others.append(name)
        elif name.endswith(_OPEN):
            raise OutputError(f"{folder / base} is open in another program; close it there, and run again")
    if others:
        others.sort()
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise OutputError(
            f"{folder} holds files that were not made with it ({', '.join(others[:_NAMED])}{more}) and would be "
            "deleted; move them away, or choose another output"
        )


def _is_own(name: str, listed: frozenset[str] | None, own: Sequence[str]) -> bool:
    return name in listed if listed is not None else any(fnmatchcase(name, pattern) for pattern in own)


def _listed(folder: Path) -> frozenset[str] | None:
    try:
        names = json.loads((folder / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return frozenset(map(str, names)) if isinstance(names, list) else None


def _entries(folder: Path) -> list[str]:
    """All files below, by their path from there with `/`; links to folders are entries, too."""
    top, found = os.fspath(folder), list[str]()
    for root, folders, files in os.walk(top):
        links = [name for name in folders if os.path.islink(f"{root}{os.sep}{name}")]  # noqa: PTH114 - of thousands
        inside = root[len(top) :].replace(os.sep, "/").lstrip("/")
        found += [f"{inside}/{name}" if inside else name for name in (*files, *links)]
    return found
