"""The one way to write a file: beside its place, then on the disk, then under its name; whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aerial_seg.errors import OutputError
from aerial_seg.files.disk import write_failure
from aerial_seg.files.operating_system import replace, sync

__all__ = ["disk_errors", "failure", "settle", "settled_file", "sync"]

Errors = tuple[type[BaseException], ...]


@contextmanager
def settled_file(
    final: Path, *, errors: Errors = (OSError,), draft: Path | None = None, remedy: str | None = None
) -> Iterator[Path]:
    """Yield a path beside `final` to write to; when the block ends well it is on the disk, under the name `final`.

    Whatever the block raises, or a kill at any moment, leaves `final` as it was. errors: what a library that writes
    raises where the disk does not take it. draft: the path to write to, where NAME.partial will not do. Raises
    OutputError, naming `final` and the remedy, for these errors.
    """
    partial = final.with_name(final.name + ".partial") if draft is None else draft
    with disk_errors(final, errors=errors, remedy=remedy):
        # GDAL looks into a file that it is to replace, and stumbles over a damaged one.
        partial.unlink(missing_ok=True)
        try:
            yield partial
            settle(partial, final)
        except errors as error:
            # While what was written still fills the disk.
            raise failure(error, final, remedy) from error
        finally:
            partial.unlink(missing_ok=True)


def settle(draft: Path, final: Path) -> None:
    """Put the draft, which lies in the same folder, on the disk and give it the name `final`. Raises OSError."""
    sync(draft)
    replace(draft, final)
    sync(final.absolute().parent)


@contextmanager
def disk_errors(final: Path, *, errors: Errors = (OSError,), remedy: str | None = None) -> Iterator[None]:
    """Turn these errors of the block into an OutputError: `final` could not be written, with the remedy."""
    try:
        yield
    except errors as error:
        raise failure(error, final, remedy) from error


def failure(error: BaseException, final: Path, remedy: str | None = None) -> OutputError:
    """Make the one line for an error that kept `final` from being written; see disk.write_failure."""
    usual = f"free disk space or check the folder {final.parent}, and run again"
    return write_failure(error, final, usual if remedy is None else remedy)
