"""What a caller hands over as an image, read as a raster: arrays, tensors, opened datasets, xarray's DataArrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.io import BufferedDatasetWriter, DatasetReader, DatasetWriter
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from aerial_seg.bands import Band
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.values.fill import Valid
from aerial_seg.inference.images.labelled_array import is_labelled_array, read_labelled_array, require_usable
from aerial_seg.inference.images.opened_dataset import of_dataset
from aerial_seg.inference.match_bands import check_bands
from aerial_seg.printable import shortened

_LOCAL = CRS.from_wkt('LOCAL_CS["array",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]')
"""Where an array lies of which only the pixels' size is known."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the caller says of an image beside its pixels; see Segmenter.__call__."""

    gsd: float | None = None
    crs: Any = None
    transform: Any = None
    valid: Any = None
    nodata: float | None = None
    bands_last: bool = False
    bands: Sequence[int] | BandChoice | None = None

    def only_for(self, what: str, *allowed: str) -> None:
        """Raises SettingsError for what does not go with this kind of image."""
        given = {
            "gsd": self.gsd,
            "crs": self.crs,
            "transform": self.transform,
            "valid": self.valid,
            "nodata": self.nodata,
            "channels_last": self.bands_last,
            "bands": self.bands,
        }
        for name, value in given.items():
            if name not in allowed and value is not None and value is not False:
                raise SettingsError(
                    f"{name} is given, but {what} says that itself; leave {name} out, or hand over a plain array"
                )


@contextmanager
def open_image(
    image: Any, said: Said, bands: Sequence[Band], scale: str = "auto"
) -> Iterator[Raster | ArrayRaster]:
    """The image, ready to be read; of an opened dataset nothing is read yet, unless it is a window.

    bands: those of the model. scale: see check_bands. Raises InputError where the image is none, or not one that the
    model can see.
    """
    if said.nodata is not None and not _is_number(said.nodata):
        raise SettingsError(f"nodata is {said.nodata!r}, wanted the number that unmeasured pixels hold")
    if isinstance(image, tuple) and len(image) == 2 and isinstance(image[1], Window):
        image, window = image
    else:
        window = None
    if isinstance(image, DatasetReader | DatasetWriter | BufferedDatasetWriter | WarpedVRT):
        said.only_for("an opened dataset", "nodata", "bands")
        choice = _choice(said.bands, bands)
        with of_dataset(image, window=window, nodata=said.nodata, choice=choice) as raster:
            raster.scale(check_bands(raster.info, bands, choice, scale=scale))
            yield raster
        return
    if window is not None:
        raise InputError(
            f"a window of {_kind(image)} was handed over, wanted one of an opened rasterio dataset; cut arrays by "
            "slicing them"
        )
    yield _of_array(image, said, bands)


def _of_array(image: Any, said: Said, bands: Sequence[Band]) -> ArrayRaster:
    names: Sequence[str] = ()
    nodata, grid = said.nodata, None
    if is_labelled_array(image):
        said.only_for("a DataArray", "valid", "nodata", "bands")
        read = read_labelled_array(image)
        pixels, names, grid = read.image, read.names, read.grid
        nodata = read.nodata if nodata is None else nodata
        valid = said.valid
    else:
        pixels, valid = _pixels(image, said)
    is_tensor = isinstance(image, torch.Tensor)
    choice = _choice(said.bands, bands)
    if choice.numbers:
        pixels, names = _chosen(pixels, names, choice, bands_last=said.bands_last)
    pixels = _checked(pixels, bands, channels_last=said.bands_last, is_tensor=is_tensor)
    height, width = pixels.shape[1:]
    if min(height, width) < 1:
        raise InputError(f"an image of {height} × {width} pixels holds nothing to work on")
    if grid is None:
        grid = _placed(said, height=height, width=width)
    raster = ArrayRaster(
        pixels, grid=grid, names=names, valid=_checked_mask(valid, height, width), nodata=nodata
    )
    check_bands(raster.info, bands, choice)
    return raster


