"""The maps of one command: which rasters, how they are read, and what all of them share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aerial_seg.geo.areas.area import Area
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.map_tiles.drafts import MOSAIC, as_told, drafts_of, telling_rasters
from aerial_seg.geo.raster.mosaic import write_mosaic
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.values.scaling import tagged_notes
from aerial_seg.geo.systems import local_note
from aerial_seg.inference.match_bands import check_bands, palette_notes, scene_notes, unnamed_notes
from aerial_seg.inference.match_gsd import choose_run_grid
from aerial_seg.inference.predictor import TilePredictor
from aerial_seg.inference.tta import size_notes
from aerial_seg.jobs.predict.memory import MemoryModel
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.models.file import TrainedModel
from aerial_seg.progress import Progress
from aerial_seg.tiling.plan import TilePlan, TileShape


@dataclass(frozen=True, slots=True)
class SceneTiles:
    """Hold what shows a scene's map tiles in their places.

    opened_as: VRTs, as long as the command lasts. drafts: what messages call these. files: that the tiles are read
    from. rows: how their rows count.
    """

    opened_as: tuple[Path, ...]
    drafts: Mapping[str, str]
    files: tuple[str, ...]
    rows: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Name one map to make: its rasters, bottom first, and its mask.

    looked: of a single raster its own grid and the run's, as they were when the command was planned. tiles: of map
    tiles what shows each in its place.
    """

    paths: tuple[Path, ...]
    target: Path
    looked: tuple[Grid, Grid] | None = None
    tiles: SceneTiles | None = None

    @property
    def opened_as(self) -> tuple[Path, ...]:
        """What is opened for each raster."""
        return self.paths if self.tiles is None else self.tiles.opened_as

    @property
    def name(self) -> str:
        """For messages and reports."""
        return str(self.paths[0]) if len(self.paths) == 1 else f"{len(self.paths)} rasters"


@dataclass(frozen=True, slots=True)
class PredictContext:
    """Hold everything that the maps of one command share.

    area: the ground to predict, None for all of it. notes: what was decided before any raster was opened.
    """

    model: TrainedModel
    predictor: TilePredictor
    shape: TileShape
    settings: PredictSettings
    progress: Progress
    area: Area | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenScene:
    """Hold an opened scene: read on the run's grid, and on its own; one and the same where that is one grid.

    tags: what each of its rasters says of itself, for the STAC Item; empty where none is asked for. files: that they
    are read from.
    """

    raster: Raster
    source: Raster
    memory_model: MemoryModel
    notes: tuple[str, ...]
    tags: tuple[Mapping[str, str], ...] = ()
    files: tuple[str, ...] = ()

    @property
    def resampled(self) -> bool:
        """Whether the network sees another grid than the raster's."""
        return self.raster.grid.shape != self.source.grid.shape


def all_notes(opened: OpenScene, context: PredictContext) -> tuple[str, ...]:
    """List all that was decided for a map and why, as far as it is known by now."""
    tile_sizes = size_notes(context.settings.tta, context.shape.geometry, context.shape.side)
    return (*opened.notes, *context.notes, *context.predictor.notes, *tile_sizes)


@contextmanager
def open_scene(scene: Scene, context: PredictContext, folder: Path) -> Iterator[OpenScene]:
    """Open the scene's raster, or the mosaic of its rasters as a VRT in `folder`."""
    drafts = {} if scene.tiles is None else dict(scene.tiles.drafts)
    if len(scene.paths) > 1:
        drafts |= drafts_of(list(map(str, scene.paths)), scene.opened_as, folder)
    with telling_rasters(drafts), _opened(scene, context, folder) as opened:
        notes = tuple(as_told(note, drafts) for note in opened.notes)
        files = opened.files if scene.tiles is None else scene.tiles.files
        yield replace(opened, notes=notes, files=files)


