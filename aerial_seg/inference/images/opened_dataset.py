"""Datasets that somebody else opened with rasterio, or windows of them, read as ours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.opening import UNUSABLE, telling_whose
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.raster_info import RasterInfo, scalings_of
from aerial_seg.geo.raster.values.measured import alpha_band


@contextmanager
def of_dataset(
    dataset: DatasetReader | WarpedVRT,
    *,
    window: Window | None = None,
    nodata: float | None = None,
    choice: BandChoice = ALL_BANDS,
) -> Iterator[Raster | ArrayRaster]:
    """The dataset's pixels on its own grid; of a window, or of what no file holds as it is, they lie in memory.

    A file is opened once more, so that its reader's thread and the caller's do not meet. Raises InputError for a closed
    dataset and for a window that does not lie inside it in whole pixels.
    """
    name = str(dataset.name)
    if dataset.closed:
        raise InputError(f"the dataset {name} is closed; open it again (rasterio.open), or predict the file")
    with telling_whose(name, UNUSABLE):
        inside = _whole_pixels(dataset, window)
        if _is_its_file(dataset):
            with Raster(name, nodata=nodata, georeferenced=False, choice=choice) as raster:
                same = raster.grid.shape == dataset.shape and raster.grid.transform == dataset.transform
                if same and inside is None:
                    yield raster
                    return
                if same and inside is not None:
                    yield _cut(raster, inside)
                    return
        # An overview, a warp, a file that is being written: nobody but this handle shows these pixels.
        yield _read(dataset, inside, nodata=nodata, choice=choice)


def _is_its_file(dataset: DatasetReader | WarpedVRT) -> bool:
    return not isinstance(dataset, WarpedVRT) and dataset.mode == "r" and bool(dataset.files)


def _whole_pixels(dataset: DatasetReader | WarpedVRT, window: Window | None) -> Window | None:
    if window is None:
        return None
    numbers = (window.col_off, window.row_off, window.width, window.height)
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"the window is {window}, wanted numbers of pixels inside the dataset")
    whole = Window(*(round(number) for number in numbers))
    fits = (
        min(whole.col_off, whole.row_off) >= 0
        and min(whole.width, whole.height) >= 1
        and whole.col_off + whole.width <= dataset.width
        and whole.row_off + whole.height <= dataset.height
    )
    if not fits or any(abs(number - round(number)) > 1e-6 for number in numbers):
        raise InputError(
            f"the window is {window}, wanted whole pixels inside the dataset's {dataset.width} × {dataset.height}; "
            "round and cut it (window.round_offsets().round_lengths(), .intersection(…))"
        )
    return whole


def _cut(raster: Raster, window: Window) -> ArrayRaster:
    place = {
        "top": window.row_off,
        "left": window.col_off,
        "height": window.height,
        "width": window.width,
    }
    image, valid = raster.read(**place)
    return ArrayRaster(
        image,
        grid=raster.grid.window(**place),
        name=f"the window of {raster.info.path}",
        names=raster.info.names,
        valid=valid,
        files=raster.files,
        scalings=raster.info.scalings,
    )


def _read(
    dataset: DatasetReader | WarpedVRT, window: Window | None, *, nodata: float | None, choice: BandChoice
) -> ArrayRaster:
    info = RasterInfo.of(dataset, Path(str(dataset.name)))
    if choice.stack:
        raise SettingsError(
            f"bands stacks files on {dataset.name}, which is no file as it is; open the file itself"
        )
    if choice.numbers and max(choice.numbers) > dataset.count:
        raise SettingsError(
            f"band {max(choice.numbers)} was asked for, but the dataset has {dataset.count}; name others"
        )
    image = dataset.read(list(choice.numbers or info.bands), window=window)
    valid = np.asarray(dataset.dataset_mask(window=window) > 0)
    alpha = alpha_band(dataset)
    if alpha is not None and alpha not in choice.numbers:
        valid &= dataset.read(alpha, window=window) > 0
    grid = info.grid
    if window is not None:
        grid = grid.window(top=window.row_off, left=window.col_off, height=window.height, width=window.width)
    names = info.names if not choice.numbers else choice.names
    return ArrayRaster(
        image,
        grid=grid,
        name=info.path,
        names=names,
        valid=valid,
        nodata=nodata,
        files=dataset.files,
        scalings=scalings_of(dataset, choice.numbers or info.bands),
    )
