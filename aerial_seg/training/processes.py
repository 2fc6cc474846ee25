"""The processes that train one network together: who one is, and sums over all of them that gradients pass through."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch import distributed as group

_PER_SEED = 1_000_003
"""A prime: updates of two seeds draw the same numbers after so many of them."""
_ALONE: ContextVar[bool] = ContextVar("_ALONE", default=False)


def told_count() -> int:
    """How many processes torchrun, or who started this one in its way, says that train together; 1 where nobody did."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def told_rank() -> int:
    """Which of them this one is said to be."""
    return int(os.environ.get("RANK", "0"))


def told_count_here(unless_told: int = 1) -> int:
    """How many of them are said to be on this machine, which share its memory and its cores."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", unless_told)))


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is the only one, also where it has met others: these wait for it, and would not answer."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


def count() -> int:
    """How many processes train together; 1 without any others."""
    have_met = not _ALONE.get() and group.is_available() and group.is_initialized()
    return group.get_world_size() if have_met else 1


def rank() -> int:
    """Which of them this one is, from 0; only number 0 writes and speaks."""
    return group.get_rank() if count() > 1 else 0


def first_goes_on(goes_on: bool, device: torch.device) -> bool:
    """Whether the first process goes on, which it says here; the others wait until it does. device: this one's own."""
    if count() == 1:
        return goes_on
    ending = torch.tensor(int(rank() == 0 and not goes_on), device=device)
    group.all_reduce(ending)
    return not ending.item()


def from_the_first(values: Tensor) -> None:
    """The values, in place, are those that the first process has; no gradient passes."""
    if count() > 1:
        group.broadcast(values, src=0)


def seed_of_update(seed: int, iteration: int) -> int:
    """The seed of what this process draws in an update, as dropout: each its own, and after a stop the same again.

    torch takes 64 bits; a recipe's seed may have 63.
    """
    return ((seed * _PER_SEED + iteration) * count() + rank()) % 2**63


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of the values of all processes, the same in each; the gradient passes to all.

    Each process counts the loss that they all share as its own, so gradients come out `count()` times too large and
    the mean over processes, which DistributedDataParallel takes, is the gradient of that loss.
    """
    summed: Tensor = _Sum.apply(values) if count() > 1 else values
    return summed


def gathered(values: Tensor) -> Tensor:
    """The values of all processes one behind the other, the same in each; no gradient passes. All have as many."""
    if count() == 1:
        return values
    sent = values.detach().contiguous()
    # Not every backend knows bool.
    sent = sent.to(torch.uint8) if sent.dtype == torch.bool else sent
    found = [torch.empty_like(sent) for _ in range(count())]
    group.all_gather(found, sent)
    return torch.cat(found).to(values.dtype)


class _Sum(torch.autograd.Function):
    """torch.distributed's own differentiable sum is marked for removal; this is all of it."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(values: Tensor) -> Tensor:
    total = values.detach().clone(memory_format=torch.contiguous_format)
    group.all_reduce(total)
    return total
