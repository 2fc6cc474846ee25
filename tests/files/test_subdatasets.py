"""What GDAL calls a raster inside a file is taken apart without looking into the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from aerial_seg.files.subdatasets import find_subdataset


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.nc", "b b.nc", "c:d.tif", "sub/e.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "file", "told", "name", "stem"),
    [
        ('NETCDF:"a.nc":red', "a.nc", 'NETCDF:"a.nc":red', "a.nc:red", "a_red"),
        ("NETCDF:a.nc:red", "a.nc", "NETCDF:a.nc:red", "a.nc:red", "a_red"),
        ("netcdf:b b.nc:red", "b b.nc", "netcdf:b b.nc:red", "b b.nc:red", "b b_red"),
        ("GPKG:sub/e.h5:table 1", "sub/e.h5", "GPKG:sub/e.h5:table 1", "e.h5:table 1", "e_table_1"),
        ('HDF5:"sub/e.h5"://g/x', "sub/e.h5", 'HDF5:"sub/e.h5"://g/x', "e.h5:g/x", "e_g_x"),
        ('HDF5:"sub/e.h5":/g/x', "sub/e.h5", 'HDF5:"sub/e.h5"://g/x', "e.h5:g/x", "e_g_x"),
        ("HDF5:sub/e.h5:/g/x", "sub/e.h5", "HDF5:sub/e.h5://g/x", "e.h5:g/x", "e_g_x"),
        ("GTIFF_DIR:2:c:d.tif", "c:d.tif", "GTIFF_DIR:2:c:d.tif", "c:d.tif:2", "c:d_2"),
        ("GTIFF_DIR:off:8:c:d.tif", "c:d.tif", "GTIFF_DIR:off:8:c:d.tif", "c:d.tif:off:8", "c:d_off_8"),
        ("GTIFF_DIR:2:gone.tif", "gone.tif", "GTIFF_DIR:2:gone.tif", "gone.tif:2", "gone_2"),
        ("NETCDF:gone.nc:red", "gone.nc", "NETCDF:gone.nc:red", "gone.nc:red", "gone_red"),
        ("RASTERLITE:a.nc,table=t", "a.nc", "RASTERLITE:a.nc,table=t", "a.nc:table=t", "a_table_t"),
        ('NETCDF:"/vsis3/b/a.nc":r', "/vsis3/b/a.nc", 'NETCDF:"/vsis3/b/a.nc":r', "a.nc:r", "a_r"),
    ],
)  # fmt: skip
def test_the_parts(text: str, file: str, told: str, name: str, stem: str) -> None:
    inner = find_subdataset(text)
    assert inner is not None
    assert (inner.file, inner.text, inner.name, inner.stem) == (file, told, name, stem)


@pytest.mark.parametrize(
    "text", ["a.nc", "https://h/a.nc", "WMS:x", "C:/a.nc", "NETCDF:", "x:y", "/vsizip/NETCDF:a.nc:b"]
)
def test_other_names_are_no_subdatasets(text: str) -> None:
    assert find_subdataset(text) is None


def test_a_file_of_that_very_name_is_that_file() -> None:
    Path("GTIFF_DIR:1:x.tif").touch()
    assert find_subdataset("GTIFF_DIR:1:x.tif") is None


def test_it_is_the_same_wherever_it_is_opened_from(folder: Path) -> None:
    inner = find_subdataset('NETCDF:"a.nc":red')
    assert inner is not None
    assert inner.absolute() == f'NETCDF:"{folder}/a.nc":red'
