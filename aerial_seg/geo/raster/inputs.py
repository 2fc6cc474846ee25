"""From what a user types to a list of rasters: files, folders, globs, VRTs, addresses on servers."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from aerial_seg.errors import InputError
from aerial_seg.files.names import check_address, check_input
from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.geo.raster.present import require_file
from aerial_seg.geo.raster.remote import is_remote, url_path

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".png", ".jpg", ".jpeg")


def expand_rasters(arguments: Sequence[str]) -> tuple[Path, ...]:
    """Every raster that the arguments name, each once, in the order given; folders and globs sorted by name.

    A file that is named twice, as itself and by its folder for example, counts at its first place. A folder stands for
    the rasters directly in it, or for the map tiles in folders of numbers (z/x/y.png). Raises InputError for an
    argument that names nothing.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        for path in _expand(argument):
            found.setdefault(path.absolute(), path)
    if not found:
        raise InputError("no raster was given; name files, folders or globs")
    return tuple(found.values())


def _expand(argument: str) -> list[Path]:
    path = Path(argument)
    check_address(argument, typed=True)
    if is_remote(argument) and find_subdataset(argument) is None:
        return [url_path(argument)]
    if argument.startswith("/vsi"):
        return [path]
    if find_subdataset(argument) is not None:
        require_file(argument)
        return [path]
    if os.path.isfile(argument):  # noqa: PTH113 - a Path raises for some names
        # What is wrong with its name is told when it is opened: of several scenes it is this one's own fault.
        return [path]
    check_input(argument)
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in RASTER_SUFFIXES) or _map_tiles(path)
        if not inside:
            raise InputError(
                f"folder {path} holds no raster, wanted one of {', '.join(RASTER_SUFFIXES)}; check the path"
            )
        return inside
    if path.exists():
        return [path]
    if glob.has_magic(argument):
        # Path.glob takes no absolute patterns.
        matches = sorted(map(Path, glob.glob(argument, recursive=True)))  # noqa: PTH207
        if not matches:
            raise InputError(f"no file matches {argument}; check the pattern")
        return matches
    raise InputError(f"{path} does not exist; check the path")


def _map_tiles(folder: Path) -> list[Path]:
    """The rasters z/x/y below the folder, or x/y below that of one zoom: of numbers only, in their order."""
    found = [
        path
        for pattern in (("*/*/*", "*/*") if not folder.name.isdecimal() else ("*/*",))
        for path in folder.glob(pattern)
        if path.suffix.lower() in RASTER_SUFFIXES
        and all(part.isdecimal() for part in (*path.relative_to(folder).parts[:-1], path.stem))
    ]
    return sorted(
        found, key=lambda path: [int(part) for part in (*path.relative_to(folder).parts[:-1], path.stem)]
    )