def _choice(bands: Any, wanted: Sequence[Band]) -> BandChoice:
    """The bands to read: all, those of these numbers, or a BandChoice, which messages speak of."""
    if bands is None:
        return ALL_BANDS
    if isinstance(bands, BandChoice):
        return bands.ordered([band.name for band in wanted])
    if isinstance(bands, str | bytes) or not isinstance(bands, Iterable) or not (numbers := tuple(bands)):
        raise SettingsError(
            f"bands is {shortened(repr(bands))}, wanted the numbers of bands from 1 on, as [3, 2, 1]"
        )
    return BandChoice(numbers)


def _chosen(
    pixels: NDArray[Any], names: Sequence[str], choice: BandChoice, *, bands_last: bool
) -> tuple[NDArray[Any], Sequence[str]]:
    """These bands of the array, in this order."""
    axis = -1 if bands_last else 0
    if choice.stack:
        raise SettingsError(
            "bands stacks files, which goes with an opened dataset; stack arrays (np.concatenate)"
        )
    if pixels.ndim != 3 or max(choice.numbers) > pixels.shape[axis]:
        raise InputError(
            f"band {max(choice.numbers)} was asked for, but the image has the shape {pixels.shape}; name others"
        )
    places = [number - 1 for number in choice.numbers]
    kept = [names[place] for place in places] if names else ()
    return pixels.take(places, axis=axis), choice.names or kept


def _pixels(image: Any, said: Said) -> tuple[NDArray[Any], Any]:
    """The array as it was handed over, and what tells measured pixels."""
    if isinstance(image, torch.Tensor):
        try:
            return image.detach().cpu().resolve_conj().resolve_neg().numpy(), said.valid
        except (TypeError, RuntimeError) as error:
            if image.layout != torch.strided:
                what, remedy = str(image.layout), "convert it (.to_dense())"
            elif image.is_meta:
                what, remedy = "no data (on meta)", "hand over one that holds pixels"
            else:
                what, remedy = str(image.dtype), "convert it (.to(torch.float32))"
            raise InputError(
                f"a tensor of {what} was handed over, of which numpy can make no array; {remedy}"
            ) from error
    if isinstance(image, np.ma.MaskedArray):
        if said.valid is not None:
            raise SettingsError(
                "valid is given, but a masked array says that itself; leave valid out, or hand over image.data"
            )
        axis = -1 if said.bands_last else 0
        mask = np.ma.getmaskarray(image)
        # As nodata in a file: a pixel is not measured where all of its bands are not.
        return np.asarray(image.data), ~(mask.all(axis=axis) if image.ndim == 3 else mask)
    if isinstance(image, np.ndarray):
        return image, said.valid
    raise InputError(
        f"the image is {_kind(image)}, wanted a numpy array, a torch tensor, an opened rasterio dataset, (dataset, "
        "window) or an xarray DataArray; to predict files, use aerial_seg.predict"
    )


def _checked(
    pixels: NDArray[Any], bands: Sequence[Band], *, channels_last: bool, is_tensor: bool = False
) -> NDArray[Any]:
    """(C,H,W), a view, in this machine's byte order. Raises InputError, naming both sides and the remedy."""
    model = ", ".join(f"{band.name} {band.dtype}" for band in bands)
    count = len(bands)
    if pixels.ndim == 2 and count == 1:
        pixels = pixels[None]
    elif channels_last and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, -1, 0)
    if pixels.ndim != 3:
        raise InputError(
            f"the image has the shape {pixels.shape}, wanted ({count}, height, width): one image at a time, of the "
            f"bands that the model was trained on ({model})"
        )
    if len(pixels) != count:
        swapped = not channels_last and pixels.shape[2] == count
        remedy = (
            "its last axis has as many: pass channels_last=True"
            if swapped
            else "pick the same bands in the same order (image[[0, 1, 2]]), or train a model on these"
        )
        raise InputError(
            f"the image has {len(pixels)} bands (its shape is {pixels.shape}), but the model was trained on {count} "
            f"({model}); {remedy}"
        )
    if pixels.dtype.name != bands[0].dtype:
        raise InputError(
            f"the image holds {pixels.dtype.name}, but the model was trained on {bands[0].dtype} ({model}); "
            f"{_conversion(pixels, bands[0].dtype, is_tensor=is_tensor)}, or train a model on these"
        )
    return pixels.astype(bands[0].dtype, copy=False)


