"""What a raster file says of each of its bands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aerial_seg.documents import listed
from aerial_seg.geo.raster.chosen_bands import declared_names
from aerial_seg.geo.raster.opening import described
from aerial_seg.geo.raster.values.measured import alpha_band
from aerial_seg.printable import cleaned_name, shortened


@dataclass(frozen=True, slots=True)
class BandFacts:
    """One band, alpha included. number: as BandChoice counts. mask: what tells its measured pixels, in GDAL's words.

    A stored number n means n × scale + offset.
    """

    number: int
    name: str
    colour: str
    dtype: str
    nodata: float | None
    mask: tuple[str, ...]
    scale: float
    offset: float


def band_facts(path: Path | str) -> tuple[BandFacts, ...]:
    """The facts of every band of the raster at `path`, in file order."""
    with described(path) as dataset:
        alpha = alpha_band(dataset)
        # Every one of these asks GDAL for all bands: once, or thousands of bands take minutes.
        columns = (
            dataset.indexes,
            declared_names(dataset),
            dataset.colorinterp,
            dataset.dtypes,
            dataset.nodatavals,
            dataset.mask_flag_enums,
            dataset.scales,
            dataset.offsets,
        )
        return tuple(
            BandFacts(
                number=number,
                name="alpha" if number == alpha else name,
                colour=colour.name,
                dtype=dtype,
                nodata=nodata,
                mask=tuple(flag.name for flag in flags),
                scale=float(scale),
                offset=float(offset),
            )
            for number, name, colour, dtype, nodata, flags, scale, offset in zip(*columns, strict=True)
        )


def renamed_bands(path: Path | str) -> tuple[str, ...]:
    """A note when the raster calls bands what no band can be called."""
    with described(path) as dataset:
        names = [(said, cleaned_name(said)) for said in dataset.descriptions if said]
    odd = [(shortened(said), bare or "nothing") for said, bare in names if said != bare]
    if not odd:
        return ()
    told = listed((f"'{said}' was read as '{bare}'" for said, bare in odd), most=3)
    return (f"{len(odd)} bands of {path} have names with characters that no name can hold: {told}",)
