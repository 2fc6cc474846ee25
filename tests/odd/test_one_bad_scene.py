"""A bad file between two good ones: both have their masks, the bad one is one line that names it, exit 1.

Whatever rasterio, GDAL, PROJ or the file system says of a file, it is that scene's; and none is waited for.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning

from aerial_seg.cli.main import main
from aerial_seg.errors import InputError
from aerial_seg.files.names import shown
from aerial_seg.geo.raster.raster import raster_info

UTM = "EPSG:32633"
CORNER = Affine(1, 0, 500_000, 0, -1, 5_200_000)
STRIPS, TILE_WIDTH, TILE_LENGTH, WIDTH, LENGTH = 273, 322, 323, 256, 257


def tif(path: Path, *, crs: str | None = UTM, transform: Affine = CORNER, **profile: Any) -> Path:
    pixels = np.random.default_rng(1).integers(1, 200, (3, 60, 80), dtype=np.uint8)
    profile = {"photometric": "RGB", "dtype": "uint8", **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=3, height=60, width=80, crs=crs, transform=transform, **profile
        ) as file:
            file.write(pixels.astype(profile["dtype"]))
    return path


def patched(path: Path, numbers: dict[int, int]) -> Path:
    """A TIFF with these tags set to other numbers, as damage or malice sets them."""
    raw = bytearray(path.read_bytes())
    (at,) = struct.unpack("<I", raw[4:8])
    for k in range(struct.unpack("<H", raw[at : at + 2])[0]):
        entry = at + 2 + 12 * k
        (tag,) = struct.unpack("<H", raw[entry : entry + 2])
        if tag in numbers:
            raw[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, numbers[tag])
    path.write_bytes(raw)
    return path


def beside(path: Path, suffix: str, content: bytes) -> Path:
    path.with_name(path.name + suffix).write_bytes(content)
    return path


def cut(path: Path, share: float) -> Path:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    return path


def vrt(path: Path, member: str, *, band: int = 1, head: str = 'rasterXSize="80" rasterYSize="60"') -> Path:
    source = (
        f'<SimpleSource><SourceFilename relativeToVRT="1">{member}</SourceFilename><SourceBand>{band}</SourceBand>'
        '<SrcRect xOff="0" yOff="0" xSize="80" ySize="60"/><DstRect xOff="0" yOff="0" xSize="80" ySize="60"/>'
        "</SimpleSource>"
    )
    bands = "".join(f'<VRTRasterBand dataType="Byte" band="{k}">{source}</VRTRasterBand>' for k in (1, 2, 3))
    place = ",".join(map(repr, CORNER.to_gdal()))
    path.write_text(
        f"<VRTDataset {head}><SRS>{UTM}</SRS><GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>"
    )
    return path


def masked(path: Path) -> Path:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tif(path), "r+") as file:
        file.write_mask(np.random.default_rng(0).random((60, 80)) > 0.5)
    return path


def with_text(path: Path) -> Path:
    """A band's description in Latin-1, as programs of the nineties write it."""
    with rasterio.open(tif(path), "r+") as file:
        file.set_band_description(1, "redAAAA")
    path.write_bytes(path.read_bytes().replace(b"redAAAA", b"gr\xfcn\xe9\xe8 "))
    return path


def a_socket(path: Path) -> Path:
    made = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        made.bind(path.name)
    finally:
        os.chdir(here)
        made.close()
    return path


