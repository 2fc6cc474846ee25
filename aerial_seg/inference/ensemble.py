"""Several models that answer as one: each is run on its own input, and their class probabilities are averaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import lcm
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aerial_seg.bands import Band
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.inference.device.tta import log_of_mean
from aerial_seg.inference.device.upsample import softmax_cells as softmax_on_device
from aerial_seg.inference.engines.choose import EngineSettings, Runtime
from aerial_seg.inference.predictor import Image, Predictor
from aerial_seg.inference.tile_input import HostBatch
from aerial_seg.models.device import CpuTransfer
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.pending import Pending
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.upsample import softmax_cells

GSD_TOLERANCE = 0.1
"""Models whose training GSDs differ by more saw objects of other sizes; the run has one pixel size for all."""


def model_paths(given: Path | Sequence[Path]) -> tuple[Path, ...]:
    """List the models named: `A.safetensors,B.safetensors` are two, unless there is a file of that name.

    Raises SettingsError where a name between the commas is empty.
    """
    if not isinstance(given, Path):
        return tuple(given)
    names = [name.strip() for name in str(given).split(",")]
    if len(names) == 1 or os.path.exists(given):  # noqa: PTH110 - a Path raises for long names
        return (given,)
    if not all(names):
        raise SettingsError(
            f"'{given}' holds an empty name between commas; name every model: A.safetensors,B.safetensors"
        )
    return tuple(map(Path, names))


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Hold models that can answer as one; the run takes the GSD, tiling, pixel values and colours of the first.

    All have the same classes in the same order, the same lattice, and training GSDs within 10 % of the first's. The
    bands of each are among the first's, by name; their order and statistics may differ.
    """

    models: tuple[TrainedModel, ...]

    @classmethod
    def of(cls, models: Sequence[TrainedModel], paths: Sequence[Path]) -> Ensemble:
        """Make an ensemble. Raises InputError that names two models that do not fit together, and the remedy."""
        for model, path in zip(models[1:], paths[1:], strict=True):
            problem = _mismatch(models[0], model)
            if problem is not None:
                raise InputError(f"{paths[0]} and {path} cannot be averaged: {problem}")
        return cls(tuple(models))

    @property
    def geometry(self) -> ModelGeometry:
        """Return the lattice of all; origins and sides are on the steps of each."""
        geometries = [model.network.geometry.of_tiles for model in self.models]
        return replace(geometries[0], origin_step=lcm(*(one.origin_step for one in geometries)))

    @property
    def as_one(self) -> TrainedModel:
        """Return the first model by the SHA-256 of all, in order, with commas: what a run is recorded as."""
        return replace(
            self.models[0],
            sha256=",".join(model.sha256 for model in self.models),
            notes=tuple(note for model in self.models for note in model.notes),
        )

    def predictor(
        self, *, settings: EngineSettings, batch_size: int, side: int | Sequence[int], tiles: int
    ) -> Predictor | EnsemblePredictor:
        """Return what runs it; of one model its Predictor. Arguments and errors are the Predictor's."""

        def one(model: TrainedModel, size: int) -> Predictor:
            return Predictor(model, settings=settings, batch_size=size, side=side, tiles=tiles)

        if len(self.models) == 1:
            return one(self.models[0], batch_size)
        return EnsemblePredictor(self.models, one, batch_size=batch_size)


def _mismatch(first: TrainedModel, other: TrainedModel) -> str | None:
    """Why the two cannot be averaged and what to do; None when they can."""
    own, its = first.network.geometry.of_tiles, other.network.geometry.of_tiles
    names, others = first.card.legend.names, other.card.legend.names
    if names != others:
        return f"their classes are {', '.join(names)} and {', '.join(others)}; train them on the same classes"
    if _lattice(own) != _lattice(its):
        return (
            f"their logits lie on other lattices ({_lattice(own)} and {_lattice(its)}); train them with the same "
            "output stride and align_corners, or predict with each alone"
        )
    gsds = first.card.gsd, other.card.gsd
    if gsds[0] is None and gsds[1] is not None:
        return f"the first knows no pixel size on the ground, the second {gsds[1]:.3g} m; name that one first"
    if gsds[0] is not None and gsds[1] is not None and abs(gsds[1] / gsds[0] - 1) > GSD_TOLERANCE:
        return (
            f"they were trained at {gsds[0]:.3g} m and {gsds[1]:.3g} m per pixel, more than {GSD_TOLERANCE:.0%} apart; "
            "train them at one GSD"
        )
    return _band_mismatch(first.card, other.card)


def _band_mismatch(first: ModelCard, other: ModelCard) -> str | None:
    known = {(band.name, band.dtype, band.scaled) for band in first.bands}
    if all((band.name, band.dtype, band.scaled) in known for band in other.bands):
        return None
    own, its = (
        ", ".join(
            f"{band.name} {band.dtype}{' by scale and offset' if band.scaled else ''}" for band in card.bands
        )
        for card in (first, other)
    )
    return f"the bands of the second ({its}) are not among the first's ({own}); name the one with more bands first"


def _told(band: Band) -> str:
    return f"{band.name} {band.dtype}{' by scale and offset' if band.scaled else ''}"


def _lattice(geometry: ModelGeometry) -> str:
    return f"{geometry.logit_stride} px a cell{', align_corners' if geometry.align_corners else ''}"


