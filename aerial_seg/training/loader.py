"""The batches of a run, on their way from files to the device: cut by workers, carried and finished ahead of need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aerial_seg.errors import AerialSegError, InputError, SettingsError
from aerial_seg.files.shared_bytes import SharedBytes
from aerial_seg.models.device import CPU, has_own_memory, transfer
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.samples.batch import BatchLayout, finished
from aerial_seg.training.samples.pixels import Sample
from aerial_seg.training.stopping import leave_signals_to_the_parent
from aerial_seg.training.workers import workers_at_hand

_AHEAD = 2
"""Batches that each worker may be ahead."""

Filled = tuple[Tensor, bool]
"""A batch's bytes, and whether all its pixels were measured."""


@dataclass(frozen=True, slots=True)
class Share:
    """Say which part of every batch is this process's: that of number `rank`, from 0, of `world_size`."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise SettingsError(
                f"rank is {self.rank} of {self.world_size} processes, wanted 0 to world_size - 1"
            )

    def of(self, batch: range) -> range:
        """The samples of a batch that are this process's: neighbours, as many as the others' or one fewer."""
        begin, end = (len(batch) * number // self.world_size for number in (self.rank, self.rank + 1))
        return batch[begin:end]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which samples an iteration takes, and where a worker lays them."""

    crops: CropDataset
    batch_size: int
    share: Share

    def samples(self, iteration: int) -> range:
        return self.share.of(range(iteration * self.batch_size, (iteration + 1) * self.batch_size))

    @property
    def layout(self) -> BatchLayout:
        return self.crops.layout(len(self.samples(0)))

    def fill(self, iteration: int, flat: Tensor) -> bool:
        return self.crops.fill(self.layout.split(flat), self.samples(iteration))


class Loader:
    """Give the batches of a run one after another: images (N,C,S,S) float32, channels-last, and labels (N,S,S) int64.

    They lie on the device. Iteration i (from 0) takes the samples i·batch_size to (i + 1)·batch_size − 1 of `crops`,
    whatever workers, start and device are, and a share of a batch is the same samples in every process's eyes.
    """

    def __init__(
        self,
        crops: CropDataset,
        *,
        batch_size: int,
        start: int = 0,
        share: Share | None = None,
        workers: int | Literal["auto"] = "auto",
        device: torch.device = CPU,
    ) -> None:
        """start: the iterations that are done already. share: None = all of each batch.

        Raises SettingsError for a batch that has fewer samples than there are processes.
        """
        self._plan = _Plan(crops, batch_size, share or Share())
        self._iterations = range(start, len(crops) // batch_size)
        self._device = device
        processes = self._plan.share.world_size
        if batch_size < processes:
            raise SettingsError(
                f"a batch of {batch_size} cannot be shared by {processes} processes; wanted one sample for each at "
                "least: raise training.batch_size or use fewer processes"
            )
        workers = workers_at_hand(crops, device, processes=processes) if workers == "auto" else workers
        self.workers = min(workers, len(self._iterations))

    def __len__(self) -> int:
        return len(self._iterations)

    def __iter__(self) -> Iterator[Sample]:
        """The batches from `start` to the last. Raises what reading a chip raises, in one line, from workers too."""
        filled = self._from_workers() if self.workers else self._from_here()
        return self._ahead(filled) if has_own_memory(self._device) else map(self._finish, filled)

    def _finish(self, filled: Filled) -> Sample:
        flat, all_measured = filled
        return finished(self._plan.layout.split(flat), all_measured=all_measured)

    def _from_here(self) -> Iterator[Filled]:
        flat = torch.empty(self._plan.layout.size, dtype=torch.uint8)
        for iteration in self._iterations:
            yield flat, self._plan.fill(iteration, flat)

    def _from_workers(self) -> Iterator[Filled]:
        # A worker begins a batch when an earlier one is asked for, so that so many lie between the two at the most.
        slots = _Slots(self._plan, self.workers * _AHEAD + 2)
        loader: DataLoader[Filling] = DataLoader(
            slots,
            batch_size=None,
            sampler=self._iterations,
            num_workers=self.workers,
            prefetch_factor=_AHEAD,
            worker_init_fn=leave_signals_to_the_parent,
            collate_fn=_as_it_is,  # torch looks for tensors in what it knows
            generator=torch.Generator(),  # torch's own would be elsewhere then, and dropout with it
        )
        # Workers begin now: a process that forks in a thread of its own does not hear of their deaths.
        return self._arriving(slots, iter(loader))

    def _arriving(self, slots: _Slots, fillings: Iterator[Filling]) -> Iterator[Filled]:
        try:
            for iteration, filled in zip(self._iterations, fillings, strict=True):
                if isinstance(filled, AerialSegError):
                    raise filled
                yield slots.flat(iteration), filled
        finally:
            # Else whoever keeps the error keeps the workers, too: they wait for more to do, and hold what is open.
            del fillings

    def _ahead(self, filled: Iterator[Filled]) -> Iterator[Sample]:
        """One batch is carried and finished in a thread and on a stream of its own while another is trained on."""
        way = transfer(self._device)

        def carry() -> Callable[[], Sample] | None:
            flat, all_measured = next(filled, (None, True))
            if flat is None:
                return None
            return way.ahead(flat, lambda there: self._finish((there, all_measured)))

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="load") as thread:
            coming = thread.submit(carry)
            while (arrive := coming.result()) is not None:
                coming = thread.submit(carry)
                yield arrive()


Filling = bool | AerialSegError
"""Whether all pixels of a batch were measured, or what kept a worker from making it."""


class _Slots(Dataset[Filling]):
    """Memory that workers lay batches into; only their numbers go through a queue.

    torch would send each tensor through /dev/shm, of which a container has 64 MiB, and map it anew.
    """

    def __init__(self, plan: _Plan, count: int) -> None:
        self._plan, self._count, self._size = plan, count, plan.layout.size
        self._memory = SharedBytes(count * self._size)

    def flat(self, iteration: int) -> Tensor:
        """The bytes of this iteration's batch, until `count` later ones are begun."""
        begin = iteration % self._count * self._size
        return torch.from_numpy(self._memory.bytes[begin : begin + self._size])

    def __getitem__(self, iteration: int) -> Filling:
        try:
            return self._plan.fill(iteration, self.flat(iteration))
        except AerialSegError as error:
            # Raised where it arrives: torch would put the worker's traceback into its line.
            return error


def _as_it_is(filling: Any) -> Any:
    return filling


@contextmanager
def lost_workers() -> Iterator[None]:
    """Inside, a worker's death is an error of one line; torch raises it wherever the process is at the time."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"a worker that cuts crops ended ({str(error).partition('.')[0]}), perhaps because memory ran out; set "
            "training.workers to fewer, or to 0"
        ) from error
