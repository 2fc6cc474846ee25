"""How many examples a law is tried on: a share of them by hand, all of them in CI.

Two profiles of hypothesis. `fast` is the default; `ci` is taken where the environment variable CI is set, or by
`pytest --hypothesis-profile=ci`. The folder of this module is on the tests' path, see pyproject.toml.
"""

from __future__ import annotations

import os

from hypothesis import settings

FULL = 60
"""Examples that a law is tried on in profile `ci` where it does not say another number."""
SHARE = 4
"""Profile `fast` tries one in so many …"""
LEAST = 5
"""… but never fewer than this, unless the full number is smaller."""


def register_profiles() -> None:
    """Make both profiles known and choose one; `--hypothesis-profile` comes later and wins.

    Machines that run the tests are shared: time says nothing about a law. CI draws the same examples every time;
    a developer's runs keep looking for new ones.
    """
    full = settings(deadline=None, max_examples=FULL, derandomize="CI" in os.environ)
    settings.register_profile("ci", full)
    settings.register_profile("fast", full, max_examples=FULL // SHARE)
    settings.load_profile("ci" if "CI" in os.environ else "fast")


def examples(full: int) -> int:
    """How many examples the chosen profile tries where `ci` tries `full`: `@settings(max_examples=examples(25))`."""
    return max(min(full, LEAST), full * settings.default.max_examples // FULL)
