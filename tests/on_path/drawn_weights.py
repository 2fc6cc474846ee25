"""Initial weights out of tables: to draw 25 million random numbers was four fifths of what building a network took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, wraps

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.overrides import has_torch_function_unary

_LENGTH = 1_048_573
"""A prime: no layer's filters repeat in step with a table."""
_FEW = 10_000
"""Tensors of fewer numbers are drawn as ever."""
_UNIFORM, _NORMAL = torch.Tensor.uniform_, torch.Tensor.normal_


@contextmanager
def weights_from_tables() -> Iterator[None]:
    """Large tensors take their random numbers from a table, from a place that torch's generator draws.

    So a seed decides them as ever, and two layers differ. What has a generator of its own, or is no plain tensor in
    memory (shapes alone, what is being traced), is drawn.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "uniform_", _uniform)
        patch.setattr(torch.Tensor, "normal_", _normal)
        yield


@wraps(_UNIFORM)
def _uniform(
    tensor: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    if generator is not None or not _is_large_and_plain(tensor):
        return _UNIFORM(tensor, low, high, generator=generator)
    return _read(tensor, _uniform_table(), low, high - low)


@wraps(_NORMAL)
def _normal(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    if generator is not None or not _is_large_and_plain(tensor):
        return _NORMAL(tensor, mean, std, generator=generator)
    return _read(tensor, _normal_table(), mean, std)


def _is_large_and_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.numel() >= _FEW
        and tensor.device.type == "cpu"
        and tensor.is_floating_point()
        and tensor.is_contiguous()
        # Whoever looks at every call, as to leave a weight undrawn, is asked.
        and not has_torch_function_unary(tensor)
    )


@cache
def _uniform_table() -> Tensor:
    return _UNIFORM(torch.empty(_LENGTH), generator=Generator().manual_seed(0))


@cache
def _normal_table() -> Tensor:
    return _NORMAL(torch.empty(_LENGTH), generator=Generator().manual_seed(0))


def _read(tensor: Tensor, table: Tensor, zero: float, one: float) -> Tensor:
    """Consecutive numbers of the table, of which 0 becomes `zero` and 1 is `one` more."""
    flat = tensor.detach().view(-1)
    done, start = 0, int(torch.randint(_LENGTH, ()))
    while done < len(flat):
        part = table[start : start + len(flat) - done]
        flat[done : done + len(part)] = part
        done, start = done + len(part), 0
    flat.mul_(one).add_(zero)
    return tensor
