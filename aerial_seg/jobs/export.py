"""export: a model file as ONNX, with what the Deepness plugin for QGIS wants to know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from aerial_seg.band_names import out_of_order
from aerial_seg.errors import SettingsError
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_writable, staged_files
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.tile_choice import choose_tile
from aerial_seg.jobs.settings import ExportSettings
from aerial_seg.mentions import setting
from aerial_seg.models.export import OPSET, GraphSettings, check_onnx_installed, write_onnx
from aerial_seg.models.file import TrainedModel, load_model
from aerial_seg.models.header import HEADER_KEY
from aerial_seg.paths import StrPath, as_path
from aerial_seg.settings import chosen
from aerial_seg.tiling.plan import TileShape

GRAPH_KEY = "aerial_seg_graph"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Tell what was written.

    size: bytes. tile_size: side of the input in pixels. difference: from the network, relative to the largest output,
    as onnxruntime computes it. metadata: what the file says of itself.
    """

    path: Path
    size: int
    opset: int
    tile_size: int
    bands: int
    output: str
    difference: float
    metadata: dict[str, str]
    notes: tuple[str, ...]


def export(model_path: StrPath, output: StrPath, settings: ExportSettings | None = None) -> ExportReport:
    """Write a model as ONNX to `output`, checked against torch: the file appears only when both agree.

    Raises SettingsError for an output that is no .onnx, a tile size that the network cannot take or a missing
    package, InputError for a network that ONNX cannot hold and a model file that changes meanwhile, OutputError where
    the file cannot be written.
    """
    settings = chosen(settings, ExportSettings)
    model_path, output = as_path(model_path, "model_path"), as_path(output, "output")
    if output.suffix.lower() != ".onnx":
        raise SettingsError(f"{output} does not end in .onnx; name the output model.onnx or the like")
    check_onnx_installed()
    check_writable(output, overwrite=settings.overwrite)
    Inputs([model_path]).refuse([output])
    still = Unchanged([model_path])
    model = load_model(model_path)
    shape, grown = _shape(model, settings.tile_size)
    graph = GraphSettings(
        side=shape.side,
        normalise=settings.normalise,
        upsample=settings.upsample,
        probabilities=settings.probabilities,
    )
    metadata = deepness_metadata(model, shape, normalise=graph.normalise) | own_metadata(model, graph)
    with staged_files(output, overwrite=settings.overwrite) as folder, still.holding():
        difference = write_onnx(model, folder / output.name, graph, metadata)
    return ExportReport(
        path=output,
        size=output.stat().st_size,
        opset=OPSET,
        tile_size=shape.side,
        bands=len(model.card.bands),
        output=graph.output,
        difference=difference,
        metadata=metadata,
        notes=(*model.notes, *grown, *_notes(model, graph)),
    )


def deepness_metadata(model: TrainedModel, shape: TileShape, *, normalise: bool) -> dict[str, str]:
    """Return key → JSON, as the plugin's form is filled from it.

    The plugin divides pixels by 255 and then standardises; its mean and std are given such that the graph gets what it
    was made for: pixels as they are where it normalises itself, else normalised ones. tiles_overlap is in percent of
    the tile's side and all that two neighbouring tiles share, because the plugin keeps the middle of each. seg_thresh
    and seg_small_segment of 0 turn off its threshold and its median filter.

    Source: Deepness's own code, github.com/PUTvision/qgis-plugin-deepness, src/deepness/processing/models/
    model_base.py (names and JSON) and deepness_dockwidget.py (what is done with them). Its documentation says
    `tiles_size`; the code reads `tile_size`.
    """
    card = model.card
    means, stds = [0.0] * len(card.bands), [1.0] * len(card.bands)
    if not normalise:
        means, stds = [band.mean for band in card.bands], [band.std for band in card.bands]
    facts: dict[str, object] = {
        "model_type": "Segmentor",
        "class_names": {str(channel): name for channel, name in enumerate(card.legend.names)},
        "tile_size": shape.side,
        "tiles_overlap": -(-100 * (shape.side - shape.step) // shape.side),
        "standardization_mean": [mean / 255 for mean in means],
        "standardization_std": [std / 255 for std in stds],
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    if card.gsd is not None:
        facts["resolution"] = card.gsd * 100
    return {key: json.dumps(value) for key, value in facts.items()}


def own_metadata(model: TrainedModel, graph: GraphSettings) -> dict[str, str]:
    """Return the model's card, as its own file holds it, and what the graph does beside the network."""
    geometry = model.network.geometry.of_tiles
    facts = {
        "input": "pixels" if graph.normalise else "normalised",
        "output": graph.output,
        "logit_stride": 1 if graph.upsample else geometry.logit_stride,
        "align_corners": geometry.align_corners,
        "model_sha256": model.sha256,
    }
    return {HEADER_KEY: model.card.model_dump_json(), GRAPH_KEY: json.dumps(facts)}


def _shape(model: TrainedModel, tile_size: int | None) -> tuple[TileShape, tuple[str, ...]]:
    """The tile as predict would cut it, and a note where it is another than the one that was asked for."""
    own = model.card.prediction.tile_size
    asked = None if tile_size == own else tile_size
    shape, grown = choose_tile(Ensemble((model,)), tile_size=asked, halo=None, overlap=None)
    if not grown:
        return shape, ()
    return shape, (
        f"the graph takes tiles of {shape.side} px, as predict runs them, instead of {asked or own}: these have no "
        f"room for a halo and an overlap of {model.network.geometry.origin_step} px each, the network's step",
    )


def _notes(model: TrainedModel, graph: GraphSettings) -> tuple[str, ...]:
    notes = []
    if model.eight_bits is not None:
        notes.append(
            "the graph computes in float32 with the numbers that the model's 8-bit weights stand for"
        )
    if model.card.gsd is None:
        notes.append("the model knows no pixel size on the ground, so the file states no resolution")
    names = [band.name for band in model.card.bands]
    if out_of_order(names):
        notes.append(f"the graph takes {', '.join(names)} in this order; give a layer's bands in it")
    if any(band.scaled for band in model.card.bands):
        notes.append(
            "the model was trained on numbers to which the rasters' scale and offset were applied: the graph takes "
            "such numbers, and Deepness gives it those that a raster stores"
        )
    if not graph.upsample and model.network.geometry.logit_stride > 1:
        notes.append(
            f"Deepness needs an output of the input's size; export without {setting('upsample', False)} for use in QGIS"
        )
    if not graph.probabilities:
        notes.append(
            "Deepness sets negative values to 0 before it compares the classes; export without "
            f"{setting('probabilities', False)} for use in QGIS"
        )
    return tuple(notes)
