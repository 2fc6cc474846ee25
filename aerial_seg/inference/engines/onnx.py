"""The network in ONNX Runtime, on the CPU."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from aerial_seg.inference.engines.external import ExternalFailed, failing, traced
from aerial_seg.models.export import INPUT, LARGEST_FILE, OPSET, decompositions


class OnnxEngine:
    """Run the network as an ONNX graph for batches of one shape, in float32 and as many threads as torch has."""

    name = "onnx"

    def __init__(self, network: nn.Module, batch: Tensor) -> None:
        """batch: of the shape that all batches have. Raises ExternalFailed for a network that cannot run there."""
        weights = sum(weight.nbytes for weight in network.state_dict().values())
        if weights > LARGEST_FILE:
            raise ExternalFailed(
                f"its weights take {weights / 2**30:.2f} GiB, more than one ONNX graph holds"
            )
        runtime: Any = import_module("onnxruntime")
        reasons: Any = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3  # errors only
        document = _document(network, batch)
        with failing(
            reasons.Fail,
            reasons.InvalidArgument,
            reasons.InvalidGraph,
            reasons.NotImplemented,
            reasons.RuntimeException,
        ):
            self._session = runtime.InferenceSession(document, options, providers=["CPUExecutionProvider"])

    def __call__(self, batch: Tensor) -> Tensor:
        """images → logits."""
        (logits,) = self._session.run(None, {INPUT: batch.contiguous().numpy()})
        return torch.from_numpy(logits)


def _document(network: nn.Module, batch: Tensor) -> bytes:
    program = traced(network, batch, decompositions())
    with failing(RuntimeError, ValueError), torch.no_grad():  # OnnxExporterError is the former
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=["logits"],
            verbose=False,
        )
        assert made is not None
        document: bytes = made.model_proto.SerializeToString()
    return document
