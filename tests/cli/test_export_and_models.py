"""`export` and `models` as typed: the file maps as predict does, in QGIS's plugin too, and nothing partial remains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from laws import few

from aerial_seg.bands import normalise
from aerial_seg.models import export as exporting
from aerial_seg.models.file import load_model, save_model

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")


GROWN = (
    "note: the graph takes tiles of 128 px, as predict runs them, instead of 64: these have no room for a halo and an "
    "overlap of 16 px each, the network's step"
)
"""Of the model of these tests, whose file asks for 64 px."""


def open_session(path: Path) -> tuple[Any, dict[str, Any]]:
    """(session, what the file says of itself)."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    texts = session.get_modelmeta().custom_metadata_map
    return session, {key: json.loads(text) for key, text in texts.items()}


def as_the_plugin(path: Path, image: np.ndarray) -> np.ndarray:
    """Class channels (H,W) of image (C,H,W) uint8 as Deepness makes them: /255, standardised, cut off, argmax."""
    session, facts = open_session(path)
    tile = np.float32(image.transpose(1, 2, 0)[None] / 255.0)
    mean, std = (np.array(facts[f"standardization_{key}"], np.float32) for key in ("mean", "std"))
    batch = ((tile - mean) / std).transpose(0, 3, 1, 2)
    (result,) = session.run(None, {session.get_inputs()[0].name: batch})
    result[result < facts["seg_thresh"]] = 0
    return result[0].argmax(axis=0)


@pytest.fixture
def undecided(models: Callable, tmp_path: Path) -> Callable[[np.ndarray], Path]:
    """A model whose class bias makes half of an image the one class and half the other."""

    def write(image: np.ndarray) -> Path:
        torch.manual_seed(0)
        model = load_model(models())
        normalised = normalise(image, np.ones(image.shape[1:], bool), model.card.bands)
        with torch.no_grad():
            background, road = model.network(torch.from_numpy(normalised)[None])[0]
        # Between the two middle cells: at a cell's own value both classes would tie, and rounding would decide.
        bias = (0.25, 0.25 + float((background - road).quantile(0.5)))
        # One tile is the whole image: without halo and overlap it stays as large as the file says.
        prediction = model.card.prediction.model_copy(update={"halo": 0, "overlap": 0})
        recipe = model.card.recipe.model_copy(update={"prediction": prediction})
        card = model.card.model_copy(update={"class_bias": bias, "recipe": recipe})
        save_model(model.network.state_dict(), card, tmp_path / "m.safetensors")
        return tmp_path / "m.safetensors"

    return write


