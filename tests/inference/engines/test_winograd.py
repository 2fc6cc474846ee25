"""Convolutions with fewer multiplications, against torch's own."""

import copy
import platform
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from torch import nn

from aerial_seg.inference.engines import winograd
from aerial_seg.inference.engines.choose import CompiledEngine, EagerEngine
from aerial_seg.inference.engines.winograd import WinogradConv2d, winograd_pays, with_winograd

CPU = torch.device("cpu")


def convolution(inside: int, out: int, *, rate: int = 1, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(inside + rate)
    return nn.Conv2d(inside, out, 3, padding=rate, dilation=rate, bias=bias).requires_grad_(
        requires_grad=False
    )


@settings(deadline=None, max_examples=examples(150))
@given(
    height=st.integers(1, 23),
    width=st.integers(1, 23),
    rate=st.integers(1, 6),
    inside=st.integers(1, 9),
    batch=st.integers(1, 3),
    bias=st.booleans(),
    part_bytes=st.sampled_from([1, 1 << 14, 1 << 30]),
)
def test_any_lattice_rate_and_split_of_the_channels_give_torchs_result(
    height: int, width: int, rate: int, inside: int, batch: int, bias: bool, part_bytes: int
) -> None:
    plain = convolution(inside, 5, rate=rate, bias=bias).double()
    features = torch.randn(batch, inside, height, width, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "LARGEST_SHARE", float("inf"))
        patch.setattr(winograd, "FEWEST_CHANNELS", 1)
        patch.setattr(winograd, "PART_BYTES", part_bytes)
        got = WinogradConv2d(plain)(features)
    torch.testing.assert_close(got, plain(features), rtol=0, atol=1e-13)
    assert got.shape == (batch, 5, height, width)


def multiplications(module: nn.Module, features: torch.Tensor) -> int:
    """Of its convolutions, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        module(features)
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize(
    ("side", "rate", "part"), [(32, 1, 4 / 9), (32, 2, 4 / 9), (64, 4, 4 / 9), (32, 18, 1)]
)
def test_it_multiplies_four_ninths_as_often_where_it_is_used(side: int, rate: int, part: float) -> None:
    plain = convolution(4, 4, rate=rate)
    features = torch.randn(1, 4, side, side)
    faster = multiplications(WinogradConv2d(plain), features)
    assert faster == pytest.approx(part * multiplications(plain, features))


def test_a_rate_that_pads_too_much_is_computed_directly() -> None:
    plain = convolution(4, 4, rate=12)
    features = torch.randn(1, 4, 32, 32)
    assert torch.equal(WinogradConv2d(plain)(features), plain(features))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_rounding_is_about_twice_the_direct_convolutions(precision: torch.dtype) -> None:
    plain = convolution(256, 256)
    features = torch.randn(1, 256, 16, 16).relu()
    exact = copy.deepcopy(plain).double()(features.double())
    rounded = plain.to(precision)

    def error(module: nn.Module) -> float:
        return float((module(features.to(precision)).double() - exact).std() / exact.std())

    assert error(compiled(WinogradConv2d(rounded))) < 2.5 * error(rounded)


def compiled(module: nn.Module) -> nn.Module:
    """Between its additions compiled code does not round, as eager code does."""
    return cast(nn.Module, torch.compile(module, dynamic=False))


class Mixed(nn.Module):
    """Two convolutions that are replaced, and one of every kind that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = convolution(256, 256)
        self.dilated = convolution(256, 256, rate=2)
        self.strided = nn.Conv2d(256, 256, 3, stride=2, padding=1)
        self.narrow = convolution(256, 8)
        self.grouped = nn.Conv2d(8, 256, 3, padding=1, groups=8)
        self.unpadded = nn.Conv2d(256, 256, 3)
        self.reflecting = nn.Conv2d(256, 256, 3, padding=1, padding_mode="reflect")
        self.oblong = nn.Conv2d(256, 256, 3, padding=(1, 2), dilation=(1, 2))
        self.pointwise = nn.Conv2d(256, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.strided(self.dilated(self.wide(image)).relu())
        features = self.oblong(self.reflecting(self.grouped(self.narrow(features))))
        logits: torch.Tensor = self.pointwise(self.unpadded(features))
        return logits


def test_only_wide_plain_convolutions_are_replaced_and_no_weight_is_copied() -> None:
    network = Mixed().eval()
    faster = with_winograd(network)
    replaced = {name for name, module in faster.named_modules() if isinstance(module, WinogradConv2d)}
    assert replaced == {"wide", "dilated"}
    assert not any(isinstance(module, WinogradConv2d) for module in network.modules())
    theirs = dict(faster.named_parameters())
    assert {name: tensor.data_ptr() for name, tensor in network.named_parameters()} == {
        name: theirs[name].data_ptr() for name in theirs
    }


@pytest.mark.parametrize(
    ("device", "machine", "flags", "precisions"),
    [
        ("cpu", "x86_64", {"avx2"}, {"fp32", "bf16"}),
        ("cpu", "AMD64", set(), {"fp32", "bf16"}),
        ("cpu", "x86_64", {"avx2", "amx_bf16"}, {"fp32"}),
        ("cpu", "arm64", set(), set()),
        ("cuda", "x86_64", {"avx2"}, set()),
    ],
)
def test_it_is_used_where_products_are_dearer_than_sums(
    device: str, machine: str, flags: set[str], precisions: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("aerial_seg.models.device._cpu_flags", lambda: flags)
    asked = ("fp32", "bf16")
    assert {each for each in asked if winograd_pays(torch.device(device), each)} == precisions


def test_the_compiled_engine_multiplies_less_and_computes_the_same() -> None:
    torch.manual_seed(0)
    network = Mixed().eval()
    batch = torch.randn(2, 256, 24, 20).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert multiplications(with_winograd(network), batch) < 0.75 * multiplications(network, batch)
    eager = EagerEngine(network, precision="fp32", device=CPU)(batch)
    assert winograd_pays(CPU, "fp32") or platform.machine() != "x86_64"
    faster = CompiledEngine(network, precision="fp32", device=CPU)(batch)
    torch.testing.assert_close(faster, eager, rtol=0, atol=2e-6 * float(eager.abs().max()))
