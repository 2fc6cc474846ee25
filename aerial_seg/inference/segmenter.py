"""A model in memory: an image in, its classes out, without a file in between."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from os import PathLike
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from aerial_seg.choices import BatchSize, CarrierName, EngineName, PrecisionName
from aerial_seg.crf.dense import check_crf_installed
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.disk import human_bytes
from aerial_seg.files.protect import Inputs
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.remote import public_name
from aerial_seg.geo.systems import local_note
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.device.either import open_stream
from aerial_seg.inference.engines.choose import EngineSettings, carrier_beside_crf
from aerial_seg.inference.ensemble import Ensemble, model_paths
from aerial_seg.inference.images.image_input import Said, open_image
from aerial_seg.inference.match_bands import palette_notes, scene_notes
from aerial_seg.inference.match_gsd import choose_run_grid
from aerial_seg.inference.memory import (
    choose_batch,
    forward_least,
    lattice_bytes,
    resident_bytes,
    tiles_bytes,
)
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.inference.segmentation import Segmentation
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.inference.tile_choice import choose_tile
from aerial_seg.inference.tta import run_sides, size_notes
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.models.device import pick_device
from aerial_seg.models.file import load_model
from aerial_seg.models.network import Network
from aerial_seg.paths import as_paths
from aerial_seg.progress import silent
from aerial_seg.settings import chosen, fitted
from aerial_seg.tiling.plan import TilePlan

Bytes = NDArray[np.uint8]
Name = str | PathLike[str]


def load(
    model: Name | Sequence[Name],
    device: str = "auto",
    *,
    engine: EngineName = "auto",
    precision: PrecisionName = "auto",
    carrier: CarrierName = "auto",
    batch_size: int | None = None,
    settings: SegmentSettings | None = None,
    network: Network | None = None,
) -> Segmenter:
    """Load a model file, or several whose class probabilities are averaged, ready to be called on images.

    device, engine, precision, carrier and batch_size mean what they mean for `predict`, but that engine "auto" compiles
    nothing: how many tiles will come is not known. batch_size: None takes the model's, or on a GPU what keeps
    that at work; 1 answers soonest where one tile holds the image. network: a new one of the class that was trained,
    for a model file of one's own network. Raises InputError for a file that is no model of ours, and SettingsError for
    what the machine cannot do.
    """
    wanted, batch_size = chosen(settings, SegmentSettings), fitted("batch_size", BatchSize, batch_size)
    paths = [path for one in as_paths(model, "model") for path in model_paths(one)]
    if not paths:
        raise SettingsError("model is an empty list, wanted a model file (.safetensors), or several")
    if network is not None and len(paths) > 1:
        raise SettingsError(f"network is one, and model names {len(paths)} files; load each by itself")
    ensemble = Ensemble.of([load_model(path, network) for path in paths], paths)
    # Of 8-bit weights auto means their own engine.
    compiles_nothing = engine == "auto" and not any(one.eight_bits for one in ensemble.models)
    return Segmenter(
        ensemble,
        wanted,
        EngineSettings("eager" if compiles_nothing else engine, precision, device, carrier),
        batch_size=batch_size,
    )


class Segmenter:
    """Answer for images in memory which class every pixel has, by one model or several as one; made by `load`.

    For one engine, precision, carrier, batch size and number of threads it gives the same bits as `predict` gives of a
    file with the same pixels: images are tiled, mirrored at their borders and blended alike.
    """

    def __init__(
        self, models: Ensemble, settings: SegmentSettings, engine: EngineSettings, *, batch_size: int | None
    ) -> None:
        """Raises SettingsError: see `load`."""
        if settings.crf is not None:
            check_crf_installed()
        self._model, self._settings = models.as_one, settings
        place, told = pick_device(engine.device), list[str]()
        if settings.crf is not None:
            engine, told = carrier_beside_crf(engine, place)
        self._on_cpu = place.type == "cpu"
        self._shape, notes = choose_tile(
            models, tile_size=settings.tile_size, halo=settings.halo, overlap=settings.overlap
        )
        self._definition = settings.definition
        sides = run_sides(settings.tta, self._shape.geometry, self._shape.side)
        batch, more = choose_batch(
            batch_size,
            self._model.card.prediction.batch_size,
            side=max(sides),
            engine=engine,
            max_memory=settings.max_memory,
        )
        self._predictor = models.predictor(settings=engine, batch_size=batch, side=sides, tiles=1)
        tta = size_notes(settings.tta, self._shape.geometry, self._shape.side)
        self._notes = (*self._model.notes, *notes, *told, *more, *tta)

    @property
    def legend(self) -> Legend:
        """The classes that it tells apart."""
        return self._model.card.legend

    @property
    def bands(self) -> tuple[str, ...]:
        """The names of the bands that an image has to have, in their order."""
        return tuple(band.name for band in self._model.card.bands)

    @property
    def gsd(self) -> float | None:
        """Metres per pixel that the model was trained at; None where that is not known."""
        return self._model.card.gsd

    def __call__(
        self,
        image: Any,
        *,
        gsd: float | None = None,
        crs: Any = None,
        transform: Any = None,
        valid: Any = None,
        nodata: float | None = None,
        channels_last: bool = False,
        bands: Sequence[int] | BandChoice | None = None,
    ) -> Segmentation:
        """The classes of every pixel of the image, of any size from 1 × 1 on, on the image's own grid.

        image: a numpy array or torch tensor (C,H,W), or (H,W,C) with channels_last; an opened rasterio dataset, or
        (dataset, window); an xarray DataArray with its CRS, transform and nodata. In the model's bands and dtype.

        Of an array: gsd, metres per pixel, or crs and transform say how large its pixels are. Where that is more than
        10 % off the model's, the network sees it resampled; without any it is taken as it is, and a note says so.
        valid (H,W) bool, True = measured; nodata: a value that means "not measured" where all bands have it; what is
        not a number never counts as measured. bands: the numbers of the bands to take, from 1, or a BandChoice.

        Raises InputError for an image that the model cannot see, SettingsError for one whose result does not fit into
        memory: `predict` writes it to a file row by row.
        """
        said = Said(gsd, crs, transform, valid, nodata, channels_last, bands)
        with open_image(image, said, self._model.card.bands, self._settings.scale) as source:
            return self._segment(source, nodata=nodata)

    def _segment(self, source: Raster | ArrayRaster, *, nodata: float | None) -> Segmentation:
        card, grid, name = self._model.card, source.grid, source.info.path
        _require_size(grid, name)
        run_grid = choose_run_grid(grid, card.gsd, self._settings.force_gsd, name, georeferenced=False)
        plan = TilePlan.of(height=run_grid.height, width=run_grid.width, shape=self._shape)
        extent = source.measured_extent().in_blocks(*grid.shape)
        region_tiles = RegionTiles(
            plan,
            Region(extent.rows.start, extent.cols, extent.rows.stop),
            height=grid.height,
            width=grid.width,
            crf=self._definition.crf,
        )
        self._require_room(source, region_tiles, grid, run_grid)
        notes = (
            *self._notes,
            *self._size_notes(grid, run_grid),
            *local_note(grid.crs, name),
            *palette_notes(source.info),
            *scene_notes(source, card.bands),
        )
        layers = _Layers(grid, extent, self._definition, classes=len(card.legend))
        with ExitStack() as stack:
            self._run(self._on(run_grid, source, stack), source, region_tiles, layers)
        return Segmentation(
            classes=layers.classes,
            legend=card.legend,
            grid=grid,
            confidence=layers.confidence,
            probabilities=layers.probabilities,
            notes=(*notes, *self._predictor.notes),
            facts=self._definition.facts(
                self._model,
                self._shape,
                sources=[public_name(name)] if isinstance(source, Raster) else [],
                nodata=nodata,
            ),
            inputs=Inputs(source.files) if source.files else None,
        )

    def _on(self, grid: Grid, source: Raster | ArrayRaster, stack: ExitStack) -> Raster | ArrayRaster:
        """The image as the network sees it."""
        if isinstance(source, ArrayRaster):
            return source if grid is source.grid else stack.enter_context(source.resampled(grid))
        if grid is source.grid and self._definition.crf is None:
            return source
        # Both grids are read at the same time, by two threads.
        raster = stack.enter_context(source.another())
        raster.resample(grid)
        return raster

    def _run(
        self,
        raster: Raster | ArrayRaster,
        source: Raster | ArrayRaster,
        region_tiles: RegionTiles,
        layers: _Layers,
    ) -> None:
        """The layers hold the region_tiles's rows."""
        card = self._model.card
        with open_stream(
            raster,
            source,
            region_tiles,
            self._predictor,
            self._definition,
            bands=card.bands,
            legend=card.legend,
        ) as stream:
            for rows in stream.rows(silent("", total=0, unit="tile")):
                layers.keep(rows.start, rows.layers)

    def _size_notes(self, grid: Grid, run_grid: Grid) -> tuple[str, ...]:
        trained = self._model.card.gsd
        if run_grid is not grid:
            return (f"resampled to the model's {trained:.3g} m for the network",)
        if trained is None or grid.crs is not None:
            return ()
        return (
            f"how large the image's pixels are is not known, so it was not resampled: the model was trained at "
            f"{trained:.3g} m per pixel; pass gsd (metres per pixel), or crs and transform, where that differs",
        )

    def _require_room(
        self, source: Raster | ArrayRaster, region_tiles: RegionTiles, grid: Grid, run_grid: Grid
    ) -> None:
        """Raises SettingsError where the result and the work on it would not fit into memory, before any work."""
        wanted, count = self._definition, len(self.legend)
        result = grid.height * grid.width * (1 + wanted.confidence + count * wanted.probabilities)
        batch, side = self._predictor.batch_size, self._predictor.largest_side
        work = lattice_bytes(region_tiles, count) + tiles_bytes(
            region_tiles, batch_size=batch, side=side, planes=self._predictor.planes, classes=count
        )
        if self._on_cpu:
            work += forward_least(batch, side)
        if isinstance(source, ArrayRaster) and run_grid is not grid:
            pixel = len(source.info.bands) * np.dtype(source.info.dtype).itemsize
            work += grid.height * grid.width * pixel  # for GDAL to resample
        limit = self._settings.max_memory
        left = psutil.virtual_memory().available if limit is None else limit - resident_bytes()
        if result + work > left:
            whose = "memory" if limit is None else "max_memory"
            raise SettingsError(
                f"the classes of {grid.width:,} × {grid.height:,} pixels take {human_bytes(result)} and the work on "
                f"them {human_bytes(work)}, wanted at most the {human_bytes(max(0, left))} that {whose} leaves; use "
                "aerial_seg.predict, which writes finished rows to a file, or cut the image"
            )


