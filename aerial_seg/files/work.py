"""The folder NAME.work/ beside an output: its lock, its drafts, and how they take their place whenever a kill comes.

While a run holds it nobody else writes NAME. What a killed run left in it, the next run of that output finishes or
clears away. Targets are placed from a plan that lies on the disk before the first of them is touched.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from aerial_seg.errors import OutputError
from aerial_seg.files.disk import usual_mode, write_failure
from aerial_seg.files.durable import settle
from aerial_seg.files.lock import held
from aerial_seg.files.operating_system import replace, sync

RESULT = "result"
"""Folder of the finished files inside the work folder, until they take their place."""
LOCK, JOURNAL, PLAN, PLACED, OLD = "lock", "journal.jsonl", "placing.json", "placed.json", "old"
_REMEDY = "check the folder and its permissions, or choose another output"

Move = tuple[Path, Path]
Plan = dict[str, list[dict[str, Any]]]


def work_folder(final: Path) -> Path:
    """Return where an unfinished `final` keeps its pieces: NAME.work/ beside it."""
    named = final if final.name not in ("", "..") else final.resolve()
    return named.with_name(named.name + ".work")


def _never(work: Path) -> bool:
    del work
    return False


@contextmanager
def system_errors(final: Path) -> Iterator[None]:
    """Turn what the system says while `final` is written into one line. Inside the lock: a full disk is still full.

    GDAL's write errors are OSErrors, too.
    """
    try:
        yield
    except OSError as error:
        raise write_failure(error, final, "free space or check the disk") from error


@contextmanager
def locked_work(
    final: Path,
    *,
    resumes: Callable[[Path], bool] = _never,
    keep: Callable[[Path], bool] = _never,
    unfinished: Callable[[Path], bool] = _never,
) -> Iterator[Path]:
    """Hold the work folder of `final` for this run alone; what a killed run was placing is in its place.

    It is empty unless `resumes` says that the run goes on with its content, and it goes in the end unless the block
    fails and `keep` says that its content is worth going on with, or ends well and `unfinished` says so. Raises
    OutputError when another run holds it, when a folder of that name holds other things, or when the disk does not take
    what is written.
    """
    work = work_folder(final)
    missing = missing_parents(work)
    kept = False

    def leave(place: Path) -> None:
        """While the lock is held, and the lock last: another run may come at any moment."""
        if not kept if place == work else [entry.name for entry in place.iterdir()] == [LOCK]:
            _remove(place)

    with ExitStack() as locks:
        locks.callback(lambda: None if kept else remove_empty(missing))
        try:
            _require_ours(work)
            for place in _spellings(final):
                locks.enter_context(held(place / LOCK, final))
                locks.callback(leave, place)
        except OSError as error:
            raise write_failure(error, final, _REMEDY) from error
        try:
            _finish_placing(work)
            if not resumes(work):
                clear(work)
            yield work
        except BaseException:
            kept = keep(work)
            raise
        kept = unfinished(work)


def place(work: Path, moves: Sequence[Move], retire: Iterable[Path] = ()) -> None:
    """Move drafts of the work folder to their targets beside it, in this order; then the files to `retire` go.

    A target that is a folder is replaced as a whole. An error leaves all as it was. After a kill the next run of the
    same output carries the plan out to its end; until then the older targets lie in the work folder.
    """
    mode = usual_mode(work)
    for source, _ in moves:
        if source.is_file():
            source.chmod(mode)
            sync(source)
    plan: Plan = {
        "moves": [
            {
                "from": str(source.relative_to(work)),
                "to": target.name,
                "is": _identity(source),
                "was": _identity(target),
            }
            for source, target in moves
        ],
        "retire": [{"file": file.name, "is": _identity(file)} for file in retire if _identity(file)],
    }
    draft = work / (PLAN + ".partial")
    draft.write_text(json.dumps(plan), encoding="utf-8", newline="\n")
    settle(draft, work / PLAN)
    _carry_out(work, plan)


def was_placed(final: Path, file: Path) -> bool:
    """Tell whether a run of the output `final` that was killed before its end had placed just this file or folder."""
    work, now = work_folder(final), _identity(file)
    if now is None:
        return False
    remembered = _read_json(work / PLACED, {})
    moves = _read_plan(work)["moves"] if file.absolute().parent == work.absolute().parent else []
    return remembered.get(str(file.absolute())) == now or any(
        move["to"] == file.name and move["is"] == now for move in moves
    )


def remember(work: Path, files: Iterable[Path]) -> None:
    """Let `was_placed` know of these files, too, which belong to the run but were placed from another work folder."""
    draft = work / (PLACED + ".partial")
    placed = {str(file.absolute()): _identity(file) for file in files}
    draft.write_text(json.dumps(placed), encoding="utf-8", newline="\n")
    settle(draft, work / PLACED)


def _finish_placing(work: Path) -> None:
    plan = _read_plan(work)
    if not plan["moves"] and not plan["retire"]:
        return
    untouched = [
        move
        for move in plan["moves"]
        if (work / move["from"]).exists() and _identity(work.parent / move["to"]) not in (move["was"], None)
    ]
    if not untouched:  # else somebody has put other files there since
        _carry_out(work, plan)


def _carry_out(work: Path, plan: Plan) -> None:
    old = work / OLD
    old.mkdir(exist_ok=True)
    done: list[tuple[Path, Path]] = []
    try:
        for move in plan["moves"]:
            source, target = work / move["from"], work.parent / move["to"]
            if not source.exists():
                continue  # placed before the kill
            _set_aside(target, old)
            done.append((source, target))
            replace(source, target)
        for entry in plan["retire"]:
            file = work.parent / entry["file"]
            if _identity(file) == entry["is"]:
                _set_aside(file, old)
                done.append((old / "none", file))
                file.unlink()
    except OSError:
        _undo(done, old)
        (work / PLAN).unlink(missing_ok=True)
        raise
    if done:
        sync(work.parent)
    shutil.rmtree(old, ignore_errors=True)


def link_or_copy(file: Path, name: Path) -> bool:
    """Let `name`, which is not there yet, be the file, too, or a copy of it. Whether it had to be copied."""
    try:
        os.link(file, name, follow_symlinks=False)
    except (OSError, NotImplementedError):  # FAT, and many servers of files
        shutil.copy2(file, name, follow_symlinks=False)
        return True
    return False


def _set_aside(target: Path, old: Path) -> None:
    """What lies at `target` lies in `old`, too; a folder only there, because it cannot be replaced in one step."""
    aside = old / target.name
    if target.is_dir() and not target.is_symlink():
        replace(target, aside)
        return
    if os.path.lexists(target):
        aside.unlink(missing_ok=True)
        link_or_copy(target, aside)


def _undo(done: Sequence[tuple[Path, Path]], old: Path) -> None:
    for source, target in reversed(done):
        aside = old / target.name
        with suppress(OSError):
            if source.name != "none" and not source.exists():
                replace(target, source)
            if os.path.lexists(aside):
                replace(aside, target)


def _identity(path: Path) -> list[int] | None:
    """What stays the same when a file or folder is renamed; None where there is none."""
    try:
        stat = path.lstat()
    except OSError:
        return None
    return [stat.st_ino] if path.is_dir() else [stat.st_ino, stat.st_size, stat.st_mtime_ns]


def _read_plan(work: Path) -> Plan:
    plan: Plan = _read_json(work / PLAN, {"moves": [], "retire": []})
    return plan


def _read_json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default


def _spellings(final: Path) -> list[Path]:
    """The work folders that stand for this output: its own and, for a link, that of the file behind it."""
    own = work_folder(final)
    if not final.is_symlink():
        return [own]
    try:
        behind = work_folder(final.resolve())
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{final} is a link that leads nowhere ({error}); choose another output") from error
    # In one order for all, so that two runs never wait for each other.
    return sorted({own, behind}) if behind.parent.is_dir() else [own]


def _require_ours(work: Path) -> None:
    if not work.exists():
        return
    names = {entry.name for entry in work.iterdir()} if work.is_dir() else {work.name}
    if names and not names & {LOCK, JOURNAL}:
        raise OutputError(
            f"{work} holds files of somebody else ({sorted(names)[0]}), but is where unfinished work is kept; "
            "move it away or choose another output"
        )


def clear(work: Path) -> None:
    """Leave only the lock, and the plan: it tells what a killed run has placed."""
    for entry in work.iterdir():
        if entry.name not in (LOCK, PLAN):
            _delete(entry)


def _remove(work: Path) -> None:
    with suppress(OSError):
        for entry in list(work.iterdir()):
            if entry.name not in (LOCK, PLAN, PLACED):
                _delete(entry)
        # As long as the folder is there, the next run can tell what was placed; the lock goes last.
        for name in (PLACED, PLAN, LOCK):
            (work / name).unlink(missing_ok=True)
        work.rmdir()


def _delete(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def missing_parents(final: Path) -> list[Path]:
    """List folders that do not exist yet, innermost first: a failed run takes them away again."""
    return list(takewhile(lambda folder: not folder.exists(), final.absolute().parents))


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders, innermost first, that hold nothing."""
    for folder in folders:
        with suppress(OSError):  # not empty, or another run was quicker
            folder.rmdir()
