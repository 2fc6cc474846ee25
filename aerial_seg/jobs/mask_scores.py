"""Masks held against labels, pixel by pixel."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from shapely import STRtree

from aerial_seg.choices import MapTileRows
from aerial_seg.errors import InputError
from aerial_seg.files.staging import staged_files
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.map_tiles.names import Extent as Box
from aerial_seg.geo.map_tiles.placing import tile_grids
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.inputs import expand_rasters
from aerial_seg.geo.raster.raster import Raster, raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.jobs.settings import ErrorMapSettings
from aerial_seg.labels.foreign_mask import ForeignMask, open_foreign_masks
from aerial_seg.labels.labels import Labels
from aerial_seg.labels.pairing.placing import lay_apart
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.mentions import setting
from aerial_seg.metrics import ConfusionMatrix, Scores
from aerial_seg.outputs.error_map import ROWS_AT_ONCE, ErrorMap
from aerial_seg.outputs.mask import read_legend
from aerial_seg.progress import Progress

_COLUMNS_AT_ONCE = 16_384
"""A mask may be hundreds of thousands of pixels wide; memory is that of so many."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Say where a mask lies. foreign: what reads it where its values are not the legend's."""

    path: Path
    grid: Grid
    foreign: ForeignMask | None = None


class Onlooker(Protocol):
    """Whoever sees the same pixels as the scores: a report that shows where they come from."""

    def see(self, where: Extent, true: NDArray[np.uint8], said: NDArray[np.uint8]) -> None:
        """Take in a piece: channels (h, w) of the labels and of the mask, 255 = unlabelled or not mapped."""
        ...

    def end(self, burn: Callable[[Extent], NDArray[np.uint8]]) -> None:
        """Take in that all was seen. burn: the labels' channels of any piece, once more."""
        ...


@dataclass(frozen=True, slots=True)
class Truth:
    """What masks are held against.

    labels: in the masks' classes, their legend. names: of their files. still: all files read. onlooker: who looks on.
    """

    labels: Labels
    legend: Legend
    names: tuple[str, ...]
    still: Unchanged
    onlooker: Onlooker | None = None

    def burn(self, grid: Grid, where: Extent) -> NDArray[np.uint8]:
        """Channels (h, w) of a piece of the grid, of which nothing is counted."""
        channels: NDArray[np.uint8] = self.legend.channel_table()[
            self.labels.burnt(_window(grid, where)).labels
        ]
        return channels


def masks_at(subject: Path) -> tuple[Path, ...]:
    """The masks that a path, a folder or a glob names."""
    name = str(subject)
    several = os.path.isdir(name) or (glob.has_magic(name) and not os.path.lexists(name))  # noqa: PTH112 - a Path raises for some names
    return expand_rasters((name,)) if several else (subject,)


def open_masks(
    paths: Sequence[Path], settings: LabelSettings
) -> tuple[Legend, tuple[ForeignMask | None, ...], tuple[str, ...]]:
    """The classes that the masks share: their own, else what the settings say of their values; what reads each; notes.

    Raises InputError where masks tell different classes, or none and nobody says them.
    """
    own = [read_legend(path) for path in paths]
    silent = [path for path, legend in zip(paths, own, strict=True) if legend is None]
    if not silent:
        first = own[0]
        assert first is not None
        for path, legend in zip(paths, own, strict=True):
            if legend != first:
                assert legend is not None
                raise InputError(
                    f"{path} has the classes {_told(legend)}, but {paths[0]} has {_told(first)}; masks that are scored "
                    "together need the same: score them one by one"
                )
        return first, (None,) * len(paths), ()
    if len(silent) < len(paths):
        telling = next(path for path in paths if path not in silent)
        raise InputError(
            f"{silent[0]} tells no class names, but {telling} does ({len(silent)} of {len(paths)} masks do not); score "
            "them apart"
        )
    if settings.classes is None and settings.preset is None:
        raise InputError(
            f"{silent[0]} tells no class names (neither an aerial-seg tag nor GDAL category names); "
            "wanted a mask that `aerial-seg predict` wrote, or a model file (.safetensors); of another mask say what "
            f"its values mean with {setting('classes')}"
        )
    foreign = open_foreign_masks(paths, settings)
    return foreign[0].legend, foreign, foreign[0].notes


def _told(legend: Legend) -> str:
    return ", ".join(f"{entry.value} {entry.name}" for entry in legend.entries)


def place_masks(
    paths: Sequence[Path], rows: MapTileRows, labelled: Callable[[], Box | None], *, pictures: bool
) -> tuple[list[RasterInfo], list[Grid], tuple[str, ...]]:
    """The masks' facts and where each lies: by its CRS, or by its name as a map tile; notes on what is odd.

    pictures: whether labels are paired with masks without CRS by name, so that each needs a place of its own.
    """
    infos = [raster_info(path) for path in paths]
    tiles = tile_grids(infos, rows, labelled)
    if tiles is not None:
        grids, note = tiles
        return infos, grids, (note,)
    nowhere = [info for info in infos if info.grid.crs is None and info.grid.transform.is_identity]
    if pictures and 1 < len(nowhere) == len(infos):
        infos = lay_apart(infos, 1)
    return infos, [info.grid for info in infos], tuple(_shared(infos))


def _shared(infos: Sequence[RasterInfo]) -> Iterator[str]:
    """Note where masks share ground, which then counts once for each."""
    if len(infos) < 2 or len({info.grid.crs for info in infos}) > 1 or infos[0].grid.crs is None:
        return
    # A tenth of a pixel is what rounding leaves of a common edge.
    shrunk = [info.grid.footprint().buffer(-0.1 * abs(info.grid.transform.a)) for info in infos]
    pairs = STRtree(shrunk).query(shrunk, predicate="intersects").T
    several = [(a, b) for a, b in pairs.tolist() if a < b]
    if several:
        a, b = several[0]
        yield (
            f"{len(several)} pairs of masks share ground, as {infos[a].path} and {infos[b].path}: it counts once for "
            "each"
        )


