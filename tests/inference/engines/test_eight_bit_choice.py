"""Who multiplies 8-bit weights as such is chosen by a table over instruction sets, and told."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch

from aerial_seg.errors import SettingsError
from aerial_seg.inference.engines import eight_bits
from aerial_seg.inference.engines.choose import COMPILE_PAYS, Choice, EngineSettings, choose
from aerial_seg.models import device

CPU = torch.device("cpu")


def choice(settings: EngineSettings, *, place: torch.device = CPU) -> Choice:
    return choose(settings, place, tiles=COMPILE_PAYS - 1, eight_bits=True)


@pytest.fixture(autouse=True)
def _openvino_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eight_bits, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("flags", "units"),
    [
        ("sse2 avx2 avx512f avx512_vnni", True),
        ("sse2 avx2 avx_vnni", True),
        ("avx512f amx_tile amx_int8", True),
        ("sse2 avx2 avx512f avx512bw", False),
        ("avx2 amx_bf16 avx512_bf16", False),
        ("fp asimd asimddp i8mm", False),
    ],
)
def test_the_table(flags: str, units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_facts", lambda: MappingProxyType({"flags": flags, "model name": "Box"}))
    assert device.has_byte_units() == units
    made = choice(EngineSettings(device="cpu", precision="auto"))
    if units:
        assert made == Choice("openvino", "int8")
        assert choice(EngineSettings("openvino")) == made
    else:
        assert made.engine == "eager"
        assert made.precision in ("fp32", "bf16")
        assert "8-bit weights are computed with as the numbers they stand for: Box" in made.notes[0]
        assert "no units that multiply them (VNNI or AMX)" in made.notes[0]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (EngineSettings("eager"), '`engine="eager"` was asked for'),
        (EngineSettings("auto", "fp32"), '`precision="fp32"` was asked for'),
        (EngineSettings("openvino", "fp32"), '`precision="fp32"` was asked for'),
    ],
)
def test_what_is_asked_for_is_done_and_told(
    settings: EngineSettings, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eight_bits, "has_byte_units", lambda: True)
    made = choice(settings)
    assert made.precision != "int8"
    assert reason in made.notes[0]


def test_a_gpu_computes_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eight_bits, "has_byte_units", lambda: True)
    assert eight_bits.why_not("auto", "auto", torch.device("cuda:1")) == "the device is cuda:1"
    assert eight_bits.why_not("compile", "auto", CPU) == '`engine="compile"` was asked for'


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eight_bits, "has_byte_units", lambda: True)
    monkeypatch.setattr(eight_bits, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'aerial-seg\[openvino\]'") as error:
        choice(EngineSettings())
    assert "\n" not in str(error.value)
    # The remedy that it names.
    assert choice(EngineSettings("eager")).engine == "eager"
