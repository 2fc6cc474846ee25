"""Where in COCO's instances_*.json each image's annotations lie, found in one pass that keeps none of them."""

from __future__ import annotations

import json
import math
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError

_CHUNK = 1 << 24
"""Bytes that are looked at together; the file of train2017 has 450 MB, and its objects would fill gigabytes."""
_NAME = re.compile(r"(COCO_(train|val)2014_)?\d{12}\.jpg")
DIGITS = 12
"""Of an id in the name of an image."""
_MOST_PIXELS = 1 << 26


@dataclass(frozen=True, slots=True)
class CocoIndex:
    """Hold the images of an instances file by number, and where the annotations of the wanted categories lie in it.

    Images are in the order of their ids. names (n,): of their files. sizes (n, 2) int32: height and width. pixels (n,)
    float64: the areas of their wanted instances added up, without crowds. places (m, 2) int64: first byte and length of
    an annotation; those of image k are rows starts[k] to starts[k + 1], in the file's order.
    """

    path: Path
    names: tuple[str, ...]
    sizes: NDArray[np.int32]
    pixels: NDArray[np.float64]
    starts: NDArray[np.int64]
    places: NDArray[np.int64]

    def number(self, name: str) -> int:
        """Which image has this name, without its ending. Raises KeyError where there is none."""
        place = bisect_left(self.names, _id_of(name), key=_id_of)
        if place == len(self.names) or Path(self.names[place]).stem != name:
            raise KeyError(name)
        return place

    def annotations(self, number: int) -> list[Any]:
        """Read the annotations of image `number`. Raises InputError where the file is another one by now."""
        found = []
        with self.path.open("rb") as file:
            for start, length in self.places[self.starts[number] : self.starts[number + 1]].tolist():
                file.seek(start)
                try:
                    found.append(json.loads(file.read(length)))
                except ValueError as error:
                    raise InputError(
                        f"{self.path} has changed since it was first read; leave it as it is while it is in use"
                    ) from error
        return found


def read_index(path: Path, categories: Mapping[int, str]) -> CocoIndex:
    """Index an instances file, of whose annotations only those of `categories` count; id → COCO's name.

    Raises InputError for a file that is missing, damaged or no instances file, and for categories of other names.
    """
    images: dict[int, tuple[str, int, int]] = {}
    listed: dict[int, str] = {}
    # Of 860,000 annotations: as objects they would take a few hundred megabytes.
    places, areas = array("q"), array("d")
    with _opened(path) as file:
        for key, start, length, value in _elements(path, file):
            if key == "images":
                number, name, height, width = _image(path, value)
                if number in images:
                    raise _broken(path, f"image {number} comes twice")
                images[number] = (name, height, width)
            elif key == "categories":
                listed[_whole(path, value, "id", "categories")] = str(value.get("name"))
            elif (wanted := _annotation(path, value, categories)) is not None:
                places.extend((wanted[0], start, length))
                areas.append(wanted[1])
    _check_categories(path, listed, categories)
    return _made(path, images, np.array(places, np.int64).reshape(-1, 3), np.array(areas, np.float64))


def _id_of(name: str) -> int:
    """COCO's files are named by the ids of their images."""
    return int(name.removesuffix(".jpg")[-DIGITS:])


def _made(
    path: Path,
    images: Mapping[int, tuple[str, int, int]],
    places: NDArray[np.int64],
    areas: NDArray[np.float64],
) -> CocoIndex:
    """places (m, 3): of each annotation its image's id, its first byte and its length; areas (m,)."""
    ids = sorted(images)
    known = np.array(ids, np.int64)
    lost = ~np.isin(places[:, 0], known)
    if lost.any():
        raise _broken(path, f"an annotation is of image {places[lost, 0][0]}, which is not listed")
    owners = np.searchsorted(known, places[:, 0])
    order = np.argsort(owners, kind="stable")
    pixels = np.bincount(owners, weights=areas, minlength=len(ids))
    return CocoIndex(
        path,
        names=tuple(images[number][0] for number in ids),
        sizes=np.array([images[number][1:] for number in ids], np.int32).reshape(-1, 2),
        pixels=pixels.astype(np.float64),
        starts=np.searchsorted(owners[order], np.arange(len(ids) + 1)),
        places=places[order, 1:],
    )


