"""Whatever is handed over in place of settings is refused by name, before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import aerial_seg as a

FILES = ("m.safetensors", "a.tif", "out.tif")
MANY = {
    "predict": (lambda given: a.predict(*FILES, given), a.PredictSettings),
    "forecast": (lambda given: a.forecast_prediction(*FILES, given), a.PredictSettings),
    "tile": (lambda given: a.tile("a.tif", "a.gpkg", "chips", given), a.TileSettings),
    "vectorize": (lambda given: a.vectorize("m.tif", "m.gpkg", given), a.VectorizeSettings),
    "evaluate": (lambda given: a.evaluate_mask("m.tif", "a.gpkg", settings=given), a.LabelSettings),
    "export": (lambda given: a.export("m.safetensors", "m.onnx", given), a.ExportSettings),
    "benchmark": (
        lambda given: a.benchmark("voc", "root", "m.safetensors", settings=given),
        a.BenchmarkSettings,
    ),
    "load": (lambda given: a.load("m.safetensors", settings=given), a.SegmentSettings),
}


@pytest.mark.parametrize(("call", "kind"), MANY.values(), ids=MANY)
def test_what_are_no_settings_is_refused_by_name(call: Callable[[Any], object], kind: type) -> None:
    for given in ("x", {"overwrite": True}, 0, True, a.Measure(1, "px")):
        with pytest.raises(a.SettingsError, match=rf"settings is .*, wanted {kind.__name__}\(…\), or None$"):
            call(given)
    with pytest.raises(a.SettingsError, match=rf"; write {kind.__name__}\(\)$"):
        call(kind)


def test_settings_of_another_job_are_not_taken_for_a_segmenters() -> None:
    told: Any = a.PredictSettings(vectors="map.gpkg")
    with pytest.raises(a.SettingsError, match=r"settings is PredictSettings.*, wanted SegmentSettings"):
        a.load("m.safetensors", settings=told)


@pytest.mark.parametrize("size", [0, -1, True, "4", 2.0])
def test_a_batch_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(
        a.SettingsError, match=r"batch_size is .*, wanted a whole number from 1 to 65,536, or None"
    ):
        a.load("m.safetensors", batch_size=size)


@pytest.mark.parametrize("model", [None, 3, b"x", ["m.safetensors", None]])
def test_what_names_no_model_is_refused(model: Any) -> None:
    with pytest.raises(a.SettingsError, match=r"model is .*, wanted a path"):
        a.load(model)


def test_no_model_is_refused() -> None:
    with pytest.raises(a.SettingsError, match="model is an empty list, wanted a model file"):
        a.load([])


def test_what_names_no_chips_is_refused() -> None:
    told: Any
    for told in (None, 3):
        with pytest.raises(a.SettingsError, match=f"root is {told}, wanted a path"):
            a.ChipDataset(told)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b"], "names is .*, wanted a mapping of pixel values to names"),
        ("a", "wanted a mapping"),
        ({"a": 1}, "wanted a mapping"),
    ],
)
def test_a_legend_that_cannot_be_is_refused(names: Any, words: str) -> None:
    with pytest.raises(a.SettingsError, match=words):
        a.make_legend(names)
