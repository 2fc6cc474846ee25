"""Lightning Fabric over one device or several processes: precision, and gradients that all processes share."""

from __future__ import annotations

import atexit
import inspect
import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from lightning_fabric.fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.plugins.precision.precision import Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from aerial_seg.errors import SettingsError
from aerial_seg.models.device import loss_scaler, training_precision
from aerial_seg.models.network import Network
from aerial_seg.training.processes import told_count, told_count_here

Said = TypeVar("Said")

_SYNCING_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # as torch 2.14 calls it, and as it did before
    if name in inspect.signature(DistributedDataParallel).parameters
)
_LONGEST_WAIT = timedelta(days=1)
"""For another process. It may validate or write meanwhile; one that died closes its connections, which is seen."""


@dataclass(frozen=True, slots=True)
class Computing:
    """Say what computes a run: the device or processes, with their precision, and in how many parts a batch comes."""

    fabric: Fabric
    accumulate: int = 1
    compiled: bool = False

    @property
    def device(self) -> torch.device:
        """This process's own."""
        return self.fabric.device


def hear(fabric: Fabric, said: Said | None) -> Said:
    """What the first process said, in every process; the others give None."""
    heard: Any = fabric.broadcast(said)
    return cast(Said, heard)


def check_shares(batch_size: int, *, processes: int, accumulate: int) -> None:
    """Raises SettingsError for a batch that so many processes cannot share in so many equal parts each."""
    pieces = processes * accumulate
    if batch_size % pieces == 0:
        return
    over = "" if accumulate == 1 else f" in {accumulate} parts each"
    below, above = batch_size // pieces * pieces, -(-batch_size // pieces) * pieces
    near = f"{below} or {above}" if below else str(above)
    raise SettingsError(
        f"training.batch_size is {batch_size}, which {processes} process{'es' * (processes > 1)} cannot share "
        f"equally{over}; use training.batch_size = {near}, or another number of processes or parts"
    )


class Members(nn.Module):
    """The forward of training as a module's own, which is what Fabric, DistributedDataParallel and compile wrap.

    own_lattices: whether the logits of each scale stay on that scale's lattice.
    """

    def __init__(self, network: Network, *, own_lattices: bool = False) -> None:
        super().__init__()
        self.network = network
        self.own_lattices = own_lattices

    def forward(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """As the network's forward_members, or its forward_scales."""
        return (
            self.network.forward_scales(image) if self.own_lattices else self.network.forward_members(image)
        )


class HalfPrecision(MixedPrecision):
    """Fabric's mixed precision with the image as it is: what comes before the first convolution sees float32."""

    def __init__(self, precision: str, device: torch.device) -> None:
        super().__init__(
            "16-mixed" if precision == "fp16" else "bf16-mixed",
            device.type,
            loss_scaler(device, precision),
        )
        self._of_device, self._in = device, precision

    def forward_context(self) -> AbstractContextManager[object]:
        """As training_precision."""
        return training_precision(self._of_device, self._in)

    def convert_input(self, data: Any) -> Any:
        """The data."""
        return data


def open_fabric(device: torch.device, precision: str = "fp32", *, alone: bool = False) -> Fabric:
    """Fabric for this process, launched: alone on `device`, or one of those that the environment tells of.

    The environment is torchrun's (RANK, WORLD_SIZE, …), also where `train` itself started the processes. Of several
    processes each takes the device of its place on its machine. precision: fp32, bf16 or fp16.
    alone: whatever the environment tells.
    """
    # It greets with a banner.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    plugin = Precision() if precision == "fp32" else HalfPrecision(precision, device)
    if alone or told_count() == 1:
        fabric = Fabric(strategy=SingleDeviceStrategy(device, precision=plugin), accelerator=device.type)
    else:
        here = told_count_here()
        synchronised: dict[str, Any] = {_SYNCING_BUFFERS: False}  # batch norms are: all have the same
        strategy = DDPStrategy(
            cluster_environment=TorchElasticEnvironment(),
            precision=plugin,
            timeout=_LONGEST_WAIT,
            find_unused_parameters=True,  # an auxiliary head without a weight, frozen parts
            **synchronised,
        )
        nodes = told_count() // here
        fabric = Fabric(strategy=strategy, accelerator=device.type, devices=here, num_nodes=nodes)
        atexit.unregister(_part)  # once, however often this process trains
        atexit.register(_part)
    fabric.launch()
    return fabric


def _part() -> None:
    """Leave the other processes before Python ends: threads that still serve them then would abort this process.

    Fabric does so for NCCL alone.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
