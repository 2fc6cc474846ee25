"""evaluate: a mask, or a model on chips or rasters, against labels."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from aerial_seg.choices import MapTileRows
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.files.names import split_layer
from aerial_seg.geo.map_tiles.placing import Placed, Placing, place_tiles
from aerial_seg.geo.raster.inputs import expand_rasters
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.unchanged import Unchanged, files_of, label_files
from aerial_seg.intervals import Intervals
from aerial_seg.jobs.chip_scores import check_subject, on_chips
from aerial_seg.jobs.mask_scores import Mask, Onlooker, Truth, masks_at, open_masks, place_masks, score_masks
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.settings import ErrorMapSettings
from aerial_seg.labels.labelled_area import split_column
from aerial_seg.labels.labels import (
    are_rasters,
    check_overlap,
    expand_labels,
    label_sources,
    open_labels,
)
from aerial_seg.labels.pairing.placing import Beside
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import Legend
from aerial_seg.mentions import Placeholder, setting
from aerial_seg.metrics import Scores
from aerial_seg.models.device import pick_device
from aerial_seg.models.file import load_model, read_card
from aerial_seg.outputs.error_map import check_error_map
from aerial_seg.paths import StrPath, StrPaths, as_names, as_path, with_device
from aerial_seg.progress import Progress, silent
from aerial_seg.settings import chosen
from aerial_seg.training.manifest import DOCUMENT, INDEX, SPLITS, open_manifest

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
    map_tiles: MapTileRows = "auto",
    onlooker: Onlooker | None = None,
) -> EvaluateReport:
    """Score a mask against labels: every labelled pixel of its own grid counts once, unlabelled ones are ignored.

    mask: a file, or a folder or glob of masks of the same classes, which are scored together; label rasters without CRS
    are paired with them by name. map_tiles: how rows count where names alone tell where masks lie. onlooker: sees the
    pixels that are compared, of one mask.
    Raises InputError when the file is no mask of ours (or has no class names), or the labels do not fit it; OutputError
    before the work when the error map cannot be written.
    """
    mask, labels = as_path(mask, "mask"), as_names(labels, "labels")
    settings, error_map = chosen(settings, LabelSettings), _error_map(error_map)
    paths = masks_at(mask)
    if error_map is not None:
        if len(paths) > 1:
            raise SettingsError(
                f"the error map {error_map.path} is laid on one mask's grid, but {mask} names {len(paths)}; "
                "score them one by one, or leave it out"
            )
        read = label_sources(expand_labels(labels), settings)
        check_error_map(error_map.path, [*paths, *read], overwrite=error_map.overwrite)
    legend, foreign, notes = open_masks(paths, settings)
    files = expand_labels(labels)
    still = _held(paths, label_sources(files, settings))
    if foreign[0] is not None and not are_rasters(files):
        settings = replace(settings, preset=None)  # it explains the mask

    def labelled() -> tuple[float, float, float, float] | None:
        return open_labels(files, settings, legend=legend).extent_lonlat()

    infos, grids, more = place_masks(paths, map_tiles, labelled, pictures=are_rasters(files))
    beside = Beside([replace(info, grid=grid) for info, grid in zip(infos, grids, strict=True)], map_tiles)
    opened = open_labels(files, settings, legend=legend, near=grids, beside=beside)
    check_overlap(opened, grids, names=[str(path) for path in paths])
    masks = [Mask(*one) for one in zip(paths, grids, foreign, strict=True)]
    truth = Truth(opened, legend, tuple(file.name for file in files), still, onlooker)
    scores = score_masks(masks, truth, mask.name, error_map, progress)
    notes = (*notes, *more, *opened.notes, *_areas_note(files, settings), *opened.later_notes)
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


def _held(rasters: Sequence[Path], labels: Sequence[Path]) -> Unchanged:
    return Unchanged([*rasters, *labels], [*files_of(rasters), *label_files(labels)])


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
        beside = Beside(infos, prediction.map_tiles)
        grids = [info.grid for info in infos]
        opened = open_labels(files, settings, legend=legend, near=grids, beside=beside)
        check_overlap(opened, grids, names=[info.path for info in infos])
        mask = Path(folder) / "mask.tif"
        (report,) = predict(model_path, rasters, mask, replace(prediction, mosaic=True), progress)
        truth = Truth(opened, legend, tuple(file.name for file in files), still)
        mapped = Mask(mask, raster_info(mask).grid)
        scores = score_masks([mapped], truth, model_path.name, error_map, progress)
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
