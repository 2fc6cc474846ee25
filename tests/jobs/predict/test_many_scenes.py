"""Thousands of scenes in one command: each is looked at a fixed number of times, and nothing of it is held."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio

from aerial_seg.errors import OutputError
from aerial_seg.files import journal as diary
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.jobs.predict import many_scenes
from aerial_seg.jobs.predict.job import predict, predict_scenes
from aerial_seg.jobs.predict.plan import PredictRequest, make_plan
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.progress import silent

FAST = PredictSettings(engine="eager", precision="fp32")
MODEL = Path("model.safetensors")
HANDLES = Path("/proc/self/fd")


@pytest.fixture
def scenes(tmp_path: Path, write_raster: Callable[..., Path]) -> Callable[[int, int], list[str]]:
    """`scenes(count, side)` writes so many rasters of two bands, side by side."""

    def write(count: int, side: int) -> list[str]:
        folder = tmp_path / f"{count} of {side}"
        folder.mkdir()
        image = np.random.default_rng(0).integers(1, 255, (2, side, side), dtype=np.uint8)
        return [
            str(write_raster(folder / f"s{k:04d}.tif", image, corner=(5e5 + side * k, 5.2e6)))
            for k in range(count)
        ]

    return write


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often names were resolved, files opened by GDAL (by stem) and journals read (by folder)."""
    counted: Counter[str] = Counter()
    resolve, opened, read = Path.resolve, rasterio.open, diary._read_lines

    def counting_resolve(path: Path, *args: Any, **named: Any) -> Path:
        counted["resolve"] += 1
        return resolve(path, *args, **named)

    def counting_open(name: Any, *args: Any, **named: Any) -> Any:
        counted[Path(str(name)).stem] += 1
        return opened(name, *args, **named)

    def counting_read(path: Path) -> Any:
        counted[path.parent.name] += 1
        return read(path)

    monkeypatch.setattr(Path, "resolve", counting_resolve)
    monkeypatch.setattr(rasterio, "open", counting_open)
    monkeypatch.setattr(diary, "_read_lines", counting_read)
    return counted


def test_every_scene_is_looked_at_a_fixed_number_of_times(
    tmp_path: Path, scenes: Callable, calls: Counter[str], pointwise: Callable, use: Callable
) -> None:
    use(pointwise())
    seen: dict[int, Counter[str]] = {}
    for count in (8, 24):
        calls.clear()
        paths = scenes(count, 16)
        calls.clear()
        outcomes = predict_scenes(MODEL, paths, tmp_path / f"masks {count}", FAST)
        assert [one.outcome for one in outcomes] == ["done"] * count
        seen[count] = Counter(calls)
        # Once to see that model and raster fit together, once to read it.
        assert {calls[Path(path).stem] for path in paths} == {2}
        assert calls["predict.work"] <= 2
    a_scene = (seen[24]["resolve"] - seen[8]["resolve"]) / 16
    assert a_scene == pytest.approx(seen[8]["resolve"] / 8, abs=1)
    assert a_scene <= 4


def test_chosen_bands_cost_no_second_look(
    tmp_path: Path, scenes: Callable, calls: Counter[str], pointwise: Callable, use: Callable
) -> None:
    use(pointwise())
    paths = scenes(3, 16)
    calls.clear()
    predict(
        MODEL, paths, tmp_path / "masks", PredictSettings(engine="eager", bands=BandChoice(numbers=(2, 1)))
    )
    assert {calls[Path(path).stem] for path in paths} == {2}


class Counted(list[Any]):
    """Counts how many of its items are looked at."""

    looked = 0

    def __iter__(self) -> Iterator[Any]:
        for item in list.__iter__(self):
            Counted.looked += 1
            yield item

    def __reversed__(self) -> Iterator[Any]:
        for item in list.__reversed__(self):
            Counted.looked += 1
            yield item


