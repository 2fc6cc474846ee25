"""What computes the logits, and how exactly: engines, precisions, and the choice between them.

An engine is one small class that takes batches of a fixed shape; another runtime is another class, a name in
`EngineName` and a branch in `choose_engine` and `start_engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from aerial_seg.choices import Device, NetworkCarrier, NetworkEngine, NetworkPrecision
from aerial_seg.errors import SettingsError
from aerial_seg.inference.engines.eight_bits import PRECISION, EightBitEngine, dequantised_note, why_not
from aerial_seg.inference.engines.external import (
    EXTERNAL,
    PACKAGES,
    ExternalFailed,
    check_installed,
    library_of,
)
from aerial_seg.inference.engines.torch_compile import CompiledForward, CompileFailed, compile_problem
from aerial_seg.inference.engines.winograd import winograd_pays, with_winograd
from aerial_seg.mentions import setting
from aerial_seg.models.device import hardware_name, has_native_bf16, has_own_memory, inference
from aerial_seg.models.eight_bits.layers import EightBitLayers
from aerial_seg.settings import settings

COMPILE_PAYS = 300
"""Tiles from which compiling pays on a CPU: it takes some 20 s, and saves 50 to 80 ms on a 512² tile of a DeepLabv3
with a ResNet-50 at output stride 16, more at 8."""
COMPILE_PAYS_ON_GPU = 400_000
"""Tiles from which it pays there: it took 16 s and gave 10 % at 2,070 tiles/s (DeepLabv3 with a ResNet-50 at output
stride 16, one H200), so that 16 · 2,070 · 11 tiles have paid for it; at 8 half as many would."""

_AGREEMENT = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1}
"""Largest difference between the logits of two engines, relative to the largest logit; beyond it one is broken."""


@settings
@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What was asked for."""

    engine: NetworkEngine = "auto"
    precision: NetworkPrecision = "auto"
    device: Device = "auto"
    carrier: NetworkCarrier = "auto"


