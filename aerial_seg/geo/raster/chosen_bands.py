"""A file's choice of bands as a VRT in memory, with what tells its measured pixels."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader

from aerial_seg.errors import InputError
from aerial_seg.geo.raster.band_choice import role
from aerial_seg.geo.raster.vrt import (
    GDAL_TYPES,
    add_band,
    add_mask,
    add_source,
    add_where_measured,
    as_text,
    new_vrt,
    source_name,
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


def chosen_vrt(dataset: DatasetReader, numbers: Sequence[int]) -> str:
    """A VRT, as text, of these bands of an opened raster on its own grid.

    What tells measured pixels comes along: nodata (as a mask where bands differ in it, because resampling knows one
    value only), the mask of the file, and as last band an alpha that was not chosen. A chosen alpha band is imagery
    and masks nothing. Raises InputError for pixels that VRT cannot name.
    """
    root = new_vrt(
        height=dataset.height,
        width=dataset.width,
        transform=None if dataset.transform.is_identity else dataset.transform,
        wkt=dataset.crs.to_wkt() if dataset.crs else None,
    )
    differs = nodata_differs(dataset, numbers)
    values, names, dtypes = dataset.nodatavals, declared_names(dataset), dataset.dtypes
    for number in numbers:
        dtype = _named_dtype(dataset, number, dtypes)
        nodata = None if differs else values[number - 1]
        band = add_band(root, dtype, name=names[number - 1], nodata=nodata)
        _copy(band, dataset, number)
    alpha = [
        n
        for n, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True)
        if meaning == ColorInterp.alpha
    ]
    if alpha and alpha[0] not in numbers:
        band = add_band(root, _named_dtype(dataset, alpha[0], dtypes))
        Xml.SubElement(band, "ColorInterp").text = "Alpha"
        _copy(band, dataset, alpha[0])
    flags = dataset.mask_flag_enums[numbers[0] - 1]
    has_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    if has_mask or differs:
        mask = add_mask(root)
        for number in numbers[:1] if has_mask else numbers:
            _unshared(add_where_measured(mask, source_name(dataset), f"mask,{number}"))
    return as_text(root)


def _copy(band: Xml.Element, dataset: DatasetReader, number: int) -> None:
    _unshared(add_source(band, source_name(dataset), number))


def _unshared(source: Xml.Element) -> None:
    source[0].set("shared", "0")


def _named_dtype(dataset: DatasetReader, number: int, dtypes: Sequence[str]) -> str:
    dtype = str(dtypes[number - 1])
    if dtype not in GDAL_TYPES:
        raise InputError(
            f"{dataset.name} holds {dtype} in band {number}, wanted one of {', '.join(GDAL_TYPES)}; convert it"
        )
    return dtype
