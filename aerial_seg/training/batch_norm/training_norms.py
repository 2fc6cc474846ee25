"""A network with the batch norms that a recipe trains with, and its own ones again afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from aerial_seg.errors import SettingsError
from aerial_seg.models.replace import replace_modules
from aerial_seg.recipe.batch_norm import BatchNormSettings
from aerial_seg.training.batch_norm.norms import batch_norms
from aerial_seg.training.batch_norm.twins import AveragedBatchNorm, SyncBatchNorm, Twin
from aerial_seg.training.processes import count

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextmanager
def training_norms(network: nn.Module, settings: BatchNormSettings) -> Iterator[None]:
    """Inside, the network's batch norms normalise as the settings say; afterwards it has its own ones back.

    One process alone keeps its own, which are faster than those that stand for them, as do frozen ones.

    Raises SettingsError for a kind of batch norm that is not known here, where another would have to stand for it.
    """
    concerned = set(batch_norms(network, settings).values())
    momenta = {norm: norm.momentum for norm in concerned if isinstance(norm, _BatchNorm)}
    for norm in momenta:
        if settings.share is not None:
            norm.momentum = settings.share
    back: dict[nn.Module, nn.Module] = {}
    try:
        twins = _twins(network, concerned, settings)
        back = replace_modules(network, twins)
        yield
    finally:
        for ours, theirs in back.items():
            theirs.train(ours.training)
        replace_modules(network, back)
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def _twins(
    network: nn.Module, concerned: set[nn.Module], settings: BatchNormSettings
) -> dict[nn.Module, nn.Module]:
    twins: dict[nn.Module, nn.Module] = {}
    for name, module in network.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        kind = _kind(module in concerned, settings)
        if kind is not None:
            _check_known(name, module)
            twins[module] = kind(module)
        elif isinstance(module, nn.SyncBatchNorm) and count() > 1 and not settings.synchronised:
            raise SettingsError(
                f"batch_norm.synchronised is false, but {name} is a SyncBatchNorm of torch; leave synchronised out, or "
                "use torch's BatchNorm2d"
            )
    return twins


def _kind(is_concerned: bool, settings: BatchNormSettings) -> type[Twin] | None:
    """What stands for a batch norm; None: nothing does."""
    if is_concerned and settings.statistics == "averaged":
        return AveragedBatchNorm
    if is_concerned and settings.statistics == "frozen":
        return None
    return SyncBatchNorm if count() > 1 and settings.synchronised else None


def _check_known(name: str, norm: _BatchNorm) -> None:
    if type(norm) in (*_PLAIN, BatchNormAct2d):
        return
    remedy = "train in one process, or use torch's BatchNorm2d or GroupNorm"
    raise SettingsError(
        f"{name} is a {type(norm).__name__}, which several processes cannot share; {remedy}"
        if count() > 1
        else f"{name} is a {type(norm).__name__}, of which nobody knows how it would normalise by running statistics; "
        'set batch_norm.statistics = "batch", or use torch\'s BatchNorm2d'
    )
