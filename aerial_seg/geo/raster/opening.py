"""Opening rasters: what is not there, or is none, is told; what servers cut short is asked again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree as Xml

import rasterio
from pyproj.exceptions import ProjError
from rasterio._env import del_gdal_config, get_gdal_config, set_gdal_config
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from aerial_seg.errors import InputError, at_work
from aerial_seg.files.names import shown
from aerial_seg.geo.raster.georeference import broken_crs
from aerial_seg.geo.raster.present import require_file, which_inside
from aerial_seg.geo.raster.remote import gdal_name, is_remote, is_virtual, read_patiently
from aerial_seg.geo.raster.vrt_members import require_members

UNUSABLE = "cannot be used ({error}); check it with gdalinfo, and copy or convert it again"
"""What is told of a raster whose facts GDAL cannot give."""

_LISTED_NAMES = 1000
"""GDAL lists the folder of a raster that it opens, but drops a list of more names and asks for each sidecar."""
_TIFF = (".tif", ".tiff")
_LISTING = ("GDAL_DISABLE_READDIR_ON_OPEN", "GDAL_READDIR_LIMIT_ON_OPEN")

LIBRARIES = (RasterioError, CPLE_BaseError, CRSError, ProjError)
"""What rasterio, GDAL below it and PROJ raise: CPLE are GDAL's errors that rasterio passes on as they are."""


@contextmanager
def telling_whose(path: Path | str, wanted: str) -> Iterator[None]:
    """Whatever the libraries raise in the block is an InputError that names the raster, and what was `wanted`.

    For blocks that read: what fails in writing is not the raster's fault.
    """
    try:
        yield
    except UnicodeError as error:
        raise InputError(
            f"{shown(path)} holds texts (a band's description, tags) that are not UTF-8; write them anew, or copy it "
            "without them (gdal_translate -co PROFILE=GeoTIFF --config GDAL_PAM_ENABLED NO in.tif out.tif)"
        ) from error
    except LIBRARIES as error:
        raise InputError(f"{shown(path)} {wanted.format(error=_reason(error))}") from error


def _reason(error: BaseException) -> str:
    """GDAL's own words, where rasterio says only that there are some."""
    behind = error.__cause__
    return str(behind) if behind is not None and "See previous exception" in str(error) else str(error)


@contextmanager
def open_dataset(path: Path | str, *, all_cores: bool = False) -> Iterator[DatasetReader]:
    """The opened raster. all_cores: blocks of a GeoTIFF that are read together are decoded beside each other.

    Not of one on a server: there GDAL would ask for blocks ahead and tell of each that failed on its own.

    Raises InputError when there is none at `path` or GDAL cannot read it, or its sidecars.
    """
    text = gdal_name(path)
    with at_work("a VRT of our own" if text.startswith("<") else text):
        require_file(path)
        if not is_virtual(text):
            require_members(Path(text))
        server = "; check the address, and that the server is up" if is_remote(text) else ""
        wanted = f"is not a raster that GDAL can read ({{error}}); wanted a GeoTIFF, VRT or another GDAL format{server}"
        with telling_whose(text, wanted):
            local = not is_remote(text)
            dataset = _opened(text, all_cores=all_cores and local and text.lower().endswith(_TIFF))
        # Not `with dataset`: that enters an environment of GDAL's options, which must be left in turn, and a raster is
        # also closed and opened again while one for reading is entered.
        try:
            if dataset.count == 0:
                raise InputError(f"{path} holds no raster band; {which_inside(dataset)}")
            yield dataset
        finally:
            dataset.close()


@contextmanager
def described(path: Path | str) -> Iterator[DatasetReader]:
    """As open_dataset, for a block that only reads: whatever the libraries raise in it is the raster's InputError."""
    with telling_whose(path, UNUSABLE), open_dataset(path) as dataset:
        yield dataset


def _opened(text: str, *, all_cores: bool) -> DatasetReader:
    options = {"NUM_THREADS": "ALL_CPUS"} if all_cores else {}
    with warnings.catch_warnings(), _no_useless_list(text):
        # Said by us where it matters, as an error with its remedy.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        dataset = read_patiently(text, lambda: rasterio.open(text, **options))
    try:
        try:
            # What GDAL complained of while opening comes out at the next call that looks for an error, once.
            _ = dataset.colorinterp
        except CPLE_BaseError:
            # A CRS that it could not build is told where a CRS is wanted.
            if broken_crs(dataset) is None:
                raise
        _require_sidecars(dataset)
    except BaseException:
        dataset.close()
        raise
    return dataset


@contextmanager
def _no_useless_list(text: str) -> Iterator[None]:
    """While inside, GDAL does not list a folder whose list it would drop: half the work of opening a small raster.

    What it finds beside the raster is the same. Not for a VRT, whose members lie in folders of their own. Of a raster
    on a server it would ask for every sidecar.
    """
    if is_remote(text):
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            yield
        return
    folder = os.path.dirname(text) or "."  # noqa: PTH120 - of thousands of rasters
    if text.startswith(("/vsi", "<")) or text.lower().endswith(".vrt") or not _is_crowded(folder):
        yield
        return
    # As an Env would, which costs a tenth of the opening.
    set_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN", "TRUE")
    try:
        yield
    finally:
        del_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN")


def _is_crowded(folder: str) -> bool:
    """Whether GDAL, as it is set up, would drop the list of this folder."""
    if any(get_gdal_config(option) is not None for option in _LISTING):
        return False
    try:
        return _holds_many(folder, os.stat(folder).st_mtime_ns)  # noqa: PTH116 - as above
    except OSError:
        return False


@lru_cache(maxsize=8)
def _holds_many(folder: str, changed: int) -> bool:
    """As of the time `changed`, when a name was last added to the folder or taken away."""
    del changed
    with os.scandir(folder) as names:
        return sum(1 for _ in islice(names, _LISTED_NAMES + 1)) > _LISTED_NAMES


def _require_sidecars(dataset: DatasetReader) -> None:
    """Raises InputError for a mask or an .aux.xml of a raster that GDAL cannot read: it goes on without, in silence."""
    mask, facts = dataset.name + ".msk", dataset.name + ".aux.xml"
    is_masked = os.path.isfile(mask)  # noqa: PTH113 - a Path raises for names that are too long
    if is_masked and dataset.count and MaskFlags.per_dataset not in dataset.mask_flag_enums[0]:
        raise InputError(
            f"{mask} is not a mask that GDAL can read, so that nothing would tell which pixels of {dataset.name} were "
            "measured; copy it again, or take it away"
        )
    if not os.path.isfile(facts):  # noqa: PTH113 - as above
        return
    try:
        # GDAL takes bytes that are no UTF-8 as they come.
        Xml.fromstring(Path(facts).read_bytes().decode("utf-8", "replace"))
    except (Xml.ParseError, ValueError, LookupError, OSError) as error:
        raise InputError(
            f"{facts} is not XML ({error}), so that GDAL would leave out what it says; delete it or write it again"
        ) from error


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

    with telling_whose(path, "could not be read ({error}); check that it is whole and reachable"):
        kept, dataset = read_patiently(path, opened)
    with kept:
        yield dataset
