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
    through links, hard links and any spelling. Names of what is no file here, such as addresses, are passed over.
    """

    def __init__(self, paths: Iterable[Path | str]) -> None:
        self._real: dict[str, Path | str] = {}
        self._ids: dict[tuple[int, int], Path | str] = {}
        self._parents: dict[str, str] = {}
        self.add(paths)

    def add(self, paths: Iterable[Path | str]) -> None:
        """Remember these, too."""
        for path in paths:
            try:
                stat = os.stat(path)
                self._real.setdefault(self._name(path), path)
            except (OSError, ValueError):  # not there, or no name that a file could have
                continue
            if stat.st_ino:  # some servers of files give Windows none
                self._ids.setdefault((stat.st_dev, stat.st_ino), path)

    def refuse(self, files: Iterable[Path]) -> None:
        """Raise OutputError if one of the files to write is read, or lies behind a name that is."""
        for file in files:
            read = self._real.get(self._name(file)) or self._same(file)
            if read is not None:
                same = "" if str(read) == str(file) else f" ({read})"
                raise OutputError(
                    f"{file} would be written, but is one of the files to read{same}; choose another output"
                )

    def refuse_folder(self, folder: Path) -> None:
        """Raise OutputError if an input lies in the folder, which is to be replaced as a whole."""
        if not folder.is_dir():
            return
        inside, own = self._name(folder).rstrip(os.sep) + os.sep, _identity(folder)
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

    def _same(self, file: Path) -> Path | str | None:
        try:
            stat = os.stat(file)
        except (OSError, ValueError):
            return None
        return self._ids.get((stat.st_dev, stat.st_ino))

    def _name(self, path: Path | str) -> str:
        """The real name, in one case on Windows; folders are followed once each, however many files lie in them."""
        text = os.fspath(path)
        if os.path.islink(text):
            return os.path.normcase(os.path.realpath(text))
        parent, name = os.path.split(os.path.abspath(text))
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(parent)
        return os.path.normcase(os.path.join(self._parents[parent], name))


def _identity(folder: Path | str) -> tuple[int, int] | None:
    """What tells the folder from all others, under whatever name; None where the system does not say."""
    try:
        stat = os.stat(folder)
    except (OSError, ValueError):
        return None
    return (stat.st_dev, stat.st_ino) if stat.st_ino else None
