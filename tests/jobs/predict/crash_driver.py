"""Plays accidents for test_resume.py: runs `predict` in forked processes that are killed at a chosen moment.

A process of its own, because forking is safe only before any thread has begun. It reads one job per line as JSON
(rasters, out, settings, die, fsize) and answers each with {"killed": …, "said": exit code and message of an error}.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from aerial_seg.errors import AerialSegError
from aerial_seg.files.journal import NAME
from aerial_seg.files.work import work_folder
from aerial_seg.jobs.predict import job as predict_room
from aerial_seg.jobs.predict import one_scene as map_scene
from aerial_seg.jobs.predict import plan as planning
from aerial_seg.jobs.predict.settings import PredictSettings

SECONDS = 120
"""More than any job needs: a process that hangs is a failure, not a wait."""


def model() -> Any:
    """The pointwise model of the tests of jobs."""
    spec = importlib.util.spec_from_file_location("jobs_conftest", Path(__file__).parents[1] / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = conftest  # where its dataclasses look for it
    spec.loader.exec_module(conftest)
    torch.manual_seed(8)
    network = conftest.Pointwise(bands=2, classes=3, stride=8, origin_step=8)
    return conftest._trained(network, bands=2, classes=3, gsd=None, tile_size=128)


def die() -> None:
    """As a power cut: nothing is flushed, nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def recorded(out: Path) -> int:
    """Lines of the journal of a run: one for the job, and one for each piece that is safe."""
    journal = work_folder(out) / NAME
    return len(journal.read_text().splitlines()) if journal.is_file() else 0


class Slow:
    """A progress bar whose tiles take time, and that ends the process when enough of them are done.

    waits_for: a piece of this map that was not safe before. A thread makes it so while further tiles are done: on a
    busy machine later than on others.
    """

    def __init__(self, deadly_tile: float, waits_for: Path | None = None) -> None:
        self._deadly, self._tiles, self._label = deadly_tile, 0, ""
        self._out, self._before = waits_for, 1 if waits_for is None else max(1, recorded(waits_for))

    def __call__(self, label: str, *, total: int, unit: str) -> Slow:
        """A bar."""
        del total, unit
        self._label = label.split()[0]
        return self

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, n: int = 1) -> None:
        """Count tiles of all scenes."""
        if self._label == "predict":
            self._tiles += n
            time.sleep(0.001 * n)  # a device tells of a batch at once
            if self._tiles >= self._deadly:
                while self._out is not None and recorded(self._out) <= self._before:
                    time.sleep(0.005)
                die()


def play(job: dict[str, Any]) -> None:
    """One run, with its accident."""
    torch.set_num_threads(1)
    signal.alarm(SECONDS)
    if job.get("fsize"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["fsize"], job["fsize"]))
    accident = job.get("die", {})
    if "timer" in accident:
        threading.Timer(accident["timer"], die).start()
    if "copy" in accident:
        honest = map_scene.write_results

        def doomed(*arguments: Any, **named: Any) -> Any:
            sign = Path(job["out"] + ".copying")
            sign.touch()
            threading.Timer(accident["copy"], die).start()
            made = honest(*arguments, **named)
            sign.unlink()
            return made

        map_scene.write_results = doomed
    settings = PredictSettings(engine="eager", precision="fp32", device="cpu", **job.get("settings", {}))
    progress = Slow(accident.get("tile", float("inf")), Path(job["out"]) if accident.get("piece") else None)
    predict_room.predict(Path("any.safetensors"), job["rasters"], Path(job["out"]), settings, progress)


def main() -> None:
    """Answer until the jobs end."""
    trained = model()
    planning.load_model = lambda path: trained
    for line in sys.stdin:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            try:
                play(json.loads(line))
            except AerialSegError as error:
                os.write(write, f"{error.exit_code} {error}".encode())
            finally:
                os._exit(0)
        os.close(write)
        said = os.fdopen(read, "rb").read().decode()
        _, status = os.waitpid(child, 0)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        print(json.dumps({"killed": number == signal.SIGKILL, "signal": number, "said": said}), flush=True)


if __name__ == "__main__":
    main()
