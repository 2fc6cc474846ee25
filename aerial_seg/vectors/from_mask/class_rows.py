"""The rows of a mask on their way to the tracer: read, cleaned, objects and cells told apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError
from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.measures import Measure
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.legend import LegendEntry
from aerial_seg.mentions import setting
from aerial_seg.polygonize.batch import Codes
from aerial_seg.polygonize.cleaning.code_suffix import CodeSuffix, cut_by_grid, suffix_bits
from aerial_seg.polygonize.cleaning.majority import majority
from aerial_seg.polygonize.cleaning.objects import OBJECT_BITS, ObjectSplitter
from aerial_seg.polygonize.cleaning.sieve import CleanRules, clean
from aerial_seg.polygonize.row_chunks import in_row_chunks
from aerial_seg.progress import ProgressBar
from aerial_seg.vectors.class_raster import ClassRaster
from aerial_seg.vectors.from_mask.settings import CleanSettings, ShapeSettings

Bytes = NDArray[np.uint8]

_OBJECTS_APART_M = 4.0
"""Middles of objects that lie nearer to each other are one object: no house is narrower."""


@dataclass(frozen=True, slots=True)
class VectorizeRequest:
    """Say what is to be made of a mask: its chosen classes and the settings that concern its pixels."""

    chosen: tuple[LegendEntry, ...]
    clean: CleanSettings
    shape: ShapeSettings


class ClassRows:
    """Hand out the rows of one mask as the tracer takes them; the settings are in pixels by now.

    Counts are complete when `rows` has come to its end.
    """

    def __init__(
        self, mask: ClassRaster, request: VectorizeRequest, confidence: Path | ArrayRaster | None
    ) -> None:
        self._mask, self._request, self._confidence = mask, request, confidence
        codes = {entry.name: mask.code_of(entry.value) for entry in request.chosen}
        gsd = mask.grid.gsd()
        self._rules = CleanRules(
            min_pixels=_pixels(request.clean.min_area, gsd),
            hole_pixels=_pixels(request.clean.fill_holes, gsd),
            hole_classes=frozenset(code for code in codes.values() if code is not None),
        )
        splits = [codes[name] for name in request.shape.instances]
        found = np.array([code for code in splits if code is not None], np.uint16)
        apart = max(3, round(_OBJECTS_APART_M / math.sqrt(gsd[0] * gsd[1]))) if gsd else 5
        self.splitter = ObjectSplitter(found, min_distance=apart) if len(found) else None
        bits = suffix_bits(
            grid=request.shape.split_grid is not None, objects_bits=OBJECT_BITS if self.splitter else 0
        )
        self.code_suffix = CodeSuffix(bits, mask.classes)
        self.cleaned = clean(self._smoothed, CleanRules())

    def clean(self, bar: ProgressBar) -> None:
        """Settle what becomes of holes and small patches, by a pass over the rows if need be."""
        self.cleaned = clean(lambda: self._smoothed(bar), self._rules)

    @property
    def cleans(self) -> bool:
        """Tell whether `clean` reads the mask."""
        return not self._rules.ask_for_nothing

    def rows(self, bar: ProgressBar) -> Iterator[tuple[Codes, Bytes | None]]:
        """Yield suffixed codes and stored confidence, chunk by chunk."""
        rows = self._with_confidence(bar)
        if self.splitter is not None:
            rows = self.splitter.suffixed(rows)
        if self._request.shape.split_grid is None:
            return rows
        extent = self._mask.extent
        return cut_by_grid(
            rows, self._request.shape.split_grid, top=extent.rows.start, left=extent.cols.start
        )

    def _smoothed(self, bar: ProgressBar | None = None) -> Iterator[Codes]:
        chunks = (codes for codes, _ in in_row_chunks((rows, None) for rows in self._mask.rows()))
        size = self._request.clean.smooth_mask
        for codes in chunks if size is None else majority(chunks, size):
            yield codes
            if bar is not None:
                bar.update(len(codes))

    def _with_confidence(self, bar: ProgressBar) -> Iterator[tuple[Codes, Bytes | None]]:
        with ExitStack() as stack:
            levels: Raster | ArrayRaster | None = None
            if isinstance(self._confidence, ArrayRaster):
                levels = self._confidence
            elif self._confidence is not None:
                levels = stack.enter_context(Raster(self._confidence, georeferenced=False))
            top, left = self._mask.extent.rows.start, self._mask.extent.cols.start
            for codes in self.cleaned.chunks():
                yield codes, None if levels is None else _read_levels(levels, top, left, codes.shape)
                top += len(codes)
                bar.update(len(codes))


def _pixels(area: Measure | None, gsd: tuple[float, float] | None) -> int:
    return 0 if area is None else math.ceil(area.in_pixels(gsd))


def _read_levels(raster: Raster | ArrayRaster, top: int, left: int, shape: tuple[int, ...]) -> Bytes:
    image, valid = raster.read(top=top, left=left, height=shape[0], width=shape[1])
    return np.where(valid, image[0], 0).astype(np.uint8)


def find_confidence(mask: Path, named: Path | None, grid: Grid) -> Path | None:
    """Find the confidence raster to use: the one asked for, else MASK_confidence.tif, if it is there and fits.

    Raises InputError when the one asked for is not one band of uint8 on the mask's grid.
    """
    path = mask.with_name(f"{mask.stem}_confidence{mask.suffix}") if named is None else named
    if named is None and (find_subdataset(mask) or not path.is_file()):
        return None
    with Raster(path, georeferenced=False) as raster:
        info, own = raster.info, raster.grid
    same_grid = own.shape == grid.shape and own.transform == grid.transform
    if len(info.bands) == 1 and info.dtype == "uint8" and same_grid:
        return path
    if named is None:
        return None
    raise InputError(
        f"{path} has {len(info.bands)} band(s) of {info.dtype}, {own.width} × {own.height} px, wanted one of uint8 on "
        f"the mask's grid of {grid.width} × {grid.height} px; pass what "
        f"{setting('confidence', True, job='predict')} wrote for this mask"
    )
