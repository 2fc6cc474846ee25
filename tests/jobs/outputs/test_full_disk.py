"""A full disk is one line and no file; the umask decides who may read a result."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from outputs_of_jobs import EAGER, MODEL, TILE
from safetensors import SafetensorError

from aerial_seg.errors import OutputError
from aerial_seg.files import disk
from aerial_seg.files.disk import DiskFullError
from aerial_seg.jobs.predict import memory as budget
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.tile import dataset_writer as assembly
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.models import file as model_file
from aerial_seg.models.file import save_model
from aerial_seg.vectors.from_mask.settings import VectorizeSettings


@pytest.mark.parametrize("umask", [0o022, 0o027])
@pytest.mark.usefixtures("use")
def test_the_umask_decides_who_may_read_every_result(
    image: Path, labels: Path, mask: Path, untrained: Callable, tmp_path: Path, umask: int
) -> None:
    out = tmp_path / "results"
    out.mkdir()
    before = os.umask(umask)
    try:
        tile([str(image)], [str(labels)], out / "chips", TILE)
        settings = replace(EAGER, confidence=True, probabilities=True, stac=True)
        predict(MODEL, [str(image)], out / "map.tif", settings)
        for name in ("v.gpkg", "v.shp", "v.geojson", "v.fgb", "c.csv", "v.parquet"):
            vectorize(mask, out / name, VectorizeSettings(classes=("all",)))
        model = untrained("fcn")
        save_model(model.network.state_dict(), model.card, out / "model.safetensors")
    finally:
        os.umask(before)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 20
    odd = {
        path.name: oct(path.stat().st_mode) for path in files if path.stat().st_mode & 0o777 != 0o666 & ~umask
    }
    assert odd == {}
    folders = [path for path in out.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o777 & ~umask}


class TestFullDisk:
    def test_an_index_that_sqlite_cannot_write_is_told_as_a_full_disk(
        self, image: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError("chips.gpkg: no such table: rtree_chips_geom")

        monkeypatch.setattr(assembly, "write_geopackage", full)
        monkeypatch.setattr(disk, "takes", lambda folder, size: False)
        with pytest.raises(
            DiskFullError, match=r"chips\.gpkg could not be written \(no space left on the disk of"
        ):
            tile([str(image)], [str(labels)], tmp_path / "chips", TILE)
        assert not (tmp_path / "chips").exists()
        assert not (tmp_path / "chips.work").exists()

    def test_a_chip_that_the_disk_does_not_take_is_no_strange_raster(
        self, image: Path, labels: Path, tmp_path: Path
    ) -> None:
        """RLIMIT_FSIZE stands for the disk; what GDAL wrote half it said nothing of, and then could not read."""
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
        try:
            with pytest.raises(
                OutputError, match=r"\.tif could not be written \(File too large\); free disk space"
            ):
                tile([str(image)], [str(labels)], tmp_path / "chips", TILE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

    def test_safetensors_says_so_too(
        self, untrained: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(weights: object, path: Path, metadata: object) -> None:
            path.write_bytes(b"half")
            raise SafetensorError('Error while serializing: Io("No space left on device (os error 28)")')

        monkeypatch.setattr(model_file, "save_file", full)
        model = untrained("fcn")
        with pytest.raises(DiskFullError, match=r"best\.safetensors could not be written \(no space left"):
            save_model(model.network.state_dict(), model.card, tmp_path / "best.safetensors")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.usefixtures("use")
    def test_the_forecast_of_a_full_disk_has_digits(
        self, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(budget.shutil, "disk_usage", lambda folder: SimpleNamespace(free=4096))
        with pytest.raises(OutputError, match=r"has 4\.1 kB free, wanted up to 1 MB for map\.tif"):
            predict(MODEL, [str(image)], tmp_path / "map.tif", EAGER)
