"""Rasters of the drawn town side by side, and datasets that they are added to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from tile_town import SETTINGS, WIDTH

from aerial_seg.jobs.tile.job import TileReport, tile
from aerial_seg.jobs.tile.settings import TileSettings

ADDED = replace(SETTINGS, append=True)
FAR = WIDTH * 0.5 + 500
"""Metres to the east where nothing else lies."""
Town = Callable[..., Path]


def cut(rasters: list[Path], labels: Path, folder: Path, settings: TileSettings = SETTINGS) -> TileReport:
    return tile([str(path) for path in rasters], [str(labels)], folder, settings)


def content(folder: Path) -> Mapping[str, str]:
    """All files by what they hold."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
