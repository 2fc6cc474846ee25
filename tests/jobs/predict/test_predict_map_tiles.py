"""Map tiles are predicted, scored and described where their names put them, as one raster of the same ground is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.transform import from_bounds
from shapely import box

from aerial_seg.errors import InputError, Interrupted, OutputError, SettingsError
from aerial_seg.jobs.evaluate import evaluate_model_on_rasters
from aerial_seg.jobs.info.job import info
from aerial_seg.jobs.predict import segments_writer
from aerial_seg.jobs.predict.job import forecast_prediction, predict, predict_scenes
from aerial_seg.jobs.predict.settings import PredictReport, PredictSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.models.file import TrainedModel

ZOOM, COLUMN, ROW, SIDE = 19, 386_690, 221_550, 64
ACROSS, DOWN = 3, 2
FAST = {"engine": "eager", "precision": "fp32", "device": "cpu"}


def corner(column: int, row: int) -> tuple[float, float]:
    """Longitude and latitude of a tile's north-west corner. Source: OpenStreetMap wiki, Slippy map tilenames."""
    tiles = 2**ZOOM
    return column / tiles * 360 - 180, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / tiles))))


@pytest.fixture
def image() -> Any:
    return np.random.default_rng(0).integers(1, 255, (2, DOWN * SIDE, ACROSS * SIDE)).astype("uint8")


def write(image: Any, folder: Path, name: Callable[[int, int], str] | None = None) -> Path:
    for down in range(DOWN):
        for across in range(ACROSS):
            x, y = COLUMN + across, ROW + down
            path = folder / (f"{ZOOM}/{x}/{y}.tif" if name is None else name(x, y))
            path.parent.mkdir(parents=True, exist_ok=True)
            part = image[:, down * SIDE : (down + 1) * SIDE, across * SIDE : (across + 1) * SIDE]
            with rasterio.open(
                path, "w", driver="GTiff", height=SIDE, width=SIDE, count=2, dtype="uint8"
            ) as file:
                file.write(part)
    return folder


@pytest.fixture
def whole(image: Any, tmp_path: Path) -> Path:
    to_metres = Transformer.from_crs(4326, 3857, always_xy=True)
    left, top = to_metres.transform(*corner(COLUMN, ROW))
    right, bottom = to_metres.transform(*corner(COLUMN + ACROSS, ROW + DOWN))
    transform = from_bounds(left, bottom, right, top, ACROSS * SIDE, DOWN * SIDE)
    path = tmp_path / "whole.tif"
    with rasterio.open(path, "w", driver="GTiff", height=DOWN * SIDE, width=ACROSS * SIDE, count=2, dtype="uint8",
                       crs="EPSG:3857", transform=transform) as file:  # fmt: skip
        file.write(image)
    return path


@pytest.fixture
def model(pointwise: Callable[..., TrainedModel], use: Callable[[TrainedModel], None]) -> TrainedModel:
    trained = pointwise()
    use(trained)
    return trained


def run(rasters: Path | list[Path], out: Path, **options: Any) -> PredictReport:
    (report,) = predict("model", rasters, out, PredictSettings(**FAST, **{"mosaic": True, **options}))
    return report


def read(path: Path) -> tuple[Any, Any, Any]:
    with rasterio.open(path) as file:
        return file.read(1), file.transform, file.crs


