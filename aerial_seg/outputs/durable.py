"""Writes rasters as files/durable does, and knows what rasterio and GDAL raise where the disk is in the way."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from aerial_seg.errors import OutputError
from aerial_seg.files import durable
from aerial_seg.files.disk import is_full, nearest_folder
from aerial_seg.files.operating_system import sync

__all__ = ["disk_errors", "require_written", "settled_file", "sync"]

_ERRORS = (RasterioError, CPLE_BaseError, OSError)
"""CPLE: rasterio.shutil.copy passes GDAL's errors on as they are."""


@contextmanager
def settled_file(final: Path) -> Iterator[Path]:
    """As files.durable.settled_file, for a block in which rasterio or GDAL writes."""
    with _no_warning_of_places(), durable.settled_file(final, errors=_ERRORS) as partial:
        yield partial


@contextmanager
def disk_errors(final: Path) -> Iterator[None]:
    """What GDAL or the system says while `final` is written becomes one line with its remedy."""
    with _no_warning_of_places(), durable.disk_errors(final, errors=_ERRORS):
        yield


@contextmanager
def _no_warning_of_places() -> Iterator[None]:
    """Masks of rasters without CRS are wanted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def require_written(right: bool, final: Path) -> None:
    """Raises OutputError unless what was read back is what was handed over: GDAL is silent about some lost writes."""
    if not right:
        lost = OSError("reads back other than it was written")
        if is_full(lost, nearest_folder(final)):
            raise durable.failure(lost, final)
        raise OutputError(
            f"{final.name} {lost}; free disk space or check the disk under {final.parent}, and run again"
        )
