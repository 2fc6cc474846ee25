"""Where a run stands, as anybody can ask at any time: while it goes on, after a kill, of old folders, of odd ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from run_watched import NAMES, drive, loss_of, scores

from aerial_seg.cli.info import command
from aerial_seg.errors import InputError
from aerial_seg.files import lock
from aerial_seg.jobs.info.job import info
from aerial_seg.jobs.train.run_folder import LOCK, LOG, RUN, RunFolder, locked
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.training.log import Log

HOLD = """
import sys
from pathlib import Path
from aerial_seg.jobs.train.run_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def write_run(
    folder: Path, *, done: int, kept: int, state: str = "running", begun: dict[str, Any] | None = None
) -> Path:
    """A run of 40 iterations that validates every 10, with what it leaves on the disk after `done` of them."""
    folder.mkdir(exist_ok=True)
    log = Log(folder / LOG, NAMES)
    log.begin(0)
    drive([log], last=done, iterations=40, every=10, ends=False)
    log.sync()
    recipe = load_recipe("unet").model_dump(mode="json")
    run = RunFolder(folder, None, {"recipe": recipe, "data_fingerprint": "x"})
    best = kept // 10 * 10
    run.write(
        state,  # type: ignore[arg-type]
        iteration=kept,
        iterations=40,
        begun=begun,
        best_iteration=best or None,
        validation=scores(50 + best // 10).as_json() if best else None,
        notes=["began from nothing"],
    )
    return folder


def test_a_run_at_work_tells_how_far_it_is_and_how_long_it_takes(tmp_path: Path) -> None:
    now = time.time()
    run = write_run(tmp_path / "run", done=27, kept=20, begun={"time": now - 100, "iteration": 7})
    os.utime(run / LOG, (now - 60, now - 60))
    with locked(run):
        card = info(run)
        assert (card["kind"], card["state"]) == ("training run", "running")
        assert (card["iteration"], card["iterations"], card["kept_iteration"]) == (27, 40, 20)
        # 20 iterations in the 40 seconds from the beginning to the last row of the log.
        assert card["seconds_per_iteration"] == pytest.approx(2.0, rel=1e-3)
        assert card["seconds_left"] == pytest.approx(26.0, rel=1e-3)
        assert card["loss"] == pytest.approx(sum(map(loss_of, range(1, 28))) / 27)
        expected = scores(52)
        for what in ("best", "last_validation"):
            assert card[what]["iteration"] == 20
            assert card[what]["miou"] == pytest.approx(expected.miou, abs=1e-6)
            assert card[what]["ious"] == pytest.approx(
                {one.name: one.iou for one in expected.classes}, abs=1e-6
            )
        shown = CliRunner().invoke(command, [str(run)]).stdout
        assert "state   running: a process is at work on it" in shown
        assert "done    iteration 27 of 40 (68%)" in shown
        assert "2 s per iteration, validations included; about 0 min 26 s to go" in shown
        assert "note    began from nothing" in shown
        told = json.loads(CliRunner().invoke(command, [str(run), "--json"]).stdout)
        assert told == json.loads(json.dumps(info(run))) | {
            key: pytest.approx(told[key], rel=0.1) for key in ("seconds_per_iteration", "seconds_left")
        }


def test_a_killed_run_is_not_at_work_though_its_last_word_was_that_it_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", done=27, kept=20)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert info(run)["state"] == "running"
        process.kill()
    assert (run / LOCK).exists()
    card = info(run)
    assert card["state"] == "stopped"
    assert card["seconds_left"] is None
    shown = CliRunner().invoke(command, [str(run)]).stdout
    assert (
        "stopped: it ended without a word, as by a kill or a power cut; run the same command again to go on after "
        in shown
    )
    assert "after iteration 20\n" in shown


def test_where_a_run_stands_is_told_without_torch(tmp_path: Path) -> None:
    """Importing it took five seconds, of a question that somebody asks again and again."""
    run = write_run(tmp_path / "run", done=27, kept=20)
    program = (
        "import sys\n"
        "from aerial_seg.cli.main import main\n"
        "main(['info', sys.argv[1]])\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program, run], capture_output=True, text=True, check=True
    )
    assert "iteration 27 of 40" in ended.stdout
    imported = {name.split(".")[0] for name in ended.stderr.split()}
    assert "safetensors" in imported
    assert imported & {"torch", "torchvision", "lightning_fabric", "segmentation_models_pytorch"} == set()


def test_a_run_that_was_stopped_or_ended_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = info(write_run(tmp_path / "stopped", done=5, kept=5, state="stopped"))
    assert (stopped["state"], stopped["best"], stopped["last_validation"]) == ("stopped", None, None)
    assert stopped["reason"].endswith("to go on after iteration 5")
    ended = info(write_run(tmp_path / "ended", done=40, kept=40, state="finished"))
    assert (ended["state"], ended["iteration"], ended["files"]) == ("finished", 40, ["log.csv"])
    assert ended["reason"] == "the run is finished"
    now = time.time()
    begun = {"time": now - 100, "iteration": 0}
    run = write_run(tmp_path / "early", done=20, kept=20, state="finished", begun=begun)
    os.utime(run / LOG, (now, now))
    early = info(run)
    assert (early["iteration"], early["iterations"]) == (20, 40)
    assert early["reason"] == "the run is finished: its patience was over"
    assert early["seconds_per_iteration"] == pytest.approx(5.0, rel=1e-3)
    monkeypatch.setattr(lock, "is_locked", lambda _: (_ for _ in ()).throw(OSError()))
    (tmp_path / "stopped" / LOCK).touch()
    assert info(tmp_path / "stopped")["state"] == "unknown"


def test_a_run_of_an_older_version_is_a_finished_one(tmp_path: Path) -> None:
    document = {
        "tool_version": "0.1.0",
        "best_iteration": 900,
        "validation": scores(60).as_json(),
        "threshold": None,
        "data_fingerprint": "x",
        "recipe": load_recipe("unet").model_dump(mode="json"),
    }
    (tmp_path / RUN).write_text(json.dumps(document))
    card = info(tmp_path)
    planned = load_recipe("unet").training.iterations
    assert (card["state"], card["iteration"], card["iterations"]) == ("finished", planned, planned)
    assert card["best"]["iteration"] == 900
    assert card["seconds_per_iteration"] is None
    assert CliRunner().invoke(command, [str(tmp_path)]).exit_code == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"recipe": 5}', '{"recipe": {}}', '{"name": "somebody else\'s run"}', "\xff"]
)
def test_a_foreign_folder_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / RUN).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"^[^\n]*run\.json cannot be read[^\n]*$"):
        info(tmp_path)


def test_a_foreign_log_and_odd_facts_are_no_defect(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", done=5, kept=5)
    document = json.loads((run / RUN).read_text())
    odd = {"begun": {"time": "noon"}, "notes": 7, "validation": {"classes": [1, {}]}, "best_iteration": "x"}
    (run / RUN).write_text(json.dumps(document | odd))
    shown = CliRunner().invoke(command, [str(run)])
    assert shown.exit_code == 0, shown.output
    assert "mIoU NaN at an unknown iteration: IoU None NaN" in shown.stdout
    (run / LOG).write_text("iteration,loss,learning_rate\n1,much,0.1\n")
    with pytest.raises(InputError, match=r"log\.csv is no log of a training run .*'much'"):
        info(run)
