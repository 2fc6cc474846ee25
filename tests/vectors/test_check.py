"""A layer of any size is found whole, by its own check and by a reader; one that lacks a byte is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely

from aerial_seg.vectors.check import require_features
from aerial_seg.vectors.formats import FLATGEOBUF

Layers = Any
"""The fixture of conftest.py."""

AROUND_A_NODE = (0, 1, 2, 15, 16, 17, 18, 255, 256, 257, 258)
"""An index has nodes of 16: what lies around 16 and 256 fills or overfills one."""
SOME_OF_ALL = ("a.gpkg", "a.shp", "a.geojson", "a.geojsonl", "a.fgb", "a.parquet", "a.csv")


@pytest.mark.parametrize("count", AROUND_A_NODE)
def test_a_flatgeobuf_of_any_size_is_written_and_its_index_finds_every_feature(
    layers: Layers, tmp_path: Path, count: int
) -> None:
    path = tmp_path / "a.fgb"
    layers.write(path, count)
    batch = layers.batch(count)
    found = layers.read(path)
    assert found["n_px"].tolist() == batch.n_px.tolist()
    for wanted, got in zip(layers.geometries(batch), found.geometry, strict=True):
        assert shapely.equals(shapely.normalize(wanted), shapely.normalize(got))
    for k in range(0, count, 17):
        x = 300_000.3 + 10 * k
        near = gpd.read_file(path, bbox=(x + 0.1, 3_060_001, x + 0.2, 3_060_002))
        assert near["n_px"].tolist() == [k + 2**33]


@pytest.mark.parametrize("index", ["YES", "NO"])
@pytest.mark.parametrize("count", AROUND_A_NODE)
def test_a_flatgeobuf_is_whole_with_and_without_an_index_and_not_when_cut(
    tmp_path: Path, count: int, index: str
) -> None:
    path = tmp_path / "a.fgb"
    squares = [shapely.MultiPolygon([shapely.box(k, 0, k + 1, 1)]) for k in range(count)]
    frame = gpd.GeoDataFrame({"a": np.arange(count)}, geometry=squares, crs=32645)
    pyogrio.write_dataframe(
        frame, path, driver="FlatGeobuf", geometry_type="MultiPolygon", layer_options={"SPATIAL_INDEX": index}
    )
    whole = path.read_bytes()
    require_features(path, FLATGEOBUF, layer="a", count=count, grown=False)
    wrong = [whole[:-1], whole + b"\0"] if count else [whole + b"\0"]
    for damaged in wrong:
        path.write_bytes(damaged)
        with pytest.raises(OSError, match="lacks some of its features"):
            require_features(path, FLATGEOBUF, layer="a", count=count, grown=False)
    path.write_bytes(whole)
    for other in {count + 1, max(0, count - 1)} - {count}:
        with pytest.raises(OSError, match="lacks some of its features"):
            require_features(path, FLATGEOBUF, layer="a", count=other, grown=False)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("name", SOME_OF_ALL)
def test_every_format_holds_few_features(layers: Layers, tmp_path: Path, name: str, count: int) -> None:
    layers.needs(name)
    path = tmp_path / name
    layers.write(path, count)
    if name.endswith(".csv"):
        rows = path.read_text(encoding="utf-8").splitlines()[1:]
        assert len(rows) == count
        return
    if name.endswith((".geojson", ".geojsonl")) and count == 0:
        assert path.exists()
        return
    assert (layers.read(path)["n_px"] - 2**33).tolist() == list(range(count))
