"""Polygons of rasters without a geotransform lie where QGIS shows these, at y ≤ 0, and are taken back from there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import rasterize

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.measures import Measure
from aerial_seg.jobs.evaluate import evaluate_mask
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.labels.labels import check_overlap, open_labels
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, make_legend
from aerial_seg.outputs.maps import write_mask
from aerial_seg.vectors.from_mask.settings import ShapeSettings, VectorizeSettings

LEGEND = make_legend({0: "background", 1: "house", 2: "road", 7: "water"}, background=[0])
EXACT = VectorizeSettings(classes=("all",), shape=ShapeSettings(simplify=Measure(0, "px")))
LABELS = LabelSettings(class_field="class_name", outside="unlabelled")
NOWHERE = Affine.identity()
SITE = Affine(0.5, 0, 100, 0, -0.5, 700)
"""A geotransform of a site's own, without any CRS."""
SHOWN = Affine(1, 0, 0, 0, -1, 0)
"""Where QGIS shows a raster that has none."""
NAMES = ("map.gpkg", "map.shp", "map.fgb", "map.parquet", "map.csv")

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def blocks(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Patches of 5 × 5 pixels of classes and of nodata; no symmetry."""
    rough = np.random.default_rng(seed).choice([0, 1, 2, 7, IGNORE], (height // 5 + 1, width // 5 + 1))
    return np.kron(rough, np.ones((5, 5), int))[:height, :width].astype(np.uint8)


def make_mask(
    folder: Path, values: NDArray[np.uint8], transform: Affine = NOWHERE, crs: CRS | None = None
) -> Path:
    grid = Grid(crs=crs, transform=transform, height=values.shape[0], width=values.shape[1])
    return write_mask(folder / "map.tif", values, grid=grid, legend=LEGEND)[0]


def polygons_of(path: Path) -> geopandas.GeoDataFrame:
    if path.suffix == ".parquet":
        return geopandas.read_parquet(path)
    frame = geopandas.read_file(path)
    if path.suffix == ".csv":
        frame = frame.set_geometry(geopandas.GeoSeries.from_wkt(frame["WKT"]))
    return frame


def burnt_by_gdal(
    frame: geopandas.GeoDataFrame, shape: tuple[int, int], transform: Affine
) -> NDArray[np.uint8]:
    pairs = zip(frame.geometry, frame["class_id"].astype(int), strict=True)
    return np.asarray(rasterize(pairs, shape, transform=transform, fill=IGNORE, dtype="uint8"))


class TestVectorize:
    @pytest.mark.parametrize("name", NAMES)
    def test_row_20_lies_at_y_minus_20(self, tmp_path: Path, name: str) -> None:
        if name.endswith(".parquet"):
            pytest.importorskip("pyarrow")
        values = np.zeros((50, 30), np.uint8)
        values[20:23, 4:9] = 1
        mask = make_mask(tmp_path, values)
        report = vectorize(mask, tmp_path / name, VectorizeSettings(shape=EXACT.shape))
        (house,) = polygons_of(tmp_path / name).itertuples()
        assert house.geometry.bounds == (4, -23, 9, -20)
        assert house.geometry.area == int(house.n_px) == 15
        assert any("no geotransform" in note and "y = −r" in note for note in report.notes)

    @pytest.mark.parametrize("transform", [SITE, Affine(0, 1, 5, 1, 0, 9), Affine(2, 0, 0, 0, 2, 0)])
    def test_a_geotransform_without_a_crs_is_kept(self, tmp_path: Path, transform: Affine) -> None:
        values = blocks(1, 20, 30)
        report = vectorize(make_mask(tmp_path, values, transform), tmp_path / "map.gpkg", EXACT)
        frame = polygons_of(tmp_path / "map.gpkg")
        np.testing.assert_array_equal(burnt_by_gdal(frame, values.shape, transform), values)
        assert not any("geotransform" in note for note in report.notes)

    @settings(max_examples=examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        seed=st.integers(0, 999),
        height=st.integers(1, 24),
        width=st.integers(1, 24),
        transform=st.sampled_from([NOWHERE, SITE, Affine(1, 0, 3, 0, 1, 0)]),
    )
    def test_what_is_burnt_again_is_the_mask(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, height: int, width: int, transform: Affine
    ) -> None:
        values = np.random.default_rng(seed).choice([0, 1, 2, 7, IGNORE], (height, width)).astype(np.uint8)
        values[height // 2, width // 2] = 1
        folder = tmp_path_factory.mktemp("law")
        mask = make_mask(folder, values, transform)
        vectorize(mask, folder / "map.gpkg", EXACT)
        grid = Grid(crs=None, transform=transform, height=height, width=width)
        labels = open_labels([folder / "map.gpkg"], LABELS, legend=LEGEND)
        check_overlap(labels, [grid], names=["map.tif"])
        np.testing.assert_array_equal(labels.burn(grid.for_polygons()), values)
        shown = SHOWN if transform == NOWHERE else transform
        frame = polygons_of(folder / "map.gpkg")
        np.testing.assert_array_equal(burnt_by_gdal(frame, values.shape, shown), values)


@pytest.mark.parametrize("name", ["map.gpkg", "map.shp", "map.fgb"])
@pytest.mark.parametrize("transform", [NOWHERE, SITE])
def test_a_mask_agrees_with_its_own_polygons(tmp_path: Path, name: str, transform: Affine) -> None:
    values = blocks(2, 47, 33)
    mask = make_mask(tmp_path, values, transform)
    vectorize(mask, tmp_path / name, EXACT)
    report = evaluate_mask(mask, [str(tmp_path / name)], LABELS)
    assert report.scores.miou == 1
    assert np.sum(report.scores.confusion) == (values != IGNORE).sum()
    assert report.notes == ()


class TestTile:
    @pytest.fixture(params=[NOWHERE, SITE], ids=["nowhere", "site"])
    def report(self, request: pytest.FixtureRequest, raster_file: Callable[..., Path], tmp_path: Path) -> Any:
        self.transform = request.param
        self.values = blocks(3, 40, 64)
        image = np.random.default_rng(0).integers(1, 255, (3, 40, 64), dtype=np.uint8)
        raster = raster_file("image.tif", image, crs=None, transform=self.transform)
        vectorize(make_mask(tmp_path, self.values, self.transform), tmp_path / "map.gpkg", EXACT)
        wanted = TileSettings(labels=LABELS, chip_size=16, block=1, val="0", test="0", georeferenced=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return tile([str(raster)], [str(tmp_path / "map.gpkg")], tmp_path / "chips", wanted)

    def test_chips_hold_the_polygons_on_their_pixels(self, report: Any) -> None:
        names = dict(zip(LEGEND.names, LEGEND.values, strict=True))
        for row in range(0, 40, 16):
            for col in range(0, 64, 16):
                path = report.dataset / "labels" / f"image_{row // 16:04d}_{col // 16:04d}.tif"
                wanted = self.values[row : row + 16, col : col + 16]
                if not path.exists():
                    assert (wanted == IGNORE).all()
                    continue
                with rasterio.open(path) as chip:
                    got = chip.read(1)[: wanted.shape[0]]
                translated = np.full(256, IGNORE)
                for entry in report.legend.entries:
                    translated[entry.value] = names[entry.name]
                np.testing.assert_array_equal(translated[got], wanted)

    def test_chips_and_footprints_lie_on_the_picture(self, report: Any) -> None:
        frame = geopandas.read_file(report.dataset / "chips.gpkg", layer="chips")
        shown = SHOWN if self.transform == NOWHERE else self.transform
        for chip in frame.itertuples():
            left, top = shown * (chip.col * 16, chip.row * 16)
            right, bottom = shown * (chip.col * 16 + 16, min(40, chip.row * 16 + 16))
            assert chip.geometry.bounds == (left, bottom, right, top)
            with rasterio.open(report.dataset / "images" / f"{chip.chip}.tif") as image:
                assert image.transform == shown * Affine.translation(chip.col * 16, chip.row * 16)


class TestRefused:
    @pytest.fixture
    def mask(self, tmp_path: Path) -> Path:
        self.values = blocks(4, 40, 30)
        mask = make_mask(tmp_path, self.values)
        vectorize(mask, tmp_path / "map.gpkg", EXACT)
        return mask

    def test_polygons_counted_downwards_as_before(self, mask: Path, tmp_path: Path) -> None:
        """Whatever GDAL and earlier versions made of such masks."""
        frame = polygons_of(tmp_path / "map.gpkg")
        old = frame.set_geometry(frame.scale(1, -1, origin=(0, 0)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            old.to_file(tmp_path / "old.shp")
            wanted = r"y 0\.\.40, but .*map\.tif over x 0\.\.30, y -40\.\.0.*row r lies at y = −r.*mirror the labels"
            with pytest.raises(InputError, match=wanted):
                evaluate_mask(mask, [str(tmp_path / "old.shp")], LABELS)
            # The remedies that it tells.
            mended = old.set_geometry(old.affine_transform([1, 0, 0, -1, 0, 0]))
            mended.to_file(tmp_path / "mended.shp")
        again = VectorizeSettings(classes=EXACT.classes, shape=EXACT.shape)
        vectorize(mask, tmp_path / "again.gpkg", again)
        for name in ("mended.shp", "again.gpkg"):
            assert evaluate_mask(mask, [str(tmp_path / name)], LABELS).scores.miou == 1

    def test_mostly_above_is_no_guess_and_a_little_above_is_none(self, mask: Path, tmp_path: Path) -> None:
        frame = polygons_of(tmp_path / "map.gpkg")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            frame.set_geometry(frame.translate(0, 25)).to_file(tmp_path / "above.gpkg")
            frame.set_geometry(frame.translate(0, 5)).to_file(tmp_path / "near.gpkg")
        with pytest.raises(InputError, match=r"row r lies at y = −r"):
            evaluate_mask(mask, [str(tmp_path / "above.gpkg")], LABELS)
        near = evaluate_mask(mask, [str(tmp_path / "near.gpkg")], LABELS)
        assert (
            np.sum(near.scores.confusion)
            == ((self.values[:-5] != IGNORE) & (self.values[5:] != IGNORE)).sum()
        )

    def test_elsewhere(self, mask: Path, tmp_path: Path) -> None:
        frame = polygons_of(tmp_path / "map.gpkg")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            frame.set_geometry(frame.translate(500, 0)).to_file(tmp_path / "far.gpkg")
        with pytest.raises(InputError, match=r"do not overlap .*map.tif: .*x 500\.\.530.*x 0\.\.30"):
            evaluate_mask(mask, [str(tmp_path / "far.gpkg")], LABELS)

    def test_labels_with_a_crs(self, mask: Path, tmp_path: Path) -> None:
        frame = polygons_of(tmp_path / "map.gpkg").set_crs(32645, allow_override=True)
        frame.to_file(tmp_path / "utm.gpkg")
        with pytest.raises(
            InputError, match=r"UTM zone 45N .*utm.gpkg.* but .*map.tif has no CRS; give it one"
        ):
            evaluate_mask(mask, [str(tmp_path / "utm.gpkg")], LABELS)

    def test_labels_without_a_crs_for_a_mask_with_one(self, mask: Path, tmp_path: Path) -> None:
        (tmp_path / "utm").mkdir()
        placed = make_mask(tmp_path / "utm", self.values, SITE, CRS(32645))
        with pytest.raises(InputError, match=r"map.gpkg has no CRS .*`crs=.EPSG:xxxx.`"):
            evaluate_mask(placed, [str(tmp_path / "map.gpkg")], LABELS)


def test_predict_lays_its_polygons_on_the_picture(
    use: Callable, pointwise: Callable, raster_file: Callable[..., Path], tmp_path: Path
) -> None:
    model = pointwise(stride=1, origin_step=8)
    use(model)
    image = np.random.default_rng(1).integers(0, 250, (2, 40, 50)).astype(np.uint8)
    source = raster_file("in.tif", image, crs=None, transform=NOWHERE)
    wanted = PredictSettings(georeferenced=False, vectors=tmp_path / "out.gpkg")
    (report,) = predict(Path("any.safetensors"), [str(source)], tmp_path / "out.tif", wanted)
    assert report.vectors is not None
    assert any("no geotransform" in note for note in report.vectors.notes)
    frame = geopandas.read_file(tmp_path / "out.gpkg", layer="out")
    left, bottom, right, top = frame.total_bounds
    assert 0 <= left < right <= 50
    assert -40 <= bottom < top <= 0
