"""predict on an area: inside it the mask of the whole raster bit for bit, outside nodata, and no tile for nothing."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from rasterio.features import geometry_mask

from aerial_seg.crf.blocks import BlockedCrf
from aerial_seg.crf.settings import DenseCrf
from aerial_seg.errors import AerialSegError, Interrupted, OutputError, SettingsError
from aerial_seg.geo.grid_area import GridArea
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.region import Region
from aerial_seg.jobs.predict.job import forecast_prediction, predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.models.file import TrainedModel
from aerial_seg.progress import ProgressBar
from aerial_seg.tiling.plan import TileShape

NODATA = 7
MODEL = Path("any.safetensors")
CORNER = (500_000.0, 5_200_000.0)
BLOCKS = BlockedCrf(DenseCrf(iterations=2, bi_xy_std=5, bi_rgb_std=20), core=16, halo=6)
EVERYTHING = Definition(confidence=True, probabilities=True)
CRF = pytest.param(
    Definition(confidence=True, crf=BLOCKS),
    id="crf",
    marks=pytest.mark.skipif(find_spec("pydensecrf") is None, reason="pip install aerial-seg[crf]"),
)


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """Two bands of noise with a patch of nodata."""
    random = np.random.default_rng(seed)
    image = random.integers(NODATA + 1, 256, (2, height, width), dtype=np.uint8)
    top, left = random.integers(0, height), random.integers(0, width)
    image[:, top : top + height // 3, left : left + width // 3] = NODATA
    return image


@st.composite
def areas(draw: st.DrawFn, height: int, width: int) -> GridArea:
    """A triangle or rectangle anywhere, sometimes two, sometimes a few pixels only."""
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        corners = [
            (draw(st.floats(-5, width + 5)), draw(st.floats(-5, height + 5)))
            for _ in range(draw(st.integers(3, 5)))
        ]
        parts.append(shapely.MultiPoint(corners).convex_hull.buffer(draw(st.sampled_from([0.6, 0.0]))))
    return GridArea(shapely.union_all(parts), height=height, width=width)


@pytest.mark.parametrize("kind", ["pointwise", "coarse", "neighbourly"])
@pytest.mark.parametrize(
    "definition", [EVERYTHING, Definition(window="cosine", blend="probabilities", tta=("flips",)), CRF]
)
@settings(max_examples=examples(8), deadline=None)
@given(data=st.data(), height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 99))
def test_inside_the_area_lies_the_mask_of_the_whole_raster(
    stream_layers: Callable[..., Any],
    pointwise: Callable[..., TrainedModel],
    neighbourly: Callable[..., TrainedModel],
    kind: str,
    definition: Definition,
    data: st.DataObject,
    height: int,
    width: int,
    seed: int,
) -> None:
    made = {
        "pointwise": pointwise,
        "coarse": lambda: pointwise(stride=8, origin_step=8),
        "neighbourly": neighbourly,
    }
    model = made[kind]()
    unit = model.network.geometry.origin_step
    halo, step, overlap = (data.draw(st.integers(low, high)) * unit for low, high in ((0, 2), (1, 2), (0, 1)))
    # Tiles of a few pixels only would cost the most and show the least.
    step, overlap = (step * 8, overlap * 4) if unit == 1 else (step, overlap)
    shape = TileShape(geometry=model.network.geometry, side=step + overlap + 2 * halo, halo=halo, step=step)
    image, area = noise(seed, height, width), data.draw(areas(height, width))
    first, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    region = Region(first, range(left, data.draw(st.integers(left + 1, width))))
    whole = stream_layers(image, model, shape, definition=definition).layers
    found = stream_layers(image, model, shape, area=area, region=region, definition=definition)
    inside = area.inside(range(first, height), region.cols)
    for name, values in whole.items():
        part = values[..., first:, region.cols.start : region.cols.stop]
        np.testing.assert_array_equal(found.layers[name], np.where(inside, part, 255), err_msg=name)
    if not inside.any():
        assert found.tiles.run == 0


def test_only_tiles_that_reach_the_area_run_and_only_their_rows_are_read(
    stream_layers: Callable[..., Any],
    pointwise: Callable[..., TrainedModel],
) -> None:
    """Cores of 16 pixels without overlap: an area of one pixel wants those within one pixel (a cell) of it."""
    model = pointwise()
    shape = TileShape(geometry=model.network.geometry, side=16, halo=0, step=16)
    image = np.full((2, 640, 80), 100, np.uint8)
    for (col, row), tiles in {(40, 328): 1, (31, 328): 2, (48, 336): 4, (40, 319): 2}.items():
        area = GridArea(shapely.box(col, row, col + 1, row + 1), height=640, width=80)
        made = stream_layers(image, model, shape, area=area, definition=EVERYTHING)
        assert made.tiles.run == tiles, (col, row)
        assert made.tiles.run + made.tiles.skipped == 40 * 5
        assert len(made.rows_read) < 200, "rows far from the area were read"


def test_what_is_measured_around_the_area_is_seen(
    stream_layers: Callable[..., Any], neighbourly: Callable[..., TrainedModel]
) -> None:
    """A blanked surrounding would change the classes at the area's rim."""
    model = neighbourly()
    shape = TileShape(geometry=model.network.geometry, side=32, halo=4, step=24)
    image = np.random.default_rng(1).integers(8, 256, (2, 60, 60), dtype=np.uint8)
    box = shapely.box(20, 20, 40, 40)
    area = GridArea(box, height=60, width=60)
    blank = image.copy()
    blank[:, ~area.inside(range(60), range(60))] = NODATA
    seen = stream_layers(image, model, shape, area=area, definition=EVERYTHING).layers
    blind = stream_layers(blank, model, shape, definition=EVERYTHING).layers
    rim = seen["confidence"][20:40, 20:40] != blind["confidence"][20:40, 20:40]
    assert rim[0].any()
    assert not rim[3:-3, 3:-3].any()


