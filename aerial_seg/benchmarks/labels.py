"""What the publishers' files hold: images as RGB, labels as the numbers that are stored, never as colours."""

from __future__ import annotations

import tomllib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aerial_seg.benchmarks.dataset import Example
from aerial_seg.errors import InputError
from aerial_seg.legend import Legend, make_legend
from aerial_seg.recipe.loading import shipped_text

UNKNOWN = 254
"""In a table from label values to channels: the value is none that the layout knows."""

_PICTURES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
# Pillow stretches grey PNG of fewer than 8 bits to 0-255; this takes it back. Palette indices it leaves alone.
_GREY_STEP = {2: 85, 4: 17}
_BIT_DEPTH_AT = 24
"""Place of the bit depth in a PNG file: signature 8 bytes, IHDR's length and name 8, width and height 8."""


def class_rows(benchmark: str) -> list[dict[str, Any]]:
    """The publishers' class table, configs/classes/BENCHMARK.toml, row by row."""
    rows: list[dict[str, Any]] = tomllib.loads(shipped_text("classes", benchmark))["classes"]
    return rows


def legend_of(rows: list[dict[str, Any]]) -> Legend:
    """The legend whose class k, value k, has name and colour of the k-th row; one called background is marked so."""
    return make_legend(
        {k: row["name"] for k, row in enumerate(rows)},
        background=[k for k, row in enumerate(rows) if row["name"] == "background"],
        colours={k: row["colour"] for k, row in enumerate(rows)},
    )


def read_image(path: Path) -> NDArray[np.uint8]:
    """(H,W,3) uint8 RGB of the pixels as they are stored; grey, palette and CMYK images become RGB.

    An orientation in the EXIF data is not applied: the labels were drawn on the stored pixels, and the reference
    implementations do not apply it either. Raises InputError for a file that is no image of 8 bits a channel.
    """
    with _opened(path) as image:
        if image.mode not in _PICTURES:
            raise InputError(
                f"{path} has Pillow's mode {image.mode}, wanted 8 bits a channel (RGB, grey or CMYK); "
                "restore it from the publishers' archive"
            )
        return np.array(image.convert("RGB"))


def read_values(path: Path) -> NDArray[np.uint8]:
    """(H,W) uint8: the numbers in a label file, a palette's indices where it has one; SBD's class map for a `.mat`.

    Raises InputError for a file that is damaged or holds colours.
    """
    if path.suffix == ".mat":
        return _read_sbd(path)
    with _opened(path) as image:
        if image.format != "PNG" or image.mode not in ("1", "L", "P"):
            raise InputError(
                f"{path} is {image.format} of mode {image.mode}, wanted a PNG of class numbers (palette or 8-bit "
                "grey): colours name no class; take the publishers' label file instead"
            )
        # np.array takes the indices of a palette image; convert("L") would make luminances of its colours.
        values = np.array(image).astype(np.uint8, copy=False)
        grey = image.mode == "L"
    return values // _grey_step(path) if grey else values


def channels_of(
    values: NDArray[np.uint8], table: NDArray[np.uint8], *, path: Path, allowed: str
) -> NDArray[np.uint8]:
    """(H,W) channels by one look-up in `table` (256,), 255 = ignored.

    Raises InputError with `path`, every value that the table calls UNKNOWN and its pixels, and what is allowed.
    """
    channels: NDArray[np.uint8] = np.take(table, values)
    if (channels == UNKNOWN).any():
        counts = np.bincount(values.ravel(), minlength=256)
        strange = [
            f"{value} ({counts[value]} px)" for value in np.flatnonzero((table == UNKNOWN) & (counts > 0))
        ]
        shown = ", ".join(strange[:8]) + (f" and {len(strange) - 8} others" if len(strange) > 8 else "")
        raise InputError(
            f"{path} holds the value{'s' if len(strange) > 1 else ''} {shown}, wanted {allowed}; "
            "restore the file from the publishers' archive"
        )
    return channels


def is_sbd(example: Example) -> bool:
    """Whether the label is one of SBD's MATLAB files, which scipy reads."""
    return example.label is not None and example.label.suffix == ".mat"


def check_sizes(example: Example) -> None:
    """Raises InputError unless image and label have one size; only the headers are read, a `.mat` as a whole."""
    width, height = image_size(example.image)
    if example.label is None:
        return
    if example.label_size is not None:
        columns, rows = example.label_size
    elif example.label.suffix == ".mat":
        rows, columns = _read_sbd(example.label).shape
    else:
        columns, rows = image_size(example.label)
    if (width, height) != (columns, rows):
        raise InputError(
            f"{example.image} is {width} × {height} px but its label {example.label} is {columns} × {rows} px; "
            "labels are never resized: restore both from the publishers' archives"
        )


def image_size(path: Path) -> tuple[int, int]:
    """(width, height), from the header only. Raises InputError for a file that is no image."""
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, zlib.error) as error:
        # Pillow calls some damaged PNG files a SyntaxError.
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} cannot be read ({reason}); restore it from the publishers' archive"
        ) from error


def _grey_step(path: Path) -> int:
    with path.open("rb") as file:
        return _GREY_STEP.get(file.read(_BIT_DEPTH_AT + 1)[_BIT_DEPTH_AT], 1)


def _read_sbd(path: Path) -> NDArray[np.uint8]:
    # Source: SBD's `cls/ID.mat` is one struct GTcls with Boundaries, Segmentation and CategoriesPresent.
    if find_spec("scipy") is None:
        raise InputError(f"{path} needs scipy, which is not installed; pip install 'aerial-seg[benchmark]'")
    matlab: Any = import_module("scipy.io.matlab")
    broken = (OSError, KeyError, IndexError, TypeError, ValueError, NotImplementedError, zlib.error)
    try:
        found = np.asarray(matlab.loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0])
    except (*broken, matlab.MatReadError) as error:
        raise InputError(
            f"{path} cannot be read as SBD's GTcls.Segmentation ({error}); restore it from benchmark.tgz"
        ) from error
    if (
        found.ndim != 2
        or found.dtype.kind not in "iu"
        or found.size == 0
        or found.min() < 0
        or found.max() > 255
    ):
        raise InputError(
            f"{path} holds {found.dtype} of shape {found.shape} as GTcls.Segmentation, wanted whole numbers 0–255 "
            "in rows and columns; restore it from benchmark.tgz"
        )
    return found.astype(np.uint8)
