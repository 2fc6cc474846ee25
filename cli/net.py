"""The one net under every command: whatever is raised becomes one line and an exit code.

Being asked to end is being interrupted: what is finished is kept, what is half-made goes, exit code 130.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

import click

from aerial_seg.errors import AerialSegError, FileNote, Incomplete, KeptNote
from aerial_seg.files.operating_system import shell_line
from aerial_seg.printable import shortened
from aerial_seg.progress import listening

from . import console
from .setting_options import as_flags

_INTERRUPTED = 130
_ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name))
"""What asks a program to end, beside Ctrl-C. SIGBREAK is Windows' own."""
_LONGEST_WORD = 4200
"""Letters: a path may have 4,096. What is longer is a mistake that need not be shown whole."""
_FROM_THE_SYSTEM = frozenset((
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT,
    errno.EBUSY, errno.ETXTBSY, errno.ENOMEM, errno.EAGAIN,
))  # fmt: skip
"""What a disk, a network share or the system's limits say, whatever the program does right."""


@dataclass(slots=True)
class Session:
    """One run of the command line.

    command: as far as it is known. context: click's, of the innermost command. debug: whether tracebacks are shown.
    """

    words: Sequence[str]
    command: str | None = None
    context: click.Context | None = None
    debug: bool = False


def exit_code_of(work: Callable[[Session], int], words: Sequence[str]) -> int:
    """The exit code of what `work` does; what it raises is told in one line on stderr, with --debug after a traceback.

    Errors that the user can mend keep their own words. All others are told with their kind and the file at work as a
    defect: 3 where finished pieces are kept, else 1.
    """
    session = Session(words)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        with listening(console.note_beside_bars):
            return _caught(work, session)


def _caught(work: Callable[[Session], int], session: Session) -> int:
    try:
        code = work(session)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        return _told("Interrupted.", _INTERRUPTED)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "aerial-seg"
        said = as_flags(error.format_message(), error.ctx or session.context)
        return _told(f"Error: {said} Try '{command} --help'.", error.exit_code)
    except click.ClickException as error:
        return _told(f"Error: {error.format_message()}", error.exit_code)
    except BrokenPipeError as error:
        return _told(
            as_flags(_closed(error, session), session.context), Incomplete.exit_code if _kept(error) else 1
        )
    except Exception as error:  # noqa: BLE001 - the net; a test sees to it that it stays the only one
        return _told(as_flags(f"Error: {_words(error, session)}", session.context), _code(error))
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Python shows two lines with the program's own text; libraries quote files in theirs."""
    with suppress(OSError):
        console.note(f"warning: {' '.join(as_flags(str(message)).split())}")


def _told(line: str, code: int) -> int:
    # Messages quote click, GDAL and pydantic, whose texts may hold line breaks.
    words = (word if len(word) <= _LONGEST_WORD else shortened(word, 300) for word in line.split())
    with suppress(OSError):  # nobody listens any more
        console.note(" ".join(words))
    return code


def _closed(error: BrokenPipeError, session: Session) -> str:
    """Nobody reads the output any more, as in `aerial-seg info x | head`: no defect."""
    _show_traceback(error, session)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            # Python writes what it still holds when it ends, and would complain.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return "Stopped: the program that reads the output closed it before its end" + _and_kept(error)


def _words(error: Exception, session: Session) -> str:
    _show_traceback(error, session)
    if isinstance(error, AerialSegError):
        return str(error)
    kind = type(error).__name__
    said = shortened(str(error), 200)
    what = f"{kind}: {said}" if said else kind
    files = _files(error)
    place = f" at {', '.join(files)}" if files else ""
    if isinstance(error, MemoryError):
        return (
            f"memory ran out{place} ({what}); close other programs or ask for less at once (predict: --max-memory, "
            f"--batch-size 1; train: a smaller batch_size or crop in the recipe){_and_kept(error)}"
        )
    if isinstance(error, RecursionError) and files:
        return f"something{place} is nested more deeply than Python can follow ({what}); flatten it{_and_kept(error)}"
    if isinstance(error, OSError) and error.errno in _FROM_THE_SYSTEM:
        own = (
            [shortened(os.fsdecode(error.filename), 200)]
            if isinstance(error.filename, str | bytes)
            else files
        )
        return (
            f"the system refused {', '.join(own) or 'a file'} ({error.strerror}); check its name, its permissions and "
            f"its disk{_and_kept(error)}"
        )
    again = shortened(
        shell_line(["aerial-seg", "--debug", *(w for w in session.words if w != "--debug")]), 300
    )
    return (
        f"{session.command or 'aerial-seg'} stopped{place} with {what}; this is a defect of aerial-seg: please report "
        f"it with what this shows: {again}{_and_kept(error)}"
    )


def _show_traceback(error: BaseException, session: Session) -> None:
    if session.debug:
        with suppress(OSError):
            console.note("".join(traceback.format_exception(error)).rstrip())


def _code(error: Exception) -> int:
    if isinstance(error, AerialSegError):
        return error.exit_code
    return Incomplete.exit_code if _kept(error) else 1


def _files(error: BaseException) -> list[str]:
    """The files at work, the innermost first, three at the most."""
    notes = [shortened(note, 200) for note in getattr(error, "__notes__", ()) if isinstance(note, FileNote)]
    return list(dict.fromkeys(notes))[:3]


def _kept(error: BaseException) -> str | None:
    return next((note for note in getattr(error, "__notes__", ()) if isinstance(note, KeptNote)), None)


def _and_kept(error: BaseException) -> str:
    kept = _kept(error)
    return f"; {kept}" if kept else ""


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """While inside, SIGTERM does what Ctrl-C does; `kill`, batch systems and containers send it.

    On Windows, which has no such signal, Ctrl-Break does it, which is what a console's windows and services can send.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    owner = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() == owner:
            raise KeyboardInterrupt
        # A forked worker: its parent ends it so.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {number: signal.signal(number, interrupt) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