@contextmanager
def _opened(scene: Scene, context: PredictContext, folder: Path) -> Iterator[OpenScene]:
    settings, card = context.settings, context.model.card
    path, nodata, scale = scene.opened_as[0], settings.nodata, settings.scale
    notes: tuple[str, ...] = ()
    tags: tuple[Mapping[str, str], ...] = ()
    if len(scene.paths) > 1:
        wanted = [band.scaled for band in card.bands] if scale == "auto" else []
        mosaic = write_mosaic(scene.opened_as, folder / MOSAIC, nodata, wanted)
        path, tags, nodata = mosaic.path, mosaic.tags, mosaic.nodata
        scale = "off" if mosaic.is_scaled else scale
        notes = (f"{mosaic.sources} rasters as one, moved by at most {mosaic.largest_shift:.2f} px",)
        if mosaic.is_scaled:
            notes += (
                f"scale and offset of each of the {mosaic.sources} rasters are applied, as in training",
            )
        elif not any(wanted) and settings.scale == "auto":
            notes += tuple(tagged_notes(mosaic.tagged))
    with ExitStack() as opened:

        def opened_once() -> Raster:
            return opened.enter_context(
                Raster(
                    path,
                    nodata=nodata,
                    georeferenced=settings.georeferenced,
                    choice=settings.bands,
                    all_cores=True,
                )
            )

        source = opened_once()
        grid = source.grid
        run_grid = _run_grid(scene, grid, context)
        # A second handle only where both grids are read at the same time, by two threads.
        raster = source if run_grid is grid and settings.crf is None else opened_once()
        # Before it is resampled, should it be one and the same.
        extent = source.measured_extent()
        raster.resample(run_grid)
        scaled = check_bands(source.info, card.bands, settings.bands, scale=scale)
        for one in {raster, source}:
            one.scale(scaled)
        here = None if context.area is None else context.area.on(grid, scene.name)
        memory_model = MemoryModel(
            raster=raster,
            plan=TilePlan.of(height=raster.grid.height, width=raster.grid.width, shape=context.shape),
            height=grid.height,
            width=grid.width,
            classes=len(card.legend),
            layers=settings.layers(len(card.legend)),
            batch_size=context.predictor.batch_size,
            planes=context.predictor.planes,
            largest_side=context.predictor.largest_side,
            carrier=context.predictor.carrier,
            device=context.predictor.device,
            crf=settings.definition.crf,
            area=here,
            extent=(extent if here is None else here.extent.shared(extent)).in_blocks(*grid.shape),
        )
        notes = (
            *notes,
            *local_note(grid.crs, scene.name),
            *palette_notes(source.info),
            *unnamed_notes(source.info, card.bands, settings.bands),
            *scene_notes(source, card.bands),
            *_tag_notes(source, settings),
        )
        if settings.stac:
            tags = tags or (source.tags,)
        notes = (*notes, *_area_notes(context.area, memory_model))
        yield OpenScene(raster, source, memory_model, notes, tags, source.files)


def _tag_notes(source: Raster, settings: PredictSettings) -> list[str]:
    """What tags alone say of numbers that are taken as stored."""
    if any(source.scaled) or settings.scale == "off":
        return []
    return tagged_notes([(source.info.path, source.info.tagged)])


def _run_grid(scene: Scene, grid: Grid, context: PredictContext) -> Grid:
    """The grid that the network sees: the one of the plan, unless the raster has got another grid since."""
    if scene.looked is not None and scene.looked[0] == grid:
        own, run = scene.looked
        return grid if run is own else run
    settings = context.settings
    return choose_run_grid(
        grid,
        context.model.card.gsd,
        settings.force_gsd,
        str(scene.paths[0]),
        georeferenced=settings.georeferenced,
    )


def _area_notes(area: Area | None, memory_model: MemoryModel) -> tuple[str, ...]:
    if area is None or memory_model.area is None:
        return ()
    share = memory_model.area.pixels / (memory_model.height * memory_model.width)
    return (*area.notes, f"{area.name}: about {share:.2%} of the raster; nodata outside of it")
