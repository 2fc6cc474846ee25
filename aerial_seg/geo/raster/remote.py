"""Rasters on servers: what GDAL calls them, how patiently it asks, and what tells one version from the next."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from types import MappingProxyType
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

import rasterio
from rasterio.errors import RasterioError

from aerial_seg.errors import InputError
from aerial_seg.files.names import as_typed, exact
from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.mentions import SAME_CALL
from aerial_seg.waiting import telling_waits

_SYSTEMS: Mapping[str, str] = MappingProxyType({
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
})  # fmt: skip
"""GDAL's virtual file systems by the scheme of an URL."""

_URL = re.compile(r"(?:/vsicurl/)?(https?|s3|gs|az):/+(.+)")
_PARSED = re.compile(r"/vsi|[A-Za-z][A-Za-z0-9_]+:|<VRTDataset")
"""How names begin that are more than names, unless there is a file of that very name."""
_ARCHIVE = re.compile(r"(/vsi(?:zip|tar|gzip|7z|rar)/)(.+)")
_AS_IT_IS = "%/:?#[]@!$&'()*+,;=~"
_CURL = "/vsicurl/"
_REMOTE = (_CURL, "/vsis3/", "/vsigs/", "/vsiaz/")

PATIENCE: Mapping[str, str] = MappingProxyType({
    "GDAL_HTTP_MAX_RETRY": "4",  # reset, refused, overloaded: waits of about 0.5, 1, 2 and 4 s
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/",  # nothing of a closed raster is remembered
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "10",  # less than that many bytes per second for 10 s is an answer that never ends
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
})  # fmt: skip
"""GDAL's options while it asks a server.

No GDAL_HTTP_TIMEOUT: it would cut a large answer on a slow line, which is on its way, and nothing that stands still.
"""

PATIENCE_SECONDS = 40.0
"""After so long no further try begins. One may itself take four times LOW_SPEED_TIME: all is told within 90 s."""

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before a raster is opened anew whose answer was cut short: GDAL takes that for its end, and remembers it."""

_ASK_SECONDS = 10.0
_FINAL = (401, 403, 404, 410)
"""Answers of a web server that will not change by asking again."""
_NO_HEAD = (403, 405, 501)
"""Answers of a server that may let the raster be read but not be asked about: a signature is for one method."""
_NO_ANSWER = (URLError, OSError, ValueError, HTTPException)
_FINAL_OF_BUCKETS = frozenset(
    f"CPLE_AWS{what}Error"
    for what in (
        "AccessDenied",
        "BucketNotFound",
        "InvalidCredentials",
        "ObjectNotFound",
        "SignatureDoesNotMatch",
    )
)
"""The same of a store, by the names of rasterio's own errors."""

Read = TypeVar("Read")


def gdal_name(path: Path | str) -> str:
    """What GDAL calls the raster: an URL goes through one of its virtual file systems, a file stays that very file.

    http, https, s3, gs and az are known; what a web address may not hold as it is, is escaped. A Path has lost a slash
    of its URL, or of an archive's absolute path; it is put back. Where a file has exactly this name, it is meant.
    """
    text = as_typed(path)
    if _is_plain(text) or (not text.startswith("/vsi") and os.path.lexists(text)):
        return exact(text)
    if text.startswith("<"):
        return text
    inner = find_subdataset(text)
    if inner is not None:
        return inner.text
    url = _URL.fullmatch(text)
    if url is not None:
        return _SYSTEMS[url[1]] + (quote(url[2], safe=_AS_IT_IS) if url[1].startswith("http") else url[2])
    archive = _ARCHIVE.fullmatch(text)
    if (
        archive is not None
        and _file_around(archive[2]) is None
        and _file_around("/" + archive[2]) is not None
    ):
        return f"{archive[1]}/{archive[2]}"
    return text if text.startswith("/vsi") else exact(text)


def _is_plain(text: str) -> bool:
    """Whether the name, as typed, is nothing but that of a file of this machine."""
    return _PARSED.match(text) is None