# The whole command


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def at(*box: float) -> shapely.Geometry:
    """A box in metres east and south of the rasters' corner."""
    west, north, east, south = box
    return shapely.box(CORNER[0] + west, CORNER[1] - south, CORNER[0] + east, CORNER[1] - north)


@pytest.fixture
def polygons(tmp_path: Path) -> Callable[..., Path]:
    """Writes polygons of UTM zone 33 in any CRS."""

    def write(*geometries: shapely.Geometry, crs: str = "EPSG:32633", name: str = "aoi.gpkg") -> Path:
        frame = geopandas.GeoDataFrame(geometry=list(geometries), crs="EPSG:32633").to_crs(crs)
        frame.to_file(tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("gsd", [None, 2.0, 0.6], ids=["same grid", "coarser run", "finer run"])
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_the_command_clips_exactly_and_keeps_the_grid(
    use: Callable,
    pointwise: Callable,
    write_raster: Callable,
    polygons: Callable,
    tmp_path: Path,
    gsd: float | None,
    crs: str,
) -> None:
    use(pointwise(stride=8, origin_step=8, gsd=gsd))
    source = write_raster(tmp_path / "in.tif", noise(4, 300, 400), nodata=NODATA)
    areas = [
        shapely.transform(shapely.Point(90, 120).buffer(55), lambda p: np.array(CORNER) + p * [1, -1]),
        at(250.2, 180.7, 300.1, 260.9),
    ]
    plain = PredictSettings(confidence=True)
    whole = predict(MODEL, [str(source)], tmp_path / "whole.tif", plain)[0]
    aoi = str(polygons(*areas, crs=crs))
    report = predict(MODEL, [str(source)], tmp_path / "area.tif", PredictSettings(confidence=True, aoi=aoi))[
        0
    ]
    with rasterio.open(source) as raster, rasterio.open(report.mask) as mask:
        assert (mask.transform, mask.shape, mask.crs) == (raster.transform, raster.shape, raster.crs)
        inside = geometry_mask(areas, raster.shape, raster.transform, invert=True)
        assert '"sha256"' in mask.tags()["AERIAL_SEG_PARAMETERS"]
    for name in ("", "_confidence"):
        wanted = np.where(inside, read(tmp_path / f"whole{name}.tif"), 255)
        np.testing.assert_array_equal(read(tmp_path / f"area{name}.tif"), wanted)
    assert report.tiles + report.tiles_skipped == whole.tiles + whole.tiles_skipped
    # On the coarser grid the whole has 20 tiles only, of which the two areas and their seams touch most.
    assert report.tiles < whole.tiles / (1.25 if gsd == 2.0 else 1.5)
    assert report.nodata_pixels == (read(report.mask) == 255).sum()
    assert any("aoi.gpkg" in note and ": about " in note for note in report.notes)


def test_bounds_are_the_same_for_a_box(
    use: Callable, pointwise: Callable, write_raster: Callable, polygons: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = str(write_raster(tmp_path / "in.tif", noise(4, 100, 120), nodata=NODATA))
    box = at(20.4, 31, 70, 66.5)
    predict(MODEL, [source], tmp_path / "a.tif", PredictSettings(bounds=box.bounds))
    predict(MODEL, [source], tmp_path / "b.tif", PredictSettings(aoi=str(polygons(box))))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))
    assert (read(tmp_path / "a.tif") != 255).any()


