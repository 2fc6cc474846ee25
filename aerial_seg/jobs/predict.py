"""predict: a model file and rasters in, georeferenced masks (and polygons) out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.inputs import expand_rasters
from aerial_seg.geo.mask import MaskWriter, provenance
from aerial_seg.geo.mosaic import write_mosaic
from aerial_seg.geo.raster import Raster, RasterInfo, raster_info, require_crs
from aerial_seg.geo.vectors import check_output
from aerial_seg.jobs.stream import MaskStream
from aerial_seg.jobs.vectorize import VectorizeReport, VectorizeSettings, vectorize
from aerial_seg.legend import IGNORE
from aerial_seg.models.device import pick_device
from aerial_seg.models.file import ModelCard, TrainedModel, load_model
from aerial_seg.models.predictor import Predictor
from aerial_seg.outputs import check_writable, staged_files
from aerial_seg.progress import Progress, silent
from aerial_seg.tiling.plan import TilePlan, TileShape, tile_shape
from aerial_seg.version import __version__

GSD_TOLERANCE = 0.1
"""A raster's GSD may differ this much from the model's before it is resampled."""
GSD_LIMIT = 4.0
"""Beyond this factor the objects no longer look like those the model learnt."""


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """How to predict; None takes what the model file says.

    vectors: also write the polygons of the mask there. mosaic: all rasters become one map. nodata: a value that
    means "not measured" where all bands have it. georeferenced: False allows rasters without CRS. force_gsd:
    resample even beyond a factor of 4.
    """

    tile_size: int | None = None
    halo: int | None = None
    overlap: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    vectors: Path | None = None
    nodata: float | None = None
    mosaic: bool = False
    georeferenced: bool = True
    force_gsd: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class PredictReport:
    """One mask.

    class_pixels: by class name. nodata_pixels: not measured. resampled_to: the run's GSD where it is not the
    raster's. vectors: what was written of the polygons, if they were asked for.
    """

    mask: Path
    source: str
    height: int
    width: int
    tiles: int
    tiles_skipped: int
    class_pixels: dict[str, int]
    nodata_pixels: int
    resampled_to: float | None
    notes: tuple[str, ...] = ()
    vectors: VectorizeReport | None = None


def predict(
    model_path: Path,
    rasters: Sequence[str],
    out: Path,
    settings: PredictSettings,
    progress: Progress = silent,
) -> tuple[PredictReport, ...]:
    """`out` is the mask of one raster or mosaic; of several rasters it is a folder with NAME_mask.tif each.

    Every mask is a COG on its raster's own grid, 255 where nothing was measured, with .qml and .aux.xml beside it.
    Raises AerialSegError before any tile runs when model and raster do not fit together.
    """
    paths = expand_rasters(rasters)
    several = len(paths) > 1 and not settings.mosaic
    targets = _targets(paths, out, several)
    for target in targets:
        check_writable(target, overwrite=settings.overwrite)
    infos = [raster_info(path) for path in paths]
    if settings.vectors is not None:
        if several:
            raise SettingsError(
                f"--vectors names one file for {len(paths)} masks; pass --mosaic, or vectorize each mask afterwards"
            )
        check_output(settings.vectors, crs=infos[0].grid.crs, overwrite=settings.overwrite)
    model = load_model(model_path)
    for info in infos:
        _check_fit(info, model.card, settings)
    shape = _shape(model, settings)
    predictor = Predictor(
        model,
        device=pick_device(settings.device),
        batch_size=settings.batch_size or model.card.prediction.batch_size,
    )
    groups = [[path] for path in paths] if several else [list(paths)]
    reports = tuple(
        _predict_one(group, target, model, predictor, shape, settings=settings, progress=progress)
        for group, target in zip(groups, targets, strict=True)
    )
    if settings.vectors is None:
        return reports
    polygons = VectorizeSettings(overwrite=settings.overwrite)
    vectors = vectorize(reports[0].mask, settings.vectors, polygons, progress)
    return (replace(reports[0], vectors=vectors),)


def _targets(paths: Sequence[Path], out: Path, several: bool) -> list[Path]:
    if not several:
        if out.suffix.lower() not in (".tif", ".tiff"):
            raise OutputError(
                f"the mask {out} is a GeoTIFF, wanted a name that ends in .tif; rename the output"
            )
        if out.resolve() in (path.resolve() for path in paths):
            raise OutputError(f"{out} is one of the rasters to predict; give the mask another name")
        return [out]
    if out.suffix:
        raise SettingsError(
            f"{len(paths)} rasters but one output {out}; pass --mosaic to make one map of them, "
            "or give -o a folder for one mask each"
        )
    targets = [out / f"{path.stem}_mask.tif" for path in paths]
    if len(set(targets)) < len(targets):
        raise SettingsError("two rasters have the same file name; predict them into different folders")
    return targets


def _shape(model: TrainedModel, settings: PredictSettings) -> TileShape:
    wanted = model.card.prediction
    changed = settings.tile_size is not None
    return tile_shape(
        model.network.geometry,
        settings.tile_size or wanted.tile_size,
        halo=settings.halo if settings.halo is not None or changed else wanted.halo,
        overlap=settings.overlap if settings.overlap is not None or changed else wanted.overlap,
    )


def _predict_one(
    paths: list[Path],
    target: Path,
    model: TrainedModel,
    predictor: Predictor,
    shape: TileShape,
    *,
    settings: PredictSettings,
    progress: Progress,
) -> PredictReport:
    with staged_files(target, overwrite=settings.overwrite) as work, ExitStack() as opened:
        notes: list[str] = []
        source_path = paths[0]
        if len(paths) > 1:
            mosaic = write_mosaic(paths, work / "mosaic.vrt")
            source_path = mosaic.path
            notes.append(f"{mosaic.sources} rasters as one, moved by at most {mosaic.largest_shift:.2f} px")
        source, raster = (
            opened.enter_context(
                Raster(source_path, nodata=settings.nodata, georeferenced=settings.georeferenced)
            )
            for _ in range(2)
        )
        run_grid = choose_run_grid(raster.grid, model.card.gsd, settings.force_gsd, str(paths[0]))
        raster.resample(run_grid)
        plan = TilePlan.of(height=run_grid.height, width=run_grid.width, shape=shape)
        stream = MaskStream(raster, source, plan, predictor, model.card)
        counts = np.zeros(256, np.int64)
        tags = _tags(paths, model, shape, settings)
        with (
            MaskWriter(work, target.name, grid=source.grid, legend=model.card.legend, tags=tags) as writer,
            progress(f"predict {target.name}", total=len(plan), unit="tile") as bar,
        ):
            for start, rows in stream.rows(bar):
                writer.write(start, rows)
                counts += np.bincount(rows.ravel(), minlength=256)
            writer.finish()
        (work / "mosaic.vrt").unlink(missing_ok=True)
        resampled = run_grid.shape != source.grid.shape
        return PredictReport(
            mask=target,
            source=str(paths[0]) if len(paths) == 1 else f"{len(paths)} rasters",
            height=source.grid.height,
            width=source.grid.width,
            tiles=stream.tiles.run,
            tiles_skipped=stream.tiles.skipped,
            class_pixels={entry.name: int(counts[entry.value]) for entry in model.card.legend.entries},
            nodata_pixels=int(counts[IGNORE]),
            resampled_to=model.card.gsd if resampled else None,
            notes=tuple(notes),
        )


def _check_fit(info: RasterInfo, card: ModelCard, settings: PredictSettings) -> None:
    """Raises InputError unless the model can run on this raster: georeference, bands, dtype, pixel size."""
    if settings.georeferenced:
        require_crs(info)
    _check_bands(info, card)
    choose_run_grid(info.grid, card.gsd, settings.force_gsd, info.path)


def _check_bands(info: RasterInfo, card: ModelCard) -> None:
    model = ", ".join(f"{band.name} {band.dtype}" for band in card.bands)
    raster = ", ".join(f"{band} {info.dtype}" for band in info.names)
    if len(info.bands) != len(card.bands):
        raise InputError(
            f"{info.path} has {len(info.bands)} bands ({raster}), but the model was trained on "
            f"{len(card.bands)} ({model}); pick the same bands (gdal_translate -b …) or train a model on these"
        )
    if info.dtype != card.bands[0].dtype:
        raise InputError(
            f"{info.path} holds {info.dtype}, but the model was trained on {card.bands[0].dtype} ({model}); "
            "convert the raster to the same units (gdal_translate -ot … -scale …) or train a model on these"
        )


def choose_run_grid(grid: Grid, model_gsd: float | None, force: bool, name: str) -> Grid:
    """The grid the network sees: the raster's own within 10 % of the model's GSD, else the same ground at it.

    Raises InputError beyond a factor of 4 unless forced.
    """
    gsd = grid.gsd()
    if gsd is None or model_gsd is None:
        return grid
    ratios = [metres / model_gsd for metres in gsd]
    if all(abs(ratio - 1) <= GSD_TOLERANCE for ratio in ratios):
        return grid
    factor = max(max(ratio, 1 / ratio) for ratio in ratios)
    if factor > GSD_LIMIT and not force:
        raise InputError(
            f"{name} has a GSD of {gsd[1]:.3g} m, but the model was trained at {model_gsd:.3g} m, {factor:.1f} times "
            "apart; use imagery of a similar GSD, or pass --force-gsd to resample all the same"
        )
    return grid.at_gsd(model_gsd)


def _tags(
    paths: list[Path], model: TrainedModel, shape: TileShape, settings: PredictSettings
) -> dict[str, str]:
    """Provenance; no times and no execution settings, so that equal work gives equal bytes."""
    return provenance(
        version=__version__,
        model_sha256=model.sha256,
        sources=[path.name for path in paths],
        model_gsd=model.card.gsd,
        parameters={
            "tile_size": shape.side,
            "halo": shape.halo,
            "overlap": shape.overlap,
            "nodata": settings.nodata,
            "class_bias": model.card.class_bias,
        },
    )
