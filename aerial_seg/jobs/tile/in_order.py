"""Work in several threads whose results come in the order of what they are made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Results for each thread that are under way or wait to be taken: more would only take memory."""


@contextmanager
def in_order(work: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[Iterator[R]]:
    """Yield what `work` makes of each item, in the order of the items; an error of it comes in its item's place.

    However the block ends, also by Ctrl-C, no thread is at work any more then: what it wrote can be deleted.
    """
    if threads == 1:
        yield map(work, items)
        return
    pool = ThreadPoolExecutor(threads, "in-order")
    try:
        yield _taken(pool, work, items, threads)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) == _AHEAD * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
