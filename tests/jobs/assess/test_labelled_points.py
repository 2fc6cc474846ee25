"""What people labelled is never lost in silence, and taken in the forms that QGIS gives it."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS

from aerial_seg.errors import InputError, OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.jobs.assess.design import design_sample
from aerial_seg.jobs.assess.report import assess
from aerial_seg.jobs.assess.settings import DesignSettings
from aerial_seg.legend import make_legend
from aerial_seg.outputs.maps import write_mask

GRID = Grid(CRS(32645), Affine(2.0, 0, 300_000, 0, -2.0, 3_060_000), 60, 80)


@pytest.fixture
def points(tmp_path: Path) -> Path:
    values = np.kron(np.array([[0, 1]], np.uint8), np.ones((60, 40), np.uint8))
    write_mask(tmp_path / "map.tif", values, grid=GRID, legend=make_legend({0: "a", 1: "b"}))
    return design_sample(
        tmp_path / "map.tif", tmp_path / "points.gpkg", DesignSettings(count=12, minimum=5)
    ).path


def labelled(points: Path) -> geopandas.GeoDataFrame:
    frame = geopandas.read_file(points, layer="points")
    frame["reference"] = frame["stratum"]
    return frame


def test_labelled_points_are_not_replaced(points: Path) -> None:
    mask, again = points.with_name("map.tif"), DesignSettings(count=12, minimum=5, overwrite=True, seed=1)
    design_sample(mask, points, again)  # nobody has labelled any
    labelled(points).to_file(points, layer="points", driver="GPKG")
    before = points.read_bytes()
    with pytest.raises(OutputError, match="holds 12 labelled points"):
        design_sample(mask, points, again)
    assert points.read_bytes() == before
    points.rename(points.with_name("done.gpkg"))  # as the message says
    design_sample(mask, points, again)


def test_multipoints_of_one_point_are_points(points: Path) -> None:
    frame, other = labelled(points), points.with_name("multi.gpkg")
    frame.geometry = [shapely.MultiPoint([one]) for one in frame.geometry]
    frame.to_file(other, layer="points", driver="GPKG")
    found = assess(other, points.with_name("map.tif"))
    assert found.accuracy.overall.value == 1
    assert found.as_json()["notes"] == list(found.notes)
    frame.geometry = [shapely.MultiPoint([one.geoms[0], (0, 0)]) for one in frame.geometry]
    frame.to_file(other, layer="points", driver="GPKG")
    with pytest.raises(InputError, match="are no points"):
        assess(other, points.with_name("map.tif"))


def test_pictures_of_other_points_are_told_of(points: Path) -> None:
    mask, image = points.with_name("map.tif"), points.with_name("map.tif")
    design_sample(mask, points, DesignSettings(count=12, minimum=5, image=image, overwrite=True))
    later = design_sample(mask, points, DesignSettings(count=12, minimum=5, seed=3, overwrite=True))
    assert any("pictures of other points" in note for note in later.notes)
