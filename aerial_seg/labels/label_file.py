"""One label raster: what its pixels hold, read by windows. What these mean is not known here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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
from aerial_seg.mentions import setting

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
