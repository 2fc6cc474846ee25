"""The batch norms of a network, which of them a recipe's table concerns, and what to tell or refuse of that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
from aerial_seg.models.network import encoder_of
from aerial_seg.recipe.batch_norm import BatchNormSettings
from aerial_seg.training.batch_norm.twins import Twin, has_statistics


def batch_norms(network: nn.Module, settings: BatchNormSettings) -> dict[str, nn.Module]:
    """The batch norms that the settings concern, by name; those that stand for them in training are meant, too.

    Raises SettingsError where only the encoder's are wanted and the network has no part of that name.
    """
    before, part = ("", network) if settings.where == "all" else encoder_of(network)
    return {
        before + name: module
        for name, module in part.named_modules()
        if isinstance(module, _BatchNorm | Twin)
    }


def batch_norm_notes(network: nn.Module, settings: BatchNormSettings) -> tuple[str, ...]:
    """What to tell of the settings; nothing of those that say nothing.

    Raises SettingsError for what cannot apply to this network.
    """
    if not _concern_something(settings):
        return ()
    norms = batch_norms(network, settings)
    _check_there(norms, network, settings)
    whose = f"{len(norms)} batch norms" + (" of the encoder" if settings.where == "encoder" else "")
    notes = []
    share = settings.share
    if share is not None and settings.statistics == "frozen":
        notes.append(
            f"{whose}: their statistics are frozen, so the {_conventions(share)} is of no use this time"
        )
    elif share is not None:
        notes.append(f"{whose}: {_conventions(share)}")
    if settings.statistics == "frozen":
        notes.append(f"{whose}: their mean and variance stay as they came, to the end")
    if settings.statistics == "averaged":
        notes.append(f"{whose}: they normalise by their running mean and variance in training, too")
    if settings.affine == "frozen":
        notes.append(f"{whose}: their gamma and beta stay as they came, to the end")
    return tuple(notes)


def check_statistics(network: nn.Module, settings: BatchNormSettings) -> None:
    """Raises SettingsError where statistics are to stay as they came, and nothing was ever measured for them.

    network: with the weights that training begins with.
    """
    if settings.statistics != "frozen":
        return
    norms = batch_norms(network, settings)
    fresh = [name for name, norm in norms.items() if not has_statistics(norm)]
    if not fresh:
        return
    outside = settings.where == "all" and len(fresh) < len(norms) and not _in_encoder(network, fresh)
    remedy = (
        'set batch_norm.where = "encoder", or begin with a whole model'
        if outside
        else f"begin with weights that have them ({setting('weights', 'FILE')})"
    )
    raise SettingsError(
        f'batch_norm.statistics is "frozen", but {len(fresh)} of {len(norms)} batch norms have no statistics (mean 0, '
        f'variance 1, as they are made), first {fresh[0]}; {remedy}, or set batch_norm.statistics = "batch"'
    )


@contextmanager
def telling_of_single_values() -> Iterator[None]:
    """Inside, a batch norm that is to normalise one value per channel, which has no variance, is a SettingsError."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # torch's words, and our norms'
            raise
        raise SettingsError(
            f"a batch norm has a single value per channel, which has no variance ({error}); use a larger "
            f"training.batch_size or fewer parts of it ({setting('accumulate')}), a larger training.crop, or "
            'batch_norm.statistics = "frozen" with weights that have statistics'
        ) from error


def _in_encoder(network: nn.Module, names: list[str]) -> bool:
    try:
        before, _ = encoder_of(network)
    except SettingsError:
        return True  # there is no encoder to be named in a remedy
    return any(name.startswith(before) for name in names)


def _concern_something(settings: BatchNormSettings) -> bool:
    """Whether they ask the norms that they concern for anything. Raises SettingsError for a part, and nothing of it."""
    asks = settings.share is not None or settings.statistics != "batch" or settings.affine != "trained"
    if not asks and settings.where != "all":
        raise SettingsError(
            f'batch_norm.where is "{settings.where}", but nothing is set for these norms; set batch_norm.statistics, '
            "affine, momentum or decay, or leave where out"
        )
    return asks


def _check_there(norms: dict[str, nn.Module], network: nn.Module, settings: BatchNormSettings) -> None:
    name = getattr(network, "name", type(network).__name__)
    if not norms:
        where = "its encoder" if settings.where == "encoder" else "it"
        raise SettingsError(
            f"batch_norm is set, but there is no batch norm in {name} where it is looked for ({where}); leave "
            "the table out" + (', or set batch_norm.where = "all"' if settings.where == "encoder" else "")
        )
    if settings.statistics == "batch":
        return
    for place, norm in norms.items():
        if not isinstance(norm.running_mean, Tensor) or not isinstance(norm.running_var, Tensor):
            raise SettingsError(
                f'batch_norm.statistics is "{settings.statistics}", but {place} keeps no running statistics; set '
                'batch_norm.statistics = "batch"'
            )


def _conventions(share: float) -> str:
    return (
        f"momentum {share:g} in PyTorch's convention (a batch's share), which is the decay {1 - share:.12g} of "
        "TensorFlow and Caffe (what is kept)"
    )
