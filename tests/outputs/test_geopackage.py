"""Every GeoPackage of ours is of a version that QGIS of Debian 12 knows, says no time of day, and has a style."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas
import pytest
import shapely

from aerial_seg.outputs.geopackage import settle_geopackage, stored_style, write_geopackage
from aerial_seg.synthetic.town import make_town, write_town

VERSION_1_3 = 10300
"""What the header of GeoPackage 1.3 says; source: the standard's section 1.1.1.1.1."""


def header(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


def changes(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {row[0] for row in database.execute("SELECT last_change FROM gpkg_contents")}


@pytest.fixture
def frame() -> Any:
    squares = [shapely.box(k, 0, k + 1, 1) for k in range(5)]
    return geopandas.GeoDataFrame({"class": list("abcde")}, geometry=squares, crs=32645)


def test_it_reads_back_with_its_style_and_equal_bytes(frame: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_geopackage(frame, tmp_path / name / "a.gpkg", layer="l", style="<qgis/>")
    path = tmp_path / "one" / "a.gpkg"
    assert path.read_bytes() == (tmp_path / "two" / "a.gpkg").read_bytes()
    assert header(path) == VERSION_1_3
    assert changes(path) == {"1995-07-26T00:00:00.000Z"}
    assert stored_style(path, "l") == "<qgis/>"
    read = geopandas.read_file(path, layer="l")
    assert read.equals(frame)
    assert read.crs == frame.crs


def test_a_full_disk_is_the_systems_error(frame: Any, tmp_path: Path, disk_of: Callable[[int], Any]) -> None:
    for size in (100, 50_000, 90_000):
        with disk_of(size), pytest.raises(OSError, match=r"a\.gpkg: "):
            write_geopackage(frame, tmp_path / "a.gpkg", layer="l", style="<qgis>" + " " * 100_000)
        (tmp_path / "a.gpkg").unlink(missing_ok=True)


def test_a_full_disk_costs_no_spatial_index_in_silence(tmp_path: Path, disk_of: Callable[[int], Any]) -> None:
    """GDAL makes it last, and says nothing where it cannot: seen of chips.gpkg with 130 chips and more."""
    squares = [shapely.box(k, 0, k + 1, 1) for k in range(300)]
    names = [f"scene_{k}" for k in range(300)]
    frame = geopandas.GeoDataFrame({"chip": names, "of": names}, geometry=squares, crs=32645)
    path, style = tmp_path / "a.gpkg", "<qgis>" + " " * 5000
    write_geopackage(frame, path, layer="l", style=style)
    whole = path.read_bytes()
    told = []
    for size in range(len(whole) - 16 * 4096, len(whole) + 4096, 4096):
        path.unlink()
        path.touch()
        try:
            with disk_of(size):
                write_geopackage(frame, path, layer="l", style=style)
        except OSError as error:
            told.append(str(error))
        else:
            assert path.read_bytes() == whole
    assert len(told) == 16
    assert any("spatial index" in error or "rtree_l" in error for error in told)


def test_scenes_have_classes_in_their_colours(tmp_path: Path) -> None:
    paths = write_town(make_town(3, height=256, width=256), tmp_path)
    assert header(paths.labels) == VERSION_1_3
    assert "building" in (stored_style(paths.labels, "labels") or "")
    assert 'type="paletted"' in paths.truth.with_suffix(".qml").read_text(encoding="utf-8")


def test_settling_does_not_change_the_version(frame: Any, tmp_path: Path) -> None:
    """Somebody's own file of a later version that grows stays of that version."""
    frame.to_file(tmp_path / "a.gpkg", layer="l", VERSION="1.4")
    settle_geopackage(tmp_path / "a.gpkg", "l", None)
    assert header(tmp_path / "a.gpkg") == 10400
