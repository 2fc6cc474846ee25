"""Killed at any moment, the same command goes on and ends with the same bytes; nothing half-made looks finished."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from aerial_seg.errors import Incomplete, InputError, Interrupted, OutputError
from aerial_seg.files.journal import NAME
from aerial_seg.jobs.predict import one_scene as map_scene
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.models.file import TrainedModel
from aerial_seg.progress import silent

MODEL = Path("any.safetensors")
HEIGHT, WIDTH = 2700, 700
TILES = 28 * 7
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="crashes are played in forked processes")
Answer = dict[str, Any]


class Driver:
    """Runs jobs in processes that may die; see crash_driver.py."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("crash_driver.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(
        self,
        raster: Path,
        out: Path,
        *,
        die: dict[str, float] | None = None,
        fsize: int | None = None,
        carrier: str = "host",
    ) -> Answer:
        """What became of a run."""
        job = {
            "rasters": [str(raster)],
            "out": str(out),
            "settings": {"confidence": True, "carrier": carrier},
            "die": die or {},
            "fsize": fsize,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: Answer = json.loads(self._process.stdout.readline())
        assert answer["signal"] in (0, signal.SIGKILL), answer
        return answer

    def close(self) -> None:
        """No more jobs."""
        self._process.communicate()


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.close()


class Watched:
    """A progress bar that calls `at` with its label and the number of units done."""

    def __init__(self, at: Callable[[str, int], None]) -> None:
        self._at, self._label, self._done = at, "", 0

    def __call__(self, label: str, *, total: int, unit: str) -> Watched:
        del total, unit
        self._label, self._done = label.split()[0], 0
        return self

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, n: int = 1) -> None:
        self._done += n
        self._at(self._label, self._done)


@pytest.fixture
def scene(tmp_path: Path, write_raster: Callable) -> Path:
    """A raster of six rows of blocks, with unmeasured ground."""
    random = np.random.default_rng(4)
    image = (
        random.integers(8, 256, (2, HEIGHT // 10, WIDTH // 10), dtype=np.uint8).repeat(10, 1).repeat(10, 2)
    )
    image[:, 600:900, :300] = 7
    return write_raster(tmp_path / "in.tif", image, nodata=7)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, pointwise: Callable[..., TrainedModel]) -> None:
    model = pointwise(stride=8, origin_step=8, tile_size=128)
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: model)


def run(scene: Path, out: Path, *, progress: object = silent, **changes: object) -> None:
    settings = PredictSettings(engine="eager", precision="fp32", confidence=True, **changes)  # type: ignore[arg-type]
    predict(MODEL, [str(scene)], out, settings, progress)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def pieces_done(out: Path) -> int:
    """Pieces that the journal of an unfinished run tells of."""
    journal = out.with_name(out.name + ".work") / NAME
    return max(0, len(journal.read_text().splitlines()) - 1) if journal.exists() else 0


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("carrier", ["host", "device"])
def test_twenty_six_crashes_change_no_byte(scene: Path, tmp_path: Path, driver: Driver, carrier: str) -> None:
    calm = driver(scene, tmp_path / "calm" / "map.tif", carrier=carrier)
    assert calm == {"killed": False, "signal": 0, "said": ""}
    wanted = files(tmp_path / "calm")
    random = np.random.default_rng(11)
    # A piece is recorded while the tiles of the next are made, and what a device has finished comes home two batches
    # later: by the 110th tile the first of six pieces has been handed over, and those accidents wait for it.
    tiles = [*random.integers(30, 110, 3), *random.integers(110, TILES, 13)]
    accidents: list[dict[str, float]] = [{"tile": int(t), "piece": bool(t >= 110)} for t in tiles]
    accidents += [{"timer": float(s)} for s in random.uniform(0.05, 0.5, 6)]
    accidents += [{"copy": s} for s in (0.0, 0.005, 0.02, 0.05)]
    crashes = late = in_copy = 0
    for number, accident in enumerate(accidents):
        out = tmp_path / f"storm{number}" / "map.tif"
        died = driver(scene, out, die=accident, carrier=carrier)["killed"]
        crashes += died
        late += died and pieces_done(out) > 0
        copying = out.with_name("map.tif.copying")
        in_copy += died and copying.exists()
        copying.unlink(missing_ok=True)
        assert not out.exists() or out.read_bytes() == wanted["map.tif"], accident
        if died:
            assert driver(scene, out, carrier=carrier)["said"] == ""
        assert files(out.parent) == wanted, accident
        assert not out.with_name("map.tif.work").exists()
    assert crashes >= 20, crashes
    assert late >= 15, late
    assert in_copy >= 2, in_copy


