"""Nothing that a command reads is written, replaced or deleted by it, under whatever name it goes."""

# pathlib takes several times as long for these, and a command may read thousands of files.
# ruff: noqa: PTH100, PTH114, PTH116, PTH118, PTH120
from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from aerial_seg.errors import OutputError


class Inputs:
    """Remember the files (and folders) that a command reads, by their real name and by what they are on the disk.

    Made once for all inputs; every question after that takes the same time however many there are. A file is the same
    through links, hard links and any spelling. Names of what is no file here, such as addresses, are passed over. Some
    inputs come to light only when others are opened: what was asked about is remembered, and holds for them, too.
    """

    def __init__(self, paths: Iterable[Path | str]) -> None:
        self._real: dict[str, Path | str] = {}
        self._ids: dict[tuple[int, int], Path | str] = {}
        self._asked: dict[str, Path | str] = {}
        self._asked_ids: dict[tuple[int, int], Path | str] = {}
        self._parents: dict[str, str] = {}
        self.add(paths)

    def add(self, paths: Iterable[Path | str]) -> None:
        """Remember these, too. Raise OutputError if one of them is to be written, as `refuse` was told before."""
        for path in paths:
            identity = _identity(path)
            if identity is None:  # not there, or no name that a file could have
                continue
            name = self._name(path)
            written = self._asked.get(name) or self._asked_ids.get(identity)
            if written is not None:
                raise _is_read(written, path)
            self._real.setdefault(name, path)
            if identity != _NONE:
                self._ids.setdefault(identity, path)

    def refuse(self, files: Iterable[Path | str]) -> None:
        """Raise OutputError if one of the files to write is read, or lies behind a name that is."""
        for file in files:
            name, identity = self._name(file), _identity(file)
            read = self._real.get(name) or (self._ids.get(identity) if identity else None)
            if read is not None:
                raise _is_read(file, read)
            self._asked[name] = file
            if identity is not None and identity != _NONE:
                self._asked_ids[identity] = file

    def refuse_folder(self, folder: Path) -> None:
        """Raise OutputError if an input lies in the folder, which is to be replaced as a whole."""
        if not folder.is_dir():
            return
        inside, own = self._name(folder).rstrip(os.sep) + os.sep, _identity(folder)
        own = None if own == _NONE else own
        within: dict[str, bool] = {}
        for name, read in self._real.items():
            parent = os.path.dirname(name)
            if parent not in within:  # by what it is, too: capitals count for nothing on most disks of macOS
                above = [parent, *map(str, Path(parent).parents)]
                within[parent] = own is not None and any(_identity(one) == own for one in above)
            if (name + os.sep).startswith(inside) or within[parent]:
                raise OutputError(
                    f"{folder} would be replaced, but {read} lies in it and is read; choose another output"
                )

    def _name(self, path: Path | str) -> str:
        """The real name, in one case on Windows; folders are followed once each, however many files lie in them."""
        text = os.fspath(path)
        if os.path.islink(text):
            return os.path.normcase(os.path.realpath(text))
        parent, name = os.path.split(os.path.abspath(text))
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(parent)
        return os.path.normcase(os.path.join(self._parents[parent], name))


_NONE = (0, 0)
"""Of what is there, but some servers of files give Windows nothing to tell it by."""


def _identity(path: Path | str) -> tuple[int, int] | None:
    """What tells a file or folder from all others, under whatever name; None where there is none."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return (stat.st_dev, stat.st_ino) if stat.st_ino else _NONE


def _is_read(file: Path | str, read: Path | str) -> OutputError:
    same = "" if str(read) == str(file) else f" ({read})"
    return OutputError(
        f"{file} would be written, but is one of the files to read{same}; choose another output"
    )