def is_virtual(name: str) -> bool:
    """Whether GDAL reads what it calls so through something else than a file of that name."""
    return name.startswith(("/vsi", "<VRTDataset")) or find_subdataset(name) is not None


def url_path(url: str) -> Path:
    """A Path that gdal_name makes this address of; a Path alone would make one slash of two in a signature."""
    scheme, mark, rest = url.partition("://")
    return Path(scheme + mark + rest.replace("//", "/%2F") if scheme.endswith(("http", "https")) else url)


def without_signature(path: Path | str) -> str:
    """The path as results may tell it to others: of a web address without what follows the question mark."""
    return as_typed(path).partition("?")[0] if is_remote(path) else as_typed(path)


def public_name(path: Path | str) -> str:
    """The file's name as results may tell it to others; of a raster inside a file `file.nc:var`."""
    inner = find_subdataset(path)
    return Path(without_signature(path)).name if inner is None else inner.name


def output_stem(path: Path) -> str:
    """What the results of a raster begin with: its name without its suffix, or `file_var`."""
    inner = find_subdataset(path)
    return path.stem if inner is None else inner.stem


def file_behind(path: Path | str) -> Path | None:
    """The file of this machine that is read: the path's own, or the one that it lies in; None on a server."""
    text = as_typed(path)
    if _is_local(text):
        return Path(path) if os.path.isfile(text) else None  # noqa: PTH113 - as below
    inner = find_subdataset(path)
    if inner is not None:
        return file_behind(inner.file)
    archive = _ARCHIVE.fullmatch(gdal_name(path))
    if archive is not None:
        return _file_around(archive[2])
    return Path(path) if os.path.isfile(path) else None  # noqa: PTH113 - a Path raises for names that are too long


def _file_around(path: str) -> Path | None:
    """The path itself, or the nearest of what it lies in, that is a file."""
    return next((place for place in (Path(path), *Path(path).parents) if place.is_file()), None)


def is_remote(path: Path | str) -> bool:
    """Whether the raster lies on a server."""
    return not _is_local(as_typed(path)) and _file_name(path).startswith(_REMOTE)


def _is_local(text: str) -> bool:
    """Whether this is known of a name by its beginning alone: asked a dozen times of each of thousands of scenes."""
    return _is_plain(text) and not text.startswith("//")  # else GDAL is told /vsicurl for //vsicurl


def _file_name(path: Path | str) -> str:
    """What GDAL calls the file that the raster is, or lies in."""
    inner = find_subdataset(path)
    return gdal_name(path if inner is None else inner.file)


@contextmanager
def _asking_patiently(path: Path | str) -> Iterator[None]:
    """While inside, GDAL asks a server again before it gives up, and it is told who is waited for.

    In the thread that enters it, so around each read, not around the time that a raster is open.
    """
    with rasterio.Env(**PATIENCE), waiting(path):
        yield


def _shows_others(path: Path | str) -> bool:
    """Whether it is a VRT, whose members may lie on servers."""
    text = as_typed(path)
    return text.startswith("<") or text.lower().endswith(".vrt")


def read_patiently(
    path: Path | str, read: Callable[[], Read], open_again: Callable[[], None] = lambda: None
) -> Read:
    """What `read` reads; of a raster on a server after opening it again, at most as often as there are WAITS.

    The last failure is raised; InputError, with the server's name, where it sends nothing or next to nothing.
    """
    remote = is_remote(path)
    asking = _asking_patiently(path) if remote or _shows_others(path) else nullcontext()
    with asking, _since_the_first_try() as begun:
        for wait in (*WAITS, None) if remote else (None,):
            try:
                return read()
            except RasterioError as error:
                spent = time.monotonic() - begun
                if spent >= PATIENCE_SECONDS or (wait is None and _is_slow(error)):
                    raise _too_slow(path, spent) from error
                if wait is None or _is_refused(path, error):
                    raise
                time.sleep(wait)
                open_again()
    raise AssertionError("the last try returns or raises")


