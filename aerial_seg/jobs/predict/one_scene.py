"""One map: from a raster (or a mosaic of several) to the finished files, through pieces that outlive a crash."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aerial_seg.files.journal import (
    NAME,
    RESULT,
    Journal,
    as_read_back,
    damaged_records,
    locked_work,
    read_job,
    telling_what_is_kept,
)
from aerial_seg.files.staging import place_files
from aerial_seg.files.work import was_placed
from aerial_seg.geo.map_tiles.drafts import MOSAIC
from aerial_seg.geo.raster.band_choice import ALL_BANDS
from aerial_seg.geo.raster.remote import public_name
from aerial_seg.geo.raster.unchanged import InputState, Unchanged, kept_only_if, state_of
from aerial_seg.inference.results import keep_styles, write_results
from aerial_seg.jobs.predict.memory import check_disk, choose_panels
from aerial_seg.jobs.predict.scenes import (
    OpenScene,
    PredictContext,
    Scene,
    all_notes,
    open_scene,
)
from aerial_seg.jobs.predict.segments_writer import PieceMaker
from aerial_seg.jobs.predict.settings import PredictReport
from aerial_seg.legend import IGNORE
from aerial_seg.mentions import setting
from aerial_seg.outputs.acquisition import Taken, parse_taken, time_of_all
from aerial_seg.outputs.mask import provenance
from aerial_seg.outputs.stac import Catalogued, item_name, write_item

Facts = dict[str, Any]

_RENEWED = "its files changed since an interrupted run, so that run's rows were made anew"


def map_scene(
    scene: Scene,
    context: PredictContext,
    *,
    placed: Callable[[PredictReport, InputState], None] | None = None,
    then: Callable[[PredictReport, Path], PredictReport] | None = None,
) -> PredictReport:
    """Make one mask and its companions and put them in place; `then` and `placed` are called before the pieces go.

    `placed` is told what was made, and the state of the files that it was made from. `then` goes on with the mask, in
    the knowledge of the work folder; interrupted there, the same call goes on there.

    After a crash at any moment the same call goes on and ends with the same bytes. With `placed`, as one of several, a
    scene whose files changed since then is made anew; alone it is refused. Raises Incomplete or Interrupted
    when finished rows were kept for that.
    """
    with locked_work(scene.target, restart=context.settings.restart) as folder:
        report, state = _make(scene, context, folder, renew=None if placed is None else "input")
        with telling_what_is_kept(folder):
            foreign, notes = keep_styles(report.files, folder / RESULT, scene.target)
            place_files(folder / RESULT, scene.target)
            files = tuple(file for file in report.files if file not in foreign)
            report = replace(report, files=files, notes=(*report.notes, *notes))
            if then is not None:
                report = then(report, folder)
        if placed is not None:
            placed(report, state)
    return report


def _make(
    scene: Scene, context: PredictContext, folder: Path, *, renew: str | None
) -> tuple[PredictReport, InputState]:
    """Everything lies in the folder RESULT, and the journal says so."""
    still = Unchanged(_inputs(scene, context), without=MOSAIC)
    with kept_only_if(still, folder), open_scene(scene, context, folder) as opened:
        still.add((), opened.files)
        facts = _facts(scene, context)
        job = _job(scene, opened, context, facts, read_job(folder / NAME))
        journal = Journal.open(folder / NAME, job, renew=renew)
        if journal.records and "report" in journal.records[-1]:
            with damaged_records(journal.path):
                report = report_from(journal.records[-1]["report"])
            if all(_is_there(file, scene, folder) for file in report.files):
                return report, journal.job["input"]
        check_disk(opened.memory_model, scene.target)
        with telling_what_is_kept(folder):
            maker = PieceMaker(opened, context, folder, journal, still)
            report = _run(scene, opened, context, facts, maker)
            report = replace(report, notes=(*report.notes, *still.notes))
            if journal.renewed:
                report = replace(report, notes=(*report.notes, _RENEWED))
            still.check()
            journal.add({"report": asdict(report)})
    return report, journal.job["input"]


def _is_there(file: Path, scene: Scene, folder: Path) -> bool:
    """Whether a finished file still waits to be placed, or was placed; somebody may have taken it away since."""
    # A style that somebody else made stays in place of ours.
    there = (folder / RESULT / file.name).exists() or file.suffix == ".qml"
    return there or was_placed(scene.target, file)


def _inputs(scene: Scene, context: PredictContext) -> tuple[Path | str, ...]:
    """All rasters that the map is made of."""
    return (*scene.paths, *context.settings.bands.stack)


def _run(
    scene: Scene, opened: OpenScene, context: PredictContext, facts: Facts, maker: PieceMaker
) -> PredictReport:
    begun, legend, resumed = time.perf_counter(), context.model.card.legend, maker.rows_done
    # Asked before the work: a raster that cannot be read any more is not to be found out at its end.
    taken = _taken(scene, opened, context) if context.settings.stac else None
    maker.make_all(f"predict {scene.target.name}")
    counts, tiles = maker.counts(), maker.tiles()
    name = scene.target.name
    with (
        context.progress(f"write {name}", total=len(opened.memory_model.layers), unit="raster") as bar,
        maker.stages.at("assembly"),
    ):
        files = write_results(
            maker.store,
            maker.store.folder / RESULT / name,
            legend=legend,
            counts=counts,
            tags=provenance(**facts),
            bar=bar,
        )
    notes = all_notes(opened, context)
    if taken is not None:
        files = (*files, _write_item(scene, opened, context, facts, files, taken))
        notes = (*notes, *_note_on_time(taken, context))
    return PredictReport(
        mask=scene.target,
        files=tuple(scene.target.parent / file.name for file in files),
        source=scene.name,
        height=opened.memory_model.height,
        width=opened.memory_model.width,
        tiles=tiles.run,
        tiles_skipped=tiles.skipped,
        class_pixels={entry.name: counts.get(entry.value, 0) for entry in legend.entries},
        nodata_pixels=counts.get(IGNORE, 0),
        resampled_to=context.model.card.gsd if opened.resampled else None,
        panels=len(maker.panels),
        resumed_rows=resumed,
        notes=notes,
        stage_seconds={**maker.stages.seconds, "total": time.perf_counter() - begun},
    )


def _taken(scene: Scene, opened: OpenScene, context: PredictContext) -> Taken:
    said = context.settings.taken
    if said is not None:
        return parse_taken(said)
    return time_of_all(list(zip(scene.paths, opened.tags, strict=True)))


def _note_on_time(taken: Taken, context: PredictContext) -> tuple[str, ...]:
    if context.settings.taken is not None:
        return ()
    return (f"the STAC item's time is {taken.source}; {setting('taken')} says when the imagery was taken",)


def _write_item(
    scene: Scene,
    opened: OpenScene,
    context: PredictContext,
    facts: Facts,
    files: tuple[Path, ...],
    taken: Taken,
) -> Path:
    catalogued = Catalogued(
        files=files,
        grid=opened.source.grid,
        legend=context.model.card.legend,
        taken=taken,
        sources=list(map(public_name, scene.paths)),
        parameters=facts,
    )
    return write_item(files[0].with_name(item_name(files[0].name)), catalogued)


def _job(
    scene: Scene,
    opened: OpenScene,
    context: PredictContext,
    facts: Facts,
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """All that finished pieces depend on: what the result is, how it is computed, and the files as they are now.

    before: the job of an interrupted run. If it is the same, its panels are kept, whatever memory there is now.
    """
    job = {
        **facts,
        "runtime": context.predictor.runtime.as_dict(),
        "input": state_of(_inputs(scene, context), opened.files, without=MOSAIC),
        "max_memory": context.settings.max_memory,
        "stac": context.settings.stac,
        **({} if context.settings.taken is None else {"datetime": context.settings.taken}),
    }
    extent = opened.memory_model.extent
    if extent.pixels < opened.memory_model.height * opened.memory_model.width:
        job["extent"] = [extent.rows.start, extent.rows.stop, extent.cols.start, extent.cols.stop]
    if before is not None and as_read_back(job).items() <= before.items():
        with damaged_records(scene.target):
            return {**job, "panels": [[int(start), int(stop)] for start, stop in before["panels"]]}
    panels = choose_panels(opened.memory_model, context.predictor, context.settings.max_memory)
    return {**job, "panels": [[panel.start, panel.stop] for panel in panels]}


def _facts(scene: Scene, context: PredictContext) -> Facts:
    """What the result is, as its files, its journal and its STAC Item tell."""
    settings = context.settings
    return settings.definition.facts(
        context.model,
        context.shape,
        sources=list(map(public_name, scene.paths)),
        nodata=settings.nodata,
        more={
            **({} if settings.bands == ALL_BANDS else {"bands": settings.bands.identity}),
            **({} if settings.scale == "auto" else {"scale": settings.scale}),
            **({} if scene.tiles is None else {"map_tiles": scene.tiles.rows}),
            **({} if context.area is None else {"area": context.area.identity}),
        },
    )


def report_from(document: dict[str, Any]) -> PredictReport:
    """Return the report that a journal holds."""
    return PredictReport(
        **{
            **document,
            "mask": Path(document["mask"]),
            "files": tuple(map(Path, document["files"])),
            "notes": tuple(document["notes"]),
        }
    )