def _require_size(grid: Grid, name: str) -> None:
    """Raises InputError, naming the image, where its CRS gives its pixels no size on the ground."""
    try:
        grid.gsd()
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


class _Layers:
    """The arrays of a result, filled from north to south; around the extent all is nodata."""

    def __init__(self, grid: Grid, extent: Extent, definition: Definition, *, classes: int) -> None:
        height, width = grid.shape
        make = np.empty if extent.pixels == height * width else _unmeasured
        self.classes: Bytes = make((height, width), np.uint8)
        self.confidence: Bytes | None = make((height, width), np.uint8) if definition.confidence else None
        self.probabilities: Bytes | None = (
            make((classes, height, width), np.uint8) if definition.probabilities else None
        )
        self._cols = slice(extent.cols.start, extent.cols.stop)

    def keep(self, start: int, layers: Any) -> None:
        """Rows from `start` on are what these layers hold."""
        for name, kept in (
            ("class", self.classes),
            ("confidence", self.confidence),
            ("probabilities", self.probabilities),
        ):
            if kept is not None:
                values = layers[name]
                kept[..., start : start + values.shape[-2], self._cols] = values


def _unmeasured(shape: tuple[int, ...], dtype: type) -> Bytes:
    return np.full(shape, IGNORE, dtype)
