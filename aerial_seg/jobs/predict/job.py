"""predict: a model file and rasters in, georeferenced masks (and confidence, and polygons) out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from aerial_seg.crf.dense import check_crf_installed
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.protect import Inputs
from aerial_seg.files.work import place, remember
from aerial_seg.geo.areas.area import Area, area_file, area_of_bounds, read_area
from aerial_seg.geo.outputs.acquisition import parse_taken
from aerial_seg.geo.outputs.stac import item_name, list_vectors
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.geo.raster.raster import Raster, raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.read_files import raster_files, vector_files
from aerial_seg.geo.raster.remote import file_behind
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.ensemble import Ensemble, model_paths
from aerial_seg.inference.match_bands import chosen_infos
from aerial_seg.inference.match_gsd import check_fit, choose_run_grid
from aerial_seg.inference.region import Frame, Region
from aerial_seg.inference.tta import run_sides
from aerial_seg.jobs.predict.dry_run import forecast
from aerial_seg.jobs.predict.many_scenes import (
    SceneOutcome,
    ScenesFailedError,
    all_or_raise,
    map_several,
    refused_outcome,
)
from aerial_seg.jobs.predict.memory import batch_within, check_batch
from aerial_seg.jobs.predict.one_scene import map_scene
from aerial_seg.jobs.predict.scene_list import LIST, Refusals, is_list, named_rasters
from aerial_seg.jobs.predict.scenes import Mapper, Scene
from aerial_seg.jobs.predict.settings import Forecast, PredictReport, PredictSettings
from aerial_seg.jobs.predict.targets import (
    check_outputs,
    placed_vectors,
    protect,
    require_own_masks,
    scenes_of,
    usable_scenes,
)
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.jobs.vectorize.settings import LayerSettings, VectorizeSettings
from aerial_seg.models.device import pick_device
from aerial_seg.models.file import TrainedModel, load_model
from aerial_seg.progress import Progress, silent
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import TilePlan, TileShape, tile_shape
from aerial_seg.vectors.files import check_place
from aerial_seg.vectors.formats import check_layer_name, target_crs, vector_format
from aerial_seg.vectors.ground import Ground


def predict(
    model_path: Path | Sequence[Path],
    rasters: Sequence[str],
    out: Path,
    settings: PredictSettings,
    progress: Progress = silent,
) -> tuple[PredictReport, ...]:
    """`out` is the mask of one raster or mosaic; of several rasters it is a folder with NAME_mask.tif each.

    `@scenes.txt` among the rasters stands for the lines of that file. Of several rasters one that cannot be predicted
    does not stop the others: ScenesFailedError in the end tells what became of each.

    Every mask is a COG on its raster's own grid, 255 where nothing was measured, with .qml, .aux.xml and .vat.dbf
    beside it. Memory does not grow with the rasters. After a crash the same call goes on where it stopped and ends
    with the same bytes. Of several models (also `A.safetensors,B.safetensors` as one path) the class probabilities
    are averaged. Raises AerialSegError before any tile runs when model and raster do not fit together.
    """
    outcomes = all_or_raise(predict_scenes(model_path, rasters, out, settings, progress))
    return tuple(one.report for one in outcomes if one.report is not None)


def predict_scenes(
    model_path: Path | Sequence[Path],
    rasters: Sequence[str],
    out: Path,
    settings: PredictSettings,
    progress: Progress = silent,
) -> tuple[SceneOutcome, ...]:
    """As `predict`, but returns what became of each scene; one of several that failed is told, not raised."""
    start = time.perf_counter()
    try:
        order = _prepare(model_path, rasters, out, settings, progress)
        if order.several:
            return map_several(order.scenes, order.refused, order.mapper, out)
    except ScenesFailedError as error:
        return error.outcomes
    (scene,) = order.scenes
    report = _map_one(scene, order.mapper)
    return (SceneOutcome(scene.name, "done", time.perf_counter() - start, report=report),)


def _map_one(scene: Scene, mapper: Mapper) -> PredictReport:
    vectors = mapper.settings.vectors
    if vectors is None:
        return map_scene(scene, mapper)

    def add_polygons(report: PredictReport, work: Path) -> PredictReport:
        """While the pieces are kept: interrupted now, the same command finds the mask finished and goes on here."""
        overwrite = mapper.settings.overwrite or placed_vectors(scene, vectors)
        made = vectorize(
            report.mask,
            vectors,
            VectorizeSettings(layer=LayerSettings(overwrite=overwrite)),
            mapper.progress,
            placed=lambda files: remember(work, (*report.files, *files)),
        )
        if mapper.settings.stac:
            item = scene.target.with_name(item_name(scene.target.name))
            list_vectors(item, made.files, draft=work / item.name)
            place(work, [(work / item.name, item)])
        return replace(report, vectors=made)

    return map_scene(scene, mapper, then=add_polygons)


def forecast_prediction(
    model_path: Path | Sequence[Path], rasters: Sequence[str], out: Path, settings: PredictSettings
) -> tuple[Forecast, ...]:
    """What `predict` with the same arguments would take; nothing is written, one batch is run to measure."""
    order = _prepare(model_path, rasters, out, settings, silent)
    if any(one.outcome == "failed" for one in order.refused_outcomes):
        raise ScenesFailedError(order.refused_outcomes)
    return tuple(forecast(scene, order.mapper) for scene in order.scenes)


@dataclass(frozen=True, slots=True)
class _Order:
    """A checked command: the maps to make and what makes them; refused: scenes that cannot be mapped, and why."""

    scenes: tuple[Scene, ...]
    mapper: Mapper
    several: bool = False
    refused: dict[str, InputError] = field(default_factory=dict)

    @property
    def refused_outcomes(self) -> tuple[SceneOutcome, ...]:
        """As they will be told."""
        return tuple(refused_outcome(name, error) for name, error in self.refused.items())


def _prepare(
    model_path: Path | Sequence[Path],
    rasters: Sequence[str],
    out: Path,
    settings: PredictSettings,
    progress: Progress,
) -> _Order:
    if settings.crf is not None:
        check_crf_installed()
    _check_taken(settings)
    paths, refused = _named(rasters, settings)
    several = not refused.fatal
    scenes = scenes_of(paths, out, several)
    usable = usable_scenes(scenes, out, refused) if several else scenes
    check_outputs(usable, out, settings, several=several)
    named: list[Path | str] = [*settings.bands.stack, *model_paths(model_path)]
    read_whole = Unchanged([*named, *([area_file(settings.aoi)] if settings.aoi is not None else [])])
    inputs = Inputs(_named_files(paths, rasters, model_path, settings))
    protect(inputs, usable, settings)
    if several:
        # --overwrite names the folder, not each file in it.
        require_own_masks(usable)
    area = _area(settings)
    # Of thousands of scenes each is opened once here: what is learnt now need not be looked up again below.
    looked = settings.bands if several and not settings.bands.stack else ALL_BANDS
    infos: dict[Path, RasterInfo] = {}
    for path in paths:
        with refused.of(path):
            infos[path] = _look(path, looked, settings)
    inputs.add(raster_files(infos.values()))
    protect(inputs, usable, settings)
    if settings.vectors is not None:
        if several:
            raise SettingsError(
                f"--vectors names one file for {len(paths)} masks; pass --mosaic, or vectorize each mask afterwards"
            )
        _check_vectors(settings.vectors, infos[paths[0]], scenes[0], settings)
    models = model_paths(model_path)
    ensemble = Ensemble.of([load_model(path) for path in models], models)
    read_whole.check()
    model = ensemble.as_one
    settings = replace(settings, bands=settings.bands.ordered([band.name for band in model.card.bands]))
    shape = _shape(model, ensemble.geometry, settings)
    known = infos if settings.bands == looked else {}
    tiles = 0
    alone = [(path,) for path in paths if str(path) not in refused.reasons]
    together = [paths] if paths else []  # none, where a list names only what is not there
    for group in alone if several and not settings.bands.stack else together:
        with refused.of(group[0]):
            for info in chosen_infos(group, settings.bands, mosaic=settings.mosaic, known=known):
                check_fit(info, model.card, georeferenced=settings.georeferenced, choice=settings.bands)
                tiles += _tiles(info, model, shape, settings, None if settings.mosaic else area)
    if several:
        scenes = _not_refused(scenes, refused)
    sides = run_sides(settings.tta, shape.geometry, shape.side)
    batch, notes = _batch(settings, model.card.prediction.batch_size, max(sides))
    predictor = ensemble.predictor(
        settings=settings.engine_settings, batch_size=batch, side=sides, tiles=tiles
    )
    mapper = Mapper(model, predictor, shape, settings, progress, area, (*model.notes, *notes))
    return _Order(scenes, mapper, several, refused.reasons)


def _look(path: Path, looked: BandChoice, settings: PredictSettings) -> RasterInfo:
    """The facts of a raster. Raises InputError where it is none, or claims pixels and holds none."""
    if looked != settings.bands:
        return raster_info(path, looked)
    with Raster(path, nodata=settings.nodata, georeferenced=False, choice=looked) as raster:
        raster.measured_extent()
        return raster.info


def _batch(settings: PredictSettings, wanted: int, side: int) -> tuple[int, tuple[str, ...]]:
    """The batch size, and what to say about it. A CUDA device has a memory of its own and tells when it is full."""
    own = settings.batch_size
    if pick_device(settings.engine_settings.device).type != "cpu":
        return own or wanted, ()
    batch = own or batch_within(wanted, side=side, max_memory=settings.max_memory)
    check_batch(batch, side=side, max_memory=settings.max_memory)
    if batch == wanted or own is not None:
        return batch, ()
    return batch, (
        f"batch size {batch} in place of the model's {wanted}: more tiles of {side} px may need over half of the "
        "memory; --batch-size or --max-memory change that",
    )


def _named(rasters: Sequence[str], settings: PredictSettings) -> tuple[tuple[Path, ...], Refusals]:
    """The rasters that are there; what is wrong with one is fatal unless there are several without --mosaic."""
    refused = Refusals(fatal=settings.mosaic)
    paths = named_rasters(rasters, refused)
    if len(paths) + len(refused.reasons) == 1:
        refused.fatal = True
        for error in refused.reasons.values():
            raise error
    return paths, refused


def _not_refused(scenes: Sequence[Scene], refused: Refusals) -> tuple[Scene, ...]:
    """The scenes that can be mapped; ScenesFailedError where there are none."""
    good = tuple(scene for scene in scenes if scene.name not in refused.reasons)
    if not good:
        raise ScenesFailedError([refused_outcome(name, error) for name, error in refused.reasons.items()])
    return good


def _named_files(
    paths: Sequence[Path],
    rasters: Sequence[str],
    model_path: Path | Sequence[Path],
    settings: PredictSettings,
) -> Iterator[Path | str]:
    """What the command names as its inputs; what stands behind the rasters comes to light when they are opened."""
    # Of a raster in a file that file.
    yield from (file_behind(path) or path for path in paths)
    yield from (argument.removeprefix(LIST) for argument in rasters if is_list(argument))
    yield from (file_behind(path) or path for path in settings.bands.stack)
    yield from model_paths(model_path)
    if settings.aoi is not None:
        yield from vector_files(area_file(settings.aoi))


def _check_vectors(vectors: Path, info: RasterInfo, scene: Scene, settings: PredictSettings) -> None:
    form = vector_format(vectors)
    target_crs(form, info.grid.crs)
    Ground(info.grid)  # raises now what would else be raised after hours, where polygons have no size
    check_place(vectors, form, overwrite=settings.overwrite or placed_vectors(scene, vectors))
    check_layer_name(form, vectors.stem, vectors)


def _check_taken(settings: PredictSettings) -> None:
    if settings.taken is None:
        return
    parse_taken(settings.taken)
    if not settings.stac:
        raise SettingsError(
            f"--datetime {settings.taken} is for the STAC item, and none is asked for; add --stac, or leave it out"
        )


def _area(settings: PredictSettings) -> Area | None:
    if settings.aoi is not None and settings.bounds is not None:
        raise SettingsError("--aoi and --bounds both say what to predict; pass one of them")
    if settings.aoi is not None:
        return read_area(settings.aoi, layer=settings.aoi_layer, crs=settings.aoi_crs)
    for option, value in (("--aoi-layer", settings.aoi_layer), ("--aoi-crs", settings.aoi_crs)):
        if value is not None:
            raise SettingsError(
                f"{option} {value} says how to read an --aoi file, but there is none; leave it out"
            )
    return None if settings.bounds is None else area_of_bounds(settings.bounds)


def _shape(model: TrainedModel, geometry: ModelGeometry, settings: PredictSettings) -> TileShape:
    wanted = model.card.prediction
    changed = settings.tile_size is not None
    return tile_shape(
        geometry,
        settings.tile_size or wanted.tile_size,
        halo=settings.halo if settings.halo is not None or changed else wanted.halo,
        overlap=settings.overlap if settings.overlap is not None or changed else wanted.overlap,
    )


def _tiles(
    info: RasterInfo, model: TrainedModel, shape: TileShape, settings: PredictSettings, area: Area | None
) -> int:
    """How many tiles a raster has in the area, as far as one can know before it is opened for good."""
    grid = choose_run_grid(
        info.grid, model.card.gsd, settings.force_gsd, info.path, georeferenced=settings.georeferenced
    )
    plan = TilePlan.of(height=grid.height, width=grid.width, shape=shape)
    if area is None:
        return len(plan)
    height, width = info.grid.shape
    here = area.on(info.grid, info.path)
    rows, cols = here.extent.rows, here.extent.cols
    region = Region(rows.start, cols, rows.stop)
    return Frame(plan, region, height=height, width=width, area=here).tiles_wanted
