"""Whatever fails, all is as it was and says so in one line; what does not fit one Shapefile fills several."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pyogrio
import pyogrio.raw
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from pyogrio.errors import DataSourceError

from aerial_seg.errors import InputError, OutputError
from aerial_seg.legend import make_legend
from aerial_seg.vectors import geoparquet, ogr_sink, shapefile_sink
from aerial_seg.vectors.formats import vector_format
from aerial_seg.vectors.schema import FeatureSchema
from aerial_seg.vectors.writer import LayerSpec, check_layer, layer_writer

if TYPE_CHECKING:
    from tests.vectors.conftest import Layers

NAMES = ("a.gpkg", "a.shp", "a.geojson", "a.geojsonl", "a.geojsons", "a.fgb", "a.csv", "a.parquet")
GDAL_NAMES = NAMES[:-1]


class TestFailures:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("exists", [True, False])
    @pytest.mark.parametrize("failure", [ValueError("no"), OSError("no"), KeyboardInterrupt()])
    def test_a_failure_of_the_work_leaves_all_as_it_was(
        self, layers: Layers, name: str, exists: bool, failure: BaseException, tmp_path: Path
    ) -> None:
        layers.needs(name)
        path = tmp_path / name
        if exists:
            layers.write(path, 3)
        before = layers.contents(tmp_path)

        def work() -> None:
            with layer_writer(path, layers.spec(path), overwrite=True) as layer:
                layer.write(layers.batch_for(path, 5), layers.measured(layers.batch_for(path, 5)))
                raise failure

        with pytest.raises(type(failure)):
            work()
        assert layers.contents(tmp_path) == before
        assert [entry for entry in tmp_path.iterdir() if entry.is_dir()] == []

    @pytest.mark.parametrize("name", GDAL_NAMES)
    @pytest.mark.parametrize("after", [0, 1, 3])
    def test_a_failure_of_gdal_is_one_line(
        self, layers: Layers, name: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """GDAL fails after so many chunks, while more come than the queue holds."""

        def break_off(stream: ogr_sink.RowStream, *_: object, **__: object) -> None:
            for _k in range(after):
                stream._take()
            raise DataSourceError("the disk\nhas gone")

        path = tmp_path / name
        layers.write(path, 3)
        before = layers.contents(tmp_path)
        monkeypatch.setattr(ogr_sink.pyogrio, "write_arrow", break_off)
        monkeypatch.setattr(ogr_sink, "_CHUNK", 1)
        with pytest.raises(OutputError, match=r"could not be written \(the disk has gone\); free disk space"):
            layers.write(path, 20, cuts=tuple(range(1, 20)), overwrite=True)
        assert layers.contents(tmp_path) == before

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("share", [0.002, 0.1, 0.6, 0.93, 0.99, 1])
    def test_a_full_disk_is_one_line_and_no_file(
        self,
        layers: Layers,
        name: str,
        share: float,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        disk_of: Callable,
    ) -> None:
        """GDAL keeps silent about what is lost when it closes a file."""
        layers.needs(name)
        monkeypatch.chdir(tmp_path)
        path = tmp_path / name
        size = max(file.stat().st_size for file in layers.write(path, 400))
        for file in tmp_path.iterdir():
            file.unlink()
        with disk_of(int(size * share) - 1), pytest.raises(OutputError, match="free disk space") as raised:
            layers.write(path, 400)
        assert "\n" not in str(raised.value)
        assert list(tmp_path.iterdir()) == []
        assert capfd.readouterr().err == ""

    def test_nothing_stays_behind_in_the_process(
        self, layers: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = ("OGR_SQLITE_SYNCHRONOUS", "CPL_LOG")
        monkeypatch.delenv(options[0])
        before = [pyogrio.get_gdal_config_option(option) for option in options]
        layers.write(tmp_path / "a.gpkg")
        with (
            pytest.raises(ValueError, match="no"),
            layer_writer(tmp_path / "b.gpkg", layers.spec(tmp_path / "b.gpkg")),
        ):
            raise ValueError("no")
        assert [pyogrio.get_gdal_config_option(option) for option in options] == before
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("vector-writer")]

    @pytest.mark.parametrize("how", ["legend", "source"])
    def test_texts_that_a_shapefile_would_cut(self, layers: Layers, how: str, tmp_path: Path) -> None:
        long = "建" * 85
        schema = (
            FeatureSchema(make_legend({1: long}))
            if how == "legend"
            else FeatureSchema(layers.legend, source=long)
        )
        with pytest.raises(OutputError, match=r"255 bytes, wanted at most 254; write a \.gpkg"):
            check_layer(tmp_path / "a.shp", layers.spec(tmp_path / "a.shp", schema=schema))
        check_layer(tmp_path / "a.gpkg", layers.spec(tmp_path / "a.gpkg", schema=schema))

    def test_the_longest_text_of_a_shapefile(self, layers: Layers, tmp_path: Path) -> None:
        name = "建" * 84 + "ab"
        schema, batch = FeatureSchema(make_legend({1: name})), layers.batch(1)
        batch.values[:] = 1
        with layer_writer(tmp_path / "a.shp", layers.spec(tmp_path / "a.shp", schema=schema)) as layer:
            layer.write(batch, {"area_m2": np.ones(1), "perim_m": np.ones(1)})
        assert layers.read(tmp_path / "a.shp")["class_name"].tolist() == [name]

    def test_geojson_without_a_crs(self, layers: Layers, tmp_path: Path) -> None:
        for name in ("a.geojson", "a.geojsonl"):
            with pytest.raises(InputError, match="has no CRS"):
                LayerSpec(vector_format(tmp_path / name), None, layers.schema)

    def test_a_gdal_that_takes_no_streams(
        self, layers: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pyogrio, "__gdal_version__", (3, 6, 2))
        with pytest.raises(OutputError, match=r"GDAL 3\.6\.2, wanted 3\.8\.0 or later; upgrade pyogrio"):
            check_layer(tmp_path / "a.gpkg", layers.spec(tmp_path / "a.gpkg"))

    def test_geoparquet_without_pyarrow(
        self, layers: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(geoparquet, "find_spec", lambda _: None)
        with pytest.raises(OutputError, match=r"pip install 'aerial-seg\[parquet\]'"):
            check_layer(tmp_path / "a.parquet", layers.spec(tmp_path / "a.parquet"))


class TestDividedShapefiles:
    @pytest.fixture(autouse=True)
    def small_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shapefile_sink, "LIMIT", 3000)

    def test_the_features_are_in_numbered_files(self, layers: Layers, tmp_path: Path) -> None:
        files = layers.write(tmp_path / "a.shp", 20)
        mains = [file for file in files if file.suffix == ".shp"]
        assert len(mains) > 1
        assert [main.name for main in mains] == [f"a_{k + 1:03d}.shp" for k in range(len(mains))]
        assert len(files) == 6 * len(mains)
        assert all(file.stat().st_size <= 3000 for file in files if file.suffix in (".shp", ".dbf"))
        tables = [gpd.read_file(main) for main in mains]
        assert [n for table in tables for n in table["n_px"] - 2**33] == list(range(20))
        assert all(table.crs == layers.utm for table in tables)

    def test_no_file_is_smaller_than_it_need_be(self, layers: Layers, tmp_path: Path) -> None:
        """The foretold sizes are the true ones: one more feature would have passed the limit."""
        files = layers.write(tmp_path / "a.shp", 40)
        mains = [file for file in files if file.suffix == ".shp"]
        starts = [int(gpd.read_file(main)["n_px"].min()) - 2**33 for main in mains]
        assert len(mains) > 2
        for main, following in pairwise(zip(mains, starts, strict=True)):
            polygons = shapely.get_parts(layers.geometries(layers.batch(1, first=following[1])))
            rings = len(polygons) + int(shapely.get_num_interior_rings(polygons).sum())
            shape = 52 + 4 * rings + 16 * int(shapely.get_num_coordinates(polygons).sum())
            table = main[0].with_suffix(".dbf")
            row = int.from_bytes(table.read_bytes()[10:12], "little")
            assert main[0].stat().st_size + shape > 3000 or table.stat().st_size + row > 3000

    @settings(max_examples=examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cuts=st.lists(st.integers(0, 30), max_size=5).map(sorted))
    def test_where_they_begin_does_not_depend_on_the_batches(
        self, layers: Layers, cuts: list[int], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
        layers.write(one / "a.shp", 30)
        layers.write(two / "a.shp", 30, cuts=tuple(cuts))
        assert layers.contents(one) == layers.contents(two)

    def test_overwriting_leaves_no_part_of_the_other_kind(self, layers: Layers, tmp_path: Path) -> None:
        layers.write(tmp_path / "a.shp", 2)
        with pytest.raises(OutputError, match="`overwrite=True`"):
            layers.write(tmp_path / "a.shp", 40)
        many = [file.name for file in layers.write(tmp_path / "a.shp", 40, overwrite=True)]
        assert sorted(layers.contents(tmp_path)) == sorted(many)
        with pytest.raises(OutputError, match=r"a_001\.shp exists"):
            layers.write(tmp_path / "a.shp", 2)
        layers.write(tmp_path / "a.shp", 2, overwrite=True)
        assert sorted(layers.contents(tmp_path)) == ["a.cpg", "a.dbf", "a.prj", "a.qml", "a.shp", "a.shx"]

    def test_one_polygon_that_no_file_can_hold(
        self, layers: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shapefile_sink, "LIMIT", 200)
        with pytest.raises(OutputError, match=r"one polygon takes .*write a \.gpkg"):
            layers.write(tmp_path / "a.shp", 3)
        assert list(tmp_path.iterdir()) == []

    def test_one_that_grows_is_not_divided(self, layers: Layers, tmp_path: Path) -> None:
        layers.write(tmp_path / "a.shp", 3)
        before = layers.contents(tmp_path)
        with pytest.raises(OutputError, match=r"would grow beyond .* GB.*\.gpkg"):
            layers.write(tmp_path / "a.shp", 30, append=True)
        assert layers.contents(tmp_path) == before
        layers.write(tmp_path / "b.shp", 30)
        with pytest.raises(OutputError, match="divided Shapefile, which cannot be appended to"):
            layers.write(tmp_path / "b.shp", 3, append=True)