@pytest.mark.parametrize("choice", few(["--no-normalise", "--normalise"], quick=1))
def test_the_plugin_maps_a_tile_as_predict_does(
    choice: str, run: Callable, raster: Callable, undecided: Callable, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    blocks = rng.integers(1, 255, (3, 8, 8)).repeat(8, axis=1).repeat(8, axis=2)
    pixels = np.clip(blocks + rng.integers(-20, 20, blocks.shape), 1, 254).astype(np.uint8)
    image, model = raster("in.tif", pixels=pixels), undecided(pixels)
    done = run("predict", model, image, "-o", "map.tif", "--halo", 0, "--overlap", 0, "--precision", "fp32")
    assert done.code == 0, done.err
    done = run("export", model, "-o", "model.onnx", choice)
    assert done.code == 0, done.err
    assert done.err == ""
    assert done.out.startswith("model.onnx: N × 3 × 64 × 64 px to probabilities, opset 18")
    with rasterio.open("map.tif") as file:
        mask = file.read(1)
    seen = as_the_plugin(tmp_path / "model.onnx", pixels)
    # Classes may differ where both are as likely, up to rounding.
    assert (seen == mask).mean() > 0.999
    assert 0.2 < (mask == 1).mean() < 0.8


def test_the_metadata_are_what_the_plugin_reads(run: Callable, models: Callable, tmp_path: Path) -> None:
    assert run("export", models(), "-o", "model.onnx").code == 0
    session, facts = open_session(tmp_path / "model.onnx")
    assert facts["model_type"] == "Segmentor"
    assert facts["class_names"] == {"0": "background", "1": "road"}
    assert facts["resolution"] == 100.0  # cm per pixel of a model of 1 m
    # The model's own 64 px have no room for a halo and an overlap of its network's step, 16 px each.
    assert facts["tile_size"] == 128 == session.get_inputs()[0].shape[-1]
    # A halo of 16 on each side and an overlap of 16 leave a step of 80.
    assert facts["tiles_overlap"] == 38
    assert facts["seg_thresh"] == facts["seg_small_segment"] == 0
    assert facts["aerial_seg"]["gsd"] == 1.0


@pytest.mark.slow
def test_a_larger_tile_has_the_overlap_that_its_size_has(
    run: Callable, models: Callable, tmp_path: Path
) -> None:
    told = json.loads(run("export", models(), "-o", "big.onnx", "--tile-size", 256, "--json").out)
    assert (told["tile_size"], told["opset"], told["notes"]) == (256, 18, [])
    assert told["difference"] < 1e-4
    assert told["size"] == (tmp_path / "big.onnx").stat().st_size
    # 256 px: a halo of 16 on each side and an overlap of 32 leave a step of 192.
    assert json.loads(told["metadata"]["tiles_overlap"]) == 25


def test_what_the_plugin_cannot_use_is_noted(run: Callable, models: Callable) -> None:
    done = run("export", models(), "-o", "model.onnx", "--logits", "--no-upsample")
    assert done.code == 0
    grown, first, second = done.err.splitlines()
    assert grown == GROWN
    assert "without --no-upsample" in first
    assert "without --logits" in second
    assert "px to logits" in done.out


@pytest.mark.slow
def test_an_existing_file_is_replaced_only_when_asked(
    run: Callable, refused: Callable, models: Callable, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"mine")
    assert "--overwrite" in refused("export", models(), "-o", "model.onnx")
    assert run("export", models(), "-o", "model.onnx", "--overwrite").code == 0
    assert open_session(tmp_path / "model.onnx")[1]["model_type"] == "Segmentor"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_what_cannot_be_exported_leaves_nothing(
    refused: Callable, models: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ".onnx" in refused("export", models(), "-o", "model.pt", code=2)
    assert "does not exist" in refused("export", "gone.safetensors", "-o", "model.onnx")
    assert "try 64 or 80" in refused("export", models(), "-o", "model.onnx", "--tile-size", 65, code=2)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    line = refused("export", models(), "-o", "model.onnx", code=2)
    assert line.endswith("pip install 'aerial-seg[onnx]'")


@pytest.mark.slow
def test_what_differs_from_the_network_leaves_nothing(
    refused: Callable, models: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    assert "differ by" in refused("export", models(), "-o", "new/model.onnx")


def test_models_are_a_table_and_a_document(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """That every architecture is in it is held by tests/jobs/test_models.py."""
    monkeypatch.setattr("aerial_seg.jobs.models.architectures", lambda: ("fcn", "deeplabv3", "DPT", "Unet"))
    done = run("models", "--encoder", "resnet18")
    assert done.code == 0, done.err
    assert done.err == ""
    head, *lines = done.out.splitlines()
    assert head.split()[0] == "architecture"
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert float(rows["fcn"][0]) > 11
    assert rows["fcn"][2:] == ["8", "8"]
    assert rows["DPT"] == ["-"] * 4
    assert "  DPT: " in done.out.partition("does not work")[2]
    document = json.loads(run("models", "--encoder", "resnet18", "--json").out)
    assert document["encoder"] == "resnet18"
    by_name = {row["architecture"]: row for row in document["models"]}
    assert f"{by_name['fcn']['parameters'] / 1e6:.2f}" == rows["fcn"][0]
    assert by_name["DPT"]["problem"]


def test_encoders_are_listed_with_their_weights(run: Callable) -> None:
    lines = run("models", "--encoders").out.splitlines()
    (resnet,) = [line for line in lines if line.startswith("resnet50 ")]
    assert "imagenet" in resnet
    assert "tu-" in lines[-1]
    names = [kind["name"] for kind in json.loads(run("models", "--encoders", "--json").out)]
    assert "resnet50" in names


def test_an_unknown_encoder_is_refused(refused: Callable) -> None:
    assert "did you mean 'resnet50'" in refused("models", "--encoder", "resnet5O", code=2)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--as", "mmseg", "-o", "out.onnx"], 2, "out.onnx does not end in .pth, as checkpoints do"),
        (
            ["--as", "mmseg", "-o", "out.pth", "--logits"],
            2,
            "are about an ONNX file; leave them out with --as",
        ),
        (["--as", "caffe", "-o", "out.pth"], 2, "'caffe' is not one of 'torchvision', 'mmseg'"),
    ],
)
def test_as_another_project_is_refused_before_the_model_is_read(
    run: Callable[..., Any], tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run("export", "model.safetensors", *arguments)
    assert result.code == code
    assert message in result.err
    assert not list(tmp_path.iterdir())