NAMES: dict[str, tuple[Callable[[int, int], str] | None, dict[str, Any]]] = {
    "folders": (None, {}),
    "flat": (lambda x, y: f"{ZOOM}-{x}-{y}.tif", {}),
    "from the south": (lambda x, y: f"{ZOOM}/{x}/{2**ZOOM - 1 - y}.tif", {"map_tiles": "tms"}),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_folder_of_map_tiles_is_mapped_as_one_raster_of_the_same_ground(
    image: Any, whole: Path, model: TrainedModel, tmp_path: Path, kind: str
) -> None:
    name, options = NAMES[kind]
    report = run(write(image, tmp_path / "tiles", name), tmp_path / "map.tif", **options)
    run(whole, tmp_path / "want.tif")
    found, wanted = read(tmp_path / "map.tif"), read(tmp_path / "want.tif")
    np.testing.assert_array_equal(found[0], wanted[0])
    assert np.allclose(found[1], wanted[1], atol=1e-4, rtol=1e-12)
    assert found[2] == wanted[2]
    (note,) = [note for note in report.notes if "map tiles by their names" in note]
    assert note.startswith(
        f"6 rasters without CRS are map tiles by their names, placed in EPSG:3857: zoom {ZOOM}, the"
    )
    assert "aerial-seg-" not in str(report)


def test_each_tile_has_a_map_of_its_own_in_its_place(
    image: Any, whole: Path, model: TrainedModel, tmp_path: Path
) -> None:
    tiles = write(image, tmp_path / "tiles", NAMES["flat"][0])
    outcomes = predict_scenes("model", tiles, tmp_path / "maps", PredictSettings(**FAST))
    assert [one.outcome for one in outcomes] == ["done"] * 6
    run(whole, tmp_path / "want.tif")
    wanted, transform, _ = read(tmp_path / "want.tif")
    found, own, crs = read(tmp_path / "maps" / f"{ZOOM}-{COLUMN + 1}-{ROW + 1}_mask.tif")
    np.testing.assert_array_equal(found, wanted[SIDE:, SIDE : 2 * SIDE])
    assert np.allclose((own.c, own.f), transform * (SIDE, SIDE), atol=1e-4)
    assert crs == "EPSG:3857"
    folders = write(image, tmp_path / "folders")
    with pytest.raises(SettingsError, match=r"two rasters have the same file name; pass `mosaic=True`"):
        predict("model", folders, tmp_path / "other", PredictSettings(**FAST))
    single = run(folders / f"{ZOOM}/{COLUMN}/{ROW}.tif", tmp_path / "single.tif", mosaic=False)
    assert single.notes[0].startswith("a raster without CRS is a map tile by its name, placed in EPSG:3857")
    np.testing.assert_array_equal(read(tmp_path / "single.tif")[0], wanted[:SIDE, :SIDE])


def test_an_interrupted_map_goes_on_in_the_same_place_and_not_in_another(
    image: Any, model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = write(image, tmp_path / "tiles")
    run(tiles, tmp_path / "want.tif")
    real = segments_writer.PieceMaker.make_all

    def stop(*args: Any) -> None:
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(segments_writer.PieceMaker, "make_all", stop)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run(tiles, tmp_path / "map.tif")
    monkeypatch.setattr(segments_writer.PieceMaker, "make_all", real)
    with pytest.raises(OutputError, match=r"map_tiles was slippy, is tms"):
        run(tiles, tmp_path / "map.tif", map_tiles="tms")
    report = run(tiles, tmp_path / "map.tif")
    assert report.resumed_rows == DOWN * SIDE
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "want.tif").read_bytes()


def test_the_dry_run_and_what_does_not_go_together(image: Any, model: TrainedModel, tmp_path: Path) -> None:
    tiles, out = write(image, tmp_path / "tiles"), tmp_path / "map.tif"
    (forecast,) = forecast_prediction("model", tiles, out, PredictSettings(**FAST, mosaic=True))
    assert (forecast.height, forecast.width) == (DOWN * SIDE, ACROSS * SIDE)
    assert any("map tiles by their names" in note for note in forecast.notes)
    with pytest.raises(InputError, match="has no CRS"):
        run(tiles, out, map_tiles="off")
    with pytest.raises(SettingsError, match=r"`map_tiles=.tms.` places rasters by their names, and `georef"):
        run(tiles, out, map_tiles="tms", georeferenced=False)
    one = tiles / f"{ZOOM}/{COLUMN}/{ROW}.tif"
    report = run(one, out, mosaic=False, georeferenced=False)
    assert "`georeferenced=False` takes them as pictures without a place" in report.notes[0]
    assert read(out)[2] is None


def test_a_damaged_tile_is_named(image: Any, model: TrainedModel, tmp_path: Path) -> None:
    tiles = write(image, tmp_path / "tiles")
    broken = tiles / f"{ZOOM}/{COLUMN + 1}/{ROW}.tif"
    broken.write_bytes(broken.read_bytes()[:2000])
    for mosaic, name in ((True, "the mosaic of 6 rasters ("), (False, str(broken))):
        with pytest.raises(InputError) as told:
            run(tiles if mosaic else broken, tmp_path / "map.tif", mosaic=mosaic)
        assert str(told.value).startswith(f"{name}")
        assert "aerial-seg-" not in str(told.value)
        assert "mosaic.vrt" not in str(told.value)


@pytest.mark.parametrize("kind", ["folders", "from the south"])
def test_evaluate_scores_map_tiles_where_labels_lie(
    image: Any, whole: Path, model: TrainedModel, polygon_file: Callable[..., Path], tmp_path: Path, kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("aerial_seg.jobs.evaluate.read_card", lambda path: model.card)
    tiles = write(image, tmp_path / "tiles", NAMES[kind][0])
    (west, north), (east, south) = corner(COLUMN, ROW), corner(COLUMN + ACROSS, ROW + DOWN)
    half = [box(west, south, (west + east) / 2, north)]
    labels = polygon_file("l.gpkg", half, {"kind": ["road"]}, crs="EPSG:4326")

    def scores(raster: Path) -> Any:
        settings = LabelSettings(class_field="kind")
        chosen = PredictSettings(**FAST)
        return evaluate_model_on_rasters("model", [raster], [labels], settings, prediction=chosen)

    found, wanted = scores(tiles), scores(whole)
    np.testing.assert_array_equal(found.scores.confusion, wanted.scores.confusion)
    assert any("map tiles by their names" in note for note in found.notes)


def test_info_tells_where_names_put_tiles(image: Any, whole: Path, tmp_path: Path) -> None:
    tiles = write(image, tmp_path / "tiles")
    found, wanted = info(tiles), info(whole)
    assert (found["kind"], found["tiles"], found["bands"]) == ("map tiles", 6, ["2 of uint8"])
    for key in ("width", "height", "crs", "extent"):
        assert found[key] == wanted[key]
    assert found["gsd_m"]["across"] == pytest.approx(wanted["gsd_m"]["across"], rel=1e-6)
    assert found["placed"].endswith(
        '(rows as most map tiles count; `predict(map_tiles="tms")` if from the south)'
    )
    one = info(tiles / f"{ZOOM}/{COLUMN}/{ROW}.tif")
    assert (one["kind"], one["crs"]) == ("raster", "EPSG:3857")
    assert f"zoom {ZOOM}, column {COLUMN}, row {ROW} from the north" in one["placed"]
