"""A trained model as an ONNX file: one graph from images to probabilities, proven equal to the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.models.file import TrainedModel
from aerial_seg.models.placing import for_tiles
from aerial_seg.version import __version__

OPSET = 18
"""The operator set that torch's exporter speaks natively; onnxruntime reads it since 1.14."""
IR_VERSION = 8
"""The oldest file format that has that operator set, so that every onnxruntime that can run the graph reads it.

torch writes 10, which onnxruntime reads since 1.18; the Deepness plugin pins 1.17 at the most, which reads up to 9.
Source: onnx's own table, docs/Versioning.md (onnx.helper.find_min_ir_version_for).
"""
TOLERANCE = 1e-4
"""Largest difference from the network that is accepted, relative to the largest output."""
LARGEST_FILE = 2**31 - 2**25
"""Bytes of weights that fit into one ONNX file: protobuf ends at 2 GiB, and the graph needs some."""
INPUT = "image"

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_CHECKED = (1, 3)
"""Batch sizes that the written file is run with, neither of them the one that it was traced with."""
_TRACED = 2
"""torch.export takes batches of 0 and 1 for special cases, and would bake them in."""


@dataclass(frozen=True, slots=True)
class GraphSettings:
    """What the graph does beside the network.

    side: of the input, in pixels; fixed, because readers ask the file for it. normalise: the input is in the raster's
    own units, else in units of the training standard deviation. upsample: the output has the input's size, else the
    logit stride's. probabilities: softmax over the classes, else logits with the class bias added.
    """

    side: int
    normalise: bool = True
    upsample: bool = True
    probabilities: bool = True

    @property
    def output(self) -> str:
        """The output's name."""
        return "probabilities" if self.probabilities else "logits"


class ExportedForward(nn.Module):
    """Images (N,C,side,side) float32 in, probabilities or logits (N,K,h,w) float32 out."""

    mean: Tensor
    std: Tensor
    bias: Tensor

    def __init__(self, model: TrainedModel, settings: GraphSettings) -> None:
        """Raises SettingsError for a side that the network cannot take."""
        super().__init__()
        network, card = for_tiles(model.network), model.card
        geometry = network.geometry
        geometry.check_side(settings.side)
        assert geometry.cell_span in (None, geometry.logit_stride), "a network as its file holds it"
        self._settings = settings
        self._align_corners = geometry.align_corners
        self.network = network
        self.register_buffer("mean", _per_channel(band.mean for band in card.bands))
        self.register_buffer("std", _per_channel(band.std for band in card.bands))
        self.register_buffer("bias", _per_channel(card.class_bias))
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → probabilities or logits (N,K,h,w)."""
        size = image.shape[2:]
        if self._settings.normalise:
            image = (image - self.mean) / self.std
        logits: Tensor = self.network(image) + self.bias
        if self._settings.upsample and logits.shape[2:] != size:
            logits = interpolate(logits, size=size, mode="bilinear", align_corners=self._align_corners)
        # After the upsampling, as in predict: it is logits that are blended.
        return logits.softmax(dim=1) if self._settings.probabilities else logits

    def example(self, count: int) -> Tensor:
        """Noise like images of the training data (count,C,side,side), always the same."""
        shape = (count, self.mean.shape[1], self._settings.side, self._settings.side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return noise * self.std + self.mean if self._settings.normalise else noise


def check_onnx_installed() -> None:
    """Raises SettingsError unless the packages of the extra `onnx` are there."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"exporting needs {', '.join(missing)}, which is not installed; pip install 'aerial-seg[onnx]'"
        )


def write_onnx(
    model: TrainedModel, path: Path, settings: GraphSettings, metadata: Mapping[str, str]
) -> float:
    """The model lies in the ONNX file `path`; returns its largest difference from the network, as onnxruntime runs it.

    The difference is over batches of 1 and 3 images and relative to the largest output. Batch size is free, all other
    sizes are fixed. metadata: the file's metadata properties. The same model and settings give the same bytes.

    Raises InputError for a network that ONNX cannot hold or whose file computes something else, SettingsError for a
    side that the network cannot take or packages that are missing.
    """
    check_onnx_installed()
    forward = ExportedForward(model, settings)
    what = f"{model.card.recipe.model.architecture} with {model.card.recipe.model.encoder}"
    _check_size(forward, what)
    document = _document(forward, settings, what)
    for key, value in metadata.items():
        document.metadata_props.add(key=key, value=value)
    path.write_bytes(document.SerializeToString(deterministic=True))
    difference = _difference(forward, path, what)
    if not difference <= TOLERANCE:  # NaN included
        raise InputError(
            f"{what} computes other {settings.output} as ONNX: they differ by {difference:.1g} of the largest, wanted "
            f"at most {TOLERANCE:g}; update torch, onnxscript and onnxruntime, or use another architecture"
        )
    return difference


