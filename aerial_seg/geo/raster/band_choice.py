"""Which bands of a raster are read, in which order and under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Annotated, Any

from aerial_seg.band_names import role
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.mentions import Made, setting
from aerial_seg.printable import name_problems, shortened
from aerial_seg.settings import Setting, names_in, settings


def _comparable(name: str) -> str:
    return role(name) or name.strip().lower()


@settings
@dataclass(frozen=True, slots=True)
class BandChoice:
    """Say which bands to read, in which order."""

    numbers: Annotated[
        tuple[int, ...],
        Setting(
            "Bands to read by number, in the model's order, as 4,3,2; see info. Alpha is imagery if it is named here. "
            "The bands of stacked files count on after the raster's.",
            wanted="a list of band numbers from 1 on",
            metavar="N,N,...",
            flag=("-b", "--bidx"),
        ),
    ] = ()
    names: Annotated[
        tuple[str, ...],
        Setting(
            "Say which band is which, as red=1,green=2,nir=4: the names of the chosen bands, one each.",
            read=names_in,
            metavar="NAME=N,...",
            flag="--bands",
        ),
    ] = ()
    stack: Annotated[
        tuple[str, ...],
        Setting(
            "Another file on the raster's own grid, a height model for example: its bands come after the raster's and "
            "are numbered on. May be repeated.",
            file=True,
            wanted="a list of files",
            metavar="FILE",
            several=True,
        ),
    ] = ()

    def __post_init__(self) -> None:
        for name, problem in name_problems(self.names):
            raise SettingsError(f"'{name}' cannot be a band's name: {problem}; choose another")
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
        from aerial_seg.geo.raster.remote import public_name

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
                f"{bands_setting(names=...)} names {', '.join(self.names)}, but the model was trained on "
                f"{', '.join(wanted)}; say which band is {', '.join(missing)}, or choose by number with "
                f"{bands_setting(numbers=...)}"
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


def bands_setting(
    *,
    numbers: Sequence[int | EllipsisType] | EllipsisType | None = None,
    names: Sequence[str | EllipsisType] | EllipsisType | None = None,
    stack: Sequence[str] | EllipsisType | None = None,
) -> str:
    """The setting `bands` as messages name it; `...` stands for any."""
    given = {"numbers": numbers, "names": names, "stack": stack}
    return setting(
        "bands",
        Made(
            "BandChoice",
            {key: one if one is ... else tuple(one) for key, one in given.items() if one is not None},
        ),
    )


def parse_bands(bidx: str | None = None, bands: str | None = None, stack: Sequence[str] = ()) -> BandChoice:
    """The choice of bidx `4,3,2`, or of bands `red=1,green=2,nir=4`, with the files of stack.

    Raises SettingsError for both at once, and for what is no number.
    """
    if bidx is not None and bands is not None:
        raise SettingsError(
            f"{setting('bidx')} and {setting('bands')} both choose the bands; pass one of them"
        )
    if bands is not None:
        pairs = [part.partition("=") for part in bands.split(",")]
        names = tuple(name.strip() for name, _, _ in pairs)
        for name, problem in name_problems(filter(None, names)):
            raise SettingsError(
                f"{setting('bands')}: '{name}' cannot be a band's name: {problem}; choose another"
            )
        if not all(names):
            raise SettingsError(
                f"{setting('bands', bands)} names no band; wanted pairs as red=1,green=2,nir=4"
            )
        said = setting("bands", bands)
        return BandChoice(tuple(_number(text, said) for _, _, text in pairs), names, tuple(stack))
    if bidx is not None:
        said = setting("bidx", bidx)
        return BandChoice(tuple(_number(text, said) for text in bidx.split(",")), stack=tuple(stack))
    return BandChoice(stack=tuple(stack))


def _number(text: str, said: str) -> int:
    if not text.strip().isdecimal() or len(text) > 10:
        raise SettingsError(f"{said}: '{shortened(text)}' is no band number; wanted whole numbers from 1 on")
    return int(text)


def band_choice(value: Any) -> Any:
    """The choice that people write as 4,3,2, red=1,green=2,nir=4 or the like in Python; others come back as they are.

    Raises SettingsError for a text that is none.
    """
    if isinstance(value, str):
        return parse_bands(bands=value) if "=" in value else parse_bands(bidx=value)
    if isinstance(value, Mapping):
        return BandChoice(tuple(value.values()), tuple(value))
    return BandChoice(tuple(value)) if isinstance(value, list | tuple) and value else value


Bands = Annotated[
    BandChoice,
    Setting(
        "Which bands are read, as which of the model's, and what is stacked on the raster.",
        wanted="a BandChoice, or bands as 4,3,2 or red=1,green=2,nir=4",
        read=band_choice,
    ),
]
