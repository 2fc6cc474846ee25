"""The one file that names cuda, autocast and memory formats."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aerial_seg.errors import SettingsError
from aerial_seg.files.operating_system import cpu_facts
from aerial_seg.mentions import setting
from aerial_seg.models.pending import Pending

CPU = torch.device("cpu")
OutOfMemory = torch.cuda.OutOfMemoryError
Made = TypeVar("Made", bound=tuple[Tensor, ...])
Homeward = Callable[[], NDArray[np.uint8]]
"""Waits until bytes have come from the device, and gives them."""

_SAY_FULL = ("allocate memory", "out of memory")
"""Words of errors that have no kind of their own: of the CPU, and of CUDA where it is not torch that allocates."""

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""CPU flags of units that multiply bfloat16: two of x86, one of ARM."""
_BYTE_UNITS = {"avx512_vnni", "avx_vnni", "amx_int8"}


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device where there is one, else the CPU; `cpu`, `cuda` and `cuda:1` mean themselves."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"there is no device '{name}'; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise SettingsError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise SettingsError(
                f"device '{name}' was asked for, but {count} CUDA devices are usable; use cpu or auto"
            )
    return device


def to_device(model: nn.Module, device: torch.device) -> None:
    """The model lies on the device, its convolution weights channels-last (the faster layout on both kinds)."""
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def batch_to_device(batch: Tensor, device: torch.device) -> Tensor:
    """The image batch (N,C,H,W) on the device, channels-last."""
    return batch.to(device, memory_format=torch.channels_last, non_blocking=True)


def pick_training_precision(wanted: str, device: torch.device) -> tuple[str, tuple[str, ...]]:
    """fp32, bf16 or fp16 for `auto` and for these themselves, and what is to say of that.

    auto: bf16 on a GPU that multiplies it, else fp32. A CPU that multiplies it takes half the time for a step, but
    short runs ended 0.01 of IoU lower (figures: tests/speed/training.py), so there it is for who asks for it. Nothing
    is timed here, so that the same command computes the same.
    Raises SettingsError for what the device cannot.
    """
    native, name = has_native_bf16(device), hardware_name(device)
    if wanted == "auto":
        return ("bf16" if native and has_own_memory(device) else "fp32"), ()
    if wanted == "fp16" and device.type == "cpu":
        raise SettingsError(
            f"precision fp16 needs a CUDA device; use {setting('precision', 'bf16')}, fp32 or auto on the CPU"
        )
    if wanted == "bf16" and not native:
        return wanted, (f"precision bf16: {name} only emulates bfloat16, which can take 100 times as long",)
    return wanted, ()