def _per_channel(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32)[None, :, None, None]


def _check_size(forward: nn.Module, what: str) -> None:
    size = sum(weight.nbytes for weight in forward.state_dict().values())
    if size > LARGEST_FILE:
        raise InputError(
            f"the weights of {what} take {size / 2**30:.2f} GiB, but an ONNX file holds at most "
            f"{LARGEST_FILE / 2**30:.2f} GiB; train a smaller encoder"
        )


def _document(forward: ExportedForward, settings: GraphSettings, what: str) -> Any:
    """The ONNX model (ModelProto) of the forward, with nothing in it about where it was made."""
    try:
        with torch.no_grad():
            traced = torch.export.export(
                forward,
                (forward.example(_TRACED),),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                strict=False,
            ).run_decompositions(decompositions())
            program = torch.onnx.export(
                traced,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[settings.output],
                verbose=False,
            )
    except (RuntimeError, ValueError) as error:  # the former are OnnxExporterError and torch.export's own
        raise InputError(
            f"{what} cannot be written as ONNX: {_reason(error)}; use another architecture or encoder"
        ) from error
    assert program is not None
    document = program.model_proto
    _forget_origins(document)
    # Nothing of the newer formats is left in it: they added properties of nodes, which are gone, overloaded functions
    # and types of 4 and 8 bits.
    assert not document.functions
    document.ir_version = IR_VERSION
    # Sizes in between are readers' to infer; torch names their batch after its own symbols.
    document.graph.ClearField("value_info")
    for value in (*document.graph.input, *document.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    document.producer_name, document.producer_version = "aerial-seg", __version__
    return document


def decompositions() -> dict[Any, Callable[..., Tensor]]:
    """What stands for operators that ONNX does not have."""
    return {torch.ops.aten.adaptive_avg_pool2d.default: _averaged_parts}


def _averaged_parts(image: Tensor, parts: list[int]) -> Tensor:
    """adaptive_avg_pool2d in operators that ONNX has; its own need sides that the parts divide.

    Part i of n over a side of length l reaches from floor(i·l/n) to ceil((i+1)·l/n), as torch defines it.
    """
    for axis, count in zip((2, 3), parts, strict=True):
        length = image.shape[axis]
        means = [
            image.narrow(axis, start, -(-(part + 1) * length // count) - start).mean(axis, keepdim=True)
            for part in range(count)
            for start in (part * length // count,)
        ]
        image = torch.cat(means, dim=axis)
    return image


def _reason(error: BaseException) -> str:
    """The first line of the innermost error: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (line.strip() for line in str(error).splitlines())
    return f"{type(error).__name__}: {next(filter(None, lines), 'no reason given')}"


def _forget_origins(message: Any) -> None:
    """torch writes each node's stack trace, with the paths of the machine, into the file."""
    for name in ("metadata_props", "doc_string"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if isinstance(value, Iterable) else (value,):
                _forget_origins(inner)


def _difference(forward: ExportedForward, path: Path, what: str) -> float:
    """max |onnxruntime − network| / max |network| over all checked batches; infinite for another shape."""
    runtime: Any = import_module("onnxruntime")
    reasons: Any = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    images = forward.example(max(_CHECKED))
    with torch.no_grad():
        wanted = forward(images).numpy()
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        results = [session.run(None, {INPUT: images[:count].numpy()})[0] for count in _CHECKED]
    except (
        reasons.Fail, reasons.InvalidArgument, reasons.InvalidGraph, reasons.NotImplemented, reasons.RuntimeException
    ) as error:  # fmt: skip
        raise InputError(
            f"onnxruntime cannot run {what}: {_reason(error)}; update onnxruntime, or use another architecture"
        ) from error
    largest = max(float(np.abs(wanted).max()), float(np.finfo(np.float32).tiny))
    parts = [
        float(np.abs(got - wanted[:count]).max()) if got.shape == wanted[:count].shape else float("inf")
        for count, got in zip(_CHECKED, results, strict=True)
    ]
    return float(np.max(parts)) / largest
