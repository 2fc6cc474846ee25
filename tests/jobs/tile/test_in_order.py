"""Results come in the order of what they are made of, few are held, and nobody is at work when the block has ended."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.jobs.tile.in_order import in_order


def still_at_work() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("in-order")]


@settings(max_examples=examples(20), deadline=None)
@given(pauses=st.lists(st.integers(0, 3), max_size=30), threads=st.integers(1, 5))
def test_results_come_in_the_order_of_the_items(pauses: list[int], threads: int) -> None:
    def work(item: tuple[int, int]) -> int:
        time.sleep(item[1] / 5000)
        return item[0]

    with in_order(work, enumerate(pauses), threads=threads) as results:
        assert list(results) == list(range(len(pauses)))
    assert not still_at_work()


@pytest.mark.parametrize("threads", [2, 3])
def test_few_items_are_begun_before_their_results_are_taken(threads: int) -> None:
    begun: list[int] = []
    with in_order(lambda k: begun.append(k) or k, range(100), threads=threads) as results:
        for taken, _ in enumerate(results):
            assert len(begun) <= taken + 1 + 2 * threads
    assert sorted(begun) == list(range(100))


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_error_is_told_whichever_comes_earlier(threads: int) -> None:
    def work(item: int) -> int:
        if item == 5:
            time.sleep(0.05)
        if item in (5, 6):
            raise ValueError(str(item))
        return item

    taken = []
    with pytest.raises(ValueError, match="5"), in_order(work, range(20), threads=threads) as results:
        taken.extend(results)
    assert not still_at_work()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_nobody_is_at_work_when_the_block_has_been_left(stop: type[BaseException]) -> None:
    lock, at_work, begun = threading.Lock(), [0], [0]

    def work(_: int) -> None:
        with lock:
            at_work[0] += 1
            begun[0] += 1
        time.sleep(0.02)
        with lock:
            at_work[0] -= 1

    def leave() -> None:
        with in_order(work, range(1000), threads=3) as results:
            next(results)
            raise stop

    with pytest.raises(stop):
        leave()
    assert at_work == [0]
    assert begun[0] <= 10
    assert not still_at_work()
