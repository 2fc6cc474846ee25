"""evaluate: a mask, or a model on chips or rasters, against labels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.files.names import split_layer
from aerial_seg.files.staging import staged_files
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.map_tiles.placing import Placed, Placing, place_tiles
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.inputs import expand_rasters
from aerial_seg.geo.raster.raster import Raster, raster_info
from aerial_seg.geo.raster.unchanged import Unchanged, files_of, label_files
from aerial_seg.intervals import Intervals
from aerial_seg.jobs.chip_scores import check_subject, on_chips
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.settings import ErrorMapSettings
from aerial_seg.labels.foreign_mask import ForeignMask
from aerial_seg.labels.labelled_area import split_column
from aerial_seg.labels.labels import (
    Labels,
    are_rasters,
    check_overlap,
    expand_labels,
    label_sources,
    open_labels,
)
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.mentions import Placeholder, setting
from aerial_seg.metrics import ConfusionMatrix, Scores
from aerial_seg.models.device import pick_device
from aerial_seg.models.file import load_model, read_card
from aerial_seg.outputs.error_map import ROWS_AT_ONCE, ErrorMap, check_error_map
from aerial_seg.outputs.mask import read_legend
from aerial_seg.paths import StrPath, StrPaths, as_names, as_path, with_device
from aerial_seg.progress import Progress, silent
from aerial_seg.settings import chosen
from aerial_seg.training.manifest import DOCUMENT, INDEX, SPLITS, open_manifest

_COLUMNS_AT_ONCE = 16_384
"""A mask may be hundreds of thousands of pixels wide; memory is that of so many."""

_Ground = Literal["chips", "scenes"]


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """Hold the scores and how they came about. error_map: hits, misses and false alarms, if one was wanted.

    intervals: of a model's scores on chips, how far they would move with other chips of that ground.
    """

    subject: str
    labels: str
    scores: Scores
    legend: Legend
    notes: tuple[str, ...]
    error_map: Path | None = None
    intervals: Intervals | None = None


class Onlooker(Protocol):
    """Whoever sees the same pixels as the scores: a report that shows where they come from."""

    def see(self, where: Extent, true: NDArray[np.uint8], said: NDArray[np.uint8]) -> None:
        """Take in a piece: channels (h, w) of the labels and of the mask, 255 = unlabelled or not mapped."""
        ...

    def end(self, burn: Callable[[Extent], NDArray[np.uint8]]) -> None:
        """Take in that all was seen. burn: the labels' channels of any piece, once more."""
        ...


def _error_map(given: ErrorMapSettings | StrPath | None) -> ErrorMapSettings | None:
    """A path alone is where the map goes."""
    if given is None or isinstance(given, ErrorMapSettings):
        return given
    return ErrorMapSettings(as_path(given, "error_map"))


def evaluate_mask(
    mask: StrPath,
    labels: StrPaths,
    settings: LabelSettings | None = None,
    progress: Progress = silent,
    *,
    error_map: ErrorMapSettings | StrPath | None = None,
    onlooker: Onlooker | None = None,
) -> EvaluateReport:
    """Score a mask against labels: every labelled pixel of its own grid counts once, unlabelled ones are ignored.

    onlooker: sees the pixels that are compared. Raises InputError when the file is no mask of ours (or has no class
    names), or the labels do not fit it; OutputError before the work when the error map cannot be written.
    """
    mask, labels = as_path(mask, "mask"), as_names(labels, "labels")
    settings, error_map = chosen(settings, LabelSettings), _error_map(error_map)
    if error_map is not None:
        read = label_sources(expand_labels(labels), settings)
        check_error_map(error_map.path, [mask, *read], overwrite=error_map.overwrite)
    legend, foreign, notes = _classes_of(mask, settings)
    files = expand_labels(labels)
    still = _held([mask], label_sources(files, settings))
    grid = raster_info(mask).grid
    if foreign is not None and not are_rasters(files):
        settings = replace(settings, preset=None)  # it explains the mask
    opened = open_labels(files, settings, legend=legend, near=[grid])
    check_overlap(opened, [grid], names=[str(mask)])
    truth = _Truth(opened, legend, tuple(file.name for file in files), still, foreign, onlooker)
    scores = _score(mask, truth, mask.name, error_map, progress)
    notes = (*notes, *opened.notes, *_areas_note(files, settings), *opened.later_notes)
    notes = (*notes, *opened.check_overlaps(), *still.notes)
    made = None if error_map is None else error_map.path
    return EvaluateReport(str(mask), ", ".join(labels), scores, legend, notes, made)


