"""report: a mask in, a page that shows it and says how good it is out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aerial_seg.documents import DocumentError, parse_json, read_text
from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_writable, staged_files
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.read_files import raster_files, vector_files
from aerial_seg.geo.raster.unchanged import Unchanged, files_of
from aerial_seg.jobs.evaluate import EvaluateReport
from aerial_seg.jobs.info.run_card import read_history
from aerial_seg.jobs.report.as_picture import write_picture
from aerial_seg.jobs.report.as_project import write_project
from aerial_seg.jobs.report.facts import facts_of
from aerial_seg.jobs.report.measure import Measured, Sources, make_views, measure
from aerial_seg.jobs.report.settings import ReportSettings
from aerial_seg.jobs.train.run_folder import LOG, SAMPLES, read_run
from aerial_seg.labels.labels import expand_labels, label_sources
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting
from aerial_seg.paths import StrPath, StrPaths, as_names, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.report.map_page.content import Areas, Content, Training
from aerial_seg.report.map_page.page import map_page
from aerial_seg.settings import chosen
from aerial_seg.vectors.from_mask.class_rows import find_confidence

_SIDES = (1600, 1100, 700, 400)
"""Pixels a side of the whole map's pictures: the first with which the page stays below its size."""
LARGEST_PAGE = 15_000_000
_FORMS = (".html", ".png", ".qgz")


@dataclass(frozen=True, slots=True)
class MapReport:
    """Hold where a report lies, the map's areas by class (in m2 or px, `unit`), and its scores if labels were given."""

    path: Path
    legend: Legend
    areas: tuple[float, ...]
    unit: str
    evaluation: EvaluateReport | None
    notes: tuple[str, ...]


def report_map(
    mask: StrPath,
    out: StrPath,
    labels: StrPaths = (),
    settings: ReportSettings | None = None,
    label_settings: LabelSettings | None = None,
    progress: Progress = silent,
) -> MapReport:
    """Write a report on a mask: OUT.html, a page for any browser, OUT.png, a picture, or OUT.qgz, a project of QGIS.

    The picture shows image, truth, map and errors side by side; the project holds imagery, mask, confidence, labels and
    the polygons of the mask's name beside it, styled and in groups. The page is one file that needs no network: layers
    as of a GIS, the areas of the classes and, where labels are given, the scores of `evaluate_mask` with 95 %
    intervals, the confusion matrix, how true the confidence is, and the worst places. The confidence is
    MASK_confidence.tif where that lies beside the mask. Memory is flat in the mask's size. Raises InputError for what
    is no mask and for inputs that do not fit it, OutputError before the work.
    """
    mask, out, labels = as_path(mask, "mask"), as_path(out, "out"), as_names(labels, "labels")
    settings = chosen(settings, ReportSettings)
    _check(mask, out, labels, settings, label_settings)
    confidence = find_confidence(mask, None, raster_info(mask).grid)
    sources = Sources(mask, labels, label_settings, settings.image, confidence)
    rasters = [path for path in (mask, confidence, settings.image) if path is not None]
    still = Unchanged(rasters, files_of(rasters))
    training, assessment = _training(settings.run), _assessment(settings.assessment)
    with still.holding():
        is_project = out.suffix.lower() == ".qgz"
        # A project shows the labels themselves, and compares nothing.
        measured = measure(replace(sources, labels=()) if is_project else sources, progress, side=_SIDES[0])
        _check_assessment(assessment, measured.legend, settings.assessment)
        notes = _notes(sources, measured)
        with staged_files(out, overwrite=settings.overwrite) as folder:
            draft = folder / out.name
            if is_project:
                notes = (*notes, *write_project(draft, out, sources, measured.legend))
            else:
                _write(draft, sources, measured, _Beside(training, assessment, (*notes, *still.notes)))
    return MapReport(
        out,
        measured.legend,
        tuple(measured.strata.areas.tolist()),
        measured.strata.unit,
        measured.evaluation,
        (*notes, *still.notes),
    )


def _check(
    mask: Path,
    out: Path,
    labels: tuple[str, ...],
    settings: ReportSettings,
    label_settings: LabelSettings | None,
) -> None:
    """Raises before the work what is known by then."""
    if out.suffix.lower() not in _FORMS:
        raise OutputError(f"{out} ends in '{out.suffix}', wanted {', '.join(_FORMS)}; rename it")
    if not labels and label_settings not in (None, LabelSettings()):
        raise SettingsError(
            "settings on how labels are read would change nothing without labels; pass labels"
        )
    for given, told in ((settings.run, setting("run")), (settings.assessment, setting("assessment"))):
        if out.suffix.lower() != ".html" and given is not None:
            raise SettingsError(f"{told} is for a page, but {out} is none; leave it out, or write a .html")
    check_writable(out, overwrite=settings.overwrite)
    inputs = Inputs([])
    for path in (mask, settings.image):
        if path is not None:
            with suppress(InputError):
                inputs.add(raster_files([raster_info(path)]))
            inputs.add([path])
    files = label_sources(expand_labels(labels), label_settings or LabelSettings()) if labels else ()
    inputs.add([one for path in files for one in vector_files(path)])
    inputs.add([path for path in (settings.run, settings.assessment) if path is not None])
    if settings.run is not None:
        inputs.add([settings.run / LOG, settings.run / SAMPLES])
    inputs.refuse([out])


