"""How many examples a law is tried on: a share of them by hand, all of them in CI.

Two profiles of hypothesis. `fast` is the default; `ci` is taken where the environment variable CI is set, or by
`pytest --hypothesis-profile=ci`. The folder of this module is on the tests' path, see pyproject.toml.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

FULL = 60
"""Examples that a law is tried on in profile `ci` where it does not say another number."""
SHARE = 4
"""Profile `fast` tries one in so many …"""
LEAST = 5
"""… but never fewer than this, unless the full number is smaller."""


def register_profiles() -> None:
    """Make both profiles known and choose one; `--hypothesis-profile` comes later and wins.

    Machines that run the tests are shared: time says nothing about a law, nor about how its examples are drawn. CI
    draws the same examples every time; a developer's runs keep looking for new ones.
    """
    slow_machine = [HealthCheck.too_slow]
    full = settings(
        deadline=None, max_examples=FULL, derandomize="CI" in os.environ, suppress_health_check=slow_machine
    )
    settings.register_profile("ci", full)
    settings.register_profile("fast", full, max_examples=FULL // SHARE)
    settings.load_profile("ci" if "CI" in os.environ else "fast")


def examples(full: int) -> int:
    """How many examples the chosen profile tries where `ci` tries `full`: `@settings(max_examples=examples(25))`."""
    return max(min(full, LEAST), full * settings.default.max_examples // FULL)


def few(cases: Iterable[Any], *, quick: int) -> list[Any]:
    """The cases of a parametrized proof, of which all but the first `quick` are slow: CI tries them all."""
    made, left = [], quick
    for case in cases:
        param = case if hasattr(case, "marks") else pytest.param(case)
        is_slow = any(mark.name == "slow" for mark in param.marks)
        if is_slow or left > 0:
            made.append(param)
            left -= not is_slow
        else:
            made.append(pytest.param(*param.values, id=param.id, marks=[*param.marks, pytest.mark.slow]))
    return made
