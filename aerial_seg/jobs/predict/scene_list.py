"""Which rasters a command names, list files included, and what is wrong with some of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aerial_seg.errors import InputError
from aerial_seg.geo.raster.inputs import expand_rasters

LIST = "@"
"""An argument @scenes.txt stands for the lines of scenes.txt."""


class Refusals:
    """Collect scenes that cannot be predicted, each with its reason; where they are `fatal`, the first is raised."""

    def __init__(self, *, fatal: bool) -> None:
        self.fatal = fatal
        self.reasons: dict[str, InputError] = {}

    @contextmanager
    def of(self, scene: Path | str) -> Iterator[None]:
        """Take an InputError in the block as the scene's reason."""
        try:
            yield
        except InputError as error:
            if self.fatal:
                raise
            self.reasons.setdefault(str(scene), error)


def named_rasters(arguments: Sequence[str], refusals: Refusals) -> tuple[Path, ...]:
    """List every raster that the arguments and the lines of list files name, each once, in the order given.

    What a list names and is not there is refused; what an argument itself names and is not there is a slip of the
    pen, raised as InputError, and so is a list that cannot be read.
    """
    found: list[str] = []
    for argument in arguments:
        if not is_list(argument):
            found.append(argument)
            continue
        for line in _lines(Path(argument.removeprefix(LIST))):
            with refusals.of(line):
                expand_rasters([line])
                found.append(line)
    return expand_rasters(found) if found or not refusals.reasons else ()


def is_list(argument: str) -> bool:
    """Tell whether an argument names a list of rasters, not a raster."""
    return argument.startswith(LIST) and not os.path.exists(argument)  # noqa: PTH110 - a Path raises for some names


def _lines(path: Path) -> list[str]:
    """One path per line; blank lines and those that begin with # say nothing."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the list {path} cannot be read ({error}); wanted a text file in UTF-8 with one path per line"
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    named = [line for line in lines if line and not line.startswith("#")]
    if not named:
        raise InputError(f"the list {path} names no raster, wanted one path per line; check the file")
    return named
