"""The batches of a run are those of their numbers, whoever cuts them, wherever it begins and however it is shared."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import made_chips
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from made_chips import MadeReader

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.operating_system import WINDOWS
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training import loader as loader_module
from aerial_seg.training import workers as workers_module
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.loader import Loader, Share, lost_workers
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.pixels import Choose, Pixels, Sample, whole
from aerial_seg.training.workers import workers_at_hand


def crops(
    reader: MadeReader | None = None, *, length: int = 24, crop: int = 16, budget: int | None = None
) -> CropDataset:
    """Of five chips with holes that are narrower than some windows."""
    reader = reader or MadeReader([(20, 24)] * 5, holes=0.1)
    changes = AugmentationSettings(scale=(0.7, 1.5), stay_inside=False)
    return CropDataset(
        ChipStore(reader, budget=budget), length=length, crop=crop, augmentation=changes, seed=3
    )


def same(batch: Sample, wanted: list[Sample]) -> None:
    images, labels = batch
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, torch.stack([image for image, _ in wanted]))
    assert torch.equal(labels, torch.stack([label for _, label in wanted]))


@given(
    batch_size=st.integers(1, 7),
    start=st.integers(0, 30),
    world=st.integers(1, 4),
    length=st.integers(1, 24),
)
def test_batches_are_the_samples_of_their_numbers_from_any_start_in_any_share(
    batch_size: int, start: int, world: int, length: int
) -> None:
    made = crops(length=length)
    if batch_size < world:
        with pytest.raises(SettingsError, match=f"batch of {batch_size} cannot be shared by {world}"):
            Loader(made, batch_size=batch_size, share=Share(0, world))
        return
    ranks = [
        Loader(made, batch_size=batch_size, start=start, share=Share(rank, world), workers=0)
        for rank in range(world)
    ]
    iterations = range(start, length // batch_size)
    for iteration, parts in zip(iterations, zip(*ranks, strict=True), strict=True):
        own = range(iteration * batch_size, (iteration + 1) * batch_size)
        samples = [made[index] for index in own]
        together = torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
        same((together[0].contiguous(memory_format=torch.channels_last), together[1]), samples)
        sizes = [len(images) for images, _ in parts]
        assert max(sizes) - min(sizes) <= 1
    assert len(ranks[0]) == len(iterations)


@pytest.mark.parametrize(("rank", "world"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_that_there_is_not_is_refused(rank: int, world: int) -> None:
    with pytest.raises(SettingsError, match=f"rank is {rank} of {world}"):
        Share(rank, world)


@dataclass
class SlowReader(MadeReader):
    """Takes longer for some images than for others, so that workers overtake each other."""

    delays: dict[int, float] = field(default_factory=dict)

    def read(self, index: int, choose: Choose = whole) -> Pixels:
        """The chosen window, late."""
        time.sleep(self.delays.get(index, 0.0))
        return super().read(index, choose)


@settings(max_examples=examples(16))
@given(
    workers=st.integers(1, 3),
    start=st.integers(0, 3),
    slow=st.sets(st.integers(0, 4), max_size=2),
    pause=st.sampled_from([0.0, 0.004]),
)
def test_workers_change_no_bit_of_any_batch(workers: int, start: int, slow: set[int], pause: float) -> None:
    """Whether they or the network are the slower: no batch is written over before it was taken."""
    reader = SlowReader([(20, 24)] * 5, holes=0.1, delays=dict.fromkeys(slow, 0.004))
    made = crops(reader, length=60, budget=0)
    before = torch.get_rng_state()
    arrived = []
    for batch in Loader(made, batch_size=3, start=start, workers=workers):
        arrived.append(batch)
        time.sleep(pause)
    assert torch.equal(torch.get_rng_state(), before), "dropout would differ with the workers"
    for got, wanted in zip(arrived, Loader(made, batch_size=3, start=start, workers=0), strict=True):
        assert torch.equal(got[0], wanted[0])
        assert torch.equal(got[1], wanted[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_carried_ahead_are_the_same(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where a thread and a stream of their own carry and finish them; here with the CPU's way."""
    made = crops()
    wanted = list(Loader(made, batch_size=4, workers=0))
    monkeypatch.setattr(loader_module, "has_own_memory", lambda _: True)
    got = list(Loader(made, batch_size=4, workers=workers))
    assert len(got) == len(wanted) == 6
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finishes_batches_to_the_last_digits_of_the_hosts() -> None:
    made = crops()
    device = torch.device("cuda")
    for (images, labels), (wanted, truth) in zip(
        Loader(made, batch_size=4, workers=2, device=device),
        Loader(made, batch_size=4, workers=0),
        strict=True,
    ):
        torch.testing.assert_close(images.cpu(), wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(labels.cpu(), truth)


class Broken(MadeReader):
    """Its fourth image is damaged."""

    def read(self, index: int, choose: Choose = whole) -> Pixels:
        """Fails for one of them."""
        if index == 3:
            error = InputError("chip 3 is damaged; copy it again")
            error.add_note("a note")
            raise error
        return super().read(index, choose)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_chip_that_cannot_be_read_is_told_in_its_own_line_where_its_batch_would_come(
    workers: int, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "has_own_memory", lambda _: ahead)
    made = crops(Broken([(20, 24)] * 5))
    first = next(k for k in range(20) if made.chip_of(k) == "chip 3")
    others = set(multiprocessing.active_children())
    batches = iter(Loader(made, batch_size=1, workers=workers))
    for _ in range(first):
        next(batches)
    with pytest.raises(InputError) as told:
        next(batches)
    assert str(told.value) == "chip 3 is damaged; copy it again"
    assert set(multiprocessing.active_children()) <= others  # though the error is still at hand


@pytest.mark.skipif(WINDOWS, reason="kills a process by a signal")
def test_a_worker_that_is_killed_is_told_in_one_line() -> None:
    others = set(multiprocessing.active_children())  # of loaders that were not emptied
    batches = iter(Loader(crops(length=4000), batch_size=2, workers=2))
    next(batches)
    own = [child for child in multiprocessing.active_children() if child not in others]

    def go_on() -> None:
        own[0].kill()
        deque(batches, maxlen=0)

    said = r"^a worker that cuts crops ended \(DataLoader worker .*\), perhaps because memory ran out; set .* to 0$"
    with pytest.raises(InputError, match=said), lost_workers():
        go_on()
    with pytest.raises(RuntimeError, match="another"), lost_workers():
        raise RuntimeError("another")


LOADING = """
import sys, time
import numpy as np
from made_chips import MadeReader
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.loader import Loader
crops = CropDataset(
    ChipStore(MadeReader([(64, 64)] * 5)), length=10**6, crop=32, augmentation=AugmentationSettings(), seed=0
)
for number, _ in enumerate(Loader(crops, batch_size=2, workers=2)):
    time.sleep(0.01)
    if number == 5:
        print("ready", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")
def test_kill_9_leaves_no_worker_and_no_memory(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(made_chips.__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", LOADING], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) == 2
        process.kill()
        process.wait(600)
    _, alive = psutil.wait_procs(workers, timeout=600)
    assert alive == []
    assert list(tmp_path.glob("*aerial*")) == []
    # torch names its blocks by the process that makes them; those of other programs come and go meanwhile.
    named = [f"torch_{one.pid}_" for one in (process, *workers)]
    assert not [path for path in Path("/dev/shm").iterdir() if path.name.startswith(tuple(named))]


@pytest.mark.parametrize(
    ("device", "cores", "processes", "wanted"),
    [
        ("cpu", 2, 1, 0),
        ("cpu", 15, 1, 0),
        ("cpu", 64, 1, 4),
        ("cuda", 1, 1, 0),
        ("cuda", 2, 1, 1),
        ("cuda", 16, 1, 14),
        ("cuda", 16, 8, 1),
    ],
)
def test_workers_by_themselves_leave_the_network_its_cores(
    device: str, cores: int, processes: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "usable_cores", lambda: cores)
    monkeypatch.setattr(workers_module, "_seconds_per_pixel", lambda _: 1e-3)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert workers_at_hand(crops(), torch.device(device), processes=processes) == wanted


def test_cheap_crops_need_few_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "usable_cores", lambda: 64)
    monkeypatch.setattr(workers_module, "_seconds_per_pixel", lambda _: 1.5e-8)
    assert workers_at_hand(crops(), torch.device("cuda"), processes=1) == 3
    monkeypatch.undo()
    assert 0 < workers_module._seconds_per_pixel(crops()) < 1e-3


@pytest.mark.parametrize(
    ("method", "text", "may"),
    [
        ("fork", "train()", True),
        ("spawn", "train()", False),
        ("spawn", "if __name__ == '__main__':\n    train()", True),
        ("spawn", None, True),
    ],
)
def test_no_worker_begins_where_it_would_run_the_callers_script_again(
    method: str, text: str | None, may: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    if text is not None:
        script.write_text(text)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    monkeypatch.setattr(workers_module.sys.modules["__main__"], "__file__", str(script), raising=False)
    monkeypatch.setattr(workers_module, "usable_cores", lambda: 64)
    assert (workers_at_hand(crops(), torch.device("cpu"), processes=1) > 0) == may
