"""The other processes of a training: started, told their places, and ended, whatever ends this one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from typing import Any

import torch
from torch import distributed

from aerial_seg.errors import AerialSegError, SettingsError
from aerial_seg.training.processes import told_count, told_rank
from aerial_seg.training.stopping import deaf_from_birth, leave_signals_to_the_first

_PATIENCE = 20.0
"""Seconds for a process whose companion failed to say why that was."""

_ASKING = threading.Lock()


class CompanionError(AerialSegError):
    """Another process of the training ended, and did not say why in a line of ours."""


def started_by_others() -> bool:
    """Whether torchrun started this process, and its companions."""
    return told_count() > 1


def is_onlooker() -> bool:
    """Whether torchrun started this process, and another of its processes writes the run and speaks."""
    return started_by_others() and told_rank() != 0


@contextmanager
def companions(count: int, work: Callable[..., object], *given: Any) -> Iterator[None]:
    """Inside, this process is number 0 of `count`; the others run `work(*given)` and are gone afterwards.

    They begin from nothing, so work and what it is given must be picklable. An error of theirs comes out of the block
    in place of what it led to here. They neither heed Ctrl-C and a scheduler's signals nor write: this process decides.
    Raises SettingsError for what cannot be sent to them, CompanionError when one is gone without a line of ours.
    """
    if count == 1:
        yield
        return
    # Where all meet is open before anybody is told of it: a free port's number could be taken by then.
    # TCPStore is documented as torch.distributed's, but no list of its names holds it.
    meeting = distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    port, threads = meeting.port, torch.get_num_threads()
    told = _environment(0, count, port)
    before = {name: os.environ.get(name) for name in (*told, "OMP_NUM_THREADS")}  # the last one is Fabric's
    others: list[_Companion] = []
    try:
        for rank in range(1, count):
            others.append(
                _start(rank, max(1, threads // count), _environment(rank, count, port), work, given)
            )
        os.environ.update(told)
        torch.set_num_threads(max(1, threads // count))
        threading.Thread(target=_wake, args=(others,), daemon=True).start()
        with _their_errors_first(others):
            yield
        for other in others:
            other.process.join()
        _raise_theirs(others)
    finally:
        _end(others)
        if distributed.is_initialized():
            distributed.destroy_process_group()
        torch.set_num_threads(threads)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@dataclass(frozen=True, slots=True)
class _Companion:
    """A process, and where it says what went wrong."""

    rank: int
    process: BaseProcess
    connection: Any  # of another class on Windows


def _start(
    rank: int, threads: int, told: Mapping[str, str], work: Callable[..., object], given: tuple[Any, ...]
) -> _Companion:
    context = get_context("spawn")
    with deaf_from_birth():
        resource_tracker.ensure_running()  # SIGUSR1 would end it; as it begins it lets others in again
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(told, threads, there, work, given), name=f"train {rank}")
    try:
        with deaf_from_birth():
            process.start()
    except (AttributeError, TypeError, ValueError, PicklingError) as error:
        raise SettingsError(
            f"several processes are sent what they train, and that cannot be sent ({error}); define networks at the "
            "top of a module that can be imported, or train in one process"
        ) from error
    there.close()
    return _Companion(rank, process, here)


@contextmanager
def _their_errors_first(others: Sequence[_Companion]) -> Iterator[None]:
    """What breaks here because a companion broke comes out as that one's error."""
    try:
        yield
    except RuntimeError:  # of the connection to a companion that is gone, as a rule
        wait([other.process.sentinel for other in others], timeout=_PATIENCE)
        _raise_theirs(others)
        raise


def _raise_theirs(others: Sequence[_Companion]) -> None:
    said = [(other, _heard(other)) for other in others]
    for _, error in said:
        if isinstance(error, AerialSegError):
            raise error
    for other, error in said:
        if _exit_code(other) not in (0, None):
            how = f": {error}" if error else f" with exit code {_exit_code(other)}"
            raise CompanionError(
                f"process {other.rank} of the training ended{how}; where it says no more, memory may have run out: "
                "use fewer processes or a smaller training.crop"
            )


def _exit_code(other: _Companion) -> int | None:
    """None while it runs. Two threads that ask at once would take the answer from each other."""
    with _ASKING:
        if wait([other.process.sentinel], timeout=0):
            other.process.join(_PATIENCE)  # it has closed its files, and is about to end
        return other.process.exitcode


def _heard(other: _Companion) -> AerialSegError | str | None:
    """What a companion said, if it did."""
    try:
        heard: AerialSegError | str | None = other.connection.recv() if other.connection.poll() else None
    except EOFError:
        return None
    return heard


def _wake(others: Sequence[_Companion]) -> None:
    """GPUs wait for a companion that is gone without noticing; connections of the CPU's kind are closed."""
    for _ in others:
        wait([other.process.sentinel for other in others if _exit_code(other) is None])
        failed = any(_exit_code(other) for other in others)
        if failed and distributed.is_initialized() and distributed.get_backend() == "nccl":
            distributed.distributed_c10d._abort_process_group()
            return


def _end(others: Sequence[_Companion]) -> None:
    for other in others:
        other.process.kill()  # it heeds nothing else, and writes nothing
    for other in others:
        other.process.join()
        other.connection.close()


def _run(
    told: Mapping[str, str],
    threads: int,
    connection: Connection,
    work: Callable[..., object],
    given: tuple[Any, ...],
) -> None:
    """A companion's whole life."""
    leave_signals_to_the_first()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(told)
    torch.set_num_threads(threads)
    try:
        work(*given)
    except KeyboardInterrupt:  # as the first process told it to
        pass
    except (AerialSegError, RuntimeError, OSError, MemoryError) as error:
        said = error if isinstance(error, AerialSegError) else _first_line(error)
        with suppress(OSError):  # the parent may be gone
            connection.send(said)
        raise SystemExit(error.exit_code if isinstance(error, AerialSegError) else 1) from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")


def _end_with_parent() -> None:
    """A companion whose parent was killed would wait for it for a day."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun would tell a process on one machine."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
