"""What `predict` can be told, and what it tells back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aerial_seg.crf.blocks import BlockedCrf
from aerial_seg.crf.dense import DenseCrf
from aerial_seg.geo.outputs.segments import Layer
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.jobs.vectorize.settings import VectorizeReport


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """Say how to predict; None takes what the model file says.

    What the result is: tile_size, halo, overlap; window: how tiles are weighted where they overlap (linear, cosine,
    gaussian, centre); blend: logits or probabilities; tta: test-time augmentation, any of flips, rot90
    and scales=0.5:0.75:…, each at the nearest side that the network takes; crf: the probabilities go through this field
    on the raster's own grid, and all that is written is what comes out of it;
    nodata: a value that means "not measured" where all bands have it; bands: which are read, as which of
    the model's, and what is stacked on the raster; aoi: a vector file whose polygons alone are
    predicted, aoi_layer: which of its layers, aoi_crs: its CRS where it carries none; bounds: the same for a box west,
    south, east, north in the raster's CRS; the mask keeps the raster's grid and is nodata outside; mosaic: all rasters
    become one map; georeferenced: False allows rasters without CRS; force_gsd: resample even beyond a factor of 4.
    confidence, probabilities: write these rasters too; stac: write a STAC Item beside the mask; taken: when the imagery
    was, for that Item (RFC 3339, one time or FIRST/LAST); vectors: write polygons there.

    How it is made: batch_size, device, engine (auto, eager, compile, onnx, openvino), precision (auto, fp32,
    bf16, fp16); max_memory: bytes the process may use (default: half of the machine's); restart: forget an interrupted
    run of this output.
    """

    tile_size: int | None = None
    halo: int | None = None
    overlap: int | None = None
    window: str = "linear"
    blend: str = "logits"
    tta: tuple[str, ...] = ()
    crf: DenseCrf | None = None
    nodata: float | None = None
    bands: BandChoice = ALL_BANDS
    aoi: str | None = None
    aoi_layer: str | None = None
    aoi_crs: str | None = None
    bounds: tuple[float, float, float, float] | None = None
    mosaic: bool = False
    georeferenced: bool = True
    force_gsd: bool = False
    confidence: bool = False
    probabilities: bool = False
    stac: bool = False
    taken: str | None = None
    vectors: Path | None = None
    batch_size: int | None = None
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"
    max_memory: int | None = None
    overwrite: bool = False
    restart: bool = False

    @property
    def definition(self) -> Definition:
        """What the stream has to know of it."""
        return Definition(
            window=self.window,
            blend=self.blend,
            tta=self.tta,
            confidence=self.confidence,
            probabilities=self.probabilities,
            crf=None if self.crf is None else BlockedCrf.of(self.crf),
        )

    @property
    def engine_settings(self) -> EngineSettings:
        """What the predictor has to know of it."""
        return EngineSettings(engine=self.engine, precision=self.precision, device=self.device)

    def layers(self, classes: int) -> tuple[Layer, ...]:
        """The rasters that are made, as pieces of finished rows hold them."""
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
    interrupted run had finished. vectors: what was written of the polygons, if they were asked for.
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


@dataclass(frozen=True, slots=True)
class Forecast:
    """Foretell what a prediction will take, before it starts; nothing was written.

    memory: peak bytes of the process. disk: bytes that may be needed while the pieces and the result stand side by
    side. seconds: tiles times the time of one, measured on one batch; tiles without measured pixels are skipped, so
    it is an upper bound.
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
