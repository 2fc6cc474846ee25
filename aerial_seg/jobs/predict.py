"""predict: a model file and rasters in, georeferenced masks (and confidence, and polygons) out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from aerial_seg.crf.dense import check_crf_installed
from aerial_seg.errors import OutputError, SettingsError
from aerial_seg.geo.inputs import expand_rasters
from aerial_seg.geo.raster import RasterInfo, raster_info
from aerial_seg.jobs.fit import check_fit, choose_run_grid
from aerial_seg.jobs.forecast import forecast
from aerial_seg.jobs.journal import NAME, Journal, locked_work, tells_of
from aerial_seg.jobs.mapping import map_scene, report_from
from aerial_seg.jobs.predict_settings import Forecast, PredictReport, PredictSettings
from aerial_seg.jobs.results import result_names
from aerial_seg.jobs.scenes import Mapper, Scene
from aerial_seg.jobs.vectorize import vectorize
from aerial_seg.jobs.vectorize_settings import LayerSettings, VectorizeSettings
from aerial_seg.models.file import TrainedModel, load_model
from aerial_seg.models.predictor import Predictor
from aerial_seg.models.symmetry import symmetries
from aerial_seg.outputs import check_writable, work_folder
from aerial_seg.progress import Progress, silent
from aerial_seg.tiling.plan import TilePlan, TileShape, tile_shape
from aerial_seg.vectors.files import check_place
from aerial_seg.vectors.formats import target_crs, vector_format

BATCH = "predict"
"""Several masks in one folder keep their common journal in `predict.work/`."""


def predict(
    model_path: Path,
    rasters: Sequence[str],
    out: Path,
    settings: PredictSettings,
    progress: Progress = silent,
) -> tuple[PredictReport, ...]:
    """`out` is the mask of one raster or mosaic; of several rasters it is a folder with NAME_mask.tif each.

    Every mask is a COG on its raster's own grid, 255 where nothing was measured, with .qml, .aux.xml and .vat.dbf
    beside it. Memory does not grow with the rasters. After a crash the same call goes on where it stopped and ends
    with the same bytes. Raises AerialSegError before any tile runs when model and raster do not fit together.
    """
    order = _prepare(model_path, rasters, out, settings, progress)
    if len(order.scenes) > 1:
        return _map_several(order, out)
    (scene,) = order.scenes
    report = map_scene(scene, order.mapper)
    if settings.vectors is None:
        return (report,)
    polygons = VectorizeSettings(layer=LayerSettings(overwrite=settings.overwrite))
    return (replace(report, vectors=vectorize(report.mask, settings.vectors, polygons, progress)),)


def forecast_prediction(
    model_path: Path, rasters: Sequence[str], out: Path, settings: PredictSettings
) -> tuple[Forecast, ...]:
    """What `predict` with the same arguments would take; nothing is written, one batch is run to measure."""
    order = _prepare(model_path, rasters, out, settings, silent)
    return tuple(forecast(scene, order.mapper) for scene in order.scenes)


@dataclass(frozen=True, slots=True)
class _Order:
    """A checked command: the maps to make and what makes them."""

    scenes: tuple[Scene, ...]
    mapper: Mapper


def _prepare(
    model_path: Path, rasters: Sequence[str], out: Path, settings: PredictSettings, progress: Progress
) -> _Order:
    if settings.crf is not None:
        check_crf_installed()
    paths = expand_rasters(rasters)
    scenes = _scenes(paths, out, settings)
    for scene in scenes:
        _check_outputs(scene, out, settings, several=len(scenes) > 1)
    infos = [raster_info(path) for path in paths]
    if settings.vectors is not None:
        if len(scenes) > 1:
            raise SettingsError(
                f"--vectors names one file for {len(paths)} masks; pass --mosaic, or vectorize each mask afterwards"
            )
        form = vector_format(settings.vectors)
        target_crs(form, infos[0].grid.crs)
        check_place(settings.vectors, form, overwrite=settings.overwrite)
    model = load_model(model_path)
    for info in infos:
        check_fit(info, model.card, georeferenced=settings.georeferenced)
    shape = _shape(model, settings)
    symmetries(settings.tta)
    predictor = Predictor(
        model,
        settings=settings.engine_settings,
        batch_size=settings.batch_size or model.card.prediction.batch_size,
        side=shape.side,
        tiles=sum(_tiles(info, model, shape, settings) for info in infos),
    )
    return _Order(scenes, Mapper(model, predictor, shape, settings, progress))


def _scenes(paths: Sequence[Path], out: Path, settings: PredictSettings) -> tuple[Scene, ...]:
    if len(paths) == 1 or settings.mosaic:
        if out.suffix.lower() not in (".tif", ".tiff"):
            raise OutputError(
                f"the mask {out} is a GeoTIFF, wanted a name that ends in .tif; rename the output"
            )
        if out.resolve() in (path.resolve() for path in paths):
            raise OutputError(f"{out} is one of the rasters to predict; give the mask another name")
        return (Scene(tuple(paths), out),)
    if out.suffix:
        raise SettingsError(
            f"{len(paths)} rasters but one output {out}; pass --mosaic to make one map of them, "
            "or give -o a folder for one mask each"
        )
    scenes = tuple(Scene((path,), out / f"{path.stem}_mask.tif") for path in paths)
    if len({scene.target for scene in scenes}) < len(scenes):
        raise SettingsError("two rasters have the same file name; predict them into different folders")
    return scenes


def _check_outputs(scene: Scene, out: Path, settings: PredictSettings, *, several: bool) -> None:
    """An existing output is refused, but for one that an interrupted run of this command had just put there."""
    journals = [work_folder(scene.target) / NAME, *([work_folder(out / BATCH) / NAME] if several else [])]
    ours = not settings.restart and any(tells_of(journal, scene.target) for journal in journals)
    for name in result_names(scene.target.name, settings.definition):
        check_writable(scene.target.parent / name, overwrite=settings.overwrite or ours)


def _shape(model: TrainedModel, settings: PredictSettings) -> TileShape:
    wanted = model.card.prediction
    changed = settings.tile_size is not None
    return tile_shape(
        model.network.geometry,
        settings.tile_size or wanted.tile_size,
        halo=settings.halo if settings.halo is not None or changed else wanted.halo,
        overlap=settings.overlap if settings.overlap is not None or changed else wanted.overlap,
    )


def _tiles(info: RasterInfo, model: TrainedModel, shape: TileShape, settings: PredictSettings) -> int:
    """How many tiles a raster has, as far as one can know before it is opened for good."""
    grid = choose_run_grid(info.grid, model.card.gsd, settings.force_gsd, info.path)
    return len(TilePlan.of(height=grid.height, width=grid.width, shape=shape))


def _map_several(order: _Order, out: Path) -> tuple[PredictReport, ...]:
    """A map of each raster; those that an interrupted run of the same command had finished are not made again."""
    mapper, settings = order.mapper, order.mapper.settings
    job = {
        "model_sha256": mapper.model.sha256,
        "rasters": [str(scene.paths[0]) for scene in order.scenes],
        "settings": asdict(replace(settings, overwrite=False, restart=False)),
    }
    with locked_work(out / BATCH, restart=settings.restart) as folder:
        journal = Journal.open(folder / NAME, job)
        done = {record["report"]["mask"]: record["report"] for record in journal.records}
        reports = []
        for scene in order.scenes:
            finished = done.get(str(scene.target))
            if finished is not None and scene.target.exists():
                reports.append(report_from(finished))
            else:
                reports.append(map_scene(scene, mapper, placed=lambda r: journal.add({"report": asdict(r)})))
    return tuple(reports)
