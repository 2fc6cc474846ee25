"""Inside the labelled area all was drawn, outside nothing is known; and what is background unsaid is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.files.protect import Inputs
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.unchanged import Unchanged, label_files
from aerial_seg.labels.labels import expand_labels, label_sources, open_labels
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE

if TYPE_CHECKING:
    from tests.conftest import PolygonFile

X, Y, SIDE = 300_000.0, 3_060_000.0, 60
GRID = Grid(crs=CRS(32645), transform=Affine(0.5, 0, X, 0, -0.5, Y), height=SIDE, width=SIDE)
HOUSE = shapely.box(X + 3, Y - 8, X + 9, Y - 3)
DRAWN = shapely.box(X, Y - 30, X + 6, Y)
"""The western 12 columns: half of the house's."""


def check(labels_file: Path, area: str) -> None:
    labels = open_labels([labels_file], LabelSettings(labelled_area=area, layer="houses"), near=[GRID])
    got = labels.burn(GRID)
    wanted = np.full(GRID.shape, IGNORE)
    wanted[:, :12] = 0
    wanted[6:16, 6:12] = 1
    np.testing.assert_array_equal(got, wanted)
    share = 100 * (12 * SIDE - 60) / (12 * SIDE)
    assert labels.implied_notes == (
        f"{share:.3g} % of the labelled pixels lie outside every polygon and count as background",
    )
    assert labels.only_value(GRID) is None
    assert labels.only_value(GRID.window(top=0, left=40, height=9, width=9)) == IGNORE


def test_it_is_a_layer_of_the_labels_file_or_a_file(tmp_path: Path, polygon_file: PolygonFile) -> None:
    both = tmp_path / "houses.gpkg"
    geopandas.GeoDataFrame(geometry=[HOUSE], crs=GRID.crs).to_file(both, layer="houses")
    geopandas.GeoDataFrame(geometry=[DRAWN], crs=GRID.crs).to_file(both, layer="drawn")
    check(both, "drawn")
    check(both, f"{both}|layername=drawn")
    lonlat = geopandas.GeoSeries([DRAWN], crs=GRID.crs).to_crs(4326).iloc[0]
    check(both, str(polygon_file("area.geojson", [lonlat], crs="EPSG:4326")))
    with pytest.raises(InputError, match=r"no layer 'drwn' of geometries.*did you mean 'drawn'"):
        open_labels([both], LabelSettings(labelled_area="drwn", layer="houses"))
    with pytest.raises(InputError, match=r"drawn\.gpkg does not exist"):
        open_labels([both], LabelSettings(labelled_area="drawn.gpkg", layer="houses"))


def test_all_files_that_are_read_are_known(tmp_path: Path, polygon_file: PolygonFile) -> None:
    both, area = tmp_path / "houses.gpkg", polygon_file("area.gpkg", [DRAWN])
    base = tmp_path / "houses.gdb"
    for path in (both, base):
        driver = "OpenFileGDB" if path == base else "GPKG"
        geopandas.GeoDataFrame(geometry=[HOUSE], crs=GRID.crs).to_file(path, layer="houses", driver=driver)
    geopandas.GeoDataFrame(geometry=[DRAWN], crs=GRID.crs).to_file(both, layer="drawn")
    named = expand_labels([f"{both}|layername=houses"])
    assert label_sources(named, LabelSettings(labelled_area="drawn")) == (both,)
    assert label_sources(named, LabelSettings(labelled_area=f"{area}|layername=area")) == (both, area)
    parts = set(base.glob("*.gdbtable"))
    assert parts
    for files in ([str(base)], [f"{base}|layername=houses"]):
        read = label_sources(expand_labels(files), LabelSettings())
        assert parts <= set(read)
        assert not label_files(read)  # GDAL reads none of them by itself
        Unchanged(read).check()
        with pytest.raises(OutputError, match="lies in it and is read"):
            Inputs(read).refuse_folder(tmp_path)


