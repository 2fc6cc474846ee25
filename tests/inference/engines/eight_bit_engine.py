"""OpenVINO multiplies 8-bit weights as such, and every law of engines holds there."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from engine_models import images, make_model
from torch import Tensor, nn

from aerial_seg.inference.engines import eight_bits
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.engines.eight_bits import EightBitEngine, WholeImages, rounded_graph, whole_images
from aerial_seg.inference.engines.openvino import OpenvinoEngine
from aerial_seg.inference.engines.prepare import prepare_network
from aerial_seg.inference.predictor import Predictor
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.models.eight_bits.calibrate import calibrate
from aerial_seg.models.eight_bits.layers import from_tensors, give_biases, quantised, to_tensors
from aerial_seg.models.file import TrainedModel
from aerial_seg.recipe.model import ModelSettings

CPU = torch.device("cpu")
KINDS = [
    ModelSettings(architecture="deeplabv3", output_stride=16, head_channels=8, encoder="resnet18"),
    *(
        pytest.param(one, marks=pytest.mark.slow)
        for one in (
            ModelSettings(
                architecture="deeplabv3plus", output_stride=16, head_channels=8, encoder="resnet18"
            ),
            ModelSettings(architecture="pspnet", output_stride=8, head_channels=16, encoder="resnet18"),
            ModelSettings(architecture="fcn", output_stride=16, head_channels=8, encoder="resnet18"),
            ModelSettings(architecture="gcn", output_stride=32, encoder="resnet18"),
            ModelSettings(architecture="deeplabv2", output_stride=8, encoder="resnet18"),
            ModelSettings(architecture="Unet", encoder="resnet18"),
            ModelSettings(architecture="FPN", encoder="resnet18"),
        )
    ),
]


def of_8_bits(source: TrainedModel) -> TrainedModel:
    """The model with all convolutions rounded, calibrated on noise."""
    noise = [torch.from_numpy(image)[None] for image in images(4)]
    network, _ = prepare_network(source.network, CPU, precision="fp32", example=lambda: noise[0])
    give_biases(network)
    network.requires_grad_(False)
    calibrated = calibrate(network, noise, tell=lambda: None)
    weights = {name: one.weight for name, one in network.named_modules() if isinstance(one, nn.Conv2d)}
    layers = calibrated.layers(list(calibrated.errors), weights)
    whole = {name: quantised(weights[name], layers.weight_scales[name]) for name in layers.inputs}
    state, layers = from_tensors(to_tensors(network.state_dict(), whole, layers), list(whole))
    network.load_state_dict(state)
    return TrainedModel(network, source.card, source.sha256, (), layers)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _units(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    if not eight_bits.has_byte_units():
        pytest.skip("this CPU has neither VNNI nor AMX")


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return of_8_bits(make_model(KINDS[0]))  # type: ignore[arg-type]


AUTO = EngineSettings(device="cpu")


def predictor(model: TrainedModel, settings: EngineSettings = AUTO) -> Predictor:
    return Predictor(model, settings=settings, batch_size=3, side=64, tiles=1)


@pytest.mark.parametrize("settings", KINDS, ids=lambda one: one.architecture)
def test_it_computes_what_torch_rounds(settings: ModelSettings) -> None:
    source = make_model(settings)
    model = of_8_bits(source)
    made, many = predictor(model), images(3)
    assert (made.runtime.engine, made.runtime.precision) == ("openvino", "int8")
    assert made.runtime.library == f"openvino {version('openvino')}"
    assert made.notes == ()
    logits = made.run(many)
    assert model.eight_bits is not None
    batch = torch.from_numpy(np.stack(many))
    with torch.inference_mode():
        bias = torch.tensor(model.card.class_bias)
        wanted = rounded_graph(model.network, model.eight_bits, batch)(batch).permute(0, 2, 3, 1) + bias
    assert rms(logits - wanted.numpy()) < 0.03 * rms(wanted.numpy())
    exact = predictor(source, EngineSettings("eager", "fp32", "cpu")).run(many)
    assert rms(logits - exact) < 0.06 * rms(exact)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def test_position_padding_and_another_start_change_no_bit(model: TrainedModel) -> None:
    made, many = predictor(model), images(3)
    together = made.run(many)
    assert np.array_equal(made.run(many[2:])[0], together[2])
    assert np.array_equal(made.run([many[2], many[0]]), together[[2, 0]])
    assert np.array_equal(predictor(model).run(many), together)


def test_whole_images_of_every_shape_are_run(model: TrainedModel) -> None:
    network, notes = whole_images(model, CPU)
    assert isinstance(network, WholeImages)
    assert notes == ()
    for shape in ((1, 3, 64, 64), (1, 3, 48, 96), (1, 3, 64, 64)):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            got, wanted = network(image), model.network(image)
        assert got.shape == wanted.shape
        assert rms((got - wanted).numpy()) < 0.06 * rms(wanted.numpy())


def test_what_does_not_run_there_computes_with_the_numbers(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nonsense(self: object, batch: Tensor) -> Tensor:
        return torch.full((len(batch), 3, 4, 4), torch.nan)

    monkeypatch.setattr(OpenvinoEngine, "__call__", nonsense)
    assert EightBitEngine.__call__ is nonsense
    made = predictor(model)
    assert (made.runtime.engine, made.runtime.precision) == ("eager", "fp32")
    assert "openvino cannot run this network (its logits differ by nan" in made.notes[0]


def test_an_interrupted_map_ends_as_one_in_one_go(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 20, (3, 200, 130)).astype(np.uint8)
    with rasterio.open(
        tmp_path / "image.tif", "w", driver="GTiff", height=200, width=130, count=3, dtype="uint8",
        crs="EPSG:32645", transform=rasterio.Affine(0.25, 0, 3e5, 0, -0.25, 3e6),
    ) as file:  # fmt: skip
        file.write(image)
    # Untrained: of its own accord one class would win everywhere.
    pixels = (image[None, :, :64, :64].astype(np.float32) - 9) / 2
    middle = np.median(predictor(model).run(list(pixels)), axis=(0, 1, 2)) - model.card.class_bias
    card = model.card.model_copy(update={"class_bias": tuple(-middle.astype(float))})
    model = replace(model, card=card)
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: model)
    (tmp_path / "m.safetensors").write_bytes(b"loaded above")
    settings = PredictSettings(tile_size=64, halo=16, overlap=16, batch_size=3, device="cpu")

    def mapped(name: str) -> bytes:
        predict(tmp_path / "m.safetensors", [tmp_path / "image.tif"], tmp_path / name, settings)
        with rasterio.open(tmp_path / name) as file:
            pixels: np.ndarray = file.read()
        assert len(np.unique(pixels)) > 1
        return pixels.tobytes()

    whole = mapped("whole.tif")
    real, calls = OpenvinoEngine.__call__, list[int]()

    def interrupted(self: OpenvinoEngine, batch: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(OpenvinoEngine, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mapped("again.tif")
    monkeypatch.setattr(OpenvinoEngine, "__call__", real)
    assert mapped("again.tif") == whole
