"""A pending batch changes when it comes, not before, and as often as it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from aerial_seg.models.pending import Logits, Pending


def batch(value: float) -> Logits:
    return np.full((1, 2, 2, 3), value, np.float32)


def test_nothing_is_waited_for_before_the_logits_are_asked_for() -> None:
    waited: list[float] = []

    def arriving(value: float) -> Pending:
        def wait() -> Logits:
            waited.append(value)
            return batch(value)

        return Pending(wait)

    joined = Pending.joined([arriving(1), arriving(2).map(lambda logits: logits * 10)], np.concatenate)
    changed = joined.map(lambda logits: logits + 1)
    assert waited == []
    np.testing.assert_array_equal(changed.logits(), np.concatenate([batch(2), batch(21)]))
    assert waited == [1, 2]


def test_a_batch_that_is_there_is_given_as_it_is() -> None:
    there = batch(1)
    assert Pending.arrived(there).logits() is there
    np.testing.assert_array_equal(Pending.arrived(there).map(np.negative).logits(), batch(-1))
    np.testing.assert_array_equal(there, batch(1))


def test_an_error_comes_to_who_asks_for_the_logits() -> None:
    def lost() -> Logits:
        raise RuntimeError("the device is gone")

    pending = Pending(lost).map(np.negative)
    with pytest.raises(RuntimeError, match="the device is gone"):
        pending.logits()