@needs_fork
@pytest.mark.parametrize("carrier", ["host", pytest.param("device", marks=pytest.mark.slow)])
def test_crash_after_crash_in_one_run_changes_no_byte(
    scene: Path, tmp_path: Path, driver: Driver, carrier: str
) -> None:
    driver(scene, tmp_path / "calm" / "map.tif", carrier=carrier)
    out, last, crashes = tmp_path / "storm" / "map.tif", 0, 0
    # What a device has finished comes home two batches later, and a piece is recorded while the next is made.
    often = 75 if carrier == "host" else 110
    while driver(scene, out, die={"tile": often, "piece": True}, carrier=carrier)["killed"]:
        crashes += 1
        assert pieces_done(out) > last
        last = pieces_done(out)
    assert crashes >= 2
    assert files(out.parent) == files(tmp_path / "calm")


@pytest.mark.usefixtures("use")
def test_ctrl_c_keeps_what_is_done_and_says_so(scene: Path, tmp_path: Path) -> None:
    def at(label: str, done: int) -> None:
        if done == 100:
            raise KeyboardInterrupt

    out = tmp_path / "new" / "map.tif"
    with pytest.raises(Interrupted, match="finished rows are kept; make the same call again") as caught:
        run(scene, out, progress=Watched(at))
    assert caught.value.exit_code == 130
    assert not out.exists()
    run(scene, out)
    run(scene, tmp_path / "calm" / "map.tif")
    assert files(out.parent) == files(tmp_path / "calm")


@pytest.mark.usefixtures("use")
def test_ctrl_c_before_anything_is_done_leaves_nothing(scene: Path, tmp_path: Path) -> None:
    def at(label: str, done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scene, tmp_path / "new" / "map.tif", progress=Watched(at))
    assert not (tmp_path / "new").exists()


def interrupt(scene: Path, out: Path, **changes: object) -> None:
    def at(label: str, done: int) -> None:
        if done == 100:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(scene, out, progress=Watched(at), **changes)


