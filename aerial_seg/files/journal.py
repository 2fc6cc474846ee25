"""The diary of a long run: what it works on, and one line for each piece that is safely on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aerial_seg.errors import AerialSegError, Incomplete, Interrupted, KeptNote, OutputError
from aerial_seg.files import work as files
from aerial_seg.files.disk import write_failure
from aerial_seg.files.durable import disk_errors, settled_file, sync
from aerial_seg.files.work import JOURNAL as NAME
from aerial_seg.files.work import RESULT, clear, work_folder
from aerial_seg.mentions import FORMER_CALL, SAME_CALL, setting

__all__ = ["NAME", "RESULT", "Journal", "work_folder"]
_GO_ON = f"{SAME_CALL} to go on, or pass {setting('restart', True)} to begin anew"


class DamagedJournalError(OutputError):
    """Tell that a journal holds what no run wrote; running the same command again would not help."""


class Journal:
    """Keep lines of JSON in one file: first the job, then a record for each piece of work that is done.

    A record is written and synced only after its piece is; a line that a crash has cut is no record. The file comes
    with the first record: before that there is nothing to go on with.
    """

    def __init__(
        self, path: Path, job: Mapping[str, Any], records: list[dict[str, Any]], *, renewed: bool = False
    ) -> None:
        self.path, self.job, self.records, self.renewed = path, job, records, renewed
        self._is_whole = False

    @classmethod
    def open(cls, path: Path, job: Mapping[str, Any], *, renew: str | None = None) -> Journal:
        """Open the journal of this very job: the one at `path` if there is one, else a new one.

        Raises OutputError that says what changed when the one at `path` is of another job. But where only the part
        `renew` of the job differs, all that was made is gone, and the journal is a new one that is `renewed`.
        """
        lines = _read_lines(path) if path.exists() else []
        first, *records = lines or [{}]
        renewed = False
        if records and first != (wanted := as_read_back(job)):
            renewed = renew is not None and _differ_in(renew, first, wanted)
            if not renewed:
                raise OutputError(
                    f"{path.parent} holds an interrupted run of another job ({describe_changes(first, wanted)}); "
                    f"{FORMER_CALL} to finish it, or pass {setting('restart', True)} to begin anew"
                )
            clear(path.parent)
            records = []
        return cls(path, job, records, renewed=renewed)

    def add(self, record: Mapping[str, Any]) -> None:
        """Record that one more piece is done; it will be known to be after any crash."""
        if not self._is_whole:
            # The first: the file may be of another job, or end in a line that was cut.
            self._write([self.job, *self.records, record])
        else:
            with disk_errors(self.path):
                with self.path.open("a", encoding="utf-8", newline="\n") as file:
                    file.write(_line(record) + "\n")
                sync(self.path)
        self.records.append(dict(record))

    def _write(self, lines: list[Mapping[str, Any]]) -> None:
        """The file holds just these lines."""
        with settled_file(self.path) as partial:
            text = "".join(_line(line) + "\n" for line in lines)
            partial.write_text(text, encoding="utf-8", newline="\n")
        self._is_whole = True


def read_job(path: Path) -> Mapping[str, Any] | None:
    """Return the job of the journal at `path`; None where there is none."""
    lines = _read_lines(path) if path.exists() else []
    return lines[0] if lines else None


def finished_results(path: Path) -> frozenset[str]:
    """Return the masks that the journal at `path` says were finished; none where it is missing or damaged."""
    try:
        records = _read_lines(path)[1:] if path.exists() else []
        with damaged_records(path):
            return frozenset(record["report"]["mask"] for record in records if "report" in record)
    except DamagedJournalError:
        return frozenset()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The job and the records. Raises OutputError for lines that are none, but for a last one that a crash has cut."""
    lines: list[dict[str, Any]] = []
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, text in enumerate(texts, start=1):
        try:
            line = _from_json(text)
        except (ValueError, RecursionError) as error:
            if number == len(texts):
                break
            raise _damaged(path, f"line {number} of {len(texts)} is not JSON") from error
        if not isinstance(line, dict):
            raise _damaged(path, f"line {number} of {len(texts)} is no record")
        lines.append(line)
    return lines


def _from_json(text: str) -> Any:
    # NaN is not equal to itself, but the nodata value nan is.
    return json.loads(text, parse_constant=str)


def _damaged(path: Path, how: str) -> DamagedJournalError:
    return DamagedJournalError(
        f"the journal {path} is damaged ({how}); pass {setting('restart', True)} to begin anew"
    )


@contextmanager
def damaged_records(path: Path) -> Iterator[None]:
    """Tell with the remedy what is wrong with the journal's records that the block reads."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"a record is odd at {error}") from error


def _line(document: Mapping[str, Any]) -> str:
    # Paths are written as text.
    return json.dumps(document, sort_keys=True, default=str)


def as_read_back(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job as JSON knows it: tuples are lists."""
    document: dict[str, Any] = _from_json(_line(job))
    return document


def _differ_in(part: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return {**then, part: None} == {**now, part: None}


def describe_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe what differs as `overlap was 64, is 48; …`, nested settings by their path."""
    before, after = dict(_flat(then)), dict(_flat(now))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return "; ".join(f"{key} was {before.get(key)}, is {after.get(key)}" for key in keys)


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _finished() -> bool:
    return False


@contextmanager
def locked_work(final: Path, *, restart: bool, unfinished: Callable[[], bool] = _finished) -> Iterator[Path]:
    """Hold the work folder of `final` for this run alone.

    It stays when the block fails after a piece was recorded, so that the same command goes on; it goes when the block
    ends well or nothing was recorded.

    unfinished: asked when the block has ended well, whether there is something to go on with all the same. Raises
    OutputError when another run holds it, or when the disk does not take what is written.
    """
    with (
        files.locked_work(
            final,
            resumes=lambda work: not restart and (work / NAME).exists(),
            keep=has_records,
            unfinished=lambda work: unfinished() and has_records(work),
        ) as work,
        files.system_errors(final),
    ):
        yield work


@contextmanager
def telling_what_is_kept(work: Path, what: str = "rows") -> Iterator[None]:
    """Say in an error of the block that finished `what` are kept, if any are: it is Incomplete, or Interrupted."""
    kept = f"finished {what} are kept; {_GO_ON}"
    try:
        with noting_what_is_kept(work, what):
            yield
    except KeyboardInterrupt as error:
        if not has_records(work):
            raise
        raise Interrupted(f"interrupted; {kept}") from error
    except (Incomplete, DamagedJournalError):
        raise
    except (AerialSegError, OSError) as error:
        if isinstance(error, OSError):
            final = work.with_name(work.name.removesuffix(".work"))
            error = write_failure(error, final, "free space or check the disk")
        if not has_records(work):
            raise error
        raise Incomplete(f"{error}; {kept}") from error


@contextmanager
def noting_what_is_kept(work: Path, what: str = "rows") -> Iterator[None]:
    """Note on an error of the block, whatever it is, that finished `what` are kept, if any are."""
    try:
        yield
    except BaseException as error:
        if has_records(work):
            error.add_note(KeptNote(f"finished {what} are kept; {_GO_ON}"))
        raise


def has_records(work: Path) -> bool:
    """Tell whether pieces in this work folder were recorded as done; a damaged journal is for the user to judge."""
    try:
        return (work / NAME).exists() and len(_read_lines(work / NAME)) > 1
    except OutputError:
        return True


def forget(work: Path) -> None:
    """Keep nothing of the work: what was made is of no use."""
    clear(work)
