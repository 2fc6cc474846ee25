"""The ONNX file computes what the network computes, whatever the batch, and says what it is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples, few
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

import aerial_seg.models.export as exporting
from aerial_seg.bands import Band, normalise
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.export import IR_VERSION, OPSET, GraphSettings, write_onnx
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry

if TYPE_CHECKING:
    from tests.conftest import Environment

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

BANDS = (
    Band(name="red", dtype="uint8", mean=90, std=31, p2=1, p98=250),
    Band(name="nir", dtype="uint8", mean=140, std=57, p2=1, p98=250),
)
BIAS = (0.0, -0.75, 1.5)


def trained(network: Network, model: ModelSettings) -> TrainedModel:
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=model),
        legend=make_legend({0: "background", 7: "road", 9: "water"}),
        bands=BANDS,
        gsd=0.5,
        class_bias=BIAS,
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    return TrainedModel(network=network.eval(), card=card, sha256="0" * 64)


def make(architecture: str, *, stride: int = 8) -> TrainedModel:
    """Untrained, but with batch norms that do something."""
    torch.manual_seed(5)
    own = architecture in ("fcn", "deeplabv3", "deeplabv3+", "pspnet")
    model = ModelSettings(
        architecture=architecture,
        output_stride=stride if own else 8,
        head_channels=16 if own else None,
        options={"decoder_channels": [16, 16, 8, 8, 8]} if architecture == "Unet" else {},
    )
    network = build_network(model, bands=len(BANDS), classes=len(BIAS))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return trained(network, model)


class Tiny(Network):
    """Cells of four pixels through a convolution with batch norm, and an auxiliary head that forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = ModelGeometry(output_stride=4, logit_stride=4, origin_step=8)
        self.layers = nn.Sequential(
            nn.Conv2d(len(BANDS), 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, len(BIAS), 1)
        )
        self.auxiliary = nn.Conv2d(8, 50, 3)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H/4,W/4)."""
        logits: Tensor = self.layers(image)
        return logits


@pytest.fixture(scope="module")
def tiny() -> TrainedModel:
    torch.manual_seed(6)
    return trained(Tiny(), ModelSettings())


@dataclass(frozen=True)
class Written:
    """A file, what made it, and how far it was found off."""

    path: Path
    model: TrainedModel
    difference: float

    def run(self, images: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        (result,) = session.run(None, {"image": images})
        return result


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Written]:
    def written(model: TrainedModel, graph: GraphSettings, **metadata: str) -> Written:
        path = tmp_path / "model.onnx"
        return Written(path, model, write_onnx(model, path, graph, metadata))

    return written


@pytest.fixture(scope="module")
def tiny_file(tiny: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The whole graph of `tiny` for 64 px, written once: probabilities of raw pixels."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return Written(path, tiny, write_onnx(tiny, path, GraphSettings(side=64), {"resolution": "50.0"}))


def pixels(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, len(BANDS), side, side)).astype(np.float32)


def by_hand(model: TrainedModel, images: np.ndarray) -> np.ndarray:
    """Logits at the size of the images, from the parts that predict uses."""
    valid = np.ones(images.shape[2:], bool)
    normalised = np.stack([normalise(image, valid, BANDS) for image in images])
    with torch.no_grad():
        logits = model.network(torch.from_numpy(normalised)) + torch.tensor(BIAS)[:, None, None]
        return interpolate(
            logits,
            size=images.shape[2:],
            mode="bilinear",
            align_corners=model.network.geometry.align_corners,
        ).numpy()


def closeness(got: np.ndarray, wanted: np.ndarray) -> float:
    assert got.shape == wanted.shape
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(
    "architecture",
    few(["Unet", "deeplabv3", "pspnet", "fcn"], quick=1),
)
def test_the_file_equals_the_network_at_every_batch_size(
    architecture: str, write: Callable[..., Written]
) -> None:
    # 64 px give PSPNet 8 cells, which neither its 3 nor its 6 parts divide.
    model = make(architecture)
    file = write(model, GraphSettings(side=64, probabilities=False))
    assert file.difference < 1e-4
    for count in (1, 3):
        images = pixels(count, 64)
        assert closeness(file.run(images), by_hand(model, images)) < 1e-4


_OLD_RUNTIME = """
import json, sys
import numpy, onnxruntime
for folder in sys.argv[1:]:
    session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (result,) = session.run(None, {"image": numpy.load(f"{folder}/image_{count}.npy")})
        numpy.save(f"{folder}/result_{count}.npy", result)
    told = session.get_modelmeta().custom_metadata_map
    open(folder + "/told.json", "w").write(json.dumps([onnxruntime.__version__, told]))
