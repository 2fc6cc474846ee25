"""Scale and offset: what a band's stored numbers become in its own units, where its file declares that."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError
from aerial_seg.mentions import setting

SCALED_DTYPE = "float32"
"""Of pixels to which scale and offset are applied; as exact as the network's own numbers."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Say that a stored number n means n × scale + offset; 1 and 0 where a band declares nothing."""

    scale: float = 1.0
    offset: float = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether stored numbers mean different ones: scale 0 makes them all one, NaN none."""
        return math.isfinite(self.scale) and math.isfinite(self.offset) and self.scale != 0

    @property
    def says_nothing(self) -> bool:
        """Whether stored numbers mean themselves."""
        return self.scale == 1 and self.offset == 0

    def __str__(self) -> str:
        """As in `scale 0.0001, offset -0.1`."""
        return f"scale {self.scale:.9g}, offset {self.offset:.9g}"

    def of(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """What stored values mean; float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            meant: NDArray[np.float64] = np.multiply(values, self.scale, dtype=np.float64)
            meant += self.offset
            return meant


def apply_scalings(
    stored: NDArray[np.generic],
    image: NDArray[np.generic],
    scalings: Sequence[Scaling],
    flags: Sequence[bool],
) -> None:
    """image (C,h,w) float32 holds what stored (C,h,w) means in the bands whose flag is set, the others as they are.

    Computed in float64 and rounded once, so that it does not depend on who computes it.
    """
    with np.errstate(over="ignore"):
        for into, band, scaling, wanted in zip(image, stored, scalings, flags, strict=True):
            into[:] = scaling.of(band) if wanted and not scaling.says_nothing else band


Declared = Sequence[tuple[str, Sequence[Scaling]]]
"""Of several rasters the path and what each band declares."""

_WRITE_IT = "gdal_edit.py -scale S -offset O"


def scaled_by_all(rasters: Declared, names: Sequence[str]) -> tuple[bool, ...]:
    """Of each band whether the rasters declare what its numbers mean: all of them, or none.

    names: of the bands. Raises InputError, with both kinds, for a band of which some do and some do not: their numbers
    would be mixed though they mean different things; and for a scale that is 0 or no number.
    """
    found = []
    for band, name in enumerate(names):
        broken = [(path, own[band]) for path, own in rasters if not own[band].is_usable]
        if broken:
            path, scaling = broken[0]
            raise InputError(
                f"{path} declares {scaling} for band '{name}', which gives its numbers no meaning; write what is true "
                f"into it ({_WRITE_IT}), or pass {setting('scale', 'off')} to take all numbers as stored"
            )
        telling = [(path, own[band]) for path, own in rasters if not own[band].says_nothing]
        if telling and len(telling) < len(rasters):
            silent = [path for path, own in rasters if own[band].says_nothing]
            raise InputError(
                f"{telling[0][0]} declares {telling[0][1]} for band '{name}', but {silent[0]} declares none "
                f"({len(silent)} of {len(rasters)} rasters do not), so that equal numbers would not mean the same; "
                f"write it into those ({_WRITE_IT}), or pass {setting('scale', 'off')} to take all numbers as stored"
            )
        found.append(bool(telling))
    return tuple(found)


def stored_offsets(rasters: Declared, flags: Sequence[bool]) -> tuple[tuple[float, ...], ...]:
    """Of each band the offsets that rasters declare whose numbers are taken as stored; nothing where all declare none.

    flags: of each band whether scale and offset are applied; then nothing is to be told.
    """
    if any(flags) or not rasters:
        return ()
    found = tuple(
        tuple(sorted({one.offset for one in band}))
        for band in zip(*(own for _, own in rasters), strict=False)
    )
    return found if any(offsets != (0.0,) for offsets in found) else ()


def scaling_notes(rasters: Declared, flags: Sequence[bool]) -> list[str]:
    """What was applied, to how many rasters; of numbers taken as stored, that they are said to mean different things.

    flags: of each band whether scale and offset are applied.
    """
    kinds = Counter(tuple(own) for _, own in rasters)
    if any(flags):
        told = "; ".join(
            f"{_alike([one for one, flag in zip(own, flags, strict=True) if flag])} ({count} rasters)"
            for own, count in kinds.most_common(_TOLD)
        )
        more = f" and {len(kinds) - _TOLD} more" if len(kinds) > _TOLD else ""
        return [
            f"the rasters' scale and offset are applied: {told}{more}; chips hold the results as {SCALED_DTYPE}"
        ]
    if len(kinds) > 1:
        told = "; ".join(f"{_alike(own)} ({count} rasters)" for own, count in kinds.most_common(_TOLD))
        return [f"the rasters' numbers are taken as stored, though they declare different meanings: {told}"]
    return []


