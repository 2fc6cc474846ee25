"""Everything that `tile` is given, looked at before anything is cut: all that is wrong with it, not only the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aerial_seg.errors import AerialSegError, InputError
from aerial_seg.files.names import split_layer
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_folder
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.map_tiles.drafts import drafts_of, telling_rasters
from aerial_seg.geo.map_tiles.placing import Placed, Placing, place_tiles
from aerial_seg.geo.raster.inputs import expand_rasters
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo, require_crs
from aerial_seg.geo.raster.read_files import raster_files, vector_files
from aerial_seg.geo.raster.unchanged import Unchanged, files_of, label_files
from aerial_seg.geo.systems import require_common
from aerial_seg.inference.match_bands import check_stack
from aerial_seg.jobs.problems import Problems
from aerial_seg.jobs.tile.grids import run_grids
from aerial_seg.jobs.tile.layouts.lay_out import check_layout
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.splits.areas import SplitAreas, open_split_areas, split_area_files
from aerial_seg.jobs.tile.splits.assign import USUAL_BLOCK, check_shares
from aerial_seg.jobs.tile.tile_sources import Sources, find_sources
from aerial_seg.labels.class_table import class_table
from aerial_seg.labels.label_file import open_label_file
from aerial_seg.labels.labelled_area import read_labelled_area
from aerial_seg.labels.labels import (
    Labels,
    are_rasters,
    check_overlap,
    expand_labels,
    label_sources,
    open_labels,
)
from aerial_seg.labels.pairing.placing import Beside, lay_apart
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.training.manifest import DOCUMENT, INDEX

OWN = (INDEX, "images/*_[0-9][0-9][0-9][0-9].tif", "labels/*_[0-9][0-9][0-9][0-9].tif")
"""What datasets of older versions hold besides the document."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What `tile` was called with."""

    rasters: tuple[str, ...]
    labels: tuple[str, ...]
    dataset: Path
    settings: TileSettings


@dataclass(frozen=True, slots=True)
class Ready:
    """Hold what is needed to cut: the rasters, the grid of each, the labels, and the watch over all files.

    What an error keeps from being there is None, and `grids` then empty.
    """

    sources: Sources | None
    grids: list[Grid]
    labels: Labels | None
    still: Unchanged | None
    areas: SplitAreas | None

    @property
    def cut(self) -> list[Grid]:
        """The grids as chips lie on them."""
        return [grid.for_polygons() for grid in self.grids]


def prepare(asked: Asked, folder: Path, problems: Problems) -> Ready:
    """Look at all that `tile` was given, as far as what is wrong with it lets one.

    folder: for VRTs, lasts as long as what is returned. Raises the first error after each stage where problems stop.
    """
    settings, truth, read, still = asked.settings, tuple[Path, ...](), tuple[Path, ...](), None
    with problems.catching("settings"):
        settings.check_together()
        check_layout(settings)
    with problems.catching("output"):
        check_folder(asked.dataset, overwrite=settings.overwrite or settings.append, marker=DOCUMENT, own=OWN)
    paths = _each(asked.rasters, problems)
    with problems.catching("labels"):
        truth = expand_labels(asked.labels)
        read = (*label_sources(truth, settings.labels), *split_area_files(truth, settings))
    problems.stage_ends()
    with problems.catching("input"):
        named: list[Path | str] = [*paths, *read, *settings.bands.stack]
        still = Unchanged(named, [*files_of((*paths, *settings.bands.stack)), *label_files(read)])
    infos = _infos(paths, settings, problems)
    with problems.catching("output"):
        Inputs(_files_read(infos, read, settings)).refuse_folder(asked.dataset)
    problems.stage_ends()
    sources, grids, beside = _sources(infos, truth, settings, folder, problems)
    problems.stage_ends()
    labels = _labels(truth, settings, grids, beside, problems)
    if sources is not None and labels is not None:
        labels = _that_lie_on(labels, sources, grids, problems)
    problems.stage_ends()
    members = [(info,) for info in infos] if sources is None else sources.members
    areas = _areas(truth, settings, members, grids, problems)
    problems.stage_ends()
    return Ready(sources, grids, labels, still, areas)


def _each(names: Sequence[str], problems: Problems) -> tuple[Path, ...]:
    """All rasters that the names stand for, or those of the names that stand for any."""
    with suppress(AerialSegError):
        return expand_rasters(names)
    found: list[Path] = []
    for name in names:
        with problems.catching("raster"):
            found += expand_rasters((name,))
    if not names:
        with problems.catching("raster"):
            expand_rasters(names)
    return tuple(dict.fromkeys(found))


def _infos(paths: Sequence[Path], settings: TileSettings, problems: Problems) -> list[RasterInfo]:
    """The facts of every raster that can be opened, as far as the chosen bands go."""
    with problems.catching("bands"):
        check_stack(len(paths), settings.bands)
        infos = []
        for path in paths:
            with problems.catching("raster"):
                infos.append(raster_info(path, settings.bands))
        return infos
    return []