"""


@pytest.mark.slow
def test_the_runtime_that_deepness_pins_computes_the_same(environment: Environment, tmp_path: Path) -> None:
    """onnxruntime 1.17.3, the last that the QGIS plugin takes, in an environment of its own."""
    python = environment("onnxruntime==1.17.3", "numpy<2")
    architectures = ("fcn", "deeplabv3", "deeplabv3+", "pspnet", "Unet")
    folders = {}
    for name in architectures:
        model, folder = make(name), tmp_path / name
        folder.mkdir()
        graph = GraphSettings(side=64, probabilities=False)
        write_onnx(model, folder / "model.onnx", graph, {"class_names": '{"0": "road"}'})
        for count in (1, 3):
            np.save(folder / f"image_{count}.npy", pixels(count, 64))
        folders[folder] = model
    subprocess.run([str(python), "-I", "-c", _OLD_RUNTIME, *map(str, folders)], check=True)
    for folder, model in folders.items():
        assert json.loads((folder / "told.json").read_text()) == ["1.17.3", {"class_names": '{"0": "road"}'}]
        for count in (1, 3):
            got = np.load(folder / f"result_{count}.npy")
            assert closeness(got, by_hand(model, pixels(count, 64))) < 1e-4, folder.name


def test_a_batch_is_its_images_one_by_one(tiny_file: Written) -> None:
    images = pixels(3, 64)
    alone = np.concatenate([tiny_file.run(image[None]) for image in images])
    np.testing.assert_allclose(tiny_file.run(images), alone, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


def test_each_step_of_the_graph_can_be_left_to_the_reader(
    write: Callable[..., Written], tiny: TrainedModel, tiny_file: Written
) -> None:
    images = pixels(2, 64)
    everything = by_hand(tiny, images)
    shares = torch.from_numpy(everything).softmax(1).numpy()
    assert closeness(tiny_file.run(images), shares) < 1e-4

    valid = np.ones((64, 64), bool)
    normalised = np.stack([normalise(image, valid, BANDS) for image in images])
    bare = write(tiny, GraphSettings(side=64, normalise=False, probabilities=False))
    assert closeness(bare.run(normalised), everything) < 1e-4

    cells = write(tiny, GraphSettings(side=64, upsample=False, probabilities=False)).run(images)
    assert cells.shape == (2, 3, 16, 16)
    back = interpolate(torch.from_numpy(cells), size=(64, 64), mode="bilinear").numpy()
    assert closeness(back, everything) < 1e-4


class Aligned(Network):
    """Cells at every fourth pixel, the first and the last included."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = ModelGeometry(output_stride=4, logit_stride=4, origin_step=4, align_corners=True)
        self.classify = nn.Conv2d(len(BANDS), len(BIAS), 1, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,4n+1,4n+1) → logits (N,K,n+1,n+1)."""
        logits: Tensor = self.classify(image)
        return logits


def test_upsampling_follows_the_geometry(write: Callable[..., Written]) -> None:
    torch.manual_seed(2)
    model, images = trained(Aligned(), ModelSettings()), pixels(1, 33)
    got = write(model, graph := GraphSettings(side=33, probabilities=False)).run(images)
    assert closeness(got, by_hand(model, images)) < 1e-4
    cells = write(model, replace(graph, upsample=False)).run(images)
    # With aligned corners the cells keep their values, at every fourth pixel.
    np.testing.assert_allclose(got[:, :, ::4, ::4], cells, atol=1e-4)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 7).flatmap(lambda n: st.just([n, max(1, n - 1)]))
)
@settings(max_examples=examples(40))
def test_averages_over_parts_are_torchs(height: int, width: int, parts: list[int]) -> None:
    image = torch.randn(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(exporting._averaged_parts(image, parts), adaptive_avg_pool2d(image, parts))


def messages(message: Any) -> list[Any]:
    """The protobuf message and all within it."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if hasattr(value, "__len__") else [value]:
                found += messages(inner)
    return found


