"""No partial output is ever readable as a result: write beside, then rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aerial_seg.errors import OutputError


def check_writable(final: Path, *, overwrite: bool) -> None:
    """Raises OutputError unless the file `final` can be made now: before hours of work, not after them."""
    if final.is_dir():
        raise OutputError(f"{final} is a folder where a file is to be written; choose another output")
    _check_place(final, overwrite=overwrite)


def _check_place(final: Path, *, overwrite: bool) -> None:
    if final.exists() and not overwrite:
        raise OutputError(f"{final} exists already; pass --overwrite to replace it or choose another output")
    parent = final.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise OutputError(
            f"{final} cannot be written because {parent} is not a folder; choose another output"
        )
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{parent} is not writable; change its permissions or choose another output")


def check_folder(final: Path, *, overwrite: bool, marker: str) -> None:
    """As check_writable, for a folder; one that holds other things than ours is never replaced."""
    if final.exists() and not final.is_dir():
        raise OutputError(f"{final} is a file where a folder is to be written; choose another output")
    empty = final.is_dir() and not any(final.iterdir())
    _check_place(final, overwrite=overwrite or empty)
    if final.exists() and not empty and not (final / marker).exists():
        raise OutputError(
            f"{final} holds other files and no {marker}, so it is not replaced; choose another output"
        )


@contextmanager
def staged_files(final: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder `NAME.work/` beside `final`; its files take their place when the block ends well, else vanish."""
    check_writable(final, overwrite=overwrite)
    with _work_folder(final) as work:
        yield work
        place_files(work, final)


def place_files(folder: Path, final: Path) -> None:
    """All files of `folder` lie beside `final`, which came last: whoever sees it sees the result whole."""
    for file in sorted(folder.iterdir(), key=lambda file: (file.name == final.name, file.name)):
        file.replace(final.parent / file.name)


@contextmanager
def staged_folder(final: Path, *, overwrite: bool, marker: str) -> Iterator[Path]:
    """A folder `NAME.work/` that becomes the folder `final` when the block ends well, else vanishes.

    An existing folder is replaced only if it is empty or holds the file `marker`, which says that we made it.
    """
    check_folder(final, overwrite=overwrite, marker=marker)
    with _work_folder(final) as work:
        yield work
        place_folder(work, final)


def place_folder(folder: Path, final: Path) -> None:
    """`folder` has become the folder `final`; an older one there is gone."""
    if final.exists():
        _swap(folder, final)
    else:
        folder.replace(final)


def _swap(work: Path, final: Path) -> None:
    """`work` is at the place of the folder `final`, which is gone; when that fails, all is as before."""
    retired = Path(tempfile.mkdtemp(prefix=f"{final.name}.old-", dir=final.absolute().parent))
    try:
        old = final.replace(retired / final.name)
        try:
            work.replace(final)
        except OSError:
            old.replace(final)
            raise
    finally:
        shutil.rmtree(retired)


def work_folder(final: Path) -> Path:
    """Where an unfinished `final` keeps its pieces: NAME.work/ beside it."""
    return final.with_name(final.name + ".work")


@contextmanager
def _work_folder(final: Path) -> Iterator[Path]:
    work, made = work_folder(final), missing_parents(final)
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield work
    except OSError as error:
        # GDAL's write errors are OSErrors without a number.
        reason = error.strerror or error
        raise OutputError(f"{final} could not be written: {reason}; free space or check it") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        remove_empty(made)


def missing_parents(final: Path) -> list[Path]:
    """Folders that do not exist yet, innermost first: a failed run takes them away again."""
    return [folder for folder in final.absolute().parents if not folder.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Those of the folders, innermost first, that hold nothing are gone."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
