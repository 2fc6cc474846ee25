"""A model of 8-bit weights as ONNX: bytes in the file and between its nodes, and torch's roundings in onnxruntime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from eight_bit_models import joined, rounded_model
from torch import Tensor

import aerial_seg.models.eight_bits.onnx_graph as writing
from aerial_seg.errors import InputError
from aerial_seg.models.eight_bits.graph import InputRange
from aerial_seg.models.eight_bits.layers import EightBitLayers
from aerial_seg.models.export import GraphSettings, write_onnx
from aerial_seg.models.file import TrainedModel

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return rounded_model(joined())


@pytest.fixture(scope="module")
def written(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    path = tmp_path_factory.mktemp("onnx") / "m8.onnx"
    return path, write_onnx(model, path, GraphSettings(side=16, probabilities=False), {"told": "so"})


def test_it_computes_what_torch_rounds_for_any_batch(
    model: TrainedModel, written: tuple[Path, float]
) -> None:
    path, difference = written
    assert 0 <= difference < 0.02
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 + 9
    (got,) = session.run(None, {"image": image.numpy()})
    with torch.inference_mode():
        wanted: Tensor = model.network((image - 9) / 2)
        wanted = torch.nn.functional.interpolate(wanted, (16, 16), mode="bilinear").numpy()
    assert got.shape == wanted.shape
    assert np.sqrt(np.square(got - wanted).mean() / np.square(wanted).mean()) < 0.05


def test_weights_and_what_moves_between_are_bytes(model: TrainedModel, written: tuple[Path, float]) -> None:
    document: Any = onnx.load(written[0])
    onnx.checker.check_model(document)
    assert [(one.key, one.value) for one in document.metadata_props] == [("told", "so")]
    held = {one.name: onnx.numpy_helper.to_array(one) for one in document.graph.initializer}
    made = {name: node for node in document.graph.node for name in node.output}
    assert model.eight_bits is not None
    names = list(model.eight_bits.weight_scales)
    kinds = Counter(node.op_type for node in document.graph.node)
    assert kinds["Conv"] == len(names) == 4
    for node in (one for one in document.graph.node if one.op_type == "Conv"):
        pixels, weight, bias = (made[name] for name in node.input)
        assert {pixels.op_type, weight.op_type, bias.op_type} == {"DequantizeLinear"}
        assert (held[weight.input[0]].dtype, held[bias.input[0]].dtype) == (np.int8, np.int32)
        # Who adds in 32 bits adds a bias that is counted in the same steps.
        steps = held[pixels.input[1]].astype(np.float64) * held[weight.input[1]]
        np.testing.assert_allclose(held[bias.input[1]], steps, rtol=1e-6)
    floats = sum(one.size for one in held.values() if one.dtype == np.float32)
    assert floats < 100
    # Both poolings, the enlarging and the joining give bytes again.
    moving = [node for node in document.graph.node if _moves(node)]
    assert {node.op_type for node in moving} == {"MaxPool", "Concat", "Resize"}
    for node in moving:
        (reader,) = [one for one in document.graph.node if node.output[0] in one.input]
        assert reader.op_type == "QuantizeLinear"
        assert {made[name].op_type for name in node.input[:2] if name in made} == {"DequantizeLinear"}


def _moves(node: Any) -> bool:
    """Of pixels, and without making new numbers."""
    told = {one.name: one.i if one.type == 2 else one.s for one in node.attribute}
    if node.op_type == "Concat":
        return told["axis"] == 1
    return node.op_type == "MaxPool" or (node.op_type == "Resize" and told["mode"] == b"nearest")


def test_a_file_that_rounds_elsewhere_is_refused(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = writing.quantised
    monkeypatch.setattr(writing, "quantised", lambda weight, scale: right(weight, scale) // 2)
    with pytest.raises(InputError, match=r"they differ by .* of them \(rms\), wanted at most 0\.1"):
        write_onnx(model, tmp_path / "m.onnx", GraphSettings(side=16), {})


def test_layers_of_another_network_are_refused(model: TrainedModel, tmp_path: Path) -> None:
    assert model.eight_bits is not None
    other = EightBitLayers(
        model.eight_bits.weight_scales,
        {**model.eight_bits.inputs, "last": InputRange(9.0, 3)},
        model.eight_bits.outputs,
    )
    spoilt = TrainedModel(model.network, model.card, model.sha256, (), other)
    with pytest.raises(InputError, match="down and last read one tensor by two scales"):
        write_onnx(spoilt, tmp_path / "m.onnx", GraphSettings(side=16), {})
