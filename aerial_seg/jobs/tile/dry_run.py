"""The dry run of `tile`: everything is looked at and nothing is made."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.map_tiles.drafts import telling_rasters
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.jobs.problems import Problem, Problems
from aerial_seg.jobs.tile.append.additions import added_gsd, divide_added
from aerial_seg.jobs.tile.append.agreement import existing_for, fitting
from aerial_seg.jobs.tile.append.existing import Existing
from aerial_seg.jobs.tile.chip_cutter import ChipCutter, ChipRecord
from aerial_seg.jobs.tile.dataset_writer import DividedChips, Read, divide
from aerial_seg.jobs.tile.grids import dataset_gsd
from aerial_seg.jobs.tile.inputs import Asked, Ready, prepare
from aerial_seg.jobs.tile.job import require_chips, require_two_classes
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.tile_sources import Sources, TileSource, telling_member
from aerial_seg.labels.chip_file import chip_count, chip_windows, write_image, write_labels
from aerial_seg.labels.labels import Labels
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.paths import StrPath, StrPaths, as_names, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.settings import chosen
from aerial_seg.training.manifest import SPLITS

_TRIED = 16
"""Chips that are written to a temporary folder, to know what all of them take."""


@dataclass(frozen=True, slots=True)
class TileForecast:
    """Foretell what `tile` would make, and tell all that is wrong with what it was given, errors first.

    chips: by split, class_pixels: split → class name → labelled pixels; both as `tile` would tell them, and empty where
    an error keeps it from making anything. bytes: on the disk; seconds: of the work; both estimated from some chips.
    """

    dataset: Path
    legend: Legend | None
    chips: dict[str, int]
    class_pixels: dict[str, dict[str, int]]
    gsd: float | None
    bytes: int | None
    seconds: float | None
    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready document."""
        told = [{name: getattr(one, name) for name in Problem.__slots__} for one in self.problems]
        kept = {name: getattr(self, name) for name in self.__slots__ if name not in ("legend", "problems")}
        errors = sum(one.severity == "error" for one in self.problems)
        return {**kept, "errors": errors, "warnings": len(told) - errors, "problems": told}


def forecast_tiling(
    rasters: StrPaths,
    labels: StrPaths,
    dataset: StrPath,
    settings: TileSettings | None = None,
    progress: Progress = silent,
) -> TileForecast:
    """Foretell what `tile` would make of the same arguments: every pixel is read, every label laid on it.

    With `append`, what the whole dataset would be then, and what the new chips would take. What `tile` would refuse is
    among the problems, all of it and not only the first; nothing is written.
    """
    settings, dataset = chosen(settings, TileSettings), as_path(dataset, "dataset")
    asked = Asked(as_names(rasters, "rasters"), as_names(labels, "labels"), dataset, settings)
    problems, existing = Problems(), None
    if settings.append:
        with problems.catching("dataset"):
            existing = existing_for(dataset, settings)
    with TemporaryDirectory(prefix="aerial-seg-") as folder:
        ready = prepare(asked, Path(folder), problems)
        if ready.sources is None:
            return _nothing(dataset, problems)
        if ready.labels is None:
            _read_through(ready.sources, ready.grids, settings, problems, progress)
            return _nothing(dataset, problems)
        if existing is not None:
            with problems.catching("dataset"):
                named = fitting(existing, ready.sources, ready.labels, settings)
                ready = replace(ready, sources=named)
        return _foretold(asked, ready, existing, Path(folder), problems, progress)


def _nothing(dataset: Path, problems: Problems) -> TileForecast:
    return TileForecast(dataset, None, {}, {}, None, None, None, problems.all())


def _foretold(
    asked: Asked,
    ready: Ready,
    existing: Existing | None,
    folder: Path,
    problems: Problems,
    progress: Progress,
) -> TileForecast:
    sources, labels, settings = ready.sources, ready.labels, asked.settings
    assert sources is not None
    assert labels is not None
    begun = time.monotonic()
    taken = [] if existing is None else [record.name for record in existing.records]
    cutter = ChipCutter(folder, labels, settings, sources.scaled, writes=False, taken=taken)
    _look_at_all(cutter, sources, ready.grids, problems, progress)
    looked = time.monotonic() - begun
    if existing is None and settings.append:
        return _nothing(asked.dataset, problems)
    found: tuple[DividedChips, int] | None = None
    with problems.catching("chips"):
        require_chips(cutter, ready.grids)
        found = _divided(cutter, ready, sources, existing, folder, problems)
        if ready.still is not None:
            ready.still.check()
    if problems.has_errors or found is None:
        return _nothing(asked.dataset, problems)
    whole, count = found
    size, seconds = _of_one_chip(folder, cutter, sources, ready.grids)
    gsd = dataset_gsd(sources.infos, settings)
    return TileForecast(
        dataset=asked.dataset,
        legend=labels.legend,
        chips={split: len(whole.of(split)) for split in SPLITS},
        class_pixels=whole.class_pixels(labels.legend),
        gsd=gsd if existing is None else added_gsd(existing, sources, settings),
        bytes=round(size * count),
        seconds=looked + seconds * count,
        problems=problems.all(),
    )


