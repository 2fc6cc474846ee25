"""torch.compile with frozen weights, and whether it works on this machine."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

# torch._dynamo and torch._inductor take more than a second to import: only inside functions that need them.


class CompileFailed(RuntimeError):
    """Tell in one line why torch.compile raised. Caught by whoever asked for compiling."""


class CompiledForward:
    """Run a network's forward, compiled in its first call, for batches of that one shape, without grad.

    Freezing lets inductor fold weights and pack them for the CPU's convolutions once: that is where its speed is from.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._device = device
        self._forward: Any = torch.compile(network, dynamic=False)
        self._compiled_for: torch.Size | None = None

    def __call__(self, batch: Tensor) -> Tensor:
        """images (N,C,H,W) → logits (N,K,h,w)."""
        if batch.shape == self._compiled_for:
            logits: Tensor = self._forward(batch)
            return logits
        logits = _compiling(self._forward, batch, self._device)
        self._compiled_for = batch.shape
        return logits


def compile_problem(device: torch.device) -> str | None:
    """Tell why torch.compile does not work here, by compiling next to nothing (3 s); None when it works."""
    try:
        with torch.inference_mode():
            _compiling(torch.compile(_tiny, dynamic=False), torch.ones(64, device=device), device)
    except RuntimeError as error:  # CompileFailed, or torch.compile refuses this version of Python
        return str(error)
    return None


def _tiny(values: Tensor) -> Tensor:
    return torch.relu(values) + 1


def _compiling(forward: Any, batch: Tensor, device: torch.device) -> Tensor:
    from torch._dynamo.exc import TorchDynamoException

    try:
        with _inductor_settings(device):
            logits: Tensor = forward(batch)
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        lines = [line.strip() for line in str(cause).splitlines()]
        text = next(filter(None, lines), "no reason given")
        raise CompileFailed(f"{type(cause).__name__}: {text}") from error
    return logits


def _inductor_settings(device: torch.device) -> AbstractContextManager[object]:
    from torch._inductor import config

    wanted = {"freezing": device.type == "cpu"}
    if device.type == "cuda" and hasattr(config, "deterministic"):  # newer torch: no kernel chosen by timing
        wanted["deterministic"] = True
    patched: AbstractContextManager[object] = config.patch(wanted)
    return patched
