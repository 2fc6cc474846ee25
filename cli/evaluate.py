"""aerial-seg evaluate"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from aerial_seg.jobs.settings import ErrorMapSettings
from aerial_seg.labels.settings import LabelSettings

from . import console, options
from .help.short import ShortHelp
from .setting_options import from_settings, setting_option

if TYPE_CHECKING:
    from aerial_seg.choices import MapTileRows
    from aerial_seg.jobs.evaluate import EvaluateReport


@click.command(
    "evaluate",
    cls=ShortHelp,
    common=(
        "--class-field",
        "--classes",
        "--raster",
        "--split",
        "--on",
        "--output",
        "--error-map",
        "--device",
        "--overwrite",
    ),
    epilog="""\b
Examples:
  aerial-seg evaluate map.tif buildings.gpkg
  aerial-seg evaluate map.tif buildings.gpkg --error-map errors.tif
  aerial-seg evaluate map.tif buildings.gpkg --report report.html
  aerial-seg evaluate theirs.tif buildings.gpkg --classes 0=background,255=building
  aerial-seg evaluate masks/ truth_masks/ --preset dubai
  aerial-seg evaluate run/best.safetensors chips --split test
  aerial-seg evaluate run/best.safetensors truth.gpkg --raster ortho.tif --class-field type""",
)
@click.argument("subject", metavar="MASK|MODEL", type=click.Path(path_type=Path))
@click.argument("labels", nargs=-1, required=True, metavar="LABELS...")
@from_settings(LabelSettings, "label_settings")
@click.option(
    "--raster",
    "rasters",
    multiple=True,
    metavar="RASTER",
    help="Imagery to run a model on (may be repeated).",
)
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True,
    help="Split of a chip dataset to evaluate a model on.",
)  # fmt: skip
@click.option(
    "--on", type=click.Choice(["chips", "scenes"]), default="chips", show_default=True,
    help="Of a chip dataset: each chip whole, or the split's ground as `predict` maps it, in blended tiles.",
)  # fmt: skip
@options.nodata
@options.no_georef
@options.map_tiles
@options.device
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Also write the scores with the confusion matrix as JSON.",
)
@click.option(
    "--report", "page", type=click.Path(path_type=Path), metavar="OUT.html",
    help="Also write a page that shows a mask and where it errs; `aerial-seg report` can do more.",
)  # fmt: skip
@setting_option(ErrorMapSettings, "path", required=False)
@options.overwrite
@options.as_json
def command(
    subject: Path,
    labels: tuple[str, ...],
    *,
    label_settings: LabelSettings,
    rasters: tuple[str, ...],
    split: str,
    on: Literal["chips", "scenes"],
    nodata: float | None,
    no_georef: bool,
    map_tiles: MapTileRows,
    device: str,
    output: Path | None,
    page: Path | None,
    error_map: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Score a mask, a folder of masks, or a model against labels.

    LABELS are polygons or class rasters, or (for a model) a chip dataset. Prints IoU, F1, precision and recall per
    class, mIoU with the number of classes counted, pixel accuracy and the confusion matrix. A class that is neither
    in the labels nor in the mask scores NaN and is not counted. On a chip dataset each score has a 95 % interval:
    how far it would move with other chips of the same ground.
    """
    from aerial_seg.files.protect import Inputs
    from aerial_seg.files.staging import check_writable
    from aerial_seg.geo.raster.read_files import vector_files
    from aerial_seg.jobs.evaluate import (
        evaluate_mask,
        evaluate_model_on_chips,
        evaluate_model_on_rasters,
    )
    from aerial_seg.jobs.predict.settings import PredictSettings

    if output is not None:
        check_writable(output, overwrite=overwrite)
        if error_map is not None and output.resolve() == error_map.resolve():
            raise click.UsageError(
                f"-o and --error-map are both {output}; the scores are a file of their own."
            )
        areas = [] if label_settings.labelled_area is None else [label_settings.labelled_area]
        read = [file for name in (*labels, *areas) for file in vector_files(name)]
        Inputs([subject, *labels, *rasters, *read]).refuse([output])
    is_model = subject.suffix.lower() == ".safetensors"
    if rasters and not is_model:
        raise click.UsageError(
            f"--raster is imagery to run a model on, but {subject} is no .safetensors file; leave it out."
        )
    wanted = None if error_map is None else ErrorMapSettings(error_map, overwrite)
    _refuse_idle("raster" if is_model and rasters else "chips" if is_model else "mask")
    if page is not None:
        _check_page(subject, is_model, map_tiles)
    if not is_model and page is not None and wanted is None:
        report = _with_page(subject, page, labels, label_settings, overwrite)
    elif not is_model:
        if page is not None:
            _with_page(subject, page, labels, label_settings, overwrite)
        report = evaluate_mask(
            subject, labels, label_settings, console.bar, error_map=wanted, map_tiles=map_tiles
        )
    elif rasters:
        prediction = PredictSettings(
            mosaic=True, map_tiles=map_tiles, nodata=nodata, georeferenced=not no_georef, device=device
        )
        report = evaluate_model_on_rasters(
            subject,
            rasters,
            labels,
            label_settings,
            prediction=prediction,
            progress=console.bar,
            error_map=wanted,
        )
    elif wanted is not None:
        raise click.UsageError(
            "--error-map is laid on a mask's grid, which chips do not have; pass a mask, or --raster and its labels."
        )
    elif len(labels) == 1 and Path(labels[0]).is_dir():
        if label_settings != LabelSettings():
            raise click.UsageError(
                "a chip dataset tells its own classes: options on how labels are read do not apply; leave them out."
            )
        report = evaluate_model_on_chips(subject, Path(labels[0]), split=split, device=device, on=on)
    else:
        raise click.UsageError("a model needs imagery: pass --raster, or a chip dataset as LABELS.")
    _print_report(report, output, as_json)


