"""No partial output is ever readable as a result: write beside, then rename."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aerial_seg.errors import OutputError
from aerial_seg.files.made import record_made, require_own
from aerial_seg.files.names import check_output
from aerial_seg.files.operating_system import replace
from aerial_seg.files.work import RESULT, locked_work, place, system_errors, was_placed
from aerial_seg.mentions import setting


def check_writable(final: Path, *, overwrite: bool, maker: Path | None = None) -> None:
    """Raise OutputError unless the file `final` can be made now: before hours of work, not after them.

    maker: the output that `final` comes with, where it is not that itself.
    """
    check_output(final)
    check_places([final], overwrite=overwrite, maker=maker or final)


def check_places(finals: Sequence[Path | str], *, overwrite: bool, maker: Path) -> None:
    """Check as check_writable, for files of one folder with names derived from that of `maker`, which is checked."""
    for final in finals:
        try:
            is_folder = stat.S_ISDIR(os.stat(final).st_mode)  # noqa: PTH116 - of thousands of files
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                check_output(final)  # tells of loops of links
            continue
        if is_folder:
            raise OutputError(f"{final} is a folder where a file is to be written; choose another output")
        _require_new(Path(final), overwrite=overwrite, maker=maker)
    _require_writable(Path(finals[0]))


def _require_new(final: Path, *, overwrite: bool, maker: Path) -> None:
    # What a killed run had just placed is no reason for the same command to stop.
    if not overwrite and not was_placed(maker, final):
        raise OutputError(
            f"{final} exists already; pass {setting('overwrite', True)} to replace it or choose another output"
        )


def _require_writable(final: Path) -> None:
    """Raises OutputError unless files can be made beside `final`."""
    parent = final.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise OutputError(
            f"{final} cannot be written because {parent} is not a folder; choose another output"
        )
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{parent} is not writable; change its permissions or choose another output")


def check_folder(final: Path, *, overwrite: bool, marker: str, own: Sequence[str] = ()) -> None:
    """Check as check_writable, for a folder; one that holds other things than ours is never replaced.

    marker: the file that says that we made it. own: see made.require_own.
    """
    check_output(final)
    if final.exists() and not final.is_dir():
        raise OutputError(f"{final} is a file where a folder is to be written; choose another output")
    empty = final.is_dir() and not any(final.iterdir())
    if final.exists():
        _require_new(final, overwrite=overwrite or empty, maker=final)
    _require_writable(final)
    if not final.exists() or empty:
        return
    if not (final / marker).exists():
        raise OutputError(
            f"{final} holds other files and no {marker}, so it is not replaced; choose another output"
        )
    require_own(final, (marker, *own))


@contextmanager
def staged_files(final: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write to; its files take their place beside `final` when the block ends well, else vanish.

    No other run writes `final` meanwhile.
    """
    check_writable(final, overwrite=overwrite)
    with locked_work(final) as work, system_errors(final):
        check_writable(final, overwrite=overwrite)  # another run may have ended just now
        (work / RESULT).mkdir()
        yield work / RESULT
        place_files(work / RESULT, final)


def place_files(folder: Path, final: Path) -> None:
    """Put all files of `folder`, in the work folder, beside `final`, which comes last: who sees it sees all."""
    drafts = sorted(folder.iterdir(), key=lambda file: (file.name == final.name, file.name))
    if drafts:  # else a run that was killed had placed them
        place(folder.parent, [(draft, final.with_name(draft.name)) for draft in drafts])


@contextmanager
def staged_folder(final: Path, *, overwrite: bool, marker: str, own: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a folder to write to that becomes the folder `final` when the block ends well, else vanishes.

    An existing folder is replaced only if it is empty or holds nothing but what we made: see check_folder. Of a link
    to a folder it is the folder that is replaced. No other run writes `final` meanwhile.
    """
    check_folder(final, overwrite=overwrite, marker=marker, own=own)
    final = behind_link(final)
    with locked_work(final) as work, system_errors(final):
        check_folder(final, overwrite=overwrite, marker=marker, own=own)
        (work / RESULT).mkdir()
        yield work / RESULT
        place_folder(work / RESULT, final)


def place_folder(folder: Path, final: Path) -> None:
    """Make `folder`, in the work folder, the folder `final`, which knows its files; an older one there is gone."""
    record_made(folder)
    place(folder.parent, [(folder, final)])


def reopen_folder(folder: Path, final: Path) -> None:
    """Let `folder`, in the work folder, be there again where a run that was killed behind its placing has left it.

    It is a copy: the folder `final` is a whole result until another takes its place.
    """
    if folder.exists() or not was_placed(final, final):
        return
    draft = folder.with_name(folder.name + ".partial")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(final, draft)
    replace(draft, folder)


def behind_link(final: Path) -> Path:
    """Return the folder itself where `final` is a link to one."""
    return final.resolve() if final.is_symlink() and final.is_dir() else final