def training_precision(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Inside, forwards compute in fp32, bf16 or fp16; what has few bits to lose (norms' statistics) in float32."""
    if precision in _HALVES:
        return torch.autocast(device.type, dtype=_HALVES[precision])
    return nullcontext()


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler | None:
    """What keeps gradients of fp16 from vanishing; None for types with float32's range."""
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(asked is not None and asked()) or not _NATIVE_BF16.isdisjoint(_cpu_flags())


def has_matrix_units() -> bool:
    """Whether this CPU multiplies whole tiles of bfloat16 at once (AMX)."""
    flags = _cpu_flags()
    if flags:
        return "amx_bf16" in flags
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)  # the system keeps no list
    return bool(asked is not None and asked())


def has_byte_units() -> bool:
    """Whether this CPU sums products of bytes in 32 bits at once (AVX-512 VNNI, AVX VNNI, AMX)."""
    flags = _cpu_flags()
    if flags:
        return not _BYTE_UNITS.isdisjoint(flags)
    names = ("_is_avx512_vnni_supported", "_is_vnni_supported", "_is_amx_tile_supported")
    asked = [getattr(torch.cpu, name, None) for name in names]  # the system keeps no list
    return any(one is not None and one() for one in asked)


def hardware_name(device: torch.device) -> str:
    """The GPU's name; the CPU's with the instruction set in use, which a virtual machine's model name does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = cpu_facts().get("model name") or platform.processor() or platform.machine()
    return f"{name} ({_instructions()})"


@cache
def _instructions() -> str:
    # Asked for each of thousands of scenes; torch chooses them once, when it is loaded.
    return str(torch.backends.cpu.get_cpu_capability())


def cast_weights(network: nn.Module, precision: str) -> None:
    """The weights that autocast would cast in every forward are cast once, which changes no bit of the logits."""
    if precision in _HALVES:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.to(_HALVES[precision])


@contextmanager
def inference(device: torch.device, precision: str) -> Iterator[None]:
    """Inside, forwards keep no graph, run in fp32, bf16 or fp16 and give the same bits in every process."""
    with ExitStack() as entered:
        entered.enter_context(torch.inference_mode())
        entered.enter_context(reproducible(device))
        if precision in _HALVES:
            entered.enter_context(torch.autocast(device.type, dtype=_HALVES[precision]))
        yield


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Inside, CUDA convolutions use no algorithm chosen by timing, none that adds in a varying order, and no TF32."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    wanted: list[tuple[Any, str, object]] = [(cudnn, "benchmark", False), (cudnn, "deterministic", True)]
    if hasattr(cudnn, "conv"):
        wanted.append((cudnn.conv, "fp32_precision", "ieee"))
    else:  # torch < 2.9
        wanted.append((cudnn, "allow_tf32", False))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in wanted]
    try:
        for owner, name, value in wanted:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def has_own_memory(device: torch.device) -> bool:
    """Whether the device's memory is not the host's, so that a batch may turn out too large for it."""
    return device.type == "cuda"


@contextmanager
def enough_memory(what: str, *, remedy: str) -> Iterator[None]:
    """Inside, memory that is not there becomes a SettingsError that names `what` and the remedy."""
    try:
        yield
    except (OutOfMemory, MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        raise SettingsError(f"{what} does not fit into memory; {remedy}") from error


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether memory that was not there raised this."""
    # torch's CPU allocator raises a plain RuntimeError, and CUDA's errors are all of one kind.
    return isinstance(error, OutOfMemory | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _SAY_FULL)
    )


def check_devices(device: torch.device, processes: int) -> None:
    """Raises SettingsError where so many processes of this machine cannot have a device each; CPUs are shared."""
    if device.type != "cuda" or processes == 1:
        return
    usable = torch.cuda.device_count()
    if device.index is not None or processes > usable:
        got = f"{device} is one" if device.index is not None else f"{usable} are usable"
        raise SettingsError(
            f"{processes} processes want a CUDA device each, but {got}; use {setting('device', 'cuda')} with "
            f"{setting('processes', usable)} at the most, or {setting('device', 'cpu')}"
        )


def free_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that nobody uses: what the system calls free, and what torch keeps without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def device_peak_while(device: torch.device, work: Callable[[], object]) -> int:
    """The most bytes of a CUDA device that torch's tensors took during this call."""
    torch.cuda.reset_peak_memory_stats(device)
    work()
    wait_for(device)
    return int(torch.cuda.max_memory_allocated(device))


def wait_for(device: torch.device) -> None:
    """All that a CUDA device was given to do is done; a CPU does it at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release_memory(device: torch.device) -> None:
    """What torch keeps of a CUDA device's memory without using it is free again."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def random_states() -> dict[str, Tensor]:
    """The states of torch's random numbers by device: of the CPU and, once CUDA is in use, of every CUDA device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states |= {f"cuda:{k}": state for k, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Go on drawing as when `random_states` told these; devices that are not here are passed over."""
    torch.set_rng_state(states["cpu"])
    for name, state in states.items():
        if (
            name != "cpu"
            and torch.cuda.is_available()
            and torch.device(name).index < torch.cuda.device_count()
        ):
            torch.cuda.set_rng_state(state, name)