def _conversion(pixels: NDArray[Any], wanted: str, *, is_tensor: bool) -> str:
    """How to bring the pixels to the dtype; fractions of 1 and NaN would become zeros where it is of whole numbers."""
    scaled = "image"
    if pixels.dtype.kind == "f" and np.dtype(wanted).kind in "iu" and pixels.size:
        if np.isnan(pixels).any():
            return (
                "its NaN would become zeros: hand over the pixels as they were read (rioxarray: without masked=True), "
                "with nodata=… or valid=…"
            )
        if pixels.min() >= 0 and pixels.max() <= 1:
            scaled = f"(image * {np.iinfo(wanted).max}).round()"
    call = f"to(torch.{wanted})" if is_tensor else f"astype('{wanted}')"
    return f"bring it to the same units and convert it ({scaled}.{call})"


def _checked_mask(valid: Any, height: int, width: int) -> Valid | None:
    if valid is None:
        return None
    try:
        mask = np.asarray(valid.detach().cpu() if isinstance(valid, torch.Tensor) else valid)
    except ValueError:  # rows of several lengths
        raise InputError(f"valid is no array, wanted bool of shape ({height}, {width})") from None
    if np.ma.is_masked(valid):
        raise InputError(
            "valid is a masked array, which says twice what was measured; pass valid.filled(False)"
        )
    if mask.dtype != bool or mask.shape != (height, width):
        raise InputError(
            f"valid is {mask.dtype} of shape {mask.shape}, wanted bool of shape ({height}, {width}), True where a "
            "pixel was measured"
        )
    return mask


def _placed(said: Said, *, height: int, width: int) -> Grid:
    """Where an array lies, as far as its caller says so."""
    if said.gsd is not None:
        for name, value in (("crs", said.crs), ("transform", said.transform)):
            if value is not None:
                raise SettingsError(f"gsd and {name} both say how large pixels are; pass one of them")
        if not (_is_number(said.gsd) and 1e-9 <= said.gsd <= 1e6):
            raise SettingsError(f"gsd is {said.gsd!r}, wanted metres per pixel, as 0.5")
        side = float(said.gsd)
        return Grid(_LOCAL, Affine.scale(side, -side), height, width)
    if said.crs is not None and said.transform is None:
        raise SettingsError(
            "crs is given, but no transform, so that pixels have no place in it; pass transform too"
        )
    return Grid(_crs(said.crs), _affine(said.transform), height, width)


def _crs(crs: Any) -> CRS | None:
    if crs is None:
        return None
    try:
        found = CRS.from_user_input(crs.to_wkt() if hasattr(crs, "to_wkt") else crs)
    except CRSError as error:
        raise SettingsError(
            f"crs is {crs!r}, which is no CRS ({error}); write it like 'EPSG:32633'"
        ) from error
    return require_usable(found, "the array")


def _affine(transform: Any) -> Affine:
    if transform is None:
        return Affine.identity()
    try:
        found = Affine(*tuple(transform)[:6])
        usable = bool(np.isfinite(found[:6]).all()) and not found.is_degenerate
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise SettingsError(
            f"transform is {' '.join(repr(transform).split())}, wanted an affine.Affine that places pixels, as "
            "rasterio.transform.from_origin gives it"
        )
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _kind(thing: object) -> str:
    name = type(thing).__name__
    return f"'{thing}', a {name}" if isinstance(thing, str) else f"of type {name}"