@pytest.mark.usefixtures("use")
def test_changed_parameters_are_refused_by_name_and_restart_begins_anew(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    interrupt(scene, out, overlap=16)
    with pytest.raises(OutputError, match=r"parameters\.overlap was 16, is 32.*`restart=True`") as refused:
        run(scene, out, overlap=32)
    # Running it again is no remedy, so it must not be offered, neither by words nor by the exit code.
    assert not isinstance(refused.value, Incomplete)
    assert "same call" not in str(refused.value)
    run(scene, out, overlap=32, restart=True)
    run(scene, tmp_path / "calm.tif", overlap=32)
    assert out.read_bytes() == (tmp_path / "calm.tif").read_bytes()


@pytest.mark.usefixtures("use")
def test_a_changed_raster_is_refused_by_name(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    interrupt(scene, out)
    with rasterio.open(scene, "r+") as file:
        file.write(np.full((2, 5, 5), 99, np.uint8), window=rasterio.windows.Window(0, 0, 5, 5))
    with pytest.raises(OutputError, match=r"in\.tif was .*, is .*`restart=True`"):
        run(scene, out)


@pytest.mark.usefixtures("use")
def test_what_was_killed_before_its_first_piece_does_not_bind_the_next_run(
    scene: Path, tmp_path: Path, write_raster: Callable
) -> None:
    out = tmp_path / "map.tif"
    work = out.with_name("map.tif.work")
    work.mkdir()
    interrupt(scene, tmp_path / "other.tif", max_memory=10**12)
    first_line = (tmp_path / "other.tif.work" / NAME).read_text(encoding="utf-8").splitlines()[0]
    (work / NAME).write_text(first_line + "\n", encoding="utf-8")
    # Narrower than the panels of that run, and otherwise what it was.
    write_raster(scene, np.full((2, 300, 250), 9, np.uint8))
    run(scene, out, max_memory=10**12)
    with rasterio.open(out) as made:
        assert made.shape == (300, 250)


@pytest.mark.usefixtures("use")
def test_a_damaged_piece_is_made_again(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    interrupt(scene, out)
    piece = min((tmp_path / "map.tif.work").glob("class-*.tif"))
    piece.write_bytes(piece.read_bytes()[: piece.stat().st_size // 2])
    run(scene, out)
    run(scene, tmp_path / "calm.tif")
    assert out.read_bytes() == (tmp_path / "calm.tif").read_bytes()


@pytest.mark.usefixtures("use")
def test_a_raster_that_ends_half_way_is_named_and_what_is_done_is_kept(scene: Path, tmp_path: Path) -> None:
    whole = scene.read_bytes()
    scene.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(
        Incomplete, match=r"in\.tif could not be read at row \d+.*finished rows are kept"
    ) as caught:
        run(scene, tmp_path / "map.tif")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "map.tif").exists()
    scene.write_bytes(whole[: len(whole) // 9])
    with pytest.raises((InputError, Incomplete)):
        run(scene, tmp_path / "other.tif")
    assert not (tmp_path / "other.tif").exists()


@needs_fork
def test_a_full_disk_is_one_line_and_the_run_can_go_on(scene: Path, tmp_path: Path, driver: Driver) -> None:
    """RLIMIT_FSIZE stands for the disk: a write beyond it fails as on a full one."""
    driver(scene, tmp_path / "calm" / "map.tif")
    largest = max(map(len, files(tmp_path / "calm").values()))
    out = tmp_path / "map.tif"
    said = driver(scene, out, fsize=largest - 2000)["said"]
    assert said.startswith("3 ")
    assert "free" in said
    assert "make the same call again" in said
    assert len(said.splitlines()) == 1
    assert not out.exists()
    assert driver(scene, out)["said"] == ""
    assert out.read_bytes() == (tmp_path / "calm" / "map.tif").read_bytes()


@needs_fork
@pytest.mark.slow
def test_several_rasters_go_on_where_the_command_stopped(scene: Path, tmp_path: Path, driver: Driver) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(scene, folder / f"{name}.tif")
    driver(folder, tmp_path / "calm")
    out, crashes = tmp_path / "storm", 0
    for tiles in (40, 100, 150, TILES + 60, 90):
        crashes += driver(folder, out, die={"tile": tiles})["killed"]
    assert crashes == 5
    assert driver(folder, out)["said"] == ""
    assert files(out) == files(tmp_path / "calm")
    assert [path.name for path in sorted(out.glob("*_mask.tif"))] == [
        "a_mask.tif",
        "b_mask.tif",
        "c_mask.tif",
    ]
    assert all(path.is_file() for path in out.iterdir())
    assert "exists already" in driver(folder, out)["said"]


@pytest.mark.usefixtures("use")
def test_panels_change_no_byte(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(scene, tmp_path / "one" / "map.tif")
    monkeypatch.setattr(map_scene, "choose_panels", lambda *_, **__: (range(0, 512), range(512, WIDTH)))
    run(scene, tmp_path / "two" / "map.tif")
    assert files(tmp_path / "one") == files(tmp_path / "two")
