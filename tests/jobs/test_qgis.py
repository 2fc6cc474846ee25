"""QGIS itself opens what we write: classes in their colours, polygons on the picture, no warning at opening."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from pyproj import CRS

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.measures import Measure
from aerial_seg.jobs.assess.design import design_sample
from aerial_seg.jobs.assess.settings import DesignSettings
from aerial_seg.jobs.evaluate import evaluate_mask
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, make_legend
from aerial_seg.outputs.geopackage import stored_style
from aerial_seg.outputs.maps import write_mask
from aerial_seg.vectors.from_mask.settings import LayerSettings, ShapeSettings, VectorizeSettings

PYTHON = Path("/usr/bin/python3")
PROBE = Path(__file__).with_name("qgis_probe.py")
LEGEND = make_legend({0: "background", 1: "Gebäude", 2: "road <&>", 7: "water"}, background=[0])
CLASSES = [[entry.value, entry.name, entry.colour] for entry in LEGEND.entries]
LABELS = LabelSettings(class_field="class_name", outside="unlabelled")
PLACES = {
    "in a CRS": (CRS(32645), Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)),
    "in coordinates of its own": (None, Affine(0.5, 0, 100, 0, -0.5, 700)),
    "without a geotransform": (None, Affine.identity()),
}
NAMES = ("map.shp", "map.gpkg", "map.fgb", "map.geojson", "map.geojsonl")
HEIGHT, WIDTH, ZOOM = 40, 60, 10
WARNS = "partially supported"
"""What GDAL 3.6 says of a GeoPackage of a later version than it knows."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning", "ignore:'crs' was not:UserWarning"),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """What QGIS showed. layers: facts by path. said: all that it printed or logged."""

    layers: dict[str, dict[str, Any]]
    said: str


