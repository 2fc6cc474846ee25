"""predict: a model file and rasters in, georeferenced masks (and confidence, and polygons) out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from aerial_seg.files.work import place, remember
from aerial_seg.jobs.predict.checks import placed_vectors
from aerial_seg.jobs.predict.dry_run import dry_run
from aerial_seg.jobs.predict.many_scenes import SceneOutcome, ScenesFailedError, all_or_raise, map_many_scenes
from aerial_seg.jobs.predict.one_scene import map_scene
from aerial_seg.jobs.predict.plan import PredictRequest, make_plan
from aerial_seg.jobs.predict.scenes import PredictContext, Scene
from aerial_seg.jobs.predict.settings import Forecast, PredictReport, PredictSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.outputs.stac import item_name, list_vectors
from aerial_seg.paths import StrPath, StrPaths
from aerial_seg.progress import Progress, silent
from aerial_seg.vectors.from_mask.settings import LayerSettings, VectorizeSettings


def predict(
    model_path: StrPaths,
    rasters: StrPaths,
    out: StrPath,
    settings: PredictSettings | None = None,
    progress: Progress = silent,
    *,
    device: str = "auto",
) -> tuple[PredictReport, ...]:
    """Map rasters with a model: `out` is the mask, or of several rasters a folder with NAME_mask.tif each.

    rasters: one, or a list of files, folders, globs and addresses; `@scenes.txt` among them stands for the lines of
    that file. Of several rasters one that cannot be predicted does not stop the others: ScenesFailedError in the end
    tells what became of each.

    Every mask is a COG on its raster's own grid, 255 where nothing was measured, with .qml, .aux.xml and .vat.dbf
    beside it. Memory does not grow with the rasters. After a crash the same call goes on where it stopped and ends
    with the same bytes. Of several models (also `A.safetensors,B.safetensors` as one path) the class probabilities
    are averaged. device: where the network runs, as in every job; auto takes that of the settings. Raises
    AerialSegError before any tile runs when model and raster do not fit together.
    """
    outcomes = all_or_raise(predict_scenes(model_path, rasters, out, settings, progress, device=device))
    return tuple(one.report for one in outcomes if one.report is not None)


def predict_scenes(
    model_path: StrPaths,
    rasters: StrPaths,
    out: StrPath,
    settings: PredictSettings | None = None,
    progress: Progress = silent,
    *,
    device: str = "auto",
) -> tuple[SceneOutcome, ...]:
    """Predict as `predict` does, but return what became of each scene: one of several that failed raises nothing."""
    start = time.perf_counter()
    with TemporaryDirectory(prefix="aerial-seg-") as folder:
        plan = make_plan(PredictRequest.of(model_path, rasters, out, settings, device), Path(folder))
        if not plan.scenes:
            return plan.refused
        context = plan.start(progress)
        if plan.many_scenes:
            return map_many_scenes(plan.scenes, plan.refused, context, plan.out)
        (scene,) = plan.scenes
        report = _map_one(scene, context)
    return (SceneOutcome(scene.name, "done", time.perf_counter() - start, report=report),)


def _map_one(scene: Scene, context: PredictContext) -> PredictReport:
    vectors = context.settings.vectors
    if vectors is None:
        return map_scene(scene, context)

    def add_polygons(report: PredictReport, work: Path) -> PredictReport:
        """While the pieces are kept: interrupted now, the same command finds the mask finished and goes on here."""
        overwrite = context.settings.overwrite or placed_vectors(scene, vectors)
        made = vectorize(
            report.mask,
            vectors,
            VectorizeSettings(layer=LayerSettings(overwrite=overwrite)),
            context.progress,
            placed=lambda files: remember(work, (*report.files, *files)),
        )
        if context.settings.stac:
            item = scene.target.with_name(item_name(scene.target.name))
            list_vectors(item, made.files, draft=work / item.name)
            place(work, [(work / item.name, item)])
        return replace(report, vectors=made)

    return map_scene(scene, context, then=add_polygons)


def forecast_prediction(
    model_path: StrPaths,
    rasters: StrPaths,
    out: StrPath,
    settings: PredictSettings | None = None,
    *,
    device: str = "auto",
) -> tuple[Forecast, ...]:
    """Foretell what `predict` would take with the same arguments; one batch is run, nothing is written."""
    with TemporaryDirectory(prefix="aerial-seg-") as folder:
        plan = make_plan(PredictRequest.of(model_path, rasters, out, settings, device), Path(folder))
        if not plan.scenes or any(one.outcome == "failed" for one in plan.refused):
            raise ScenesFailedError(plan.refused)
        context = plan.start(silent)
        return tuple(dry_run(scene, context) for scene in plan.scenes)
