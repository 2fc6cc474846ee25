"""Which label raster is which raster's, where their names alone tell."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from aerial_seg.documents import listed
from aerial_seg.errors import InputError

_Key = tuple[str, ...]
_BETWEEN_WORDS = re.compile(r"[-_. ]")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Hold the number of each raster's label raster.

    unused: label rasters of no raster. exact: whether names are equal but for their endings.
    """

    labels: tuple[int, ...]
    unused: tuple[Path, ...]
    exact: bool


def pair_by_name(rasters: Sequence[Path], labels: Sequence[Path]) -> Pairs | InputError:
    """Which label raster belongs to each raster, each to one; else what keeps them apart.

    Names are equal but for their endings (a.jpg and a.png), or but for words that all of a kind begin or end with
    (1_image.tif, 2_image.tif and mask-1.png, mask-2.png). Where names come again in other folders, the folders tell.
    """
    best: tuple[int, InputError] | None = None
    for names in (_stems, _own_words):
        keys, groups = names(rasters), defaultdict[_Key, list[int]](list)
        for number, key in enumerate(names(labels)):
            groups[key].append(number)
        alone = [path for path, key in zip(rasters, keys, strict=True) if key not in groups]
        if alone:
            if best is None or len(alone) < best[0]:
                best = len(alone), _no_label(alone, len(rasters))
            continue
        found = [_nearest(path, groups[key], labels) for path, key in zip(rasters, keys, strict=True)]
        wrong = next((one for one in found if isinstance(one, InputError)), None) or _twice(
            found, rasters, labels
        )
        if wrong is None:
            chosen = tuple(one for one in found if isinstance(one, int))
            unused = tuple(path for number, path in enumerate(labels) if number not in {*chosen})
            return Pairs(chosen, unused, exact=names is _stems)
        best = best or (len(rasters), wrong)
    assert best is not None
    return best[1]


def _no_label(alone: Sequence[Path], rasters: int) -> InputError:
    some = f"{len(alone)} of {rasters} rasters have" if rasters > 1 else "the raster has"
    return InputError(
        f"{some} no label raster of the same name ({listed(map(str, alone), most=3)}), which alone tells what belongs "
        f"together where labels have no CRS; wanted {alone[0].stem}.png or the like: add it, or leave the raster out"
    )


def _stems(paths: Sequence[Path]) -> list[_Key]:
    return [(path.stem,) for path in paths]


def _own_words(paths: Sequence[Path]) -> list[_Key]:
    """Of each name the words without those that all names begin or end with."""
    words = [tuple(_BETWEEN_WORDS.split(path.stem)) for path in paths]
    fewest = min(map(len, words))
    first = _alike(lambda k: {one[k] for one in words}, fewest - 1)
    last = _alike(lambda k: {one[-1 - k] for one in words}, fewest - 1 - first)
    return [one[first : len(one) - last] for one in words]


def _alike(at: Callable[[int], set[str]], most: int) -> int:
    """How many places in a row hold one word in all names; a number tells what is shown and stays."""
    return sum(1 for _ in takewhile(lambda k: len(at(k)) == 1 and not min(at(k)).isdecimal(), range(most)))


def _nearest(path: Path, numbers: Sequence[int], labels: Sequence[Path]) -> int | InputError:
    """The one of the label rasters of a name whose folders are most like the raster's."""
    likeness = [_likeness(path, labels[number]) for number in numbers]
    best = [number for number, own in zip(numbers, likeness, strict=True) if own == max(likeness)]
    if len(best) == 1:
        return best[0]
    return InputError(
        f"{len(best)} label rasters may be those of {path} ({listed((str(labels[k]) for k in best), most=3)}), wanted "
        "one: pass those of one folder, or name them differently"
    )


def _likeness(one: Path, other: Path) -> int:
    """How many folders two paths share, from the first on and from the last."""
    a, b = one.absolute().parent.parts, other.absolute().parent.parts
    return sum(
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(x, y, strict=False)))
        for x, y in ((a, b), (a[::-1], b[::-1]))
    )


def _twice(
    found: Sequence[int | InputError], rasters: Sequence[Path], labels: Sequence[Path]
) -> InputError | None:
    """An error where two rasters have one label raster."""
    owner: dict[int | InputError, Path] = {}
    for number, path in zip(found, rasters, strict=True):
        first = owner.setdefault(number, path)
        if first is not path and isinstance(number, int):
            nearest = sorted((first, path), key=lambda one: -_likeness(one, labels[number]))
            if _likeness(first, labels[number]) != _likeness(path, labels[number]):
                return _no_label(nearest[1:], len(rasters))
            return InputError(
                f"{first} and {path} have one name, and {labels[number]} may be the labels of either; pass the rasters "
                "of one folder, or name them differently"
            )
    return None
