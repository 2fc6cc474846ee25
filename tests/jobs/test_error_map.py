"""An error map counts what the confusion matrix counts, pixel by pixel, and is refused before it could do harm."""

from __future__ import annotations

import json
import os
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from pyproj import CRS
from rio_cogeo.cogeo import cog_validate
from sklearn.metrics import confusion_matrix

from aerial_seg.cli.main import main
from aerial_seg.errors import InputError, OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.jobs.evaluate import (
    EvaluateReport,
    evaluate_mask,
    evaluate_model_on_rasters,
)
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.settings import ErrorMapSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import Legend, make_legend
from aerial_seg.outputs import error_map
from aerial_seg.outputs.error_map import CATEGORIES, ErrorMap, errors_of
from aerial_seg.outputs.mask import LEGEND_TAG, read_legend
from aerial_seg.outputs.packing import block_profile

PYTHON = "/usr/bin/python3"
PROBE = """
import json, os, sys
from qgis.core import QgsApplication, QgsRasterLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsRasterLayer(sys.argv[1], "errors")
renderer = layer.renderer()
classes = [[int(c.value), c.label, c.color.name(), c.color.alpha()] for c in renderer.classes()]
names = [layer.bandName(band + 1) for band in range(layer.bandCount())]
print(json.dumps({"band": renderer.band(), "names": names, "classes": classes}), flush=True)
os._exit(0)
"""


GRID = Grid(crs=CRS(32633), transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000), height=1030, width=600)
LEGEND = make_legend({0: "background", 3: "road", 9: "water"}, background=[0])
NEITHER, HIT, MISS, FALSE_ALARM = 0, 1, 2, 3


def legend_of(classes: int) -> Legend:
    """Values that are not the channels."""
    return make_legend({2 * k + 1: f"class {k}" for k in range(classes)}, background=[1])


def grid_of(height: int, width: int) -> Grid:
    return GRID.window(top=0, left=0, height=height, width=width)


def noise(seed: int, legend: Legend, grid: Grid) -> np.ndarray:
    """Pixel values of the legend, a fifth 255."""
    random = np.random.default_rng(seed)
    values = random.choice(np.array(legend.values, np.uint8), grid.shape)
    return np.where(random.random(grid.shape) < 0.2, 255, values).astype(np.uint8)


def compared(
    folder: Path, truth: np.ndarray, said: np.ndarray, legend: Legend = LEGEND, grid: Grid = GRID
) -> EvaluateReport:
    """A mask and label raster of these values, evaluated, with the error map in the folder."""
    for name, values in {"mask.tif": said, "truth.tif": truth}.items():
        with rasterio.open(folder / name, "w", **block_profile(grid, 1)) as file:
            file.write(values, 1)
            file.update_tags(**{LEGEND_TAG: legend.model_dump_json()})
    wanted = ErrorMapSettings(folder / "errors.tif", overwrite=True)
    files = folder / "mask.tif", [str(folder / "truth.tif")]
    return evaluate_mask(*files, LabelSettings(), error_map=wanted)


