"""predict with several models: the map of their mean, recorded as such, or nothing at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch.nn.functional import interpolate

from aerial_seg.bands import normalise
from aerial_seg.errors import InputError
from aerial_seg.jobs.predict.job import forecast_prediction, predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.models.file import TrainedModel
from aerial_seg.outputs.mask import read_origin

STRIDE = 8
BOTH = Path("a.safetensors,b.safetensors")
EAGER = PredictSettings(engine="eager", precision="fp32", device="cpu", tile_size=32, halo=0, overlap=8)


@pytest.fixture
def models(
    monkeypatch: pytest.MonkeyPatch, pointwise: Callable[..., TrainedModel]
) -> dict[str, TrainedModel]:
    """Files by name: two pointwise models with other weights, statistics and biases."""
    first, second = (pointwise(stride=STRIDE, origin_step=step, gsd=1.0) for step in (8, 16))
    with torch.no_grad():
        for number, one in enumerate((first, second)):
            torch.manual_seed(10 + number)
            torch.nn.init.normal_(one.network.classify.weight, std=2)
    bands = tuple(band.model_copy(update={"mean": 150.0, "std": 30.0}) for band in second.card.bands)
    card = second.card.model_copy(update={"bands": bands, "class_bias": (0.5, 0.0, -0.25)})
    made = {
        "a.safetensors": replace(first, sha256="a" * 64),
        "b.safetensors": replace(second, card=card, sha256="b" * 64),
    }
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: made[path.name])
    return made


@pytest.fixture
def source(tmp_path: Path, write_raster: Callable[..., Path]) -> Path:
    random = np.random.default_rng(5)
    image = np.kron(random.integers(0, 256, (2, 14, 11)), np.ones((1, 9, 9))).astype(np.uint8)
    valid = np.ones(image.shape[1:], bool)
    valid[20:70, 30:50] = False
    return write_raster(tmp_path / "in.tif", image, valid=valid)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def mean_classes(source: Path, models: list[TrainedModel]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(classes, margin of the best, valid) of the whole raster by torch: mean of softmaxes, its log upsampled."""
    with rasterio.open(source) as file:
        image, valid = file.read(), file.dataset_mask() > 0
    height, width = valid.shape
    beyond = (0, 0), (0, -height % STRIDE), (0, -width % STRIDE)
    total = 0.0
    for one in models:
        normal = np.pad(normalise(image, valid, one.card.bands), beyond, mode="symmetric")
        with torch.no_grad():
            logits = one.network(torch.from_numpy(normal)[None])
        total = total + (logits + torch.tensor(one.card.class_bias).reshape(1, -1, 1, 1)).softmax(1)
    cells = torch.log(total / len(models))
    ranked = interpolate(cells, scale_factor=STRIDE, mode="bilinear")[0, :, :height, :width].numpy()
    ordered = np.sort(ranked, axis=0)
    return ranked.argmax(0), ordered[-1] - ordered[-2], valid


def test_the_map_is_that_of_the_mean_probabilities(
    models: dict[str, TrainedModel], source: Path, tmp_path: Path
) -> None:
    (report,) = predict(BOTH, [str(source)], tmp_path / "both.tif", EAGER)
    classes, margin, valid = mean_classes(source, list(models.values()))
    mask, clear = read(report.mask), valid & (margin > 1e-4)
    wanted = models["a.safetensors"].card.legend.value_table()[classes]
    np.testing.assert_array_equal(mask[clear], wanted[clear])
    np.testing.assert_array_equal(mask == 255, ~valid)
    # The test can fail: neither model alone gives this map.
    for name in models:
        predict(Path(name), [str(source)], tmp_path / f"{name}.tif", EAGER)
        assert (read(tmp_path / f"{name}.tif") != mask)[clear].mean() > 0.01


def test_the_order_and_the_cutting_change_no_clear_pixel(
    models: dict[str, TrainedModel], source: Path, tmp_path: Path
) -> None:
    settings = replace(EAGER, probabilities=True)
    predict([Path("a.safetensors"), Path("b.safetensors")], [str(source)], tmp_path / "a.tif", settings)
    predict(BOTH, [str(source)], tmp_path / "b.tif", replace(settings, batch_size=1, max_memory=10**12))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))
    turned = Path("b.safetensors,a.safetensors")
    predict(turned, [str(source)], tmp_path / "c.tif", settings)
    _, margin, valid = mean_classes(source, list(models.values()))
    clear = valid & (margin > 1e-4)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[clear], read(tmp_path / "c.tif")[clear])


def test_outputs_name_all_models(models: dict[str, TrainedModel], source: Path, tmp_path: Path) -> None:
    (report,) = predict(BOTH, [str(source)], tmp_path / "out.tif", EAGER)
    with rasterio.open(report.mask) as made:
        assert made.tags()["AERIAL_SEG_MODEL_SHA256"] == "a" * 64 + "," + "b" * 64
    assert read_origin(report.mask)["model_id"] == "a" * 12 + "," + "b" * 12


