"""From what a user asks of `predict` to a plan that is known to work: everything is checked before a tile runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from aerial_seg.errors import SettingsError
from aerial_seg.files.journal import NAME, DamagedJournalError, read_job, work_folder
from aerial_seg.files.protect import Inputs
from aerial_seg.geo.areas.area import Area, area_file, area_of_bounds, read_area
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.map_tiles.drafts import drafts_of
from aerial_seg.geo.map_tiles.placing import Placed, Placing, place_tiles
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.read_files import raster_files
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.engines.choose import EngineSettings, carrier_beside_crf
from aerial_seg.inference.ensemble import Ensemble, model_paths
from aerial_seg.inference.match_bands import check_mosaic_bands, check_mosaic_scalings, check_stack
from aerial_seg.inference.match_gsd import check_compatible, choose_run_grid
from aerial_seg.inference.memory import choose_batch
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.inference.tile_choice import choose_tile
from aerial_seg.inference.tta import run_sides
from aerial_seg.jobs.predict.checks import (
    check_area_settings,
    check_extras,
    check_outputs,
    check_vectors,
    named_files,
    protect,
    require_own_masks,
    scenes_of,
    usable_scenes,
)
from aerial_seg.jobs.predict.many_scenes import SceneOutcome, refused_outcome
from aerial_seg.jobs.predict.scene_list import Refusals, named_rasters
from aerial_seg.jobs.predict.scenes import PredictContext, Scene, SceneTiles
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.mentions import setting
from aerial_seg.models.device import pick_device
from aerial_seg.models.file import load_model
from aerial_seg.paths import StrPath, StrPaths, as_names, as_path, as_paths, with_device
from aerial_seg.progress import Progress
from aerial_seg.settings import chosen
from aerial_seg.tiling.plan import TilePlan, TileShape
from aerial_seg.vectors.formats import vector_format

Facts = Mapping[Path, RasterInfo]
"""What was learnt of each raster when it was opened for that, once."""


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Hold what `predict` was asked for, as it was typed; nothing of it is checked.

    models: the model files. rasters: files, folders, globs and @LIST. out: the mask, or the folder of several.
    """

    models: tuple[Path, ...]
    rasters: tuple[str, ...]
    out: Path
    settings: PredictSettings

    @classmethod
    def of(
        cls,
        model_path: StrPaths,
        rasters: StrPaths,
        out: StrPath,
        settings: PredictSettings | None = None,
        device: str = "auto",
    ) -> PredictRequest:
        """Take a job's arguments apart. Raises SettingsError for what is no path, and an empty model's name."""
        models = as_paths(model_path, "model_path")
        return cls(
            model_paths(models[0] if len(models) == 1 else models),
            as_names(rasters, "rasters"),
            as_path(out, "out"),
            with_device(chosen(settings, PredictSettings), device),
        )


@dataclass(frozen=True, slots=True)
class PredictPlan:
    """Say what a checked command does: which maps it makes, of which scenes it makes none, and how.

    many_scenes: whether each raster becomes a mask of its own in the folder `out`. refused: what became of the scenes
    that cannot be predicted. settings: with the bands in the models' order. engine, batch_size, tiles (in all maps
    together, as far as one can know): what the engine is started for. notes: what was decided on the way.
    """

    scenes: tuple[Scene, ...]
    refused: tuple[SceneOutcome, ...]
    many_scenes: bool
    out: Path
    ensemble: Ensemble
    shape: TileShape
    settings: PredictSettings
    engine: EngineSettings
    area: Area | None
    batch_size: int
    tiles: int
    notes: tuple[str, ...]

    def start(self, progress: Progress) -> PredictContext:
        """Start the engine, and return what all maps of the command share. Raises SettingsError where it cannot."""
        model = self.ensemble.as_one
        sides = run_sides(self.settings.tta, self.shape.geometry, self.shape.side)
        predictor = self.ensemble.predictor(
            settings=self.engine,
            batch_size=self.batch_size,
            side=sides,
            tiles=self.tiles,
        )
        notes = (*model.notes, *self.notes)
        return PredictContext(model, predictor, self.shape, self.settings, progress, self.area, notes)


