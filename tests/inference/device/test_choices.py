"""Who carries the tiles, and what is chosen on a GPU: batch size, compiling, panels; with stand-ins where none is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from integer_models import whole_numbers

from aerial_seg.crf.settings import DenseCrf
from aerial_seg.errors import SettingsError
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.inference import memory
from aerial_seg.inference.engines import choose
from aerial_seg.inference.engines.choose import EngineSettings, carrier_beside_crf, choose_carrier
from aerial_seg.jobs.predict import memory as job_memory
from aerial_seg.jobs.predict import plan
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.memory import MemoryModel, choose_panels, even_panels
from aerial_seg.jobs.predict.scenes import Scene
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.outputs.segments import Layer
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import TilePlan, tile_shape

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30


def test_auto_is_the_device_on_cuda_and_the_host_on_a_cpu() -> None:
    assert choose_carrier(EngineSettings(), GPU) == "device"
    assert choose_carrier(EngineSettings(), CPU) == "host"
    assert choose_carrier(EngineSettings(carrier="host"), GPU) == "host"
    assert choose_carrier(EngineSettings(carrier="device"), CPU) == "device"
    assert choose_carrier(EngineSettings(engine="openvino"), CPU) == "host"
    with pytest.raises(SettingsError, match=r'`engine="onnx"` .* `carrier="device"` cannot go with it'):
        choose_carrier(EngineSettings(engine="onnx", carrier="device"), CPU)


def test_a_crf_stays_on_the_host_and_the_notes_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, notes = carrier_beside_crf(EngineSettings(), GPU)
    assert (engine.carrier, len(notes)) == ("host", 1)
    assert notes[0].startswith("carrier host: a CRF is computed on the host")
    assert carrier_beside_crf(EngineSettings(), CPU) == (EngineSettings(carrier="host"), [])
    with pytest.raises(SettingsError, match="leave one of them out"):
        carrier_beside_crf(EngineSettings(carrier="device"), CPU)
    monkeypatch.setattr(plan, "check_extras", lambda settings: None)
    settings = PredictSettings(crf=DenseCrf(), carrier="device", device="cpu")
    monkeypatch.setattr(plan, "load_model", lambda path: whole_numbers())
    with pytest.raises(SettingsError, match=r'a CRF is computed on the host, so `carrier="device"`'):
        predict("m", write(tmp_path), tmp_path / "map.tif", settings)


def write(folder: Path) -> Path:
    rasterio = pytest.importorskip("rasterio")
    path = folder / "in.tif"
    profile: dict[str, Any] = {"driver": "GTiff", "count": 2, "height": 40, "width": 50, "dtype": "uint8"}
    with rasterio.open(
        path, "w", **profile, crs="EPSG:32633", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)
    ) as file:
        file.write(np.full((2, 40, 50), 9, np.uint8))
    return path


# The batch


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`gpu(free)`: the machine has a GPU with so many bytes free, that computes in bfloat16."""

    def has(free: int) -> None:
        monkeypatch.setattr(memory, "pick_device", lambda name: GPU)
        monkeypatch.setattr(memory, "free_memory", lambda device: free)
        monkeypatch.setattr(choose, "has_native_bf16", lambda device: True)

    return has


def batch(own: int | None = None, *, side: int = 512, **more: Any) -> tuple[int, tuple[str, ...]]:
    engine = EngineSettings(precision=more.pop("precision", "auto"))
    return memory.choose_batch(own, 4, side=side, engine=engine, max_memory=None, **more)


def test_the_batch_of_a_gpu_keeps_it_at_work_and_fits(gpu: Any) -> None:
    gpu(140 * 10**9)
    size, (note,) = batch()
    assert size == 32
    assert note.startswith("batch size 32 in place of the model's 4: so many keep a GPU at work")
    assert batch(side=1024)[0] == 8
    assert batch(side=769)[0] == 8
    gpu(8 * 10**9)
    size, (note,) = batch()
    assert size == 16
    assert "half of the GPU's 8 GB holds so many" in note
    assert batch(precision="fp32")[0] == 8
    assert batch(own=5) == (5, ())
    gpu(10**8)
    assert batch()[0] == 1


@given(free=st.integers(10**8, 10**12), side=st.integers(32, 4096))
def test_half_of_a_gpus_memory_is_left(free: int, side: int) -> None:
    for halved in (False, True):
        size, _ = memory._batch_of_device(4, side=side, free=free, halved=halved)
        assert size == 1 or memory.forward_bound(size, side, halved=halved) <= free / 2
        assert size == 1 or size * side**2 <= 32 * 512**2


def test_a_resumed_run_takes_its_own_batch_again(gpu: Any, tmp_path: Path) -> None:
    gpu(8 * 10**9)
    assert batch(before=lambda: 20)[0] == 20
    assert batch(own=3, before=lambda: 20)[0] == 3
    scenes = [Scene((tmp_path / f"{name}.tif",), tmp_path / f"{name}_mask.tif") for name in "abcd"]
    assert plan._batch_size_before(scenes) is None
    for name, text in (
        ("b", "no journal\nat all\n"),
        ("c", json.dumps({"runtime": {"batch_size": 12}}) + "\n"),
    ):
        work = tmp_path / f"{name}_mask.tif.work"
        work.mkdir()
        (work / "journal.jsonl").write_text(text)
    assert plan._batch_size_before(scenes) == 12


# Memory


def model_of(
    width: int, *, classes: int = 6, stride: int = 8, batch_size: int = 32, side: int = 512
) -> MemoryModel:
    """A raster of uint8 × 3 in blocks of 512, on a GPU, with confidence."""
    raster: Any = SimpleNamespace(
        info=SimpleNamespace(bands=(1, 2, 3), dtype="uint8", path="wide.tif"), block_shape=(512, 512)
    )
    shape = tile_shape(ModelGeometry(output_stride=8, logit_stride=stride, origin_step=max(8, stride)), side)
    return MemoryModel(
        raster=raster,
        plan=TilePlan.of(height=100_000, width=width, shape=shape),
        height=100_000,
        width=width,
        classes=classes,
        layers=(Layer("class", 1),),
        batch_size=batch_size,
        extent=Extent.whole(100_000, width),
        carrier="device",
        device=GPU,
    )


def test_a_hundred_thousand_columns_need_8_gib_of_a_gpu_and_900_mib_of_the_host() -> None:
    wide = model_of(100_000)
    whole = range(100_000)
    forward = memory.forward_bound(32, 512, halved=True)
    assert forward + wide.device_bytes(whole) <= 8 * GIB
    assert wide.panel_bytes(whole) <= 900 * 2**20
    assert wide.forward_bytes == 0


def test_panels_keep_to_a_gpus_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody: Any = None
    heavy = model_of(40_000, classes=150, stride=1, batch_size=1)
    for free in (200 * 10**9, 40 * 10**9):
        monkeypatch.setattr(job_memory, "free_memory", lambda device, free=free: free)
        panels = choose_panels(heavy, nobody, 10**12)
        assert [panels[0].start, panels[-1].stop] == [0, 40_000]
        assert max(map(heavy.device_bytes, panels)) <= free / 2
        assert len(panels) == 1 or heavy.device_bytes(even_panels(40_000, len(panels) - 1)[0]) > free / 2
    monkeypatch.setattr(job_memory, "free_memory", lambda device: 10**9)
    with pytest.raises(SettingsError, match=r'the GPU has 1 GB free, wanted .*pass `carrier="host"`'):
        choose_panels(heavy, nobody, 10**12)
