"""Networks of 8-bit weights as ONNX: pairs of QuantizeLinear and DequantizeLinear, weights as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule

from aerial_seg.models.eight_bits.graph import LEVELS, aten, round_to_bytes
from aerial_seg.models.eight_bits.layers import EightBitLayers, quantised

_LARGEST_BIAS = 2**31 - 1
_MOVERS = ("MaxPool", "Concat", "Resize")
"""Nodes that give no numbers but those they get: what they give is told to be bytes again, which changes none."""


@torch.library.custom_op("aerial_seg::through_bytes", mutates_args=())
def through_bytes(values: Tensor, scale: float, zero_point: int) -> Tensor:
    """Round to bytes and back. torch's own operator knows no batches of any size when it is exported."""
    rounded: Tensor = aten.fake_quantize_per_tensor_affine(values, scale, zero_point, 0, LEVELS)
    return rounded


@through_bytes.register_fake
def _shape_of(values: Tensor, scale: float, zero_point: int) -> Tensor:
    del scale, zero_point
    return torch.empty_like(values)


def marked_graph(graph: GraphModule, layers: EightBitLayers, *, prefix: str) -> GraphModule:
    """Return the graph with its activations rounded by an operator of ours; it is changed in place.

    Its weights are those that stand for bytes already. Raises what `round_to_bytes` raises.
    """
    rounded = round_to_bytes(graph, layers.inputs, {}, outputs=layers.outputs, prefix=prefix)
    for node in rounded.graph.nodes:
        if node.target == aten.fake_quantize_per_tensor_affine.default:
            node.target, node.args = torch.ops.aerial_seg.through_bytes.default, node.args[:3]
    rounded.recompile()
    return rounded


def translations() -> dict[Any, Any]:
    """Return how the exporter writes that operator."""
    operators: Any = import_module("onnxscript").opset18

    def pair(values: Any, scale: float, zero_point: int) -> Any:
        step = operators.Constant(value_float=float(scale))
        zero = operators.Cast(operators.Constant(value_int=int(zero_point)), to=2)  # uint8
        return operators.DequantizeLinear(operators.QuantizeLinear(values, step, zero), step, zero)

    return {torch.ops.aerial_seg.through_bytes.default: pair}


def store_bytes(document: Any, layers: EightBitLayers, *, prefix: str) -> int:
    """Turn the weights of these layers into bytes and their biases into whole numbers of 32 bits; return how many.

    document: a ModelProto, changed in place.
    """
    made = _Bytes(document.graph)
    scales = {f"{prefix}{layer}.weight": scale for layer, scale in layers.weight_scales.items()}
    count = made.weights(scales)
    made.finish()
    return count


class _Bytes:
    """Edits one graph of a document."""

    def __init__(self, graph: Any) -> None:
        self._onnx: Any = import_module("onnx")
        self._graph = graph
        self._held = {one.name: one for one in graph.initializer}
        self._nodes: list[Any] = []
        self._ranges: dict[
            str, tuple[str, str]
        ] = {}  # of tensors that are bytes: names of scale and zero point
        self._stored: dict[str, str] = {}

    def weights(self, scales: Mapping[str, Tensor]) -> int:
        """All convolutions of these weights, and what moves bytes between them."""
        count = 0
        for node in list(self._graph.node):
            if node.op_type == "DequantizeLinear":
                self._ranges[node.output[0]] = (node.input[1], node.input[2])
            if node.op_type == "Conv" and node.input[1] in scales:
                self._convolution(node, scales[node.input[1]])
                count += 1
            self._nodes.append(node)
            if node.op_type in _MOVERS:
                self._moved(node)
        return count

    def _convolution(self, node: Any, scale: Tensor) -> None:
        name = node.input[1]
        if name not in self._stored:
            self._stored[name] = self._dequantised(
                name, quantised(torch.from_numpy(self._values(name).copy()), scale).numpy(), scale.numpy()
            )
        node.input[1] = self._stored[name]
        given = self._ranges.get(node.input[0])
        if given is None or len(node.input) < 3:
            return
        steps = scale.double().numpy() * float(self._values(given[0]))
        whole = np.round(self._values(node.input[2]).astype(np.float64) / steps)
        if np.abs(whole).max() <= _LARGEST_BIAS:
            node.input[2] = self._dequantised(
                f"{node.output[0]}.bias", whole.astype(np.int32), steps.astype(np.float32)
            )

    def _dequantised(self, name: str, whole: NDArray[Any], scale: NDArray[np.float32]) -> str:
        """A tensor by output channel; returns the name of the numbers that it stands for."""
        zeros = np.zeros(len(scale), whole.dtype)
        parts = {f"{name}.bytes": whole, f"{name}.scale": scale, f"{name}.zero": zeros}
        for key, values in parts.items():
            self._held[key] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(values), key)
        out = f"{name}.numbers"
        self._nodes.append(self._onnx.helper.make_node("DequantizeLinear", list(parts), [out], axis=0))
        return out

    def _moved(self, node: Any) -> None:
        given = {
            self._ranges.get(name) for name in (node.input if node.op_type == "Concat" else node.input[:1])
        }
        (one,) = given if len(given) == 1 else (None,)
        if one is None or not _moves_only(node):
            return
        name = node.output[0]
        node.output[0] = f"{name}.moved"
        make = self._onnx.helper.make_node
        self._nodes.append(make("QuantizeLinear", [f"{name}.moved", *one], [f"{name}.bytes"]))
        self._nodes.append(make("DequantizeLinear", [f"{name}.bytes", *one], [name]))
        self._ranges[name] = one

    def _values(self, name: str) -> NDArray[Any]:
        values: NDArray[Any] = self._onnx.numpy_helper.to_array(self._held[name])
        return values

    def finish(self) -> None:
        """Write all of it, without what nobody reads any more."""
        read = {name for node in self._nodes for name in node.input}
        read |= {one.name for one in self._graph.output}
        nodes, held = list(self._nodes), [one for name, one in self._held.items() if name in read]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(nodes)
        self._graph.initializer.extend(held)


def _moves_only(node: Any) -> bool:
    """Whether an enlargement takes the nearest number."""
    modes = [one.s for one in node.attribute if one.name == "mode"]
    return node.op_type != "Resize" or modes in ([], [b"nearest"])