@pytest.fixture(scope="session")
def qgis(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Seen]:
    home = tmp_path_factory.mktemp("home")
    home.chmod(0o700)
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "LC_ALL": "C.UTF-8",
        "QT_QPA_PLATFORM": "offscreen",
    }  # fmt: skip

    def run(command: list[str], orders: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, input=orders, capture_output=True, text=True, env=environment, timeout=900
        )

    if not PYTHON.exists() or run([str(PYTHON), "-c", "import qgis.core"]).returncode:
        pytest.skip(
            f"NOT TESTED: {PYTHON} has no QGIS; on Debian: apt-get install --no-install-recommends python3-qgis"
        )

    def look(
        *,
        rasters: Any = (),
        layers: Any = (),
        maps: Any = (),
        save: Any = (),
        mirror: tuple[Path, Path] | None = None,
    ) -> Seen:
        orders = {"rasters": rasters, "layers": layers, "maps": maps, "mirror": mirror, "save": save}
        done = run(
            [str(PYTHON), str(PROBE)],
            json.dumps(orders, default=lambda one: str(one) if isinstance(one, Path) else list(one)),
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return Seen(found["layers"], done.stderr + "\n".join(found["messages"]))

    return look


def blocks(seed: int) -> NDArray[np.uint8]:
    """Patches of 5 × 5 pixels of all classes and of nodata; no symmetry."""
    rough = np.random.default_rng(seed).choice([0, 1, 2, 7, IGNORE], (HEIGHT // 5, WIDTH // 5))
    return np.kron(rough, np.ones((5, 5), int)).astype(np.uint8)


def shapes(**how: Any) -> VectorizeSettings:
    return VectorizeSettings(shape=ShapeSettings(simplify=Measure(0, "px")), **how)


def centres(picture: Path) -> NDArray[np.uint8]:
    """(H, W, 3) colours at the middle of every pixel of the mask, in a map ZOOM times as large."""
    drawn = np.asarray(Image.open(picture).convert("RGB"))
    return drawn[ZOOM // 2 :: ZOOM, ZOOM // 2 :: ZOOM]


def expected(values: NDArray[np.uint8], *, background: bool) -> NDArray[np.uint8]:
    """The same as the legend has it; white where nothing is drawn."""
    table = np.full((256, 3), 255, np.uint8)
    for entry in LEGEND.entries:
        if background or not entry.background:
            table[entry.value] = entry.rgb
    return table[values]


@pytest.mark.parametrize("place", PLACES)
def test_a_map_and_its_polygons_show_the_same_classes_in_the_same_place(
    qgis: Callable[..., Seen], tmp_path: Path, place: str
) -> None:
    crs, transform = PLACES[place]
    values = blocks(5)
    grid = Grid(crs=crs, transform=transform, height=HEIGHT, width=WIDTH)
    names = [name for name in NAMES if crs is not None or "geojson" not in name]
    # One style file: a vector first, then the raster, then the rest.
    first = tmp_path / "map.tif"
    write_mask(tmp_path / "mask.tif", values, grid=grid, legend=LEGEND)
    vectorize(tmp_path / "mask.tif", tmp_path / names[0], shapes())
    write_mask(first, values, grid=grid, legend=LEGEND)
    for name in names[1:]:
        vectorize(first, tmp_path / name, shapes())
    (tmp_path / "table").mkdir()
    vectorize(first, tmp_path / "table" / "map.csv", shapes())
    layers = [*(tmp_path / name for name in names), tmp_path / "table" / "map.csv"]
    left, bottom, right, top = grid.for_polygons().bounds
    maps = [
        {"paths": [path], "extent": [left, bottom, right, top], "size": [WIDTH * ZOOM, HEIGHT * ZOOM],
         "png": path.with_suffix(f"{path.suffix}.png")}
        for path in (first, *layers)
        if "geojson" not in path.name
    ]  # fmt: skip
    seen = qgis(rasters=[first], layers=layers, maps=maps)
    raster = seen.layers[str(first)]
    assert raster == {
        "valid": True,
        "renderer": "paletted",
        "classes": CLASSES,
        "extent": [left, bottom, right, top],
    }
    for path in layers:
        facts = seen.layers[str(path)]
        assert (facts["valid"], facts["renderer"], facts["column"]) == (True, "categorizedSymbol", "class_id")
        assert [[int(value), *rest] for value, *rest in facts["classes"]] == CLASSES
        if "geojson" not in path.name:
            assert facts["extent"][0] >= left
            assert facts["extent"][1] >= bottom
            assert facts["extent"][2] <= right
            assert facts["extent"][3] <= top
    for order in maps:
        shown = centres(order["png"])
        np.testing.assert_array_equal(shown, expected(values, background=order["paths"] == [first]))
    assert WARNS not in seen.said


def test_geopackages_open_without_a_warning(qgis: Callable[..., Seen], tmp_path: Path) -> None:
    write_mask(
        tmp_path / "map.tif",
        blocks(6),
        grid=Grid(crs=CRS(32645), transform=PLACES["in a CRS"][1], height=HEIGHT, width=WIDTH),
        legend=LEGEND,
    )
    vectorize(tmp_path / "map.tif", tmp_path / "map.gpkg", shapes())
    assert WARNS not in qgis(layers=[tmp_path / "map.gpkg"]).said
    # This QGIS does warn of GDAL's default, else the line above would prove nothing.
    later = tmp_path / "later.gpkg"
    wkb = shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)], object))
    pyogrio.raw.write(
        later,
        wkb,
        [np.array([1])],
        ["a"],
        geometry_type="Polygon",
        crs="EPSG:32645",
        dataset_options={"VERSION": "1.4"},
    )
    if WARNS not in qgis(layers=[later]).said:
        pytest.skip("NOT TESTED: this QGIS knows GeoPackage 1.4")


def test_a_style_that_somebody_edited_is_what_qgis_shows(qgis: Callable[..., Seen], tmp_path: Path) -> None:
    crs, transform = PLACES["in a CRS"]
    grid = Grid(crs=crs, transform=transform, height=HEIGHT, width=WIDTH)
    write_mask(tmp_path / "map.tif", blocks(7), grid=grid, legend=LEGEND)
    edited = (tmp_path / "map.qml").read_text(encoding="utf-8").replace(LEGEND.entries[1].colour, "#123456")
    (tmp_path / "map.qml").write_text(edited, encoding="utf-8")
    report = vectorize(tmp_path / "map.tif", tmp_path / "map.shp", shapes())
    assert any("map.qml is not (or no longer)" in note for note in report.notes)
    shown = qgis(rasters=[tmp_path / "map.tif"]).layers[str(tmp_path / "map.tif")]
    assert shown["classes"][1] == [1, "Gebäude", "#123456"]


