"""Problems as they are told: errors first, one line each, and the exit code that follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .. import console
from ..setting_options import as_flags

if TYPE_CHECKING:
    from aerial_seg.jobs.problems import Problem


def show(problems: Sequence[Problem]) -> None:
    """A line on stdout for each, with its number of chips or files where these are several."""
    for one in problems:
        times = f" ({one.count:,} ×)" if one.count > 1 else ""
        console.say(f"{one.severity}{times}: {console.one_line(as_flags(one.problem))}")
    if problems:
        console.say()


def summary(problems: Sequence[Problem]) -> str:
    """How many there are of each kind."""
    errors = sum(one.severity == "error" for one in problems)
    return f"{_number(errors, 'error')}, {_number(len(problems) - errors, 'warning')}"


def end(problems: Sequence[Problem]) -> None:
    """The command ends with 1 where one of them is an error."""
    if any(one.severity == "error" for one in problems):
        raise click.exceptions.Exit(1)


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
