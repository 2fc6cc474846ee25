"""Every public function takes paths as people write them: texts, Paths, one or several, globs, and no settings."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aerial_seg as seg
from aerial_seg.errors import SettingsError
from aerial_seg.paths import as_name, as_names, as_path, as_paths, with_device

RECIPE = """
[model]
architecture = "fcn"
encoder = "resnet18"
[training]
iterations = 1
batch_size = 2
crop = 32
validate_every = 1
[prediction]
tile_size = 64
"""
FUNCTIONS = [thing for thing in map(seg.__getattr__, seg.__all__) if inspect.isfunction(thing)]
RUNS_A_NETWORK = {
    "predict", "predict_scenes", "forecast_prediction", "train", "demo", "benchmark", "evaluate_model_on_chips",
    "evaluate_model_on_rasters", "forecast_training",
}  # fmt: skip


class Place:
    """A path of someone else's making."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __fspath__(self) -> str:
        return self.text


def signature(function: Callable[..., Any]) -> dict[str, str]:
    return {name: str(one.annotation) for name, one in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_paths_are_typed_as_texts_too(function: Any) -> None:
    for name, kind in signature(function).items():
        if "Path" in kind and "Callable" not in kind:
            assert "StrPath" in kind or "PathLike" in kind, name


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_settings_may_be_left_out_and_devices_stand_in_one_place(function: Any) -> None:
    for name, one in inspect.signature(function).parameters.items():
        if "Settings" in str(one.annotation) and function.__name__ != "build_network":
            assert one.default is None, name
    device = inspect.signature(function).parameters.get("device")
    assert device is not None or function.__name__ not in RUNS_A_NETWORK
    if device is not None:
        assert device.kind != device.POSITIONAL_ONLY
        assert device.default == "auto"


def test_paths_and_lists_of_them() -> None:
    assert as_path("a.tif", "x") == as_path(Place("a.tif"), "x") == Path("a.tif")
    assert as_paths("a.tif", "x") == as_paths([Place("a.tif")], "x") == (Path("a.tif"),)
    assert as_names(["*.tif", Path("b.tif")], "x") == ("*.tif", "b.tif")
    assert as_names("https://host//a.tif", "x") == ("https://host//a.tif",)
    assert as_names(iter(["a"]), "x") == ("a",)
    for wrong in (None, 7, "", b"a", ["a", None], {"a": 1}, Place(""), 1.5, True):
        for taking in (as_names, as_paths):
            with pytest.raises(SettingsError, match=r"^rasters is .*, wanted a path"):
                taking(wrong, "rasters")  # type: ignore[arg-type]
    for wrong in (None, 7, "", b"a", ["a"], ()):
        for one in (as_name, as_path):
            with pytest.raises(SettingsError, match=r"^out is .*, wanted a path$"):
                one(wrong, "out")  # type: ignore[arg-type]


def test_a_device_beside_the_settings_counts_once() -> None:
    assert with_device(seg.PredictSettings(), "cpu") == seg.PredictSettings(device="cpu")
    assert with_device(seg.PredictSettings(device="cpu"), "auto").device == "cpu"
    assert with_device(seg.PredictSettings(device="cpu"), "cpu").device == "cpu"
    with pytest.raises(
        SettingsError, match="device is 'cuda', and 'cpu' in the settings; name it in one place"
    ):
        with_device(seg.PredictSettings(device="cpu"), "cuda")
    with pytest.raises(SettingsError, match="use auto, cpu, cuda or cuda:N"):
        with_device(seg.PredictSettings(), "gpu")


@pytest.mark.parametrize(
    ("function", "given", "named"),
    [
        (seg.predict, (None, "a.tif", "m.tif"), "model_path"),
        (seg.predict_scenes, ("m", 5, "m.tif"), "rasters"),
        (seg.forecast_prediction, ("m", "a.tif", None), "out"),
        (seg.tile, ("a.tif", None, "chips"), "labels"),
        (seg.train, ("chips", "fcn", ["run"]), "run"),
        (seg.train, ("chips", None, "run"), "recipe"),
        (seg.vectorize, ("m.tif", 3), "out_path"),
        (seg.evaluate_mask, (b"m.tif", "l.gpkg"), "mask"),
        (seg.evaluate_model_on_chips, ("m", None), "dataset"),
        (seg.evaluate_model_on_rasters, ("m", None, "l"), "rasters"),
        (seg.export, ("m", None), "output"),
        (seg.info, (None,), "path"),
        (seg.load_model, (7,), "path"),
        (seg.read_legend, (7,), "path"),
        (seg.Raster, (7,), "path"),
        (seg.demo, (7,), "folder"),
        (seg.benchmark, ("voc", None, "m"), "root"),
        (seg.open_benchmark, ("voc", None), "root"),
        (seg.load_recipe, (None,), "recipe"),
        (seg.load_protocol, (7,), "protocol"),
    ],
)
def test_what_is_no_path_is_told(function: Any, given: tuple[Any, ...], named: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{named} is .*, wanted a path"):
        function(*given)


def test_the_whole_job_in_texts(raster_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(3)
    for name in ("in/a.tif", "in/b.tif"):
        raster_file(name, random.integers(1, 255, (3, 64, 96), np.uint8))
    truth = np.ones((1, 64, 96), np.uint8)
    truth[:, :, 48:] = 2
    raster_file("labels.tif", truth)
    Path("tiny.toml").write_text(RECIPE, encoding="utf-8")

    cut = seg.TileSettings(chip_size=32, block=1, val=0.3, test=0.3)
    assert sum(seg.tile("in/a.tif", "labels.tif", "chips", cut).chips.values()) == 6
    trained = seg.train("chips", "tiny.toml", "run", device="cpu")
    model = os.fspath(trained.model)
    assert model == os.path.join("run", "best.safetensors")  # noqa: PTH118 - as a text

    (report,) = seg.predict(model, "in/a.tif", "map.tif", device="cpu")
    assert report.mask == Path("map.tif")
    assert len(seg.predict([model, model], ["in/a.tif", Path("in/b.tif")], "maps", device="cpu")) == 2
    assert len(seg.predict_scenes(Place(model), "in/*.tif", Place("globbed"), device="cpu")) == 2
    assert Path("globbed/a_mask.tif").read_bytes() == Path("map.tif").read_bytes()
    assert len(seg.forecast_prediction(model, "in/a.tif", "other.tif", device="cpu")) == 1

    assert seg.vectorize("map.tif", "map.gpkg").path == Path("map.gpkg")
    scored = seg.evaluate_mask("map.tif", "labels.tif", error_map="errors.tif")
    assert scored.error_map == Path("errors.tif")
    again = seg.evaluate_model_on_rasters(model, "in/a.tif", ["labels.tif"], device="cpu")
    assert again.scores.as_json() == scored.scores.as_json()
    assert seg.evaluate_model_on_chips(model, "chips", device="cpu").scores.counted
    with pytest.raises(SettingsError, match="split is 'tests', wanted one of train, val, test; did you mean"):
        seg.evaluate_model_on_chips(model, "chips", split="tests")

    assert seg.info("map.tif")["kind"] == "mask"
    assert seg.read_legend("map.tif") == seg.load_model(model).card.legend
    with seg.Raster("in/a.tif") as raster:
        assert raster.grid.width == 96
    assert seg.load_recipe(Path("tiny.toml")) == seg.load_recipe("tiny.toml")
    with pytest.raises(SettingsError, match=r"name the output model\.onnx"):
        seg.export(model, "model.txt")