def _check_page(subject: Path, is_model: bool, map_tiles: MapTileRows) -> None:
    """Refuse a page of what is no single mask on its own grid."""
    if is_model:
        raise click.UsageError("--report shows a mask; predict one, and pass that.")
    if not subject.is_file():
        raise click.UsageError(
            f"--report shows one mask, and {subject} is no file; pass one, or leave it out."
        )
    if map_tiles != "auto":
        raise click.UsageError("--report shows a mask where its file says it lies; leave out --map-tiles.")


def _with_page(
    mask: Path, page: Path, labels: tuple[str, ...], settings: LabelSettings, overwrite: bool
) -> EvaluateReport:
    """The scores; the page lies in its place."""
    from aerial_seg.jobs.report.job import report_map
    from aerial_seg.jobs.report.settings import ReportSettings

    made = report_map(mask, page, labels, ReportSettings(overwrite=overwrite), settings, console.bar)
    assert made.evaluation is not None
    return made.evaluation


_MEAN_SOMETHING = {
    "mask": ("a mask is compared as it is", ("map_tiles",)),
    "raster": ("with --raster a model maps imagery", ("nodata", "no_georef", "map_tiles", "device")),
    "chips": ("without --raster a model is scored on a chip dataset", ("split", "on", "device")),
}
"""What is scored, and which of the options on that say anything of it."""


def _refuse_idle(subject: str) -> None:
    """Raises UsageError for an option that would change nothing."""
    context = click.get_current_context()
    why, able = _MEAN_SOMETHING[subject]
    for name in ("split", "on", "nodata", "no_georef", "map_tiles", "device"):
        if name in able or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        option = next(one for one in context.command.params if one.name == name)
        raise click.UsageError(f"{option.opts[0]} would change nothing: {why}; leave it out.")


def _print_report(report: EvaluateReport, output: Path | None, as_json: bool) -> None:
    from aerial_seg.files.staging import staged_files

    document = {"subject": report.subject, "labels": report.labels, **report.scores.as_json()}
    if report.intervals is not None:
        document["uncertainty"] = report.intervals.as_json()
    if report.error_map is not None:
        document["error_map"] = str(report.error_map)
    if output is not None:
        with staged_files(output, overwrite=True) as folder:
            (folder / output.name).write_text(json.dumps(document, indent=2), encoding="utf-8", newline="\n")
    console.notes(report.notes)
    if as_json:
        console.print_json(document)
    else:
        console.score_tables(report.scores, report.intervals)
    if report.error_map is not None:
        console.note(f"{report.error_map}: hits, misses and false alarms, a band per class")
