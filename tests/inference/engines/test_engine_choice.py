"""Which engine and precision run, and what is said where the one that was asked for cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_models import CPU, FP32, images, predictor
from torch import Tensor, nn

from aerial_seg.errors import SettingsError
from aerial_seg.files import operating_system
from aerial_seg.inference.engines import choose as engine
from aerial_seg.inference.engines import torch_compile as compiling
from aerial_seg.inference.engines.choose import COMPILE_PAYS, EngineSettings, choose
from aerial_seg.models import device
from aerial_seg.models.device import has_native_bf16
from aerial_seg.models.file import TrainedModel


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Says what compile_problem finds."""

    def found(problem: str | None) -> None:
        monkeypatch.setattr(engine, "compile_problem", lambda device: problem)

    return found


def test_compiling_is_chosen_when_tiles_and_a_compiler_are_there(
    compiler: Callable[[str | None], None],
) -> None:
    compiler(None)
    assert choose(EngineSettings(precision="fp32"), CPU, tiles=COMPILE_PAYS) == engine.Choice(
        "compile", "fp32"
    )
    assert choose(EngineSettings(engine="compile", precision="fp32"), CPU, tiles=1).engine == "compile"
    few = choose(EngineSettings(precision="fp32"), CPU, tiles=COMPILE_PAYS - 1)
    assert few.engine == "eager"
    assert f"these are {COMPILE_PAYS - 1}" in few.notes[0]
    assert choose(FP32, CPU, tiles=10**6) == engine.Choice("eager", "fp32")


@pytest.mark.parametrize("wanted", ["auto", "compile"])
def test_a_missing_compiler_is_said_and_work_goes_on(
    compiler: Callable[[str | None], None], small: TrainedModel, wanted: str
) -> None:
    compiler("InvalidCxxCompiler: none")
    made = predictor(small, EngineSettings(wanted, "fp32", "cpu"))
    assert made.runtime.engine == "eager"
    (note,) = made.notes
    assert "InvalidCxxCompiler: none" in note
    assert '`engine="eager"`' in note
    assert np.array_equal(made.run(images(2)), predictor(small).run(images(2)))


def test_a_missing_compiler_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def no_compiler(graph: object, example: object) -> None:
        raise RuntimeError("no g++")

    def compile_by(network: Callable[..., object], *, dynamic: bool) -> object:
        return real(network, dynamic=dynamic, backend=no_compiler)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_by)
    assert "no g++" in str(compiling.compile_problem(CPU))
    with pytest.raises(compiling.CompileFailed) as caught:
        compiling.CompiledForward(nn.ReLU(), CPU)(torch.ones(1))
    assert isinstance(caught.value.__cause__, BackendCompilerFailed)


def test_a_network_that_does_not_compile_runs_eagerly(
    monkeypatch: pytest.MonkeyPatch, compiler: Callable[[str | None], None], small: TrainedModel
) -> None:
    compiler(None)
    for broken, reason in ((fail_to_compile, "LoweringException"), (compute_nonsense, "logits differ")):
        monkeypatch.setattr(engine.CompiledEngine, "__call__", broken)
        made = predictor(small, EngineSettings("compile", "fp32", "cpu"))
        assert made.runtime.engine == "eager"
        assert reason in made.notes[0]
        assert np.array_equal(made.run(images(1)), predictor(small).run(images(1)))


def fail_to_compile(self: object, batch: Tensor) -> Tensor:
    raise compiling.CompileFailed("LoweringException: no")


def compute_nonsense(self: object, batch: Tensor) -> Tensor:
    return torch.full((len(batch), 3, 4, 4), torch.nan)


@pytest.mark.slow
def test_compiled_logits_decide_as_the_eager_ones(small: TrainedModel) -> None:
    problem = compiling.compile_problem(CPU)
    if problem is not None:
        pytest.skip(problem)
    compiled = predictor(small, EngineSettings("auto", "fp32", "cpu"), batch_size=3)
    assert (compiled.runtime.engine, compiled.notes) == ("compile", ())
    many = images(6)
    logits, reference = compiled.run(many), predictor(small, batch_size=3).run(many)
    best = np.sort(reference, axis=-1)
    clear = best[..., -1] - best[..., -2] > 1e-3
    assert clear.mean() > 0.5
    assert np.array_equal(logits.argmax(-1)[clear], reference.argmax(-1)[clear])
    np.testing.assert_allclose(logits, reference, atol=1e-4)
    assert logits.flags.c_contiguous
    assert np.array_equal(compiled.run(many[2:3])[0], logits[2])
    assert np.array_equal(compiled.run([many[2], many[0]]), logits[[2, 0]])


def test_auto_takes_bf16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(engine, "has_native_bf16", lambda device, native=native: native)
        choice = choose(EngineSettings(engine="eager"), CPU, tiles=1)
        assert choice.precision == precision
        assert [note.split(":")[0] for note in choice.notes] == (["precision bf16"] if native else [])
        assert choose(FP32, CPU, tiles=1).precision == "fp32"
    asked = choose(EngineSettings(engine="eager", precision="bf16"), CPU, tiles=1)
    assert asked.precision == "bf16"
    assert "only emulates" in asked.notes[0]


def test_a_gpu_compiles_from_the_tiles_on_that_pay_for_it(
    monkeypatch: pytest.MonkeyPatch, compiler: Callable[[str | None], None]
) -> None:
    compiler(None)
    monkeypatch.setattr(engine, "has_native_bf16", lambda device: False)
    monkeypatch.setattr(engine, "hardware_name", lambda device: "an old GPU")
    gpu = torch.device("cuda")
    pays = engine.COMPILE_PAYS_ON_GPU
    choice = choose(EngineSettings(), gpu, tiles=pays - 1)
    assert (choice.engine, choice.precision) == ("eager", "fp32")
    assert f"from about {pays:,} tiles here" in choice.notes[0]
    assert '`engine="compile"`' in choice.notes[0]
    assert choose(EngineSettings(), gpu, tiles=pays).engine == "compile"
    assert choose(EngineSettings("compile", "fp16"), gpu, tiles=1) == engine.Choice("compile", "fp16")


@pytest.mark.parametrize("flags", ["flags : sse avx512_bf16", "flags: amx_bf16 x", "Features\t: asimd bf16"])
def test_native_bf16_is_read_from_the_processors_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)

    def machine(name: str, text: str | None) -> None:
        if text is not None:
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(operating_system, "CPU_INFO", tmp_path / name)

    machine("none", None)
    assert not has_native_bf16(CPU)
    machine("has it", f"model name : Some CPU: fast\n{flags}\n\nprocessor : 1\n")
    assert has_native_bf16(CPU)
    assert device.hardware_name(CPU).startswith("Some CPU: fast (")
    machine("only the second has it", "flags : avx2 avx512f\n\nflags : avx512_bf16\n")
    assert not has_native_bf16(CPU)


def test_what_cannot_be_done_is_told_with_a_remedy(small: TrainedModel) -> None:
    with pytest.raises(SettingsError, match="fp16 needs a CUDA device; use `precision="):
        predictor(small, EngineSettings(precision="fp16", device="cpu"))
    with pytest.raises(
        SettingsError, match=r"'compiled', wanted one of auto, eager, compile.*did you mean 'compile'"
    ):
        EngineSettings(engine="compiled")
    with pytest.raises(SettingsError, match="auto, fp32, bf16, fp16"):
        EngineSettings(precision="int8")
    with pytest.raises(SettingsError, match="use auto, cpu"):
        predictor(small, EngineSettings(device="tpu"))