def test_the_journal_holds_all_models_and_statistics_of_the_run(
    models: dict[str, TrainedModel], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[dict] = []
    from aerial_seg.files.journal import Journal

    kept = Journal.open.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Journal,
        "open",
        classmethod(lambda cls, path, job, **renew: jobs.append(dict(job)) or kept(cls, path, job, **renew)),
    )
    predict(BOTH, [str(source)], tmp_path / "out.tif", EAGER)
    (job,) = jobs
    assert job["model_sha256"] == "a" * 64 + "," + "b" * 64
    assert job["runtime"]["engine"] == "eager"
    assert json.dumps(job, default=str)


def test_flips_of_an_ensemble_are_the_ensemble_of_flips(
    models: dict[str, TrainedModel], source: Path, tmp_path: Path
) -> None:
    """Pointwise models do not see how a tile lies."""
    predict(BOTH, [str(source)], tmp_path / "plain.tif", EAGER)
    predict(BOTH, [str(source)], tmp_path / "turned.tif", replace(EAGER, tta=("flips", "rot90")))
    _, margin, valid = mean_classes(source, list(models.values()))
    clear = valid & (margin > 1e-4)
    np.testing.assert_array_equal(read(tmp_path / "plain.tif")[clear], read(tmp_path / "turned.tif")[clear])


def test_a_dry_run_counts_the_memory_of_all_inputs(
    models: dict[str, TrainedModel], source: Path, tmp_path: Path
) -> None:
    (both,) = forecast_prediction(BOTH, [str(source)], tmp_path / "out.tif", EAGER)
    assert both.memory > 0
    assert both.tiles > 0
    assert not (tmp_path / "out.tif").exists()


def test_models_that_do_not_fit_leave_nothing(
    models: dict[str, TrainedModel], source: Path, tmp_path: Path
) -> None:
    second = models["b.safetensors"]
    models["b.safetensors"] = replace(second, card=second.card.model_copy(update={"gsd": 0.3}))
    with pytest.raises(
        InputError, match=r"a\.safetensors and b\.safetensors cannot be averaged: .* 1 m and 0\.3 m"
    ):
        predict(BOTH, [str(source)], tmp_path / "out.tif", EAGER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif"]


def flat_patches(tmp_path: Path, write_raster: Callable[..., Path]) -> Path:
    """Large enough patches that the middle of each is the same at every size."""
    random = np.random.default_rng(8)
    return write_raster(
        tmp_path / "flat.tif",
        np.kron(random.integers(0, 256, (2, 2, 3)), np.ones((1, 96, 96))).astype(np.uint8),
    )


def test_sizes_leave_flat_ground_as_it_is_and_what_was_run_is_recorded(
    models: dict[str, TrainedModel], write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    source = flat_patches(tmp_path, write_raster)
    settings = replace(EAGER, tile_size=64, halo=16, overlap=0)
    scaled = replace(settings, tta=("flips", "scales=0.5:0.8:1.5"))
    predict(BOTH, [str(source)], tmp_path / "plain.tif", settings)
    (report,) = predict(BOTH, [str(source)], tmp_path / "scaled.tif", scaled)
    middle = np.zeros((192, 288), bool)
    for top in (0, 96):
        for left in (0, 96, 192):
            middle[top + 40 : top + 56, left + 40 : left + 56] = True
    plain, made = read(tmp_path / "plain.tif"), read(tmp_path / "scaled.tif")
    np.testing.assert_array_equal(made[middle], plain[middle])
    assert len(np.unique(plain[middle])) > 1
    assert (made != plain).any()
    # Steps of 16 px: 0.8 of 64 is 51.2, and 48 is run.
    assert [note for note in report.notes if "scale" in note] == [
        "scale 0.8: tiles of 64 px are run at 48 px, 0.75 times theirs, the nearest that the model takes"
    ]
    with rasterio.open(report.mask) as file:
        assert json.loads(file.tags()["AERIAL_SEG_PARAMETERS"])["tta"] == ["flips", "scales=0.5:0.8:1.5"]


def test_a_dry_run_times_all_that_is_run(
    models: dict[str, TrainedModel], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    pointwise_forward = type(models["a.safetensors"].network).forward
    monkeypatch.setattr(
        type(models["a.safetensors"].network),
        "forward",
        lambda self, image: ran.append(image.shape[-1]) or pointwise_forward(self, image),
    )
    forecast_prediction(BOTH, [str(source)], tmp_path / "out.tif", replace(EAGER, tta=("rot90", "scales=2")))
    # The last batch is the timed one: two models, four orientations, two sizes.
    assert ran[-16:] == [32] * 8 + [64] * 8