def test_the_file_says_what_it_is_and_not_where_it_was_made(tiny: TrainedModel, tiny_file: Written) -> None:
    document = onnx.load(tiny_file.path)
    onnx.checker.check_model(document, full_check=True)
    assert {(entry.domain, entry.version) for entry in document.opset_import} == {("", OPSET)}
    # onnxruntime 1.17, which Deepness pins, reads up to 9; the oldest format is that of onnx's own table.
    assert (
        document.ir_version == IR_VERSION == onnx.helper.find_min_ir_version_for(document.opset_import) == 8
    )
    assert {entry.key: entry.value for entry in document.metadata_props} == {"resolution": "50.0"}
    assert document.producer_name == "aerial-seg"
    whole = tiny_file.path.read_bytes()
    for secret in (str(Path(exporting.__file__).parents[2]), "site-packages"):
        assert secret.encode() not in whole
    assert not any(getattr(message, "doc_string", "") for message in messages(document))
    # The auxiliary head is for training only.
    held = {tuple(weight.dims) for weight in document.graph.initializer}
    assert (8, len(BANDS), 4, 4) in held
    assert tuple(tiny.network.auxiliary.weight.shape) not in held


def test_the_shapes_are_what_readers_ask_for(tiny_file: Written) -> None:
    session = onnxruntime.InferenceSession(str(tiny_file.path), providers=["CPUExecutionProvider"])
    (image,), (shares,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape, image.type) == ("image", ["batch", 2, 64, 64], "tensor(float)")
    assert (shares.name, shares.shape) == ("probabilities", ["batch", 3, 64, 64])


def test_the_same_model_gives_the_same_bytes_and_stays_as_it_is(
    write: Callable[..., Written], tiny: TrainedModel
) -> None:
    before = {name: weight.clone() for name, weight in tiny.network.state_dict().items()}
    graph = GraphSettings(side=32)
    first = write(tiny, graph, a="1", b="2").path.read_bytes()
    assert write(tiny, graph, a="1", b="2").path.read_bytes() == first
    after = tiny.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not tiny.network.training


@pytest.mark.parametrize("side", [60, 65, 4])
def test_a_side_that_the_network_cannot_take_is_refused(
    side: int, write: Callable[..., Written], tiny: TrainedModel
) -> None:
    with pytest.raises(SettingsError, match=rf"tile size {side} .* try "):
        write(tiny, GraphSettings(side=side))


class Pooling(Network):
    """Averages over parts that do not divide its side."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = ModelGeometry(output_stride=1, logit_stride=1, origin_step=1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,3,H,W)."""
        return interpolate(adaptive_avg_pool2d(image, 3), size=image.shape[2:])[:, :1].expand(-1, 3, -1, -1)


class Unsupported(Network):
    """Computes with a function that ONNX has nothing for."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = ModelGeometry(output_stride=1, logit_stride=1, origin_step=1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,3,H,W)."""
        return torch.special.airy_ai(image[:, :1]).expand(-1, 3, -1, -1)


class DataDependent(Unsupported):
    """Decides by values, which no graph can."""

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,3,H,W)."""
        shown = image if float(image.sum()) > 0 else -image
        return shown[:, :1].expand(-1, 3, -1, -1)


@pytest.mark.parametrize("network", [Unsupported, DataDependent])
def test_what_onnx_cannot_hold_is_one_line(
    network: type[Network], write: Callable[..., Written], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="cannot be written as ONNX") as raised:
        write(trained(network(), ModelSettings()), GraphSettings(side=8))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
    assert list(tmp_path.iterdir()) == []


def test_a_file_beyond_protobufs_limit_is_refused(
    write: Callable[..., Written], tiny: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(weight.nbytes for weight in tiny.network.state_dict().values())
    monkeypatch.setattr(exporting, "LARGEST_FILE", size)
    with pytest.raises(InputError, match="holds at most"):
        write(tiny, GraphSettings(side=32))  # the statistics of the bands come on top
    monkeypatch.setattr(exporting, "LARGEST_FILE", size + 1000)
    write(tiny, GraphSettings(side=32))


def test_a_file_that_computes_something_else_is_refused(
    write: Callable[..., Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = exporting._averaged_parts
    monkeypatch.setattr(exporting, "_averaged_parts", lambda image, parts: right(image, parts) * 1.01)
    with pytest.raises(InputError, match=r"differ by .* wanted at most 0\.0001"):
        write(trained(Pooling(), ModelSettings()), GraphSettings(side=7, probabilities=False))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(
    package: str, write: Callable[..., Written], tiny: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = exporting.find_spec
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(SettingsError, match=rf"needs {package}, .*pip install 'aerial-seg\[onnx\]'"):
        write(tiny, GraphSettings(side=32))
