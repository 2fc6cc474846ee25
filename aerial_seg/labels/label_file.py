"""One label raster: what its pixels hold, read by windows, and what names it carries for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window

from aerial_seg.errors import InputError
from aerial_seg.geo.areas.vector_layer import parse_crs
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.opening import described, open_dataset, telling_whose
from aerial_seg.geo.raster.raster_info import grid_of
from aerial_seg.labels.class_table import LARGEST_VALUE
from aerial_seg.legend import Legend, LegendEntry, make_legend
from aerial_seg.mentions import setting
from aerial_seg.outputs.mask import read_legend

Stored = NDArray[Any]
"""Pixels (h, w) of a label raster: the numbers of one band, or 0xrrggbb of three."""

_AT_ONCE = 2**23
"""Pixels that are looked at together, if the raster's blocks allow it."""
_LOSSY_DRIVERS = ("JPEG",)
_LOSSY_CODECS = ("JPEG", "YCbCr JPEG")
_BESIDE = (".xml", ".ovr", ".msk", ".tfw", ".wld", ".pgw", ".jgw", ".prj")
"""What GDAL lists among the files of a raster though it holds none."""


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label raster, looked through once.

    colours: whether its pixels are colours. palette: of a raster of numbers that has one, number → 0xrrggbb.
    counts: measured pixels by what they hold. hidden: pixels by number that the file declares as nodata. masked: pixels
    that a mask or alpha band hides.
    """

    path: Path
    grid: Grid
    colours: bool
    palette: Mapping[int, int] | None
    nodata: float | None
    counts: Counter[int]
    hidden: Counter[int]
    masked: int
    notes: tuple[str, ...]

    @property
    def plain(self) -> LabelFile:
        """The same raster as numbers, where its colours are all grey."""
        return replace(self, colours=False, counts=Counter({c & 255: n for c, n in self.counts.items()}))

    @property
    def is_grey(self) -> bool:
        """Whether it holds colours of which none is one."""
        return self.colours and all(colour % 0x010101 == 0 for colour in self.counts)

    def read(
        self, window: Window, *, grey: bool = False
    ) -> tuple[Stored, NDArray[np.bool_], NDArray[np.bool_]]:
        """Pixels, where they are measured, and where they hold the declared nodata, all (h, w)."""
        with open_dataset(self.path) as dataset:
            stored, valid, hidden = _read(dataset, window)
        return (stored & 255 if grey else stored), valid, hidden


def open_label_file(path: Path, crs: str | None) -> LabelFile:
    """Reads every pixel once, to know all values before any work begins. crs: see LabelSettings.

    Raises InputError for what is no label raster: floats, several bands that are no colours, what JPEG has changed.
    """
    counts: Counter[int] = Counter()
    hidden: Counter[int] = Counter()
    masked = 0
    with described(path) as dataset:
        colours = _holds_colours(dataset, path)
        _refuse_lossy(dataset, path)
        for window in _windows(dataset):
            stored, valid, declared = _read(dataset, window)
            counts.update(_counted(stored[valid]))
            hidden.update(_counted(stored[declared & ~valid]))
            masked += int((~valid & ~declared).sum())
        grid, palette, nodata = grid_of(dataset), _palette(dataset), dataset.nodata
    notes: tuple[str, ...] = ()
    if crs is not None:
        given = parse_crs(crs, setting_name="crs")
        if grid.crs is not None and grid.crs != given:
            notes = (f"{path} says {grid.crs.to_string()}, but was read as {setting('crs', crs)}",)
        grid = replace(grid, crs=given)
    return LabelFile(path, grid, colours, palette, nodata, counts, hidden, masked, notes)


def _holds_colours(dataset: DatasetReader, path: Path) -> bool:
    """Whether it has red, green and blue; an alpha band only hides. Raises InputError for what is no label raster."""
    bands = [kind for kind in dataset.colorinterp if kind != ColorInterp.alpha]
    kinds = {np.dtype(dtype).kind for dtype in dataset.dtypes}
    if len(bands) == 3 and set(dataset.dtypes) == {"uint8"}:
        return True
    if len(bands) == 1 and kinds <= set("iu"):
        return False
    raise InputError(
        f"{path} has {dataset.count} band(s) of {dataset.dtypes[0]}, wanted one band of integer class values, or the "
        "colours of classes in three of uint8; convert floats to class numbers, or take one band of several, first "
        "(gdal_translate -b 1 -ot Byte in.tif out.tif)"
    )


def _refuse_lossy(dataset: DatasetReader, path: Path) -> None:
    """JPEG gives the borders of classes colours and numbers of its own, also where a VRT stands before it."""
    found = _lossy(dataset, set())
    if found is not None:
        codec, file = found
        whose = f"{path} is" if file == dataset.name else f"{path} is made of {file}, which is"
        raise InputError(
            f"{whose} compressed as {codec} with losses, which changes class values along every "
            "border; get the labels in a lossless form (PNG, or GeoTIFF with DEFLATE): converting this file does not "
            "bring them back"
        )


def _lossy(dataset: DatasetReader, seen: set[str]) -> tuple[str, str] | None:
    """How an opened raster, or a file that it is made of, was compressed with losses, and that file."""
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    codec = structure.get("COMPRESSION", "")
    lossy = structure.get("COMPRESSION_REVERSIBILITY", "").startswith("LOSSY")
    if dataset.driver in _LOSSY_DRIVERS or codec in _LOSSY_CODECS or lossy or "MAX_Z_ERROR" in structure:
        return codec or dataset.driver, str(dataset.name)
    seen.add(str(dataset.name))
    members = [file for file in dataset.files if file not in seen and not file.endswith(_BESIDE)]
    for file in members if dataset.driver == "VRT" else ():
        with open_dataset(file) as member:
            found = _lossy(member, seen)
        if found is not None:
            return found
    return None


def _windows(dataset: DatasetReader) -> Iterator[Window]:
    """Rows over the whole width, in multiples of its blocks."""
    block = dataset.block_shapes[0][0]
    rows = max(block, _AT_ONCE // max(1, dataset.width) // block * block)
    for top in range(0, dataset.height, rows):
        yield Window(0, top, dataset.width, min(rows, dataset.height - top))


def _read(dataset: DatasetReader, window: Window) -> tuple[Stored, NDArray[np.bool_], NDArray[np.bool_]]:
    place = f"row {window.row_off}, column {window.col_off}, {window.width} × {window.height} px"
    damaged = f"could not be read at {place} ({{error}}); the file is damaged or incomplete: copy it again"
    with telling_whose(dataset.name, damaged):
        kinds = dataset.colorinterp
        bands = [k for k, kind in enumerate(kinds, start=1) if kind != ColorInterp.alpha]
        image = dataset.read(bands, window=window)
        valid = dataset.dataset_mask(window=window) > 0
        if len(bands) == 3:
            red, green, blue = image.astype(np.uint32)
            return red << 16 | green << 8 | blue, valid, np.zeros_like(valid)
        by_value = MaskFlags.nodata in dataset.mask_flag_enums[bands[0] - 1]
        declared = image[0] == dataset.nodata if by_value else np.zeros_like(valid)
    return image[0], valid, declared


def _counted(values: Stored) -> dict[int, int]:
    if values.dtype == np.uint8:
        found = np.bincount(values, minlength=256)
        return {int(value): int(found[value]) for value in np.flatnonzero(found)}
    distinct, counts = np.unique(values, return_counts=True)
    return dict(zip(map(int, distinct), map(int, counts), strict=True))


def _palette(dataset: DatasetReader) -> Mapping[int, int] | None:
    if dataset.colorinterp[0] != ColorInterp.palette:
        return None
    return {index: r << 16 | g << 8 | b for index, (r, g, b, *_) in dataset.colormap(1).items()}


def legend_of_files(files: Sequence[LabelFile], counts: Mapping[int, int]) -> Legend | None:
    """The classes as the files name them; None where none of them names any, or a number can be no class's.

    counts: pixels of each number in all files. A number without a name is called by itself. Raises InputError where
    files name one number differently, or one class by two numbers: then the numbers mean no class.
    """
    told = [(file.path, own) for file in files if (own := read_legend(file.path)) is not None]
    if not told or not all(0 <= value <= LARGEST_VALUE for value in counts):
        return None
    held = {file.path: file.counts for file in files}
    found: dict[int, tuple[Path, LegendEntry]] = {}
    for path, own in told:
        for entry in own.entries:
            if held[path][entry.value]:
                first, other = found.setdefault(entry.value, (path, entry))
                if other.name != entry.name:
                    raise _contradiction(f"value {entry.value}", (first, other.name), (path, entry.name))
    numbers: dict[str, tuple[Path, int]] = {}
    for value, (path, entry) in found.items():
        first, number = numbers.setdefault(entry.name, (path, value))
        if number != value:
            raise _contradiction(f"class '{entry.name}'", (first, number), (path, value))
    legend = told[0][1]
    if counts.keys() <= set(legend.values) and all(found[value][1] in legend.entries for value in counts):
        return legend
    entries = {value: entry for value, (_, entry) in found.items()}
    missing = {value: f"class {value}" for value in counts if value not in entries}
    for entry in legend.entries:
        if entry.value not in missing and entry.name not in numbers:
            entries.setdefault(entry.value, entry)
    others = make_legend(missing).entries if missing else ()
    every = (*(entry for entry in entries.values() if entry.value not in missing), *others)
    return Legend(entries=tuple(sorted(every, key=lambda entry: entry.value)))


def _contradiction(what: str, one: tuple[Path, object], other: tuple[Path, object]) -> InputError:
    (path, said), (another, told) = one, other
    return InputError(
        f"{what} is {said!r} by the names that {path} carries, but {told!r} by those of {another}; bring them to one "
        f"numbering first, or say what all numbers mean with {setting('classes')}, if the names are wrong"
    )
