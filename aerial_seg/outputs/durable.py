"""Writes rasters as files/durable does, and knows what rasterio and GDAL raise where the disk is in the way."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from aerial_seg.errors import InputError, OutputError
from aerial_seg.files import durable
from aerial_seg.files.disk import is_full, nearest_folder
from aerial_seg.files.operating_system import sync
from aerial_seg.geo.raster.opening import open_dataset

__all__ = ["disk_errors", "reading_back", "require_written", "settled_file", "sync"]

_ERRORS = (RasterioError, CPLE_BaseError, OSError)
"""CPLE: rasterio.shutil.copy passes GDAL's errors on as they are."""
_LOST = "reads back other than it was written"


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


@contextmanager
def reading_back(path: Path) -> Iterator[DatasetReader]:
    """Open a raster of our own to read it back, inside of one of the blocks above.

    Raises OSError where GDAL cannot open it: no strange input, but a file that the disk did not take. Of small files
    GDAL writes everything when it closes them, and says nothing of what was lost then.
    """
    with ExitStack() as kept:
        try:
            dataset = kept.enter_context(open_dataset(path))
        except InputError as error:
            raise OSError(_LOST) from error
        yield dataset


def require_written(right: bool, final: Path) -> None:
    """Raises OutputError unless what was read back is what was handed over: GDAL is silent about some lost writes."""
    if not right:
        lost = OSError(_LOST)
        if is_full(lost, nearest_folder(final)):
            raise durable.failure(lost, final)
        raise OutputError(
            f"{final.name} {lost}; free disk space or check the disk under {final.parent}, and run again"
        )
