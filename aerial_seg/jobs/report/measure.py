"""A map measured for a report: areas, comparison with labels, the places to look at, and pictures of all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.jobs.assess.strata import Strata, read_strata
from aerial_seg.jobs.evaluate import EvaluateReport, evaluate_mask
from aerial_seg.jobs.report.pictures import Shown, class_pictures, image_pictures, level_pictures
from aerial_seg.jobs.report.tally import Comparison, Division, WorstPlace, worst_places
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.outputs.mask import read_legend
from aerial_seg.progress import Progress
from aerial_seg.report.map_page.content import Place, View
from aerial_seg.vectors.class_raster import ClassRaster

Pixels = NDArray[np.uint8]

MOST_PLACES = 12
_CLOSE = 400
"""The most pixels a side of a closer look."""
_MOST_CLASSES = 255


@dataclass(frozen=True, slots=True)
class Sources:
    """What a report is made of; None and nothing for what there is not."""

    mask: Path
    labels: tuple[str, ...] = ()
    label_settings: LabelSettings | None = None
    image: Path | None = None
    confidence: Path | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Hold a map's areas, its comparison with the labels if there are any, and the places to look at."""

    strata: Strata
    division: Division
    evaluation: EvaluateReport | None = None
    comparison: Comparison | None = None
    worst: tuple[WorstPlace, ...] = ()
    close_truth: tuple[Pixels, ...] = ()

    @property
    def legend(self) -> Legend:
        """The map's classes."""
        return self.strata.legend

    @property
    def grid(self) -> Grid:
        """The map's grid."""
        return self.strata.grid


@dataclass(slots=True)
class _CloserLook:
    """The labels of the worst places, read once more while they are open."""

    division: Division
    worst: tuple[WorstPlace, ...] = ()
    truth: tuple[Pixels, ...] = ()

    def __call__(self, comparison: Comparison, burn: Callable[[Extent], Pixels]) -> None:
        self.worst = worst_places(comparison, most=MOST_PLACES)
        if self.division.cell > 1:
            self.truth = tuple(_sampled(burn(one.where), _close(one.where)) for one in self.worst)


def measure(sources: Sources, progress: Progress, *, side: int) -> Measured:
    """Count a map's classes, and compare it with its labels. side: the most pixels a side of a picture of all of it.

    Raises InputError for what is no mask, or holds more classes than a picture can.
    """
    if sources.labels and read_legend(sources.mask) is None:
        raise InputError(
            f"{sources.mask} tells no class names (neither an aerial-seg tag nor GDAL category names), wanted a mask "
            "that does, to set labels against it; report on it without labels, or score it by `aerial-seg evaluate` "
            "with its classes"
        )
    with ClassRaster(sources.mask) as raster:
        strata = read_strata(sources.mask, raster, progress)
    if len(strata.legend) > _MOST_CLASSES:
        raise InputError(
            f"{sources.mask} has {len(strata.legend):,} classes, wanted at most {_MOST_CLASSES}, which a picture can "
            "tell apart; merge some"
        )
    division = Division.of(*strata.grid.shape, side=side)
    if not sources.labels:
        return Measured(strata, division)
    look = _CloserLook(division)
    with ExitStack() as stack:
        levels = None
        if sources.confidence is not None:
            levels = stack.enter_context(Raster(sources.confidence, georeferenced=False))
        comparison = Comparison(division, len(strata.legend), levels, details=look)
        evaluation = evaluate_mask(
            sources.mask, sources.labels, sources.label_settings, progress, onlooker=comparison
        )
    return Measured(strata, division, evaluation, comparison, look.worst, look.truth)