def _divided(
    cutter: ChipCutter,
    ready: Ready,
    sources: Sources,
    existing: Existing | None,
    folder: Path,
    problems: Problems,
) -> tuple[DividedChips, int]:
    """All chips that the dataset would hold, and how many of them would be written; notes are warnings."""
    if existing is None:
        with problems.catching("one-class"):
            require_two_classes(cutter)
        chips, _, notes = divide(folder, cutter, sources, ready)
        new = len(chips.records)
    else:

        def read(record: ChipRecord) -> Read:
            return _again(record, cutter, sources, ready.grids, cutter.labels)[:3]

        added = divide_added(folder, cutter, ready, sources, existing, read)
        chips, notes, new = added.whole, list(added.notes), len(added.new.records)
    for note in notes:
        problems.warning("note", note)
    return chips, new


def _look_at_all(
    cutter: ChipCutter, sources: Sources, grids: Sequence[Grid], problems: Problems, progress: Progress
) -> None:
    """Every window of every source; a source that cannot be read to its end is a problem, and the next one follows."""
    size, stride = cutter.settings.chip_size, cutter.settings.stride
    total = sum(chip_count(height=grid.height, width=grid.width, size=size, stride=stride) for grid in grids)
    with progress("look at chips", total=total, unit="chip") as bar:
        for index, (source, grid) in enumerate(zip(sources.each, grids, strict=True)):
            with (
                problems.catching("raster"),
                telling_rasters(sources.drafts),
                telling_member(source),
                cutter.cut(index, source, grid) as chips,
            ):
                for _ in chips:
                    bar.update()


def _read_through(
    sources: Sources, grids: Sequence[Grid], settings: TileSettings, problems: Problems, progress: Progress
) -> None:
    """Every pixel once, where there are no labels to lay on it: what is damaged is told all the same."""
    size = settings.chip_size
    total = sum(chip_count(height=grid.height, width=grid.width, size=size) for grid in grids)
    with progress("read rasters", total=total, unit="chip") as bar:
        for source, grid in zip(sources.each, grids, strict=True):
            with (
                problems.catching("raster"),
                telling_rasters(sources.drafts),
                telling_member(source),
                _reading(source, grid, settings) as raster,
            ):
                for window in chip_windows(height=grid.height, width=grid.width, size=size):
                    raster.read(top=window.top, left=window.left, height=size, width=size)
                    bar.update()


@contextmanager
def _reading(
    source: TileSource, grid: Grid, settings: TileSettings, scaled: Sequence[bool] = ()
) -> Iterator[Raster]:
    """The source as it is cut: on this grid, with what the numbers of these bands mean."""
    georeferenced, choice = settings.georeferenced, settings.bands
    with Raster(source.opened_as, nodata=source.nodata, georeferenced=georeferenced, choice=choice) as raster:
        raster.resample(grid)
        raster.scale(scaled)
        yield raster


def _of_one_chip(
    folder: Path, cutter: ChipCutter, sources: Sources, grids: Sequence[Grid]
) -> tuple[float, float]:
    """Bytes and seconds that a chip takes to write, the mean of some that lie far from each other."""
    records = cutter.records
    few = [records[int(k)] for k in np.unique(np.linspace(0, len(records) - 1, _TRIED).round())]
    spent, size = 0.0, 0
    for record in few:
        draft = folder / "tried.tif"
        image, valid, labels, box = _again(record, cutter, sources, grids, cutter.labels)
        begun = time.monotonic()
        if not cutter.settings.index_only:
            write_image(draft, image, valid, box, sources.infos[record.source].names)
            size += draft.stat().st_size
        write_labels(draft, labels, box, cutter.labels.legend)
        spent += time.monotonic() - begun
        size += sum(file.stat().st_size for file in (draft, draft.with_suffix(".qml")))
    return size / len(few), spent / len(few)


def _again(
    record: ChipRecord, cutter: ChipCutter, sources: Sources, grids: Sequence[Grid], labels: Labels
) -> tuple[Any, Any, Any, Grid]:
    """Image, valid and labels of a chip, and its grid."""
    source, grid, settings = sources.each[record.source], grids[record.source], cutter.settings
    side, window = settings.chip_size, record.window
    with _reading(source, grid, settings, cutter.scaled) as raster:
        image, valid = raster.read(top=window.top, left=window.left, height=side, width=side)
    box = grid.for_polygons().window(top=window.top, left=window.left, height=side, width=side)
    burnt = labels.burn(box)
    burnt[~valid] = IGNORE
    return image, valid, burnt, box
