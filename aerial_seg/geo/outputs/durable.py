"""Files that are either whole and on the disk, or not there under their name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from aerial_seg.errors import OutputError
from aerial_seg.files.disk import is_full, nearest_folder, sync, write_failure

__all__ = ["disk_errors", "require_written", "settled_file", "sync"]

_ERRORS = (RasterioError, CPLE_BaseError, OSError)
"""CPLE: rasterio.shutil.copy passes GDAL's errors on as they are."""


@contextmanager
def settled_file(final: Path) -> Iterator[Path]:
    """A path beside `final` to write to; when the block ends well it is on the disk, under the name `final`.

    Whatever the block raises, or a kill at any moment, leaves `final` as it was. Raises OutputError, naming `final`,
    for what the disk does not take.
    """
    partial = final.with_name(final.name + ".partial")
    with disk_errors(final):
        # GDAL looks into a file that it is to replace, and stumbles over a damaged one.
        partial.unlink(missing_ok=True)
        try:
            yield partial
            sync(partial)
            partial.replace(final)
            sync(final.parent)
        except _ERRORS as error:
            # While what was written still fills the disk.
            raise _failure(error, final) from error
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def disk_errors(final: Path) -> Iterator[None]:
    """What GDAL or the system says while `final` is written becomes one line with its remedy."""
    try:
        with warnings.catch_warnings():
            # Masks of rasters without CRS are wanted.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except _ERRORS as error:
        raise _failure(error, final) from error


def _failure(error: BaseException, final: Path) -> OutputError:
    return write_failure(error, final, f"free disk space or check the folder {final.parent}, and run again")


def require_written(right: bool, final: Path) -> None:
    """Raises OutputError unless what was read back is what was handed over: GDAL is silent about some lost writes."""
    if not right:
        lost = OSError("reads back other than it was written")
        if is_full(lost, nearest_folder(final)):
            raise _failure(lost, final)
        raise OutputError(
            f"{final.name} {lost}; free disk space or check the disk under {final.parent}, and run again"
        )