@settings(max_examples=examples(12))
@given(
    classes=st.integers(1, 5),
    height=st.integers(1, 60) | st.just(1030),
    width=st.integers(1, 60) | st.just(520),
    seed=st.integers(0, 99),
)
def test_every_count_is_one_of_the_confusion_matrix(
    tmp_path_factory: pytest.TempPathFactory, classes: int, height: int, width: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("errors")
    legend, grid = legend_of(classes), grid_of(height, width)
    truth, said = noise(seed, legend, grid), noise(seed + 1, legend, grid)
    truth.flat[0] = said.flat[0] = legend.values[-1]
    report = compared(folder, truth, said, legend, grid)
    both = (truth != 255) & (said != 255)
    wanted = confusion_matrix(truth[both], said[both], labels=list(legend.values))
    with rasterio.open(report.error_map) as file:
        assert (file.count, file.nodata, set(file.dtypes)) == (classes, 255, {"uint8"})
        assert (file.shape, file.transform, file.crs.to_epsg()) == (grid.shape, grid.transform, 32633)
        assert file.descriptions == legend.names
        errors = file.read()
    np.testing.assert_array_equal(report.scores.confusion, wanted)
    for channel, value in enumerate(legend.values):
        counts = np.bincount(errors[channel].ravel(), minlength=256)
        hit = wanted[channel, channel]
        assert counts[HIT] == hit
        assert counts[MISS] == wanted[channel].sum() - hit
        assert counts[FALSE_ALARM] == wanted[:, channel].sum() - hit
        assert counts[NEITHER] == wanted.sum() - wanted[channel].sum() - wanted[:, channel].sum() + hit
        assert counts[255] == (~both).sum()
        assert counts[4:255].sum() == 0
        # And each lies where it belongs.
        for category, place in {
            HIT: (truth == value) & (said == value),
            MISS: (truth == value) & (said != value),
            FALSE_ALARM: (truth != value) & (said == value),
        }.items():
            np.testing.assert_array_equal(errors[channel] == category, both & place)


def test_panels_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, said = noise(1, LEGEND, GRID), noise(2, LEGEND, GRID)
    assert len(ErrorMap(tmp_path / "pieces", GRID, LEGEND).panels) == 1
    whole = compared(tmp_path, truth, said)
    before = [file.read_bytes() for file in sorted(tmp_path.glob("errors*"))]
    monkeypatch.setattr(error_map, "_BYTES_AT_ONCE", 1)
    assert len(ErrorMap(tmp_path / "pieces", GRID, LEGEND).panels) == 2
    parts = compared(tmp_path, truth, said)
    assert [file.read_bytes() for file in sorted(tmp_path.glob("errors*"))] == before
    assert whole.scores.confusion == parts.scores.confusion


def test_memory_follows_neither_height_nor_classes(tmp_path: Path) -> None:
    def peak(height: int, classes: int) -> int:
        grid, legend = grid_of(height, 512), legend_of(classes)
        pieces = ErrorMap(tmp_path / f"{height} {classes}", grid, legend)
        blank = np.zeros((1024, 512), np.uint8)
        tracemalloc.start()
        for top in range(0, height, 1024):
            pieces.add(0, range(top, top + 1024), blank, blank)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    # The last pieces are remembered, up to a bound that the smaller one has met.
    assert peak(48 * 1024, 3) < 1.2 * peak(24 * 1024, 3)
    widths = {len(ErrorMap(tmp_path / f"{k}", GRID, legend_of(k)).panels[0]) * k for k in (2, 20, 120)}
    assert all(width * 1024 <= 64_000_000 for width in widths)


@pytest.mark.parametrize("transform", [
    Affine(0.5, 0, 500_000, 0, 0.5, 5_200_000),
    Affine.translation(500_000, 5_200_000) * Affine.rotation(30) * Affine.scale(0.5, -0.5),
], ids=["south-up", "rotated"])  # fmt: skip
def test_the_map_lies_on_the_masks_own_grid(tmp_path: Path, transform: Affine) -> None:
    grid = Grid(crs=GRID.crs, transform=transform, height=30, width=40)
    said, truth = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    said[2:5, 3:9] = truth[2:5, 6:12] = 9
    report = compared(tmp_path, truth, said, grid=grid)
    with rasterio.open(report.error_map) as file:
        assert file.transform.almost_equals(transform, 1e-9)
        water = file.read(3)
    wanted = np.zeros(grid.shape, np.uint8)
    wanted[2:5, 3:6], wanted[2:5, 6:9], wanted[2:5, 9:12] = FALSE_ALARM, HIT, MISS
    np.testing.assert_array_equal(water, wanted)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> EvaluateReport:
    truth, said = noise(1, LEGEND, GRID), noise(2, LEGEND, GRID)
    return compared(tmp_path_factory.mktemp("errors"), truth, said)


class TestOtherSoftware:
    def test_it_is_a_cloud_optimized_geotiff_that_says_what_it_is(self, made: EvaluateReport) -> None:
        assert cog_validate(made.error_map, strict=True, quiet=True) == (True, [], [])
        with rasterio.open(made.error_map) as file:
            tags = file.tags()
        assert (tags["AERIAL_SEG_MASK"], tags["AERIAL_SEG_LABELS"]) == ("mask.tif", '["truth.tif"]')
        assert "2 miss (labelled as it, mapped as another)" in tags["AERIAL_SEG_MEANING"]

    def test_gdal_reads_names_and_counts_of_every_band(self, made: EvaluateReport, tmp_path: Path) -> None:
        # GDAL's VRT driver writes what it found in its source.
        rasterio.shutil.copy(made.error_map, tmp_path / "e.vrt", driver="VRT")
        bands = Xml.parse(tmp_path / "e.vrt").findall("VRTRasterBand")
        with rasterio.open(made.error_map) as file:
            errors = file.read()
        for band, values in zip(bands, errors, strict=True):
            names = [element.text for element in band.iter("Category")]
            assert names == ["neither", "hit", "miss", "false alarm"]
            rows = [[part.text for part in row.iter("F")] for row in band.iter("Row")]
            counts = np.bincount(values.ravel(), minlength=256)
            assert [row[:3] for row in rows] == [
                [str(k), name, str(counts[k])] for k, name in enumerate(names)
            ]
            assert [tuple(map(int, row[3:])) for row in rows] == [entry.rgb for entry in CATEGORIES.entries]

    def test_qgis_shows_the_first_class_that_is_no_background(self, made: EvaluateReport) -> None:
        renderer = Xml.parse(made.error_map.with_suffix(".qml")).find("pipe/rasterrenderer")
        assert (renderer.get("type"), renderer.get("band")) == ("paletted", "2")
        entries = [
            (entry.get("value"), entry.get("label"), entry.get("color"), entry.get("alpha"))
            for entry in renderer.iter("paletteEntry")
        ]
        assert entries == [
            (str(entry.value), entry.name, entry.colour, "255" if entry.value else "0")
            for entry in CATEGORIES.entries
        ]

    def test_one_band_alone_is_a_mask_of_hits_misses_and_false_alarms(
        self, made: EvaluateReport, tmp_path: Path
    ) -> None:
        """So `vectorize` makes polygons of a class's errors."""
        assert read_legend(made.error_map).names == CATEGORIES.names
        rasterio.shutil.copy(made.error_map, tmp_path / "e.vrt", driver="VRT")
        tree = Xml.parse(tmp_path / "e.vrt")
        for band in tree.findall("VRTRasterBand[@band!='2']"):
            tree.getroot().remove(band)
        tree.find("VRTRasterBand").set("band", "1")
        tree.write(tmp_path / "e.vrt")
        rasterio.shutil.copy(tmp_path / "e.vrt", tmp_path / "road.tif", driver="GTiff")
        assert read_legend(tmp_path / "road.tif").names == ("neither", "hit", "miss", "false alarm")

    @pytest.mark.slow
    def test_qgis_opens_it_so(self, made: EvaluateReport) -> None:
        said = subprocess.run(
            [PYTHON, "-c", PROBE, str(made.error_map)],
            env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if "No module named 'qgis'" in said.stderr:
            pytest.skip(f"QGIS is not installed for {PYTHON} (apt: python3-qgis)")
        facts = json.loads(said.stdout.splitlines()[-1])
        entries = [[e.value, e.name, e.colour, 255 if e.value else 0] for e in CATEGORIES.entries]
        assert facts == {
            "band": 2,
            "names": [f"Band {k}: {n}" for k, n in enumerate(LEGEND.names, 1)],
            "classes": entries,
        }


class TestRefusals:
    """Before any pixel is read: neither mask nor labels exist here."""

    def refused(self, path: Path, *, overwrite: bool = False) -> str:
        with pytest.raises(OutputError) as caught:
            evaluate_mask(
                path.parent / "mask.tif",
                [str(path.parent / "truth.tif")],
                LabelSettings(),
                error_map=ErrorMapSettings(path, overwrite),
            )
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.fixture(autouse=True)
    def _labels(self, tmp_path: Path) -> None:
        for name in ("mask.tif", "truth.tif"):
            (tmp_path / name).write_text("never opened")

    @pytest.mark.parametrize("name", ["errors.png", "errors", "errors.vrt"])
    def test_another_suffix(self, tmp_path: Path, name: str) -> None:
        assert "wanted a name that ends in .tif; rename it" in self.refused(tmp_path / name)

    @pytest.mark.parametrize("there", ["errors.tif", "errors.qml", "errors.tif.aux.xml"])
    def test_an_existing_one_without_overwrite(self, tmp_path: Path, there: str) -> None:
        (tmp_path / there).write_text("precious")
        assert f"{there} exists already; pass `overwrite=True`" in self.refused(tmp_path / "errors.tif")
        assert (tmp_path / there).read_text() == "precious"

    @pytest.mark.parametrize("name", ["mask.tif", "truth.tif"])
    def test_one_of_the_inputs_even_with_overwrite(self, tmp_path: Path, name: str) -> None:
        said = self.refused(tmp_path / name, overwrite=True)
        assert f"{name} would be written, but is one of the files to read; choose another output" in said

    def test_a_raster_or_a_model_that_is_read(self, tmp_path: Path) -> None:
        for name in ("in.tif", "truth.tif"):
            (tmp_path / name).write_text("never opened")
            with pytest.raises(OutputError, match=f"{name} would be written, but is one of the files"):
                evaluate_model_on_rasters(
                    tmp_path / "m.safetensors",
                    [str(tmp_path / "in.tif")],
                    [str(tmp_path / "truth.tif")],
                    LabelSettings(),
                    prediction=PredictSettings(),
                    error_map=ErrorMapSettings(tmp_path / name, overwrite=True),
                )

    def test_chips_have_no_grid(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "chips").mkdir()
        arguments = ["evaluate", "m.safetensors", str(tmp_path / "chips"), "--error-map", "e.tif"]
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "which chips do not have; pass a mask" in capsys.readouterr().err


def test_what_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    said, truth = noise(1, LEGEND, GRID), noise(2, LEGEND, GRID)
    said[-1, -1] = 77
    with pytest.raises(InputError, match="holds value 77"):
        compared(tmp_path, truth, said)
    assert sorted(path.name for path in tmp_path.glob("errors*")) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, disk_of: Callable) -> None:
    said, truth = noise(1, LEGEND, GRID), noise(2, LEGEND, GRID)
    compared(tmp_path, truth, said)
    precious = (tmp_path / "errors.tif").read_bytes()
    wanted = ErrorMapSettings(tmp_path / "errors.tif", overwrite=True)
    files = tmp_path / "mask.tif", [str(tmp_path / "truth.tif")]
    for size in (1000, len(precious) // 2, len(precious) - 100):
        with disk_of(size), pytest.raises(OutputError, match="free") as caught:
            evaluate_mask(*files, LabelSettings(), error_map=wanted)
        assert "\n" not in str(caught.value)
        assert (tmp_path / "errors.tif").read_bytes() == precious
        assert not (tmp_path / "errors.tif.work").exists()


def test_the_command_names_it_in_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = grid_of(30, 40)
    compared(tmp_path, noise(1, LEGEND, grid), noise(2, LEGEND, grid), grid=grid)
    arguments = [tmp_path / "mask.tif", tmp_path / "truth.tif", "--error-map", tmp_path / "new" / "e.tif"]
    capsys.readouterr()
    main(["evaluate", *map(str, arguments), "--json", "-o", str(tmp_path / "scores.json")])
    document = json.loads(capsys.readouterr().out)
    assert document["error_map"] == str(tmp_path / "new" / "e.tif")
    assert json.loads((tmp_path / "scores.json").read_text()) == document
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"e.tif", "e.tif.aux.xml", "e.qml"}
    with rasterio.open(tmp_path / "new" / "e.tif") as file:
        road = np.bincount(file.read(2).ravel(), minlength=4)
    confusion = np.array(document["confusion"])
    assert list(road[1:4]) == [
        confusion[1, 1],
        confusion[1].sum() - confusion[1, 1],
        confusion[:, 1].sum() - confusion[1, 1],
    ]


def test_a_model_is_mapped_too(
    write_raster: Callable, pointwise: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(4)
    source = write_raster(tmp_path / "in.tif", random.integers(0, 256, (2, 64, 96), dtype=np.uint8))
    truth = random.choice(np.array([0, 10, 20, 255], np.uint8), (1, 64, 96))
    labels = write_raster(tmp_path / "labels.tif", truth, nodata=255)
    model = pointwise(origin_step=8)
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: model)
    monkeypatch.setattr("aerial_seg.jobs.evaluate.read_card", lambda path: model.card)
    report = evaluate_model_on_rasters(
        Path("m.safetensors"),
        [str(source)],
        [str(labels)],
        LabelSettings(),
        prediction=PredictSettings(precision="fp32"),
        error_map=ErrorMapSettings(tmp_path / "errors.tif"),
    )
    with rasterio.open(report.error_map) as file, rasterio.open(source) as raster:
        assert (file.transform, file.shape, file.count) == (raster.transform, raster.shape, 3)
        assert file.tags()["AERIAL_SEG_MASK"] == "m.safetensors"
        errors = file.read()
    assert [(band == HIT).sum() for band in errors] == [report.scores.confusion[k][k] for k in range(3)]
    np.testing.assert_array_equal(errors == 255, np.broadcast_to(truth == 255, errors.shape))


def test_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1, 255, 1]], np.uint8)
    said = np.array([[0, 1, 1, 0, 1, 255]], np.uint8)
    wanted = [[[HIT, MISS, NEITHER, FALSE_ALARM, 255, 255]], [[NEITHER, FALSE_ALARM, HIT, MISS, 255, 255]]]
    np.testing.assert_array_equal(errors_of(truth, said, 2), wanted)
