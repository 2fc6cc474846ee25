"""A model in memory gives what `predict` writes, to the bit, whatever the image is handed over as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_memory import NODATA, noise, segmenter
from laws import examples, few
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

import aerial_seg
from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.inference.segmentation import Segmentation
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.models.file import TrainedModel, save_model

CORNER = (500_000.0, 5_200_000.0)
MODEL = Path("model.safetensors")
Models = Callable[..., TrainedModel]
Write = Callable[..., Path]
Use = Callable[[TrainedModel], None]


def predicted(
    raster: Path, out: Path, *, nodata: float | None = None, **wanted: Any
) -> dict[str, np.ndarray]:
    """The rasters that `predict` writes, by layer."""
    told = PredictSettings(
        engine="eager",
        precision="fp32",
        device="cpu",
        georeferenced=False,
        overwrite=True,
        nodata=nodata,
        **wanted,
    )
    predict(MODEL, [str(raster)], out, told)
    layers = {}
    for name in ("mask", "confidence", "probabilities"):
        path = out if name == "mask" else out.with_name(f"{out.stem}_{name}.tif")
        if name == "mask" or wanted.get(name):
            with rasterio.open(path) as file:
                layers[name] = file.read() if name == "probabilities" else file.read(1)
    return layers


def require_same(result: Segmentation, layers: dict[str, np.ndarray]) -> None:
    made = {"mask": result.classes, "confidence": result.confidence, "probabilities": result.probabilities}
    assert {name for name, values in made.items() if values is not None} == set(layers)
    for name, values in layers.items():
        got = made[name]
        assert got is not None
        np.testing.assert_array_equal(got, values, err_msg=name)
        assert not got.flags.writeable


SIDES = st.one_of(st.integers(1, 100), st.sampled_from([1, 16, 31, 32, 33, 64, 65]))
"""A tile is 32 pixels wide: below it, at it, above it."""


@settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), height=SIDES, width=SIDES, seed=st.integers(0, 99))
def test_an_array_gives_the_bits_that_predict_writes(
    pointwise: Models,
    neighbourly: Models,
    write_raster: Write,
    use: Use,
    tmp_path: Path,
    data: st.DataObject,
    height: int,
    width: int,
    seed: int,
) -> None:
    model = data.draw(
        st.sampled_from([pointwise(stride=8, origin_step=8), pointwise(), neighbourly(origin_step=8)])
    )
    use(model)
    wanted: dict[str, Any] = {
        "blend": data.draw(st.sampled_from(["logits", "probabilities"])),
        "window": data.draw(st.sampled_from(["linear", "cosine", "centre"])),
        "tta": data.draw(st.sampled_from([(), ("flips",), ("flips", "rot90")])),
        "confidence": data.draw(st.booleans()),
        "probabilities": data.draw(st.booleans()),
    }
    image, nodata = noise(seed, height, width), data.draw(st.sampled_from([None, NODATA]))
    path = write_raster(tmp_path / "image.tif", image, crs=None)
    layers = predicted(path, tmp_path / "map.tif", nodata=nodata, **wanted)
    before = image.copy()
    result = segmenter(model, SegmentSettings(**wanted))(image, nodata=nodata)
    require_same(result, layers)
    np.testing.assert_array_equal(image, before)
    if nodata is not None:
        np.testing.assert_array_equal(result.classes == 255, (image == NODATA).all(axis=0))


@pytest.mark.parametrize("architecture", few(["Unet", "deeplabv3", "pspnet"], quick=1))
def test_real_networks_in_batches_give_the_bits_of_predict(
    untrained: Callable[[str], TrainedModel], write_raster: Write, use: Use, tmp_path: Path, architecture: str
) -> None:
    model = untrained(architecture)
    use(model)
    one = segmenter(model, SegmentSettings(confidence=True))
    for height, width in ((40, 90), (96, 96), (150, 101)):
        image = noise(height, height, width)
        path = write_raster(tmp_path / "image.tif", image, crs=None)
        require_same(one(image), predicted(path, tmp_path / "map.tif", confidence=True))
    small = segmenter(model, batch_size=1)
    require_same(small(image), predicted(path, tmp_path / "map.tif", batch_size=1))


def ways_of_handing_over(path: Path, image: np.ndarray) -> dict[str, Callable[[Segmenter], Segmentation]]:
    """The same pixels with the same place, in every form that there is."""
    with rasterio.open(path) as file:
        placed: dict[str, Any] = {"crs": file.crs, "transform": file.transform, "nodata": file.nodata}

    def opened(call: Callable[[Any], Any]) -> Callable[[Segmenter], Segmentation]:
        def run(one: Segmenter) -> Segmentation:
            with rasterio.open(path) as file:
                return one(call(file))

        return run

    def warped(one: Segmenter) -> Segmentation:
        with rasterio.open(path) as file, WarpedVRT(file) as same:
            return one(same)

    height, width = image.shape[1:]
    last = np.ascontiguousarray(np.moveaxis(image, 0, -1))
    masked = np.ma.MaskedArray(image, image == NODATA)
    valid = ~(image == NODATA).all(axis=0)
    there = {"crs": placed["crs"].to_wkt(), "transform": tuple(placed["transform"])}
    return {
        "array": lambda one: one(image, **placed),
        "channels last": lambda one: one(last, channels_last=True, **placed),
        "a view": lambda one: one(image[:, ::-1][:, ::-1], **placed),
        "tensor": lambda one: one(torch.from_numpy(image), **placed),
        "masked array": lambda one: one(masked, **there),
        "valid": lambda one: one(image, valid=valid, **there),
        "valid tensor": lambda one: one(image, valid=torch.from_numpy(valid), **there),
        "dataset": opened(lambda file: file),
        "whole window": opened(lambda file: (file, Window(0, 0, width, height))),
        "warped": warped,
    }


@pytest.mark.parametrize("trained_at", [None, 2.0, 0.7], ids=["not resampled", "coarser", "finer"])
def test_every_way_of_handing_over_an_image_gives_what_predict_writes(
    pointwise: Models, write_raster: Write, use: Use, tmp_path: Path, trained_at: float | None
) -> None:
    model = pointwise(stride=8, origin_step=8, gsd=trained_at)
    use(model)
    image = noise(3, 83, 131)
    path = write_raster(tmp_path / "image.tif", image, nodata=NODATA)
    layers = predicted(path, tmp_path / "map.tif", confidence=True)
    one = segmenter(model, SegmentSettings(confidence=True))
    for way, call in ways_of_handing_over(path, image).items():
        result = call(one)
        np.testing.assert_array_equal(result.classes, layers["mask"], err_msg=way)
        np.testing.assert_array_equal(result.confidence, layers["confidence"], err_msg=way)
        assert result.transform == from_origin(*CORNER, 1.0, 1.0), way
        assert result.crs is not None
        assert result.crs.to_epsg() == 32633, way


def test_a_window_is_a_raster_of_its_own(
    pointwise: Models, write_raster: Write, use: Use, tmp_path: Path
) -> None:
    model = pointwise(stride=8, origin_step=8, gsd=2.0)
    use(model)
    image = noise(5, 90, 120)
    path = write_raster(tmp_path / "image.tif", image, nodata=NODATA)
    cut = write_raster(
        tmp_path / "cut.tif", image[:, 20:73, 31:94], nodata=NODATA, corner=(CORNER[0] + 31, CORNER[1] - 20)
    )
    layers = predicted(cut, tmp_path / "map.tif")
    with rasterio.open(path) as file:
        result = segmenter(model)((file, Window(31, 20, 63, 53)))
        require_same(result, layers)
        assert result.transform == file.transform * Affine.translation(31, 20)
        for window in (
            Window(100, 0, 30, 10),
            Window(0.5, 0, 10, 10),
            Window(0, 0, 0, 5),
            Window(-1, 0, 5, 5),
        ):
            with pytest.raises(InputError, match="wanted whole pixels inside the dataset's 120 × 90"):
                segmenter(model)((file, window))


def test_an_array_of_known_pixel_size_is_resampled_and_has_areas(
    pointwise: Models, write_raster: Write, use: Use, tmp_path: Path
) -> None:
    model = pointwise(gsd=1.0)
    use(model)
    image = noise(8, 60, 80)
    path = write_raster(tmp_path / "image.tif", image, gsd=0.5)
    layers = predicted(path, tmp_path / "map.tif")
    result = segmenter(model)(image, gsd=0.5)
    require_same(result, layers)
    assert any("no place on earth" in note for note in result.notes)
    assert "resampled to the model's 1 m for the network" in result.notes
    frame = result.polygons(["all"])
    assert frame["area_m2"].sum() == pytest.approx(60 * 80 * 0.25, rel=1e-9)
    frame.to_file(tmp_path / "areas.gpkg")

    plain = segmenter(model)(image)
    assert any("not resampled" in note and "gsd" in note for note in plain.notes)
    assert plain.crs is None
    assert not np.array_equal(plain.classes, result.classes)
    assert not any("not resampled" in note for note in segmenter(pointwise())(image).notes)


def test_not_a_number_is_not_measured(pointwise: Models) -> None:
    model = pointwise()
    bands = tuple(band.model_copy(update={"dtype": "float32"}) for band in model.card.bands)
    model = TrainedModel(model.network, model.card.model_copy(update={"bands": bands}), model.sha256)
    image = noise(2, 40, 50).astype(np.float32)
    image[0, 3:9, 5:11] = np.nan
    image[1, 30, 30] = np.inf
    expected = np.zeros((40, 50), bool)
    expected[3:9, 5:11] = expected[30, 30] = True
    assert np.array_equal(segmenter(model)(image).classes == 255, expected)
    assert np.array_equal(segmenter(model)(torch.from_numpy(image)).classes == 255, expected)


def test_what_is_no_number_is_resampled_as_a_file_is(
    pointwise: Models, write_raster: Write, use: Use, tmp_path: Path
) -> None:
    model = pointwise(gsd=1.0)
    bands = tuple(band.model_copy(update={"dtype": "float32"}) for band in model.card.bands)
    model = TrainedModel(model.network, model.card.model_copy(update={"bands": bands}), model.sha256)
    use(model)
    image = noise(2, 60, 80).astype(np.float32)
    image[0, 10:21, 9:40] = image[1, 40:50] = np.nan
    layers = predicted(write_raster(tmp_path / "image.tif", image, gsd=0.5), tmp_path / "map.tif")
    require_same(segmenter(model)(image, gsd=0.5), layers)
    assert np.array_equal(layers["mask"] == 255, np.isnan(image).any(axis=0))
    image[0, 2, 2] = np.inf
    assert segmenter(model)(image, gsd=0.5).classes[2, 2] == 255


def test_bands_of_a_dataset_are_chosen_by_number(
    pointwise: Models, write_raster: Write, use: Use, tmp_path: Path
) -> None:
    model = pointwise()
    use(model)
    image = noise(4, 40, 30)
    path = write_raster(
        tmp_path / "many.tif", np.concatenate([image[1:], image[:1], image]), photometric="MINISBLACK"
    )
    with rasterio.open(path) as file:
        with pytest.raises(InputError, match="has 4 bands"):
            segmenter(model)(file)
        result = segmenter(model)(file, bands=[2, 1])
        window = segmenter(model)((file, Window(0, 0, 30, 40)), bands=[2, 1])
        with pytest.raises(SettingsError, match="gsd is given, but an opened dataset says that itself"):
            segmenter(model)(file, gsd=0.5)
    np.testing.assert_array_equal(result.classes, segmenter(model)(image).classes)
    np.testing.assert_array_equal(window.classes, result.classes)


def test_datasets_that_no_file_shows_are_read_themselves(
    pointwise: Models, write_raster: Write, tmp_path: Path
) -> None:
    one, image = segmenter(pointwise()), noise(7, 40, 50)
    path = write_raster(tmp_path / "image.tif", image, nodata=NODATA)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2])
    with rasterio.open(path, overview_level=0) as small:
        assert one(small).shape == (20, 25)
        np.testing.assert_array_equal(one(small).classes, one(small.read(), nodata=NODATA).classes)
    with rasterio.open(path, "r+") as file:
        file.write(255 - image)
        # Not on the disk yet.
        np.testing.assert_array_equal(one(file).classes, one(255 - image, nodata=NODATA).classes)
    with rasterio.MemoryFile(path.read_bytes()) as memory, memory.open() as file:
        np.testing.assert_array_equal(one(file).classes, one(255 - image, nodata=NODATA).classes)
    with pytest.raises(InputError, match=r"is closed; open it again"):
        one(file)


@pytest.mark.parametrize(("dtype", "as_file"), [("float16", "float32"), ("int64", "int64"), ("int8", "int8")])
def test_every_dtype_of_arrays_is_resampled(
    pointwise: Models, write_raster: Write, use: Use, tmp_path: Path, dtype: str, as_file: str
) -> None:
    def of(dtype: str) -> TrainedModel:
        model = pointwise(gsd=1.0)
        bands = tuple(band.model_copy(update={"dtype": dtype}) for band in model.card.bands)
        return TrainedModel(model.network, model.card.model_copy(update={"bands": bands}), model.sha256)

    image = (noise(4, 40, 50) // 2).astype(dtype)
    use(of(as_file))
    path = write_raster(tmp_path / "image.tif", image.astype(as_file), gsd=0.5)
    result = segmenter(of(dtype))(image.astype(np.dtype(dtype).newbyteorder(">")), gsd=0.5)
    require_same(result, predicted(path, tmp_path / "map.tif"))


def test_several_models_answer_as_predict_averages_them(
    pointwise: Models,
    neighbourly: Models,
    write_raster: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = {"a.safetensors": pointwise(origin_step=8), "b.safetensors": neighbourly(origin_step=8)}
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: models[path.name])
    monkeypatch.setattr("aerial_seg.inference.segmenter.load_model", lambda path, network: models[path.name])
    image = noise(6, 50, 70)
    path = write_raster(tmp_path / "image.tif", image, crs=None)
    told = PredictSettings(precision="fp32", engine="eager", device="cpu", georeferenced=False)
    predict(Path("a.safetensors,b.safetensors"), [str(path)], tmp_path / "map.tif", told)
    both = aerial_seg.load(["a.safetensors", Path("b.safetensors")], device="cpu", precision="fp32")
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_array_equal(both(image).classes, file.read(1))


def test_a_crf_gives_what_predict_writes(
    pointwise: Models, write_raster: Write, use: Use, tmp_path: Path
) -> None:
    pytest.importorskip("pydensecrf")
    from aerial_seg.crf.settings import DenseCrf

    model = pointwise(stride=8, origin_step=8)
    use(model)
    image, crf = noise(9, 50, 60), DenseCrf(iterations=2)
    path = write_raster(tmp_path / "image.tif", image, nodata=NODATA)
    layers = predicted(path, tmp_path / "map.tif", crf=crf, confidence=True)
    one = segmenter(model, SegmentSettings(crf=crf, confidence=True))
    require_same(one(image, nodata=NODATA), layers)
    with rasterio.open(path) as file:
        require_same(one(file), layers)


def test_array_in_polygons_out_in_six_lines(pointwise: Models, tmp_path: Path) -> None:
    """As the README has it, with a model file and an array that this test makes."""
    model = pointwise(gsd=0.5)
    saved = tmp_path / "model.safetensors"
    save_model(model.network.state_dict(), model.card, saved)
    lines = f"""
import aerial_seg
segmenter = aerial_seg.load({str(saved)!r})
result = segmenter(array, gsd=0.5)
roads = result.polygons()
roads.to_file({str(tmp_path / "roads.gpkg")!r})
"""
    assert len(lines.strip().splitlines()) < 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aerial_seg.inference.segmenter.load_model", lambda path, network: model)
        exec(lines, {"array": noise(1, 70, 90)})
    assert (tmp_path / "roads.gpkg").exists()
    with pytest.raises(OutputError, match=r"ends in \.tif"):
        segmenter(model)(noise(1, 9, 9)).write(tmp_path / "map.png")
