"""assess report: labelled points and the mask that they were drawn for in, accuracy and areas with intervals out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.assessment import Accuracy, Estimate, estimate_accuracy
from aerial_seg.errors import InputError
from aerial_seg.geo.areas.vector_layer import shown
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.unchanged import Unchanged, files_of, label_files
from aerial_seg.jobs.assess.points import LabelledPoints, listing, read_points
from aerial_seg.jobs.assess.settings import AssessSettings
from aerial_seg.jobs.assess.strata import Strata, read_strata
from aerial_seg.legend import Legend
from aerial_seg.paths import StrPath, as_name, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.settings import chosen
from aerial_seg.vectors.class_raster import ClassRaster

_BLOCK = 512
_FEW = 20
"""Points of a class below which its standard errors say little; the paper advises 50 and more."""


@dataclass(frozen=True, slots=True)
class AssessReport:
    """Hold a map's accuracy and the areas of its classes, estimated from labelled points.

    counts: (K, K) points, rows = map, columns = reference, in the order of the legend. mapped: (K,) ground that the map
    gives each class, in the unit: m2, or px where nobody knows what a pixel measures.
    """

    mask: str
    points: str
    legend: Legend
    counts: NDArray[np.int64]
    mapped: tuple[float, ...]
    unit: str
    accuracy: Accuracy
    notes: tuple[str, ...]

    @property
    def areas(self) -> tuple[Estimate, ...]:
        """The ground of each class by the reference, in the unit (eq. 11)."""
        whole = sum(self.mapped)
        return tuple(share.times(whole) for share in self.accuracy.areas)

    def as_json(self) -> dict[str, Any]:
        """All figures by class name; null where a figure cannot be known."""
        names = self.legend.names
        document = self.accuracy.as_json(names)
        for k, one in enumerate(document["classes"]):
            one |= {
                "value": self.legend.values[k],
                "points": int(self.counts[k].sum()),
                "mapped_area": self.mapped[k],
                "area": self.areas[k].as_json(),
            }
        return {
            "mask": self.mask,
            "points": self.points,
            "area_unit": self.unit,
            "labelled_points": int(self.counts.sum()),
            "counts": self.counts.tolist(),
            **document,
            "notes": list(self.notes),
        }


def assess(
    points: StrPath, mask: StrPath, settings: AssessSettings | None = None, progress: Progress = silent
) -> AssessReport:
    """Estimate a mask's accuracy and the areas of its classes, with 95 % intervals, from labelled points.

    points: what `design_sample` wrote, with its field `reference` filled by class number or name; or points of one's
    own that were drawn at random in each class. Estimators: Olofsson et al. 2014, section 4, see `estimate_accuracy`.
    Raises InputError where points or map are no longer those of the design, and for a class without labelled points.
    """
    name, mask = as_name(points, "points"), as_path(mask, "mask")
    settings = chosen(settings, AssessSettings)
    still = Unchanged([mask, Path(name)], [*files_of([mask]), *label_files([Path(name)])])
    with ClassRaster(mask) as raster, still.holding():
        strata = read_strata(mask, raster, progress)
        found = read_points(str(name), strata.grid, strata.legend, settings)
        counts, notes = _table(found, strata, raster, name)
    accuracy = estimate_accuracy(strata.shares, counts)
    areas = tuple(strata.areas.tolist())
    return AssessReport(
        str(mask),
        str(name),
        strata.legend,
        counts,
        areas,
        strata.unit,
        accuracy,
        (*notes, *still.notes),
    )


def _table(
    found: LabelledPoints, strata: Strata, raster: ClassRaster, name: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(K, K) labelled points by class of the map and of the reference."""
    mapped = _mapped(found, strata, raster)
    off = mapped < 0
    notes = []
    if found.strata is not None:
        values = np.array(strata.legend.values)
        changed = ~off & (values[mapped.clip(0)] != found.strata)
        if changed.any():
            raise InputError(
                f"{int(changed.sum())} of {len(changed)} points of {shown(name)} lie on another class of this map than "
                f"when they were drawn ({listing(found.numbers[changed])}), wanted the map that they were drawn for: "
                "another one needs a sample of its own (`aerial-seg assess design`)"
            )
    if off.any():
        notes.append(
            f"left out: {int(off.sum())} points where the map has no class ({listing(found.numbers[off])})"
        )
    silent_ones = ~off & (found.reference < 0)
    if silent_ones.any():
        names, places = strata.legend.names, mapped[silent_ones]
        told = ", ".join(f"{int((places == k).sum())} of '{names[k]}'" for k in np.unique(places))
        notes.append(
            f"left out: {int(silent_ones.sum())} points that are not labelled ({told}); the estimates hold if they "
            "are not unlike the others"
        )
    used = ~off & (found.reference >= 0)
    classes = len(strata.legend)
    pairs = mapped[used] * classes + found.reference[used]
    counts = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    return counts, (*found.notes, *notes, *_few(counts, strata, name))


def _few(counts: NDArray[np.int64], strata: Strata, name: str) -> tuple[str, ...]:
    """What to say of classes with few points. Raises InputError for one without any."""
    rows, names, notes = counts.sum(axis=1), strata.legend.names, []
    for k in np.flatnonzero(strata.pixels > 0):
        if rows[k] == 0:
            raise InputError(
                f"class '{names[k]}', {strata.shares[k]:.2%} of the map, has no labelled point in {shown(name)}, "
                "wanted at least two: nothing can be said of its ground; label some"
            )
        if rows[k] == 1:
            notes.append(f"'{names[k]}' has one labelled point: what depends on it has no standard error")
        elif rows[k] < _FEW:
            notes.append(f"'{names[k]}' has only {rows[k]} labelled points: its standard errors say little")
    return tuple(notes)


def _mapped(found: LabelledPoints, strata: Strata, raster: ClassRaster) -> NDArray[np.int64]:
    """(n,) places in the legend of the map's classes at the points; −1 where it has none."""
    height, width = strata.grid.shape
    mapped = np.full(len(found.rows), -1, np.int64)
    inside = (found.rows >= 0) & (found.rows < height) & (found.cols >= 0) & (found.cols < width)
    across = -(-width // _BLOCK)
    block = found.rows // _BLOCK * across + found.cols // _BLOCK
    place = {value: k for k, value in enumerate(strata.legend.values)}
    for one in np.unique(block[inside]):
        here = np.flatnonzero(inside & (block == one))
        top, left = int(one) // across * _BLOCK, int(one) % across * _BLOCK
        where = Extent(range(top, min(top + _BLOCK, height)), range(left, min(left + _BLOCK, width)))
        values, valid = raster.window(where)
        rows, cols = found.rows[here] - top, found.cols[here] - left
        classes = [
            place[value] for value in np.where(valid, values, strata.legend.values[0])[rows, cols].tolist()
        ]
        mapped[here] = np.where(valid[rows, cols], classes, -1)
    return mapped
