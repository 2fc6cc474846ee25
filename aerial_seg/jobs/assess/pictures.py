"""A picture of the imagery around each point of a sample, in a folder beside the points."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.jobs.assess.sample import Sample
from aerial_seg.jobs.assess.settings import LARGEST_CHIP
from aerial_seg.mentions import setting
from aerial_seg.progress import Progress
from aerial_seg.report.point_pictures import draw_point

MARKER = "pictures.json"
_LOOKED_AT = 200
"""Points around which numbers of more than 8 bits are looked at, to know which are dark and which bright."""
_DARK, _BRIGHT = 2.0, 98.0
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])

Outlines = NDArray[np.float64]


def picture_folder(points: Path) -> Path:
    """Where the pictures of the points lie."""
    return points.with_name(f"{points.stem}_pictures")


def picture_name(number: int) -> str:
    """The file of the point of this number."""
    return f"{number:06d}.jpg"


def draw_pictures(
    folder: Path, image: Path, grid: Grid, sample: Sample, *, size: int, progress: Progress
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Cut the pictures into `folder`; (n,) whether each point has one, and what to say of those that have none.

    grid: the map's. size: pixels of the imagery a side. Raises InputError where no point lies on the imagery.
    """
    with Raster(image, georeferenced=False) as raster:
        outlines = _outlines(grid, raster.grid, sample)
        middles = np.floor(outlines.mean(axis=1)).astype(np.int64)
        height, width = raster.grid.shape
        there = ((middles >= 0) & (middles < [width, height])).all(axis=1)
        if not there.any():
            raise InputError(
                f"no point of the map lies on the imagery {image}, wanted that which shows the map's ground; pass it"
            )
        dark, bright = _stretch(raster, middles[there])
        with progress("pictures", total=int(there.sum()), unit="point") as bar:
            told = {"image": image.name, "size": size, "pictures": int(there.sum())}
            (folder / MARKER).write_text(json.dumps(told, indent=2), encoding="utf-8", newline="\n")
            for k in np.flatnonzero(there):
                left, top = middles[k] - size // 2
                pixels = _colours(raster, int(top), int(left), size, dark, bright)
                picture = draw_point(pixels, outlines[k] - [left, top])
                picture.save(folder / picture_name(int(k) + 1), quality=92, subsampling=0)
                bar.update(1)
    lost = int((~there).sum())
    notes = [f"{lost} points lie beyond the imagery {image.name} and have no picture"] if lost else []
    widest = math.ceil(np.ptp(outlines[there], axis=1).max())
    if widest > size:
        larger = setting("chip_size", min(2 * widest, LARGEST_CHIP))
        notes.append(
            f"a pixel of the map has {widest} pixels of the imagery a side, so pictures of {size} show a part of it "
            "and not its outline: "
            + (f"pass {larger}" if widest < LARGEST_CHIP else "give the imagery larger pixels (gdalwarp -tr)")
            + " to see all of it"
        )
    return there, tuple(notes)


def _outlines(grid: Grid, image: Grid, sample: Sample) -> Outlines:
    """(n, 4, 2) corners of the map's pixels in pixels of the imagery."""
    if (grid.crs is None) != (image.crs is None):
        bare = "map" if grid.crs is None else "imagery"
        raise InputError(f"the {bare} has no CRS and the other one; give it its CRS (gdal_edit.py -a_srs)")
    corners = np.stack([sample.cols, sample.rows], axis=-1)[:, None] + _CORNERS
    x, y = _through(tuple(grid.transform)[:6], corners[..., 0], corners[..., 1])
    if grid.crs is not None and grid.crs != image.crs:
        x, y = Transformer.from_crs(grid.crs, image.crs, always_xy=True).transform(x, y)
    found = np.stack(_through(tuple(~image.transform)[:6], x, y), axis=-1)
    lost = ~(np.abs(found) < 2**40)  # of NaN, too
    return np.where(lost, -1e9, found)


def _through(
    transform: tuple[float, ...], x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b, c, d, e, f = transform
    return x * a + y * b + c, x * d + y * e + f


def _stretch(raster: Raster, middles: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(C,) what is black and what is white: all of 8 bits, of other numbers those between two percentiles."""
    bands = len(raster.info.bands)
    if raster.info.dtype == "uint8":
        return np.zeros(bands), np.full(bands, 255.0)
    seen = []
    for x, y in middles[:: -(-len(middles) // _LOOKED_AT)].tolist():
        image, valid = _read(raster, y - 16, x - 16, 32)
        seen.append(image[:, valid])
    numbers = np.concatenate(seen, axis=1).astype(np.float64)
    if not numbers.size:
        return np.zeros(bands), np.ones(bands)
    dark, bright = np.percentile(numbers, [_DARK, _BRIGHT], axis=1)
    return dark, np.where(bright > dark, bright, dark + 1)


def _colours(
    raster: Raster, top: int, left: int, size: int, dark: NDArray[np.float64], bright: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """(size, size, 3) red, green and blue: the first three bands, or one in grey; white where nothing is measured."""
    image, valid = _read(raster, top, left, size)
    scaled = (image - dark[:, None, None]) / (bright - dark)[:, None, None] * 255
    scaled = scaled[:3] if len(scaled) >= 3 else np.repeat(scaled[:1], 3, axis=0)
    scaled[:, ~valid] = 255
    pixels: NDArray[np.uint8] = np.moveaxis(np.clip(np.rint(np.nan_to_num(scaled)), 0, 255), 0, -1).astype(
        np.uint8
    )
    return pixels


def _read(raster: Raster, top: int, left: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Pixels and valid of a square that may reach beyond the raster."""
    height, width = raster.grid.shape
    rows = range(max(0, top), min(top + size, height))
    cols = range(max(0, left), min(left + size, width))
    image = np.zeros((len(raster.info.bands), size, size))
    valid = np.zeros((size, size), bool)
    if len(rows) and len(cols):
        found, measured = raster.read(top=rows.start, left=cols.start, height=len(rows), width=len(cols))
        place = slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
        image[:, place[0], place[1]], valid[place] = found, measured
    return image, valid
