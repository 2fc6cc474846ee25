"""A raster is opened alike whatever else lies in its folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from rasterio.env import get_gdal_config

from aerial_seg.geo.raster import opening
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.raster_info import RasterInfo

if TYPE_CHECKING:
    from tests.conftest import RasterFile

IMAGE = np.arange(3 * 40 * 60, dtype=np.uint16).reshape(3, 40, 60)


def with_sidecars(raster_file: RasterFile, folder: Path) -> Path:
    """A raster whose mask, facts, overviews and place lie in files beside it."""
    path = raster_file("a.tif", IMAGE)
    with rasterio.Env(TIFF_USE_OVR="YES", GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(path, "r+") as file:
        file.build_overviews([2])
        file.write_mask(IMAGE[0] % 7 > 0)
    path.with_name("a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="2"><Description>red</Description></PAMRasterBand></PAMDataset>',
        encoding="utf-8",
    )
    assert {file.name for file in folder.iterdir()} == {"a.tif", "a.tif.msk", "a.tif.ovr", "a.tif.aux.xml"}
    return path


def facts(path: Path) -> tuple[RasterInfo, Any, Any]:
    with Raster(path) as raster:
        image, valid = raster.read(top=0, left=0, height=40, width=60)
        names = tuple(sorted(Path(file).name for file in raster.info.files))
        return replace(raster.info, path=path.name, files=names), image.tobytes(), valid.tobytes()


def test_a_folder_of_thousands_hides_no_sidecar_and_is_not_listed_in_vain(
    raster_file: RasterFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = with_sidecars(raster_file, tmp_path)
    crowd = tmp_path / "crowd"
    crowd.mkdir()
    for file in [file for file in tmp_path.iterdir() if file.is_file()]:
        shutil.copy2(file, crowd)
    for number in range(1000):
        (crowd / f"{number}.txt").touch()
    asked: list[str | None] = []
    opened = rasterio.open

    def open_and_tell(*names: str) -> Any:
        asked.append(get_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN", normalize=False))
        return opened(*names)

    monkeypatch.setattr(opening.rasterio, "open", open_and_tell)
    wanted = facts(alone)
    assert wanted[0].names[1] == "red"
    assert wanted[0].files == ("a.tif", "a.tif.aux.xml", "a.tif.msk", "a.tif.ovr")
    assert facts(crowd / "a.tif") == wanted
    assert asked == [None, "TRUE"]
    # Once so many are gone, GDAL lists the folder again; what was asked for by the user is left alone.
    for number in range(100):
        (crowd / f"{number}.txt").unlink()
    assert facts(crowd / "a.tif") == wanted
    for number in range(100):
        (crowd / f"{number}.txt").touch()
    with rasterio.Env(GDAL_READDIR_LIMIT_ON_OPEN="5000"):
        assert facts(crowd / "a.tif") == wanted
    assert asked[2:] == [None, None]
