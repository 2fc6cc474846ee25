"""One run for one output, and whatever a kill leaves, the next run finishes or clears away."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aerial_seg.errors import OutputError
from aerial_seg.files import lock, work
from aerial_seg.files.staging import check_writable, staged_files, staged_folder
from aerial_seg.files.work import locked_work, place, was_placed, work_folder

fcntl = pytest.importorskip("fcntl", reason="NOT PROVED: locks of Windows are tried in tests/platforms")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are played in forked processes")


def tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


def killed(play: Callable[[], None]) -> None:
    """`play` in a process that ends as by a power cut: it calls die()."""
    child = os.fork()
    if child == 0:
        try:
            play()
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "nobody died"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class TestLock:
    @pytest.mark.parametrize("how", ["same", "relative", "link to the folder", "link to the file"])
    def test_every_spelling_of_an_output_meets_the_same_lock(
        self, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = tmp_path / "real"
        real.mkdir()
        (real / "map.gpkg").write_text("old")
        (tmp_path / "link").symlink_to(real)
        (tmp_path / "map.gpkg").symlink_to(real / "map.gpkg")
        monkeypatch.chdir(tmp_path)
        other = {
            "same": real / "map.gpkg",
            "relative": Path("real/../real/map.gpkg"),
            "link to the folder": tmp_path / "link" / "map.gpkg",
            "link to the file": tmp_path / "map.gpkg",
        }[how]
        before = tree(tmp_path)
        with locked_work(real / "map.gpkg"):
            with (
                pytest.raises(OutputError, match="being written by another run; wait for it"),
                locked_work(other),
            ):
                pytest.fail("two runs write one output")
            if how != "same":
                with pytest.raises(OutputError, match="being written"), staged_files(other, overwrite=True):
                    pytest.fail("two runs write one output")
        assert tree(tmp_path) == before

    @needs_fork
    def test_a_killed_run_holds_nothing(self, tmp_path: Path) -> None:
        final = tmp_path / "map.tif"

        def play() -> None:
            with locked_work(final) as folder:
                (folder / "half").write_text("half")
                die()

        killed(play)
        assert tree(tmp_path)
        with locked_work(final) as folder:
            assert [entry.name for entry in folder.iterdir()] == ["lock"]
        assert tree(tmp_path) == {}

    def test_who_waits_on_a_lock_file_that_is_deleted_does_not_hold_the_output(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One has opened the lock file, its holder ends and deletes it, a third makes it anew: only one may win."""
        final, honest, third = tmp_path / "map.tif", fcntl.flock, []

        def slow(descriptor: int, how: int) -> None:
            if not third and how != fcntl.LOCK_UN:
                third.append(None)
                os.unlink(work_folder(final) / "lock")  # noqa: PTH108
                third[0] = lock.held(work_folder(final) / "lock", final)
                third[0].__enter__()
            honest(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", slow)
        with pytest.raises(OutputError, match="being written"), locked_work(final):
            pytest.fail("two runs write one output")
        third[0].__exit__(None, None, None)

    def test_many_runs_that_come_and_go_never_overlap(self, tmp_path: Path) -> None:
        final, inside, most, wins = tmp_path / "map.tif", [], [], []

        def run() -> None:
            until = time.monotonic() + 300.0
            while len(wins) < 200 and time.monotonic() < until:
                try:
                    with locked_work(final) as folder:
                        inside.append(1)
                        most.append(len(inside))
                        (folder / "draft").write_text("mine")
                        assert (folder / "draft").read_text() == "mine"
                        inside.pop()
                        wins.append(1)
                except OutputError:
                    continue

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(most) == 1
        assert len(wins) >= 200
        assert tree(tmp_path) == {}

    def test_a_file_system_without_locks_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(descriptor: int, how: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with (
            pytest.raises(OutputError, match=r"knows no locks \(No locks available\)") as told,
            locked_work(tmp_path / "new" / "map.tif"),
        ):
            pytest.fail("without a lock")
        assert "\n" not in str(told.value)
        assert tree(tmp_path) == {}

    @pytest.mark.skipif(
        getattr(os, "geteuid", lambda: 1)() != 0,
        reason="NOT PROVED: root writes everywhere, so it becomes somebody else here",
    )
    def test_a_read_only_folder_is_one_line(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = Path("/tmp") / f"read-only-{os.getpid()}"
        folder.mkdir(mode=0o555)
        user = os.geteuid()
        try:
            os.seteuid(65534)
            with (
                pytest.raises(OutputError, match=r"could not be written \(Permission denied\)"),
                locked_work(folder / "map.tif"),
            ):
                pytest.fail("nobody may write here")
        finally:
            os.seteuid(user)
            assert list(folder.iterdir()) == []
            folder.rmdir()

    def test_a_folder_of_somebody_else_that_has_the_name_of_a_work_folder_stays(self, tmp_path: Path) -> None:
        (tmp_path / "map.tif.work").mkdir()
        (tmp_path / "map.tif.work" / "notes.txt").write_text("mine")
        before = tree(tmp_path)
        with (
            pytest.raises(OutputError, match=r"map\.tif\.work holds files of somebody else \(notes\.txt\)"),
            locked_work(tmp_path / "map.tif"),
        ):
            pytest.fail("it would have been cleared")
        assert tree(tmp_path) == before


def die_before(step: int) -> None:
    """In a child: the next renamings and removals are counted down. At the first the plan comes to lie on the disk."""
    left, honest, unlink = [step], Path.replace, Path.unlink
    work.usual_mode = lambda folder: 0o644  # type: ignore[assignment]  # some file systems rename and remove for it

    def counted() -> None:
        if left[0] == 0:
            die()
        left[0] -= 1

    def replace(self: Path, target: Path) -> Path:
        counted()
        return honest(self, target)

    def remove(self: Path, missing_ok: bool = False) -> None:
        if self.parent.name != "old":
            counted()
        unlink(self, missing_ok=missing_ok)

    Path.replace, Path.unlink = replace, remove  # type: ignore[method-assign]


@needs_fork
class TestPlacing:
    NAMES = ("a.dbf", "a.shx", "a.shp")

    @pytest.mark.parametrize("step", range(7))
    def test_a_kill_at_any_step_leaves_the_new_or_the_old_and_the_next_run_finishes(
        self, tmp_path: Path, step: int
    ) -> None:
        final = tmp_path / "a.shp"
        for name in (*self.NAMES, "a_001.shp"):
            (tmp_path / name).write_text("old")

        def play() -> None:
            with locked_work(final) as folder:
                (folder / "result").mkdir()
                for name in self.NAMES:
                    (folder / "result" / name).write_text("new")
                die_before(step)
                place(
                    folder,
                    [(folder / "result" / name, tmp_path / name) for name in self.NAMES],
                    retire=[tmp_path / "a_001.shp"],
                )
                die()

        killed(play)
        now = {name: text for name, text in tree(tmp_path).items() if ".work" not in name}
        placed = [name for name in self.NAMES if now[name] == "new"]
        # A reader finds a layer at every moment: parts come in order, the one that is opened last, and none goes
        # before its successor is there.
        assert placed == list(self.NAMES)[: len(placed)]
        assert set(now.values()) <= {"old", "new"}
        assert "a_001.shp" in now or len(placed) == 3
        with locked_work(final):
            pass
        new = dict.fromkeys(sorted(self.NAMES), "new")
        old = dict.fromkeys(sorted((*self.NAMES, "a_001.shp")), "old")
        assert tree(tmp_path) == (old if step < 1 else new)

    @pytest.mark.parametrize("step", range(4))
    def test_a_folder_is_the_old_or_the_new_one_after_a_kill(self, tmp_path: Path, step: int) -> None:
        final = tmp_path / "set"
        with staged_folder(final, overwrite=True, marker="m.json") as folder:
            (folder / "m.json").write_text("old")

        def play() -> None:
            with staged_folder(final, overwrite=True, marker="m.json") as folder:
                (folder / "m.json").write_text("new")
                die_before(step)
            die()

        killed(play)
        with locked_work(final):
            pass
        assert (final / "m.json").read_text() == ("old" if step < 1 else "new")
        assert [entry.name for entry in tmp_path.iterdir()] == ["set"]

    def test_what_a_killed_run_had_placed_does_not_stop_the_same_command(self, tmp_path: Path) -> None:
        final = tmp_path / "model.onnx"

        def play() -> None:
            with staged_files(final, overwrite=False) as folder:
                (folder / "model.onnx").write_text("whole")
                work._remove = lambda folder: die()  # type: ignore[assignment]

        killed(play)
        assert final.read_text() == "whole"
        with staged_files(final, overwrite=False) as folder:
            (folder / "model.onnx").write_text("whole")
        assert tree(tmp_path) == {"model.onnx": "whole"}
        with pytest.raises(OutputError, match="exists already; pass `overwrite=True`"):
            check_writable(final, overwrite=False)

    def test_what_somebody_puts_there_after_the_kill_is_theirs(self, tmp_path: Path) -> None:
        final = tmp_path / "a.shp"

        def play() -> None:
            with locked_work(final) as folder:
                (folder / "a.dbf").write_text("new")
                (folder / "a.shp").write_text("new")
                die_before(2)
                place(folder, [(folder / name, tmp_path / name) for name in ("a.dbf", "a.shp")])

        killed(play)
        assert (tmp_path / "a.dbf").read_text() == "new"
        final.write_text("made by hand")
        assert was_placed(final, tmp_path / "a.dbf")
        assert not was_placed(final, final)
        with pytest.raises(OutputError, match="exists already"), staged_files(final, overwrite=False):
            pytest.fail("it is not ours")
        with locked_work(final):
            pass
        assert final.read_text() == "made by hand"


def test_an_error_while_placing_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.dbf", "a.shp", "a_001.shp"):
        (tmp_path / name).write_text("old")
    before, honest = tree(tmp_path), Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name == "a.shp" and self.read_text() == "new" and target.parent == tmp_path:
            raise PermissionError(errno.EACCES, "in use")
        return honest(self, target)

    monkeypatch.setattr(Path, "replace", failing)

    def run() -> None:
        with locked_work(tmp_path / "a.shp") as folder:
            for name in ("a.prj", "a.dbf", "a.shp"):
                (folder / name).write_text("new")
            moves = [(folder / name, tmp_path / name) for name in ("a.prj", "a.dbf", "a.shp")]
            place(folder, moves, retire=[tmp_path / "a_001.shp"])

    with pytest.raises(PermissionError):
        run()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_the_umask_decides_who_may_read_a_result(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with staged_files(tmp_path / "a.gpkg", overwrite=False) as folder:
            (folder / "a.gpkg").touch(mode=0o600)
        with staged_folder(tmp_path / "set", overwrite=False, marker="m") as folder:
            (folder / "m").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "a.gpkg").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "set").stat().st_mode & 0o777 == 0o777 & ~umask
    assert sorted(json.loads((tmp_path / "set" / ".aerial-seg-files.json").read_text())) == ["m"]
