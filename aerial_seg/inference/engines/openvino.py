"""The network in OpenVINO, on the CPU."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from aerial_seg.inference.engines.external import failing, traced


class OpenvinoEngine:
    """Run the network compiled by OpenVINO for batches of one shape, in float32 and torch's number of threads."""

    name = "openvino"

    def __init__(self, network: nn.Module, batch: Tensor) -> None:
        """batch: of the shape that all batches have. Raises ExternalFailed for a network that cannot run there."""
        openvino = openvino_library()
        reasons: Any = import_module("openvino.frontend")
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # else what the processor is fast at
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        with failing(
            RuntimeError,
            reasons.GeneralFailure,
            reasons.InitializationFailure,
            reasons.NotImplementedFailure,
            reasons.OpConversionFailure,
            reasons.OpValidationFailure,
        ):
            graph = openvino.convert_model(traced(network, batch))
            graph.reshape(list(batch.shape))
            self._request = openvino.compile_model(graph, "CPU", settings).create_infer_request()

    def __call__(self, batch: Tensor) -> Tensor:
        """images → logits."""
        (logits,) = self._request.infer([batch.contiguous().numpy()]).values()
        # The next call writes into the same memory.
        return torch.from_numpy(logits.copy())


def openvino_library() -> Any:
    """Import the package such that it sends no word of imports and conversions to its makers, as it would."""
    # None makes an import fail, and OpenVINO then takes its own stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")