def _sources(
    infos: Sequence[RasterInfo],
    truth: Sequence[Path],
    settings: TileSettings,
    folder: Path,
    problems: Problems,
) -> tuple[Sources | None, list[Grid], Beside]:
    """What is cut, the grid of each, and what labels are laid beside; nothing where rasters do not go together."""
    if not infos:
        return None, [], Beside(())
    with problems.catching("raster"):
        placing = Placing(settings.map_tiles, settings.georeferenced, settings.bands)
        placed = place_tiles(
            infos, placing, folder, lambda: open_labels(truth, settings.labels).extent_lonlat()
        )
        placed = _apart(placed, truth, settings)
        beside = Beside(placed.infos, placed.rows or settings.map_tiles)
        if _alike(placed.infos, settings, problems):
            with telling_rasters(drafts_of([info.path for info in placed.infos], placed.opened_as, folder)):
                sources = find_sources(placed, settings, folder)
            return sources, run_grids(sources.infos, settings), beside
    return None, [], Beside(())


def _apart(placed: Placed, truth: Sequence[Path], settings: TileSettings) -> Placed:
    """The rasters; of several pictures without CRS, with which label rasters are paired, each in a place of its own."""
    pictures = [info for info in placed.infos if info.grid.crs is None and info.grid.transform.is_identity]
    if len(pictures) < max(2, len(placed.infos)) or not truth or not are_rasters(truth) or settings.mosaic:
        return placed
    step = settings.chip_size * (settings.block or USUAL_BLOCK)
    note = (
        f"{len(pictures)} rasters without CRS are taken as pictures of different ground: whether two show the same is "
        f"not known, and {INDEX} shows them side by side"
    )
    return replace(placed, infos=lay_apart(placed.infos, step), notes=(*placed.notes, note))


def _alike(infos: Sequence[RasterInfo], settings: TileSettings, problems: Problems) -> bool:
    """Whether all rasters can be one dataset; each that cannot is a problem of its own."""
    before = problems.number_of_errors
    for info in infos[1:]:
        with problems.catching("raster-bands", info.path):
            _require_alike("bands", info, len(info.bands), infos[0], len(infos[0].bands))
        with problems.catching("raster-dtype", info.path):
            _require_alike("dtype", info, info.dtype, infos[0], infos[0].dtype)
    for info in infos if settings.georeferenced else ():
        with problems.catching("raster-unplaced", info.path):
            require_crs(info)
    for info in infos:
        if info.grid.crs is not None and infos[0].grid.crs is not None:
            with problems.catching("raster-system", info.path):
                require_common(info.grid.crs, info.path, infos[0].grid.crs, infos[0].path)
    return problems.number_of_errors == before


def _require_alike(what: str, info: RasterInfo, got: object, first: RasterInfo, wanted: object) -> None:
    """Raises InputError where two rasters differ in this."""
    if got != wanted:
        raise InputError(
            f"{info.path} has {what} {got}, but {first.path} has {wanted}; one dataset needs one: "
            "convert the odd one or make two datasets"
        )


def _labels(
    truth: Sequence[Path], settings: TileSettings, grids: Sequence[Grid], beside: Beside, problems: Problems
) -> Labels | None:
    """The labels; where they cannot be opened, what is wrong with each file of them."""
    if not truth:
        return None
    try:
        return open_labels(truth, settings.labels, near=grids, beside=beside)
    except AerialSegError as error:
        told = {str(error)}
        problems.caught("labels", error, str(truth[0]) if len(truth) == 1 else None)
        # The first bad one of several rasters hides the others.
        for path in truth if len(truth) > 1 and not problems.stops else ():
            try:
                open_label_file(Path(split_layer(path)[0]), settings.labels.crs)
            except AerialSegError as other:
                if str(other) not in told:
                    problems.caught("labels", other)
        if not problems.stops and not are_rasters(truth):
            _tell_others(truth, settings.labels, grids, problems, told)
        return None


def _tell_others(
    truth: Sequence[Path], asked: LabelSettings, grids: Sequence[Grid], problems: Problems, told: set[str]
) -> None:
    """What is wrong with a vector layer behind its first error: each part of it is looked at without the others.

    told: the messages that were given already.
    """
    plain = replace(asked, class_field=None, classes=class_table("labels"), priority=(), labelled_area=None)
    placed = grids[0].crs if grids else None
    whole = replace(asked, labelled_area=None)
    here = whole if placed is None or asked.crs is not None else replace(whole, crs=placed.to_string())

    def lies_here() -> None:
        labels = open_labels(truth, plain, near=grids)
        if grids:
            check_overlap(labels, grids, names=["the imagery"] * len(grids))

    def area() -> None:
        if asked.labelled_area is not None:
            read_labelled_area(Path(split_layer(truth[0])[0]), asked, grids)

    for look in (lies_here, partial(open_labels, truth, whole), partial(open_labels, truth, here), area):
        try:
            look()
        except AerialSegError as error:
            if str(error) not in told:
                told.add(str(error))
                problems.caught("labels", error)


def _that_lie_on(
    labels: Labels, sources: Sources, grids: Sequence[Grid], problems: Problems
) -> Labels | None:
    """The labels, unless they lie elsewhere."""
    with problems.catching("labels"):
        check_overlap(labels, grids, names=[info.path for info in sources.infos])
        return labels
    return None


def _areas(
    truth: Sequence[Path],
    settings: TileSettings,
    members: Sequence[Sequence[RasterInfo]],
    grids: Sequence[Grid],
    problems: Problems,
) -> SplitAreas | None:
    """What polygons say of splits, if any do; what they and the settings say goes together."""
    if not members or (not truth and (settings.split_layer or settings.split_field)):
        return None
    with problems.catching("split"):
        areas = open_split_areas(truth, settings, grids) if truth else None
        check_shares(settings, members, areas)
        return areas
    return None


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
