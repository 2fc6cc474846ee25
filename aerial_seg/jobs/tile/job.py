"""tile: rasters and labels in, a chip dataset with spatial splits out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from aerial_seg.errors import InputError
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_folder, staged_folder
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.inputs import expand_rasters
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo, require_crs
from aerial_seg.geo.raster.read_files import raster_files, vector_files
from aerial_seg.geo.raster.unchanged import Unchanged, files_of, label_files
from aerial_seg.geo.systems import require_common
from aerial_seg.inference.match_bands import chosen_infos
from aerial_seg.inference.match_gsd import gsd_of, is_square
from aerial_seg.jobs.tile.chip_cutter import ChipCutter
from aerial_seg.jobs.tile.dataset_writer import assemble
from aerial_seg.jobs.tile.index_only import IndexedImages
from aerial_seg.jobs.tile.layouts.lay_out import check_layout, lay_out
from aerial_seg.jobs.tile.map_tiles import place_tiles
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.splits.areas import open_split_areas, split_area_files
from aerial_seg.jobs.tile.splits.assign import check_shares
from aerial_seg.jobs.tile.tile_sources import Sources, find_sources
from aerial_seg.labels.chip_file import chip_count
from aerial_seg.labels.labels import check_overlap, expand_labels, label_sources, open_labels
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting
from aerial_seg.paths import StrPath, StrPaths, as_names, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.settings import chosen
from aerial_seg.training.manifest import DOCUMENT, INDEX, TrainingStatistics

_OWN = (INDEX, "images/*_[0-9][0-9][0-9][0-9].tif", "labels/*_[0-9][0-9][0-9][0-9].tif")
"""What datasets of older versions hold besides the document."""


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
    inputs do not fit; nothing is left behind then.
    """
    settings, dataset = chosen(settings, TileSettings), as_path(dataset, "dataset")
    settings.check_together()
    rasters, labels = as_names(rasters, "rasters"), as_names(labels, "labels")
    check_layout(settings)
    check_folder(dataset, overwrite=settings.overwrite, marker=DOCUMENT, own=_OWN)
    paths, truth = expand_rasters(rasters), expand_labels(labels)
    read = (*label_sources(truth, settings.labels), *split_area_files(truth, settings))
    still = Unchanged(
        [*paths, *read, *settings.bands.stack],
        [*files_of((*paths, *settings.bands.stack)), *label_files(read)],
    )
    infos = chosen_infos(paths, settings.bands)
    Inputs(_files_read(infos, read, settings)).refuse_folder(dataset)
    with TemporaryDirectory(prefix="aerial-seg-") as folder:
        placed = place_tiles(
            infos, settings, Path(folder), lambda: open_labels(truth, settings.labels).extent_lonlat()
        )
        _check_alike(placed.infos, settings)
        sources = find_sources(placed, settings, Path(folder))
        grids = _run_grids(sources.infos, settings)
        opened = open_labels(truth, settings.labels, near=grids)
        check_overlap(opened, grids, names=[info.path for info in sources.infos])
        areas = open_split_areas(truth, settings, grids)
        check_shares(settings, sources.infos, areas)
        with (
            staged_folder(dataset, overwrite=settings.overwrite, marker=DOCUMENT, own=_OWN) as work,
            still.holding(),
        ):
            cutter = ChipCutter(work, opened, settings, sources.scaled)
            _cut_all(cutter, sources, grids, progress, still)
            _require_two_classes(cutter)
            gsd = _dataset_gsd(sources.infos, settings)
            cut = [grid.for_polygons() for grid in grids]
            indexed = (
                IndexedImages.of(sources, grids, settings, Path(folder)) if settings.index_only else None
            )
            document, chips = assemble(work, cutter, sources, gsd, settings, cut, areas, indexed)
            laid_out = lay_out(work, settings.layout)
    notes = (*document.notes, *laid_out, *still.notes)
    return TileReport(dataset, document.legend, chips, document.class_pixels, gsd, document.statistics, notes)


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
            with cutter.cut(index, source, grid) as chips:
                for _ in chips:
                    bar.update()
                    # What will be refused whatever else is cut need not wait for all of it.
                    cutter.labels.check_overlaps(of=total * size**2)
                    still.check_now_and_then()
    if not cutter.records:
        raise InputError(
            f"none of the {total} chips holds a pixel that is both measured and labelled; "
            f"check {setting('nodata')}, {setting('unlabelled')} and that the labels lie on the imagery"
            if not cutter.too_little
            else f"none of the {total} chips is left: {', '.join(cutter.left_out())}; use less"
        )


