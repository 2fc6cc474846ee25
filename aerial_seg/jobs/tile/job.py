"""tile: rasters and labels in, a chip dataset with spatial splits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from aerial_seg.errors import InputError
from aerial_seg.files.staging import staged_folder
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.map_tiles.drafts import telling_rasters
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.jobs.problems import Problems
from aerial_seg.jobs.tile.append.additions import add_chips
from aerial_seg.jobs.tile.append.agreement import existing_for, fitting
from aerial_seg.jobs.tile.append.existing import require_same
from aerial_seg.jobs.tile.chip_cutter import ChipCutter
from aerial_seg.jobs.tile.dataset_writer import assemble
from aerial_seg.jobs.tile.index_only import IndexedImages
from aerial_seg.jobs.tile.inputs import OWN, Asked, prepare
from aerial_seg.jobs.tile.layouts.lay_out import lay_out
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.tile_sources import Sources, telling_member
from aerial_seg.labels.chip_file import chip_count
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting
from aerial_seg.paths import StrPath, StrPaths, as_names, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.settings import chosen
from aerial_seg.training.manifest import DOCUMENT, TrainingStatistics


@dataclass(frozen=True, slots=True)
class TileReport:
    """Tell what `tile` made.

    class_pixels: split → class name → labelled pixels. statistics: of the training chips.
    """

    dataset: Path
    legend: Legend
    chips: dict[str, int]
    class_pixels: dict[str, dict[str, int]]
    gsd: float | None
    statistics: TrainingStatistics | None
    notes: tuple[str, ...]


def tile(
    rasters: StrPaths,
    labels: StrPaths,
    dataset: StrPath,
    settings: TileSettings | None = None,
    progress: Progress = silent,
) -> TileReport:
    """Cut rasters and labels into chips for training: the folder `dataset` holds them, their index and a document.

    rasters, labels: one file, folder or glob, or a list of them. Raises AerialSegError before anything is written when
    inputs do not fit; nothing is left behind then. With `append` the dataset is there already, and stays as it is until
    the whole new one lies beside it.
    """
    settings, dataset = chosen(settings, TileSettings), as_path(dataset, "dataset")
    rasters, labels = as_names(rasters, "rasters"), as_names(labels, "labels")
    existing = existing_for(dataset, settings) if settings.append else None
    with TemporaryDirectory(prefix="aerial-seg-") as folder:
        asked = Asked(rasters, labels, dataset, settings)
        ready = prepare(asked, Path(folder), Problems(stops=True))
        sources, opened, still = ready.sources, ready.labels, ready.still
        assert sources is not None, "an error was raised"
        assert opened is not None
        assert still is not None
        if existing is not None:
            sources = fitting(existing, sources, opened, settings)
        replaces = settings.overwrite or settings.append
        with (
            telling_rasters(sources.drafts),
            staged_folder(dataset, overwrite=replaces, marker=DOCUMENT, own=OWN) as work,
            still.holding(),
        ):
            if existing is not None:
                require_same(existing)
            taken = [] if existing is None else [record.name for record in existing.records]
            cutter = ChipCutter(work, opened, settings, sources.scaled, taken=taken)
            _cut_all(cutter, sources, ready.grids, progress, still)
            indexed = (
                IndexedImages.of(sources, ready.grids, settings, Path(folder))
                if settings.index_only
                else None
            )
            if existing is not None:
                document, chips = add_chips(work, cutter, ready, sources, existing, indexed)
            else:
                require_two_classes(cutter)
                document, chips = assemble(work, cutter, sources, ready, indexed)
            laid_out = lay_out(work, settings.layout)
    notes = (*document.notes, *laid_out, *still.notes)
    return TileReport(
        dataset, document.legend, chips, document.class_pixels, document.gsd, document.statistics, notes
    )


def _cut_all(
    cutter: ChipCutter, sources: Sources, grids: Sequence[Grid], progress: Progress, still: Unchanged
) -> None:
    """Raises InputError where no chip is left."""
    size, stride = cutter.settings.chip_size, cutter.settings.stride
    for folder in ("labels",) if cutter.settings.index_only else ("images", "labels"):
        (cutter.root / folder).mkdir()
    total = sum(chip_count(height=grid.height, width=grid.width, size=size, stride=stride) for grid in grids)
    with progress("cut chips", total=total, unit="chip") as bar:
        for index, (source, grid) in enumerate(zip(sources.each, grids, strict=True)):
            with telling_member(source), cutter.cut(index, source, grid) as chips:
                for _ in chips:
                    bar.update()
                    # What will be refused whatever else is cut need not wait for all of it.
                    cutter.labels.check_overlaps(of=total * size**2)
                    still.check_now_and_then()
    require_chips(cutter, grids)


def require_chips(cutter: ChipCutter, grids: Sequence[Grid]) -> None:
    """Raises InputError where no chip is left."""
    if not cutter.records:
        size, stride = cutter.settings.chip_size, cutter.settings.stride
        total = sum(
            chip_count(height=grid.height, width=grid.width, size=size, stride=stride) for grid in grids
        )
        raise InputError(
            f"none of the {total} chips holds a pixel that is both measured and labelled; "
            f"check {setting('nodata')}, {setting('unlabelled')} and that the labels lie on the imagery"
            if not cutter.too_little
            else f"none of the {total} chips is left: {', '.join(cutter.left_out())}; use less"
        )


def require_two_classes(cutter: ChipCutter) -> None:
    """Raises InputError where one class alone has pixels: whatever is trained on that scores 1 and means nothing."""
    pixels = np.sum([record.counts for record in cutter.records], axis=0)
    present = [name for name, count in zip(cutter.labels.legend.names, pixels, strict=True) if count]
    if len(present) < 2:
        raise InputError(
            f"class '{present[0]}' alone has pixels in the chips, wanted two classes at least; "
            f"{cutter.labels.beside_one_class(present[0])}"
        )