def test_a_layer_may_be_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "l.gpkg"
    for layer, shape in (("houses", HOUSE), ("drawn", DRAWN)):
        geopandas.GeoDataFrame(geometry=[shape], crs=GRID.crs).to_file(path, layer=layer)
    for layer, pixels in (("houses", 120), ("drawn", 12 * SIDE)):
        files = expand_labels([f"{path}|layername={layer}"])
        for settings in (LabelSettings(), LabelSettings(layer=layer)):
            assert (open_labels(files, settings).burn(GRID) == 1).sum() == pixels
    with pytest.raises(SettingsError, match=r"names another layer than `layer=.drawn.`; name one of them"):
        open_labels([Path(f"{path}|layername=houses")], LabelSettings(layer="drawn"))
    with pytest.raises(InputError, match=r"no layer 'house' of geometries.*did you mean 'houses'"):
        open_labels([Path(f"{path}|layername=house")], LabelSettings())
    with pytest.raises(InputError, match=r"gone\.gpkg does not exist"):
        open_labels(expand_labels([f"{tmp_path}/gone.gpkg|layername=houses"]), LabelSettings())


def test_what_contradicts_it_is_refused(polygon_file: PolygonFile) -> None:
    path = polygon_file("l.gpkg", [HOUSE])
    plain = str(polygon_file("b.gpkg", [DRAWN]))
    with pytest.raises(
        SettingsError, match=r"`outside=.unlabelled.` and `labelled_area=.*` exclude each other"
    ):
        open_labels([path], LabelSettings(labelled_area=plain, outside="unlabelled"))


def test_background_that_nobody_drew_is_told_with_its_share(polygon_file: PolygonFile) -> None:
    path = polygon_file("l.gpkg", [HOUSE], {"kind": ["house"]})
    labels = open_labels([path], LabelSettings(class_field="kind"))
    assert labels.implied_notes == ()
    labels.burn(GRID)
    share = 100 * (SIDE**2 - 120) / SIDE**2
    assert labels.implied_notes == (
        f"{share:.3g} % of the labelled pixels lie outside every polygon and count as background; if not "
        'everything was drawn, say where it was with `labelled_area=LAYER`, or pass `outside="unlabelled"`',
    )
    for wanted in ({"outside": "unlabelled"}, {"labelled_area": str(path)}):
        remedied = open_labels([path], LabelSettings(**wanted))
        assert set(np.unique(remedied.burn(GRID))) <= {1, IGNORE}
        assert remedied.implied_notes == ()
    ground = shapely.box(X - 9, Y - 99, X + 99, Y + 9)
    drawn = open_labels(
        [polygon_file("d.gpkg", [ground, HOUSE], {"kind": ["background", "house"]})],
        LabelSettings(class_field="kind"),
    )
    assert (drawn.burn(GRID) == 1).sum() in (120, SIDE**2 - 120)
    assert drawn.implied_notes == ()


def test_lines_and_points_get_their_width(polygon_file: PolygonFile) -> None:
    road = shapely.LineString([(X - 5, Y - 10), (X + 40, Y - 10)])
    tree = shapely.Point(X + 20, Y - 20)
    path = polygon_file("l.gpkg", [road, tree], {"kind": ["road", "tree"]})
    got = open_labels([path], LabelSettings(class_field="kind", buffer=3.0)).burn(GRID)
    assert (got[14:26] == 1).all()
    assert not (got[[13, 26]] == 1).any()
    rows, cols = np.indices(GRID.shape) + 0.5
    np.testing.assert_array_equal(got == 2, np.hypot(rows - 40, cols - 40) < 6)
    with pytest.raises(
        InputError, match=r"1 × LineString \(feature 1\), 1 × Point \(feature 2\).*`buffer=METRES`"
    ):
        open_labels([path], LabelSettings(class_field="kind"))
