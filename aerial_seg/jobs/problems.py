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
    """Gather problems; the first of a kind says it all, the others are counted and named."""

    _found: dict[tuple[Severity, str], list[tuple[str, str | None]]] = field(default_factory=dict)

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
            self.error(kind, str(error), where)

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
                told.append(
                    _together(severity, kind, [problem for problem, _ in placed], [w for _, w in placed])
                )
        return tuple(sorted(told, key=lambda one: one.severity != "error"))


def _together(severity: Severity, kind: str, problems: Sequence[str], where: Sequence[str | None]) -> Problem:
    places = tuple(dict.fromkeys(str(place) for place in where))
    others = places[1:]
    more = f" ({len(others)} more such: {listed(others, most=3)})" if others else ""
    return Problem(severity, kind, problems[0] + more, len(places), places)
