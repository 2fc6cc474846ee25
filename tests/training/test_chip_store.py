"""What a store keeps are the very bytes, for all processes of a run, and no more of them than its budget."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from made_chips import MadeReader, Refusing, look

from aerial_seg.training.samples import chip_store
from aerial_seg.training.samples.chip_store import ChipStore, stores
from aerial_seg.training.samples.pixels import Pixels

SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8)


def same(one: Pixels, other: Pixels) -> None:
    """Values, dtypes and what was measured are alike."""
    for got, wanted in zip((one.image, one.labels), (other.image, other.labels), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
    assert (one.valid is None) == (other.valid is None)
    if one.valid is not None and other.valid is not None:
        np.testing.assert_array_equal(one.valid, other.valid)


@given(
    shapes=SHAPES,
    budget=st.integers(0, 5000),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32", "float64"]),
    count=st.integers(1, 5),
    holes=st.sampled_from([0.0, 0.4]),
    data=st.data(),
)
def test_a_store_gives_what_its_reader_gives_and_keeps_no_more_than_its_budget(
    shapes: list[tuple[int, int]], budget: int, dtype: str, count: int, holes: float, data: st.DataObject
) -> None:
    reader = MadeReader(shapes, dtype=dtype, count=count, holes=holes)
    asked = data.draw(st.lists(st.integers(0, len(shapes) - 1), max_size=30))
    store = ChipStore(reader, budget=budget)
    assert len(store) == len(shapes)
    for index in asked:
        height, width = shapes[index]
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        window = slice(top, height), slice(left, width)
        same(store.read(index, lambda *_, window=window: window), reader.pixels(index).cut(window))
        same(store.read(index), reader.pixels(index))
    spared = {index for index in asked if reader.read_so_far.count(index) < 2 * asked.count(index)}
    assert sum(reader.pixels(index).image.nbytes for index in spared) <= budget
    if budget >= len(shapes) * (81 * (8 * count + 2) + 128):
        assert sorted(reader.read_so_far) == sorted(set(asked))


def test_a_datasets_stores_keep_a_quarter_of_the_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and validation chips each took one: half of what was free."""
    readers = [MadeReader([(16, 16)] * 40), MadeReader([(16, 16)] * 40)]
    each = ChipStore(readers[0], budget=10**9).room // 40
    for free, kept in ((60, (15, 0)), (4 * 50, (40, 10)), (4 * 500, (40, 40))):
        monkeypatch.setattr(chip_store, "available_memory", lambda free=free: free * each + 8)
        assert tuple(one.room // each for one in stores(*readers)) == kept


def test_what_is_kept_takes_the_room_of_the_files_pixels_and_not_of_floats() -> None:
    side, chips = 256, 20
    reader = MadeReader([(side, side)] * chips)
    # Before, a pixel of three bands took 13 bytes in each worker.
    store = ChipStore(reader, budget=chips * side**2 * 5 + chips * 128)
    for _ in range(2):
        for index in range(chips):
            store.read(index)
    assert reader.read_so_far == list(range(chips))


def test_processes_of_one_machine_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    chips, room = 20, 8 * 8 * 5 + 64
    monkeypatch.setattr("aerial_seg.training.samples.chip_store.available_memory", lambda: 4 * room * chips)
    for processes, kept in (("1", 20), ("4", 5)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        reader = MadeReader([(8, 8)] * chips)
        store = ChipStore(reader)
        for index in (*range(chips), *range(chips)):
            store.read(index)
        assert len(reader.read_so_far) == 2 * chips - kept


def test_images_larger_than_those_that_were_looked_at_are_read_each_time() -> None:
    shapes = [(8, 8)] * 64
    shapes[1] = (9, 30)  # of 64, each fourth one's size is looked at
    reader = MadeReader(shapes)
    store = ChipStore(reader, budget=10**6)
    for index in (1, 1, 2, 2):
        same(store.read(index), reader.pixels(index))
    assert reader.read_so_far == [1, 1, 2]


def test_kept_images_cannot_be_written_to() -> None:
    store = ChipStore(MadeReader([(8, 8)]))
    store.read(0)
    with pytest.raises(ValueError, match="read-only"):
        store.read(0).image[...] = 0


def test_a_system_without_such_memory_reads_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("aerial_seg.training.samples.chip_store.SharedBytes", refuse)
    reader = MadeReader([(8, 8)])
    store = ChipStore(reader)
    assert torch.equal(store[0][0], store[0][0])
    assert reader.read_so_far == [0, 0]


@settings(max_examples=examples(40))
@given(damage=st.lists(st.integers(0, 8 * 8 * 5 + 63), min_size=1, max_size=4), value=st.integers(1, 255))
def test_what_is_not_whole_yet_is_read_from_its_file(damage: list[int], value: int) -> None:
    """Another process may be in the middle of writing it: any of its bytes may still be another one."""
    reader = MadeReader([(8, 8)])
    store = ChipStore(reader)
    store.read(0)
    for place in damage:
        store._memory.bytes[place] ^= value  # type: ignore[union-attr]
    store._is_whole[0] = 0  # as in a process that has not seen it yet
    for _ in range(2):
        same(store.read(0), reader.pixels(0))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_what_one_process_decoded_no_other_decodes(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {method}")
    ways = multiprocessing.get_context(method)
    reader = Refusing([(40, 30)] * 4, holes=0.2)
    store = ChipStore(reader)
    queue: Any = ways.Queue()
    child = start(ways, store, queue)
    # Forked or begun from nothing before anything was kept: it is the memory that is one.
    wanted = [(int(store.read(k).image.sum()), int(store.read(k).labels.sum())) for k in range(4)]
    child.start()
    assert queue.get(timeout=600) == wanted
    child.join(60)


def start(ways: BaseContext, store: ChipStore, queue: Any) -> Any:
    """A process that looks at all four images."""
    return ways.Process(target=look, args=(store, queue, list(range(4))))  # type: ignore[attr-defined]
