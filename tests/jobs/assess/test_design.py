"""A sample is random, of what the map holds, and the same again; what is labelled comes back as accuracy and areas."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from numpy.typing import NDArray
from PIL import Image
from pyproj import CRS
from rasterio.transform import from_origin

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.jobs.assess.design import design_sample
from aerial_seg.jobs.assess.report import assess
from aerial_seg.jobs.assess.settings import AssessSettings, DesignSettings
from aerial_seg.legend import IGNORE, make_legend
from aerial_seg.outputs.maps import write_mask

LEGEND = make_legend({0: "background", 1: "building", 7: "water"}, background=[0])
UTM = Grid(CRS(32645), Affine(2.0, 0, 300_000, 0, -2.0, 3_060_000), 700, 1300)


def made(path: Path, values: NDArray[np.uint8], grid: Grid = UTM) -> Path:
    write_mask(path, values, grid=grid, legend=LEGEND)
    return path


def values_of(grid: Grid = UTM, *, seed: int = 0) -> NDArray[np.uint8]:
    """All classes and nodata in patches; water is rare."""
    random = np.random.default_rng(seed)
    height, width = grid.shape
    rough = random.choice([0, 1, 7, IGNORE], (-(-height // 20), -(-width // 20)), p=[0.6, 0.3, 0.02, 0.08])
    return np.kron(rough, np.ones((20, 20), int))[:height, :width].astype(np.uint8)


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("assess") / "map.tif", values_of())


def points_of(path: Path) -> Any:
    return geopandas.read_file(path, layer="points")


def label(source: Path, path: Path, reference: Any) -> Path:
    frame = points_of(source)
    frame["reference"] = reference(frame)
    frame.to_file(path, layer="points", driver="GPKG")
    return path


def test_points_lie_on_pixels_of_their_class_each_once(mask: Path, tmp_path: Path) -> None:
    report = design_sample(mask, tmp_path / "points.gpkg", DesignSettings(minimum=40))
    frame = points_of(report.path)
    with rasterio.open(mask) as opened:
        values = opened.read(1)
        assert frame.crs == opened.crs
        at = [opened.index(point.x, point.y) for point in frame.geometry]
    assert at == list(zip(frame["row"], frame["col"], strict=True))
    assert len(set(at)) == len(at) == sum(report.points)
    assert (values[frame["row"], frame["col"]] == frame["stratum"]).all()
    assert frame["point"].tolist() == list(range(1, len(frame) + 1))
    assert frame["reference"].isna().all()
    counted = [int((values == value).sum()) for value in LEGEND.values]
    assert report.areas == pytest.approx(
        [4.0 * number for number in counted], rel=2e-3
    )  # UTM's scale, squared
    assert [int((frame["stratum"] == value).sum()) for value in LEGEND.values] == list(report.points)
    assert report.points[2] == 40
    assert f"{int((values == IGNORE).sum()):,} pixels of the mask have no class" in report.notes[0]
    # In an order that says nothing: the water is not in one piece.
    water = np.flatnonzero(frame["stratum"] == 7)
    assert np.ptp(water) > len(frame) / 2


def test_equal_seeds_draw_equal_points(mask: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        design_sample(mask, tmp_path / f"{name}.gpkg", DesignSettings(seed=seed, count=120, minimum=10))
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    assert (tmp_path / "a.gpkg").read_bytes() != (tmp_path / "c.gpkg").read_bytes()


def test_a_class_of_few_pixels_is_looked_at_whole(tmp_path: Path) -> None:
    grid = Grid(None, Affine.identity(), 60, 70)
    values = np.zeros(grid.shape, np.uint8)
    values[3, 4:9] = 7
    report = design_sample(made(tmp_path / "map.tif", values, grid), tmp_path / "points.gpkg")
    frame = points_of(report.path)
    assert sorted(frame["col"][frame["stratum"] == 7]) == [4, 5, 6, 7, 8]
    assert report.unit == "px"
    assert report.areas == (60 * 70 - 5, 0, 5)
    assert "'water' has 5 pixels in all, so all of them are points" in report.notes
    assert "without points, because the map has none of it: building" in report.notes
    # Without a CRS the points lie where QGIS shows the raster.
    assert (frame.geometry.y == -frame["row"] - 0.5).all()
    labelled = label(report.path, tmp_path / "labelled.gpkg", lambda frame: frame["stratum"])
    assert assess(labelled, tmp_path / "map.tif").accuracy.overall.value == 1


def test_a_map_of_fewer_pixels_than_points_is_told(tmp_path: Path) -> None:
    mask = made(tmp_path / "map.tif", np.zeros((10, 8), np.uint8), Grid(None, Affine.identity(), 10, 8))
    report = design_sample(mask, tmp_path / "points.gpkg", DesignSettings(count=500))
    assert report.points == (80, 0, 0)
    assert "80 points instead of 500: the map has no more pixels" in report.notes
    assert "'background' has 80 pixels in all, so all of them are points" in report.notes


@pytest.mark.slow
def test_each_piece_of_ground_is_as_likely_as_any_other(tmp_path: Path) -> None:
    """In degrees a pixel at 60° has half the ground of one at the equator: a chi-squared test over latitudes."""
    grid = Grid(CRS(4326), from_origin(0, 80, 0.1, 0.1), 800, 300)
    mask = made(tmp_path / "map.tif", np.zeros(grid.shape, np.uint8), grid)
    design_sample(mask, tmp_path / "points.gpkg", DesignSettings(count=8000))
    rows = points_of(tmp_path / "points.gpkg")["row"].to_numpy()
    edges = np.arange(0, 801, 50)
    latitude = np.radians(80 - edges * 0.1)
    wanted = np.diff(-np.sin(latitude)) / (np.sin(latitude[0]) - np.sin(latitude[-1])) * 8000
    found = np.histogram(rows, edges)[0]
    assert ((found - wanted) ** 2 / wanted).sum() < 37.7  # 15 degrees of freedom, one in a thousand


def test_a_map_of_the_world_ends_within_its_windows(tmp_path: Path) -> None:
    """Mollweide's ellipse in a rectangle: corners of the raster lie beyond the earth.

    PROJ has it on a sphere of the ellipsoid's larger axis, which has 1.002240 times the ellipsoid's ground.
    """
    grid = Grid(CRS("ESRI:54009"), Affine(20_000, 0, -18_100_000, 0, -20_000, 9_100_000), 910, 1810)
    x, y = np.meshgrid(np.arange(1810) + 0.5 - 905, np.arange(910) + 0.5 - 455)
    values = np.where((x / 902) ** 2 + (y / 451) ** 2 < 0.995, 1, IGNORE).astype(np.uint8)
    mask = made(tmp_path / "map.tif", values, grid)
    report = design_sample(mask, tmp_path / "points.gpkg", DesignSettings(count=60))
    assert report.areas[1] == pytest.approx(4e8 / 1.002240 * int((values == 1).sum()), rel=2e-4)


@given(st.integers(0, 2**31), st.integers(2, 60))
@settings(max_examples=examples(40), deadline=None)
def test_a_perfect_map_is_perfect_and_an_area_is_its_own(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int
) -> None:
    folder = tmp_path_factory.mktemp("law")
    grid = Grid(CRS(32633), Affine(1.0, 0, 500_000, 0, -1.0, 5_000_000), 90, 110)
    mask = made(folder / "map.tif", values_of(grid, seed=seed % 50), grid)
    report = design_sample(mask, folder / "points.gpkg", DesignSettings(seed=seed, count=count, minimum=2))
    labelled = label(report.path, folder / "labelled.gpkg", lambda frame: frame["stratum"])
    found = assess(labelled, mask)
    assert found.accuracy.overall.value == pytest.approx(1)
    assert [one.value for one in found.areas] == pytest.approx(report.areas)
    assert found.mapped == report.areas
    assert np.trace(found.counts) == found.counts.sum() == sum(report.points)


def test_names_and_numbers_are_classes_and_errors_are_counted(mask: Path, tmp_path: Path) -> None:
    design_sample(mask, tmp_path / "points.gpkg", DesignSettings(count=90, minimum=30))
    names = {0: "background", 1: "building", 7: "water"}

    def wrong_every_third(frame: Any) -> Any:
        return [names[0 if k % 3 == 0 else value] for k, value in enumerate(frame["stratum"])]

    found = assess(label(tmp_path / "points.gpkg", tmp_path / "named.gpkg", wrong_every_third), mask)
    frame = points_of(tmp_path / "points.gpkg")
    wanted = np.zeros((3, 3), int)
    for k, value in enumerate(frame["stratum"]):
        wanted[LEGEND.values.index(value), 0 if k % 3 == 0 else LEGEND.values.index(value)] += 1
    assert (found.counts == wanted).all()
    assert json.loads(json.dumps(found.as_json()))["classes"][2]["points"] == wanted[2].sum()
    coded = label(
        tmp_path / "points.gpkg", tmp_path / "coded.gpkg", lambda f: [float(v) for v in f["stratum"]]
    )
    assert np.trace(assess(coded, mask).counts) == 90


def test_what_is_left_out_is_told(mask: Path, tmp_path: Path) -> None:
    design_sample(mask, tmp_path / "points.gpkg", DesignSettings(count=90, minimum=30))
    frame = points_of(tmp_path / "points.gpkg")
    frame["reference"] = frame["stratum"].astype("Int64")
    frame.loc[[2, 5], "reference"] = pandas.NA
    added = frame.iloc[[0]].assign(point=None, stratum=None)
    frame = pandas.concat([frame[frame["point"] != 8], added])
    frame.to_file(tmp_path / "labelled.gpkg", layer="points", driver="GPKG")
    found = assess(tmp_path / "labelled.gpkg", mask)
    assert found.counts.sum() == 90 - 3
    told = "; ".join(found.notes)
    assert "1 points that were drawn are no longer there (8): they count as not labelled" in told
    assert "left out: 1 features that `aerial-seg assess design` did not draw" in told
    assert "left out: 2 points that are not labelled" in told


def test_the_last_points_are_missed_and_strange_numbers_are_no_points(mask: Path, tmp_path: Path) -> None:
    design_sample(mask, tmp_path / "points.gpkg", DesignSettings(count=90, minimum=30))
    frame = points_of(tmp_path / "points.gpkg").assign(reference=lambda frame: frame["stratum"])
    changed = frame.astype({"point": float})
    changed.loc[[1, 2, 3], "point"] = [1e13, np.inf, 4.5]
    for labelled, number, wanted in (
        (frame[frame["point"] <= 87], 87, ["3 points that were drawn are no longer there (88, 89, 90)"]),
        (
            changed,
            87,
            ["left out: 3 features that", "3 points that were drawn are no longer there (2, 3, 4)"],
        ),
    ):
        labelled.to_file(tmp_path / "labelled.gpkg", layer="points", driver="GPKG")
        found = assess(tmp_path / "labelled.gpkg", mask)
        assert found.counts.sum() == number
        assert all(one in "; ".join(found.notes) for one in wanted), found.notes


def test_what_is_neither_number_nor_name_is_no_class(mask: Path, tmp_path: Path) -> None:
    """A yes is not class 1, and a list has no place in a table of classes."""
    design_sample(mask, tmp_path / "points.gpkg", DesignSettings(count=90, minimum=30))
    frame = points_of(tmp_path / "points.gpkg")
    frame.assign(reference=frame["stratum"] > 0).to_file(tmp_path / "asked.gpkg", layer="points")
    document = json.loads(frame.to_crs(4326).to_json())
    for feature in document["features"]:
        feature["properties"]["reference"] = [1]
    (tmp_path / "listed.geojson").write_text(json.dumps(document), encoding="utf-8")
    for name, wanted in (("asked.gpkg", "holds '(True|False)'"), ("listed.geojson", r"holds '\[1\]'")):
        with pytest.raises(InputError, match=wanted + ".*wanted classes of the map"):
            assess(tmp_path / name, mask)


def test_points_of_ones_own_are_taken_as_drawn_by_class(mask: Path, tmp_path: Path) -> None:
    design_sample(mask, tmp_path / "points.gpkg", DesignSettings(count=90, minimum=30))
    frame = points_of(tmp_path / "points.gpkg")
    own = frame[["geometry"]].assign(
        seen=[{0: "background", 1: "building", 7: "water"}[v] for v in frame["stratum"]]
    )
    own.to_crs(4326).to_file(tmp_path / "own.geojson")
    found = assess(tmp_path / "own.geojson", mask, AssessSettings(reference_field="seen"))
    assert np.trace(found.counts) == 90
    assert "assumed to be drawn at random in each class of this map" in found.notes[0]


def test_what_is_no_longer_the_sample_is_refused(mask: Path, tmp_path: Path) -> None:
    design_sample(mask, tmp_path / "points.gpkg", DesignSettings(count=90, minimum=30))

    def refused(wanted: str, change: Any, against: Path = mask, **how: Any) -> None:
        frame = points_of(tmp_path / "points.gpkg")
        frame["reference"] = frame["stratum"].astype("Int64")
        frame = change(frame)
        frame.to_file(tmp_path / "changed.gpkg", layer="points", driver="GPKG")
        with pytest.raises(InputError, match=wanted):
            assess(tmp_path / "changed.gpkg", against, AssessSettings(**how))

    def moved(frame: Any) -> Any:
        frame.loc[4, "geometry"] = (
            frame.loc[4, "geometry"].buffer(50).exterior.interpolate(0.1, normalized=True).centroid
        )
        return frame

    refused(r"another pixel of this map than that they were drawn on \(5\)", moved)
    refused("holds point 3 more than once", lambda frame: pandas.concat([frame, frame.iloc[[2]]]))
    refused("holds '3', wanted classes of the map", lambda frame: frame.assign(reference=3))
    refused("holds 'bilding', .*did you mean", lambda frame: frame.assign(reference="bilding"))
    refused("has no field 'seen'", lambda frame: frame, reference_field="seen")
    refused(
        "class 'water', .* has no labelled point",
        lambda frame: frame.assign(reference=frame["reference"].where(frame["stratum"] != 7)),
    )
    refused("features that are no points", lambda frame: frame.set_geometry(frame.buffer(3)))
    other = made(tmp_path / "other.tif", values_of(seed=1))
    refused("lie on another class of this map than when they were drawn", lambda frame: frame, other)


def test_what_cannot_be_designed_is_refused(mask: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"wanted \.gpkg"):
        design_sample(mask, tmp_path / "points.shp")
    with pytest.raises(
        SettingsError, match="names 'watr', which is no class of the mask; did you mean 'water'"
    ):
        design_sample(mask, tmp_path / "points.gpkg", DesignSettings(class_accuracy={"watr": 0.9}))
    with pytest.raises(SettingsError, match=r"write it like building=0\.9,road=0\.7"):
        DesignSettings(class_accuracy="water:0.9")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="'water' has two numbers"):
        DesignSettings(class_accuracy="water=0.9,water=0.7")  # type: ignore[arg-type]
    empty = made(
        tmp_path / "empty.tif", np.full((40, 50), IGNORE, np.uint8), Grid(None, Affine.identity(), 40, 50)
    )
    with pytest.raises(InputError, match="has no pixel with a class"):
        design_sample(empty, tmp_path / "points.gpkg")
    assert not (tmp_path / "points.gpkg").exists()


def test_a_picture_shows_the_ground_around_each_point(tmp_path: Path) -> None:
    """Imagery at half the pixel size, in another CRS; a point beyond it is told."""
    grid = Grid(CRS(32645), Affine(2.0, 0, 300_000, 0, -2.0, 3_060_000), 60, 80)
    mask = made(tmp_path / "map.tif", values_of(grid), grid)
    image = np.zeros((3, 120, 120), np.uint8)
    image[0], image[1] = (
        np.arange(120)[:, None],
        np.arange(120),
    )  # the imagery ends 20 columns of the map early
    profile = {"driver": "GTiff", "width": 120, "height": 120, "count": 3, "dtype": "uint8", "crs": 32645}
    with rasterio.open(
        tmp_path / "image.tif", "w", **profile, transform=from_origin(300_000, 3_060_000, 1, 1)
    ) as out:
        out.write(image)
    settings = DesignSettings(image=tmp_path / "image.tif", chip_size=32, count=60, minimum=10)
    report = design_sample(mask, tmp_path / "points.gpkg", settings)
    frame = points_of(report.path)
    beyond = frame["col"] >= 60
    assert frame["picture"].isna().tolist() == beyond.tolist()
    assert f"{int(beyond.sum())} points lie beyond the imagery image.tif and have no picture" in report.notes
    for row in frame[~beyond].itertuples():
        with Image.open(tmp_path / row.picture) as picture:
            assert picture.size == (512, 512)
            seen = np.asarray(picture)[256 + 4, 256 + 4].astype(int)  # inside the outline of the map's pixel
        assert abs(seen[0] - (2 * row.row + 1)) <= 3
        assert abs(seen[1] - (2 * row.col + 1)) <= 3
    with pytest.raises(OutputError, match="overwrite"):
        design_sample(mask, tmp_path / "points.gpkg", settings)


def test_old_points_never_have_new_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes the pictures and not the points: both stay as they were. And pixels wider than a picture."""
    grid = Grid(CRS(32645), Affine(50.0, 0, 300_000, 0, -50.0, 3_060_000), 4, 4)
    mask = made(tmp_path / "map.tif", np.arange(16, dtype=np.uint8).reshape(4, 4) % 2, grid)
    write_mask(
        tmp_path / "image.tif",
        np.zeros((200, 200), np.uint8),
        grid=Grid(grid.crs, Affine(1.0, 0, 300_000, 0, -1.0, 3_060_000), 200, 200),
        legend=LEGEND,
    )
    settings = DesignSettings(image=tmp_path / "image.tif", chip_size=32, count=6, minimum=2, overwrite=True)
    report = design_sample(mask, tmp_path / "points.gpkg", settings)
    assert (
        "a pixel of the map has 50 pixels of the imagery a side, so pictures of 32 show" in report.notes[-1]
    )
    assert "pass `chip_size=100` to see" in report.notes[-1]

    def state() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = state()
    monkeypatch.setattr("aerial_seg.jobs.assess.design.write_geopackage", full)
    with pytest.raises(OutputError, match="no space left"):
        design_sample(mask, tmp_path / "points.gpkg", dataclasses.replace(settings, seed=1, chip_size=100))
    assert state() == before
