"""Whether there is a file behind a name, and what a file of several rasters calls them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import MappingProxyType

from rasterio.io import DatasetReader

from aerial_seg.errors import InputError
from aerial_seg.files.names import check_address, check_input, shown
from aerial_seg.files.operating_system import shell_line
from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.geo.raster.remote import gdal_name

_LISTED = 10
"""Subdatasets that a message names."""

_NO_FILES = MappingProxyType({
    stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device",
})  # fmt: skip
"""What cannot be read from its beginning and again."""


def require_file(path: Path | str) -> None:
    """Raises InputError unless there is a file or folder of this name, or that it names a part of, to be read.

    Read from its beginning and again, so no pipe or device. What lies on a server or in an archive is looked for when
    it is opened.
    """
    text = gdal_name(path)
    if text.startswith("<VRTDataset"):
        return
    check_input(path)
    check_address(path)
    inner = find_subdataset(text)
    file = text if inner is None else gdal_name(inner.file)
    if not file.startswith("/vsi"):
        _require_readable(file, shown(path) if inner is None else f"{inner.file}, which {path} lies in,")


def _require_readable(file: str, name: str) -> None:
    """Raises InputError, with `name` for the file, unless something is there that is no pipe and no device."""
    try:
        mode = os.stat(file).st_mode  # noqa: PTH116 - a Path raises for some names
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist; check the path") from error
    except OSError as error:
        raise InputError(f"{name} cannot be opened ({error.strerror or error}); check the path") from error
    what = next((kind for test, kind in _NO_FILES.items() if test(mode)), None)
    if what is not None:
        raise InputError(f"{name} is {what}, wanted a file; write what it gives into one first")


def which_inside(dataset: DatasetReader) -> str:
    """How to name what is in a file of several rasters, in the words that are then taken."""
    tags = dataset.tags(ns="SUBDATASETS")
    names = [name for key, name in tags.items() if key.endswith("_NAME")]
    if not names:
        return "wanted a GeoTIFF, VRT or another format of rasters"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"name one of its subdatasets: {', '.join(shell_line([name]) for name in names[:_LISTED])}{more}"
