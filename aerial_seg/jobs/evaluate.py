"""evaluate: a mask, or a model on chips or rasters, against labels."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.geo.inputs import expand_rasters
from aerial_seg.geo.label_rules import LabelSettings
from aerial_seg.geo.labels import Labels, check_overlap, open_labels
from aerial_seg.geo.mask import read_legend
from aerial_seg.geo.raster import Raster, raster_info
from aerial_seg.jobs.predict import predict
from aerial_seg.jobs.predict_settings import PredictSettings
from aerial_seg.jobs.tile import expand_labels
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.metrics import ConfusionMatrix, Scores
from aerial_seg.models.device import pick_device, place
from aerial_seg.models.file import load_model, read_card
from aerial_seg.progress import Progress, silent
from aerial_seg.training.crops import ChipReader, ChipStore
from aerial_seg.training.manifest import SPLITS, open_manifest
from aerial_seg.training.validation import validate

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """The scores and how they came about."""

    subject: str
    labels: str
    scores: Scores
    legend: Legend
    notes: tuple[str, ...]


def evaluate_mask(
    mask: Path, labels: Sequence[str], settings: LabelSettings, progress: Progress = silent
) -> EvaluateReport:
    """Every labelled pixel of the mask's own grid is counted once; unlabelled ones are ignored.

    Raises InputError when the file is no mask of ours (or has no class names), or the labels do not fit it.
    """
    legend = read_legend(mask)
    if legend is None:
        raise InputError(
            f"{mask} tells no class names (neither an aerial-seg tag nor GDAL category names); "
            "wanted a mask that `aerial-seg predict` wrote, or a model file (.safetensors)"
        )
    opened = open_labels(expand_labels(labels), settings, legend=legend)
    check_overlap(opened, [raster_info(mask).grid], names=[str(mask)])
    scores = _score_mask(mask, opened, legend, progress)
    return EvaluateReport(str(mask), ", ".join(labels), scores, legend, opened.notes)


def _score_mask(mask: Path, labels: Labels, legend: Legend, progress: Progress) -> Scores:
    table = legend.channel_table()
    matrix = ConfusionMatrix(len(legend))
    with Raster(mask, georeferenced=False) as raster:
        if len(raster.info.bands) != 1 or raster.info.dtype != "uint8":
            raise InputError(
                f"{mask} has {len(raster.info.bands)} band(s) of {raster.info.dtype}, wanted a mask: one of uint8; "
                "extract the class band (gdal_translate -b 1 -ot Byte)"
            )
        grid = raster.grid
        with progress("evaluate", total=grid.height, unit="row") as bar:
            for top in range(0, grid.height, _ROWS_AT_ONCE):
                height = min(_ROWS_AT_ONCE, grid.height - top)
                values, valid = raster.read(top=top, left=0, height=height, width=grid.width)
                predicted = np.where(valid, table[values[0]], IGNORE)
                strange = valid & (predicted == IGNORE)
                if strange.any():
                    raise InputError(
                        f"{mask} holds value {values[0][strange][0]}, wanted only values of its legend "
                        f"({', '.join(map(str, legend.values))}); add the class, or set these pixels to nodata"
                    )
                truth = table[labels.burn(grid.window(top=top, left=0, height=height, width=grid.width))]
                matrix.add(truth, predicted)
                bar.update(height)
    return matrix.scores(legend.names)


def evaluate_model_on_chips(
    model_path: Path, dataset: Path, *, split: str = "test", device: str = "auto"
) -> EvaluateReport:
    """Every chip of one split, whole, at the dataset's own GSD."""
    model, manifest = load_model(model_path), open_manifest(dataset)
    document = manifest.document
    known, held = (_subject_of(facts.legend, facts.bands) for facts in (model.card, document))
    if known != held:
        raise InputError(
            f"the model knows {known}, but the dataset has {held}; evaluate a model trained on such a dataset"
        )
    chips = manifest.split(split)
    if not chips:
        present = [name for name in SPLITS if manifest.split(name)]
        raise InputError(
            f"{dataset} has no chip in split '{split}'; it has {', '.join(present)}: pass --split"
        )
    target = pick_device(device)
    place(model.network, target)
    store = ChipStore(ChipReader(chips, model.card.bands, document.legend))
    matrix, _ = validate(
        model.network, store, classes=len(document.legend), device=target, bias=model.card.class_bias
    )
    scores = matrix.scores(document.legend.names)
    return EvaluateReport(
        str(model_path), f"{dataset} ({split}, {len(chips)} chips)", scores, document.legend, ()
    )


def _subject_of(legend: Legend, bands: Sequence[Band]) -> str:
    return f"{', '.join(legend.names)} on {len(bands)} bands of {bands[0].dtype}"


def evaluate_model_on_rasters(
    model_path: Path,
    rasters: Sequence[str],
    labels: Sequence[str],
    settings: LabelSettings,
    *,
    prediction: PredictSettings,
    progress: Progress = silent,
) -> EvaluateReport:
    """The rasters are predicted (as one mosaic if there are several) and the mask is evaluated, then dropped.

    Raises InputError before any tile runs when the labels do not fit the model's classes or the rasters' ground.
    """
    legend = read_card(model_path).legend
    opened = open_labels(expand_labels(labels), settings, legend=legend)
    infos = [raster_info(path) for path in expand_rasters(rasters)]
    check_overlap(opened, [info.grid for info in infos], names=[info.path for info in infos])
    with tempfile.TemporaryDirectory() as folder:
        mask = Path(folder) / "mask.tif"
        (report,) = predict(model_path, rasters, mask, replace(prediction, mosaic=True), progress)
        scores = _score_mask(mask, opened, legend, progress)
    notes = (*report.notes, *opened.notes)
    return EvaluateReport(str(model_path), ", ".join(labels), scores, legend, notes)
