"""Orders through Dask: it places them, makes those of a lost worker again elsewhere, and brings the answers home."""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError
from typing import Any

from aerial_seg.errors import OutputError
from aerial_seg.jobs.cluster.connect import Cluster
from aerial_seg.jobs.cluster.hand_out import Arrival, Failure, Order, TransportLost
from aerial_seg.jobs.cluster.library import Future, KilledWorker
from aerial_seg.mentions import SAME_CALL, setting

_LOOK_EVERY = 2.0
_WITHOUT_WORKERS = 60.0
"""Seconds: a worker that was killed is started again by then."""


class DaskLine:
    """Carry orders for one function; answers that are a Failure are told as such. Use as a context manager."""

    def __init__(self, cluster: Cluster, function: Callable[[Any], Any], *, priority: int = 0) -> None:
        self._cluster, self._function, self._priority = cluster, function, priority
        self._answers: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()
        self._sent: dict[int, tuple[Future[Any], Order, frozenset[str] | None]] = {}
        self._workers = cluster.workers()
        self._seen = self._looked = time.monotonic()

    def __enter__(self) -> DaskLine:
        return self

    def __exit__(self, *_: object) -> None:
        """What is still to be done of it is not."""
        futures = [future for future, *_ in self._sent.values()]
        self._sent.clear()
        if futures and self._cluster.client.status == "running":
            try:
                self._cluster.client.cancel(futures)
            except (OSError, TimeoutError, CancelledError):
                return

    @property
    def window(self) -> int:
        """One order for each worker that is there."""
        return max(1, len(self._workers))

    def send(self, number: int, order: Order, *, without: Collection[str]) -> bool:
        """The order is on its way; Dask decides where, unless there are workers that get no more."""
        allowed = None
        if without:
            self._workers = self._cluster.workers()
            allowed = frozenset(self._workers) - frozenset(without)
            if not allowed:
                return False
        try:
            future = self._cluster.client.submit(
                self._function,
                order.work,
                key=f"{order.name}-{uuid.uuid4().hex[:8]}",
                pure=False,
                priority=self._priority,
                workers=None if allowed is None else sorted(allowed),
            )
        except (OSError, RuntimeError, CancelledError) as error:
            raise self._lost() from error
        self._sent[number] = future, order, allowed
        future.add_done_callback(lambda done: self._answers.put((number, done)))
        return True

    def receive(self) -> Arrival:
        """The next answer. Raises TransportLost where the scheduler or all workers are gone."""
        while True:
            try:
                number, future = self._answers.get(timeout=_LOOK_EVERY)
            except queue.Empty:
                gone = self._look()
                if gone is not None:
                    return gone
                continue
            if number in self._sent and self._sent[number][0] is future:
                return self._answer(number)

    def _answer(self, number: int) -> Arrival:
        future, order, _ = self._sent.pop(number)
        self._look_again_later()
        try:
            result = future.result()
        except KilledWorker as error:
            return Arrival(number, error=_killed(order, error))
        except (OSError, TimeoutError, CancelledError) as error:
            if self._cluster.client.status != "running":
                raise self._lost() from error
            return Arrival(number, error=OutputError(f"{order.name} did not come home ({error})"))
        finally:
            future.release()
        return Arrival(number, failure=result) if isinstance(result, Failure) else Arrival(number, result)

    def _look_again_later(self) -> None:
        if time.monotonic() - self._looked > _LOOK_EVERY:
            self._look()

    def _look(self) -> Arrival | None:
        """Whether all is well: the answer to an order that nobody can do any more, if there is one."""
        self._looked = time.monotonic()
        if self._cluster.client.status != "running":
            raise self._lost()
        try:
            self._workers = self._cluster.workers()
        except (OSError, TimeoutError, CancelledError) as error:
            raise self._lost() from error
        if self._workers:
            self._seen = self._looked
        elif self._looked - self._seen > _WITHOUT_WORKERS:
            raise TransportLost(
                f"no worker is left, and none came for {_WITHOUT_WORKERS:.0f} s; {SAME_CALL} to go on"
            )
        for number, (_, _, allowed) in self._sent.items():
            if allowed is not None and not allowed & frozenset(self._workers):
                self._sent.pop(number)
                return Arrival(number, failure=Failure(min(allowed), "it is gone"))
        return None

    def _lost(self) -> TransportLost:
        return TransportLost(
            f"the scheduler of {setting('workers')} does not answer any more; start it again and {SAME_CALL} to go on"
        )


def _killed(order: Order, error: KilledWorker) -> OutputError:
    return OutputError(
        f"{order.name}: every worker that began it was lost, the last one {error.last_worker}; if the system "
        f"ended them for lack of memory, pass a smaller {setting('max_memory')} or {setting('batch_size')}"
    )
