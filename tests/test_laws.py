"""Laws are tried on a share of their examples by hand and on all of them in CI, and no test sets itself apart."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from laws import FULL, examples

TESTS = Path(__file__).parent


@pytest.fixture
def chosen() -> Iterator[None]:
    """The profile of this run, which is chosen again after the test."""
    name = "ci" if settings().max_examples == FULL else "fast"
    yield
    settings.load_profile(name)


@pytest.mark.parametrize(
    ("profile", "all_of_them", "some"),
    [("ci", 60, {1: 1, 3: 3, 8: 8, 25: 25, 300: 300}), ("fast", 15, {1: 1, 3: 3, 8: 5, 25: 6, 300: 75})],
)
@pytest.mark.usefixtures("chosen")
def test_a_profile_scales_what_a_test_asks_for(profile: str, all_of_them: int, some: dict[int, int]) -> None:
    settings.load_profile(profile)
    assert settings().max_examples == all_of_them
    assert {full: examples(full) for full in some} == some
    assert settings().deadline is None


def test_every_test_that_says_a_number_of_examples_lets_the_profile_scale_it() -> None:
    said: list[ast.expr] = []
    for path in sorted(TESTS.rglob("*.py")):
        if "on_path" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for word in node.keywords if isinstance(node, ast.Call) else ():
                if word.arg == "max_examples":
                    assert isinstance(word.value, ast.Call), f"{path}: max_examples without examples(…)"
                    said.append(word.value.func)
    assert len(said) > 50
    assert {ast.unparse(function) for function in said} == {"examples"}
