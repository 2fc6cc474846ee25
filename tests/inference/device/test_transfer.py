"""The way to a CUDA device and back, with stand-ins where there is none: what waits for what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aerial_seg.errors import SettingsError
from aerial_seg.models.device import CudaTransfer, device_peak_while, enough_memory, free_memory


class Stream:
    """Remembers its orders in one list with all others."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def wait_stream(self, other: Stream) -> None:
        """The next orders wait for those of another stream."""
        self.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: Any) -> None:
        """The next orders wait for what was ordered before the event."""
        self.log.append(f"{self.name} waits for the event on {event.place}")

    def record_event(self) -> Any:
        """An event whose wait is remembered too."""
        self.log.append(f"event on {self.name}")
        event = type("Event", (), {})()
        event.place = self.name
        event.synchronize = lambda: self.log.append("the host waits for the event")
        return event


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is ordered of a stand-in for CUDA."""
    orders: list[str] = []
    current, names = [Stream(orders, "now")], iter(("out", "home"))

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    def made(real: Any) -> Any:
        return lambda *shape, pin_memory=False, **more: (
            orders.append(f"pinned={pin_memory}") or real(*shape, **more)
        )

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(orders, next(names)))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch, "empty", made(torch.empty))
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: orders.append("pinned=True") or tensor)
    monkeypatch.setattr(
        Tensor, "record_stream", lambda tensor, stream: orders.append(f"kept for {stream.name}")
    )
    monkeypatch.setattr(
        Tensor,
        "to",
        lambda tensor, device, **more: orders.append(f"{current[-1].name} copies {more}") or tensor,
    )
    copy = Tensor.copy_

    def copies(tensor: Tensor, source: Tensor, **more: bool) -> Tensor:
        orders.append(f"{current[-1].name} copies {more}")
        return copy(tensor, source)

    monkeypatch.setattr(Tensor, "copy_", copies)
    return orders


def test_rows_travel_from_pinned_memory_beside_the_work_and_are_kept_until_it_has_read_them(
    log: list[str],
) -> None:
    there = CudaTransfer(torch.device("cuda"))
    there.to_device(there.host_rows(2, 3, dtype=torch.uint8))
    wanted = ["pinned=True", "out copies {'non_blocking': True}", "now waits for out", "kept for now"]
    assert log == wanted
    log.clear()
    there.numbers_to_device(np.arange(3))
    assert log == wanted


def test_bytes_come_home_after_they_were_made_and_are_read_after_they_have_come(log: list[str]) -> None:
    there = CudaTransfer(torch.device("cuda"))
    layer = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    wait = there.bytes_home(layer)
    assert log == [
        "pinned=True", "home waits for now", "home copies {'non_blocking': True}", "event on home", "kept for home",
    ]  # fmt: skip
    log.clear()
    np.testing.assert_array_equal(wait(), layer.numpy())
    assert log == ["the host waits for the event"]


def test_bytes_that_are_carried_ahead_are_copied_at_once_and_worked_on_beside_the_current_stream(
    log: list[str],
) -> None:
    there = CudaTransfer(torch.device("cuda"))
    flat = torch.tensor([1, 2, 3], dtype=torch.uint8)

    def work(arrived: Tensor) -> tuple[Tensor, Tensor]:
        log.append("work")
        return arrived * 2, arrived

    arrive = there.ahead(flat, work)
    flat[:] = 0  # the next batch is laid there
    assert log == [
        "pinned=True",
        "now copies {}",
        "out copies {'non_blocking': True}",
        "work",
        "event on out",
    ]
    log.clear()
    doubled, same = arrive()
    assert log == ["now waits for the event on out", "kept for now", "kept for now"]
    assert (doubled.tolist(), same.tolist()) == ([2, 4, 6], [1, 2, 3])


def test_memory_of_a_device_is_what_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert free_memory(gpu) == 130
    done: list[str] = []
    for name in ("reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: done.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 77)
    assert device_peak_while(gpu, lambda: done.append("work")) == 77
    assert done == ["reset_peak_memory_stats", "work", "synchronize"]


class CudaError(RuntimeError):
    """As torch.AcceleratorError, which is of any error of CUDA."""


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        CudaError("CUDA error: out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_memory_that_is_not_there_is_told_with_the_remedy(error: Exception) -> None:
    with (
        pytest.raises(SettingsError, match=r"^a tile does not fit into memory; take less$"),
        enough_memory("a tile", remedy="take less"),
    ):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        CudaError("CUDA error: an illegal memory access was encountered"),
        NotImplementedError("'index_cuda' not implemented for 'UInt16'"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_other_errors_of_a_device_are_not_told_as_a_lack_of_memory(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, enough_memory("a tile", remedy="take less"):
        raise error
    assert raised.value is error