def _areas_note(labels: Sequence[Path], settings: LabelSettings) -> tuple[str, ...]:
    """Say that areas for training are scored, too, where the labelled area tells them apart."""
    found = split_column(Path(split_layer(labels[0])[0]), settings)
    if found is None:
        return ()
    return (
        f"all of the labelled area is scored, whatever its field '{found[1]}' says: ground that was trained on makes "
        f"scores too good; a {setting('labelled_area', Placeholder('LAYER'))} of test areas alone leaves it out",
    )


def _classes_of(mask: Path, settings: LabelSettings) -> tuple[Legend, ForeignMask | None, tuple[str, ...]]:
    """A mask's classes: its own, else what the settings say of its values; and what to say about these."""
    legend = read_legend(mask)
    if legend is not None:
        return legend, None, ()
    if settings.classes is None and settings.preset is None:
        raise InputError(
            f"{mask} tells no class names (neither an aerial-seg tag nor GDAL category names); "
            "wanted a mask that `aerial-seg predict` wrote, or a model file (.safetensors); of another mask say what "
            f"its values mean with {setting('classes')}"
        )
    foreign = ForeignMask.open(mask, settings)
    return foreign.legend, foreign, foreign.notes


@dataclass(frozen=True, slots=True)
class _Truth:
    """What a mask is held against.

    labels: in the mask's classes, its legend. names: of their files. still: all files read. foreign: the mask, where
    its values are not the legend's. onlooker: who looks on.
    """

    labels: Labels
    legend: Legend
    names: tuple[str, ...]
    still: Unchanged
    foreign: ForeignMask | None = None
    onlooker: Onlooker | None = None

    def burn(self, grid: Grid, where: Extent) -> NDArray[np.uint8]:
        """Channels (h, w) of a piece of the grid, of which nothing is counted."""
        channels: NDArray[np.uint8] = self.legend.channel_table()[
            self.labels.burnt(_window(grid, where)).labels
        ]
        return channels


def _held(rasters: Sequence[Path], labels: Sequence[Path]) -> Unchanged:
    return Unchanged([*rasters, *labels], [*files_of(rasters), *label_files(labels)])


def _score(
    mask: Path, truth: _Truth, subject: str, error_map: ErrorMapSettings | None, progress: Progress
) -> Scores:
    """The scores of a mask; its error map, if one is wanted, lies in its place with all its files."""
    if error_map is None:
        with truth.still.holding():
            return _score_mask(mask, truth, progress)
    final = error_map.path
    with staged_files(final, overwrite=error_map.overwrite) as work, truth.still.holding():
        return _score_mask(mask, truth, progress, work / final.name, subject=subject)


def _score_mask(
    mask: Path, truth: _Truth, progress: Progress, error_map: Path | None = None, *, subject: str = ""
) -> Scores:
    """The scores of a mask. error_map: where the map of its errors is made, in a folder that holds nothing else."""
    table, legend = truth.legend.channel_table(), truth.legend
    matrix = ConfusionMatrix(len(legend))
    with Raster(mask, georeferenced=False) as raster:
        plain = len(raster.info.bands) == 1 and raster.info.dtype == "uint8"
        if not plain and truth.foreign is None:
            raise InputError(
                f"{mask} has {len(raster.info.bands)} band(s) of {raster.info.dtype}, wanted a mask: one of uint8; "
                "extract the class band (gdal_translate -b 1 -ot Byte)"
            )
        grid = raster.grid
        held = raster.measured_extent().in_blocks(*grid.shape)
        errors = None if error_map is None else ErrorMap(error_map.with_suffix(".pieces"), grid, legend, held)
        with progress("evaluate", total=grid.height * grid.width, unit="px") as bar:
            for panel, rows, cols in _pieces(held, errors):
                said = _said(raster, mask, truth, Extent(rows, cols))
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
    scores = matrix.scores(legend.names)
    if errors is not None and error_map is not None:
        errors.finish(error_map, scores.confusion, mask=subject, labels=list(truth.names))
    return scores