def linked(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


def latin(path: Path) -> Path:
    """The issue's own case: a name that is no UTF-8."""
    odd = Path(os.fsdecode(os.fsencode(path.parent) + b"/m\xe9.tif"))
    shutil.copy(tif(path), odd)
    path.unlink()
    return odd


def gcps(path: Path) -> Path:
    corners = [(0, 0, 5e5, 5.2e6), (0, 80, 500_080, 5.2e6), (60, 0, 5e5, 5.2e6 - 60)]
    with rasterio.open(tif(path, crs=None, transform=Affine.identity()), "r+") as file:
        file.gcps = [GroundControlPoint(*one) for one in corners], rasterio.crs.CRS.from_string(UTM)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def wrote(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def fifo_member(path: Path) -> Path:
    (path.parent / "members").mkdir()
    fifo(path.parent / "members" / "pipe.tif")
    return vrt(path.with_suffix(".vrt"), "members/pipe.tif")


def damaged_member(path: Path) -> Path:
    (path.parent / "members").mkdir()
    cut(tif(path.parent / "members" / "half.tif"), 0.5)
    return vrt(path.with_suffix(".vrt"), "members/half.tif")


def broken_srs(path: Path, srs: bytes = b"GEOGCS[broken") -> Path:
    """The issue's own case."""
    pam = (
        b"<PAMDataset><SRS>"
        + srs
        + b"</SRS><GeoTransform>500000,1,0,5200000,0,-1</GeoTransform></PAMDataset>"
    )
    return beside(tif(path, crs=None, transform=Affine.identity()), ".aux.xml", pam)


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "Latin-1 name": (latin, r"m\xe9.tif holds bytes that are not UTF-8"),
    "Latin-1 text": (with_text, "that are not UTF-8"),
    "broken SRS": (broken_srs, "has a CRS that PROJ cannot build (m.tif.aux.xml says GEOGCS[broken)"),
    "unknown code": (lambda p: broken_srs(p, b"EPSG:99999"), "(m.tif.aux.xml says EPSG:99999)"),
    "singular": (lambda p: tif(p, transform=Affine(1, 1, 5e5, 1, 1, 5e6)), "a geotransform that places no pixel"),
    "flat": (lambda p: tif(p, transform=Affine(1, 0, 5e5, 0, 0, 5e6)), "a geotransform that places no pixel"),
    "NaN": (lambda p: tif(p, transform=Affine(math.nan, 0, 5e5, 0, -1, 5e6)), "places no pixel (nan, nan"),
    "infinite": (lambda p: tif(p, transform=Affine(math.inf, 0, 5e5, 0, -1, 5e6)), "places no pixel (nan, inf"),
    "huge": (lambda p: tif(p, transform=Affine(1e300, 0, 5e5, 0, -1e300, 5e6)), "place cannot be computed"),
    "tiny": (lambda p: tif(p, transform=Affine(1e-300, 0, 5e5, 0, -1e-300, 5e6)), "middle pixel measures 0"),
    "far away": (lambda p: tif(p, transform=Affine(1, 0, 1e30, 0, -1, 1e30)), "place cannot be computed"),
    "truncated": (lambda p: cut(tif(p), 0.5), "could not be read at row 0"),
    "only its head": (lambda p: cut(tif(p), 0.01), "is not a raster that GDAL can read"),
    "empty": (lambda p: wrote(p, b""), "is not a raster that GDAL can read"),
    "text": (lambda p: wrote(p, b"no raster"), "is not a raster that GDAL can read"),
    "folder": (folder, "holds no raster"),
    "pipe": (fifo, "is a pipe, wanted a file"),
    "socket": (a_socket, "is a socket, wanted a file"),
    "device": (lambda p: linked(p, "/dev/zero"), "is a device, wanted a file"),
    "dangling": (lambda p: linked(p, "/nowhere/x.tif"), "does not exist"),
    "loop": (lambda p: linked(p, str(p)), "m.tif"),
    "aux no XML": (lambda p: beside(tif(p), ".aux.xml", b"<PAMDataset><SR"), "m.tif.aux.xml is not XML"),
    "mask no TIFF": (lambda p: beside(tif(p), ".msk", b"II*\0" + b"\xff" * 200), "is not a mask that GDAL can read"),
    "half a mask": (lambda p: (cut(masked(p).with_name("m.tif.msk"), 0.5), p)[1], "m.tif"),
    "VRT no XML": (lambda p: wrote(p.with_suffix(".vrt"), b"<VRTDataset raster"), "is not a raster that GDAL can read"),
    "VRT encoding": (
        lambda p: wrote(p.with_suffix(".vrt"), b"<?xml version='1.0' encoding='klingon'?><VRTDataset/>"),
        "is not a raster that GDAL can read",
    ),
    "VRT no bands": (
        lambda p: wrote(p.with_suffix(".vrt"), b"<VRTDataset rasterXSize='9' rasterYSize='9'></VRTDataset>"),
        "is not a raster that GDAL can read",
    ),
    "VRT of itself": (lambda p: vrt(p.with_suffix(".vrt"), "m.vrt"), "m.vrt"),
    "VRT of nothing": (lambda p: vrt(p.with_suffix(".vrt"), "gone.tif"), "files that are not there"),
    "VRT of a pipe": (fifo_member, "files that are not there"),
    "VRT of damage": (damaged_member, "could not be read at row 0"),
    "VRT of band 9": (lambda p: vrt(p.with_suffix(".vrt"), "a.tif", band=9), "m.vrt"),
    "VRT without size": (
        lambda p: vrt(p.with_suffix(".vrt"), "a.tif", head='rasterXSize="0" rasterYSize="0"'),
        "is not a raster that GDAL can read",
    ),
    "only GCPs": (gcps, "is placed by ground control points only"),
    "no CRS": (lambda p: tif(p, crs=None), "has no CRS"),
    "geocentric": (lambda p: tif(p, crs="EPSG:4978"), "a CRS of geocentric coordinates"),
    "complex": (lambda p: tif(p, dtype="complex64", photometric="MINISBLACK"), "holds complex numbers"),
    "absurd blocks": (
        lambda p: patched(tif(p, tiled=True, blockxsize=16, blockysize=16), {TILE_WIDTH: 2**30, TILE_LENGTH: 2**30}),
        "m.tif",
    ),
    "absurd size": (lambda p: patched(tif(p), {WIDTH: 2**31 - 1, LENGTH: 2**31 - 1}), "m.tif"),
    "absurd strips": (lambda p: patched(tif(p), {STRIPS: 2**31}), "could not be read at row 0"),
}  # fmt: skip
"""What is wrong → how it is made at a path, and the words that tell it."""

OFTEN = (
    "Latin-1 name", "Latin-1 text", "broken SRS", "singular", "truncated", "pipe", "mask no TIFF", "VRT of a pipe",
    "absurd blocks",
)  # fmt: skip
"""Run by default; `pytest -m slow` runs all."""
TELL_LATER = (
    "truncated",
    "half a mask",
    "VRT of itself",
    "VRT of damage",
    "VRT of band 9",
    "absurd blocks",
    "absurd strips",
)
"""`info` does not read pixels, so it has a description to give."""


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """`run(command, …)` → exit code, stdout, the lines of stderr; in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, str, list[str]]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err.strip().splitlines()

    return command


@pytest.fixture
def at_most(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test ends within a minute: a raster that is a pipe would be waited for."""
    signal = pytest.importorskip("signal")
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(f"{request.node.name} hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("at_most")
@pytest.mark.parametrize("what", [c if c in OFTEN else pytest.param(c, marks=pytest.mark.slow) for c in BAD])
def test_the_others_have_their_masks(what: str, run: Callable, model_file: Callable, tmp_path: Path) -> None:
    make, words = BAD[what]
    good = [tif(tmp_path / name) for name in ("a.tif", "z.tif")]
    try:
        bad = make(tmp_path / "m.tif")
    except (OSError, AttributeError) as error:
        pytest.skip(f"this system has no such file: {error}")
    # A folder of rasters that one names is looked into; in a list it is a line like any other.
    listed = tmp_path / "scenes.txt"
    listed.write_bytes(b"\n".join(os.fsencode(path) for path in (good[0], bad, good[1])))
    named = [*good[:1], bad, *good[1:]] if what == "Latin-1 name" else ["@scenes.txt"]
    code, out, lines = run(
        "predict", model_file(3), *named, "-o", "out", "--engine", "eager", "--precision", "fp32", "--json"
    )  # fmt: skip
    assert code == 1, lines
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == ["a_mask.tif", "z_mask.tif"]
    told = [line for line in lines if line.startswith("Error: ")]
    assert len(told) == 1, lines
    assert "1 of 3 scenes have no mask" in told[0]
    assert words in told[0]
    assert Path(shown(bad)).name in told[0]
    assert {one["outcome"] for one in json.loads(out)} == {"done", "failed"}
    assert not list((tmp_path / "out").glob("m*")), "something half made is left"


@pytest.mark.usefixtures("at_most")
@pytest.mark.parametrize("what", BAD)
def test_info_tells_it_in_one_line(what: str, run: Callable, tmp_path: Path) -> None:
    make, words = BAD[what]
    tif(tmp_path / "a.tif")
    try:
        bad = make(tmp_path / "m.tif")
    except (OSError, AttributeError) as error:
        pytest.skip(f"this system has no such file: {error}")
    code, out, lines = run("info", bad, "--json")
    if code == 0:
        problem = json.loads(out).get("problem", "")
        assert what in TELL_LATER or words in problem, out
        return
    told = [line for line in lines if line.startswith("Error: ")]
    assert (code, len(told)) == (1, 1), lines
    assert Path(shown(bad)).name in told[0]


def test_the_remedy_for_texts_that_are_no_utf8_works(tmp_path: Path) -> None:
    """gdal_translate -co PROFILE=GeoTIFF --config GDAL_PAM_ENABLED NO"""
    bad = with_text(tmp_path / "m.tif")
    with pytest.raises(InputError, match="PROFILE=GeoTIFF"):
        raster_info(bad)
    with rasterio.Env(GDAL_PAM_ENABLED="NO"):
        rasterio.shutil.copy(bad, tmp_path / "copy.tif", driver="GTiff", PROFILE="GeoTIFF")
    info = raster_info(tmp_path / "copy.tif")
    assert info.grid.crs is not None
    assert info.grid.shape == (60, 80)


def test_an_aux_xml_in_latin_1_takes_nothing_away(tmp_path: Path) -> None:
    """GDAL takes its bytes as they come."""
    text = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>9</NoDataValue></PAMRasterBand><!-- é --></PAMDataset>'
    info = raster_info(beside(tif(tmp_path / "m.tif"), ".aux.xml", text.encode("latin-1")))
    assert (info.grid.shape, info.nodata) == ((60, 80), 9)