def make_views(sources: Sources, measured: Measured) -> tuple[list[View], list[Place]]:
    """Pictures of the whole map first, then of the places to look at; north is up in all."""
    division, grid = measured.division, measured.grid
    whole = Shown(Extent.whole(*grid.shape), *division.cells)
    levels = None if sources.confidence is None else level_pictures(sources.confidence, [whole])[0]
    (classes,) = class_pictures(sources.mask, measured.legend, [whole])
    places = _places(measured, levels, classes)
    closer = [
        _close(Extent(range(one.top, one.top + one.height), range(one.left, one.left + one.width)))
        for one in places
    ]
    shown = [whole, *(closer if division.cell > 1 else ())]
    found = [View(0, 0, *grid.shape, classes)]
    found += [_view(one, picture) for one, picture in
              zip(shown[1:], class_pictures(sources.mask, measured.legend, shown[1:]), strict=True)]  # fmt: skip
    if levels is not None and sources.confidence is not None:
        pictures = [levels, *level_pictures(sources.confidence, shown[1:])]
        found = [replace(view, confidence=one) for view, one in zip(found, pictures, strict=True)]
    if sources.image is not None:
        images = image_pictures(sources.image, grid, shown)
        found = [replace(view, image=one) for view, one in zip(found, images, strict=True)]
    if measured.comparison is not None:
        errors = _shares(measured.comparison)
        truths = [measured.comparison.truth, *measured.close_truth]
        found = [replace(view, truth=one) for view, one in zip(found, truths, strict=True)]
        found[0] = replace(found[0], errors=errors)
    return _north_up(found, places, grid)


def _view(shown: Shown, classes: Pixels) -> View:
    rows, cols = shown.where.rows, shown.where.cols
    return View(rows.start, cols.start, len(rows), len(cols), classes)


def _shares(comparison: Comparison) -> Pixels:
    """(h, w) share of wrong pixels, of which 250 is all; one that is wrong is never nothing; 255 = unlabelled."""
    known, wrong = comparison.known, comparison.wrong
    share = np.ceil(250 * wrong / np.maximum(known, 1))
    return np.where(known > 0, share, IGNORE).astype(np.uint8)


def _places(measured: Measured, levels: Pixels | None, classes: Pixels) -> list[Place]:
    names = measured.legend.names
    if measured.comparison is not None:
        return [
            Place(
                one.where.rows.start, one.where.cols.start, len(one.where.rows), len(one.where.cols),
                f"{names[one.true]} mapped as {names[one.said]}: {one.pixels:,} px", one.known, one.wrong,
                # Of the mean over the classes that are scored.
                one.cost / max(1, measured.evaluation.scores.counted if measured.evaluation else 1),
            )
            for one in measured.worst
        ]  # fmt: skip
    return [] if levels is None else _least_certain(measured, levels, classes)


def _least_certain(measured: Measured, levels: Pixels, classes: Pixels) -> list[Place]:
    """The places whose mean confidence is lowest, of those that are mapped at least by half."""
    division, names = measured.division, measured.legend.names
    step = division.place // division.cell
    found = []
    for down in range(0, levels.shape[0], step):
        for across in range(0, levels.shape[1], step):
            part = levels[down : down + step, across : across + step]
            known = part != IGNORE
            own = classes[down : down + step, across : across + step]
            mapped = own[own != IGNORE]
            if known.sum() * 2 < part.size or not len(mapped):
                continue
            where = division.extent(down // step, across // step)
            most = names[int(np.bincount(mapped).argmax())]
            found.append(
                Place(
                    where.rows.start, where.cols.start, len(where.rows), len(where.cols), most,
                    confidence=float(part[known].mean()) / 250,
                )
            )  # fmt: skip
    return sorted(found, key=lambda one: one.confidence or 0.0)[:MOST_PLACES]


def _close(where: Extent) -> Shown:
    """A place as it is seen from nearby."""
    rows, cols = len(where.rows), len(where.cols)
    step = max(1.0, max(rows, cols) / _CLOSE)
    return Shown(where, max(1, round(rows / step)), max(1, round(cols / step)))


def _sampled(pixels: Pixels, shown: Shown) -> Pixels:
    """Of each pixel of the picture the one in its middle."""
    down, across = (
        ((np.arange(count) + 0.5) * size / count).astype(np.int64)
        for count, size in zip((shown.height, shown.width), pixels.shape, strict=True)
    )
    return pixels[np.ix_(down, across)]


def _north_up(views: Sequence[View], places: Sequence[Place], grid: Grid) -> tuple[list[View], list[Place]]:
    """The same with their rows in the other order where the grid runs from south to north."""
    if not grid.is_mirrored:
        return list(views), list(places)
    turned = [
        replace(
            view,
            top=grid.height - view.top - view.height,
            **{
                name: pixels[::-1]
                for name in ("classes", "image", "truth", "confidence", "errors")
                if (pixels := getattr(view, name)) is not None
            },
        )
        for view in views
    ]
    return turned, [replace(one, top=grid.height - one.top - one.height) for one in places]