def _said(raster: Raster, mask: Path, truth: _Truth, where: Extent) -> NDArray[np.uint8]:
    """Channels (h, w) of a piece of the mask, 255 where it is nodata. Raises InputError for values of no class."""
    rows, cols, legend = where.rows, where.cols, truth.legend
    if truth.foreign is not None:
        return np.asarray(legend.channel_table()[truth.foreign.read(rows, cols)])
    values, valid = raster.read(top=rows.start, left=cols.start, height=len(rows), width=len(cols))
    said = np.where(valid, legend.channel_table()[values[0]], IGNORE)
    strange = valid & (said == IGNORE)
    if strange.any():
        raise InputError(
            f"{mask} holds value {values[0][strange][0]}, wanted only values of its legend "
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


def evaluate_model_on_chips(
    model_path: StrPath,
    dataset: StrPath,
    *,
    split: str = "test",
    device: str = "auto",
    on: _Ground = "chips",
) -> EvaluateReport:
    """Score a model on the chips of one split, at the dataset's own GSD, with the 95 % interval of each score.

    on: `chips`: each chip whole, run once; `scenes`: that ground as `predict` maps it, in blended tiles.
    """
    model_path, dataset = as_path(model_path, "model_path"), as_path(dataset, "dataset")
    for what, got, choices in (("split", split, SPLITS), ("on", on, get_args(_Ground))):
        if got not in choices:
            raise SettingsError(
                f"{what} is '{got}', wanted one of {', '.join(choices)}{did_you_mean(got, choices)}"
            )
    still = Unchanged([model_path, dataset / DOCUMENT, dataset / INDEX])
    model, manifest = load_model(model_path), open_manifest(dataset)
    legend = manifest.document.legend
    check_subject(model.card, manifest.document)
    chips = manifest.split(split)
    if not chips:
        present = [name for name in SPLITS if manifest.split(name)]
        raise InputError(
            f"{dataset} has no chip in split '{split}'; it has {', '.join(present)}: pass {setting('split')}"
        )
    seen = manifest.chips if on == "scenes" else chips
    still.add([*manifest.files(seen), *manifest.addresses])
    with still.holding():
        outcome = on_chips(model, manifest, split, on=on, target=pick_device(device))
    return EvaluateReport(
        str(model_path),
        f"{dataset} ({split}, {len(chips)} chips)",
        outcome.scores,
        legend,
        (*model.notes, *outcome.notes),
        intervals=outcome.intervals,
    )


def evaluate_model_on_rasters(
    model_path: StrPath,
    rasters: StrPaths,
    labels: StrPaths,
    settings: LabelSettings | None = None,
    *,
    prediction: PredictSettings | None = None,
    progress: Progress = silent,
    error_map: ErrorMapSettings | StrPath | None = None,
    device: str = "auto",
) -> EvaluateReport:
    """Predict rasters (several as one mosaic), score the mask against labels, and drop it.

    The error map lies on that mask's grid. Raises InputError before any tile runs when the labels do not fit the
    model's classes or the rasters' ground, OutputError when the error map cannot be written.
    """
    model_path, rasters = as_path(model_path, "model_path"), as_names(rasters, "rasters")
    labels, settings = as_names(labels, "labels"), chosen(settings, LabelSettings)
    prediction, error_map = with_device(prediction or PredictSettings(), device), _error_map(error_map)
    if error_map is not None:
        read = label_sources(expand_labels(labels), settings)
        inputs = [model_path, *expand_rasters(rasters), *read]
        check_error_map(error_map.path, inputs, overwrite=error_map.overwrite)
    legend = read_card(model_path).legend
    files = expand_labels(labels)
    still = _held(expand_rasters(rasters), label_sources(files, settings))
    with tempfile.TemporaryDirectory() as folder:
        placed, prediction = _in_their_places(rasters, files, settings, prediction, Path(folder))
        infos = placed.infos
        opened = open_labels(files, settings, legend=legend, near=[info.grid for info in infos])
        check_overlap(opened, [info.grid for info in infos], names=[info.path for info in infos])
        mask = Path(folder) / "mask.tif"
        (report,) = predict(model_path, rasters, mask, replace(prediction, mosaic=True), progress)
        truth = _Truth(opened, legend, tuple(file.name for file in files), still)
        scores = _score(mask, truth, model_path.name, error_map, progress)
    # What predict says of the rasters need not be said again.
    told = (*opened.notes, *_areas_note(files, settings), *opened.later_notes)
    told = (*told, *opened.check_overlaps(), *still.notes)
    notes = tuple(dict.fromkeys((*report.notes, *told)))
    made = None if error_map is None else error_map.path
    return EvaluateReport(str(model_path), ", ".join(labels), scores, legend, notes, made)


def _in_their_places(
    rasters: Sequence[str],
    labels: Sequence[Path],
    settings: LabelSettings,
    prediction: PredictSettings,
    folder: Path,
) -> tuple[Placed, PredictSettings]:
    """The rasters, map tiles where their names and the labels put them; and how `predict` puts them there, too."""
    placed = place_tiles(
        [raster_info(path) for path in expand_rasters(rasters)],
        Placing(prediction.map_tiles, prediction.georeferenced),
        folder,
        lambda: open_labels(labels, settings).extent_lonlat(),
    )
    return placed, replace(prediction, map_tiles=placed.rows or prediction.map_tiles)