def test_overlapping_parts_of_a_layer_without_crs_are_predicted_whole(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = str(write_raster(tmp_path / "in.tif", np.full((2, 160, 240), 100, np.uint8)))
    both = shapely.MultiPolygon([at(0, 0, 150, 100), at(100, 50, 219, 150)])
    layers = {"other": at(0, 0, 5, 5), "areas": both}
    for name, geometry in layers.items():
        geopandas.GeoDataFrame(geometry=[geometry]).to_file(tmp_path / "aoi.gpkg", layer=name)
    file = str(tmp_path / "aoi.gpkg")
    told = PredictSettings(aoi=file, aoi_layer="areas", aoi_crs="EPSG:32633")
    (report,) = predict(MODEL, [source], tmp_path / "m.tif", told)
    assert (read(report.mask) != 255).sum() == 24_400
    assert any("1 invalid polygons were made valid" in note for note in report.notes)
    same = PredictSettings(aoi=f"{file}|layername=areas", aoi_crs="EPSG:32633")
    predict(MODEL, [source], tmp_path / "n.tif", same)
    np.testing.assert_array_equal(read(tmp_path / "n.tif"), read(report.mask))


def test_no_result_replaces_the_area_whose_layer_is_named(
    use: Callable, pointwise: Callable, write_raster: Callable, polygons: Callable, tmp_path: Path
) -> None:
    use(pointwise())
    source = str(write_raster(tmp_path / "a.tif", noise(4, 20, 20)))
    file = polygons(at(0, 0, 9, 9))
    wanted = PredictSettings(aoi=f"{file}|layername=aoi", vectors=file, overwrite=True)
    with pytest.raises(OutputError, match=r"aoi\.gpkg would be written, but is one of the files to read"):
        predict(MODEL, [source], tmp_path / "m.tif", wanted)


def test_a_dry_run_counts_the_areas_tiles_only(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = str(write_raster(tmp_path / "in.tif", noise(4, 200, 200)))
    area = PredictSettings(bounds=at(20, 20, 50, 50).bounds)
    (whole,) = forecast_prediction(MODEL, [source], tmp_path / "a.tif", PredictSettings())
    (part,) = forecast_prediction(MODEL, [source], tmp_path / "a.tif", area)
    assert part.tiles < whole.tiles / 4
    assert predict(MODEL, [source], tmp_path / "a.tif", area)[0].tiles <= part.tiles


@pytest.mark.parametrize("mosaic", [False, True])
def test_an_area_elsewhere_is_one_line_and_leaves_nothing(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path, mosaic: bool
) -> None:
    use(pointwise())
    names = [str(write_raster(tmp_path / f"{n}.tif", noise(4, 20, 20))) for n in ("a", "b")][: 1 + mosaic]
    wanted = PredictSettings(bounds=at(500, 500, 600, 600).bounds, mosaic=mosaic)
    with pytest.raises(AerialSegError, match=r"holds no pixel of .*; check both places") as caught:
        predict(MODEL, names, tmp_path / "new" / "m.tif", wanted)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_aoi_and_bounds_exclude_each_other(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise())
    source = str(write_raster(tmp_path / "a.tif", noise(4, 20, 20)))
    with pytest.raises(SettingsError, match="pass one of them"):
        predict(MODEL, [source], tmp_path / "m.tif", PredictSettings(aoi="a.gpkg", bounds=(0, 0, 1, 1)))
    for alone in ({"aoi_crs": "EPSG:4326"}, {"aoi_layer": "b", "bounds": (0, 0, 1, 1)}):
        with pytest.raises(SettingsError, match=r"`aoi_(crs|layer)=.*` .* but there is none; leave it out"):
            predict(MODEL, [source], tmp_path / "m.tif", PredictSettings(**alone))


class Stopped:
    """A progress bar that stops the run at its n-th tile, as Ctrl-C does."""

    def __init__(self, tiles: int) -> None:
        self._left = tiles

    def __call__(self, label: str, *, total: int, unit: str) -> ProgressBar:
        del label, total, unit
        return self

    def update(self, n: int = 1) -> None:
        self._left -= n
        if self._left == 0:
            raise KeyboardInterrupt

    def __enter__(self) -> Stopped:
        return self

    def __exit__(self, *error: object) -> None:
        del error


def test_a_run_goes_on_with_the_same_area_only(
    use: Callable, pointwise: Callable, write_raster: Callable, polygons: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = str(write_raster(tmp_path / "in.tif", noise(4, 1300, 60), nodata=NODATA))
    aoi = PredictSettings(aoi=str(polygons(at(10, 100, 40, 1250))))
    calm = predict(MODEL, [source], tmp_path / "calm.tif", aoi)[0]
    with pytest.raises(Interrupted):
        predict(MODEL, [source], tmp_path / "m.tif", aoi, Stopped((calm.tiles + calm.tiles_skipped) * 3 // 4))
    polygons(at(10, 100, 40, 1251))
    with pytest.raises(OutputError, match=r"parameters\.area\.sha256 was .*`restart=True`"):
        predict(MODEL, [source], tmp_path / "m.tif", aoi)
    polygons(at(10, 100, 40, 1250))
    report = predict(MODEL, [source], tmp_path / "m.tif", aoi)[0]
    assert report.resumed_rows > 0
    assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "calm.tif").read_bytes()
