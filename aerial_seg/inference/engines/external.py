"""What engines outside torch share: the prepared network as a graph for batches of one shape, and its failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino",),
}
"""By engine, which is also the name of its extra: the packages it needs, the one that computes first."""

EXTERNAL = tuple(PACKAGES)


class ExternalFailed(RuntimeError):
    """Tell in one line why an engine outside torch cannot run a network. Caught by who asked for it."""


def check_installed(engine: str) -> None:
    """Raise SettingsError unless the packages of the engine are there."""
    missing = [name for name in PACKAGES[engine] if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"{setting('engine', engine)} needs {', '.join(missing)}, which is not installed; "
            f"pip install 'aerial-seg[{engine}]' or use {setting('engine', 'auto')}"
        )


def library_of(engine: str) -> str | None:
    """Name what computes in place of torch, as `onnxruntime 1.20.1`; None where torch does."""
    if engine not in PACKAGES:
        return None
    package = PACKAGES[engine][0]
    return f"{package} {version(package)}"


def traced(
    network: nn.Module, batch: Tensor, decompositions: dict[Any, Callable[..., Tensor]] | None = None
) -> torch.export.ExportedProgram:
    """Return the network's graph for batches of this very shape; with decompositions, in these operators.

    Raises ExternalFailed for a network that torch cannot trace.
    """
    with failing(RuntimeError, ValueError), torch.no_grad():  # the former are torch.export's own, too
        program = torch.export.export(network, (torch.zeros_like(batch),), strict=False)
        return program if decompositions is None else program.run_decompositions(decompositions)


@contextmanager
def failing(*expected: type[BaseException]) -> Iterator[None]:
    """Turn these errors of the block into ExternalFailed with the first line of the innermost one."""
    try:
        yield
    except expected as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = (line.strip() for line in str(cause).splitlines())
        reason = f"{type(cause).__name__}: {next(filter(None, lines), 'no reason given')}"
        raise ExternalFailed(reason) from error
