"""Precision, and shares of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from torch import nn

from aerial_seg.errors import SettingsError
from aerial_seg.models import device
from aerial_seg.models.build import build_network
from aerial_seg.models.device import pick_training_precision
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.training.fabric import Members, check_shares, open_fabric

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_convolutions_compute_in_the_precision_and_norms_keep_float32(precision: str) -> None:
    network = build_network(ModelSettings(output_stride=32, head_channels=8), bands=3, classes=2)
    seen: dict[type, set[torch.dtype]] = {nn.Conv2d: set(), nn.BatchNorm2d: set()}
    statistics = []
    for module in network.modules():
        if type(module) in seen:
            module.register_forward_hook(lambda one, _, out: seen[type(one)].add(out.dtype))
        if isinstance(module, nn.BatchNorm2d):
            statistics += [module.running_mean, module.running_var]
    fabric = open_fabric(CPU, precision)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    model, optimizer = fabric.setup(Members(network), optimizer, move_to_device=False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    (logits, *_), aux_logits = model(torch.randn(2, 3, 64, 64))
    fabric.backward(logits.square().mean() + aux_logits.square().mean())
    optimizer.step()
    assert seen[nn.Conv2d] == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert logits.dtype == aux_logits.dtype == torch.float32
    assert {one.dtype for one in statistics} == {torch.float32}
    assert {one.dtype for one in network.parameters()} == {torch.float32}
    assert all((network.state_dict()[name] != tensor).any() for name, tensor in before.items())


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_on_a_gpu_that_multiplies_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_native_bf16", lambda place: native)
    monkeypatch.setattr(device, "hardware_name", lambda place: "a device")
    gpu = torch.device("cuda")
    assert pick_training_precision("auto", gpu) == ("bf16" if native else "fp32", ())
    assert pick_training_precision("auto", CPU) == ("fp32", ())
    assert pick_training_precision("fp32", CPU) == ("fp32", ())
    precision, notes = pick_training_precision("bf16", CPU)
    assert precision == "bf16"
    assert len(notes) == (0 if native else 1)
    with pytest.raises(SettingsError, match="fp16 needs a CUDA device"):
        pick_training_precision("fp16", CPU)


def test_the_scale_of_fp16_losses_goes_on_where_it_was() -> None:
    """Gradients are those of the loss as it is; one that is no number is skipped, and the scale halved."""
    fabric = open_fabric(CPU, "fp16")
    layer = nn.Linear(2, 1)
    model, optimizer = fabric.setup(layer, torch.optim.SGD(layer.parameters(), lr=0.0), move_to_device=False)
    before = fabric.strategy.precision.state_dict()
    for factor in (0.1, np.inf):
        optimizer.zero_grad()
        fabric.backward((model(torch.ones(1, 2)) * factor).sum())
        optimizer.step()
    after = fabric.strategy.precision.state_dict()
    assert after["scale"] == before["scale"] / 2
    again = open_fabric(CPU, "fp16").strategy.precision
    again.load_state_dict(after)
    assert again.state_dict() == after
    assert open_fabric(CPU, "bf16").strategy.precision.state_dict() == {}


@settings(max_examples=examples(60))
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 9))
def test_a_batch_is_shared_equally_or_refused_with_batches_that_can_be(
    batch: int, processes: int, parts: int
) -> None:
    try:
        check_shares(batch, processes=processes, accumulate=parts)
    except SettingsError as error:
        assert batch % (processes * parts)
        offered = str(error).partition("training.batch_size = ")[2].partition(",")[0]
        for number in map(int, offered.split(" or ")):
            check_shares(number, processes=processes, accumulate=parts)
            assert abs(number - batch) < processes * parts
    else:
        assert batch % (processes * parts) == 0