def _image(path: Path, value: Mapping[str, Any]) -> tuple[int, str, int, int]:
    number, height, width = (_whole(path, value, key, "images") for key in ("id", "height", "width"))
    name = value.get("file_name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _broken(path, f"image {number} is called {str(name)[:60]!r}, wanted as 000000000009.jpg")
    if _id_of(name) != number:
        raise _broken(path, f"image {number} is called {name}, which is named by another id")
    if min(height, width) < 1 or height * width > _MOST_PIXELS:
        raise _broken(path, f"image {number} is {width} × {height} px")
    return number, name, height, width


def _annotation(
    path: Path, value: Mapping[str, Any], categories: Mapping[int, str]
) -> tuple[int, float] | None:
    """Image and area, 0 for a crowd; None for a category that is not wanted."""
    if _whole(path, value, "category_id", "annotations") not in categories:
        return None
    area = value.get("area")
    if isinstance(area, bool) or not isinstance(area, int | float) or not math.isfinite(area) or area < 0:
        raise _broken(path, f"annotation {value.get('id')} has the area {area!r}")
    return _whole(path, value, "image_id", "annotations"), 0.0 if value.get("iscrowd") else float(area)


def _check_categories(path: Path, listed: Mapping[int, str], wanted: Mapping[int, str]) -> None:
    for number, name in wanted.items():
        if listed.get(number) != name:
            raise InputError(
                f"{path} calls category {number} {listed.get(number)!r}, wanted {name!r} as COCO does; take the "
                "publishers' instances file"
            )


def _whole(path: Path, value: Mapping[str, Any], key: str, place: str) -> int:
    found = value.get(key)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**53:
        raise _broken(path, f"one of its {place} has {found!r} as {key}, wanted a whole number")
    return found


def _broken(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} is no instances file of COCO: {what}; unpack the publishers' annotations again"
    )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}); unpack the publishers' annotations again"
        ) from error


def _elements(path: Path, file: BinaryIO) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """Of the lists images, annotations and categories: which, and each element with its first byte and its length."""
    scan = _Scan(path, file.read)
    seen = set()
    scan.take("{")
    while True:
        key, _, _ = scan.value()
        scan.take(":")
        if key in ("images", "annotations", "categories") and scan.next() == "[":
            seen.add(key)
            for start, length, value in scan.elements():
                if not isinstance(value, dict):
                    raise _broken(path, f"one of its {key} is no object")
                yield key, start, length, value
        else:
            scan.value()
        if scan.next() != ",":
            break
        scan.take(",")
    scan.take("}")
    missing = {"images", "annotations", "categories"} - seen
    if missing:
        raise _broken(path, f"it has no list {min(missing)}")


class _Scan:
    """JSON text, of which only the part that is looked at is in memory.

    Bytes are taken as Latin-1, so that places in the text are places in the file; what is looked at is ASCII.
    """

    def __init__(self, path: Path, read: Callable[[int], bytes]) -> None:
        self._path, self._read = path, read
        self._text, self._at, self._before = "", 0, 0
        self._decoder = json.JSONDecoder()

    def _more(self) -> bool:
        """Whether there was more to read; what was looked at is dropped."""
        chunk = self._read(max(_CHUNK, len(self._text) - self._at))
        self._before += self._at
        self._text, self._at = self._text[self._at :] + chunk.decode("latin-1"), 0
        return bool(chunk)

    def next(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, wanted: str) -> None:
        """This character is behind us."""
        found = self.next()
        if found != wanted:
            raise _broken(
                self._path,
                f"{found or 'the end'} stands at byte {self._before + self._at:,}, wanted {wanted}",
            )
        self._at += 1

    def value(self) -> tuple[Any, int, int]:
        """The next value, with its first byte and its length."""
        self.next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if self._more():
                    continue
                raise _broken(
                    self._path, f"it is damaged or ends behind byte {self._before + self._at:,}"
                ) from error
            # A number may go on behind what was read.
            if end == len(self._text) and self._more():
                continue
            start, length = self._before + self._at, end - self._at
            self._at = end
            return value, start, length

    def elements(self) -> Iterator[tuple[int, int, Any]]:
        """First byte, length and value of each element of the list that comes next."""
        self.take("[")
        while self.next() != "]":
            value, start, length = self.value()
            yield start, length, value
            if self.next() != ",":
                break
            self.take(",")
        self.take("]")