_TAG = re.compile(r"scale_factor|(boa_|radio_)?add_offset\w*", re.IGNORECASE)
"""What xarray and Sentinel-2 products call scale and offset in their tags, which GDAL does not read as such."""


def tagged_scalings(tags: Mapping[str, str]) -> tuple[str, ...]:
    """The tags that say what numbers mean, as `add_offset -0.1`; none that say that they mean themselves."""
    found = []
    for name, text in tags.items():
        if _TAG.fullmatch(name):
            try:
                number = float(text)
            except ValueError:
                continue
            if number != float(name.lower() == "scale_factor"):
                found.append(f"{name} {number:.9g}")
    return tuple(sorted(found))


def tagged_notes(rasters: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """What to say of tags that are not applied. rasters: the path of each and what `tagged_scalings` found."""
    telling = [(path, tags) for path, tags in rasters if tags]
    if not telling:
        return []
    path, tags = telling[0]
    some = f"{len(telling)} of {len(rasters)} rasters tell" if len(rasters) > 1 else "the raster tells"
    return [
        f"{some} a scale or offset only in tags ({', '.join(tags)} in {path}), "
        f"which is not applied; write it as the bands' own ({_WRITE_IT}), or pass {setting('scale', 'off')} if numbers "
        "are meant as stored"
    ]


_TOLD = 3
"""Kinds of rasters that a note names."""


def _alike(scalings: Sequence[Scaling]) -> str:
    """What the bands declare: once where all declare the same."""
    return " / ".join(map(str, dict.fromkeys(scalings)))


def require_scalings(
    path: str,
    scalings: Sequence[Scaling],
    names: Sequence[str],
    wanted: Sequence[bool],
    tagged: Sequence[str] = (),
) -> None:
    """Raises InputError for a raster that declares nothing of a band whose numbers were scaled in training.

    names, wanted: of the model's bands, and whether they were. tagged: what its tags alone say.
    """
    lacking = [
        name
        for name, own, scaled in zip(names, scalings, wanted, strict=True)
        if scaled and (own.says_nothing or not own.is_usable)
    ]
    if lacking:
        tags = f" (only tags tell {', '.join(tagged)})" if tagged else ""
        raise InputError(
            f"{path} declares no scale and offset for {', '.join(lacking)}{tags}, but the model was trained on numbers "
            f"to which these were applied; write them into it ({_WRITE_IT}), or pass {setting('scale', 'off')} if its "
            "numbers are in those units already"
        )


def refuse_shifted(
    path: str, scalings: Sequence[Scaling], names: Sequence[str], known: Sequence[Sequence[float]]
) -> None:
    """Raises InputError for a raster whose offset shifts stored numbers away from those that a model was trained on.

    names: of the model's bands, which knows stored numbers only. known: of each the offsets that its rasters declared,
    empty where they declared none. A scale alone shifts none.
    """
    bands = zip(names, scalings, known, strict=False)
    shifted = [(name, own, offsets) for name, own, offsets in bands if own.offset not in (offsets or (0.0,))]
    if shifted:
        name, own, offsets = shifted[0]
        if offsets:
            raise InputError(
                f"{path} declares {own} for band '{name}', but the model was trained on numbers as they are stored in "
                f"rasters that declare offset {' or '.join(f'{one:.9g}' for one in offsets)}: equal numbers would not "
                f"mean the same; map rasters that are stored like those, or pass {setting('scale', 'off')} if this one "
                "is and does not say so"
            )
        raise InputError(
            f"{path} declares {own} for band '{name}', but the model was trained on numbers as they are stored, of "
            "rasters that nobody knows to be shifted so: equal numbers would not mean the same; train a model on "
            f"rasters that declare it, or pass {setting('scale', 'off')} if those were stored like this one"
        )
