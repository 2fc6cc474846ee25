"""Files that are either whole and on the disk, or not there under their name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from aerial_seg.errors import OutputError


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
        finally:
            partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """The file's content, or the folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(final: Path) -> Iterator[None]:
    """What GDAL or the system says while `final` is written becomes one line with its remedy."""
    try:
        with warnings.catch_warnings():
            # Masks of rasters without CRS are wanted.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except (RasterioError, CPLE_BaseError, OSError) as error:
        # CPLE: rasterio.shutil.copy passes GDAL's errors on as they are. GDAL's OSErrors have no number.
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{final.name} could not be written ({reason}); free disk space or check the folder {final.parent}, "
            "and run again"
        ) from error


def require_written(right: bool, final: Path) -> None:
    """Raises OutputError unless what was read back is what was handed over: GDAL is silent about some lost writes."""
    if not right:
        raise OutputError(
            f"{final.name} reads back other than it was written; free disk space or check the disk under "
            f"{final.parent}, and run again"
        )
