"""What can go wrong for a user: one line that says got, wanted, remedy. Everything else is our own bug."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class AerialSegError(Exception):
    """Tell of a problem that the user can mend, in one line: what was found, what was wanted, what to do."""

    exit_code = 1


class InputError(AerialSegError):
    """Tell that a file, raster, label layer, dataset or model is not what the work needs."""


class OutputError(AerialSegError):
    """Tell that the result cannot be written where it was asked for."""


class Incomplete(OutputError):
    """A long run stopped; its finished pieces are kept and the same command goes on."""

    exit_code = 3


class Interrupted(Incomplete):
    """As Incomplete, because the user asked for it (Ctrl-C)."""

    exit_code = 130


class SettingsError(AerialSegError):
    """Tell that a recipe or an option holds a value that cannot work."""

    exit_code = 2


class FileNote(str):
    """A note on an error of any kind: the file that was at work."""

    __slots__ = ()


class KeptNote(str):
    """A note on an error of any kind: finished pieces are kept, and how to go on."""

    __slots__ = ()


@contextmanager
def at_work(path: Path | str) -> Iterator[None]:
    """An error that leaves the block, whatever it is, carries the name of this file as a FileNote.

    The one line that the command line makes of an error that nobody foresaw tells it; nothing else reads it.
    """
    try:
        yield
    except BaseException as error:
        error.add_note(FileNote(path))
        raise


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint `; did you mean 'x'?` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