@dataclass(frozen=True, slots=True)
class Runtime:
    """Hold all that the bits of the logits depend on besides model and image.

    device: cpu or cuda. hardware: the processor's or GPU's name. library: what computes, with its version, where that
    is not torch. carrier: where tiles are blended, host or device; None where none are.
    """

    engine: str
    precision: str
    device: str
    hardware: str
    batch_size: int
    threads: int
    torch_version: str
    library: str | None = None
    carrier: str | None = None

    @classmethod
    def here(
        cls, choice: Choice, device: torch.device, batch_size: int, *, carrier: str | None = None
    ) -> Runtime:
        """Describe the runtime of this process."""
        return cls(
            engine=choice.engine,
            precision=choice.precision,
            device=device.type,
            hardware=hardware_name(device),
            batch_size=batch_size,
            threads=torch.get_num_threads(),
            torch_version=str(torch.__version__),
            library=library_of(choice.engine),
            carrier=carrier,
        )

    def as_dict(self) -> dict[str, str | int]:
        """Return it for a journal or a report."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Choice:
    """Hold what was chosen, and why wherever it differs from what was asked or would surprise."""

    engine: str
    precision: str
    notes: tuple[str, ...] = ()


class Engine(Protocol):
    """Compute logits of batches of one shape.

    A call takes images (N,C,H,W) float32 on the device, channels-last, and gives logits (N,K,h,w) of any float dtype.
    """

    name: str

    def __call__(self, batch: Tensor) -> Tensor:
        """images → logits."""
        ...


class EagerEngine:
    """Call the network as it is."""

    name = "eager"

    def __init__(self, network: nn.Module, *, precision: str, device: torch.device) -> None:
        self._network, self._precision, self._device = network, precision, device

    def __call__(self, batch: Tensor) -> Tensor:
        """images → logits."""
        with inference(self._device, self._precision):
            logits: Tensor = self._network(batch)
        return logits


class CompiledEngine:
    """Run the network through torch.compile, its weights frozen into the code, for batches of one shape.

    Where that pays its wide 3×3 convolutions are computed with fewer multiplications.
    """

    name = "compile"

    def __init__(self, network: nn.Module, *, precision: str, device: torch.device) -> None:
        faster = with_winograd(network) if winograd_pays(device, precision) else network
        self._forward = CompiledForward(faster, device)
        self._precision, self._device = precision, device

    def __call__(self, batch: Tensor) -> Tensor:
        """images → logits; the first call compiles, and raises CompileFailed where that does not work."""
        with inference(self._device, self._precision):
            return self._forward(batch)


def choose(settings: EngineSettings, device: torch.device, *, tiles: int, eight_bits: bool = False) -> Choice:
    """Choose precision and engine for `tiles` tiles on this device. eight_bits: of a model of such weights.

    Raises SettingsError for a precision that the device or the engine cannot do, and an engine that is not installed.
    """
    if eight_bits:
        reason = why_not(settings.engine, settings.precision, device)
        if reason is None:
            return Choice("openvino", PRECISION)
        made = choose(settings, device, tiles=tiles)
        return replace(made, notes=(dequantised_note(reason), *made.notes))
    if settings.engine in EXTERNAL:
        return _choose_external(settings, device)
    precision, why_precision = _choose_precision(settings.precision, device)
    engine, why_engine = _choose_engine(settings.engine, device, tiles)
    return Choice(engine, precision, (*why_precision, *why_engine))


def choose_carrier(settings: EngineSettings, device: torch.device) -> str:
    """Return where tiles are cut, blended and turned into pixels: on the `host`, or on the `device`.

    Raises SettingsError for a device that is asked to carry what an engine outside torch computes.
    """
    if settings.engine in EXTERNAL:
        if settings.carrier == "device":
            raise SettingsError(
                f"{setting('engine', settings.engine)} takes and gives what lies on the host, so "
                f"{setting('carrier', 'device')} cannot go with it; leave one of them out"
            )
        return "host"
    if settings.carrier == "auto":
        return "device" if has_own_memory(device) else "host"
    return settings.carrier


def carrier_beside_crf(settings: EngineSettings, device: torch.device) -> tuple[EngineSettings, list[str]]:
    """Return the settings of a run with a CRF, which only the host can carry, and what to say of it.

    Raises SettingsError where the device was asked for.
    """
    if settings.carrier == "device":
        raise SettingsError(
            f"a CRF is computed on the host, so {setting('carrier', 'device')} cannot go with it; leave one of them out"
        )
    told = (
        ["carrier host: a CRF is computed on the host, so tiles are blended there too"]
        if has_own_memory(device)
        else []
    )
    return replace(settings, carrier="host"), told


def _choose_external(settings: EngineSettings, device: torch.device) -> Choice:
    engine = settings.engine
    if device.type != "cpu":
        raise SettingsError(
            f"{setting('engine', engine)} runs on the CPU, but the device is {device}; pass "
            f"{setting('device', 'cpu')}, or {setting('engine', 'eager')}"
        )
    if settings.precision not in ("auto", "fp32"):
        raise SettingsError(
            f"{setting('engine', engine)} computes in fp32, not in {settings.precision}; leave {setting('precision')} "
            f"out, or use {setting('engine', 'eager')} or compile"
        )
    check_installed(engine)
    return Choice(engine, "fp32")


def is_halved(settings: EngineSettings, device: torch.device) -> bool:
    """Tell whether the network will compute in 16 bits."""
    if settings.precision == "auto":
        return settings.engine not in EXTERNAL and has_native_bf16(device)
    return settings.precision in ("bf16", "fp16")


def _choose_precision(wanted: str, device: torch.device) -> tuple[str, Sequence[str]]:
    native, name = has_native_bf16(device), hardware_name(device)
    if wanted == "fp16" and device.type == "cpu":
        raise SettingsError(
            f"precision fp16 needs a CUDA device; use {setting('precision', 'bf16')}, fp32 or auto on the CPU"
        )
    if wanted == "bf16" and not native:
        other = "fp32" if device.type == "cpu" else "fp16"
        return wanted, [
            f"precision bf16: {name} only emulates bfloat16, which can take 100 times as long; pass "
            f"{setting('precision', other)}"
        ]
    if wanted != "auto":
        return wanted, []
    if native:
        return "bf16", [
            f"precision bf16: {name} multiplies bfloat16 natively; pixels with nearly tied classes may differ from "
            f"fp32's, which is slower and exact ({setting('precision', 'fp32')})"
        ]
    return "fp32", []


def _choose_engine(wanted: str, device: torch.device, tiles: int) -> tuple[str, Sequence[str]]:
    if wanted == "eager":
        return "eager", []
    pays = COMPILE_PAYS if device.type == "cpu" else COMPILE_PAYS_ON_GPU
    if wanted == "auto" and tiles < pays:
        return "eager", [
            f"engine eager: compiling pays from about {pays:,} tiles here, these are {tiles:,} "
            f"({setting('engine', 'compile')} does it all the same)"
        ]
    problem = compile_problem(device)
    return ("compile", []) if problem is None else ("eager", [_not_compiled(problem)])


def start_engine(
    choice: Choice,
    network: nn.Module,
    batch: Tensor,
    *,
    device: torch.device,
    eight_bits: EightBitLayers | None = None,
) -> tuple[Engine, Choice]:
    """Start an engine and prove it on this batch; return it and the choice it stands for.

    A network that cannot be compiled or run there, or computes something else then, runs eagerly with a note.
    eight_bits: what a choice of 8 bits computes with.
    """
    if choice.precision == PRECISION:
        assert eight_bits is not None
        try:
            return EightBitEngine(network, eight_bits, batch), choice
        except ExternalFailed as error:
            note = dequantised_note(f"openvino cannot run this network ({error}); update openvino")
            fallen = Choice("eager", "fp32", (*choice.notes, note))
            return EagerEngine(network, precision="fp32", device=device), fallen
    eager = EagerEngine(network, precision=choice.precision, device=device)
    if choice.engine == "eager":
        if has_own_memory(device):
            eager(batch)
        return eager, choice
    try:
        engine = _other_engine(choice, network, batch, device)
        difference = _difference(engine(batch), eager(batch))
    except (CompileFailed, ExternalFailed) as error:
        return eager, _fall_back(choice, str(error))
    if not difference <= _AGREEMENT[choice.precision]:
        return eager, _fall_back(choice, f"its logits differ by {difference:.1g} of the largest")
    return engine, choice


def _other_engine(choice: Choice, network: nn.Module, batch: Tensor, device: torch.device) -> Engine:
    if choice.engine == "onnx":
        from aerial_seg.inference.engines.onnx import OnnxEngine

        return OnnxEngine(network, batch)
    if choice.engine == "openvino":
        from aerial_seg.inference.engines.openvino import OpenvinoEngine

        return OpenvinoEngine(network, batch)
    return CompiledEngine(network, precision=choice.precision, device=device)


def _difference(logits: Tensor, reference: Tensor) -> float:
    with torch.inference_mode():
        largest = reference.float().abs().max().clamp(min=1e-12)
        return float((logits.float() - reference.float()).abs().max() / largest)


def _fall_back(choice: Choice, problem: str) -> Choice:
    if choice.engine in EXTERNAL:
        package = PACKAGES[choice.engine][0]
        note = (
            f"engine eager: {package} cannot run this network ({problem}); update {package}, or pass "
            f"{setting('engine', 'eager')}"
        )
    else:
        note = _not_compiled(problem)
    return Choice("eager", choice.precision, (*choice.notes, note))


def _not_compiled(problem: str) -> str:
    return (
        f"engine eager: compiling does not work here ({problem}); install a C++ compiler (g++, clang++ or Visual "
        f"Studio's) if it is missing, or pass {setting('engine', 'eager')}"
    )
