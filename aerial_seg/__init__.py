"""Imagery and labels in, a trained model, a georeferenced mask and clean polygons out.

What a notebook needs is importable from here by name; names are loaded when they are first used, so that
`aerial-seg --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aerial_seg.assessment import Accuracy, Estimate, allocate, estimate_accuracy, sample_size
    from aerial_seg.benchmarks.catalogue import open_benchmark
    from aerial_seg.benchmarks.grid import RecipeGrid, RecipeRow, grid_names, load_grid
    from aerial_seg.benchmarks.protocol import load_protocol, protocol_names
    from aerial_seg.crf.settings import DenseCrf
    from aerial_seg.errors import AerialSegError, InputError, OutputError, SettingsError
    from aerial_seg.geo.grid import Grid
    from aerial_seg.geo.measures import Measure
    from aerial_seg.geo.raster.band_choice import BandChoice
    from aerial_seg.geo.raster.raster import Raster
    from aerial_seg.inference.segmentation import Segmentation
    from aerial_seg.inference.segmenter import Segmenter, load
    from aerial_seg.inference.settings import SegmentSettings
    from aerial_seg.jobs.assess.design import DesignReport, design_sample
    from aerial_seg.jobs.assess.report import AssessReport, assess
    from aerial_seg.jobs.assess.settings import AssessSettings, DesignSettings
    from aerial_seg.jobs.benchmark.job import benchmark
    from aerial_seg.jobs.benchmark.settings import BenchmarkReport, BenchmarkSettings
    from aerial_seg.jobs.check.job import CheckReport, check
    from aerial_seg.jobs.demo import demo
    from aerial_seg.jobs.evaluate import (
        evaluate_mask,
        evaluate_model_on_chips,
        evaluate_model_on_rasters,
    )
    from aerial_seg.jobs.export import export
    from aerial_seg.jobs.export_eight_bits import export_eight_bits
    from aerial_seg.jobs.export_weights import export_weights
    from aerial_seg.jobs.import_weights import CheckpointFacts, import_weights
    from aerial_seg.jobs.info.job import info
    from aerial_seg.jobs.models import list_models
    from aerial_seg.jobs.predict.job import forecast_prediction, predict, predict_scenes
    from aerial_seg.jobs.predict.settings import Forecast, PredictReport, PredictSettings
    from aerial_seg.jobs.report.job import MapReport, report_map
    from aerial_seg.jobs.report.settings import ReportSettings
    from aerial_seg.jobs.settings import EightBitSettings, ErrorMapSettings, ExportSettings
    from aerial_seg.jobs.tile.dry_run import TileForecast, forecast_tiling
    from aerial_seg.jobs.tile.job import tile
    from aerial_seg.jobs.tile.settings import TileSettings
    from aerial_seg.jobs.train.dry_run import TrainForecast, forecast_training
    from aerial_seg.jobs.train.job import train
    from aerial_seg.jobs.train.settings import TrainSettings
    from aerial_seg.jobs.vectorize.job import vectorize
    from aerial_seg.labels.settings import LabelSettings
    from aerial_seg.legend import Legend, LegendEntry, make_legend
    from aerial_seg.metrics import ConfusionMatrix, Scores
    from aerial_seg.models.build import architectures, build_network
    from aerial_seg.models.file import ModelCard, TrainedModel, load_model
    from aerial_seg.models.network import Network, OwnNetwork
    from aerial_seg.models.pretrained import start_from
    from aerial_seg.models.receptive_field.field import ReceptiveField, receptive_field
    from aerial_seg.outputs.mask import read_legend
    from aerial_seg.recipe.document import Recipe
    from aerial_seg.recipe.loading import change_recipe, load_recipe, recipe_names
    from aerial_seg.recipe.model import ModelSettings
    from aerial_seg.synthetic.town import make_scene, make_town
    from aerial_seg.tiling.geometry import ModelGeometry
    from aerial_seg.training.callbacks import Callback, Checkpoint, Step
    from aerial_seg.training.chip_dataset import ChipDataset
    from aerial_seg.vectors.from_mask.settings import (
        CleanSettings,
        LayerSettings,
        ShapeSettings,
        VectorizeReport,
        VectorizeSettings,
    )
    from aerial_seg.version import __version__

_ROOMS = {
    "assessment": ("Accuracy", "Estimate", "allocate", "estimate_accuracy", "sample_size"),
    "benchmarks.catalogue": ("open_benchmark",),
    "benchmarks.grid": ("RecipeGrid", "RecipeRow", "grid_names", "load_grid"),
    "benchmarks.protocol": ("load_protocol", "protocol_names"),
    "crf.settings": ("DenseCrf",),
    "errors": ("AerialSegError", "InputError", "OutputError", "SettingsError"),
    "geo.grid": ("Grid",),
    "labels.settings": ("LabelSettings",),
    "outputs.mask": ("read_legend",),
    "geo.measures": ("Measure",),
    "geo.raster.band_choice": ("BandChoice",),
    "geo.raster.raster": ("Raster",),
    "synthetic.town": ("make_scene", "make_town"),
    "inference.segmentation": ("Segmentation",),
    "inference.segmenter": ("Segmenter", "load"),
    "inference.settings": ("SegmentSettings",),
    "jobs.assess.design": ("DesignReport", "design_sample"),
    "jobs.assess.report": ("AssessReport", "assess"),
    "jobs.assess.settings": ("AssessSettings", "DesignSettings"),
    "jobs.benchmark.job": ("benchmark",),
    "jobs.benchmark.settings": ("BenchmarkReport", "BenchmarkSettings"),
    "jobs.check.job": ("CheckReport", "check"),
    "jobs.demo": ("demo",),
    "jobs.evaluate": (
        "evaluate_mask",
        "evaluate_model_on_chips",
        "evaluate_model_on_rasters",
    ),
    "jobs.export": ("export",),
    "jobs.export_eight_bits": ("export_eight_bits",),
    "jobs.export_weights": ("export_weights",),
    "jobs.import_weights": ("CheckpointFacts", "import_weights"),
    "jobs.info.job": ("info",),
    "jobs.models": ("list_models",),
    "jobs.predict.job": ("forecast_prediction", "predict", "predict_scenes"),
    "jobs.predict.settings": ("Forecast", "PredictReport", "PredictSettings"),
    "jobs.report.job": ("MapReport", "report_map"),
    "jobs.report.settings": ("ReportSettings",),
    "jobs.settings": ("EightBitSettings", "ErrorMapSettings", "ExportSettings"),
    "jobs.tile.dry_run": ("TileForecast", "forecast_tiling"),
    "jobs.tile.job": ("tile",),
    "jobs.tile.settings": ("TileSettings",),
    "jobs.train.job": ("train",),
    "jobs.train.dry_run": ("TrainForecast", "forecast_training"),
    "jobs.train.settings": ("TrainSettings",),
    "jobs.vectorize.job": ("vectorize",),
    "vectors.from_mask.settings": (
        "CleanSettings",
        "LayerSettings",
        "ShapeSettings",
        "VectorizeReport",
        "VectorizeSettings",
    ),
    "legend": ("Legend", "LegendEntry", "make_legend"),
    "metrics": ("ConfusionMatrix", "Scores"),
    "models.build": ("architectures", "build_network"),
    "models.file": ("ModelCard", "TrainedModel", "load_model"),
    "models.network": ("Network", "OwnNetwork"),
    "models.pretrained": ("start_from",),
    "models.receptive_field.field": ("ReceptiveField", "receptive_field"),
    "recipe.document": ("Recipe",),
    "recipe.loading": ("change_recipe", "load_recipe", "recipe_names"),
    "recipe.model": ("ModelSettings",),
    "tiling.geometry": ("ModelGeometry",),
    "training.callbacks": ("Callback", "Checkpoint", "Step"),
    "training.chip_dataset": ("ChipDataset",),
    "version": ("__version__",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [  # noqa: RUF022 - in the order of the rooms
    "AerialSegError", "InputError", "OutputError", "SettingsError", "Grid", "LabelSettings", "read_legend", "Measure",
    "BandChoice", "Raster", "make_town", "make_scene", "demo", "evaluate_mask", "evaluate_model_on_chips",
    "evaluate_model_on_rasters", "info", "ErrorMapSettings", "PredictSettings", "PredictReport", "predict",
    "predict_scenes", "Forecast", "forecast_prediction", "load", "Segmenter", "SegmentSettings", "Segmentation",
    "TileSettings", "tile", "TileForecast", "forecast_tiling", "CheckReport", "check", "ChipDataset",
    "TrainSettings", "train", "TrainForecast", "forecast_training", "Callback", "Step", "Checkpoint",
    "VectorizeSettings", "CleanSettings", "ShapeSettings", "LayerSettings", "VectorizeReport", "vectorize",
    "ReportSettings", "MapReport", "report_map",
    "DesignSettings", "DesignReport", "design_sample", "AssessSettings", "AssessReport", "assess", "Accuracy",
    "Estimate", "estimate_accuracy", "sample_size", "allocate", "DenseCrf", "Legend", "LegendEntry", "make_legend",
    "ConfusionMatrix", "Scores", "ModelCard",
    "BenchmarkSettings", "BenchmarkReport", "benchmark", "open_benchmark", "load_protocol", "protocol_names",
    "RecipeGrid", "RecipeRow", "load_grid", "grid_names", "ExportSettings", "export", "export_weights",
    "EightBitSettings", "export_eight_bits",
    "CheckpointFacts", "import_weights", "list_models", "TrainedModel", "load_model", "Network", "architectures",
    "build_network",
    "start_from", "ReceptiveField", "receptive_field", "ModelSettings", "Recipe", "change_recipe", "load_recipe",
    "recipe_names", "OwnNetwork", "ModelGeometry", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'aerial_seg' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"aerial_seg.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