def waiting(path: Path | str) -> AbstractContextManager[None]:
    """Tells whom a long read waits for: a server, or a VRT whose members may lie on one."""
    if is_remote(path):
        return telling_waits(_host(path))
    return telling_waits(public_name(path)) if _shows_others(path) else nullcontext()


def _host(path: Path | str) -> str:
    """The server's name, for messages; of a store's bucket the whole name."""
    return urlsplit(_public(path)).netloc or _public(path)


_BEGUN: ContextVar[float | None] = ContextVar("begun", default=None)


@contextmanager
def _since_the_first_try() -> Iterator[float]:
    """When the outermost of the reads that this one is a part of began: opening again is a read of its own."""
    outer = _BEGUN.get()
    begun = time.monotonic() if outer is None else outer
    token = _BEGUN.set(begun)
    try:
        yield begun
    finally:
        _BEGUN.reset(token)


def _is_slow(error: BaseException | None) -> bool:
    """Whether GDAL says that an answer stood still."""
    while error is not None:
        if "Operation too slow" in str(error) or "timed out" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _too_slow(path: Path | str, seconds: float) -> InputError:
    name = _public(path)
    host = urlsplit(name).netloc or "behind it"
    return InputError(
        f"{name} could not be read: the server {host} did not answer in time, in {seconds:.0f} s; see that it is up "
        f"and can be reached, and {SAME_CALL}"
    )


def _public(path: Path | str) -> str:
    """The path as typed, but without a signature."""
    return without_signature(gdal_name(path)).removeprefix(_CURL)


def _is_refused(path: Path | str, error: BaseException) -> bool:
    """Whether a server says that asking again is of no use."""
    behind: BaseException | None = error
    while behind is not None:
        if type(behind).__name__ in _FINAL_OF_BUCKETS:
            return True
        behind = behind.__cause__ or behind.__context__
    try:
        _headers(path)
    except HTTPError as answer:
        return answer.code in _FINAL
    except _NO_ANSWER:
        pass
    return False


def _headers(path: Path | str) -> Message:
    """Of a web server's answer about the raster; none of other rasters."""
    name = _file_name(path)
    if not name.startswith(_CURL):
        return Message()
    url = name.removeprefix(_CURL)
    try:
        return _asked(urllib.request.Request(url, method="HEAD"))
    except HTTPError as error:
        if error.code not in _NO_HEAD:
            raise
        return _asked(urllib.request.Request(url, headers={"Range": "bytes=0-0"}))


def _asked(request: urllib.request.Request) -> Message:
    """The headers of an answer that is complete in time: urllib's own limit is for every piece of it anew."""
    answers: Queue[Message | Exception] = Queue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(request, timeout=_ASK_SECONDS) as answer:
                answers.put(answer.headers)
        except _NO_ANSWER as error:
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        found = answers.get(timeout=_ASK_SECONDS)
    except Empty as error:
        raise URLError("the answer takes too long") from error
    if isinstance(found, Exception):
        raise found
    return found


def last_modified(path: Path | str) -> datetime | None:
    """When a raster on a web server changed last, as the server tells; None where it does not."""
    try:
        return parsedate_to_datetime(_headers(path)["Last-Modified"])
    except (TypeError, *_NO_ANSWER):
        return None


def same_version(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two answers of remote_version may be about one raster: what either leaves out tells nothing.

    Sizes, dates and tags are compared as texts, but for the W/ of a weak tag, which servers add to what they compress.
    """
    if not one or not other:
        return True
    pairs = zip(one, other, strict=True)
    return all(a.removeprefix("W/") == b.removeprefix("W/") or not a or not b for a, b in pairs)


def remote_version(path: Path | str) -> tuple[str, ...]:
    """Size, date and tag of a raster on a web server, as it tells them: they change when the raster does.

    Empty for other rasters, and where the server does not answer: reading will tell.
    """
    try:
        headers = _headers(path)
    except _NO_ANSWER:
        return ()
    size = headers.get("Content-Range", headers.get("Content-Length", "")).rpartition("/")[2]
    return (size, headers.get("Last-Modified", ""), headers.get("ETag", "")) if headers else ()
