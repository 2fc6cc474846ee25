"""All that is wrong, gathered before anybody stops: errors first, then what is only doubtful."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from aerial_seg.documents import listed
from aerial_seg.errors import AerialSegError

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Tell of one kind of trouble, and how often it comes.

    kind: a word for scripts. problem: one line that says got, wanted and the remedy. where: the names of all chips or
    files that have it.
    """

    severity: Severity
    kind: str
    problem: str
    count: int = 1
    where: tuple[str, ...] = ()


@dataclass(slots=True)
class Problems:
    """Gather problems; the first of a kind says it all, the others are counted and named.

    stops: whether the work ends with the first stage that has errors, see stage_ends.
    """

    stops: bool = False
    _found: dict[tuple[Severity, str], list[tuple[str, str | None]]] = field(default_factory=dict)
    _raised: list[AerialSegError] = field(default_factory=list)

    def error(self, kind: str, problem: str, where: str | None = None) -> None:
        """What keeps the work from being done, or the result from being right."""
        self._found.setdefault(("error", kind), []).append((problem, where))

    def warning(self, kind: str, problem: str, where: str | None = None) -> None:
        """What should be looked at."""
        self._found.setdefault(("warning", kind), []).append((problem, where))

    @contextmanager
    def catching(self, kind: str, where: str | None = None) -> Iterator[None]:
        """An error of the block that a user can mend is one of the problems, and the work goes on behind it."""
        try:
            yield
        except AerialSegError as error:
            self.caught(kind, error, where)

    def caught(self, kind: str, error: AerialSegError, where: str | None = None) -> None:
        """An error that was raised and does not end the work."""
        self.error(kind, str(error), where)
        self._raised.append(error)

    @property
    def number_of_errors(self) -> int:
        """How many errors were found so far."""
        return sum(len(found) for (severity, _), found in self._found.items() if severity == "error")

    def stage_ends(self) -> None:
        """Raise the first error that was caught, with the number of the others, where the work stops at errors."""
        if not self.stops or not self._raised:
            return
        first, *others = self._raised
        if others:
            first.args = (
                f"{first} ({len(others)} more error{'s' if len(others) > 1 else ''}: `aerial-seg tile --dry-run` with "
                "the same arguments lists all)",
            )
        raise first

    @property
    def has_errors(self) -> bool:
        """Whether one of them is an error."""
        return any(severity == "error" for severity, _ in self._found)

    def all(self) -> tuple[Problem, ...]:
        """Every problem, errors first, otherwise in the order in which they were found.

        Those of one kind that lie in named places are one problem with their number; others stand for themselves.
        """
        told: list[Problem] = []
        for (severity, kind), found in self._found.items():
            placed = [(problem, where) for problem, where in found if where is not None]
            told += [
                Problem(severity, kind, problem) for problem, where in dict.fromkeys(found) if where is None
            ]
            if placed:
                told.append(_together(severity, kind, placed))
        once = {one.problem: one for one in reversed(told)}
        return tuple(
            sorted((one for one in told if once[one.problem] is one), key=lambda one: one.severity != "error")
        )


def _together(severity: Severity, kind: str, placed: Sequence[tuple[str, str]]) -> Problem:
    places = tuple(dict.fromkeys(where for _, where in placed))
    others = places[1:]
    more = f" ({len(others)} more such: {listed(others, most=3)})" if others else ""
    return Problem(severity, kind, placed[0][0] + more, len(places), places)
