"""A web server in a process of its own, which serves a folder with range requests, and fails as servers do.

In the process of the tests it could not answer whatever rasterio asks while it holds the interpreter's lock, as for
nodata: GDAL waited ten seconds for its own process there.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class WebServers:
    """The process; it ends with the tests', however that ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *question: Any) -> Any:
        """The answer to one question; questions of several threads follow each other."""
        asks, answers = self._process.stdin, self._process.stdout
        assert asks is not None
        assert answers is not None
        with self._lock:
            asks.write(json.dumps(question) + "\n")
            asks.flush()
            return json.loads(answers.readline())

    def close(self) -> None:
        """No server answers any more."""
        self._process.communicate()


class WebServer:
    """Serves a folder. faults: what happens to the next answers that carry pixels, in order; asked: what was asked.

    heads_are_forbidden: only reading is allowed, as a signature for GET has it. lower_case: so are headers' names.
    tags: ETags by the file's name. All are set as a whole: what is read of them is a copy.
    """

    def __init__(self, servers: WebServers, folder: Path) -> None:
        self.folder, self._servers = folder, servers
        self._port: int = servers.ask("open", str(folder))

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._port}/{name}"

    def close(self) -> None:
        self._servers.ask("close", self._port)

    def _get(self, name: str) -> Any:
        return self._servers.ask("get", self._port, name)

    def _set(self, name: str, value: Any) -> None:
        self._servers.ask("set", self._port, name, value)

    @property
    def asked(self) -> tuple[str, ...]:
        return tuple(self._get("asked"))

    @property
    def faults(self) -> tuple[str, ...]:
        return tuple(self._get("faults"))

    @faults.setter
    def faults(self, faults: list[str]) -> None:
        self._set("faults", faults)

    def tag(self, name: str, tag: str) -> None:
        self._set("tags", {**self._get("tags"), name: tag})

    def forbid_heads(self) -> None:
        self._set("heads_are_forbidden", True)

    def write_names_of_headers_in_lower_case(self) -> None:
        self._set("lower_case", True)


@dataclass
class Behaviour:
    """What a server does, see WebServer."""

    folder: Path
    faults: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    heads_are_forbidden: bool = False
    lower_case: bool = False
    closing: threading.Event = field(default_factory=threading.Event)


class Serving(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = Behaviour(folder)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are no news."""

    def close(self) -> None:
        self.behaviour.closing.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Serving

    def log_message(self, *_: object) -> None:
        pass

    def send_header(self, keyword: str, value: str) -> None:
        super().send_header(keyword.lower() if self.server.behaviour.lower_case else keyword, value)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        told = self.server.behaviour
        told.asked.append(f"{self.command} {self.path}")
        if told.heads_are_forbidden and not with_body:
            self.send_error(403)
            return
        file = told.folder / self.path.lstrip("/").partition("?")[0]
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(match[1]), int(match[2] or len(data) - 1) + 1) if match else (0, len(data))
        body = data[start : min(stop, len(data))]
        fault = told.faults.pop(0) if with_body and told.faults else ""
        if fault == "refuse":
            self.send_error(503)
            return
        if fault == "silence":
            told.closing.wait(600)
            return
        if fault == "delay":
            time.sleep(1.0)
        self.send_response(206 if match else 200)
        self.send_header("Accept-Ranges", "bytes")
        if file.name in told.tags:
            self.send_header("ETag", told.tags[file.name])
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", self.date_time_string(int(file.stat().st_mtime)))
        if match:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(data)}")
        self.end_headers()
        if with_body:
            self.send_body(body, fault)

    def send_body(self, body: bytes, fault: str) -> None:
        closing = self.server.behaviour.closing
        if fault == "stall":
            closing.wait(600)
        for at in range(0, len(body) if fault == "drip" else 0, 40):  # 800 bytes a second
            self.wfile.write(body[at : at + 40])
            if closing.wait(0.05):
                return
        if fault in ("stall", "drip"):
            return
        self.wfile.write(body[: len(body) // 2] if fault in ("drop", "truncate") else body)
        if fault == "drop":  # closing with nothing to linger for resets the connection
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if fault == "truncate":
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = bool(fault)


def answer(servers: dict[int, Serving], what: str, *about: Any) -> Any:
    """What a question is answered with; see WebServer, which asks."""
    if what == "open":
        server = Serving(Path(about[0]))
        servers[server.server_port] = server
        return server.server_port
    if what == "close":
        return servers.pop(about[0]).close()
    port, name, *value = about
    if what == "get":
        return getattr(servers[port].behaviour, name)
    return setattr(servers[port].behaviour, name, *value)


if __name__ == "__main__":
    running: dict[int, Serving] = {}
    for line in sys.stdin:
        print(json.dumps(answer(running, *json.loads(line))), flush=True)
