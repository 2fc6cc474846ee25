"""Whoever makes the pieces, in whatever groups and order, twice or damaged on the way: one machine's bytes.

The transport is played in this process; the workers' own code makes the pieces.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples

pytest.importorskip("distributed")

from aerial_seg.errors import Incomplete, InputError, OutputError
from aerial_seg.files.journal import NAME
from aerial_seg.jobs.cluster.hand_out import Arrival, Failure, Order, TransportLost
from aerial_seg.jobs.predict import job
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.plan import PredictPlan
from aerial_seg.jobs.predict.scenes import PredictContext
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.predict.workers import hands, on_worker
from aerial_seg.jobs.predict.workers.groups import Cut
from aerial_seg.jobs.predict.workers.outfit import Made, Parcel
from aerial_seg.models.file import TrainedModel
from aerial_seg.progress import Progress

HEIGHT, WIDTH = 1700, 60


@dataclass
class Fate:
    """What happens to orders; 0 to 1 each: to arrive damaged, to arrive twice, to fail. lost: after so many answers."""

    seed: int = 0
    blocks: int = 1
    damaged: float = 0.0
    twice: float = 0.0
    failing: frozenset[int] = frozenset()
    other: frozenset[int] = frozenset()
    lost: int | None = None
    answered: int = 0
    seen: list[str] = field(default_factory=list)


@dataclass
class PlayedCluster:
    """As much of a cluster as an outfit asks for."""

    threads: int | None = None
    own: bool = False

    def sharers(self) -> dict[str, int]:
        return {}


class PlayedLine:
    """Workers in this process; answers come in an order that a seed decides."""

    def __init__(self, benches: list[on_worker.Bench], fate: Fate) -> None:
        self._benches, self._fate, self._chance = benches, fate, random.Random(fate.seed)
        self._sent: list[tuple[int, Order, int]] = []
        self._again: list[Arrival] = []

    @property
    def window(self) -> int:
        return len(self._benches)

    def send(self, number: int, order: Order, *, without: Collection[str]) -> bool:
        able = [k for k, bench in enumerate(self._benches) if bench.place.address not in without]
        if not able:
            return False
        self._fate.seen.append(order.name)
        self._sent.append((number, order, self._chance.choice(able)))
        return True

    def receive(self) -> Arrival:
        fate = self._fate
        if fate.lost == fate.answered:
            raise TransportLost("the scheduler is gone")
        fate.answered += 1
        if self._again and self._chance.random() < 0.5:
            return self._again.pop()
        number, order, who = self._sent.pop(self._chance.randrange(len(self._sent)))
        if who in fate.failing:
            return Arrival(number, failure=Failure(self._benches[who].place.address, "no such file"))
        work = order.work
        if who in fate.other:
            runtime = replace(work.agreed.runtime, threads=99)
            work = replace(work, agreed=replace(work.agreed, runtime=runtime))
        made = self._benches[who].answer(work)
        if isinstance(made, Failure):
            return Arrival(number, failure=made)
        arrival = Arrival(number, made)
        if self._chance.random() < fate.twice:
            self._again.append(arrival)
        if self._chance.random() < fate.damaged:
            return Arrival(number, self._hurt(made))
        return arrival

    def _hurt(self, made: Made) -> Made:
        """One byte of one file is another, a piece is missing, or its record tells something else."""
        at = self._chance.randrange(len(made.parcels))
        one, kind = made.parcels[at], self._chance.randrange(3)
        if kind == 0:
            return replace(made, parcels=made.parcels[:at] + made.parcels[at + 1 :])
        if kind == 1:
            record = {**one.record, "tiles": (99, 0)}
            return replace(made, parcels=(*made.parcels[:at], Parcel(record, one.files, one.sum)))
        files: dict[str, bytes | None] = {
            name: b"x" if data is None else data[:-1] + bytes((data[-1] ^ 1,))
            for name, data in one.files.items()
        }
        return replace(made, parcels=(*made.parcels[:at], replace(one, files=files)))


@pytest.fixture
def played(
    monkeypatch: pytest.MonkeyPatch, pointwise: Callable[..., TrainedModel], tmp_path: Path
) -> Callable[[Fate], None]:
    """With a fate, `predict` runs on two workers that are played here."""
    model = pointwise(stride=8, origin_step=8, tile_size=128)
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: model)
    monkeypatch.setattr(on_worker, "load_model", lambda path: model)
    (tmp_path / "any.safetensors").write_bytes(b"sent, but not read")
    own = job._started

    def play(fate: Fate) -> None:
        @contextmanager
        def started(plan: PredictPlan, progress: Progress) -> Iterator[PredictContext]:
            if plan.settings.workers is None:
                with own(plan, progress) as context:
                    yield context
                return
            outfit = hands._outfit(plan, PlayedCluster())  # type: ignore[arg-type]
            places = [on_worker.Place(f"tcp://{k}", torch.get_num_threads()) for k in range(2)]
            benches = [on_worker.Bench(outfit, place) for place in places]
            network = benches[0].network(benches[0].batch()[0])
            made = hands.WorkerHands(network, outfit.token, lambda _: PlayedLine(benches, fate), 2)
            try:
                yield PredictContext(
                    plan.ensemble.as_one, network, plan.shape, plan.settings, progress, plan.area, (), made
                )
            finally:
                for bench in benches:
                    bench.clear()

        monkeypatch.setattr(job, "_started", started)
        monkeypatch.setattr(hands, "choose_cut", lambda rows, **_: Cut(1, fate.blocks, 0, 0.0))

    return play


@pytest.fixture
def raster(tmp_path: Path, write_raster: Callable[..., Path]) -> Path:
    random_numbers = np.random.default_rng(4)
    image = random_numbers.integers(8, 256, (2, HEIGHT // 10, WIDTH // 10), dtype=np.uint8)
    image = image.repeat(10, 1).repeat(10, 2)
    image[:, 500:1050] = 7
    return write_raster(tmp_path / "in.tif", image, nodata=7)


def run(raster: Path, out: Path, **changes: Any) -> Any:
    chosen = PredictSettings(
        engine="eager", precision="fp32", device="cpu", confidence=True, overwrite=True, **changes
    )
    (report,) = predict(raster.with_name("any.safetensors"), [str(raster)], out, chosen)
    return report


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


FATES = st.builds(
    Fate,
    seed=st.integers(0, 1000),
    blocks=st.integers(1, 5),
    damaged=st.sampled_from([0.0, 0.2]),
    twice=st.sampled_from([0.0, 0.5]),
    failing=st.sampled_from([frozenset(), frozenset({1})]),
)


@settings(
    max_examples=examples(60),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(fate=FATES)
def test_law_groups_order_duplicates_and_damage_change_no_byte(
    fate: Fate, played: Callable[[Fate], None], raster: Path, tmp_path: Path
) -> None:
    if not (tmp_path / "one").exists():
        run(raster, tmp_path / "one" / "map.tif")
    played(fate)
    try:
        report = run(raster, tmp_path / "many" / "map.tif", workers=2)
    except OutputError as error:
        if not fate.damaged or "arrived damaged 3 times" not in str(error):
            raise
        # Nothing of it is believed; what came whole is kept, and the same command goes on.
        fate.damaged = 0.0
        report = run(raster, tmp_path / "many" / "map.tif", workers=2)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    failed = [
        note for note in report.notes if note.startswith("worker tcp://1 failed 3 times (no such file)")
    ]
    assert len(failed) <= len(fate.failing)


def test_one_machine_goes_on_where_workers_stopped_and_the_other_way_round(
    played: Callable[[Fate], None], raster: Path, tmp_path: Path
) -> None:
    run(raster, tmp_path / "one" / "map.tif")
    lost = Fate(seed=3, lost=2)
    played(lost)
    with pytest.raises(Incomplete, match="the scheduler is gone"):
        run(raster, tmp_path / "many" / "map.tif", workers=2)
    journal = tmp_path / "many" / "map.tif.work" / NAME
    assert len(journal.read_text().splitlines()) == 3
    assert run(raster, tmp_path / "many" / "map.tif").resumed_rows > 0
    assert files(tmp_path / "many") == files(tmp_path / "one")


def test_the_journal_is_that_of_one_machine(
    played: Callable[[Fate], None], raster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise OutputError("stopped before the end")

    monkeypatch.setattr("aerial_seg.jobs.predict.one_scene.write_results", stop)
    played(Fate(blocks=9))
    records = []
    for workers in (None, 2):
        out = tmp_path / str(workers) / "map.tif"
        with pytest.raises(Incomplete):
            run(raster, out, workers=workers)
        records.append(
            [json.loads(line) for line in (out.with_name("map.tif.work") / NAME).read_text().splitlines()]
        )
    assert records[0] == records[1]


def test_workers_that_compute_otherwise_get_no_orders_and_are_named(
    played: Callable[[Fate], None], raster: Path, tmp_path: Path
) -> None:
    played(Fate(other=frozenset({0})))
    report = run(raster, tmp_path / "many" / "map.tif", workers=2)
    wanted = (
        f"worker tcp://0 failed (threads is {torch.get_num_threads()}, wanted 99); the others did its part"
    )
    assert wanted in report.notes
    run(raster, tmp_path / "one" / "map.tif")
    assert files(tmp_path / "many") == files(tmp_path / "one")


def test_when_no_worker_can_read_the_raster_each_reason_is_told(
    played: Callable[[Fate], None], raster: Path, tmp_path: Path
) -> None:
    fate = Fate(failing=frozenset({0, 1}))
    played(fate)
    with pytest.raises(
        InputError, match=r"no worker is left .*worker tcp://0: no such file; worker tcp://1: no such"
    ):
        run(raster, tmp_path / "many" / "map.tif", workers=2)
    assert not (tmp_path / "many").exists()


def test_orders_tell_scene_and_rows(played: Callable[[Fate], None], raster: Path, tmp_path: Path) -> None:
    fate = Fate(blocks=2)
    played(fate)
    run(raster, tmp_path / "many" / "map.tif", workers=2)
    assert fate.seen == ["predict map.tif rows 0 to 1024", "predict map.tif rows 1024 to 1700"]


def test_another_file_at_the_same_place_is_refused(
    played: Callable[[Fate], None], raster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hands.look_of
    monkeypatch.setattr(
        hands, "look_of", lambda *given: replace(real(*given), files={"in.tif": "3 bytes, 00"})
    )
    played(Fate())
    with pytest.raises(
        InputError, match=r"in\.tif is another file there: .* wanted 3 bytes, 00; copy it anew"
    ):
        run(raster, tmp_path / "many" / "map.tif", workers=2)
