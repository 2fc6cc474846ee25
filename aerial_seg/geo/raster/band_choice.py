"""Which bands of a raster are read, in which order and under which names; a file's choice as a VRT in memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree as Xml

from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.raster.remote import public_name
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
from aerial_seg.printable import cleaned_name, name_problems, shortened

_SAYS_NOTHING = re.compile(
    r"(gr[ae]y|undefined|palette|unknown|(band|layer|channel)?[\s_#-]*\d*)", re.IGNORECASE
)
_SYNONYMS = {
    "r": "red", "g": "green", "b": "blue", "near infrared": "nir", "near-infrared": "nir", "near_infrared": "nir",
    "red edge": "rededge", "red-edge": "rededge", "red_edge": "rededge",
}  # fmt: skip


def role(name: str) -> str | None:
    """The name in the form that two names are compared in; None for one that says nothing: `gray`, `band 3`."""
    plain = name.strip().lower()
    return None if _SAYS_NOTHING.fullmatch(plain) else _SYNONYMS.get(plain, plain)


def _comparable(name: str) -> str:
    return role(name) or name.strip().lower()


@dataclass(frozen=True, slots=True)
class BandChoice:
    """The bands to read, in order.

    numbers: as GDAL counts, from 1, alpha included; the bands of stacked files count on after the raster's. Empty:
    all bands that are not alpha. names: what the chosen bands are called, one each; empty: as the files call them.
    stack: files on the raster's own grid whose bands come after its own.
    """

    numbers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    stack: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        low = [number for number in self.numbers if number < 1]
        if low:
            raise SettingsError(f"there is no band {low[0]}, wanted numbers from 1 on; see `aerial-seg info`")
        if self.names and len(self.names) != len(self.numbers):
            raise SettingsError(f"{len(self.names)} band names for {len(self.numbers)} bands; give one each")
        if len(set(map(_comparable, self.names))) < len(self.names):
            raise SettingsError(f"a band name was given twice ({', '.join(self.names)}); name each band once")

    @property
    def identity(self) -> dict[str, list[int] | list[str]]:
        """What tells it from other choices, fit for JSON; files without their folders."""
        return {"numbers": list(self.numbers), "stack": list(map(public_name, self.stack))}

    def ordered(self, wanted: Sequence[str]) -> BandChoice:
        """The named bands in the order of `wanted`, those that it lacks left out; a choice by number as it is.

        Raises SettingsError when a wanted name was not given.
        """
        if not self.names:
            return self
        numbers = dict(zip(map(_comparable, self.names), self.numbers, strict=True))
        missing = [name for name in wanted if _comparable(name) not in numbers]
        if missing:
            raise SettingsError(
                f"--bands names {', '.join(self.names)}, but the model was trained on {', '.join(wanted)}; "
                f"say which band is {', '.join(missing)}, or choose by number with --bidx"
            )
        return replace(
            self, numbers=tuple(numbers[_comparable(name)] for name in wanted), names=tuple(wanted)
        )

    def parts(self, counts: Sequence[int], paths: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Each file's own band numbers, in the order chosen; all empty when everything is read.

        counts: bands of each file, the raster's first. Raises InputError for a number beyond the last band and for a
        file of which no band was chosen.
        """
        if not self.numbers:
            return tuple(() for _ in counts)
        total = sum(counts)
        if max(self.numbers) > total:
            files = paths[0] if len(paths) == 1 else f"{paths[0]} and what is stacked on it"
            raise InputError(
                f"band {max(self.numbers)} was asked for, but {files} has {total} bands; see `aerial-seg info`"
            )
        parts, before = [], 0
        for count, path in zip(counts, paths, strict=True):
            own = range(before + 1, before + count + 1)
            parts.append(tuple(number - before for number in self.numbers if number in own))
            if not parts[-1]:
                raise InputError(
                    f"{path} holds bands {own.start} to {own.stop - 1} of the stack, but bands "
                    f"{', '.join(map(str, self.numbers))} were asked for; name one of them or leave the file out"
                )
            before += count
        return tuple(parts)

    def order(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Where each chosen band lies, from 0, when the files' own choices are put one after the other."""
        starts = [sum(counts[:k]) for k in range(len(counts))]
        # Stable: within a file the bands lie as they were chosen.
        laid = sorted(range(len(self.numbers)), key=lambda k: max(s for s in starts if s < self.numbers[k]))
        return tuple(laid.index(k) for k in range(len(self.numbers)))


ALL_BANDS = BandChoice()
"""Everything that is not alpha, in file order."""


def parse_bands(bidx: str | None = None, bands: str | None = None, stack: Sequence[str] = ()) -> BandChoice:
    """The choice of `--bidx 4,3,2`, or of `--bands red=1,green=2,nir=4`, with the files of `--stack`.

    Raises SettingsError for both at once, and for what is no number.
    """
    if bidx is not None and bands is not None:
        raise SettingsError("--bidx and --bands both choose the bands; pass one of them")
    if bands is not None:
        pairs = [part.partition("=") for part in bands.split(",")]
        names = tuple(name.strip() for name, _, _ in pairs)
        for name, problem in name_problems(filter(None, names)):
            raise SettingsError(f"--bands: '{name}' cannot be a band's name: {problem}; choose another")
        if not all(names):
            raise SettingsError(f"--bands {bands} names no band; wanted pairs as red=1,green=2,nir=4")
        return BandChoice(
            tuple(_number(text, f"--bands {bands}") for _, _, text in pairs), names, tuple(stack)
        )
    if bidx is not None:
        return BandChoice(
            tuple(_number(text, f"--bidx {bidx}") for text in bidx.split(",")), stack=tuple(stack)
        )
    return BandChoice(stack=tuple(stack))


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


def _number(text: str, option: str) -> int:
    if not text.strip().isdecimal() or len(text) > 10:
        raise SettingsError(
            f"{option}: '{shortened(text)}' is no band number; wanted whole numbers from 1 on"
        )
    return int(text)
