"""What vectorize can be asked for beyond the plain run, on masks made here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.features import rasterize, shapes
from scipy import ndimage

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.geo.measures import Measure
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.legend import make_legend
from aerial_seg.outputs.mask import LEGEND_TAG
from aerial_seg.polygonize import row_chunks as chunks
from aerial_seg.vectors.from_mask.settings import (
    CleanSettings,
    LayerSettings,
    ShapeSettings,
    VectorizeReport,
    VectorizeSettings,
)

LEGEND = make_legend({0: "background", 1: "Gebäude", 2: "道路"}, background=[0])
TRANSFORM = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)
PIXELS = ShapeSettings(simplify=Measure(0, "px"))
Save = Callable[..., Path]


def read(path: Path) -> gpd.GeoDataFrame:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="More than one layer")
        return gpd.read_file(path)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(mask: np.ndarray, name: str = "m.tif", **profile: object) -> Path:
        wanted = {
            "driver": "GTiff", "height": mask.shape[0], "width": mask.shape[1], "count": 1, "dtype": mask.dtype,
            "crs": "EPSG:32645", "transform": TRANSFORM, "nodata": 255, **profile,
        }  # fmt: skip
        with rasterio.open(tmp_path / name, "w", **wanted) as file:
            file.write(mask, 1)
            file.update_tags(**{LEGEND_TAG: LEGEND.model_dump_json()})
        return tmp_path / name

    return write


def land(height: int = 300, width: int = 260) -> np.ndarray:
    """Patches of three classes and some nodata, larger than a few chunks of the tests below."""
    random = np.random.default_rng(3)
    fields = [ndimage.gaussian_filter(random.normal(size=(height, width)), 5) for _ in range(3)]
    mask = np.argmax(fields, axis=0).astype(np.uint8)
    mask[:30, :40] = 255
    return mask


def run(mask: Path, out: Path, **parts: object) -> VectorizeReport:
    return vectorize(mask, out, VectorizeSettings(**parts))  # type: ignore[arg-type]


def test_names_of_any_script_and_all_columns(save: Save, tmp_path: Path) -> None:
    mask = save(land())
    with rasterio.open(mask, "r+") as file:
        file.update_tags(AERIAL_SEG_SOURCES='["a.tif", "b.tif"]', AERIAL_SEG_MODEL_SHA256="0123456789abcdef")
    run(mask, tmp_path / "a.gpkg", shape=PIXELS)
    table = read(tmp_path / "a.gpkg")
    assert list(table.columns) == [
        "class_id", "class_name", "area_m2", "perim_m", "n_px", "source", "model_id", "geometry",
    ]  # fmt: skip
    assert set(table["class_name"]) == {"Gebäude", "道路"}
    assert set(table["source"]) == {"a.tif and 1 more"}
    assert set(table["model_id"]) == {"0123456789ab"}
    np.testing.assert_allclose(table.geometry.area, table["n_px"] * 0.25)
    lonlat = table.to_crs("EPSG:4326").geometry
    geod = Geod(ellps="WGS84")
    for row, shape in zip(table.itertuples(), lonlat, strict=True):
        area, _ = geod.geometry_area_perimeter(shape)
        assert row.area_m2 == pytest.approx(abs(area), rel=1e-6, abs=1e-5)


def test_confidence_beside_the_mask_is_taken_and_summed_over_each_patch(save: Save, tmp_path: Path) -> None:
    mask, levels = land(), np.random.default_rng(0).integers(100, 251, (300, 260)).astype(np.uint8)
    levels[mask == 255] = 255
    path = save(mask)
    save(levels, "m_confidence.tif")
    run(path, tmp_path / "a.gpkg", classes=("all",), shape=PIXELS)
    table = read(tmp_path / "a.gpkg")
    labels = rasterize(
        zip(table.geometry, range(1, len(table) + 1), strict=True),
        mask.shape,
        transform=TRANSFORM,
        dtype="int32",
    )
    numbers = range(1, len(table) + 1)
    np.testing.assert_allclose(table["conf_mean"], ndimage.mean(levels, labels, numbers) * 0.004)
    np.testing.assert_allclose(table["conf_min"], ndimage.minimum(levels, labels, numbers) * 0.004)


def test_a_confidence_that_does_not_fit_is_refused_when_named(save: Save, tmp_path: Path) -> None:
    path, other = save(land()), save(land(200, 100), "m_confidence.tif")
    run(path, tmp_path / "a.gpkg")
    assert "conf_mean" not in read(tmp_path / "a.gpkg")
    with pytest.raises(InputError, match=r"100 × 200 px, wanted one of uint8 on .* 260 × 300 px"):
        run(path, tmp_path / "b.gpkg", confidence=other)


@pytest.mark.parametrize("suffix", ["shp", "geojson", "geojsonl", "fgb", "csv"])
def test_every_format_holds_the_same_features(suffix: str, save: Save, tmp_path: Path) -> None:
    path = save(land())
    run(path, tmp_path / "a.gpkg")
    report = run(path, tmp_path / f"b.{suffix}")
    one, other = read(tmp_path / "a.gpkg"), read(tmp_path / f"b.{suffix}")
    assert report.files[0] == tmp_path / f"b.{suffix}"
    assert len(one) == len(other) == report.polygons
    assert sorted(one["class_name"]) == sorted(other["class_name"])
    np.testing.assert_allclose(sorted(one["area_m2"]), sorted(np.asarray(other["area_m2"], float)), rtol=1e-6)


def test_another_crs_keeps_shared_edges_shared(save: Save, tmp_path: Path) -> None:
    run(save(land()), tmp_path / "a.gpkg", classes=("all",), layer=LayerSettings(dst_crs="EPSG:3035"))
    table = read(tmp_path / "a.gpkg")
    assert table.crs.to_epsg() == 3035
    parts = shapely.get_parts(table.geometry.array)
    assert shapely.coverage_is_valid(parts)


def test_a_grid_cuts_polygons_and_loses_nothing(save: Save, tmp_path: Path) -> None:
    mask = land()
    run(
        save(mask),
        tmp_path / "a.gpkg",
        classes=("all",),
        shape=ShapeSettings(Measure(0, "px"), split_grid=64),
    )
    table = read(tmp_path / "a.gpkg")
    expected = sum(
        ndimage.label(mask[y : y + 64, x : x + 64] == value)[1]
        for y in range(0, 300, 64) for x in range(0, 260, 64) for value in range(3)
    )  # fmt: skip
    assert len(table) == expected
    pairs = zip(table.geometry, table["class_id"], strict=True)
    np.testing.assert_array_equal(
        rasterize(pairs, mask.shape, fill=255, transform=TRANSFORM, dtype="uint8"), mask
    )


def test_corners_join_patches_into_one_feature(save: Save, tmp_path: Path) -> None:
    mask = np.kron(np.indices((6, 6)).sum(axis=0) % 2, np.ones((5, 5))).astype(np.uint8)
    report = run(save(mask), tmp_path / "a.gpkg", shape=ShapeSettings(connectivity=8))
    (shape,) = read(tmp_path / "a.gpkg").geometry
    assert report.polygons == 1
    assert len(shape.geoms) == 18
    assert shape.is_valid


def test_cleaning_happens_in_pixels_and_never_in_the_file(save: Save, tmp_path: Path) -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[10:40, 10:40] = 1
    mask[20:23, 20:23] = 0  # a hole
    mask[50, 50] = 2  # a speck
    path = save(mask)
    before = path.read_bytes()
    clean = CleanSettings(fill_holes=Measure(10, "px"), min_area=Measure(5, "px"))
    report = run(path, tmp_path / "a.gpkg", clean=clean, shape=PIXELS)
    (shape,) = read(tmp_path / "a.gpkg").geometry
    assert shape.area == pytest.approx(900 * 0.25)
    assert (report.sieve.holes.patches, report.sieve.absorbed.patches) == (1, 1)
    assert len(report.notes) == 2
    assert path.read_bytes() == before
    smooth = run(path, tmp_path / "b.gpkg", clean=CleanSettings(smooth_mask=3), shape=PIXELS)
    assert smooth.polygons == 1


def test_touching_objects_are_told_apart(save: Save, tmp_path: Path) -> None:
    y, x = np.indices((60, 90))
    mask = (((y - 30) ** 2 + (x - 25) ** 2 <= 300) | ((y - 30) ** 2 + (x - 58) ** 2 <= 300)).astype(np.uint8)
    path = save(mask)
    assert run(path, tmp_path / "a.gpkg").polygons == 1
    report = run(path, tmp_path / "b.gpkg", shape=ShapeSettings(instances=("Gebäude",)))
    table = read(tmp_path / "b.gpkg")
    assert report.polygons == 2
    assert table["n_px"].sum() == mask.sum()
    assert "1 patches were parted into 2 objects" in report.notes
    assert shapely.coverage_is_valid(shapely.get_parts(table.geometry.array))


def test_regular_outlines_say_what_became_of_them(save: Save, tmp_path: Path) -> None:
    house = shapely.affinity.rotate(shapely.box(300_020, 3_059_940, 300_050, 3_059_960), 20)
    mask = rasterize([(house, 1)], (200, 200), transform=TRANSFORM, dtype="uint8")
    report = run(save(mask), tmp_path / "a.gpkg", shape=ShapeSettings(regularize=("Gebäude",)))
    table = read(tmp_path / "a.gpkg")
    assert table["reg_status"].tolist() == ["regular"]
    assert shapely.get_num_coordinates(table.geometry.iloc[0]) == 5
    (shape,) = table.geometry.iloc[0].geoms
    assert shape.intersection(house).area / shape.union(house).area > 0.95
    assert any("1 regular" in note for note in report.notes)


def test_append_adds_to_the_layer(save: Save, tmp_path: Path) -> None:
    path = save(land())
    first = run(path, tmp_path / "a.gpkg")
    run(path, tmp_path / "a.gpkg", layer=LayerSettings(append=True))
    assert len(read(tmp_path / "a.gpkg")) == 2 * first.polygons
    with pytest.raises(OutputError, match="reg_status"):
        run(
            path,
            tmp_path / "a.gpkg",
            layer=LayerSettings(append=True),
            shape=ShapeSettings(regularize=("Gebäude",)),
        )
    assert len(read(tmp_path / "a.gpkg")) == 2 * first.polygons


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (ShapeSettings(instances=("Gebaude",)), r"`instances` names 'Gebaude'.*did you mean 'Gebäude'"),
        (ShapeSettings(regularize=("background",)), r"`regularize` names 'background', which is not among"),
    ],
)
def test_classes_that_are_not_written_cannot_be_shaped(
    shape: ShapeSettings, message: str, save: Save, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        run(save(land()), tmp_path / "a.gpkg", shape=shape)
    assert not (tmp_path / "a.gpkg").exists()


def test_the_file_does_not_depend_on_the_rows_that_are_read_at_once(save: Save, tmp_path: Path) -> None:
    mask = land(1300, 100)
    clean = CleanSettings(min_area=Measure(9, "px"), smooth_mask=3)
    made = []
    for name, profile in {
        "strips": {"blockysize": 1},
        "tiles": {"tiled": True, "blockxsize": 128, "blockysize": 128},
        "large": {"tiled": True, "blockxsize": 1024, "blockysize": 1024},
    }.items():
        (tmp_path / name).mkdir()
        path = save(mask, f"{name}/m.tif", **profile)
        run(path, tmp_path / name / "a.gpkg", clean=clean, shape=ShapeSettings(smooth=True))
        made.append((tmp_path / name / "a.gpkg").read_bytes())
    assert made[0] == made[1] == made[2]


def test_gdal_and_we_agree_across_stripes(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "aerial_seg.polygonize.tracing.tracer.in_row_chunks", lambda rows: chunks.in_row_chunks(rows, 37)
    )
    mask = land()
    run(save(mask), tmp_path / "a.gpkg", classes=("all",), shape=PIXELS)
    ours = read(tmp_path / "a.gpkg")
    theirs = [
        (int(value), shapely.geometry.shape(geometry))
        for geometry, value in shapes(mask, mask=mask != 255, connectivity=4, transform=TRANSFORM)
    ]
    assert len(ours) == len(theirs)
    key = lambda value, shape: (value, *shape.bounds, round(shape.area, 3))  # noqa: E731
    found = {key(row.class_id, row.geometry): row.geometry for row in ours.itertuples()}
    for value, shape in theirs:
        assert found[key(value, shape)].equals(shape)