def test_what_is_saved_in_qgis_is_not_ours_any_more(qgis: Callable[..., Seen], tmp_path: Path) -> None:
    crs, transform = PLACES["in a CRS"]
    grid = Grid(crs=crs, transform=transform, height=HEIGHT, width=WIDTH)
    mask, package = tmp_path / "map.tif", tmp_path / "map.gpkg"
    write_mask(mask, blocks(7), grid=grid, legend=LEGEND)
    vectorize(mask, package, shapes())
    ours = (tmp_path / "map.qml").read_bytes(), stored_style(package, "map")
    qgis(rasters=[mask], layers=[package], save=[mask, package])
    theirs = (tmp_path / "map.qml").read_bytes(), stored_style(package, "map")
    assert ours[0] != theirs[0]
    assert ours[1] != theirs[1]
    for name in ("map.shp", "map.gpkg"):
        layer = LayerSettings(append=name == "map.gpkg")
        report = vectorize(mask, tmp_path / name, shapes(layer=layer))
        assert any("(or no longer) as aerial-seg wrote it, so it stays" in note for note in report.notes)
    assert ((tmp_path / "map.qml").read_bytes(), stored_style(package, "map")) == theirs


def test_polygons_that_count_downwards_are_mended_as_the_refusal_says(
    qgis: Callable[..., Seen], tmp_path: Path
) -> None:
    values = blocks(8)
    grid = Grid(crs=None, transform=Affine.identity(), height=HEIGHT, width=WIDTH)
    write_mask(tmp_path / "map.tif", values, grid=grid, legend=LEGEND)
    vectorize(tmp_path / "map.tif", tmp_path / "map.gpkg", shapes(classes=("all",)))
    frame = pyogrio.read_dataframe(tmp_path / "map.gpkg", layer="map")
    frame.set_geometry(frame.scale(1, -1, origin=(0, 0))).set_crs(None, allow_override=True).to_file(
        tmp_path / "old.gpkg"
    )
    qgis(mirror=(tmp_path / "old.gpkg", tmp_path / "mended.gpkg"))
    report = evaluate_mask(tmp_path / "map.tif", [str(tmp_path / "mended.gpkg")], LABELS)
    assert report.scores.miou == 1


@pytest.mark.parametrize("place", ["in a CRS", "without a geotransform"])
def test_chips_show_their_splits_and_classes(
    qgis: Callable[..., Seen], raster_file: Callable[..., Path], tmp_path: Path, place: str
) -> None:
    crs, transform = PLACES[place]
    values = blocks(9)
    grid = Grid(crs=crs, transform=transform, height=HEIGHT, width=WIDTH)
    write_mask(tmp_path / "map.tif", values, grid=grid, legend=LEGEND)
    vectorize(tmp_path / "map.tif", tmp_path / "map.gpkg", shapes(classes=("all",)))
    image = np.random.default_rng(0).integers(1, 255, (3, HEIGHT, WIDTH), dtype=np.uint8)
    raster = raster_file(
        "image.tif", image, crs=None if crs is None else crs.to_string(), transform=transform
    )
    settings = TileSettings(
        labels=LABELS, chip_size=10, block=1, val="0.25", test="0.25", georeferenced=crs is not None
    )
    report = tile([str(raster)], [str(tmp_path / "map.gpkg")], tmp_path / "chips", settings)
    index = report.dataset / "chips.gpkg"
    chips = sorted((report.dataset / "labels").glob("*.tif"))
    left, bottom, right, top = grid.for_polygons().bounds
    size = [WIDTH * ZOOM, HEIGHT * ZOOM]
    maps = [
        {"paths": paths, "extent": [left, bottom, right, top], "size": size, "png": tmp_path / name}
        for paths, name in ((chips, "labels.png"), ([index], "splits.png"), ([index, raster], "both.png"))
    ]
    seen = qgis(rasters=[raster, *chips], layers=[index], maps=maps)
    assert WARNS not in seen.said
    facts = seen.layers[str(index)]
    assert (facts["renderer"], facts["column"]) == ("categorizedSymbol", "split")
    assert [entry[:2] for entry in facts["classes"]] == [["train", "train"], ["val", "val"], ["test", "test"]]
    assert len({entry[2] for entry in facts["classes"]}) == 3
    assert facts["features"] == len(chips) == sum(report.chips.values())
    legend = [[entry.value, entry.name, entry.colour] for entry in report.legend.entries]
    assert all(seen.layers[str(chip)]["classes"] == legend for chip in chips)
    # Chips in their colours, each where it was cut; the dataset numbers its classes anew.
    colours = {entry.name: entry.rgb for entry in report.legend.entries}
    table = np.full((256, 3), 255, np.uint8)
    for entry in LEGEND.entries:
        table[entry.value] = colours[entry.name]
    np.testing.assert_array_equal(centres(tmp_path / "labels.png"), table[values])
    splits = pyogrio.read_dataframe(index, layer="chips")
    drawn = centres(tmp_path / "splits.png")
    shown: dict[str, set[tuple[int, ...]]] = {"train": set(), "val": set(), "test": set()}
    for chip in splits.itertuples():
        shown[chip.split].add(tuple(drawn[chip.row * 10 + 5, chip.col * 10 + 5].tolist()))
    assert all(len(colours) == 1 for colours in shown.values()), shown
    assert len(set.union(*shown.values())) == 3