def make_plan(request: PredictRequest, folder: Path) -> PredictPlan:
    """Check a command and plan it; no tile runs, and no output is written.

    folder: for VRTs that show map tiles in their places; lasts as long as the plan.
    Each raster is opened once for its facts. Raises AerialSegError for what keeps the whole command from working; of
    several scenes one that cannot be predicted is refused for itself.
    """
    check_extras(request.settings)
    check_area_settings(request.settings)
    refused = Refusals(fatal=request.settings.mosaic)
    paths = _find_rasters(request, refused)
    scenes = _find_scenes(paths, request, refused)
    inputs = Inputs(named_files(paths, request.rasters, request.models, request.settings))
    _check_places(scenes, inputs, request, many_scenes=not refused.fatal)
    area, ensemble = _read_area_and_models(request)
    settings = _in_model_order(request.settings, ensemble)
    facts = _look_at_all(paths, settings, refused)
    placed, facts = _in_their_places(facts, settings, folder)
    inputs.add(raster_files(facts.values()))
    if settings.vectors is not None:
        check_vectors(settings.vectors, facts[paths[0]], scenes[0], settings)
    shape, shape_notes = choose_tile(
        ensemble, tile_size=settings.tile_size, halo=settings.halo, overlap=settings.overlap
    )
    run_grids = _fitting_grids(facts, ensemble, settings, refused)
    if settings.mosaic:
        check_mosaic_scalings(list(facts.values()), ensemble.as_one.card.bands, scale=settings.scale)
    tiles = _count_tiles(facts, run_grids, shape, refused, None if settings.mosaic else area)
    engine, engine_notes = _engine_settings(settings)
    batch_size, notes = _batch_size(ensemble, shape, settings, engine, scenes)
    return PredictPlan(
        scenes=tuple(
            _with_tiles(_with_grids(scene, facts, run_grids), facts, placed, folder)
            for scene in scenes
            if scene.name not in refused.reasons
        ),
        refused=tuple(refused_outcome(name, error) for name, error in refused.reasons.items()),
        many_scenes=not refused.fatal,
        out=request.out,
        ensemble=ensemble,
        shape=shape,
        settings=settings,
        engine=engine,
        area=area,
        batch_size=batch_size,
        tiles=tiles,
        notes=(*placed.notes, *shape_notes, *engine_notes, *notes),
    )


def _find_rasters(request: PredictRequest, refused: Refusals) -> tuple[Path, ...]:
    """The rasters that are there; what is wrong with one is fatal unless there are several that are no mosaic."""
    paths = named_rasters(request.rasters, refused)
    if len(paths) + len(refused.reasons) == 1:
        refused.fatal = True
        for error in refused.reasons.values():
            raise error
    return paths


def _find_scenes(paths: Sequence[Path], request: PredictRequest, refused: Refusals) -> tuple[Scene, ...]:
    """The maps to make, but for those whose names cannot be used."""
    scenes = scenes_of(paths, request.out, many_scenes=not refused.fatal)
    return scenes if refused.fatal else usable_scenes(scenes, request.out, refused)


def _check_places(
    scenes: Sequence[Scene], inputs: Inputs, request: PredictRequest, *, many_scenes: bool
) -> None:
    """Raises OutputError unless every result may be written where it is to lie."""
    check_outputs(scenes, request.out, request.settings, many_scenes=many_scenes)
    protect(inputs, scenes, request.settings)
    if many_scenes:
        # --overwrite names the folder, not each file in it.
        require_own_masks(scenes)
        if request.settings.vectors is not None:
            raise SettingsError(
                f"{setting('vectors')} names one file for {len(scenes)} masks; pass {setting('mosaic', True)}, or "
                "vectorize each mask afterwards"
            )
    elif request.settings.vectors is not None:
        vector_format(request.settings.vectors)


def _read_area_and_models(request: PredictRequest) -> tuple[Area | None, Ensemble]:
    """Raises ChangedError where somebody wrote to one of the files, or to what is stacked, while it was read."""
    settings = request.settings
    named = [] if settings.aoi is None else [area_file(settings.aoi)]
    read_whole = Unchanged([*settings.bands.stack, *request.models, *named])
    area = _find_area(settings)
    ensemble = Ensemble.of([load_model(path) for path in request.models], request.models)
    read_whole.check()
    return area, ensemble


def _find_area(settings: PredictSettings) -> Area | None:
    """The ground to predict; None for all of it."""
    if settings.aoi is not None:
        return read_area(settings.aoi, layer=settings.aoi_layer, crs=settings.aoi_crs)
    return None if settings.bounds is None else area_of_bounds(settings.bounds)


def _in_model_order(settings: PredictSettings, ensemble: Ensemble) -> PredictSettings:
    names = [band.name for band in ensemble.as_one.card.bands]
    return replace(settings, bands=settings.bands.ordered(names))


def _look_at_all(paths: Sequence[Path], settings: PredictSettings, refused: Refusals) -> Facts:
    """The facts of every raster, as far as the chosen bands go, from opening it once."""
    check_stack(len(paths), settings.bands)
    facts: dict[Path, RasterInfo] = {}
    for path in paths:
        with refused.of(path):
            facts[path] = _look_at(path, settings)
    if settings.mosaic:
        check_mosaic_bands(list(facts.values()), settings.bands)
    return facts


