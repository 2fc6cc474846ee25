"""A file's choice of bands as a VRT in memory, with what tells its measured pixels."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader

from aerial_seg.band_names import role
from aerial_seg.errors import InputError
from aerial_seg.geo.raster.values.fill import stands_alone
from aerial_seg.geo.raster.values.measured import alpha_band
from aerial_seg.geo.raster.vrt import (
    GDAL_TYPES,
    add_band,
    add_mask,
    add_source,
    add_where_measured,
    as_text,
    new_vrt,
    place_source,
    source_name,
    take_least,
)
from aerial_seg.printable import cleaned_name


def declared_names(dataset: DatasetReader) -> tuple[str, ...]:
    """What the file calls its bands: the description, else a colour that means something, else `band N`."""

    def name(number: int, description: str | None, colour: ColorInterp) -> str:
        says = colour is not ColorInterp.alpha and role(colour.name) is not None
        # Without characters that no name, and no XML, can hold.
        own = cleaned_name(description or "")
        return own or (colour.name if says else f"band {number}")

    # Each of these asks GDAL for all bands.
    return tuple(map(name, dataset.indexes, dataset.descriptions, dataset.colorinterp))


def nodata_differs(dataset: DatasetReader, numbers: Sequence[int]) -> bool:
    """Whether these bands have not one nodata value; nan is equal to itself here."""
    values = dataset.nodatavals
    return len({repr(values[number - 1]) for number in numbers}) > 1


def chosen_vrt(dataset: DatasetReader, numbers: Sequence[int], nodata: float | None = None) -> str:
    """A VRT, as text, of these bands of an opened raster on its own grid.

    What tells measured pixels comes along: nodata (as a mask where bands differ in it, because resampling knows one
    value only), the mask of the file, and as last band an alpha that was not chosen. A chosen alpha band is imagery
    and masks nothing. nodata: of the caller, who looks for it himself; what bands declare tells nothing then. Raises
    InputError for pixels that VRT cannot name.
    """
    root = _placed(dataset)
    differs = nodata is None and nodata_differs(dataset, numbers)
    values, names, dtypes = dataset.nodatavals, declared_names(dataset), dataset.dtypes
    for number in numbers:
        own = None if differs or nodata is not None else values[number - 1]
        band = add_band(root, _named_dtype(dataset, number, dtypes), name=names[number - 1], nodata=own)
        _copy(band, dataset, number)
    alpha = alpha_band(dataset)
    if alpha is not None and alpha not in numbers:
        band = add_band(root, _named_dtype(dataset, alpha, dtypes))
        Xml.SubElement(band, "ColorInterp").text = "Alpha"
        _copy(band, dataset, alpha)
    if has_mask(dataset, numbers):
        _unshared(add_where_measured(add_mask(root), source_name(dataset), f"mask,{numbers[0]}"))
    elif differs:
        mask = add_mask(root)
        dtype = str(dtypes[numbers[0] - 1])
        add_declared(mask, source_name(dataset), [(n, values[n - 1]) for n in numbers], dtype, dataset.shape)
        take_least(mask)
    return as_text(root)


def measured_vrt(dataset: DatasetReader, numbers: Sequence[int], nodata: float | None = None) -> str:
    """As chosen_vrt, with all that tells measured pixels in one mask: values, the file's mask and alpha alike.

    nodata: of the caller, instead of what bands declare.
    """
    root, text = _placed(dataset), source_name(dataset)
    names, dtypes = declared_names(dataset), dataset.dtypes
    for number in numbers:
        _copy(add_band(root, _named_dtype(dataset, number, dtypes), name=names[number - 1]), dataset, number)
    mask, dtype = add_mask(root), str(dtypes[numbers[0] - 1])
    declared = [(number, dataset.nodatavals[number - 1]) for number in numbers]
    if nodata is not None:
        told = new_vrt(height=dataset.height, width=dataset.width)
        for number in numbers:
            _copy(
                add_band(told, _named_dtype(dataset, number, dtypes), nodata=float(nodata)), dataset, number
            )
        places = [(place, nodata) for place in range(1, len(numbers) + 1)]
        add_declared(mask, as_text(told), places, dtype, dataset.shape)
    elif not has_mask(dataset, numbers):
        add_declared(mask, text, declared, dtype, dataset.shape)
    if has_mask(dataset, numbers):
        _unshared(add_where_measured(mask, text, f"mask,{numbers[0]}"))
    alpha = alpha_band(dataset)
    if alpha is not None and alpha not in numbers:
        _unshared(add_where_measured(mask, text, alpha))
    take_least(mask)
    return as_text(root)


def has_mask(dataset: DatasetReader, numbers: Sequence[int]) -> bool:
    """Whether the file has a mask of its own, beside which values tell nothing."""
    flags = dataset.mask_flag_enums[numbers[0] - 1]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def add_declared(
    mask: Xml.Element,
    name: str,
    declared: Sequence[tuple[int, float | None]],
    dtype: str,
    shape: tuple[int, int],
    beside: Sequence[int] = (),
) -> None:
    """The mask, one that takes the least of its sources, is 0 where values tell that nothing was measured.

    declared: bands of the raster that GDAL calls `name`, each with its nodata value: see values.fill. beside: bands
    that have a say as those do whose value may also be measured. Nothing is added where no band declares a value.
    """
    alone = [number for number, value in declared if value is not None and stands_alone(value, dtype)]
    together = [number for number, value in declared if value is not None and number not in alone]
    if len(declared) == 1 and not beside:
        together += alone
        alone = []
    for number in alone:
        _filled(_unshared(add_where_measured(mask, name, f"mask,{number}")), shape)
    if together:
        root = new_vrt(height=shape[0], width=shape[1])
        measured = add_band(root, "uint8")
        for number in (*together, *beside):
            _filled(_unshared(add_where_measured(measured, name, f"mask,{number}")), shape)
        _filled(_unshared(add_source(mask, as_text(root), 1)), shape)


def _placed(dataset: DatasetReader) -> Xml.Element:
    return new_vrt(
        height=dataset.height,
        width=dataset.width,
        transform=None if dataset.transform.is_identity else dataset.transform,
        wkt=dataset.crs.to_wkt() if dataset.crs else None,
    )


def _filled(source: Xml.Element, shape: tuple[int, int]) -> None:
    height, width = shape
    place_source(source, (0.0, 0.0, float(width), float(height)), height=height, width=width)


def _copy(band: Xml.Element, dataset: DatasetReader, number: int) -> None:
    _unshared(add_source(band, source_name(dataset), number))


def _unshared(source: Xml.Element) -> Xml.Element:
    source[0].set("shared", "0")
    return source


def _named_dtype(dataset: DatasetReader, number: int, dtypes: Sequence[str]) -> str:
    dtype = str(dtypes[number - 1])
    if dtype not in GDAL_TYPES:
        raise InputError(
            f"{dataset.name} holds {dtype} in band {number}, wanted one of {', '.join(GDAL_TYPES)}; convert it"
        )
    return dtype
