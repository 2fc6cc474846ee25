"""Runs a trained network on batches of one fixed shape: images in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aerial_seg.bands import Band
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.inference.engines.choose import (
    Choice,
    Engine,
    EngineSettings,
    Runtime,
    choose,
    choose_carrier,
    start_engine,
)
from aerial_seg.inference.engines.eight_bits import PRECISION, prepare_eight_bits
from aerial_seg.inference.engines.prepare import prepare_network
from aerial_seg.inference.tile_input import HostBatch
from aerial_seg.mentions import setting
from aerial_seg.models.device import (
    OutOfMemory,
    batch_to_device,
    has_own_memory,
    pick_device,
    release_memory,
    transfer,
)
from aerial_seg.models.file import TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.models.pending import Pending
from aerial_seg.models.placing import for_tiles
from aerial_seg.printable import shortened

Image = NDArray[np.float32]
Result = TypeVar("Result")

_LARGEST_LOGIT = 1e10
"""No network that was trained comes near it; a single spoilt weight of 3e38 goes far beyond, finite or not."""
_USUAL_PIXEL = 1e3
"""In standard deviations of the training data; of images with larger ones, logits may be as much larger."""


class TilePredictor(Protocol):
    """Answer what a stream of tiles needs of a network, or of several that answer as one."""

    @property
    def batch_size(self) -> int:
        """How many images are computed at once."""
        ...

    @property
    def depth(self) -> int:
        """How many batches may be in flight before the oldest is waited for."""
        ...

    @property
    def planes(self) -> int:
        """Planes of every image that `submit` takes."""
        ...

    @property
    def inputs(self) -> tuple[tuple[int, Band], ...]:
        """Of every plane, the number of the raster's band that it is made of, from 0, and its statistics."""
        ...

    @property
    def largest_side(self) -> int:
        """The longest side that images may have, in pixels."""
        ...

    @property
    def runtime(self) -> Runtime:
        """What the logits' bits depend on."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided and why, wherever it differs from what was asked or would surprise."""
        ...

    def host_batch(self, side: int) -> HostBatch:
        """Make room for a batch of images of this side; filled and submitted, its images are not copied again."""
        ...

    def submit(self, images: Sequence[Image]) -> Pending:
        """Begin to compute the images; with a depth of 1 their memory is free again when it returns."""
        ...

    def run(self, images: Sequence[Image]) -> Image:
        """Submit and wait."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        ...

    @property
    def carrier(self) -> str:
        """Who cuts and blends tiles, `host` or `device`."""
        ...

    def logits(self, images: Tensor) -> Tensor:
        """Compute images (n,P,s,s) that lie on the device: logits (n,K,h,w) float32, which stay there."""
        ...


class Predictor:
    """Take images, give logits, always in batches of `batch_size`.

    The last batch is padded to the full size: another batch size moves fp32 logits in their last digits, and results
    must not depend on how the work was cut. The caller's network stays as it is; a copy of it is folded, laid out and
    perhaps compiled, which is done when the predictor exists: what it then says of its runtime holds, but for a CUDA
    device that runs out of memory later, which halves the batch size and adds a note.
    """

    def __init__(
        self,
        model: TrainedModel,
        *,
        settings: EngineSettings,
        batch_size: int,
        side: int | Sequence[int],
        tiles: int,
    ) -> None:
        """side: of every image, in pixels, or all that images may have. tiles: how many will run, as far as is known.

        Raises SettingsError for a device or precision that is not there, and when not even one image fits.
        """
        self._device = pick_device(settings.device)
        self._transfer = transfer(self._device)
        self._bands = model.card.bands
        self._sides = (side,) if isinstance(side, int) else tuple(side)
        self._batch_size = max(1, batch_size)
        self._memory_notes: list[str] = []
        self._weights, self._is_sane = model.network, False
        self._bias = torch.tensor(model.card.class_bias, dtype=torch.float32, device=self._device)
        self._carrier = choose_carrier(settings, self._device)
        self._eight_bits = model.eight_bits
        choice = choose(settings, self._device, tiles=tiles, eight_bits=model.eight_bits is not None)
        network, self._fold_notes = self._fitting(lambda: self._prepared(choice, for_tiles(model.network)))
        self._engines, self._choice = self._fitting(lambda: self._start(choice, network))

    @property
    def batch_size(self) -> int:
        """How many images are computed at once."""
        return self._batch_size

    @property
    def depth(self) -> int:
        """How many batches may be in flight before the oldest is waited for."""
        return self._transfer.depth

    @property
    def planes(self) -> int:
        """Bands of an image."""
        return len(self._bands)

    @property
    def inputs(self) -> tuple[tuple[int, Band], ...]:
        """Every band of the model, as it is."""
        return tuple(enumerate(self._bands))

    @property
    def largest_side(self) -> int:
        """The longest side that images may have, in pixels."""
        return max(self._sides)

    @property
    def runtime(self) -> Runtime:
        """What the logits' bits depend on, as it is now."""
        return Runtime.here(self._choice, self._device, self._batch_size, carrier=self._carrier)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided and why, wherever it differs from what was asked or would surprise."""
        return (*self._choice.notes, *self._fold_notes, *self._memory_notes)

    def host_batch(self, side: int) -> HostBatch:
        """Make room for a batch of images of this side, as `submit` takes them without a copy."""
        return HostBatch(self._transfer.host_batch(self._batch_size, *self._shape(side)))

    def submit(self, images: Sequence[Image]) -> Pending:
        """Begin to compute normalised images, each (C,H,W) float32; more than a batch are cut into several.

        All have the same side, one of those that the predictor was made for. Their logits come in the order of the
        images, C-contiguous. On a CPU they are there when it returns.

        Raises SettingsError when the device has no memory for even one image, and InputError, when they are waited for,
        for a network whose first logits are NaN or far too large: of such logits every pixel would be of one class.
        """
        for image in images:
            if image.shape != images[0].shape or image.shape not in map(self._shape, self._sides):
                wanted = " or ".join(str(self._shape(side)) for side in self._sides)
                raise ValueError(f"an image of shape {image.shape}, wanted {wanted}")
        largest = 0.0 if self._is_sane else max((float(np.abs(image).max()) for image in images), default=0.0)

        def one_after_another(parts: list[Image]) -> Image:
            logits = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if not self._is_sane:
                self._require_sane(float(np.abs(logits).max()), max(1.0, largest / _USUAL_PIXEL))
            return logits

        return self._fitting(
            lambda: Pending.joined([self._launch(part) for part in self._batches(images)], one_after_another)
        )

    def _require_sane(self, largest: float, times_usual: float) -> None:
        """Once a batch of usual pixels was right the network is believed: it costs nothing then."""
        # Not `>`: of a NaN both are false.
        if not largest <= _LARGEST_LOGIT * times_usual:
            name, weight = _largest_weight(self._weights)
            half = "" if self._choice.precision == "fp32" else f"{setting('precision', 'fp32')}, "
            raise InputError(
                f"the network's logits are no numbers or beyond {_LARGEST_LOGIT:g}, so every pixel would be of one "
                f"class; its largest weight is {weight:.3g}, in {name}: use {half}another model file, or pixels like "
                "those that it was trained on"
            )
        self._is_sane = times_usual == 1

    def run(self, images: Sequence[Image]) -> Image:
        """Submit and wait: logits (N,h,w,K) with the class bias added, float32."""
        return self.submit(images).logits()

    def _batches(self, images: Sequence[Image]) -> list[Sequence[Image]]:
        size = self._batch_size
        if isinstance(images, HostBatch) and len(images.tensor) == size:
            return [images]
        return [images[start : start + size] for start in range(0, len(images), size)]

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._device

    @property
    def carrier(self) -> str:
        """Who cuts and blends tiles, `host` or `device`."""
        return self._carrier

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Compute images (n,C,s,s) float32 on the device, as `submit` does: logits (n,K,h,w) float32 that stay there.

        Nothing is waited for, but for the first batches, until one of usual pixels was right. Raises what `submit` and
        its logits raise.
        """
        largest = 0.0 if self._is_sane else float(images.abs().max())

        def one_after_another() -> Tensor:
            parts = [self._padded_logits(part) for part in torch.split(images, self._batch_size)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        logits = self._fitting(one_after_another)
        if not self._is_sane:
            self._require_sane(float(logits.abs().max()), max(1.0, largest / _USUAL_PIXEL))
        return logits

    def _padded_logits(self, images: Tensor) -> Tensor:
        """Of at most a batch, which is filled up with zeros."""
        count = len(images)
        if count < self._batch_size:
            images = torch.cat([images, images.new_zeros(self._batch_size - count, *images.shape[1:])])
        side = images.shape[2]
        return (
            self._engines[side](batch_to_device(images, self._device)).float() + self._bias[:, None, None]
        )[:count]

    def _launch(self, images: Sequence[Image]) -> Pending:
        side, count = images[0].shape[1], len(images)
        batch = images.blank_rest() if isinstance(images, HostBatch) else self._copied(images)
        logits = self._engines[side](self._transfer.to_device(batch))
        with torch.inference_mode():
            arriving = self._transfer.to_host(self._biased(logits.permute(0, 2, 3, 1).float()))
        return arriving.map(lambda batch: batch[:count])

    def _biased(self, logits: torch.Tensor) -> torch.Tensor:
        """logits (N,h,w,K) float32 and the class bias, in memory of their own."""
        if has_own_memory(self._device):
            return (logits + self._bias).contiguous()
        # On one thread: torch would wake all of its own, which takes longer while others cut, stitch and write.
        sums = torch.empty(logits.shape)
        np.add(logits.numpy(), self._bias.numpy(), out=sums.numpy())
        return sums

    def _copied(self, images: Sequence[Image]) -> torch.Tensor:
        """A full batch of these, 0 in the places that are left."""
        batch = self._transfer.host_batch(self._batch_size, *images[0].shape)
        pixels = batch.permute(0, 2, 3, 1).numpy()
        for slot, image in enumerate(images):
            for band, plane in enumerate(image):
                pixels[slot, :, :, band] = plane
        pixels[len(images) :] = 0
        return batch

    def _prepared(self, choice: Choice, network: Network) -> tuple[nn.Module, list[str]]:
        """A copy of the network for the chosen engine, and what is to say of that."""
        if choice.precision == PRECISION:
            return prepare_eight_bits(network), []
        return prepare_network(
            network,
            self._device,
            precision=choice.precision,
            example=lambda: self._example(1, self._sides[0]),
        )

    def _start(self, choice: Choice, network: nn.Module) -> tuple[Mapping[int, Engine], Choice]:
        """An engine for each side, all of one kind: where one falls back, so do the others."""
        engines: dict[int, Engine] = {}
        for side in self._sides:
            batch = self._example(self._batch_size, side)
            engines[side], made = start_engine(
                choice, network, batch, device=self._device, eight_bits=self._eight_bits
            )
            if made.engine != choice.engine:
                return self._start(made, network)
        return engines, choice

    def _shape(self, side: int) -> tuple[int, int, int]:
        return len(self._bands), side, side

    def _example(self, count: int, side: int) -> Tensor:
        """Noise like normalised images, on the device; always the same."""
        batch = self._transfer.host_batch(count, *self._shape(side))
        batch.normal_(generator=torch.Generator().manual_seed(0))
        return self._transfer.to_device(batch)

    def _fitting(self, attempt: Callable[[], Result]) -> Result:
        """The attempt's result, at half the batch size as often as the device runs out of memory."""
        while True:
            try:
                return attempt()
            except OutOfMemory:
                pass  # Only outside the handler are the failed attempt's tensors free.
            self._halve()

    def _halve(self) -> None:
        release_memory(self._device)
        if self._batch_size == 1:
            raise SettingsError(
                f"the device has not enough memory for one tile of {self.largest_side} pixels; use a smaller "
                f"{setting('tile_size')}, or {setting('device', 'cpu')}"
            )
        self._batch_size //= 2
        self._memory_notes.append(
            f"batch size {self._batch_size}: the device ran out of memory at more; logits may differ in their last "
            f"digits from those of other batch sizes ({setting('batch_size', self._batch_size)} asks for this one)"
        )


def _largest_weight(network: nn.Module) -> tuple[str, float]:
    """The name of the tensor that holds the number farthest from 0, and that number."""
    tensors = network.state_dict().items()
    named = [(name, weight) for name, weight in tensors if weight.numel() and weight.is_floating_point()]
    farthest = max(named, key=lambda pair: float(pair[1].abs().max()))
    flat = farthest[1].flatten()
    return shortened(farthest[0]), float(flat[flat.abs().argmax()])
