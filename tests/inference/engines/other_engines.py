"""ONNX Runtime and OpenVINO compute what the network computes, or eager does it and says why."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aerial_seg.bands import Band
from aerial_seg.errors import SettingsError
from aerial_seg.inference.engines import choose as engine
from aerial_seg.inference.engines import external
from aerial_seg.inference.engines.choose import EngineSettings, choose
from aerial_seg.inference.engines.external import EXTERNAL, PACKAGES, ExternalFailed
from aerial_seg.inference.engines.onnx import OnnxEngine
from aerial_seg.inference.engines.openvino import OpenvinoEngine
from aerial_seg.inference.predictor import Predictor
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry

CPU = torch.device("cpu")
ENGINES = {"onnx": OnnxEngine, "openvino": OpenvinoEngine}
DEEPLAB = ModelSettings(
    architecture="deeplabv3", output_stride=16, head_channels=8, weights="none", encoder="resnet18"
)
OTHERS = [
    ModelSettings(
        architecture="pspnet", output_stride=8, head_channels=16, weights="none", encoder="resnet18"
    ),
    ModelSettings(
        architecture="deeplabv2", output_stride=8, align_corners=True, weights="none", encoder="resnet18"
    ),
    ModelSettings(
        architecture="Unet",
        options={"decoder_channels": [16, 16, 8, 8, 8]},
        weights="none",
        encoder="resnet18",
    ),
]


@pytest.fixture(params=EXTERNAL)
def name(request: pytest.FixtureRequest) -> str:
    for package in PACKAGES[request.param]:
        if find_spec(package) is None:
            pytest.skip(f"the extra {request.param} is not installed")
    return str(request.param)


def make_model(settings: ModelSettings = DEEPLAB) -> TrainedModel:
    """A network of three bands and three classes whose batch norms have something to say."""
    torch.manual_seed(0)
    return trained(build_network(settings, bands=3, classes=3), settings)


class Tiny(Network):
    """Three layers at logit stride 16."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = ModelGeometry(16, 16, 16)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4, padding=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AvgPool2d(4),
            nn.Conv2d(8, 3, 3, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H/16,W/16)."""
        logits: Tensor = self.layers(image)
        return logits


def trained(network: Network, settings: ModelSettings) -> TrainedModel:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=settings),
        legend=make_legend({0: "background", 1: "building", 2: "road"}),
        bands=tuple(Band(name=n, dtype="uint8", mean=9, std=2, p2=1, p98=20) for n in "rgb"),
        gsd=0.25,
        class_bias=(0.25, -0.5, 0.0),
        iteration=3,
        validation_miou=None,
        data_fingerprint="f",
    )
    return TrainedModel(network.eval(), card, "0" * 64)


@pytest.fixture(scope="module")
def small() -> TrainedModel:
    torch.manual_seed(1)
    return trained(Tiny(), DEEPLAB)


def images(count: int, side: int = 64) -> list[NDArray[np.float32]]:
    return [np.random.default_rng(k).normal(size=(3, side, side)).astype(np.float32) for k in range(count)]


def predictor(
    model: TrainedModel, wanted: str, *, batch_size: int = 3, side: int | tuple[int, ...] = 64
) -> Predictor:
    settings = EngineSettings(wanted, "fp32", "cpu")
    return Predictor(model, settings=settings, batch_size=batch_size, side=side, tiles=1)


@pytest.mark.parametrize(
    "settings",
    [DEEPLAB, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)],
    ids=lambda s: s.architecture,
)
def test_logits_decide_as_the_eager_ones(name: str, settings: ModelSettings) -> None:
    model, side = make_model(settings), 64 + int(settings.align_corners)
    made = predictor(model, name, side=side)
    assert made.notes == ()
    assert made.runtime.engine == name
    many = images(4, side)
    logits, reference = made.run(many), predictor(model, "eager", side=side).run(many)
    assert logits.dtype == np.float32
    assert logits.flags.c_contiguous
    np.testing.assert_allclose(logits, reference, atol=1e-4 * np.abs(reference).max())
    best = np.sort(reference, axis=-1)
    clear = best[..., -1] - best[..., -2] > 1e-3
    assert clear.mean() > 0.5
    assert np.array_equal(logits.argmax(-1)[clear], reference.argmax(-1)[clear])


def test_position_padding_flight_and_another_start_change_no_bit(name: str, small: TrainedModel) -> None:
    made, many = predictor(small, name), images(3)
    together = made.run(many)
    assert np.array_equal(made.run(many[2:])[0], together[2])
    assert np.array_equal(made.run([many[2], many[0]]), together[[2, 0]])
    assert np.array_equal(predictor(small, name).run(many), together)
    first, second = made.submit(many), made.submit(many[::-1])
    assert np.array_equal(first.logits(), second.logits()[::-1])
    package = PACKAGES[name][0]
    assert made.runtime.as_dict()["library"] == f"{package} {version(package)}"
    assert "library" not in predictor(small, "eager").runtime.as_dict()


def test_every_side_has_its_own_graph(name: str, small: TrainedModel) -> None:
    made = predictor(small, name, side=(64, 96))
    for side in (96, 64, 96):
        reference = predictor(small, "eager", side=side).run(images(1, side))
        np.testing.assert_allclose(made.run(images(1, side)), reference, atol=1e-4)


def test_what_does_not_run_there_runs_eagerly_with_a_note(
    name: str, small: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, network: nn.Module, batch: Tensor) -> None:
        raise ExternalFailed("OpConversionFailure: no such operator")

    def nonsense(self: object, batch: Tensor) -> Tensor:
        return torch.full((len(batch), 3, 4, 4), torch.nan)

    for method, broken, reason in (
        ("__call__", nonsense, "logits differ by nan"),
        ("__init__", refuse, "no such operator"),
    ):
        monkeypatch.setattr(ENGINES[name], method, broken)
        made = predictor(small, name)
        assert made.runtime.engine == "eager"
        assert made.runtime.library is None
        (note,) = made.notes
        assert reason in note
        assert '`engine="eager"`' in note
        assert "\n" not in note
        assert np.array_equal(made.run(images(1)), predictor(small, "eager").run(images(1)))


def test_openvino_tells_its_makers_nothing() -> None:
    if find_spec("openvino") is None:
        pytest.skip("the extra openvino is not installed")
    program = (
        "import sys; from aerial_seg.inference.engines.openvino import openvino_library; openvino_library();"
        "import openvino.tools.ovc.telemetry_utils as used; print(used.tm.__name__, sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "None"]


class Branching(nn.Module):
    """Decides by its numbers, which a graph cannot."""

    def forward(self, image: Tensor) -> Tensor:
        return image if float(image.sum()) > 0 else -image


def test_a_network_that_cannot_be_traced_is_refused_in_a_line(name: str) -> None:
    with pytest.raises(ExternalFailed) as error:
        ENGINES[name](Branching(), torch.zeros(1, 3, 8, 8))
    assert "\n" not in str(error.value)
    assert ":" in str(error.value)


def test_where_one_side_falls_back_all_do(
    name: str, small: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ENGINES[name].__init__

    def only_small(self: object, network: nn.Module, batch: Tensor) -> None:
        if batch.shape[-1] > 64:
            raise ExternalFailed("too large")
        real(self, network, batch)

    monkeypatch.setattr(ENGINES[name], "__init__", only_small)
    made = predictor(small, name, side=(64, 96))
    assert made.runtime.engine == "eager"
    assert np.array_equal(made.run(images(1)), predictor(small, "eager").run(images(1)))
    assert len(made.notes) == 1


@pytest.mark.parametrize("wanted", EXTERNAL)
def test_a_missing_package_is_named_with_its_extra(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "find_spec", lambda package: None)
    packages = ", ".join(PACKAGES[wanted])
    with pytest.raises(SettingsError, match=rf"needs {packages}, .*pip install 'aerial-seg\[{wanted}\]'"):
        choose(EngineSettings(wanted, "auto", "cpu"), CPU, tiles=1)


def test_only_what_they_can_do_is_asked_of_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="computes in fp32, not in bf16; leave `precision` out"):
        choose(EngineSettings(name, "bf16"), CPU, tiles=1)
    with pytest.raises(SettingsError, match=r"device is cuda:1; pass `device=\"cpu\"`"):
        choose(EngineSettings(name), torch.device("cuda:1"), tiles=1)
    monkeypatch.setattr(engine, "has_native_bf16", lambda device: True)
    assert choose(EngineSettings(name), CPU, tiles=1) == engine.Choice(name, "fp32")
