"""Rasters on a web server that answers ranges, and drops, delays, refuses and truncates as servers do."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import rasterio
from web_server import WebServer

from aerial_seg.errors import InputError
from aerial_seg.geo.raster import remote
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.geo.raster.inputs import expand_rasters
from aerial_seg.geo.raster.raster import Raster, raster_info
from aerial_seg.geo.raster.remote import gdal_name, is_remote, remote_version, without_signature
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.geo.raster.vrt_members import require_members
from aerial_seg.inference.match_bands import nodata_notes


def noise(height: int = 300, width: int = 400) -> np.ndarray:
    return np.random.default_rng(4).integers(1, 255, (3, height, width), dtype=np.uint8)


@pytest.fixture
def served(server: WebServer, raster_file: Callable[..., Path]) -> str:
    path = raster_file("scene.tif", noise())
    (server.folder / "scene.tif").write_bytes(path.read_bytes())
    return server.url("scene.tif")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("https://host/a/b.tif?x=1", "/vsicurl/https://host/a/b.tif?x=1"),
        (Path("http://host/b.tif"), "/vsicurl/http://host/b.tif"),
        ("/vsicurl/https://host/b.tif", "/vsicurl/https://host/b.tif"),
        (Path("/vsicurl/https://host/b.tif"), "/vsicurl/https://host/b.tif"),
        ("s3://bucket/key/b.tif", "/vsis3/bucket/key/b.tif"),
        ("gs://bucket/b.tif", "/vsigs/bucket/b.tif"),
        ("/data/https/b.tif", "/data/https/b.tif"),
        ("/vsizip/a.zip/b.tif", "/vsizip/a.zip/b.tif"),
    ],
)
def test_addresses_go_through_gdals_file_systems(typed: str | Path, name: str) -> None:
    assert gdal_name(typed) == name
    assert is_remote(typed) == name.startswith(("/vsicurl", "/vsis3", "/vsigs"))


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://host/a b/é.tif", "https://host/a%20b/%C3%A9.tif"),
        ("https://host/a%20b.tif?sig=x%2Fy&se=1:2", "https://host/a%20b.tif?sig=x%2Fy&se=1:2"),
        ("https://host/t?u=https://x//y&sig=a//b", "https://host/t?u=https:/%2Fx/%2Fy&sig=a/%2Fb"),
        ("/vsicurl/http://host/a//b.tif", "http://host/a/%2Fb.tif"),
    ],
)
def test_addresses_reach_the_server_as_they_were_typed(url: str, asked: str) -> None:
    (path,) = expand_rasters([url])
    assert gdal_name(path) == f"/vsicurl/{asked}"
    assert unquote(gdal_name(path)) == unquote(f"/vsicurl/{url.removeprefix('/vsicurl/')}")


def test_signatures_stay_out_of_results() -> None:
    assert without_signature("https://host/a.tif?sig=secret") == "https://host/a.tif"
    assert without_signature("/data/what?.tif") == "/data/what?.tif"
    stacked = BandChoice((1, 2), stack=("https://host/dsm.tif?sig=secret", "/data/h.tif"))
    assert stacked.identity["stack"] == ["dsm.tif", "h.tif"]


@pytest.mark.parametrize("position", range(6))
def test_chosen_bands_on_a_server_are_asked_for_again_too(
    served: str, server: WebServer, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    """Wherever the answer is cut: GDAL gives zeros for a source that it could not open once."""
    monkeypatch.setattr(remote, "WAITS", (0.05,) * 4)
    server.faults = [""] * position + ["truncate"]
    with Raster(Path(served), choice=BandChoice((3, 1))) as raster:
        image, _ = raster.read(top=0, left=0, height=300, width=400)
    np.testing.assert_array_equal(image, noise()[[2, 0]])


@pytest.mark.parametrize("relative", [False, True])
def test_a_raster_in_an_archive_is_found(
    raster_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    path = raster_file("scene.tif", noise())
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(path, "in/scene.tif")
    path.unlink()
    monkeypatch.chdir(tmp_path)
    folder = "" if relative else f"{tmp_path}/"
    (found,) = expand_rasters([f"/vsizip/{folder}all.zip/in/scene.tif"])
    with Raster(found) as raster:
        image, _ = raster.read(top=0, left=0, height=300, width=400)
    np.testing.assert_array_equal(image, noise())


def test_a_raster_on_a_server_reads_as_the_file(served: str) -> None:
    (path,) = expand_rasters([served])
    info = raster_info(path)
    assert (info.grid.height, info.grid.width, info.dtype) == (300, 400, "uint8")
    with Raster(path) as raster:
        image, valid = raster.read(top=0, left=0, height=300, width=400)
    np.testing.assert_array_equal(image, noise())
    assert valid.all()


@pytest.mark.parametrize("faults", [[], ["drop", "refuse"]])
def test_a_raster_in_a_bucket_reads_as_the_file(
    served: str, server: WebServer, monkeypatch: pytest.MonkeyPatch, faults: list[str]
) -> None:
    """A store of one's own, as the credentials of every S3 client name it."""
    bucket = server.folder / "bucket"
    bucket.mkdir()
    (server.folder / "scene.tif").rename(bucket / "scene.tif")
    for name, value in {
        "AWS_S3_ENDPOINT": served.removeprefix("http://").partition("/")[0],
        "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_NO_SIGN_REQUEST": "YES",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (path,) = expand_rasters(["s3://bucket/scene.tif"])
    with Raster(path) as raster:
        server.faults = list(faults)
        image, valid = raster.read(top=0, left=0, height=300, width=400)
    np.testing.assert_array_equal(image, noise())
    assert valid.all()
    assert not server.faults, "every fault was met"
    assert any("/bucket/scene.tif" in asked for asked in server.asked)
    monkeypatch.setattr(remote, "WAITS", (3600,))  # asking for credentials again would not make them
    monkeypatch.delenv("AWS_NO_SIGN_REQUEST")
    for name, value in {"AWS_CONFIG_FILE": "none", "AWS_SHARED_CREDENTIALS_FILE": "none"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(
        InputError, match=r"b.tif is not a raster that GDAL can read \(.*AWS_SECRET_ACCESS_KEY"
    ):
        raster_info(Path("s3://bucket/b.tif"))


def test_what_no_server_tells_is_told_as_such(served: str) -> None:
    assert Unchanged([served, "/data/scene.tif"]).notes == ()
    (note,) = Unchanged([served, "s3://bucket/scene.tif", "gs://bucket/b.tif"]).notes
    assert "cannot be told whether /vsis3/bucket/scene.tif (and 1 more) changed" in note


def test_sidecars_are_not_asked_for_one_by_one(served: str, server: WebServer) -> None:
    raster_info(Path(served))
    assert not [asked for asked in server.asked if asked.endswith((".msk", ".ovr", ".aux", "/"))]


@pytest.mark.parametrize("faults", [["drop"], ["refuse", "refuse"], ["delay"], ["drop", "refuse", "drop"]])
def test_what_passes_is_asked_again(served: str, server: WebServer, faults: list[str]) -> None:
    with Raster(Path(served)) as raster:
        server.faults = list(faults)
        image, _ = raster.read(top=0, left=0, height=300, width=400)
    assert not server.faults, "every fault was met"
    np.testing.assert_array_equal(image, noise())


@pytest.mark.parametrize("all_cores", [False, True])
def test_what_does_not_pass_is_an_error_never_zeros(
    served: str, server: WebServer, monkeypatch: pytest.MonkeyPatch, all_cores: bool
) -> None:
    with Raster(Path(served), all_cores=all_cores) as raster:
        server.faults = ["truncate"] * 50
        monkeypatch.setattr("aerial_seg.geo.raster.remote.WAITS", (0.01, 0.02))
        with pytest.raises(
            InputError, match=r"scene\.tif could not be read at row 0, column 0.*the server failed"
        ):
            raster.read(top=0, left=0, height=300, width=400)


def test_what_is_not_there_is_told(server: WebServer) -> None:
    with pytest.raises(InputError, match="check the address, and that the server is up"):
        raster_info(Path(server.url("none.tif")))


def test_another_version_is_another_input(served: str, server: WebServer) -> None:
    before = remote_version(served)
    assert before[0] == str((server.folder / "scene.tif").stat().st_size)
    assert remote_version(served) == before
    (server.folder / "scene.tif").write_bytes(b"x" * 10)
    assert remote_version(served) != before
    assert remote_version("/data/scene.tif") == remote_version("s3://bucket/scene.tif") == ()


def vrt_of(path: Path, *names: str, relative: str = "1") -> Path:
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>'
        '<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="400" ySize="300"/>'
        '<DstRect xOff="0" yOff="0" xSize="400" ySize="300"/></SimpleSource>'
        for name in names
    )
    path.write_text(
        '<VRTDataset rasterXSize="400" rasterYSize="300">'
        f'<VRTRasterBand dataType="Byte" band="1">{sources}</VRTRasterBand></VRTDataset>'
    )
    return path


def test_missing_members_of_a_vrt_are_told_before_anything_is_read(
    raster_file: Callable[..., Path], tmp_path: Path
) -> None:
    raster_file("there.tif", noise()[:1])
    whole = vrt_of(tmp_path / "whole.vrt", "there.tif")
    require_members(whole)
    with rasterio.open(whole) as dataset:
        assert dataset.count == 1
    holes = vrt_of(tmp_path / "holes.vrt", "there.tif", "gone.tif", "lost.tif")
    nested = vrt_of(tmp_path / "nested.vrt", "holes.vrt")
    for path in (holes, nested):
        with pytest.raises(
            InputError, match=r"is a VRT of files that are not there: .*gone\.tif, .*lost\.tif; copy"
        ):
            raster_info(path)
    absolute = vrt_of(tmp_path / "absolute.vrt", str(tmp_path / "no.tif"), relative="0")
    with pytest.raises(InputError, match=r"no\.tif"):
        raster_info(absolute)


def test_a_vrt_of_itself_ends(tmp_path: Path) -> None:
    """Also one that names itself often: every file is looked into once."""
    path = vrt_of(tmp_path / "self.vrt", "self.vrt")
    once = path.read_text(encoding="utf-8")
    source = once[once.index("<SourceFilename") : once.index("</SourceFilename>") + len("</SourceFilename>")]
    path.write_text(once.replace(source, source * 12), encoding="utf-8")
    require_members(path)


@pytest.mark.parametrize("head", ["as it is", "refused"])
def test_a_servers_word_on_a_raster_is_found_however_it_is_written(
    served: str, server: WebServer, head: str
) -> None:
    """Names of headers come in any case; a signature for GET refuses HEAD."""
    size = str((server.folder / "scene.tif").stat().st_size)
    server.write_names_of_headers_in_lower_case()
    if head == "refused":
        server.forbid_heads()
    told_size, modified, _ = remote_version(served)
    assert told_size == size
    assert "GMT" in modified
    assert remote.last_modified(served) is not None


def vrt_of_served(path: Path, url: str) -> Path:
    return vrt_of(path, f"/vsicurl/{url}", relative="0")


def test_a_failed_read_is_never_swallowed(
    served: str, server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL gives zeros for a VRT's member that it could not open, from the second read on: there must be none."""
    monkeypatch.setattr(remote, "PATIENCE", {**remote.PATIENCE, "GDAL_HTTP_RETRY_DELAY": "0.01"})
    with Raster(vrt_of_served(tmp_path / "served.vrt", served), georeferenced=False) as raster:
        server.faults = ["refuse"] * 200
        with pytest.raises(InputError, match=r"served\.vrt could not be read"):
            nodata_notes(raster)
        assert len(server.faults) < 200, "it was asked"
