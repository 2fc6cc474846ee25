"""predict by both carriers, from files to files: the same mask, whatever the raster is and whatever is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from integer_models import whole_numbers

from aerial_seg.errors import AerialSegError, InputError, Interrupted
from aerial_seg.inference.device.feed import RowFeed
from aerial_seg.jobs.predict import one_scene
from aerial_seg.jobs.predict.job import forecast_prediction, predict
from aerial_seg.jobs.predict.settings import PredictReport, PredictSettings
from aerial_seg.models.file import TrainedModel
from aerial_seg.progress import Progress, silent

HEIGHT, WIDTH = 90, 150
SOUTH_UP = Affine(0.5, 0, 300_000, 0, 0.5, 3_000_000)
CENTRE = (300_010.0, 3_059_962.0, 300_050.0, 3_059_990.0)
SIMPLE = whole_numbers(8, dtypes=("uint8",) * 2, tile_size=64)


def noise(dtype: str, *, seed: int = 1) -> np.ndarray:
    """Two bands, coarse enough to be resampled."""
    random = np.random.default_rng(seed)
    fine = random.integers(8, 200, (2, HEIGHT // 3, WIDTH // 3)).repeat(3, 1).repeat(3, 2)
    return fine.astype(dtype)


def holes(image: np.ndarray, value: float) -> np.ndarray:
    image = image.copy()
    image[:, 20:61, 30:97] = value
    image[:, 88:, 149:] = value
    return image


def mask() -> np.ndarray:
    valid = np.random.default_rng(3).random((HEIGHT, WIDTH)) > 0.2
    valid[:30, :70] = False
    return valid


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`predict` finds these models, by the names a, b, …"""

    def patch(*models: TrainedModel) -> None:
        named = dict(zip("abc", models, strict=False))
        monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: named[path.stem])

    return patch


def run(
    raster: Path, out: Path, carrier: Any, *, models: str = "a", progress: Progress = silent, **more: Any
) -> PredictReport:
    settings = PredictSettings(
        **{
            "engine": "eager",
            "precision": "fp32",
            "device": "cpu",
            "carrier": carrier,
            "overwrite": True,
            **more,
        }
    )
    (report,) = predict([f"{name}.safetensors" for name in models], raster, out, settings, progress)
    return report


def layers(report: PredictReport) -> list[np.ndarray]:
    made = []
    for path in report.files:
        if path.suffix == ".tif":
            with rasterio.open(path) as file:
                made.append(file.read())
    return made


def check_alike(raster: Path, folder: Path, *, clear_only: bool = False, **more: Any) -> PredictReport:
    """Both carriers make the same mask; of what is softmaxed first, where the lead is clear."""
    if clear_only:
        more = {**more, "probabilities": True}
    host = run(raster, folder / "host.tif", "host", **more)
    device = run(raster, folder / "device.tif", "device", **more)
    assert (device.tiles, device.tiles_skipped) == (host.tiles, host.tiles_skipped)
    assert device.nodata_pixels == host.nodata_pixels
    wanted, made = layers(host), layers(device)
    clear = np.ones(wanted[0].shape, np.bool_)
    if clear_only:
        ranked = np.sort(wanted[-1].astype(int), axis=0)
        clear = (ranked[-1] - ranked[-2] > 2)[None] | (wanted[0] == 255)
        assert clear.mean() > 0.5
    np.testing.assert_array_equal(made[0][clear], wanted[0][clear])
    for one, other in zip(made, wanted, strict=True):
        np.testing.assert_array_equal(one == 255, other == 255)
        assert one is made[0] or np.abs(one.astype(int) - other).max() <= 1
    if not clear_only and len(wanted) == 1:
        assert (folder / "device.tif").read_bytes() == (folder / "host.tif").read_bytes()
    return device


