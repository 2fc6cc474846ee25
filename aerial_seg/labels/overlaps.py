"""Ground that polygons of several classes cover: counted once while they are burnt, decided by a priority."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize

from aerial_seg.documents import listed
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.mentions import setting
from aerial_seg.printable import shortened

MOST_OVERLAP = 0.001
"""Share of the labelled ground on which two classes may lie without a word on which is on top."""

_Pair = tuple[int, int]


@dataclass(slots=True)
class Overlaps:
    """What has been burnt so far. priority: classes by name, the topmost first; the others lie below all of them."""

    legend: Legend
    priority: tuple[str, ...]
    _pixels: Counter[_Pair] = field(default_factory=Counter)
    _area: Counter[_Pair] = field(default_factory=Counter)
    _of_class: Counter[int] = field(default_factory=Counter)
    _covered: int = 0

    def __post_init__(self) -> None:
        """Raises SettingsError for a priority of what is no class."""
        for name in self.priority:
            if name not in self.legend.names:
                raise SettingsError(
                    f"{setting('priority')} names '{shortened(name)}', which is no class; known: "
                    f"{', '.join(self.legend.names)}{did_you_mean(name, self.legend.names)}"
                )
        if len(set(self.priority)) < len(self.priority):
            raise SettingsError(
                f"{setting('priority')} names a class twice; name each once, the topmost first"
            )

    def burn(
        self, geometries: NDArray[Any], values: NDArray[np.uint8], grid: Grid, *, outside: int, rim: int = 0
    ) -> NDArray[np.uint8]:
        """Pixel values (H, W) uint8 of polygons (n,) with a value each, the topmost class on top, else the last one.

        outside: the value of what no polygon covers. rim: pixels around the grid that are burnt and not counted, since
        other windows count them.
        """
        order = np.argsort(self._ranks(values), kind="stable")
        labels = _burnt(geometries[order], values[order], grid, fill=outside)
        inner = slice(rim, grid.height - rim), slice(rim, grid.width - rim)
        classes = [int(value) for value in np.unique(values)]
        if len(classes) == 1 and classes[0] not in (outside, IGNORE):
            # What covers the ground is what was burnt.
            pixels = int((labels[inner] == classes[0]).sum())
            self._covered += pixels
            self._of_class[classes[0]] += pixels
        else:
            self._count(geometries, values, grid, inner)
        return labels

    def _ranks(self, values: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The higher, the later it is burnt; equal for classes without a priority."""
        ranks = np.zeros(256, np.int64)
        known = dict(zip(self.legend.names, self.legend.values, strict=True))
        for place, name in enumerate(reversed(self.priority), start=1):
            ranks[known[name]] = place
        return ranks[values]

    def _count(
        self, geometries: NDArray[Any], values: NDArray[np.uint8], grid: Grid, inner: tuple[slice, slice]
    ) -> None:
        classes = [int(value) for value in np.unique(values) if value != IGNORE]
        masks = {
            value: _burnt(geometries[values == value], np.ones((values == value).sum(), np.uint8), grid)[
                inner
            ]
            > 0
            for value in classes
        }
        if not masks:
            return
        self._covered += int(np.logical_or.reduce(list(masks.values())).sum())
        for value, mask in masks.items():
            self._of_class[value] += int(mask.sum())
        gsd = grid.gsd() if grid.crs is not None else None
        for one, other in combinations(classes, 2):
            pixels = int((masks[one] & masks[other]).sum())
            if pixels:
                self._pixels[one, other] += pixels
                # In square millimetres, which are whole: the order of the windows changes no sum.
                self._area[one, other] += round(pixels * gsd[0] * gsd[1] * 1e6) if gsd is not None else 0

    def check(self) -> tuple[str, ...]:
        """What to say of all that has been burnt. Raises InputError where it is too much to be left to chance."""
        names = {entry.value: entry.name for entry in self.legend.entries}
        decided = [pair for pair in self._pixels if {names[value] for value in pair} & set(self.priority)]
        open_pairs = [pair for pair in self._pixels if pair not in decided]
        share = sum(self._pixels[pair] for pair in open_pairs) / max(1, self._covered)
        if share > MOST_OVERLAP:
            told = listed(self._told(open_pairs), most=3)
            raise InputError(
                f"polygons of different classes overlap on {share:.2g} of the labelled area ({told}), wanted at most "
                f"{MOST_OVERLAP:g}; say which class lies on top with {setting('priority', self._suggested(open_pairs))}"
            )
        notes = []
        if open_pairs:
            notes.append(
                f"overlaps of classes, the later polygon on top: {listed(self._told(open_pairs), most=3)}"
            )
        if decided:
            notes.append(
                f"overlaps of classes, decided by their priority: {listed(self._told(decided), most=3)}"
            )
        return tuple(notes)

    def _told(self, pairs: Sequence[_Pair]) -> Iterator[str]:
        """`road × building 1.2 ha`, the largest first."""
        names = {entry.value: entry.name for entry in self.legend.entries}
        for pair in sorted(pairs, key=lambda pair: -self._pixels[pair]):
            area = self._area[pair] / 1e6
            size = (
                f"{self._pixels[pair]} px"
                if not area
                else f"{area / 1e4:.3g} ha"
                if area >= 1e4
                else f"{area:.3g} m²"
            )
            yield f"{names[pair[0]]} × {names[pair[1]]} {size}"

    def _suggested(self, pairs: Sequence[_Pair]) -> tuple[str, ...]:
        """The classes of these pairs, the smaller on top of the larger, behind those that have a priority."""
        names = {entry.value: entry.name for entry in self.legend.entries}
        values = sorted(
            {value for pair in pairs for value in pair}, key=lambda value: (self._of_class[value], value)
        )
        return (*self.priority, *(names[value] for value in values))


def _burnt(
    geometries: NDArray[Any], values: NDArray[np.uint8], grid: Grid, *, fill: int = 0
) -> NDArray[np.uint8]:
    """A pixel belongs to the polygon that holds its centre."""
    if not len(geometries):
        return np.full(grid.shape, fill, np.uint8)
    shapes = zip(geometries, map(int, values), strict=True)
    burnt = rasterize(shapes, out_shape=grid.shape, transform=grid.transform, fill=fill, dtype="uint8")
    return np.asarray(burnt, np.uint8)
