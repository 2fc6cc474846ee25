"""What the network is shown: measured numbers in the units of its training, by either carrier, in mosaics, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from aerial_seg.bands import Band, normalise
from aerial_seg.errors import InputError
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.models.file import TrainedModel

HEIGHT, WIDTH = 70, 90
BANDS = 2
Write = Callable[..., Path]


@pytest.fixture
def model(
    pointwise: Callable[..., TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TrainedModel]:
    """Puts a pointwise model of two bands in place whose bands are as told."""

    def place(**band: Any) -> TrainedModel:
        plain = pointwise()
        bands = tuple(old.model_copy(update=band) for old in plain.card.bands)
        trained = replace(plain, card=plain.card.model_copy(update={"bands": bands}))
        monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: trained)
        return trained

    return place


def noise(dtype: str, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(100, 3000, (BANDS, HEIGHT, WIDTH)).astype(dtype)


def declare(path: Path, scale: float, offset: float) -> Path:
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (scale,) * BANDS, (offset,) * BANDS
    return path


def mapped(rasters: Sequence[Path], out: Path, **options: Any) -> tuple[Any, tuple[str, ...]]:
    settings = PredictSettings(device="cpu", engine="eager", precision="fp32", overwrite=True, **options)
    (report,) = predict("model", [str(path) for path in rasters], out, settings)
    with rasterio.open(out) as file:
        return file.read(1), report.notes


def classes_of(trained: TrainedModel, image: Any, valid: Any) -> tuple[Any, Any]:
    """What the network itself says of every pixel; and where that is beyond doubt."""
    import torch

    bands: Sequence[Band] = trained.card.bands
    with torch.no_grad():
        logits = trained.network(torch.from_numpy(normalise(image, valid, bands))[None])[0].numpy()
    ranked = np.sort(logits, axis=0)
    found = np.array(trained.card.legend.values)[logits.argmax(axis=0)]
    return np.where(valid, found, 255), ranked[-1] - ranked[-2] > 1e-3


@pytest.mark.parametrize("carrier", ["host", "device"])
def test_a_model_of_scaled_numbers_sees_the_same_ground_alike_whatever_the_scene_stores(
    raster_file: Write, model: Callable[..., TrainedModel], tmp_path: Path, carrier: str
) -> None:
    """Sentinel-2 since baseline 04.00: the same reflectance is stored as 1000 more."""
    trained = model(dtype="float32", scaled=True, mean=0.15, std=0.08, p2=0.01, p98=0.3)
    image = noise("uint16")
    old = declare(raster_file("old.tif", image), 1e-4, 0)
    new = declare(raster_file("new.tif", image + np.uint16(1000)), 1e-4, -0.1)
    first, notes = mapped([old], tmp_path / "old_map.tif", carrier=carrier)
    second, _ = mapped([new], tmp_path / "new_map.tif", carrier=carrier)
    wanted, sure = classes_of(trained, (image / 1e4).astype(np.float32), np.ones((HEIGHT, WIDTH), bool))
    assert len(np.unique(wanted)) > 1
    np.testing.assert_array_equal(first[sure], wanted[sure])
    np.testing.assert_array_equal(second[sure], wanted[sure])
    assert notes == (
        f"scale and offset of {tmp_path / 'old.tif'} are applied, as in training: scale 0.0001, offset 0",
    )


def test_a_scene_without_scale_is_refused_and_the_remedies_work(
    raster_file: Write, model: Callable[..., TrainedModel], tmp_path: Path
) -> None:
    model(dtype="float32", scaled=True, mean=0.15, std=0.08, p2=0.01, p98=0.3)
    image = noise("uint16")
    told = mapped([declare(raster_file("told.tif", image), 1e-4, 0)], tmp_path / "told_map.tif")[0]
    silent = raster_file("silent.tif", image)
    with pytest.raises(InputError, match=r"silent\.tif declares no scale and offset for band 1, band 2.*gdal_edit\.py.*"
                                         r"scale=.off."):  # fmt: skip
        mapped([silent], tmp_path / "out.tif")
    meant = raster_file("meant.tif", (image * np.float64(1e-4)).astype(np.float32))
    with pytest.raises(InputError, match="declares no scale"):
        mapped([meant], tmp_path / "out.tif")
    np.testing.assert_array_equal(mapped([meant], tmp_path / "out.tif", scale="off")[0], told)
    with pytest.raises(InputError, match=r"holds uint16, but the model was trained on float32"):
        mapped([silent], tmp_path / "out.tif", scale="off")
    declare(silent, 1e-4, 0)
    np.testing.assert_array_equal(mapped([silent], tmp_path / "out.tif")[0], told)


def test_a_model_of_stored_numbers_takes_them_as_stored_and_says_so(
    raster_file: Write, model: Callable[..., TrainedModel], tmp_path: Path
) -> None:
    model(dtype="uint16", mean=1500, std=800, p2=100, p98=3000)
    image = noise("uint16")
    plain, none = mapped([raster_file("plain.tif", image)], tmp_path / "a.tif")
    told, notes = mapped([declare(raster_file("told.tif", image), 1e-4, 0)], tmp_path / "b.tif")
    np.testing.assert_array_equal(plain, told)
    assert none == ()
    assert "declares scale 0.0001, offset 0, but the model was trained on numbers as they are" in notes[0]
    tagged = raster_file("tagged.tif", image)
    with rasterio.open(tagged, "r+") as file:
        file.update_tags(BOA_ADD_OFFSET="-1000")
    _, notes = mapped([tagged], tmp_path / "c.tif")
    assert f"the raster tells a scale or offset only in tags (BOA_ADD_OFFSET -1000 in {tagged})" in notes[0]
    assert mapped([tagged], tmp_path / "c.tif", scale="off")[1] == ()


def test_numbers_that_an_offset_shifts_are_refused_by_a_model_of_stored_ones(
    raster_file: Write, model: Callable[..., TrainedModel], tmp_path: Path
) -> None:
    """DN + 1000 with offset -0.1 is the same ground, and other numbers."""
    model(dtype="uint16", mean=1500, std=800, p2=100, p98=3000)
    image = noise("uint16")
    plain, _ = mapped([raster_file("plain.tif", image)], tmp_path / "a.tif")
    shifted = declare(raster_file("shifted.tif", image + np.uint16(1000)), 1e-4, -0.1)
    told = r"shifted\.tif declares scale 0.0001, offset -0.1 for band 'band 1', but the model .*`scale=.off.`"
    with pytest.raises(InputError, match=told):
        mapped([shifted], tmp_path / "b.tif")
    taken, _ = mapped([shifted], tmp_path / "b.tif", scale="off")
    assert (taken != plain).any()
    same = declare(raster_file("same.tif", image), 1e-4, -0.1)
    np.testing.assert_array_equal(mapped([same], tmp_path / "c.tif", scale="off")[0], plain)


def test_a_model_of_shifted_numbers_knows_their_offset(
    raster_file: Write, model: Callable[..., TrainedModel], tmp_path: Path
) -> None:
    """Trained with `--scale off` on scenes that declare -0.1: such are taken as they are, and others are refused."""
    model(dtype="uint16", mean=1500, std=800, p2=100, p98=3000, stored_offsets=(-0.1,))
    image = noise("uint16")
    shifted = declare(raster_file("shifted.tif", image), 1e-4, -0.1)
    known, _ = mapped([shifted], tmp_path / "a.tif")
    beside = Affine(0.5, 0, 300_000 + WIDTH / 2, 0, -0.5, 3_060_000)
    plain = raster_file("plain.tif", image, transform=beside)
    told = r"plain\.tif declares scale 1, offset 0 for band 'band 1', but .* that declare offset -0\.1.*`scale=.off.`"
    with pytest.raises(InputError, match=told):
        mapped([plain], tmp_path / "b.tif")
    with pytest.raises(InputError, match=told):
        mapped([shifted, plain], tmp_path / "b.tif", mosaic=True)
    np.testing.assert_array_equal(mapped([plain], tmp_path / "b.tif", scale="off")[0], known)


def test_a_mosaic_of_numbers_that_mean_different_things_is_refused_by_a_model_of_stored_ones(
    raster_file: Write, model: Callable[..., TrainedModel], tmp_path: Path
) -> None:
    model(dtype="uint16", mean=1500, std=800, p2=100, p98=3000)
    beside = Affine(0.5, 0, 300_000 + WIDTH / 2, 0, -0.5, 3_060_000)
    images = [noise("uint16", 1), noise("uint16", 2)]
    paths = [
        raster_file("left.tif", images[0]),
        declare(raster_file("right.tif", images[1], transform=beside), 1e-4, 0),
    ]
    with pytest.raises(
        InputError, match=r"right.tif declares scale 0.0001, offset 0, but .*left.tif scale 1, offset 0"
    ):
        mapped(paths, tmp_path / "m.tif", mosaic=True)
    found, _ = mapped(paths, tmp_path / "m.tif", mosaic=True, scale="off")
    alone = [mapped([path], tmp_path / "one.tif")[0] for path in paths]
    np.testing.assert_array_equal(found, np.concatenate(alone, axis=1))


@pytest.mark.parametrize("nodata", [None, 0])
def test_a_mosaic_of_scenes_with_other_offsets_is_the_map_of_each(
    raster_file: Write, model: Callable[..., TrainedModel], tmp_path: Path, nodata: float | None
) -> None:
    trained = model(dtype="float32", scaled=True, mean=0.15, std=0.08, p2=0.01, p98=0.3)
    left, right = noise("uint16", 1), noise("uint16", 2)
    right[:, :9, :9] = 0
    beside = Affine(0.5, 0, 300_000 + WIDTH / 2, 0, -0.5, 3_060_000)
    raised = np.where(right > 0, right + 1000, 0).astype("uint16")
    paths = [
        declare(raster_file("left.tif", left), 1e-4, 0),
        declare(raster_file("right.tif", raised, transform=beside), 1e-4, -0.1),
    ]
    found, _ = mapped(paths, tmp_path / "m.tif", mosaic=True, nodata=nodata)
    stored = np.concatenate([left / 1e4, np.where(right > 0, right / 1e4, -0.1)], axis=2).astype(np.float32)
    valid = np.concatenate([left > 0, right > 0], axis=2).any(axis=0) | (nodata is None)
    wanted, sure = classes_of(trained, stored, valid)
    assert (found == 255).sum() == (0 if nodata is None else 81)
    np.testing.assert_array_equal(found[sure], wanted[sure])
    same = [paths[0], declare(raster_file("same.tif", right, transform=beside), 1e-4, 0)]
    again, _ = mapped(same, tmp_path / "s.tif", mosaic=True, nodata=nodata)
    sure &= np.concatenate([left > 0, right > 0], axis=2).any(axis=0)
    np.testing.assert_array_equal(again[sure], wanted[sure])


@pytest.mark.parametrize("carrier", ["host", "device"])
def test_a_filler_of_one_band_is_shown_to_no_network(
    raster_file: Write, model: Callable[..., TrainedModel], tmp_path: Path, carrier: str
) -> None:
    """−9999 in one of two bands was taken for brightness; of the tile's other pixels nothing changes."""
    trained = model(dtype="float32", mean=1500, std=800, p2=100, p98=3000)
    image = noise("float32")
    filled = image.copy()
    filled[1, 20:40, 30:60] = -9999
    found, notes = mapped([raster_file("in.tif", filled, nodata=-9999)], tmp_path / "m.tif", carrier=carrier)
    valid = filled[1] != -9999
    wanted, sure = classes_of(trained, image, valid)
    np.testing.assert_array_equal(found == 255, ~valid)
    np.testing.assert_array_equal(found[sure], wanted[sure])
    assert any("600 of the 6,300 pixels" in note and "count as not measured" in note for note in notes)
    _, notes = mapped([raster_file("quiet.tif", filled)], tmp_path / "q.tif", carrier=carrier)
    (note,) = [note for note in notes if "are -9999 in " in note]
    assert "600 pixels of" in note
    assert "nodata=-9999" in note
    mended, _ = mapped([raster_file("quiet.tif", filled)], tmp_path / "q.tif", carrier=carrier, nodata=-9999)
    np.testing.assert_array_equal(mended, found)
