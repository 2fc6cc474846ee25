"""A few updates of a small network in float64, the batch shared among the processes that there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from aerial_seg.models.build import build_network
from aerial_seg.models.network import Network
from aerial_seg.recipe.batch_norm import BatchNormSettings
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.batch_norm.training_norms import training_norms
from aerial_seg.training.batch_norm.twins import SyncBatchNorm
from aerial_seg.training.fabric import Members, open_fabric
from aerial_seg.training.loss import SegmentationLoss
from aerial_seg.training.loss_terms.terms import Terms
from aerial_seg.training.processes import count, rank, sum_over_processes

BATCH, SIDE, CLASSES = 4, 64, 3


def network_of(architecture: str) -> Network:
    """A new small network, the same every time."""
    torch.manual_seed(3)
    smp = architecture == "Unet"
    settings = ModelSettings(
        architecture=architecture,
        encoder="tu-tf_efficientnet_lite0" if smp else "resnet18",
        output_stride=16,
        head_channels=None if smp else 8,
        dropout=0.1 if smp else 0.0,
        auxiliary=True,
        options={"decoder_channels": [16, 8, 8, 8, 8]} if smp else {},
    )
    network = build_network(settings, bands=3, classes=CLASSES)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
            module.p = 0.0  # each process draws its own
    return network.double()


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    """image and labels of an effective batch: one image hardly labelled, one not at all."""
    random = np.random.default_rng(step)
    image = random.normal(size=(BATCH, 3, SIDE, SIDE))
    labels = (image.mean(axis=1) > 0).astype(np.int64) + (image[:, 0] > 1)
    labels[random.random(labels.shape) < 0.3] = 255
    labels[0, 3:] = 255
    labels[1] = 255
    return torch.from_numpy(image), torch.from_numpy(labels)


def updates(
    architecture: str,
    steps: int,
    parts: int = 1,
    terms: Terms = Terms(dice_weight=0.5),  # noqa: B008
) -> dict[str, Any]:
    """The losses, the first step's gradients and the last state dict of so many updates."""
    network = network_of(architecture)
    loss = SegmentationLoss(
        network.geometry,
        auxiliary_weight=0.4,
        class_weights=torch.tensor([1.0, 2.0, 0.5]),
        terms=terms,
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    fabric = open_fabric(torch.device("cpu"))
    losses, gradients = [], {}
    with training_norms(network, BatchNormSettings()):
        model, optimizer = fabric.setup(Members(network), optimizer, move_to_device=False)
        for step in range(steps):
            image, labels = (one.chunk(count())[rank()] for one in batch_of(step))
            total, value = loss.total_weight(labels), 0.0
            optimizer.zero_grad()
            for number, (some, theirs) in enumerate(
                zip(image.chunk(parts), labels.chunk(parts), strict=True)
            ):
                with fabric.no_backward_sync(model, enabled=count() > 1 and number < parts - 1):
                    (logits, *others), aux_logits = model(some)
                    part = loss(logits, aux_logits, theirs, others, total_weight=total, parts=parts)
                    fabric.backward(part)
                value += float(part.detach())
            if step == 0:
                gradients = {name: one.grad.clone() for name, one in network.named_parameters()}
            optimizer.step()
            losses.append(value)
    return {"losses": losses, "gradients": gradients, "state": network.state_dict()}


def norms() -> list[dict[str, Any]]:
    """Outputs, gradients and statistics of batch norms over the processes' unequal shares, in float64 and bfloat16."""
    if not distributed.is_initialized():
        open_fabric(torch.device("cpu"))
    told = []
    for dtype in (torch.float64, torch.bfloat16):
        for momentum in (0.1, None):
            norm, image = norm_and_image(dtype, momentum)
            mine = image.tensor_split([5])[rank()] if count() > 1 else image
            mine.requires_grad_()
            layer = SyncBatchNorm(norm) if count() > 1 else norm
            outs = [layer(mine) for _ in range(2)]
            weights = torch.arange(outs[0].numel() // len(mine), dtype=dtype).view(outs[0].shape[1:])
            shared = sum_over_processes((outs[0] * weights.sin()).double().sum())
            shared.backward()
            told.append({
                "out": outs[1].detach(), "gradient": mine.grad, "state": norm.state_dict()
            })  # fmt: skip
    return told


def norm_and_image(dtype: torch.dtype, momentum: float | None) -> tuple[torch.nn.BatchNorm2d, Tensor]:
    """A batch norm that has weights, and a batch far from 0."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(4, momentum=momentum)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    image = 3 + 2 * torch.randn(7, 4, 5, 6)
    return (norm.double() if dtype == torch.float64 else norm), image.to(dtype)


TERMS = (
    Terms("focal", dice_weight=0.5),
    Terms("ohem", ohem_threshold=0.3, ohem_min_kept=7),
    Terms("ohem", ohem_threshold=0.01, ohem_min_kept=1000),
    Terms("none", lovasz_weight=1.0),
    Terms(label_smoothing=0.1, lovasz_weight=0.5, at_logits=True),
)


def losses_of_terms() -> list[dict[str, Tensor]]:
    """The loss by each of TERMS, and its gradient by the logits, on this process's share of a batch."""
    if not distributed.is_initialized():
        open_fabric(torch.device("cpu"))
    told = []
    for dtype in (torch.float64, torch.float32):
        for terms in TERMS:
            torch.manual_seed(1)
            whole = [torch.randn(BATCH, CLASSES, *size).to(dtype) for size in ((8, 8), (4, 4))]
            labels = batch_of(0)[1].chunk(count())[rank()]
            main, side = (one.chunk(count())[rank()].clone().requires_grad_() for one in whole)
            loss = SegmentationLoss(
                ModelGeometry(8, 8, 8),
                auxiliary_weight=0.4,
                class_weights=torch.tensor([1.0, 2.0, 0.5]),
                terms=terms,
            )(main, side, labels)
            gradients = torch.autograd.grad(loss, [main, side])
            told.append({"loss": loss.detach(), "main": gradients[0], "side": gradients[1]})
    return told