@dataclass(frozen=True, slots=True)
class _Input:
    """What a member sees of an image of the raster: which bands, and their statistics."""

    picked: tuple[int, ...]
    bands: tuple[Band, ...]

    @classmethod
    def of(cls, bands: Sequence[Band], among: Sequence[str]) -> _Input:
        plain = tuple(band.model_copy(update={"p2": 0.0, "p98": 0.0}) for band in bands)
        names = [band.name for band in bands]
        # The same bands lie in the same order, even those of one name.
        picked = range(len(names)) if names == list(among) else map(list(among).index, names)
        return cls(tuple(picked), plain)


class EnsemblePredictor:
    """Take images, give the logarithm of the members' mean probabilities, as a Predictor gives logits.

    An image holds the planes of every member, one member's after the other's and normalised by its own statistics;
    members with the same input share theirs. Members are added in the order of the models.
    """

    def __init__(
        self,
        models: Sequence[TrainedModel],
        make: Callable[[TrainedModel, int], Predictor],
        *,
        batch_size: int,
    ) -> None:
        """make: the predictor of a model with a batch size. Raises what it raises."""
        names = [band.name for band in models[0].card.bands]
        inputs = [_Input.of(model.card.bands, names) for model in models]
        self._inputs = tuple(dict.fromkeys(inputs))
        ends = np.cumsum([0, *(len(one.picked) for one in self._inputs)]).tolist()
        planes = [slice(start, stop) for start, stop in pairwise(ends)]
        self._planes = [planes[self._inputs.index(one)] for one in inputs]
        self._members, self._notes = _of_one_batch_size(models, make, batch_size)

    @property
    def batch_size(self) -> int:
        """How many images are computed at once, by every member."""
        return min(member.batch_size for member in self._members)

    @property
    def depth(self) -> int:
        """How many batches may be in flight before the oldest is waited for."""
        return self._members[0].depth

    @property
    def planes(self) -> int:
        """Planes of an image, those of all members together."""
        return sum(len(one.picked) for one in self._inputs)

    @property
    def inputs(self) -> tuple[tuple[int, Band], ...]:
        """Of the planes of all members, the number of the first model's band and the member's statistics."""
        return tuple(plane for one in self._inputs for plane in zip(one.picked, one.bands, strict=True))

    @property
    def largest_side(self) -> int:
        """The longest side that images may have, in pixels."""
        return self._members[0].largest_side

    @property
    def runtime(self) -> Runtime:
        """As a Predictor's; engine and precision are those of all members, with commas where they differ."""
        all_of = [member.runtime for member in self._members]
        return replace(
            all_of[0],
            engine=_one_or_each([one.engine for one in all_of]),
            precision=_one_or_each([one.precision for one in all_of]),
            batch_size=self.batch_size,
            library=next((one.library for one in all_of if one.library is not None), None),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of all members, each once."""
        return tuple(
            dict.fromkeys([*self._notes, *(note for member in self._members for note in member.notes)])
        )

    def host_batch(self, side: int) -> HostBatch:
        """Make room for a batch of images with the planes of all members; each member copies its own."""
        return HostBatch(CpuTransfer().host_batch(self.batch_size, self.planes, side, side))

    def submit(self, images: Sequence[Image]) -> Pending:
        """Begin to compute images (P,H,W) float32, of these planes, with all members."""
        running = [
            member.submit([image[planes] for image in images])
            for member, planes in zip(self._members, self._planes, strict=True)
        ]
        return Pending.joined(running, mean_of_probabilities)

    def run(self, images: Sequence[Image]) -> Image:
        """Submit and wait: (N,h,w,K) float32."""
        return self.submit(images).logits()

    @property
    def device(self) -> torch.device:
        """Where all networks run."""
        return self._members[0].device

    @property
    def carrier(self) -> str:
        """Who cuts and blends tiles, `host` or `device`."""
        return self._members[0].carrier

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Compute images (n,P,s,s) on the device with all members, as `submit` does: (n,K,h,w) float32, which stay."""
        total: Tensor | None = None
        for member, planes in zip(self._members, self._planes, strict=True):
            probabilities = softmax_on_device(member.logits(images[:, planes]))
            total = probabilities if total is None else total.add_(probabilities)
        assert total is not None
        return log_of_mean(total, len(self._members))


def mean_of_probabilities(members: Sequence[Image]) -> Image:
    """Return the logarithm of the mean of the members' softmaxes, added in this order: logits (N,h,w,K) each."""
    total = np.stack([softmax_cells(logits) for logits in members[0]])
    for member in members[1:]:
        for number, logits in enumerate(member):
            total[number] += softmax_cells(logits)
    total /= np.float32(len(members))
    return np.log(np.maximum(total, np.finfo(np.float32).tiny))


def _of_one_batch_size(
    models: Sequence[TrainedModel], make: Callable[[TrainedModel, int], Predictor], batch_size: int
) -> tuple[list[Predictor], list[str]]:
    """Predictors with one batch size, the largest up to the one wanted that the device has memory for; and notes."""
    notes: list[str] = []
    while True:
        members = [make(model, batch_size) for model in models]
        smallest = min(member.batch_size for member in members)
        if all(member.batch_size == smallest for member in members):
            return members, notes
        notes += next(member.notes for member in members if member.batch_size == smallest)
        batch_size = smallest
        del members  # before the next are made: the device has no room for both


def _one_or_each(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else ",".join(values)