def _require_two_classes(cutter: ChipCutter) -> None:
    """Raises InputError where one class alone has pixels: whatever is trained on that scores 1 and means nothing."""
    pixels = np.sum([record.counts for record in cutter.records], axis=0)
    present = [name for name, count in zip(cutter.labels.legend.names, pixels, strict=True) if count]
    if len(present) < 2:
        raise InputError(
            f"class '{present[0]}' alone has pixels in the chips, wanted two classes at least; "
            f"{cutter.labels.beside_one_class(present[0])}"
        )


def _files_read(
    infos: Sequence[RasterInfo], labels: Sequence[Path], settings: TileSettings
) -> Iterator[Path]:
    """Everything that the run reads: a dataset that is replaced must not hold any of it."""
    yield from raster_files(infos)
    yield from raster_files(raster_info(path) for path in settings.bands.stack)
    for path in labels:
        with suppress(InputError):
            yield from raster_files([raster_info(path)])
        yield from vector_files(path)


def _check_alike(infos: Sequence[RasterInfo], settings: TileSettings) -> None:
    """Raises InputError where bands differ, or where pixels have no place that they are to have."""
    first = infos[0]
    for info in infos[1:]:
        for what, got, wanted in (
            ("bands", len(info.bands), len(first.bands)),
            ("dtype", info.dtype, first.dtype),
        ):
            if got != wanted:
                raise InputError(
                    f"{info.path} has {what} {got}, but {first.path} has {wanted}; one dataset needs one: "
                    "convert the odd one or make two datasets"
                )
    if settings.georeferenced:
        for info in infos:
            require_crs(info)
    for info in infos:
        if info.grid.crs is not None and first.grid.crs is not None:
            require_common(info.grid.crs, info.path, first.grid.crs, first.path)


def _run_grids(infos: Sequence[RasterInfo], settings: TileSettings) -> list[Grid]:
    """The grid that each source is cut on, none of them mirrored. Raises InputError when GSDs differ."""
    if settings.gsd is not None:
        return [info.grid.unmirrored().at_gsd(settings.gsd) for info in infos]
    sizes = _own_gsds(infos, settings)
    if sizes and max(sizes) > 1.1 * min(sizes):
        raise InputError(
            f"the rasters have GSDs from {min(sizes):.3g} to {max(sizes):.3g} m, wanted one within 10 %; "
            f"pass {setting('gsd', float(f'{max(sizes):.2g}'))} to resample all to one"
        )
    return [_square(info, settings) for info in infos]


def _square(info: RasterInfo, settings: TileSettings) -> Grid:
    """The same ground in pixels that are as long on both axes, as predict will see it."""
    grid = info.grid.unmirrored()
    gsd = gsd_of(grid, info.path, georeferenced=settings.georeferenced)
    return grid if gsd is None or is_square(gsd) else grid.at_gsd(math.sqrt(gsd[0] * gsd[1]))


def _own_gsds(infos: Sequence[RasterInfo], settings: TileSettings) -> list[float]:
    """Metres per pixel of every georeferenced raster, the geometric mean of down and across."""
    pairs = [gsd_of(info.grid, info.path, georeferenced=settings.georeferenced) for info in infos]
    return [math.sqrt(pair[0] * pair[1]) for pair in pairs if pair is not None]


def _dataset_gsd(infos: Sequence[RasterInfo], settings: TileSettings) -> float | None:
    if settings.gsd is not None:
        return settings.gsd
    sizes = _own_gsds(infos, settings)
    return sum(sizes) / len(sizes) if sizes else None