RASTERS: dict[str, tuple[TrainedModel, np.ndarray, dict[str, Any], dict[str, Any]]] = {
    "nodata value": (SIMPLE, holes(noise("uint8"), 7), {"nodata": 7}, {"confidence": True, "probabilities": True}),
    "south up, mask": (SIMPLE, noise("uint8"), {"transform": SOUTH_UP, "mask": mask()}, {}),
    "alpha": (SIMPLE, noise("uint8"), {"alpha": mask().astype(np.uint8) * 255}, {"window": "cosine"}),
    "nan": (
        whole_numbers(4, dtypes=("float32",) * 2, tile_size=64),
        holes(noise("float32"), np.nan),
        {},
        {"bounds": CENTRE},
    ),
    "uint16 resampled": (
        whole_numbers(16, dtypes=("uint16",) * 2, tile_size=64, gsd=0.8, classes=5, values=(9, 4, 2, 200, 1)),
        holes(noise("uint16"), 0),
        {"nodata": 0},
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RASTERS)
def test_masks_are_the_same_byte_for_byte(
    name: str, raster_file: Callable[..., Path], use: Callable[..., None], tmp_path: Path
) -> None:
    model, image, written, asked = RASTERS[name]
    use(model)
    report = check_alike(raster_file("in.tif", image, **written), tmp_path, **asked)
    assert report.nodata_pixels > 0
    assert len(report.class_pixels) == len(model.card.legend)


@pytest.mark.parametrize(
    ("models", "asked"),
    [
        ("ab", {}),
        ("a", {"blend": "probabilities"}),
        ("a", {"tta": ("flips", "rot90")}),
        pytest.param(
            "ab", {"tta": ("flips", "scales=0.5:2"), "blend": "probabilities"}, marks=pytest.mark.slow
        ),
    ],
)
def test_means_of_probabilities_are_the_same_where_the_lead_is_clear(
    models: str,
    asked: dict[str, Any],
    raster_file: Callable[..., Path],
    use: Callable[..., None],
    tmp_path: Path,
) -> None:
    """The second model sees one of the first's bands, with other statistics."""
    first = whole_numbers(8, names=("red", "nir"), tile_size=64, times=8)
    second = whole_numbers(8, dtypes=("uint8",), names=("nir",), means=(50.0,), tile_size=64, seed=5, times=8)
    use(first, second)
    raster = raster_file("in.tif", holes(noise("uint8"), 7), nodata=7)
    report = check_alike(raster, tmp_path, clear_only=True, models=models, **asked)
    assert len([kind for kind, pixels in report.class_pixels.items() if pixels]) > 1


def test_panels_change_no_byte(
    raster_file: Callable[..., Path],
    use: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(SIMPLE)
    image = np.tile(holes(noise("uint8"), 7), (1, 1, 8))
    raster = raster_file("in.tif", image, nodata=7)
    run(raster, tmp_path / "whole.tif", "device")
    panels = (range(0, 512), range(512, 1024), range(1024, 1200))
    monkeypatch.setattr(one_scene, "choose_panels", lambda *_: panels)
    report = run(raster, tmp_path / "panels.tif", "device")
    assert report.panels == 3
    assert (tmp_path / "panels.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.mark.parametrize("tta", [(), ("flips", "scales=0.5")])
def test_a_dry_run_times_the_device_and_names_the_carrier(
    raster_file: Callable[..., Path], use: Callable[..., None], tmp_path: Path, tta: tuple[str, ...]
) -> None:
    use(SIMPLE)
    raster = raster_file("in.tif", noise("uint8"))
    settings = PredictSettings(engine="eager", precision="fp32", device="cpu", carrier="device", tta=tta)
    (foretold,) = forecast_prediction("a.safetensors", raster, tmp_path / "map.tif", settings)
    assert foretold.engine == "eager, fp32, cpu, carrier device"
    assert foretold.seconds > 0
    assert foretold.gpu_memory is None


# What goes wrong


def threads() -> set[str]:
    return {
        thread.name.rpartition("_")[0]
        for thread in threading.enumerate()
        if thread.name[:4] in ("feed", "read")
    }


class Stopping:
    """A progress bar that raises when so many tiles are done."""

    def __init__(self, at: int, error: BaseException) -> None:
        self._at, self._error, self._done = at, error, 0

    def __call__(self, label: str, *, total: int, unit: str) -> Stopping:
        del label, total, unit
        return self

    def __enter__(self) -> Stopping:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, n: int = 1) -> None:
        self._done += n
        if self._done >= self._at:
            raise self._error


def tall(raster_file: Callable[..., Path]) -> Path:
    """A raster of three rows of blocks of the output."""
    return raster_file("in.tif", np.tile(noise("uint8"), (1, 13, 1)))


def test_ctrl_c_ends_all_threads_and_the_same_call_goes_on(
    raster_file: Callable[..., Path], use: Callable[..., None], tmp_path: Path
) -> None:
    use(SIMPLE)
    raster, out = tall(raster_file), tmp_path / "map.tif"
    with pytest.raises(Interrupted):
        run(raster, out, "device", progress=Stopping(60, KeyboardInterrupt()))
    assert threads() == set()
    assert not out.exists()
    with pytest.raises(AerialSegError, match=r"runtime\.carrier was device, is host"):
        run(raster, out, "host")
    report = run(raster, out, "device")
    assert report.resumed_rows == 512
    run(raster, tmp_path / "calm.tif", "device")
    assert out.read_bytes() == (tmp_path / "calm.tif").read_bytes()


def test_what_cannot_be_read_ends_the_run_with_its_own_message(
    raster_file: Callable[..., Path], use: Callable[..., None], tmp_path: Path
) -> None:
    use(SIMPLE)
    raster = tall(raster_file)
    with raster.open("r+b") as file:
        file.truncate(raster.stat().st_size * 2 // 3)
    with pytest.raises(AerialSegError, match=r"in\.tif could not be read at row") as caught:
        run(raster, tmp_path / "map.tif", "device")
    assert isinstance(caught.value, InputError) or isinstance(caught.value.__cause__, InputError)
    assert threads() == set()


def test_a_defect_while_rows_are_laid_ready_is_not_lost(
    raster_file: Callable[..., Path],
    use: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(SIMPLE)
    fetch = RowFeed._fetch

    def fails(feed: RowFeed, rows: range) -> Any:
        if rows.start > 300:
            raise ZeroDivisionError("ours")
        return fetch(feed, rows)

    monkeypatch.setattr(RowFeed, "_fetch", fails)
    with pytest.raises(ZeroDivisionError, match="ours"):
        run(tall(raster_file), tmp_path / "map.tif", "device")
    assert threads() == set()


@pytest.mark.parametrize("when", ["__init__", "cut"])
def test_memory_that_a_device_lacks_is_one_line(
    raster_file: Callable[..., Path],
    use: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """Beside the network, whose batches are halved then; a run that goes on keeps its panels, whatever is free now."""
    import torch

    from aerial_seg.inference.device.ring import DeviceRing

    use(SIMPLE)

    def too_much(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DeviceRing, when, too_much)
    with pytest.raises(AerialSegError, match=r"does not fit into memory; .*`carrier=\"host\"`"):
        run(tall(raster_file), tmp_path / "map.tif", "device")
