"""What `predict` can be told, and what it tells back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aerial_seg.choices import (
    BatchSize,
    Device,
    Georeferenced,
    MapTiles,
    MemoryLimit,
    ModelTile,
    NetworkCarrier,
    NetworkEngine,
    NetworkPrecision,
    Nodata,
    Overwrite,
    Restart,
    Scale,
)
from aerial_seg.geo.raster.band_choice import ALL_BANDS, Bands
from aerial_seg.inference.settings import (
    Augmentations,
    Crf,
    DefinesResult,
    ForceGsd,
    TileBlend,
    TileHalo,
    TileOverlap,
    TileWindow,
)
from aerial_seg.settings import Setting, settings

if TYPE_CHECKING:
    from aerial_seg.inference.engines.choose import EngineSettings
    from aerial_seg.outputs.segments import Layer
    from aerial_seg.vectors.from_mask.settings import VectorizeReport


def _check_taken(text: str) -> None:
    from aerial_seg.outputs.acquisition import parse_taken

    parse_taken(text)


@settings
@dataclass(frozen=True, slots=True)
class PredictSettings(DefinesResult):
    """Say how to predict; None takes what the model file says.

    The settings from batch_size on say how the result is made, the others what it is.
    """

    vectors: Annotated[
        Path | None, Setting("Also write polygons: .gpkg, .shp or .geojson.", metavar="FILE")
    ] = None
    mosaic: Annotated[bool, Setting("Predict all rasters as one map; later ones lie on top.")] = False
    map_tiles: MapTiles = "auto"
    aoi: Annotated[
        str | None,
        Setting(
            "Predict only what the polygons of this vector file cover. The mask keeps the raster's grid and is nodata "
            "outside; tiles outside do not run.",
            file=True,
            metavar="FILE",
        ),
    ] = None
    aoi_layer: Annotated[
        str | None,
        Setting("Layer of that file, if it holds several; as FILE|layername=NAME.", metavar="NAME"),
    ] = None
    aoi_crs: Annotated[str | None, Setting("CRS of such a file that carries none.", metavar="EPSG:CODE")] = (
        None
    )
    bounds: Annotated[
        tuple[float, float, float, float] | None,
        Setting(
            "The same for a box in the raster's CRS.", wanted="west, south, east and north", metavar="W S E N"
        ),
    ] = None
    tile_size: ModelTile = None
    overlap: TileOverlap = None
    halo: TileHalo = None
    window: TileWindow = "linear"
    blend: TileBlend = "logits"
    tta: Augmentations = ()
    crf: Crf = None
    confidence: Annotated[
        bool, Setting("Also write OUT_confidence.tif: probability of the class that won.")
    ] = False
    probabilities: Annotated[
        bool,
        Setting(
            "Also write OUT_probabilities.tif: one band per class. A calibrated threshold is in them: the mask is the "
            "class with the largest, so of two classes 0.5 is where it turns."
        ),
    ] = False
    stac: Annotated[bool, Setting("Also write OUT.json: a STAC Item with place, classes and provenance.")] = (
        False
    )
    taken: Annotated[
        str | None,
        Setting(
            "When the imagery was taken, for the STAC Item: 2024-05-03T10:00:00Z, or the first and the last time with "
            "a slash between. Default: what the raster's tags tell, else when its file was written; the Item says "
            "which.",
            check=_check_taken,
            flag="--datetime",
            metavar="TIME[/TIME]",
        ),
    ] = None
    force_gsd: ForceGsd = False
    bands: Bands = ALL_BANDS
    nodata: Nodata = None
    scale: Scale = "auto"
    georeferenced: Georeferenced = True
    batch_size: BatchSize = None
    engine: NetworkEngine = "auto"
    precision: NetworkPrecision = "auto"
    carrier: NetworkCarrier = "auto"
    max_memory: MemoryLimit = None
    device: Device = "auto"
    restart: Restart = False
    overwrite: Overwrite = False

    @property
    def engine_settings(self) -> EngineSettings:
        """What the predictor has to know of it."""
        from aerial_seg.inference.engines.choose import EngineSettings

        return EngineSettings(
            engine=self.engine, precision=self.precision, device=self.device, carrier=self.carrier
        )

    def layers(self, classes: int) -> tuple[Layer, ...]:
        """The rasters that are made, as pieces of finished rows hold them."""
        from aerial_seg.outputs.segments import Layer

        wanted = [Layer("class", 1)]
        if self.confidence:
            wanted.append(Layer("confidence", 1))
        if self.probabilities:
            wanted.append(Layer("probabilities", classes))
        return tuple(wanted)


@dataclass(frozen=True, slots=True)
class PredictReport:
    """Tell what was made of one map.

    files: everything that was written, the mask first. tiles: how many ran, those that a resumed or panelled run
    repeated included. class_pixels: by class name. nodata_pixels: not measured. resampled_to: the run's GSD where it
    is not the raster's. panels: column panels that the memory limit asked for. resumed_rows: rows that an earlier,
    interrupted run had finished. vectors: what was written of the polygons, if they were asked for. stage_seconds: how
    long the run that finished the map was held by each stage: reading, cutting (and normalising) tiles, the network,
    stitching, writing (waiting for the disk: pieces are written meanwhile), assembly of the files; and in total. With
    carrier `device` one stage of that name stands for cutting, network and stitching.
    """

    mask: Path
    files: tuple[Path, ...]
    source: str
    height: int
    width: int
    tiles: int
    tiles_skipped: int
    class_pixels: dict[str, int]
    nodata_pixels: int
    resampled_to: float | None
    panels: int = 1
    resumed_rows: int = 0
    notes: tuple[str, ...] = ()
    vectors: VectorizeReport | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Foretell what a prediction will take, before it starts; nothing was written.

    memory: peak bytes of the process; gpu_memory: of the GPU that the network runs on, if it does. disk: bytes that may
    be needed while the pieces and the result stand side by side. seconds: tiles times the time of one, measured on some
    batches; tiles without measured pixels are skipped, so it is an upper bound.
    """

    mask: Path
    source: str
    height: int
    width: int
    tile_size: int
    tiles: int
    panels: int
    memory: int
    disk: int
    seconds: float
    engine: str
    notes: tuple[str, ...] = ()
    gpu_memory: int | None = None
