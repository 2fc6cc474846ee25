"""Opening rasters: what is not there, or is none, is told; what servers cut short is asked again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from aerial_seg.errors import InputError
from aerial_seg.geo.remote import gdal_name, is_remote, opening, read_patiently
from aerial_seg.geo.vrt_members import require_members


@contextmanager
def open_dataset(path: Path | str) -> Iterator[DatasetReader]:
    """The opened raster. Raises InputError when there is none at `path` or GDAL cannot read it."""
    text = gdal_name(path)
    if not text.startswith(("/vsi", "<VRTDataset")):
        if not Path(text).exists():
            raise InputError(f"{text} does not exist; check the path")
        require_members(Path(text))
    try:
        with warnings.catch_warnings(), opening(text):
            # Said by us where it matters, as an error with its remedy.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = read_patiently(text, lambda: rasterio.open(text))
    except RasterioError as error:
        raise InputError(
            f"{text} is not a raster that GDAL can read ({error}); wanted a GeoTIFF, VRT or another GDAL format"
            + ("; check the address, and that the server is up" if is_remote(text) else "")
        ) from error
    with dataset:
        if dataset.count == 0:
            raise InputError(f"{text} holds no raster band; name one of its subdatasets instead")
        yield dataset


@contextmanager
def open_chosen(vrt: str, path: Path | str) -> Iterator[DatasetReader]:
    """A VRT of some bands of the raster at `path`, with its source opened.

    GDAL opens a VRT's source at the first read; if that fails, the next read gives zeros and no error.
    """

    def opened() -> tuple[ExitStack, DatasetReader]:
        with ExitStack() as kept:
            dataset = kept.enter_context(open_dataset(vrt))
            dataset.read(window=Window(0, 0, 1, 1))
            return kept.pop_all(), dataset

    try:
        kept, dataset = read_patiently(path, opened)
    except RasterioError as error:
        raise InputError(
            f"{path} could not be read ({error}); check that it is whole and reachable"
        ) from error
    with kept:
        yield dataset
