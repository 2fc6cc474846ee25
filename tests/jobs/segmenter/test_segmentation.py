"""What a Segmenter gives back: the files of `predict`, the polygons of `vectorize`, a picture, xarray."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.transform import from_origin

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.measures import Measure
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.segmentation import Segmentation
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.models.file import TrainedModel
from aerial_seg.vectors.from_mask.settings import (
    CleanSettings,
    LayerSettings,
    ShapeSettings,
    VectorizeSettings,
)

Models = Callable[..., TrainedModel]
Write = Callable[..., Path]
Use = Callable[[TrainedModel], None]
CORNER = (500_000.0, 5_200_000.0)
UTM = {"crs": "EPSG:32633", "transform": from_origin(*CORNER, 1, 1)}


def blocks(seed: int, height: int, width: int) -> np.ndarray:
    """Patches of several pixels, some of them nodata, so that there is something to trace."""
    random = np.random.default_rng(seed)
    coarse = random.integers(1, 256, (2, -(-height // 7), -(-width // 7)), dtype=np.uint8)
    coarse[:, random.random(coarse.shape[1:]) < 0.1] = 0
    return coarse.repeat(7, axis=1).repeat(7, axis=2)[:, :height, :width].copy()


def segmenter(model: TrainedModel, **wanted: Any) -> Segmenter:
    engine = EngineSettings("eager", "fp32", "cpu")
    return Segmenter(Ensemble((model,)), SegmentSettings(**wanted), engine, batch_size=None)


@pytest.fixture
def result(pointwise: Models) -> Segmentation:
    one = segmenter(pointwise(), confidence=True, probabilities=True)
    return one(blocks(1, 60, 80), nodata=0, **UTM)


def test_write_makes_the_bytes_that_predict_makes(
    pointwise: Models, write_raster: Write, use: Use, tmp_path: Path
) -> None:
    model = pointwise(stride=8, origin_step=8)
    use(model)
    path = write_raster(tmp_path / "image.tif", blocks(2, 700, 530), nodata=0)
    told = PredictSettings(
        engine="eager", precision="fp32", device="cpu", confidence=True, probabilities=True
    )
    (tmp_path / "theirs").mkdir()
    (report,) = predict(Path("model.safetensors"), [str(path)], tmp_path / "theirs" / "map.tif", told)
    (tmp_path / "ours").mkdir()
    with rasterio.open(path) as file:
        made = segmenter(model, confidence=True, probabilities=True)(file)
    files = made.write(tmp_path / "ours" / "map.tif")
    assert [file.name for file in files] == [file.name for file in report.files]
    assert sorted(file.name for file in (tmp_path / "ours").iterdir()) == sorted(file.name for file in files)
    for mine, its in zip(files, report.files, strict=True):
        assert mine.read_bytes() == its.read_bytes(), mine.name
    with pytest.raises(OutputError, match="exists already"):
        made.write(str(tmp_path / "ours" / "map.tif"))
    made.write(tmp_path / "ours" / "map.tif", overwrite=True)
    assert made.class_pixels() == report.class_pixels


SHAPES: dict[str, dict[str, Any]] = {
    "as they come": {},
    "every class": {"classes": ("all",)},
    "pixels": {"classes": ("all",), "shape": ShapeSettings(simplify=Measure(0, "px"), connectivity=8)},
    "cleaned": {
        "classes": ("road", "water"),
        "clean": CleanSettings(smooth_mask=3, fill_holes=Measure(60, "px"), min_area=Measure(100, "m2")),
        "shape": ShapeSettings(smooth=True, method="visvalingam", split_grid=32),
    },
    "objects": {"shape": ShapeSettings(instances=("road",), regularize=("water",))},
}


@pytest.mark.parametrize("asked", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("confidence", [True, False], ids=["confidence", "plain"])
def test_polygons_are_those_that_vectorize_makes_of_the_written_mask(
    pointwise: Models, write_raster: Write, tmp_path: Path, asked: dict[str, Any], confidence: bool
) -> None:
    path = write_raster(tmp_path / "image.tif", blocks(3, 600, 90), nodata=0)
    with rasterio.open(path) as file:
        made = segmenter(pointwise(), confidence=confidence)(file)
    made.write(tmp_path / "map.tif")
    report = vectorize(tmp_path / "map.tif", tmp_path / "map.gpkg", VectorizeSettings(**asked))
    theirs, mine = gpd.read_file(tmp_path / "map.gpkg", layer="map"), made.polygons(**asked)
    assert len(mine) == report.polygons > 3
    assert list(mine.columns) == list(theirs.columns)
    for column in theirs.columns.drop("geometry"):
        assert mine[column].fillna("-").tolist() == theirs[column].fillna("-").tolist(), column
    assert mine.crs == theirs.crs
    assert [one.wkb for one in mine.geometry] == [one.wkb for one in theirs.geometry]
    assert mine.attrs["notes"] == report.notes


def test_polygons_go_to_another_crs_and_one_name_is_one_class(result: Segmentation, tmp_path: Path) -> None:
    result.write(tmp_path / "map.tif")
    told = VectorizeSettings(classes=("road",), layer=LayerSettings(dst_crs="EPSG:4326"))
    vectorize(tmp_path / "map.tif", tmp_path / "map.gpkg", told)
    theirs, mine = gpd.read_file(tmp_path / "map.gpkg", layer="map"), result.polygons("road", crs="EPSG:4326")
    assert mine.crs == theirs.crs
    assert set(mine["class_name"]) == {"road"}
    assert [one.wkb for one in mine.geometry] == [one.wkb for one in theirs.geometry]
    with pytest.raises(
        SettingsError, match=r"`classes` names 'raod', which is no class.* did you mean 'road'"
    ):
        result.polygons(["raod"])


def test_polygons_of_a_mask_of_nothing_are_an_empty_frame_with_all_columns(pointwise: Models) -> None:
    made = segmenter(pointwise())(np.zeros((2, 5, 6), np.uint8), nodata=0, **UTM)
    assert (made.classes == 255).all()
    frame = made.polygons(["all"])
    assert len(frame) == 0
    assert list(frame.columns) == [
        "class_id", "class_name", "area_m2", "perim_m", "n_px", "source", "model_id", "geometry",
    ]  # fmt: skip
    assert frame.crs.to_epsg() == 32633


def test_nothing_of_a_result_can_be_changed(result: Segmentation) -> None:
    with pytest.raises(FrozenInstanceError):
        result.legend = None  # type: ignore[misc,assignment]
    for layer in (result.classes, result.confidence, result.probabilities):
        assert layer is not None
        with pytest.raises(ValueError, match="read-only"):
            layer[..., 0, 0] = 1


def test_the_picture_has_the_legends_colours_in_their_places(result: Segmentation) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = result.plot()
    (image,) = axes.get_images()
    assert image.get_extent() == [CORNER[0], CORNER[0] + 80, CORNER[1] - 60, CORNER[1]]
    drawn = np.asarray(image.get_array())
    for entry in result.legend.entries:
        assert (drawn[result.classes == entry.value] == entry.rgb).all()
    assert (drawn[result.classes == 255] == 255).all()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(result.legend.names)
    own = matplotlib.pyplot.figure().subplots()
    turned = Segmentation(
        result.classes.copy(), result.legend, Grid(result.crs, Affine.rotation(30), *result.shape)
    )
    assert turned.plot(own) is own
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(("call", "package"), [("plot", "matplotlib"), ("to_xarray", "xarray")])
def test_what_is_not_installed_is_named(
    result: Segmentation, monkeypatch: pytest.MonkeyPatch, call: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsError, match=f"pip install {package}"):
        getattr(result, call)()


class TestXarray:
    """DataArrays in and out; xarray and rioxarray are no dependencies."""

    @pytest.fixture
    def rioxarray(self) -> Any:
        """Skipped without it: `pip install 'aerial-seg[test]'` brings it."""
        return pytest.importorskip("rioxarray")

    @pytest.mark.parametrize("masked", [False, True])
    def test_what_rioxarray_opened_keeps_place_and_nodata(
        self, pointwise: Models, write_raster: Write, tmp_path: Path, rioxarray: Any, masked: bool
    ) -> None:
        model = pointwise(gsd=2.0)
        if masked:  # rioxarray makes floats of what it masks
            bands = tuple(band.model_copy(update={"dtype": "float32"}) for band in model.card.bands)
            model = TrainedModel(model.network, model.card.model_copy(update={"bands": bands}), model.sha256)
        image = blocks(4, 70, 90).astype(np.float32 if masked else np.uint8)
        path = write_raster(tmp_path / "image.tif", image, nodata=0, gsd=0.7)
        one = segmenter(model)
        with rasterio.open(path) as file:
            wanted = one(file)
        assert (wanted.classes == 255).any()
        with rioxarray.open_rasterio(path, masked=masked) as array:
            whole = one(array)
            swapped = one(array.transpose("y", "x", "band"))
            part = one(array.isel(x=slice(20, 64), y=slice(13, 50)))
            bare = one(array.drop_vars(["x", "y"]))
        for made in (whole, swapped, bare):
            np.testing.assert_array_equal(made.classes, wanted.classes)
            assert made.crs == wanted.crs
            assert made.transform == wanted.transform
        with rasterio.open(path) as file:
            cut = one((file, rasterio.windows.Window(20, 13, 44, 37)))
        np.testing.assert_array_equal(part.classes, cut.classes)
        assert part.transform.almost_equals(cut.transform, 1e-6)

    def test_out_and_in_again(self, result: Segmentation, tmp_path: Path, rioxarray: Any) -> None:
        made = result.to_xarray()
        assert list(made.data_vars) == ["mask", "confidence", "probabilities"]
        assert made["mask"].rio.crs.to_epsg() == 32633
        assert made["mask"].rio.transform() == result.transform
        assert made["mask"].rio.nodata == 255
        np.testing.assert_array_equal(made["mask"].values, result.classes)
        assert made["probabilities"].coords["class"].values.tolist() == list(result.legend.names)
        made["mask"].rio.to_raster(tmp_path / "mask.tif")
        with rasterio.open(tmp_path / "mask.tif") as file:
            np.testing.assert_array_equal(file.read(1), result.classes)
            assert file.transform == result.transform

    def test_axes_and_coordinates_that_are_no_grid_are_refused(self, pointwise: Models) -> None:
        xarray = pytest.importorskip("xarray")
        one, image = segmenter(pointwise()), blocks(5, 20, 30)
        with pytest.raises(InputError, match="wanted one called x or longitude"):
            one(xarray.DataArray(image, dims=("band", "y", "col")))
        with pytest.raises(InputError, match=r"\.isel\(time=0\)"):
            one(xarray.DataArray(image[None], dims=("time", "band", "y", "x")))
        with pytest.raises(InputError, match="wanted one DataArray"):
            one(xarray.Dataset({"a": (("y", "x"), image[0])}))
        uneven = xarray.DataArray(image, dims=("band", "y", "x"), coords={"x": np.arange(30) ** 2.0})
        with pytest.raises(InputError, match="along x are not evenly spaced"):
            one(uneven)
        with pytest.raises(SettingsError, match="gsd is given, but a DataArray says that itself"):
            one(xarray.DataArray(image, dims=("band", "y", "x")), gsd=1.0)
        plain = one(xarray.DataArray(image, dims=("band", "y", "x"), attrs={"_FillValue": 0}))
        np.testing.assert_array_equal(plain.classes == 255, (image == 0).all(axis=0))
        assert plain.crs is None


def test_nothing_heavy_is_imported_for_what_is_not_asked(tmp_path: Path) -> None:
    code = "import sys, aerial_seg; aerial_seg.load; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert not {"matplotlib", "xarray", "rioxarray"} & set(done.stdout.split())