def test_probabilities_open_in_grey(
    qgis: Callable[..., Seen], use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    model = pointwise(stride=1, origin_step=8)
    use(model)
    image = np.random.default_rng(1).integers(1, 255, (2, HEIGHT, WIDTH)).astype(np.uint8)
    source = write_raster(tmp_path / "in.tif", image)
    settings = PredictSettings(probabilities=True, confidence=True)
    predict(Path("any.safetensors"), [str(source)], tmp_path / "out.tif", settings)
    final = tmp_path / "out_probabilities.tif"
    with rasterio.open(final) as file:
        box = list(file.bounds)
        legend = model.card.legend
        band = next(k for k, entry in enumerate(legend.entries, start=1) if not entry.background)
        wanted = np.rint(file.read(band) / 250 * 255)
    order = {
        "paths": [final],
        "extent": box,
        "size": [WIDTH * ZOOM, HEIGHT * ZOOM],
        "png": tmp_path / "p.png",
    }
    facts = qgis(rasters=[final, tmp_path / "out_confidence.tif"], maps=[order]).layers
    assert facts[str(final)]["renderer"] == "singlebandgray"
    assert facts[str(final)]["band"] == f"Band {band}: {legend.entries[band - 1].name}"
    assert facts[str(final)]["range"] == [0, 1]
    assert facts[str(tmp_path / "out_confidence.tif")]["renderer"] == "singlebandgray"
    shown = centres(tmp_path / "p.png").astype(int)
    assert (shown.max(axis=2) == shown.min(axis=2)).all()
    assert np.abs(shown[..., 0] - wanted).max() <= 1


def test_points_to_be_labelled_have_a_form_with_the_classes(
    qgis: Callable[..., Seen], tmp_path: Path
) -> None:
    """The classes by name, what the map says out of sight, and each point's picture found from the file's folder on."""
    grid = Grid(crs=CRS(32645), transform=Affine(1, 0, 300_000, 0, -1, 3_060_000), height=HEIGHT, width=WIDTH)
    mask, image = tmp_path / "map.tif", tmp_path / "image.tif"
    write_mask(mask, blocks(3), grid=grid, legend=LEGEND)
    with rasterio.open(
        image, "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=3, dtype="uint8", crs=32645,
        transform=grid.transform,
    ) as opened:  # fmt: skip
        opened.write(np.full((3, HEIGHT, WIDTH), 90, np.uint8))
    points = tmp_path / "points.gpkg"
    design_sample(mask, points, DesignSettings(image=image, count=40, minimum=5))
    seen = qgis(layers=[points])
    facts = seen.layers[str(points)]
    assert facts["valid"]
    assert facts["features"] == 40
    assert facts["renderer"] == "RuleRenderer"
    kind, config = facts["widgets"]["reference"]
    assert kind == "ValueMap"
    assert config["map"] == [{name: str(value)} for value, name, _ in CLASSES]
    assert facts["widgets"]["stratum"][0] == "Hidden"
    kind, config = facts["widgets"]["picture"]
    assert kind == "ExternalResource"
    (root,) = config["PropertyCollection"]["properties"].values()
    first = pyogrio.read_dataframe(points, layer="points")["picture"][0]
    assert (Path(root["value"]) / first).is_file()
