"""What a run did not try, said at its end: every skipped test lacks a program, a package, data or a device."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

import pytest


class Skipped(Protocol):
    """What pytest reports of a skipped test or of a skipped file of tests."""

    longrepr: object


def reasons(reports: Iterable[Skipped]) -> list[str]:
    """A line per reason, those of most tests first: how many tests, and what they need."""
    counted: Counter[str] = Counter()
    for report in reports:
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        counted[re.sub("^Skipped: ", "", str(reason))] += 1
    return [
        f"{count} {'test' if count == 1 else 'tests'}: {reason}" for reason, count in counted.most_common()
    ]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Ends a run by what it did not try, below all other summaries; `-q` and `-r` do not hide it."""
    yield
    lines = reasons(terminalreporter.stats.get("skipped", []))
    if lines:
        terminalreporter.section("NOT TRIED HERE", yellow=True, bold=True)
        for line in lines:
            terminalreporter.line(line, yellow=True)
