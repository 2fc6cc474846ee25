"""Layers reread as they were handed over, in every format, and equal work gives equal bytes."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
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
from pyproj import CRS

from aerial_seg.legend import Legend
from aerial_seg.outputs.geopackage import stored_style
from aerial_seg.outputs.qgis_style import read_classes, read_style
from aerial_seg.vectors import geoparquet, ogr_sink
from aerial_seg.vectors.formats import vector_format
from aerial_seg.vectors.schema import Column, FeatureSchema, Kind
from aerial_seg.vectors.writer import layer_writer

if TYPE_CHECKING:
    from tests.vectors.conftest import Layers

NAMES = ("a.gpkg", "a.shp", "a.geojson", "a.geojsonl", "a.geojsons", "a.fgb", "a.csv", "a.parquet")
GDAL_NAMES = NAMES[:-1]


class TestRereading:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_format_gives_back_what_it_got(self, layers: Layers, name: str, tmp_path: Path) -> None:
        layers.needs(name)
        path = tmp_path / name
        layers.write(path, 7, cuts=(2, 3))
        batch, table = layers.batch_for(path, 7), layers.read(path)
        assert len(table) == 7
        assert [column for column in table.columns if column not in ("WKT", "geometry")] == layers.columns
        if not path.suffix.startswith(".geojson"):  # whose numbers have no types
            dtypes = table.dtypes.astype(str)
            assert dtypes[["class_id", "area_m2", "n_px"]].tolist() == ["int32", "float64", "int64"]
        assert table["class_id"].tolist() == batch.values.tolist()
        assert table["class_name"].tolist() == [
            layers.legend.by_value()[value].name for value in batch.values
        ]
        assert table["n_px"].tolist() == batch.n_px.tolist()
        assert set(table["source"]) == {"Luftbild ü.tif"}
        assert set(table["model_id"]) == {"5f" * 32}
        for column, values in layers.measured(batch).items():
            assert np.allclose(table[column].astype(float), values, rtol=1e-14, atol=0, equal_nan=True), (
                column
            )
        # GeoJSON has 9 decimals of a degree, CSV 15 digits.
        slack = {".geojson": 1e-9, ".geojsonl": 1e-9, ".geojsons": 1e-9, ".csv": 1e-8}.get(path.suffix, 0)
        expected = layers.geometries(batch)
        if slack:
            assert (shapely.hausdorff_distance(table.geometry.array, expected) <= slack).all()
        else:
            # Readers of Shapefiles make a Polygon of one part, and turn no rings.
            found = [
                g if g.geom_type == "MultiPolygon" else shapely.MultiPolygon([g]) for g in table.geometry
            ]
            assert shapely.equals_exact(shapely.normalize(found), shapely.normalize(expected)).all()
        assert table.is_valid.all()

    @pytest.mark.parametrize("name", NAMES)
    def test_the_crs_is_known(self, layers: Layers, name: str, tmp_path: Path) -> None:
        layers.needs(name)
        path = tmp_path / name
        layers.write(path)
        assert layers.read(path).crs.to_epsg() == (4326 if vector_format(path).lonlat else 32645)

    @pytest.mark.parametrize("name", ["a.gpkg", "a.fgb"])
    def test_a_crs_without_a_number(self, layers: Layers, name: str, tmp_path: Path) -> None:
        local = CRS("+proj=laea +lat_0=27.6 +lon_0=85.5 +ellps=GRS80 +units=m")
        with layer_writer(tmp_path / name, layers.spec(tmp_path / name, crs=local)):
            pass
        found = gpd.read_file(tmp_path / name, layer="a").crs
        assert found.to_epsg() is None
        assert found.equals(local, ignore_axis_order=True)

    @pytest.mark.parametrize("name", GDAL_NAMES)
    def test_rings_turn_as_the_format_says(self, layers: Layers, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        layers.write(path)
        _, _, wkb, _ = pyogrio.raw.read(path, layer=path.stem)
        polygons = shapely.get_parts(shapely.from_wkb(wkb))
        shells = shapely.get_exterior_ring(polygons)
        holes = [hole for polygon in polygons for hole in polygon.interiors]
        assert len(holes) == 3
        # ESRI's Shapefile description wants exteriors clockwise.
        assert (shapely.is_ccw(shells) == (name != "a.shp")).all()
        assert (shapely.is_ccw(holes) == (name == "a.shp")).all()

    @pytest.mark.parametrize("name", ["a.gpkg", "a.fgb", "a.parquet"])
    def test_all_features_are_multipolygons(self, layers: Layers, name: str, tmp_path: Path) -> None:
        layers.needs(name)
        layers.write(tmp_path / name)
        assert set(layers.read(tmp_path / name).geom_type) == {"MultiPolygon"}
        if name != "a.parquet":
            info = pyogrio.read_info(tmp_path / name, layer="a")
            assert info["geometry_type"] == "MultiPolygon"

    def test_a_geopackage_is_a_sound_database(self, layers: Layers, tmp_path: Path) -> None:
        """Two SQLites wrote it: GDAL's the features, Python's the style."""
        layers.write(tmp_path / "a.gpkg", 50)
        with closing(sqlite3.connect(tmp_path / "a.gpkg")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
            assert database.execute("PRAGMA application_id").fetchone() == (int.from_bytes(b"GPKG", "big"),)

    def test_there_is_a_spatial_index(self, layers: Layers, tmp_path: Path) -> None:
        layers.write(tmp_path / "a.gpkg", 50)
        info = pyogrio.read_info(tmp_path / "a.gpkg", layer="a")
        assert info["capabilities"]["fast_spatial_filter"]
        found = pyogrio.read_dataframe(
            tmp_path / "a.gpkg", layer="a", bbox=(300_100, 3_060_000, 300_104, 3_060_009)
        )
        assert (found["n_px"] - 2**33).tolist() == [10]

    @pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.geojson", "a.geojsonl", "a.fgb"])
    def test_fiona_reads_the_same(self, layers: Layers, name: str, tmp_path: Path) -> None:
        fiona = pytest.importorskip("fiona")
        path = tmp_path / name
        layers.write(path)
        with fiona.open(path, layer=path.stem) as source:
            assert len(source) == 7
            assert CRS(source.crs.to_wkt()).to_epsg() == (4326 if vector_format(path).lonlat else 32645)
            kinds = {key: kind.split(":")[0] for key, kind in source.schema["properties"].items()}
            assert list(kinds) == layers.columns
            assert {kinds[key] for key in ("class_name", "source", "model_id")} == {"str"}
            assert {kinds[key] for key in ("area_m2", "perim_m", "conf_mean", "conf_min")} == {"float"}
            assert kinds["n_px"] in ("int", "int64")
            rows = sorted(source, key=lambda row: row["properties"]["n_px"])
        batch = layers.batch_for(path, 7)
        assert [row["properties"]["class_id"] for row in rows] == batch.values.tolist()
        names = [layers.legend.by_value()[value].name for value in batch.values]
        assert [row["properties"]["class_name"] for row in rows] == names
        found = np.array([shapely.geometry.shape(row["geometry"]) for row in rows], object)
        assert (shapely.hausdorff_distance(found, layers.geometries(batch)) <= 1e-9).all()

    @pytest.mark.skipif(shutil.which("ogrinfo") is None, reason="gdal-bin is not installed")
    @pytest.mark.parametrize("name", GDAL_NAMES)
    def test_ogrinfo_reads_the_same(self, layers: Layers, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        layers.write(path)
        done = subprocess.run(
            ["ogrinfo", "-ro", "-so", str(path), path.stem], capture_output=True, text=True, check=True
        )
        assert "Feature Count: 7" in done.stdout
        assert "ERROR" not in done.stderr + done.stdout
        for column in layers.columns:
            assert f"{column}: " in done.stdout
        assert ("WGS 84 / UTM zone 45N" in done.stdout) == (not vector_format(path).lonlat)

    def test_geojson_is_rfc_7946(self, layers: Layers, tmp_path: Path) -> None:
        layers.write(tmp_path / "a.geojson")
        document = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
        assert "crs" not in document
        assert [feature["properties"]["n_px"] - 2**33 for feature in document["features"]] == list(range(7))
        assert {feature["geometry"]["type"] for feature in document["features"]} == {"MultiPolygon"}

    @pytest.mark.parametrize("name", ["a.geojsonl", "a.geojsons"])
    def test_newline_geojson_is_one_feature_a_line(self, layers: Layers, name: str, tmp_path: Path) -> None:
        layers.write(tmp_path / name)
        lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["properties"]["n_px"] - 2**33 for line in lines] == list(range(7))

    @pytest.mark.parametrize("name", ["a.geojson", "a.geojsonl"])
    def test_geojson_is_cut_at_the_antimeridian(self, layers: Layers, name: str, tmp_path: Path) -> None:
        """RFC 7946, 3.1.9. Longitudes that run on past 180° come from Placement."""
        batch = layers.batch(1, lonlat=True)
        batch.coords[:, 0] += 180 - batch.coords[:, 0].mean()
        with layer_writer(tmp_path / name, layers.spec(tmp_path / name)) as layer:
            layer.write(batch, layers.measured(batch))
        document = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        (feature,) = document.get("features", [document])
        found = shapely.geometry.shape(feature["geometry"])
        assert len(found.geoms) == 3
        assert all(part[0] for part in feature["geometry"]["coordinates"])
        assert (found.bounds[0], found.bounds[2]) == (-180, 180)
        assert found.area == pytest.approx(layers.geometries(batch)[0].area, rel=1e-3)

    def test_geoparquet_states_its_geometry(self, layers: Layers, tmp_path: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        layers.write(tmp_path / "a.parquet", 9, cuts=(4,))
        geo = json.loads(parquet.read_metadata(tmp_path / "a.parquet").metadata[b"geo"])
        column = geo["columns"][geo["primary_column"]]
        assert geo["version"] == "1.1.0"
        assert column["encoding"] == "WKB"
        assert column["geometry_types"] == ["MultiPolygon"]
        assert column["orientation"] == "counterclockwise"
        assert CRS.from_json_dict(column["crs"]) == layers.utm
        assert column["bbox"] == pytest.approx(
            shapely.total_bounds(layers.geometries(layers.batch(9))), abs=0
        )

    def test_a_csv_says_its_types_and_its_crs(self, layers: Layers, tmp_path: Path) -> None:
        files = layers.write(tmp_path / "a.csv")
        assert [file.name for file in files] == ["a.csv", "a.csvt", "a.prj", "a.qml"]
        assert (tmp_path / "a.csvt").read_text().split(",")[1:4] == ["Integer", "String", "Real"]


class TestSchema:
    def test_without_confidence_the_columns_are_left_out(self, layers: Layers, tmp_path: Path) -> None:
        schema, batch = FeatureSchema(layers.legend), layers.batch(3)
        with layer_writer(tmp_path / "a.gpkg", layers.spec(tmp_path / "a.gpkg", schema=schema)) as layer:
            layer.write(batch, {name: layers.measured(batch)[name] for name in ("area_m2", "perim_m")})
        table = layers.read(tmp_path / "a.gpkg")
        assert list(table.columns[:-1]) == [name for name in layers.columns if "conf" not in name]
        assert table["source"].isna().all()
        assert table["model_id"].isna().all()

    @pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.fgb", "a.parquet"])
    def test_extra_columns_come_last(self, layers: Layers, name: str, tmp_path: Path) -> None:
        layers.needs(name)
        schema = FeatureSchema(
            layers.legend, extra=(Column("reg_status", Kind.TEXT), Column("parts", Kind.INT64))
        )
        words = np.array(
            ["regular", None, "größer als jede Spalte, die man vorher kannte " * 2, "", "regular"], object
        )
        with layer_writer(tmp_path / name, layers.spec(tmp_path / name, schema=schema)) as layer:
            for start, stop in ((0, 2), (2, 5)):
                batch = layers.batch(stop - start, first=start)
                extra = {"reg_status": words[start:stop], "parts": np.diff(batch.features)}
                values = {key: layers.measured(batch)[key] for key in ("area_m2", "perim_m")}
                layer.write(batch, values | extra)
        table = layers.read(tmp_path / name)
        assert list(table.columns[-3:]) == ["reg_status", "parts", "geometry"]
        assert table["parts"].tolist() == np.diff(layers.batch(5).features).tolist()
        assert table["reg_status"].fillna("").tolist() == [
            (word or "").rstrip() if name == "a.shp" else word or "" for word in words
        ]

    def test_a_wrong_set_of_columns_is_our_bug(self, layers: Layers, tmp_path: Path) -> None:
        batch = layers.batch(2)
        values = layers.measured(batch)
        del values["perim_m"]
        with (
            pytest.raises(KeyError),
            layer_writer(tmp_path / "a.gpkg", layers.spec(tmp_path / "a.gpkg")) as layer,
        ):
            layer.write(batch, values)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("has_crs", [True, False])
    def test_empty_results_are_layers(self, layers: Layers, name: str, has_crs: bool, tmp_path: Path) -> None:
        layers.needs(name)
        path = tmp_path / name
        if vector_format(path).lonlat and not has_crs:
            return
        with layer_writer(path, layers.spec(path, crs=layers.utm if has_crs else None)) as layer:
            layer.write(layers.batch_for(path, 0), layers.measured(layers.batch_for(path, 0)))
        assert layer.count == 0
        if vector_format(path).lonlat:
            assert path.suffix != ".geojson" or json.loads(path.read_text())["features"] == []
            assert path.suffix == ".geojson" or path.read_bytes() == b""
            return
        table = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path, layer="a")
        assert len(table) == 0
        assert [column for column in table.columns if column not in ("WKT", "geometry")] == layers.columns
        assert table.dtypes.astype(str)[["class_id", "area_m2", "n_px"]].tolist() == [
            "int32",
            "float64",
            "int64",
        ]
        assert table.crs == (layers.utm if has_crs else None)

    @pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.fgb", "a.csv", "a.parquet"])
    def test_no_crs_is_allowed(
        self, layers: Layers, name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        layers.needs(name)
        batch = layers.batch(3)
        with layer_writer(tmp_path / name, layers.spec(tmp_path / name, crs=None)) as layer:
            layer.write(batch, layers.measured(batch) | {"area_m2": np.full(3, np.nan)})
        assert not [warning for warning in recwarn if "crs" in str(warning.message)]
        table = layers.read(tmp_path / name)
        assert table.crs is None
        assert table["area_m2"].isna().all()
        assert not (tmp_path / "a.prj").exists()


class TestEqualWork:
    @pytest.mark.parametrize("name", NAMES)
    def test_equal_work_gives_equal_bytes(self, layers: Layers, name: str, tmp_path: Path) -> None:
        layers.needs(name)
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            layers.write(tmp_path / folder / name, 30)
            time.sleep(0.01)  # GeoPackage times have milliseconds
        assert layers.contents(tmp_path / "one") == layers.contents(tmp_path / "two")

    @pytest.mark.parametrize("name", NAMES)
    @settings(max_examples=examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cuts=st.lists(st.integers(0, 23), max_size=6).map(sorted))
    def test_the_cut_into_batches_leaves_no_trace(
        self,
        layers: Layers,
        name: str,
        cuts: list[int],
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        layers.needs(name)
        monkeypatch.setattr(ogr_sink, "_CHUNK", 5)
        monkeypatch.setattr(geoparquet, "_GROUP", 7)
        folder = tmp_path_factory.mktemp("cut")
        for side, places in (("whole", ()), ("cut", tuple(cuts))):
            (folder / side).mkdir()
            layers.write(folder / side / name, 23, cuts=places)
        assert layers.contents(folder / "whole") == layers.contents(folder / "cut")

    def test_a_dbf_carries_no_date_of_today(self, layers: Layers, tmp_path: Path) -> None:
        layers.write(tmp_path / "a.shp")
        assert tuple((tmp_path / "a.dbf").read_bytes()[1:4]) == (95, 7, 26)
        layers.write(tmp_path / "a.shp", append=True)
        assert tuple((tmp_path / "a.dbf").read_bytes()[1:4]) == (95, 7, 26)


class TestStyles:
    def test_a_geopackage_draws_its_classes(self, layers: Layers, tmp_path: Path) -> None:
        with layer_writer(tmp_path / "a.gpkg", layers.spec(tmp_path / "a.gpkg", layer="Dächer")) as layer:
            batch = layers.batch(3)
            layer.write(batch, layers.measured(batch))
        classes = read_classes(read_style(stored_style(tmp_path / "a.gpkg", "Dächer") or ""))
        assert [(entry.value, entry.name, entry.colour) for entry in classes] == [
            (entry.value, entry.name, entry.colour) for entry in layers.legend.entries
        ]

    def test_a_shapefile_has_it_beside(self, layers: Layers, tmp_path: Path) -> None:
        layers.write(tmp_path / "a.shp")
        style = (tmp_path / "a.qml").read_text(encoding="utf-8")
        assert [entry.value for entry in read_classes(read_style(style))] == [0, 1, 7]

    def test_a_style_of_somebody_else_stays(self, layers: Layers, tmp_path: Path) -> None:
        style = tmp_path / "a.qml"
        style.write_text("<qgis><pipe><rasterrenderer/></pipe></qgis>")
        files = layers.write(tmp_path / "a.shp")
        layers.write(tmp_path / "a.shp", overwrite=True)
        layers.write(tmp_path / "a.shp", append=True)
        assert "rasterrenderer" in style.read_text()
        assert style not in files

    @pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.fgb", "a.parquet"])
    def test_classes_with_codes_carry_them_and_null_without(
        self, layers: Layers, name: str, tmp_path: Path
    ) -> None:
        layers.needs(name)
        first, *others = layers.legend.entries
        coded = Legend(
            entries=(first, *(entry.model_copy(update={"code": 65_000 + entry.value}) for entry in others))
        )
        schema, batch = FeatureSchema(coded), layers.batch_for(tmp_path / name, 7)
        with layer_writer(tmp_path / name, layers.spec(tmp_path / name, schema=schema)) as layer:
            layer.write(batch, {key: layers.measured(batch)[key] for key in ("area_m2", "perim_m")})
        table = layers.read(tmp_path / name)
        assert list(table.columns[:3]) == ["class_id", "class_name", "code"]
        want = [65_000 + value if value != first.value else None for value in table["class_id"]]
        assert [None if np.isnan(code) else int(code) for code in table["code"].astype(float)] == want
        assert None in want
