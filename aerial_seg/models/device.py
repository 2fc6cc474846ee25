"""The one file that names cuda and memory formats."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from aerial_seg.errors import SettingsError


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


def place(model: nn.Module, device: torch.device) -> None:
    """The model lies on the device, its convolution weights channels-last (the faster layout on both kinds)."""
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def send(batch: Tensor, device: torch.device) -> Tensor:
    """The image batch (N,C,H,W) on the device, channels-last."""
    return batch.to(device, memory_format=torch.channels_last, non_blocking=True)


def training_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast on CUDA devices that have it, full precision elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()
