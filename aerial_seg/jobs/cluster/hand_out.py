"""Orders go out to workers and results come home, in any order, more than once, damaged or not at all."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aerial_seg.errors import AerialSegError, Incomplete, InputError, OutputError
from aerial_seg.mentions import SAME_CALL

TRIES = 3
"""So often a worker may fail before it gets no more orders, and a result may arrive damaged before that is an error."""


class TransportLost(Incomplete):
    """Tell that nothing can be handed out any more: the scheduler is lost, or all workers are."""


@dataclass(frozen=True, slots=True)
class Order:
    """Say what a worker is to do. name: as people and Dask's pages read it. work: what the worker's function takes."""

    name: str
    work: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """Say that a worker could not do an order, for a reason that is its own.

    differs: it computes otherwise than agreed, so that it is of no use for this run.
    """

    worker: str
    reason: str
    differs: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """One answer to order `number`: its result, or what kept a worker from making it. error: of who carries it."""

    number: int
    result: Any = None
    failure: Failure | None = None
    error: AerialSegError | None = None


class Line(Protocol):
    """Carries the orders of one piece of work to workers, and their answers home."""

    @property
    def window(self) -> int:
        """How many orders keep every worker at work; more would only wait."""
        ...

    def send(self, number: int, order: Order, *, without: Collection[str]) -> bool:
        """The order is on its way to a worker that is not one of these; False where there is no other."""
        ...

    def receive(self) -> Arrival:
        """The next answer, of any order. Raises TransportLost where none will come."""
        ...


def hand_out(orders: Sequence[Order], line: Line, take: Callable[[Order, Any], bool]) -> tuple[str, ...]:
    """Every order was done and `take` took its result, once each; returns what is to say of the workers.

    take: called in one thread, with each result in the order of arrival; False for one that is damaged, which is made
    again. A worker that fails TRIES times gets no more orders, and the others go on. Raises InputError with its reason
    when none is left, OutputError for a result that is damaged again and again.
    """
    waiting, done = deque(range(len(orders))), set[int]()
    damaged, strikes = Counter[int](), Counter[str]()
    reasons, sent = dict[str, Failure](), 0
    while len(done) < len(orders):
        while waiting and sent < line.window:
            if not line.send(waiting[0], orders[waiting[0]], without=_out(strikes)):
                raise _nobody_left(reasons)
            waiting.popleft()
            sent += 1
        arrival = line.receive()
        if arrival.number in done:
            continue
        sent -= 1
        order = orders[arrival.number]
        if arrival.failure is not None:
            worker = arrival.failure.worker
            reasons[worker] = arrival.failure
            strikes[worker] += TRIES if arrival.failure.differs else 1
        elif arrival.error is None and take(order, arrival.result):
            done.add(arrival.number)
            continue
        else:
            damaged[arrival.number] += 1
            if damaged[arrival.number] == TRIES:
                raise arrival.error or _damaged(order)
        waiting.appendleft(arrival.number)
    return tuple(_told(reasons[worker]) for worker in sorted(_out(strikes)))


def _out(strikes: Counter[str]) -> frozenset[str]:
    return frozenset(worker for worker, count in strikes.items() if count >= TRIES)


def _told(failure: Failure) -> str:
    times = "" if failure.differs else f" {TRIES} times"
    return f"worker {failure.worker} failed{times} ({failure.reason}); the others did its part"


def _nobody_left(reasons: dict[str, Failure]) -> InputError:
    told = "; ".join(f"worker {worker}: {failure.reason}" for worker, failure in sorted(reasons.items()))
    return InputError(
        f"no worker is left that can do the work ({told or 'there is none'}); mend that, or start workers that can, "
        f"and {SAME_CALL}"
    )


def _damaged(order: Order) -> OutputError:
    return OutputError(
        f"what workers made of {order.name} arrived damaged {TRIES} times; check the network and the memory of the "
        "machines"
    )
