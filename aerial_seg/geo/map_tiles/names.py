"""Where map tiles lie that are named by zoom, column and row: z/x/y.png in folders, z-x-y.png or x-y-z.png in one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from affine import Affine
from pyproj import Transformer

_LARGEST_ZOOM = 30
_HALF = math.pi * 6_378_137
"""From the middle of EPSG:3857 to its edges, in its metres."""
_FLAT = re.compile(r"(?:.*?[-_ ])?(\d{1,10})[-_ ](\d{1,10})[-_ ](\d{1,10})")
_DESCRIPTION = "tilemapresource.xml"
"""What gdal2tiles writes beside tiles whose rows count from the south."""

Extent = tuple[float, float, float, float]
"""west, south, east, north in degrees."""


@dataclass(frozen=True, slots=True)
class TileName:
    """One tile of the web-mercator pyramid; rows count from the north."""

    zoom: int
    column: int
    row: int

    def flipped(self) -> TileName:
        """The tile whose row has this number when rows count from the south (TMS)."""
        return replace(self, row=(1 << self.zoom) - 1 - self.row)

    def transform(self, *, height: int, width: int) -> Affine:
        """From its pixels to EPSG:3857."""
        side = 2 * _HALF / (1 << self.zoom)
        left, top = -_HALF + self.column * side, _HALF - self.row * side
        return Affine(side / width, 0, left, 0, -side / height, top)


def read_names(paths: Sequence[Path]) -> list[TileName] | None:
    """What the names of these files say, read in the one way that fits them all; None where there is none, or two.

    All have one zoom: tiles of several show the same ground.
    """
    found = [
        names for names in (_by_folders(paths), _flat(paths, (0, 1, 2)), _flat(paths, (2, 0, 1))) if names
    ]
    if not found or any(names != found[0] for names in found):
        return None
    return found[0]


def zooms_of_folders(paths: Sequence[Path]) -> set[int]:
    """The zooms of tiles that lie as z/x/y; empty where one does not."""
    parts = [(*path.absolute().parts[-3:-1], path.stem) for path in paths]
    if not all(len(one) == 3 and all(map(str.isdecimal, one)) for one in parts):
        return set()
    return {int(zoom) for zoom, _, _ in parts}


def counts_from_south(paths: Sequence[Path]) -> bool:
    """Whether a description beside the tiles says that their rows count from the south."""
    folders = {parent for path in paths for parent in list(path.absolute().parents)[:4]}
    return any((folder / _DESCRIPTION).is_file() for folder in folders)


def extent_of(names: Sequence[TileName]) -> Extent:
    """The box around tiles of one zoom."""
    side = 2 * _HALF / (1 << names[0].zoom)
    left, right = min(one.column for one in names), max(one.column for one in names) + 1
    top, bottom = min(one.row for one in names), max(one.row for one in names) + 1
    to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
    west, north = to_degrees.transform(-_HALF + left * side, _HALF - top * side)
    east, south = to_degrees.transform(-_HALF + right * side, _HALF - bottom * side)
    return west, south, east, north


def _by_folders(paths: Sequence[Path]) -> list[TileName] | None:
    numbers = []
    for path in paths:
        parts = (*path.absolute().parts[-3:-1], path.stem)
        if len(parts) < 3 or not all(part.isdecimal() and len(part) <= 10 for part in parts):
            return None
        numbers.append(tuple(map(int, parts)))
    return _valid(numbers, (0, 1, 2))


def _flat(paths: Sequence[Path], order: tuple[int, int, int]) -> list[TileName] | None:
    matches = [_FLAT.fullmatch(path.stem) for path in paths]
    numbers = [tuple(map(int, match.groups())) for match in matches if match is not None]
    return _valid(numbers, order) if len(numbers) == len(paths) else None


def _valid(numbers: Sequence[tuple[int, ...]], order: tuple[int, int, int]) -> list[TileName] | None:
    """The names with zoom, column and row at these places; None unless all can be tiles of one zoom, each once."""
    names = [TileName(*(one[place] for place in order)) for one in numbers]
    fits = all(one.zoom <= _LARGEST_ZOOM and max(one.column, one.row) < 1 << one.zoom for one in names)
    if not names or not fits or len({one.zoom for one in names}) > 1 or len(set(names)) < len(names):
        return None
    return names