class CpuTransfer:
    """The way between host and device where they are the same."""

    depth = 1

    def host_batch(self, *shape: int) -> Tensor:
        """An unwritten batch (N,C,H,W) float32, channels-last."""
        return torch.empty(shape, memory_format=torch.channels_last)

    def to_device(self, batch: Tensor) -> Tensor:
        """The batch itself."""
        return batch

    def host_rows(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Unwritten memory on the host that the device copies from."""
        return torch.empty(shape, dtype=dtype)

    def numbers_to_device(self, numbers: NDArray[np.int64]) -> Tensor:
        """The numbers as a tensor."""
        return torch.from_numpy(numbers)

    def to_host(self, logits: Tensor) -> Pending:
        """The logits themselves."""
        return Pending.arrived(logits.numpy())

    def bytes_home(self, layer: Tensor) -> Homeward:
        """The bytes themselves."""
        return layer.numpy

    def ahead(self, flat: Tensor, work: Callable[[Tensor], Made]) -> Callable[[], Made]:
        """What gives that which `work` made of these bytes, which may be written over then."""
        made = work(flat)
        return lambda: made


class CudaTransfer:
    """The way to a CUDA device and back, on streams of its own and from pinned memory.

    So batch k + 1 is filled and travels while batch k computes, and the logits of batch k − 1 travel home. torch's
    pinned allocator keeps a buffer until the copies that use it are done, and hands it out again afterwards.
    """

    depth = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._out: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._home: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def host_batch(self, *shape: int) -> Tensor:
        """An unwritten batch (N,C,H,W) float32, channels-last, in pinned memory."""
        return torch.empty(shape, memory_format=torch.channels_last, pin_memory=True)

    def to_device(self, batch: Tensor) -> Tensor:
        """The batch on the device, for the current stream to use; returns at once."""
        with torch.cuda.stream(self._out):
            there = batch.to(self._device, non_blocking=True)
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._out)
        there.record_stream(now)
        return there

    def host_rows(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Unwritten pinned memory on the host, for `to_device`."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def numbers_to_device(self, numbers: NDArray[np.int64]) -> Tensor:
        """The numbers on the device; returns at once, where `torch.tensor(…, device=…)` waits for all before it."""
        return self.to_device(torch.from_numpy(numbers).pin_memory())

    def to_host(self, logits: Tensor) -> Pending:
        """The logits in pinned memory as soon as the current stream has computed them; returns at once."""
        return Pending(self._homeward(logits))

    def bytes_home(self, layer: Tensor) -> Homeward:
        """What gives the bytes in pinned memory as soon as the current stream has computed them."""
        return self._homeward(layer)

    def ahead(self, flat: Tensor, work: Callable[[Tensor], Made]) -> Callable[[], Made]:
        """What gives that which `work` makes of these bytes on the device, beside what the current stream does there.

        Returns when the bytes may be written over; called from any thread. What it returned is to be called in the
        thread that uses the tensors.
        """
        host = self.host_rows(*flat.shape, dtype=flat.dtype)
        host.copy_(flat)
        with torch.cuda.stream(self._out):
            made = work(host.to(self._device, non_blocking=True))
            done = self._out.record_event()

        def arrive() -> Made:
            now = torch.cuda.current_stream(self._device)
            now.wait_event(done)
            for tensor in made:
                tensor.record_stream(now)
            return made

        return arrive

    def _homeward(self, tensor: Tensor) -> Callable[[], NDArray[Any]]:
        home = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._home.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._home):
            home.copy_(tensor, non_blocking=True)
            done = self._home.record_event()
        tensor.record_stream(self._home)

        def wait() -> NDArray[Any]:
            done.synchronize()
            there: NDArray[Any] = home.numpy()
            return there

        return wait


def transfer(device: torch.device) -> CpuTransfer | CudaTransfer:
    """The way between the host and this device."""
    return CudaTransfer(device) if device.type == "cuda" else CpuTransfer()


def _cpu_flags() -> set[str]:
    facts = cpu_facts()
    return set((facts.get("flags") or facts.get("Features") or "").split())
