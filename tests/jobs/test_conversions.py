"""A format that is not written is refused before the work, with the command that makes it: each is tried."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from pyproj import CRS

from aerial_seg.errors import OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.legend import make_legend
from aerial_seg.outputs.geopackage import settle_geopackage
from aerial_seg.outputs.maps import write_mask
from aerial_seg.outputs.qgis_style import class_polygons, style_classes, style_text
from aerial_seg.vectors.conversions import OTHER_FORMATS
from aerial_seg.vectors.formats import vector_format
from aerial_seg.vectors.from_mask.settings import LayerSettings, VectorizeSettings

GRID = Grid(crs=CRS(32645), transform=Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), height=40, width=60)
LEGEND = make_legend({0: "background", 1: "building", 2: "road"}, background=[0])
WITHOUT_ATTRIBUTES = (".dxf",)
LONLAT = (".kml", ".kmz", ".topojson")
SUFFIXES = [suffix for other in OTHER_FORMATS for suffix in other.suffixes]


def command_for(path: Path, layer: str | None = None) -> str:
    """The line that the refusal prints."""
    with pytest.raises(OutputError) as caught:
        vectorize(path.parent / "gone.tif", path, VectorizeSettings(layer=LayerSettings(layer=layer)))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path.name} as ")
    assert "is not written here; write " in text
    return text.rpartition("): " if "(" in text else "make it of that: ")[2]


def vectorized(path: Path, layer: str | None) -> None:
    """A road and a building with a court, as the command writes them."""
    values = np.zeros(GRID.shape, np.uint8)
    values[5:25, 5:25], values[10:15, 10:15], values[30:35] = 1, 0, 2
    write_mask(path.parent / "mask.tif", values, grid=GRID, legend=LEGEND)
    vectorize(path.parent / "mask.tif", path, VectorizeSettings(layer=LayerSettings(layer=layer)))


def alike(path: Path, layer: str | None) -> None:
    """The same at once: nothing is compiled. A GeoPackage has its table of styles."""
    court = shapely.box(300_005, 3_059_992.5, 300_007.5, 3_059_995)
    shapes = [
        shapely.box(300_002.5, 3_059_987.5, 300_012.5, 3_059_997.5) - court,
        shapely.box(300_000, 3_059_982.5, 300_030, 3_059_985),
    ]
    columns = {"class_id": np.array([1, 2], np.int32), "class_name": ["building", "road"]}
    frame = geopandas.GeoDataFrame(
        columns, geometry=[shapely.MultiPolygon([one]) for one in shapes], crs=GRID.crs
    )
    if path.suffix == ".geojson":
        frame.to_crs(4326).to_file(path, layer=layer or path.stem)
        return
    frame.to_file(path, layer=layer or path.stem)
    settle_geopackage(path, layer or path.stem, style_text(class_polygons(style_classes(LEGEND))))


@pytest.mark.parametrize(
    ("suffix", "layer"),
    [*((suffix, None) for suffix in SUFFIXES), (".kml", "seg 2"), (".dxf", 'a "b"'), (".gml", "o")],
)
@pytest.mark.parametrize("make", [alike, pytest.param(vectorized, marks=pytest.mark.slow)])
def test_the_printed_command_makes_the_file(
    tmp_path: Path, make: Callable[[Path, str | None], None], suffix: str, layer: str | None
) -> None:
    folder = tmp_path / "it's my maps"
    folder.mkdir()
    wanted = folder / f"the map{suffix}"
    line = command_for(wanted, layer)
    program, *arguments = shlex.split(line)
    between = wanted.with_suffix(".geojson" if program == "geo2topo" else ".gpkg")
    assert any(argument.endswith(str(between)) for argument in arguments)
    if program == "ogr2ogr":
        assert "w" in pyogrio.list_drivers()[arguments[1]]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (apt: gdal-bin; npm: topojson-server)")
    make(between, layer)
    polygons = geopandas.read_file(between, layer=layer or between.stem)
    subprocess.run(line, shell=True, check=True, timeout=600, cwd=tmp_path)
    found = wanted.with_suffix(".mif") if suffix == ".mid" else wanted
    # The table of styles is not copied.
    ((name, _),) = pyogrio.list_layers(found)
    made = geopandas.read_file(found, layer=name)
    # Neither a DXF nor a TopoJSON says what its coordinates are in.
    crs = "EPSG:4326" if suffix in LONLAT else "EPSG:32645"
    assert made.crs is None if suffix in (".dxf", ".topojson") else made.crs == crs
    made = made.set_crs(crs, allow_override=True).to_crs("EPSG:32645")
    assert made.area.sum() == pytest.approx(polygons.to_crs("EPSG:32645").area.sum(), rel=1e-3)
    if suffix in WITHOUT_ATTRIBUTES:
        assert set(made.Layer) == {"1", "2"}
    else:
        assert sorted(made.class_name) == sorted(polygons.class_name) == ["building", "road"]


@pytest.mark.parametrize(
    "name", ["KML", "kml", "LIBKML", "DXF", "OpenFileGDB", "gdb", "MapInfo File", "TopoJSON"]
)
def test_a_named_format_is_refused_with_its_command_too(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"is not written here; write a\.\w+ and make it of that"):
        vector_format(tmp_path / "a.gpkg", name)


def test_a_name_that_begins_with_a_dash_is_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command_for(Path("-o.kml"), "seg"))
    assert arguments[-3:] == ["./-o.kml", "./-o.gpkg", "seg"]


def test_predict_refuses_it_before_a_model_is_loaded(tmp_path: Path) -> None:
    write_mask(tmp_path / "in.tif", np.zeros(GRID.shape, np.uint8), grid=GRID, legend=LEGEND)
    wanted = PredictSettings(vectors=tmp_path / "map.kml")
    with pytest.raises(OutputError, match=r"write map\.gpkg and make it of that: ogr2ogr -f LIBKML"):
        predict(tmp_path / "gone.safetensors", [str(tmp_path / "in.tif")], tmp_path / "map.tif", wanted)
    assert [file.name for file in tmp_path.glob("map*")] == []