@dataclass(frozen=True, slots=True)
class _Beside:
    """What a page shows beside the map itself."""

    training: Training | None
    assessment: Mapping[str, Any] | None
    notes: tuple[str, ...]


def _write(path: Path, sources: Sources, measured: Measured, beside: _Beside) -> None:
    """The report, as the name wants it."""
    if path.suffix.lower() == ".png":
        (whole, *_), _places = make_views(sources, measured)
        write_picture(path, sources, measured, whole)
    else:
        path.write_text(_page(sources, measured, beside), encoding="utf-8", newline="\n")


def _page(sources: Sources, measured: Measured, beside: _Beside) -> str:
    """The page; with smaller pictures where it would become too large."""
    strata, evaluation, comparison = measured.strata, measured.evaluation, measured.comparison
    views, places = make_views(sources, measured)
    grid = measured.grid.unmirrored()
    scored = None if evaluation is None else evaluation.scores
    content = Content(
        title=f"Report on {sources.mask.name}",
        height=grid.height,
        width=grid.width,
        legend=measured.legend,
        views=views,
        areas=Areas(strata.pixels.tolist(), strata.areas.tolist(), strata.unit, strata.nodata),
        transform=None if grid.crs is None else tuple(grid.transform)[:6],
        scores=scored,
        intervals=None if comparison is None else comparison.intervals(measured.legend.names),
        square=measured.division.square,
        bins=None if comparison is None or sources.confidence is None else comparison.bins,
        places=places,
        training=beside.training,
        assessment=beside.assessment,
        facts=facts_of(sources, measured),
        notes=beside.notes,
    )
    return _fitting(content)


def _fitting(content: Content) -> str:
    for side in _SIDES:
        text = map_page(content.smaller(side))
        if len(text.encode()) <= LARGEST_PAGE:
            break
    return text


def _notes(sources: Sources, measured: Measured) -> tuple[str, ...]:
    notes = [] if measured.evaluation is None else list(measured.evaluation.notes)
    if sources.image is None:
        notes.append(
            "the report shows no imagery; name that which the map was made from to see it below the map"
        )
    beside = sources.mask.with_name(f"{sources.mask.stem}_confidence{sources.mask.suffix}")
    if sources.confidence is None and beside.is_file():
        notes.append(f"{beside.name} does not lie on the mask's grid, so it is not shown")
    return tuple(notes)


def _training(run: Path | None) -> Training | None:
    if run is None:
        return None
    read_run(run)
    samples = run / SAMPLES
    return Training(run.name, read_history(run / LOG), samples.read_bytes() if samples.is_file() else None)


_OF_ASSESSMENT = ("labelled_points", "overall", "proportions", "classes", "area_unit", "mask")


def _assessment(path: Path | None) -> Mapping[str, Any] | None:
    """What `assess report` wrote. Raises InputError for anything else."""
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"{path} is not there, wanted what `aerial-seg assess report` wrote; check the name")
    try:
        document = parse_json(read_text(path))
        if not isinstance(document, dict) or any(name not in document for name in _OF_ASSESSMENT):
            raise DocumentError("it has not what such a file has")
        _check_numbers(document)
    except (DocumentError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}), wanted what `aerial-seg assess report` wrote; write it again"
        ) from error
    return document


def _check_numbers(document: Mapping[str, Any]) -> None:
    """Raises LookupError, TypeError or ValueError where something is not as it was written."""
    estimates = [document["overall"]]
    for one in document["classes"]:
        if not isinstance(one["name"], str):
            raise TypeError("a class without a name")
        int(one["points"]), float(one["mapped_area"])
        estimates += [one["users"], one["producers"], one["area"]]
    for one in estimates:
        for name in ("value", "low", "high"):
            None if one[name] is None else float(one[name])
    size = len(document["classes"])
    int(document["labelled_points"])
    if [len(row) for row in document["proportions"]] != [size] * size:
        raise ValueError("its error matrix is not square")
    for row in document["proportions"]:
        for share in row:
            float(share)


def _check_assessment(document: Mapping[str, Any] | None, legend: Legend, path: Path | None) -> None:
    if document is None:
        return
    names = [one["name"] for one in document["classes"]]
    if sorted(names) != sorted(legend.names):
        raise InputError(
            f"{path} is of the classes {', '.join(names)}, but the map has {', '.join(legend.names)}; wanted what "
            "`aerial-seg assess report` wrote of this map"
        )
