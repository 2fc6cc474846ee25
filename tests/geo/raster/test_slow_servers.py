"""Servers that accept and never answer, or send a few bytes a second: told in one line with their name, in time."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from laws import few
from web_server import WebServer

from aerial_seg import waiting
from aerial_seg.cli.main import main
from aerial_seg.errors import InputError
from aerial_seg.geo.areas.area import read_area
from aerial_seg.geo.raster import remote
from aerial_seg.geo.raster.raster import Raster, raster_info
from aerial_seg.geo.raster.remote import remote_version
from aerial_seg.progress import listening

NEVER = 300
"""Seconds in which what has a limit has ended on the busiest machine, and what has none has not."""
SLOW = r"the server 127\.0\.0\.1:\d+ did not answer in time, in \d+ s; see that it is up"


class Mute:
    """Accepts every connection; says nothing, or a line of a header every 0.2 s without end."""

    def __init__(self, *, drips: bool) -> None:
        self._drips, self._open = drips, True
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/scene.tif"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while self._open:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            if self._drips:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while self._open:
                time.sleep(0.2)
                if self._drips:
                    connection.sendall(b"X-More: yes\r\n")
        except OSError:
            pass
        finally:
            connection.close()

    def close(self) -> None:
        """Whoever waits is let go."""
        self._open = False
        self._socket.close()


@pytest.fixture(
    params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["silent", "dripping headers"]
)
def mute(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mute]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Mute(drips=request.param)
    yield made
    made.close()


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limits, ten to twenty times as short: curl counts whole seconds."""
    hasty = {**remote.PATIENCE, "GDAL_HTTP_LOW_SPEED_TIME": "1", "GDAL_HTTP_CONNECTTIMEOUT": "1"}
    monkeypatch.setattr(remote, "PATIENCE", MappingProxyType(hasty))
    monkeypatch.setattr("aerial_seg.geo.areas.vector_layer.PATIENCE", hasty)
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", remote.PATIENCE_SECONDS / 20)
    monkeypatch.setattr(remote, "_ASK_SECONDS", 1.0)


@pytest.mark.usefixtures("_hasty")
def test_a_server_that_never_answers_is_told_by_name(mute: Mute) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=SLOW):
        raster_info(Path(mute.url))
    assert remote_version(mute.url) == ()
    assert time.monotonic() - began < NEVER


@pytest.mark.slow
def test_with_the_real_limits_it_is_told_as_well(mute: Mute) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=SLOW):
        raster_info(Path(mute.url))
    assert time.monotonic() - began < NEVER  # the limits themselves are added up below


def test_the_limits_add_up_to_ninety_seconds() -> None:
    """One try is at most four requests that stand still, and one question by urllib goes before the last."""
    still = float(remote.PATIENCE["GDAL_HTTP_LOW_SPEED_TIME"])
    assert remote.PATIENCE_SECONDS + 4 * still + remote._ASK_SECONDS <= 90


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("fault", few(["drip", "silence", "stall"], quick=1))
def test_a_server_that_falls_asleep_is_told_and_read_again_when_it_wakes(
    fault: str, server: WebServer, raster_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(4).integers(1, 255, (3, 300, 400), dtype=np.uint8)
    (server.folder / "scene.tif").write_bytes(raster_file("scene.tif", pixels).read_bytes())
    monkeypatch.setattr(remote, "WAITS", (0.01,) * 4)
    began = time.monotonic()
    with Raster(Path(server.url("scene.tif"))) as raster:
        server.faults = [fault] * 100
        with pytest.raises(InputError, match=SLOW):
            raster.read(top=0, left=0, height=300, width=400)
        assert time.monotonic() - began < NEVER
    server.faults = [fault]
    with Raster(Path(server.url("scene.tif"))) as raster:
        image, _ = raster.read(top=0, left=0, height=300, width=400)
    np.testing.assert_array_equal(image, pixels)
    assert not server.faults


@pytest.mark.usefixtures("_hasty")
def test_members_of_a_vrt_and_areas_are_not_waited_for_either(mute: Mute, tmp_path: Path) -> None:
    vrt = tmp_path / "in.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="40" rasterYSize="30"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">/vsicurl/{mute.url}</SourceFilename><SourceBand>1</SourceBand>'
        '<SrcRect xOff="0" yOff="0" xSize="40" ySize="30"/><DstRect xOff="0" yOff="0" xSize="40" ySize="30"/>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    began = time.monotonic()
    with (
        pytest.raises(InputError, match=r"in\.vrt could not be read"),
        Raster(vrt, georeferenced=False) as raster,
    ):
        raster.read(top=0, left=0, height=30, width=40)
    with pytest.raises(InputError, match="127"):
        read_area(mute.url.replace("scene.tif", "area.geojson"))
    assert time.monotonic() - began < NEVER


@pytest.fixture
def _soon_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words, a hundred times as soon."""
    monkeypatch.setattr(waiting, "QUIET", waiting.QUIET / 100)
    monkeypatch.setattr(waiting, "AGAIN", waiting.AGAIN / 100)


@pytest.mark.usefixtures("_hasty", "_soon_told")
def test_a_silent_server_is_told_while_it_is_waited_for_and_no_more_once_it_answers(
    server: WebServer, raster_file: Callable[..., Path]
) -> None:
    pixels = np.random.default_rng(4).integers(1, 255, (3, 300, 400), dtype=np.uint8)
    (server.folder / "scene.tif").write_bytes(raster_file("scene.tif", pixels).read_bytes())
    lines: list[str] = []
    url = server.url("scene.tif")
    host = url.split("/")[2]
    with listening(lines.append), Raster(Path(url)) as raster:
        lines.clear()
        server.faults = ["silence"]
        began = time.monotonic()
        image, _ = raster.read(top=0, left=0, height=300, width=400)
        took = time.monotonic() - began
        told = list(lines)
        time.sleep(3 * waiting.AGAIN)
    np.testing.assert_array_equal(image, pixels)
    assert told
    assert all(line.startswith(f"waiting for {host}: no answer for ") for line in told)
    assert len(told) <= 1 + took / waiting.AGAIN
    assert lines == told


@pytest.mark.usefixtures("_soon_told")
def test_many_reads_of_one_server_say_so_once_in_a_while() -> None:
    lines: list[str] = []
    began = time.monotonic()

    def read() -> None:
        with waiting.telling_waits("many.example"), waiting.telling_waits("many.example"):
            time.sleep(1)

    threads = [threading.Thread(target=read) for _ in range(8)]
    with listening(lines.append):
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert 1 <= len(lines) <= 1 + (time.monotonic() - began) / waiting.AGAIN


@pytest.mark.usefixtures("_hasty", "_soon_told")
def test_commands_tell_of_silence_on_stderr(mute: Mute, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["info", mute.url])
    assert ended.value.code == 1
    told = capsys.readouterr()
    host = mute.url.split("/")[2]
    assert not told.out
    assert re.search(rf"^waiting for {re.escape(host)}: no answer for \d+ s$", told.err, re.MULTILINE)
    assert told.err.splitlines()[-1].startswith("Error: ")


def test_a_word_is_said_after_fifteen_seconds_and_every_thirty() -> None:
    assert (waiting.QUIET, waiting.AGAIN) == (15.0, 30.0)
