"""What a predictor answers for images on its device is what it answers for the host's, on the CPU to the bit."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_models import whole_numbers
from laws import examples
from torch import Tensor

from aerial_seg.errors import InputError
from aerial_seg.inference import tta
from aerial_seg.inference.device import tta as device_tta
from aerial_seg.inference.engines.choose import EagerEngine, EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.predictor import Predictor
from aerial_seg.inference.tta_scales import RANGE
from aerial_seg.models.pending import Pending
from aerial_seg.tiling.geometry import ModelGeometry

EAGER = EngineSettings("eager", "fp32", "cpu", "device")


def predictor(*, batch_size: int = 3, side: Any = 32, times: float = 4.0) -> Predictor:
    return Predictor(whole_numbers(8, times=times), settings=EAGER, batch_size=batch_size, side=side, tiles=1)


def images(count: int, side: int = 32, planes: int = 2) -> Tensor:
    """Noise as the ring gives it, a pixel's planes beside each other."""
    noise = torch.randn(count, side, side, planes, generator=torch.Generator().manual_seed(count))
    return noise.permute(0, 3, 1, 2)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_logits_on_the_device_are_those_of_the_host(count: int) -> None:
    made, many = predictor(), images(count)
    wanted = made.run(list(many.numpy()))
    logits = made.logits(many)
    assert logits.dtype == torch.float32
    np.testing.assert_array_equal(logits.permute(0, 2, 3, 1).numpy(), wanted)


def test_out_of_memory_halves_the_batch_size_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    many, call, sizes = images(7), EagerEngine.__call__, list[int]()
    wanted = predictor(batch_size=2).logits(many)

    def tight(engine: EagerEngine, batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return call(engine, batch)

    made = predictor(batch_size=8)
    monkeypatch.setattr(EagerEngine, "__call__", tight)
    assert torch.equal(made.logits(many), wanted)
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert (made.batch_size, len(made.notes)) == (2, 2)


def test_logits_that_no_network_has_end_the_run() -> None:
    with pytest.raises(InputError, match="the network's logits are no numbers or beyond"):
        predictor(times=1e12).logits(images(2))


def test_an_ensemble_averages_on_the_device_as_on_the_host() -> None:
    """The second sees one of the first's bands with other statistics."""
    first = whole_numbers(8, names=("red", "nir"), times=1)
    second = whole_numbers(8, dtypes=("uint8",), names=("nir",), means=(50.0,), seed=5, times=1)
    made = Ensemble((first, second)).predictor(settings=EAGER, batch_size=3, side=32, tiles=1)
    assert [(number, band.name, band.mean) for number, band in made.inputs] == [
        (0, "red", 100.0), (1, "nir", 101.0), (1, "nir", 50.0),
    ]  # fmt: skip
    many = images(4, planes=3)
    wanted = made.run(list(many.numpy()))
    np.testing.assert_allclose(made.logits(many).permute(0, 2, 3, 1).numpy(), wanted, rtol=1e-5, atol=1e-6)


KINDS = [("flips",), ("rot90",), ("flips", "rot90"), ("scales=0.5:2",), ("rot90", "scales=2")]


@pytest.mark.parametrize("kinds", KINDS)
@settings(max_examples=examples(12), deadline=None)
@given(align=st.booleans(), count=st.integers(1, 3), seed=st.integers(0, 99))
def test_augmentations_are_the_hosts(kinds: tuple[str, ...], align: bool, count: int, seed: int) -> None:
    """Of a network that tells west from east and north from south."""
    geometry = ModelGeometry(output_stride=8, logit_stride=8, origin_step=8, align_corners=align)
    side = 32 + align
    assert RANGE[0] < 0.5
    many = torch.randn(count, 2, side, side, generator=torch.Generator().manual_seed(seed))

    def run(batch: Tensor) -> Tensor:
        """As many cells as the geometry says; each has a slope of its own."""
        picked = batch[:, :, ::8, ::8] if align else batch[:, :, 4::8, 4::8]
        cells = torch.arange(picked.shape[3], dtype=torch.float32)
        return torch.cat([picked, picked[:, :1] * cells, picked[:, 1:] * cells[:, None]], 1)

    def submit(batch: Any) -> Pending:
        return Pending.arrived(run(torch.from_numpy(np.stack(batch))).permute(0, 2, 3, 1).numpy())

    wanted = tta.averaged(submit, kinds, geometry=geometry, side=side)(list(many.numpy())).logits()
    made = device_tta.averaged(run, kinds, geometry=geometry, side=side)(many)
    np.testing.assert_allclose(made.permute(0, 2, 3, 1).numpy(), wanted, rtol=1e-4, atol=1e-5)
    for turns, mirrored in product(range(4), (False, True)):
        orientation = tta.Symmetry(turns, mirrored)
        one = tta.seen_as(submit, orientation)(list(many.numpy())).logits()
        other = device_tta.seen_as(run, orientation)(many)
        np.testing.assert_array_equal(other.permute(0, 2, 3, 1).numpy(), one)
