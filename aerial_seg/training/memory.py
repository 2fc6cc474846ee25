"""Memory that ran out in training: how much of a batch would have fitted."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
from aerial_seg.models.device import batch_to_device, hardware_name, is_lack_of_memory, release_memory
from aerial_seg.models.network import Network
from aerial_seg.recipe.crop_size import size_text
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.batch_norm.twins import Twin
from aerial_seg.training.fabric import Computing
from aerial_seg.training.loss import SegmentationLoss
from aerial_seg.training.processes import count


@contextmanager
def telling_what_fits(
    network: Network, criterion: SegmentationLoss, recipe: Recipe, computing: Computing
) -> Iterator[None]:
    """Inside, a lack of memory becomes a SettingsError that names how much of a batch fits, and the remedy."""
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        # What the failed update had made lives in its frames.
        traceback.clear_frames(error.__traceback__)
        cause = error.with_traceback(None)
    # Only outside the handler is its memory free.
    settings, each = recipe.training, recipe.training.batch_size // (count() * computing.accumulate)
    place = hardware_name(computing.device)
    crops = f"{each} crop{'s' * (each > 1)} of {size_text(settings.crop)} pixels"
    what = f"{crops} at once do not fit into the memory of {place}"
    in_parts = not criterion.terms.whole_batch  # else parts have another loss
    if count() > 1 and not in_parts:
        raise SettingsError(
            f"{what}; use a smaller training.batch_size or a smaller training.crop"
        ) from cause
    if count() > 1:
        parts = 2 * computing.accumulate
        raise SettingsError(
            f"{what}; use {setting('accumulate', parts)}, which keeps the batch, or a smaller training.crop"
        ) from cause

    members = network.forward_scales if criterion.terms.at_logits else network.forward_members

    def attempt(images: int) -> None:
        bands = next(one for one in network.parameters() if one.dim() == 4).shape[1]
        image = torch.zeros(images, bands, *settings.crop_size)
        labels = torch.zeros(images, *settings.crop_size, dtype=torch.long, device=computing.device)
        network.zero_grad()
        with computing.fabric.strategy.precision.forward_context():
            (logits, *others), aux_logits = members(batch_to_device(image, computing.device))
        criterion(logits, aux_logits, labels, others).backward()
        network.zero_grad()

    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | Twin):
            module.eval()  # which takes as much, and does not ask for more than one value per channel
    release_memory(computing.device)
    fits = largest_that_fits(attempt, each, lambda: release_memory(computing.device))
    if not fits:
        raise SettingsError(
            f"{what}, nor does one; use a smaller training.crop or a smaller model.encoder"
        ) from cause
    if not in_parts:
        raise SettingsError(
            f"{what}, {fits} do{'es' * (fits == 1)}; use training.batch_size = {fits}"
        ) from cause
    parts = settings.batch_size // fits
    raise SettingsError(
        f"{what}, {fits} do{'es' * (fits == 1)}; use {setting('accumulate', parts)}, which keeps the batch, or "
        f"training.batch_size = {fits}"
    ) from cause


def largest_that_fits(attempt: Callable[[int], None], images: int, release: Callable[[], None]) -> int:
    """The largest divisor of `images` below it that `attempt` has memory for; 0 where one image is too many.

    Found by going down, by halves where the number is a power of two. release: called after each attempt.
    """
    for fewer in (number for number in range(images - 1, 0, -1) if images % number == 0):
        try:
            attempt(fewer)
        except (RuntimeError, MemoryError) as error:
            if not is_lack_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
        else:
            release()
            return fewer
        release()
    return 0
