"""Options that several commands share, so that a name means the same everywhere."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import ClassVar

import click

from aerial_seg.printable import shortened


class ByteSize(click.ParamType[int]):
    """An amount of memory: 2GB, 800MB, 1.5GiB."""

    name = "size"
    _UNITS: ClassVar = {
        "B": 1,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "TB": 10**12,
        "KIB": 2**10,
        "MIB": 2**20,
        "GIB": 2**30,
    }

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*([\d.]+)\s*([a-zA-Z]+)\s*", str(value))
        unit = self._UNITS.get(found[2].upper()) if found else None
        if found is None or unit is None or found[1].count(".") > 1 or len(found[1]) > 20:
            self.fail(
                f"'{value}' is no amount of memory; wanted a number with a unit, as 2GB or 800MB", param, ctx
            )
        return int(float(found[1]) * unit)


class Whole(click.ParamType[int]):
    """A whole number of these bounds; help does not show them, because nobody who means something meets them."""

    name = "integer"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        text = str(value).strip()
        is_number = re.fullmatch(r"[+-]?[0-9]{1,30}", text) is not None
        if not is_number or not self.low <= int(text) <= self.high:
            self.fail(f"'{shortened(text)}' is not a whole number from {self.low} to {self.high}", param, ctx)
        return int(text)


class FiniteFloat(click.ParamType[float]):
    """A number of these bounds, neither NaN nor infinite: click's own lets those through."""

    name = "float"

    def __init__(self, low: float = -1e30, high: float = 1e30) -> None:
        self.low, self.high = low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(click.FLOAT.convert(value, param, ctx))
        if not self.low <= number <= self.high:
            self.fail(f"'{value}' is not a number from {self.low:g} to {self.high:g}", param, ctx)
        return number


# Every number has an end: beyond it lie mistypings, and errors of libraries.
PIXELS = Whole(1, 65_536)
"""A side, or how many at once."""
PIXELS_OR_NONE = Whole(0, 65_536)
SEED = Whole(0, 2**63 - 1)
COUNT = Whole(0, 1_000_000)
LABEL = Whole(-(2**31), 2**31 - 1)
"""Value of a label raster's pixel."""

overwrite = click.option("--overwrite", is_flag=True, help="Replace an existing output.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
device = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where the network runs."
)
nodata = click.option(
    "--nodata",
    type=float,
    help="Pixel value that means 'not measured' where all bands have it; for undeclared collars.",
)
no_georef = click.option(
    "--no-georef",
    is_flag=True,
    help="Accept rasters without CRS and work in pixel coordinates; polygons of them lie where QGIS shows the raster, "
    "row r at y = −r.",
)
_BAND_OPTIONS = (
    click.option(
        "-b", "--bidx", metavar="N,N,...",
        help="Bands to read by number, in the model's order, as 4,3,2; see info. Alpha is imagery if it is named here.",
    ),
    click.option("--bands", metavar="NAME=N,...", help="Say which band is which, as red=1,green=2,nir=4."),
    click.option(
        "--stack", multiple=True, metavar="FILE",
        help="Another file on the raster's own grid, a height model for example: its bands come after the raster's and "
        "are numbered on. May be repeated.",
    ),
)  # fmt: skip
_LABEL_OPTIONS = (
    click.option("--class-field", metavar="FIELD", help="Attribute of vector labels that names the class."),
    click.option(
        "--classes", metavar="LIST", help="Classes: 'building,road' in order, or pairs as '1=water,2=sand'."
    ),
    click.option(
        "--unlabelled",
        type=LABEL,
        multiple=True,
        metavar="VALUE",
        help="Value of a label raster for 'not labelled'.",
    ),
    click.option(
        "--outside",
        type=click.Choice(["background", "unlabelled"]),
        default="background",
        show_default=True,
        help="What ground outside every label polygon is; 'unlabelled' for partial annotation.",
    ),
    click.option("--labels-crs", metavar="EPSG:CODE", help="CRS of a label file that carries none."),
    click.option("--layer", metavar="NAME", help="Layer of the label file, if it holds several."),
)


def band_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options about bands; the command gets them as one BandChoice, `band_choice`."""

    @functools.wraps(command)
    def with_choice(
        *arguments: object, bidx: str | None, bands: str | None, stack: tuple[str, ...], **others: object
    ) -> None:
        from aerial_seg.geo.raster.band_choice import parse_bands

        command(*arguments, band_choice=parse_bands(bidx, bands, stack), **others)

    for option in reversed(_BAND_OPTIONS):
        with_choice = option(with_choice)
    return with_choice


def label_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options about labels; the command gets them as one LabelSettings, `label_settings`."""

    @functools.wraps(command)
    def with_settings(
        *,
        class_field: str | None,
        classes: str | None,
        unlabelled: tuple[int, ...],
        outside: str,
        labels_crs: str | None,
        layer: str | None,
        **others: object,
    ) -> None:
        from aerial_seg.geo.labels.settings import LabelSettings, parse_classes

        settings = LabelSettings(
            class_field=class_field,
            classes=parse_classes(classes),
            unlabelled=unlabelled,
            outside=outside,
            crs=labels_crs,
            layer=layer,
        )
        command(label_settings=settings, **others)

    for option in reversed(_LABEL_OPTIONS):
        with_settings = option(with_settings)
    return with_settings
