from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import aerial_seg

VERBS = frozenset((
    "add", "answer", "begin", "bring", "build", "call", "check", "choose", "collect", "compute", "count", "cut",
    "describe", "draw", "estimate", "evaluate", "export", "find", "fold", "foretell", "give", "hand", "hold", "import",
    "keep", "leave", "let", "list", "load", "make", "map", "measure", "move", "name", "note", "open", "plan",
    "predict", "put", "raise", "read", "remember", "remove", "resize", "return", "run", "say", "score", "settle",
    "show", "split", "start", "take", "tell", "train", "try", "turn", "wait", "watch", "write",
))  # fmt: skip
"""What first lines begin with. A new verb is added here, by somebody who has looked whether it is one."""


def first_word(documentation: str) -> str:
    return documentation.split(maxsplit=1)[0].lower()


def test_every_public_name_is_there_and_documented() -> None:
    for name in aerial_seg.__all__:
        thing = getattr(aerial_seg, name)
        assert name == "__version__" or thing.__doc__, name
    assert len(set(aerial_seg.__all__)) == len(aerial_seg.__all__)
    assert set(aerial_seg.__all__) == set(aerial_seg._ROOM_OF)


@pytest.mark.parametrize("name", [name for name in aerial_seg.__all__ if name != "__version__"])
def test_the_documentation_of_a_public_name_begins_with_a_verb(name: str) -> None:
    told = getattr(aerial_seg, name).__doc__
    assert first_word(told) in VERBS, told.splitlines()[0]


@pytest.mark.parametrize(
    "riddle",
    ["One map.", "How to cut.", "`out` is the mask.", "The field's parameters.", "What was written."],
)
def test_a_riddle_is_no_verb(riddle: str) -> None:
    assert first_word(riddle) not in VERBS


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, aerial_seg; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert not {"torch", "rasterio", "geopandas", "numpy", "pydantic"} & set(done.stdout.split())


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(aerial_seg, "nothing_of_the_kind")