def score_masks(
    masks: Sequence[Mask], truth: Truth, subject: str, error_map: ErrorMapSettings | None, progress: Progress
) -> Scores:
    """The scores of all masks together; the error map of the only one, if it is wanted, lies in its place."""
    if error_map is None:
        with truth.still.holding():
            matrix = ConfusionMatrix(len(truth.legend))
            for mask in masks:
                _score_mask(mask, truth, matrix, progress)
            return matrix.scores(truth.legend.names)
    (mask,) = masks
    final = error_map.path
    with staged_files(final, overwrite=error_map.overwrite) as work, truth.still.holding():
        matrix = ConfusionMatrix(len(truth.legend))
        errors = _score_mask(mask, truth, matrix, progress, work / final.name)
        scores = matrix.scores(truth.legend.names)
        assert errors is not None
        errors.finish(work / final.name, scores.confusion, mask=subject, labels=list(truth.names))
        return scores


def _score_mask(
    mask: Mask, truth: Truth, matrix: ConfusionMatrix, progress: Progress, error_map: Path | None = None
) -> ErrorMap | None:
    """Count every pixel of a mask. error_map: where the map of its errors is made, in a folder of nothing else."""
    table, legend, grid = truth.legend.channel_table(), truth.legend, mask.grid
    with Raster(mask.path, georeferenced=False) as raster:
        plain = len(raster.info.bands) == 1 and raster.info.dtype == "uint8"
        if not plain and mask.foreign is None:
            raise InputError(
                f"{mask.path} has {len(raster.info.bands)} band(s) of {raster.info.dtype}, wanted a mask: one of "
                "uint8; extract the class band (gdal_translate -b 1 -ot Byte)"
            )
        held = raster.measured_extent().in_blocks(*grid.shape)
        errors = None if error_map is None else ErrorMap(error_map.with_suffix(".pieces"), grid, legend, held)
        with progress("evaluate", total=grid.height * grid.width, unit="px") as bar:
            for panel, rows, cols in _pieces(held, errors):
                said = _said(raster, mask, legend, Extent(rows, cols))
                true = table[truth.labels.burn(_window(grid, Extent(rows, cols)))]
                matrix.add(true, said)
                if truth.onlooker is not None:
                    truth.onlooker.see(Extent(rows, cols), true, said)
                if errors is not None:
                    errors.add(panel, rows, true, said)
                bar.update(len(rows) * len(cols))
            for part in _around(held, grid):
                for _, rows, cols in _pieces(part, None):
                    _add_unmapped(matrix, truth.labels, table, _window(grid, Extent(rows, cols)))
                    bar.update(len(rows) * len(cols))
        if truth.onlooker is not None:
            truth.onlooker.end(lambda where: truth.burn(grid, where))
    return errors


def _said(raster: Raster, mask: Mask, legend: Legend, where: Extent) -> NDArray[np.uint8]:
    """Channels (h, w) of a piece of the mask, 255 where it is nodata. Raises InputError for values of no class."""
    rows, cols = where.rows, where.cols
    if mask.foreign is not None:
        return np.asarray(legend.channel_table()[mask.foreign.read(rows, cols)])
    values, valid = raster.read(top=rows.start, left=cols.start, height=len(rows), width=len(cols))
    said = np.where(valid, legend.channel_table()[values[0]], IGNORE)
    strange = valid & (said == IGNORE)
    if strange.any():
        raise InputError(
            f"{mask.path} holds value {values[0][strange][0]}, wanted only values of its legend "
            f"({', '.join(map(str, legend.values))}); add the class, or set these pixels to nodata"
        )
    return said


def _window(grid: Grid, where: Extent) -> Grid:
    """A piece of the mask's grid, as polygons lie on it."""
    rows, cols = where.rows, where.cols
    return grid.for_polygons().window(top=rows.start, left=cols.start, height=len(rows), width=len(cols))


def _add_unmapped(matrix: ConfusionMatrix, labels: Labels, table: NDArray[np.uint8], window: Grid) -> None:
    """The labels of a window that the mask says nothing of are counted; burnt only where they differ."""
    value = labels.only_value(window)
    if value is None:
        true = table[labels.burn(window)]
        matrix.add(true, np.full_like(true, IGNORE))
    else:
        matrix.add_unpredicted(int(table[value]), window.height * window.width)


def _pieces(within: Extent, errors: ErrorMap | None) -> Iterator[tuple[int, range, range]]:
    """What is compared at once: panel, rows, columns. The panels are the error map's where there is one."""
    across = range(within.cols.start, within.cols.stop, _COLUMNS_AT_ONCE)
    columns = [range(left, min(left + _COLUMNS_AT_ONCE, within.cols.stop)) for left in across]
    panels = columns if errors is None else errors.panels
    for panel, cols in enumerate(panels):
        for top in range(within.rows.start, within.rows.stop, ROWS_AT_ONCE):
            yield panel, range(top, min(top + ROWS_AT_ONCE, within.rows.stop)), cols


def _around(held: Extent, grid: Grid) -> list[Extent]:
    """The grid without `held`: north and south of it over the whole width, west and east beside it."""
    whole, rows, cols = Extent.whole(grid.height, grid.width), held.rows, held.cols
    parts = [
        Extent(range(0, rows.start), whole.cols),
        Extent(range(rows.stop, grid.height), whole.cols),
        Extent(rows, range(0, cols.start)),
        Extent(rows, range(cols.stop, grid.width)),
    ]
    return [part for part in parts if part.pixels]