def test_going_on_reads_the_journal_once_and_looks_at_each_record_once(
    tmp_path: Path,
    scenes: Callable,
    calls: Counter[str],
    pointwise: Callable,
    use: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(pointwise())
    count, masks = 12, tmp_path / "masks"
    paths = scenes(count, 16)
    (tmp_path / "broken.tif").write_text("no raster")
    first = predict_scenes(MODEL, [*paths, str(tmp_path / "broken.tif")], masks, FAST)
    assert Counter(one.outcome for one in first) == {"done": count, "failed": 1}
    opened = diary.Journal.open

    def counting(path: Path, job: Any, **named: Any) -> diary.Journal:
        journal = opened(path, job, **named)
        journal.records = Counted(journal.records)
        return journal

    monkeypatch.setattr(many_scenes.Journal, "open", counting)
    calls.clear()
    Counted.looked = 0
    again = predict_scenes(MODEL, paths, masks, FAST)
    assert [one.outcome for one in again] == ["kept"] * count
    assert Counted.looked == count
    assert calls["predict.work"] <= 3


def test_an_input_is_still_never_replaced(
    tmp_path: Path, scenes: Callable, pointwise: Callable, use: Callable
) -> None:
    use(pointwise())
    paths = [Path(path) for path in scenes(2, 16)]
    ours = paths[0].rename(paths[0].with_name("a_mask.tif"))
    paths[1] = paths[1].rename(paths[1].with_name("a.tif"))
    with pytest.raises(OutputError, match=r"a_mask\.tif would be written, but is one of the files to read"):
        predict(MODEL, [str(ours), str(paths[1])], ours.parent, PredictSettings(overwrite=True))
    with rasterio.open(ours) as file:
        assert file.count == 2


@pytest.mark.slow
def test_neither_memory_nor_handles_grow_over_five_hundred_scenes(
    tmp_path: Path,
    scenes: Callable,
    pointwise: Callable,
    use: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(pointwise())
    side, count = 160, 500
    paths = scenes(count, side)
    measured: dict[int, tuple[int, int, int]] = {}
    made = many_scenes.map_scene

    def measuring(*args: Any, **named: Any) -> Any:
        report = made(*args, **named)
        number = int(report.mask.stem[1:5])
        if number == 99:
            tracemalloc.start()
        if number in (99, 499):
            gc.collect()
            held = tracemalloc.get_traced_memory()[0]
            measured[number] = held, psutil.Process().memory_info().rss, len(list(HANDLES.iterdir()))
        return report

    monkeypatch.setattr(many_scenes, "map_scene", measuring)
    try:
        outcomes = predict_scenes(MODEL, paths, tmp_path / "masks", FAST)
    finally:
        tracemalloc.stop()
    assert len(outcomes) == count
    (held, resident, handles), (held_then, resident_then, handles_then) = measured[99], measured[499]
    assert handles_then == handles
    # A report and a journal's line stay of every scene, its pixels do not.
    a_scene = 2 * side * side
    assert (held_then - held) / 400 < a_scene / 4
    assert (resident_then - resident) / 400 < a_scene


def test_a_raster_that_got_another_grid_since_the_plan_is_read_at_the_models_pixel_size(
    tmp_path: Path, scenes: Callable, write_raster: Callable[..., Path], pointwise: Callable, use: Callable
) -> None:
    """What the plan knows of grids holds only as long as they are the same."""
    use(pointwise(gsd=1.0))
    paths = scenes(2, 32)
    plan = make_plan(PredictRequest.of(MODEL, paths, tmp_path / "masks", FAST), tmp_path)
    assert all(scene.looked is not None and scene.looked[1] is scene.looked[0] for scene in plan.scenes)
    image = np.random.default_rng(1).integers(1, 255, (2, 32, 32), dtype=np.uint8)
    write_raster(Path(paths[1]), image, corner=(5e5 + 32, 5.2e6), gsd=2.0)
    outcomes = many_scenes.map_many_scenes(plan.scenes, plan.refused, plan.start(silent), plan.out)
    assert [one.report.resampled_to for one in outcomes if one.report] == [None, 1.0]