def _in_their_places(facts: Facts, settings: PredictSettings, folder: Path) -> tuple[Placed, Facts]:
    """The same rasters; map tiles without CRS have that of their names."""
    placing = Placing(settings.map_tiles, settings.georeferenced, settings.bands)
    placed = place_tiles(list(facts.values()), placing, folder)
    return placed, dict(zip(facts, placed.infos, strict=True))


def _with_tiles(scene: Scene, facts: Facts, placed: Placed, folder: Path) -> Scene:
    """The scene with what shows its map tiles in their places."""
    if placed.rows is None:
        return scene
    opened = dict(zip(facts, placed.opened_as, strict=True))
    infos = [facts[path] for path in scene.paths]
    opened_as = tuple(opened[path] for path in scene.paths)
    names = [info.path for info in infos]
    files = tuple(file for info in infos for file in info.files)
    return replace(
        scene, tiles=SceneTiles(opened_as, drafts_of(names, opened_as, folder), files, placed.rows)
    )


def _look_at(path: Path, settings: PredictSettings) -> RasterInfo:
    """The facts of a raster. Raises InputError where it is none, or claims pixels and holds none."""
    with Raster(path, nodata=settings.nodata, georeferenced=False, choice=settings.bands) as raster:
        raster.measured_extent()
        return raster.info


def _fitting_grids(
    facts: Facts, ensemble: Ensemble, settings: PredictSettings, refused: Refusals
) -> Mapping[Path, Grid]:
    """The grid on which the network sees each raster that the model can run on; the others are refused."""
    card = ensemble.as_one.card
    found: dict[Path, Grid] = {}
    for path, info in facts.items():
        if str(path) in refused.reasons:
            continue
        with refused.of(path):
            check_compatible(
                info,
                card,
                georeferenced=settings.georeferenced,
                choice=settings.bands,
                scale=settings.scale,
            )
            found[path] = choose_run_grid(
                info.grid,
                card.gsd,
                settings.force_gsd,
                info.path,
                georeferenced=settings.georeferenced,
            )
    return found


def _count_tiles(
    facts: Facts,
    run_grids: Mapping[Path, Grid],
    shape: TileShape,
    refused: Refusals,
    area: Area | None,
) -> int:
    """How many tiles all rasters have in the area, as far as one can know; those outside of it are refused."""
    tiles = 0
    for path, grid in run_grids.items():
        with refused.of(path):
            tiles += _tiles_of(
                facts[path], TilePlan.of(height=grid.height, width=grid.width, shape=shape), area
            )
    return tiles


def _tiles_of(info: RasterInfo, plan: TilePlan, area: Area | None) -> int:
    if area is None:
        return len(plan)
    height, width = info.grid.shape
    here = area.on(info.grid, info.path)
    rows, cols = here.extent.rows, here.extent.cols
    region = Region(rows.start, cols, rows.stop)
    return RegionTiles(plan, region, height=height, width=width, area=here).tiles_wanted


def _with_grids(scene: Scene, facts: Facts, run_grids: Mapping[Path, Grid]) -> Scene:
    """The scene with what is known of its raster's grids; a mosaic has one of its own."""
    (path, *others) = scene.paths
    return scene if others else replace(scene, looked=(facts[path].grid, run_grids[path]))


def _engine_settings(settings: PredictSettings) -> tuple[EngineSettings, Sequence[str]]:
    """What the network is run with, and what to say about it."""
    engine = settings.engine_settings
    return (engine, ()) if settings.crf is None else carrier_beside_crf(engine, pick_device(settings.device))


def _batch_size(
    ensemble: Ensemble,
    shape: TileShape,
    settings: PredictSettings,
    engine: EngineSettings,
    scenes: Sequence[Scene],
) -> tuple[int, tuple[str, ...]]:
    """The batch size, and what to say about it."""
    return choose_batch(
        settings.batch_size,
        ensemble.as_one.card.prediction.batch_size,
        side=max(run_sides(settings.tta, shape.geometry, shape.side)),
        engine=engine,
        max_memory=settings.max_memory,
        before=lambda: None if settings.restart else _batch_size_before(scenes),
    )


def _batch_size_before(scenes: Sequence[Scene]) -> int | None:
    """That of an interrupted run of these scenes; None where there is none, or its journal tells none."""
    for scene in scenes:
        job = None
        with suppress(DamagedJournalError):  # told when its own turn comes
            job = read_job(work_folder(scene.target) / NAME)
        if job is not None:
            runtime = job.get("runtime")
            size = runtime.get("batch_size") if isinstance(runtime, dict) else None
            return size if isinstance(size, int) and size > 0 else None
    return None
