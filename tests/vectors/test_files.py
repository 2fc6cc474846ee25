"""Files are replaced when asked and never lost; what another program has open is left alone."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import pyogrio
import pyogrio.raw
import pytest

from aerial_seg.errors import OutputError, SettingsError
from aerial_seg.vectors.writer import check_layer, layer_writer

if TYPE_CHECKING:
    from tests.vectors.conftest import Layers

NAMES = ("a.gpkg", "a.shp", "a.geojson", "a.geojsonl", "a.geojsons", "a.fgb", "a.csv", "a.parquet")
GDAL_NAMES = NAMES[:-1]


class TestPlaces:
    @pytest.mark.parametrize("name", NAMES)
    def test_existing_files_are_replaced_only_when_asked(
        self, layers: Layers, name: str, tmp_path: Path
    ) -> None:
        layers.needs(name)
        path = tmp_path / name
        files = layers.write(path)
        before = layers.contents(tmp_path)
        assert sorted(before) == sorted(file.name for file in files)
        assert files[0] == path
        with pytest.raises(OutputError, match="`overwrite=True`"):
            layers.write(path, 2)
        assert layers.contents(tmp_path) == before
        layers.write(path, 2, overwrite=True)
        assert len(layers.read(path)) == 2
        assert sorted(layers.contents(tmp_path)) == sorted(before)

    def test_a_lone_sidecar_is_somebodys_file(self, layers: Layers, tmp_path: Path) -> None:
        (tmp_path / "a.dbf").write_bytes(b"mine")
        with pytest.raises(OutputError, match=r"a\.dbf exists"):
            layers.write(tmp_path / "a.shp")
        assert layers.contents(tmp_path) == {"a.dbf": b"mine"}

    def test_nothing_of_the_old_shapefile_stays(self, layers: Layers, tmp_path: Path) -> None:
        path = tmp_path / "a.shp"
        layers.write(path)
        for index in (".qix", ".sbn", ".sbx"):
            path.with_suffix(index).write_bytes(b"index of the old one")
        with layer_writer(path, layers.spec(path, crs=None), overwrite=True) as layer:
            layer.write(layers.batch(1), layers.measured(layers.batch(1)))
        assert sorted(layers.contents(tmp_path)) == ["a.cpg", "a.dbf", "a.qml", "a.shp", "a.shx"]
        assert (tmp_path / "a.cpg").read_text() == "UTF-8"

    def test_the_shp_comes_last(
        self, layers: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layers.write(tmp_path / "a.shp")
        order: list[str] = []
        old, real = (tmp_path / "a.shp").read_bytes(), Path.replace

        def watch(self: Path, target: Path) -> Path:
            assert (tmp_path / "a.shp").read_bytes() == old
            if target.parent == tmp_path:
                order.append(target.suffix)
            return real(self, target)

        monkeypatch.setattr(Path, "replace", watch)
        layers.write(tmp_path / "a.shp", overwrite=True)
        assert order[-1] == ".shp"
        assert set(order) == {".shp", ".shx", ".dbf", ".prj", ".cpg", ".qml"}

    @pytest.mark.parametrize(("name", "other"), [("a.csv", "a.shp"), ("a.shp", "a.csv")])
    def test_one_prj_cannot_serve_two(self, layers: Layers, name: str, other: str, tmp_path: Path) -> None:
        layers.write(tmp_path / other)
        before = layers.contents(tmp_path)
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=r"a\.prj"):
                layers.write(tmp_path / name, overwrite=overwrite)
        assert layers.contents(tmp_path) == before

    def test_a_name_in_capitals_is_kept(self, layers: Layers, tmp_path: Path) -> None:
        layers.write(tmp_path / "A.b.SHP")
        assert (tmp_path / "A.b.SHP").exists()
        assert len(gpd.read_file(tmp_path / "A.b.SHP")) == 7

    def test_no_folder(self, layers: Layers, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="create it"):
            layers.write(tmp_path / "gone" / "a.gpkg")

    def test_a_folder_of_that_name(self, layers: Layers, tmp_path: Path) -> None:
        (tmp_path / "a.gpkg").mkdir()
        with pytest.raises(OutputError, match="is a folder"):
            layers.write(tmp_path / "a.gpkg", overwrite=True)

    @pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.geojson"])
    def test_a_folder_that_cannot_be_written_to(self, layers: Layers, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o555)
            user = os.geteuid()
            try:
                if user == 0:
                    os.seteuid(65534)  # root may write anywhere
                with pytest.raises(OutputError, match=r"not writable|Permission denied.*permissions"):
                    layers.write(Path(folder) / name)
            finally:
                os.seteuid(user)
            assert list(Path(folder).iterdir()) == []

    def test_layer_names(self, layers: Layers, tmp_path: Path) -> None:
        layers.write(tmp_path / "b.gpkg")
        with layer_writer(tmp_path / "a.gpkg", layers.spec(tmp_path / "a.gpkg", layer='the "best" layer')):
            pass
        assert pyogrio.list_layers(tmp_path / "a.gpkg")[0][0] == 'the "best" layer'
        for name, layer in (
            ("c.gpkg", "gpkg_contents"),
            ("c.gpkg", "layer_styles"),
            ("c.gpkg", " "),
            ("c.shp", "b"),
        ):
            with pytest.raises(SettingsError, match="`layer`"):
                check_layer(tmp_path / name, layers.spec(tmp_path / name, layer=layer))

    def test_overwriting_deletes_no_other_layers(self, layers: Layers, tmp_path: Path) -> None:
        path = tmp_path / "a.gpkg"
        layers.write(path)
        with layer_writer(path, layers.spec(path, layer="b"), append=True):
            pass
        before = layers.contents(tmp_path)
        with pytest.raises(OutputError, match=r"other layers \(b\).*`append=True`"):
            layers.write(path, overwrite=True)
        assert layers.contents(tmp_path) == before

    def test_what_is_no_geopackage_can_be_replaced(self, layers: Layers, tmp_path: Path) -> None:
        (tmp_path / "a.gpkg").write_bytes(b"no database at all, but long enough to be looked into" * 9)
        layers.write(tmp_path / "a.gpkg", overwrite=True)
        assert len(layers.read(tmp_path / "a.gpkg")) == 7


class TestLocks:
    def refuse(self, layers: Layers, path: Path) -> None:
        before, start = path.read_bytes(), time.perf_counter()
        for how in ({"overwrite": True}, {"append": True}):
            with pytest.raises(OutputError, match=r"close it there.*or use another name"):
                layers.write(path, **how)
        assert time.perf_counter() - start < 28  # GDAL would have waited for 15 s each time
        assert path.read_bytes() == before

    @pytest.mark.parametrize("mode", ["EXCLUSIVE", "IMMEDIATE"])
    def test_a_geopackage_in_a_transaction(self, layers: Layers, mode: str, tmp_path: Path) -> None:
        path = tmp_path / "a.gpkg"
        layers.write(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute(f"BEGIN {mode}")
            self.refuse(layers, path)
        layers.write(path, overwrite=True)

    def test_a_geopackage_that_is_open_as_qgis_opens_it(self, layers: Layers, tmp_path: Path) -> None:
        path = tmp_path / "a.gpkg"
        layers.write(path)
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA journal_mode = WAL")
            other.execute("SELECT count(*) FROM a").fetchone()
            self.refuse(layers, path)
            other.execute("PRAGMA journal_mode = DELETE")
        layers.write(path, overwrite=True)

    def test_one_that_is_opened_during_the_work(self, layers: Layers, tmp_path: Path) -> None:
        path = tmp_path / "a.gpkg"
        layers.write(path)
        with closing(sqlite3.connect(path)) as other:

            def work() -> None:
                with layer_writer(path, layers.spec(path), overwrite=True) as layer:
                    layer.write(layers.batch(1), layers.measured(layers.batch(1)))
                    other.execute("PRAGMA journal_mode = WAL")
                    other.execute("SELECT count(*) FROM a").fetchone()

            with pytest.raises(OutputError, match="close it there"):
                work()
            other.execute("PRAGMA journal_mode = DELETE")
        assert len(layers.read(path)) == 7

    def test_what_a_crash_left_is_no_lock(self, layers: Layers, tmp_path: Path) -> None:
        path = tmp_path / "a.gpkg"
        layers.write(path)
        crash = f"""
import os, sqlite3
database = sqlite3.connect({str(path)!r})
database.execute("PRAGMA journal_mode = WAL")
database.execute("DELETE FROM layer_styles")
database.commit()
os._exit(0)
"""
        subprocess.run([sys.executable, "-P", "-c", crash], check=True)
        assert (tmp_path / "a.gpkg-wal").exists()
        layers.write(path, 2, overwrite=True)
        assert sorted(layers.contents(tmp_path)) == ["a.gpkg"]
        assert len(layers.read(path)) == 2
