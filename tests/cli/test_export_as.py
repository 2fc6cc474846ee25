"""export --as: what it refuses before it reads the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--as", "mmseg", "-o", "out.onnx"], 2, "out.onnx does not end in .pth, as checkpoints do"),
        (
            ["--as", "mmseg", "-o", "out.pth", "--logits"],
            2,
            "are about an ONNX file; leave them out with --as",
        ),
        (["--as", "caffe", "-o", "out.pth"], 2, "'caffe' is not one of 'torchvision', 'mmseg'"),
    ],
)
def test_bad_commands_end_in_a_line(
    run: Callable[..., Any], tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run("export", "model.safetensors", *arguments)
    assert result.code == code
    assert message in result.err
    assert not list(tmp_path.iterdir())
