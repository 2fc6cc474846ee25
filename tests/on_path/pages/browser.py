"""Chromium without a window, driven through two pipes: what a page does is done by keys and a pointer, and watched.

Debian's package `chromium` is enough. Where there is none, `find_browser` says so and the tests are skipped.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--hide-scrollbars",
)  # fmt: skip
_KEYS = {
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9,
    " ": 32, "Enter": 13, "End": 35,
}  # fmt: skip


def find_browser() -> str | None:
    """The program, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One page. errors: what it wrote to the console or did not catch; requests: all addresses that it asked for."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._rest = send, receive, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Show a file, and wait until its map is there."""
        self.resize(width, height)
        self.look(dark=dark)
        self._ask("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete' && document.documentElement.dataset.ready === 'map'")

    def resize(self, width: int, height: int) -> None:
        """The window's size."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def look(self, *, dark: bool, media: str = "") -> None:
        """What the system prefers; media: print, or nothing for the screen."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, script: str, *, seconds: float = 120) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            if time.monotonic() > end:
                raise AssertionError(f"never true: {script}; {self.errors}")
            time.sleep(0.05)

    def settle(self) -> None:
        """Until what was asked for is drawn."""
        self.run(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
        )

    def press(self, key: str) -> None:
        """A key, as from a keyboard."""
        code = {"windowsVirtualKeyCode": _KEYS.get(key, ord(key[0].upper()))}
        plain = {"text": {"Enter": "\r"}.get(key, key)} if len(key) == 1 or key == "Enter" else {}
        self._ask("Input.dispatchKeyEvent", type="keyDown", key=key, **code, **plain)
        self._ask("Input.dispatchKeyEvent", type="keyUp", key=key, **code)
        self.settle()

    def middle(self, selector: str) -> tuple[float, float]:
        """Where an element is on the screen, brought into view."""
        return tuple(
            self.run(
                f"(() => {{ const one = document.querySelector({json.dumps(selector)}); one.scrollIntoView("
                "{block: 'center'}); const box = one.getBoundingClientRect(); return [box.left + box.width / 2, "
                "box.top + box.height / 2]; })()"
            )
        )

    def click(self, selector: str, *, count: int = 1) -> None:
        """Press and release over an element."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)
        self.settle()

    def drag(self, selector: str, right: float, down: float, *, begin: tuple[float, float] = (0, 0)) -> None:
        """From the middle of an element (and `begin` beside it) by so many pixels."""
        x, y = self.middle(selector)
        x, y = x + begin[0], y + begin[1]
        self._mouse("mousePressed", x, y)
        for share in (0.3, 0.6, 1.0):
            self._mouse("mouseMoved", x + share * right, y + share * down)
        self._mouse("mouseReleased", x + right, y + down)
        self.settle()

    def hover(self, selector: str) -> None:
        """The pointer over the middle of an element."""
        x, y = self.middle(selector)
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def wheel(self, selector: str, delta: float) -> None:
        """Turn the wheel over an element."""
        x, y = self.middle(selector)
        self._ask("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)
        self.settle()

    def choose(self, selector: str, value: str) -> None:
        """Another entry of a list, or place of a slider, as if it had been chosen."""
        name = json.dumps(selector)
        self.run(
            f"(() => {{ const one = document.querySelector({name}); one.value = {json.dumps(value)}; "
            "one.dispatchEvent(new Event('input', {bubbles: true})); "
            "one.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )
        self.settle()

    def shoot(self, path: Path, *, whole: bool = False) -> None:
        """A picture of what is seen, or of the whole page."""
        found = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._ask("Page.printToPDF", printBackground=True)["data"])

    def _mouse(self, kind: str, x: float, y: float) -> None:
        pressed = {} if kind == "mouseMoved" else {"clickCount": 1}
        self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, **pressed)

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        parts = [self._rest]
        while b"\0" not in parts[-1]:
            ready, _, _ = select.select([self._receive], [], [], 180)
            if not ready:
                raise AssertionError("the browser says nothing for three minutes")
            part = os.read(self._receive, 1 << 20)
            if not part:
                raise AssertionError("the browser has ended")
            parts.append(part)
        first, _, self._rest = b"".join(parts).partition(b"\0")
        answer: dict[str, Any] = json.loads(first)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"][:200])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.errors.append(json.dumps([one.get("value") for one in told["args"]]))
        elif method == "Log.entryAdded":
            self.errors.append(told["entry"]["text"])


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Page]:
    """A browser with one page; it ends with the block. profile: a folder of its own."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    command = ["bash", "-c", shell, "bash", program, *_FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for one in (theirs_in, theirs_out):
        os.close(one)
    try:
        yield Page(ours_out, ours_in)
    finally:
        os.close(ours_out)  # it ends when nobody speaks to it any more
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_in)
