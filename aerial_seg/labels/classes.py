"""From what labels hold to the map's own values: one way for polygons and rasters, with nothing renamed unsaid."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.documents import listed
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.labels.census import Census, keys_of
from aerial_seg.labels.class_table import LARGEST_VALUE, UNLABELLED, ClassTable
from aerial_seg.labels.class_value import Key
from aerial_seg.legend import IGNORE, Legend, make_legend
from aerial_seg.mentions import setting
from aerial_seg.printable import name_problem, shortened

BACKGROUND = "background"
_TOLD = 10
"""Values that one line lists at the most."""
_SPELLED_OUT = 60
"""Values of a mapping that a message writes out; more of them belong into a table."""
_NO_VALUE = frozenset(("null", "<null>", "none", "nan", "n/a", "na", "#n/a", "nil", "nodata", "no data"))
"""Words that tables hold where there was no value."""
_NOT_IN_PAIRS = frozenset((",", "=", '"', chr(96)))
"""Characters that a mapping on the command line cannot hold."""


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Which pixel value each value of labels has; made once, from all values that the labels hold.

    legend: the classes. notes: what was read otherwise than written or counts as unlabelled, with counts. names: key →
    class, or 'unlabelled'.
    """

    legend: Legend
    notes: tuple[str, ...]
    names: Mapping[Key, str]

    def value_of(self, key: Key | None) -> int:
        """The pixel value of a key; 255 for what is not labelled."""
        name = None if key is None else self.names.get(key)
        return IGNORE if name is None or name == UNLABELLED else self._values[name]

    def indices(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Pixel values (n,) uint8 of a column's values (n,), 255 where there is none; for a raster see `table`."""
        keys, codes = keys_of(values)
        table = np.array([self.value_of(key) for key in keys], np.uint8)
        return table[codes] if len(table) else np.zeros(0, np.uint8)

    def pixels(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Pixel values of integers of any shape; 255 where they are no class."""
        known = {key: self.value_of(key) for key in self.names if isinstance(key, int)}
        if values.dtype == np.uint8:
            table = np.full(256, IGNORE, np.uint8)
            for key in known.keys() & set(range(256)):
                table[key] = known[key]
            return np.asarray(table[values])
        held = np.iinfo(values.dtype)
        keys = np.array(sorted(key for key in known if held.min <= key <= held.max), values.dtype)
        if not len(keys):
            return np.full(values.shape, IGNORE, np.uint8)
        place = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
        found = np.array([known[int(key)] for key in keys], np.uint8)[place]
        out: NDArray[np.uint8] = np.where(keys[place] == values, found, np.uint8(IGNORE))
        return out

    @property
    def _values(self) -> dict[str, int]:
        return dict(zip(self.legend.names, self.legend.values, strict=True))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the values come from, as messages tell it.

    what: as "field 'kind' of l.gpkg"; each: what is counted, as features or pixels. unlabelled: whether `unlabelled`
    can name values. another: what else may be done, as another field. around: whether what lies around is background.
    beside: numbers that the labels hold, too, and that count as unlabelled as long as no class is given to them.
    """

    what: str
    each: str = "features"
    unlabelled: bool = False
    another: str = ""
    around: bool = False
    beside: tuple[int, ...] = ()


def class_map(
    found: Census, table: ClassTable | None, origin: Origin, *, known: Legend | None = None
) -> ClassMap:
    """The pixel value of every value that was found.

    table: what `classes` says. known: the classes that the labels are matched with, of a mask or a model. Without
    either, integers from 0 to 254 keep their value and words get what is free.
    Raises InputError that tells every value that is no class, and `classes` with which all of them are.
    """
    if not found.counts:
        empty = f"is {'NULL or blank' if found.blank else 'NULL'} in every feature"
        said = "holds no labelled pixel" if origin.each == "pixels" else empty
        raise InputError(f"{origin.what} {said}; {_elsewhere(origin)}")
    if known is not None:
        names = _matched(found, table, origin, known)
        legend = known
    elif table is not None:
        names = _looked_up(found, table.name_of, origin, table.names, table)
        legend = _legend_of(table, around=origin.around)
    else:
        names, legend = _as_found(found, origin)
    return ClassMap(legend, tuple(_notes(found, names, legend, origin)), names)


def _looked_up(
    found: Census,
    name_of: Callable[[Key], str | None],
    origin: Origin,
    names: Sequence[str],
    allowed: Mapping[Key, str],
) -> dict[Key, str]:
    """The class of every key. allowed: what messages say is wanted. Raises InputError for those that have none."""
    said = {key: name_of(key) for key in found.counts}
    if None in said.values():
        raise _unknown(found, said, origin, names, allowed)
    return {key: name for key, name in said.items() if name is not None}


def _matched(found: Census, table: ClassTable | None, origin: Origin, known: Legend) -> dict[Key, str]:
    """In the classes of a mask or model: as `classes` says, else by name, by code or by value, all in one way."""
    by_name = {name: name for name in known.names} | {UNLABELLED: UNLABELLED}
    by_value: dict[Key, str] = {entry.value: entry.name for entry in known.entries}
    if table is not None:
        strange = [name for name in table.names if name not in known.names]
        if strange:
            raise SettingsError(
                f"{setting('classes')} names '{shortened(strange[0])}', which is no class here; "
                f"known: {', '.join(known.names)}{did_you_mean(strange[0], known.names)}"
            )
        if all(table.name_of(key) is not None for key in found.counts):
            return _looked_up(found, table.name_of, origin, known.names, table)
    by_code: dict[Key, str] = {entry.code: entry.name for entry in known.entries if entry.code is not None}
    by_numeral: dict[Key, str] = {
        int(name): name for name in known.names if name.isdecimal() and name.isascii()
    }
    numbers = [key for key in found.counts if isinstance(key, int)]
    ways: tuple[Mapping[Key, str], ...] = (by_numeral, by_code, by_value)
    way = next((way for way in ways if all(number in way for number in numbers)), by_code or by_value)

    def name_of(key: Key) -> str | None:
        return way.get(key) if isinstance(key, int) else by_name.get(key)

    return _looked_up(found, name_of, origin, known.names, way)


def _as_found(found: Census, origin: Origin) -> tuple[dict[Key, str], Legend]:
    """Integers keep their value, words get a free one in the order of the alphabet."""
    words = sorted(key for key in found.counts if isinstance(key, str) and key != UNLABELLED)
    numbers = sorted(key for key in found.counts if isinstance(key, int))
    _check_names(words, found, origin)
    if len(words) + len(numbers) > LARGEST_VALUE:
        raise InputError(
            f"{origin.what} holds {len(words) + len(numbers)} different {'words' if words else 'values'}, wanted at "
            f"most {LARGEST_VALUE} classes; {_elsewhere(origin)}"
        )
    beyond = [number for number in numbers if not 0 <= number <= LARGEST_VALUE]
    said: dict[Key, str | None] = {number: _numbered(number) for number in numbers}
    if beyond:
        raise _unknown(found, {**said, **dict.fromkeys(beyond), **{w: w for w in words}}, origin, (), None)
    free = (value for value in range(1, LARGEST_VALUE + 1) if value not in numbers)
    names = {number: _numbered(number) for number in numbers} | {next(free): word for word in words}
    told: dict[Key, str] = {number: _numbered(number) for number in numbers} | {word: word for word in words}
    if UNLABELLED in found.counts:
        told[UNLABELLED] = UNLABELLED
    return told, make_class_legend(names, around=origin.around)


def make_class_legend(
    names: Mapping[int, str],
    *,
    around: bool,
    colours: Mapping[int, str] | None = None,
    codes: Mapping[int, int] | None = None,
) -> Legend:
    """The legend of these classes. around: class 0 is the background, unless 0 is taken or one is called that."""
    named = [value for value, name in names.items() if name.lower() == BACKGROUND]
    if around and 0 not in names and not named:
        names, named = {0: BACKGROUND, **names}, [0]
    return make_legend(names, background=named, colours=colours, codes=codes)


def _legend_of(table: ClassTable, *, around: bool) -> Legend:
    names = {value: name for name, value in table.pixel_values.items()}
    return make_class_legend(names, around=around, colours=table.colours, codes=table.codes)


def legend_of_table(table: ClassTable, *, around: bool = False) -> Legend:
    """The classes that `classes` names; around: see make_class_legend."""
    return _legend_of(table, around=around)


def _numbered(number: int) -> str:
    return f"class {number}"


def _unknown(
    found: Census,
    said: Mapping[Key, str | None],
    origin: Origin,
    names: Sequence[str],
    allowed: Mapping[Key, str] | None,
) -> InputError:
    """What is no class, how often, what is, and `classes` with which every value has one.

    names: of the classes. allowed: values that have one, for the message; None where names are free.
    """
    unknown = {key: found.counts[key] for key, name in said.items() if name is None}
    words = [key for key in unknown if isinstance(key, str)]
    free = allowed is None
    kept = dict(allowed) if isinstance(allowed, ClassTable) else {}
    complete = kept | {key: name or _suggested(key, names, free=free) for key, name in said.items()}
    complete = _in_order(said, kept, origin) or complete
    if words:
        near = _suggested(words[0], names, free=free)
        hint = f"; did you mean '{near}'?" if near in names else ""
        told = f"the unknown classes {list_counts(unknown)}; known: {', '.join(names)}{hint}"
    else:
        pairs = (
            f"0..{LARGEST_VALUE}"
            if allowed is None
            else ", ".join(f"{k}={name}" for k, name in allowed.items())
        )
        told = f"the unknown class values {list_counts(unknown)}; wanted {pairs}"
    remedy = f"say what all values mean with {mapping_setting(complete)}"
    numbers = tuple(key for key in unknown if isinstance(key, int))
    if origin.unlabelled and not words and len(numbers) <= _TOLD:
        remedy += f", or pass {setting('unlabelled', numbers)} if they mean nothing"
    return InputError(f"{origin.what} holds {told}; {remedy}")


def _in_order(
    said: Mapping[Key, str | None], kept: Mapping[Key, str], origin: Origin
) -> dict[Key, str] | None:
    """The names of a list, which counts from 1, given to the numbers that are there, where these are as many."""
    if not all(isinstance(key, int) for key in said) or set(kept) != set(range(1, len(kept) + 1)):
        return None
    held = {key for key in said if isinstance(key, int)}
    for numbers in (held | set(origin.beside), held):
        if len(numbers) == len(kept) > 0:
            return dict(zip(sorted(numbers), (kept[k] for k in sorted(kept, key=int)), strict=True))
    return None


def _suggested(key: Key, names: Sequence[str], *, free: bool) -> str:
    """The class that may be meant: that of nearly the same name, else none; or one of its own where names are free."""
    if free:
        return _numbered(key) if isinstance(key, int) else key
    if isinstance(key, int):
        return UNLABELLED
    alike = next((name for name in names if _folded(name) == _folded(key)), None)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return alike or (near[0] if near else UNLABELLED)


def mapping_setting(names: Mapping[Key, str]) -> str:
    """`classes` with this mapping, as a message names it; where it is none to type, how to write it as a table."""
    typed = [*map(str, names), *names.values()]
    if len(names) > _SPELLED_OUT or any(_NOT_IN_PAIRS & set(word) for word in typed):
        return f"{setting('classes', 'classes.csv')}, a table with the columns value and name and {len(names)} rows"
    return setting(
        "classes", dict(sorted(names.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))
    )


def _folded(word: str) -> str:
    """Equal for what differs only in capitals, blanks, or in how accents are stored."""
    return " ".join(unicodedata.normalize("NFKC", word).casefold().split())


def _notes(found: Census, names: Mapping[Key, str], legend: Legend, origin: Origin) -> Iterator[str]:
    each = origin.each
    if found.missing:
        yield f"{found.missing} {each} without a value in {origin.what} count as unlabelled"
    if found.blank:
        yield f"{found.blank} {each} whose value in {origin.what} is blank count as unlabelled"
    if found.trimmed:
        some = listed((repr(shortened(word)) for word in found.trimmed), most=3)
        yield f"{found.trimmed.total()} {each} of {origin.what} have blanks around their value ({some}): read without"
    if found.texts:
        numbers = listed((str(key) for key in sorted(k for k in found.counts if isinstance(k, int))), most=5)
        yield f"{origin.what} is text that holds numbers: they count as {numbers}"
    if found.numerals:
        some = listed((repr(shortened(word)) for word in found.numerals), most=3)
        yield f"{found.numerals.total()} {each} of {origin.what} write a number otherwise ({some})"
    none = {key: found.counts[key] for key, name in names.items() if name == UNLABELLED}
    if none:
        yield f"{sum(none.values())} {each} of {origin.what} are called {UNLABELLED}: {list_counts(none)}"
    yield from _nothing(found, names, origin)
    yield from _merged(names, origin)
    yield from _alike(found, names, origin)
    renumbered = [
        f"{entry.code} is {entry.value} ({entry.name})"
        for entry in legend.entries
        if entry.code not in (None, entry.value)
    ]
    if renumbered:
        told = listed(renumbered, most=5)
        yield f"the map's own values are 0 to {LARGEST_VALUE}, the attribute 'code' keeps the labels': {told}"


def _nothing(found: Census, names: Mapping[Key, str], origin: Origin) -> Iterator[str]:
    """Of words that programs write for no value, and that are a class here; the remedy is printed."""
    odd = [
        key
        for key, name in names.items()
        if isinstance(key, str) and key.casefold() in _NO_VALUE and name != UNLABELLED
    ]
    if odd:
        told = list_counts({key: found.counts[key] for key in odd})
        yield (
            f"{origin.what} holds {told}, which count as a class; if they mean that there is no value, "
            f"{mapping_setting({**names, **dict.fromkeys(odd, UNLABELLED)})} makes them unlabelled"
        )


def _merged(names: Mapping[Key, str], origin: Origin) -> Iterator[str]:
    keys = defaultdict(list)
    for key, name in names.items():
        if name != UNLABELLED:
            keys[name].append(str(key))
    several = [f"{', '.join(sorted(many))} → {name}" for name, many in keys.items() if len(many) > 1]
    if several:
        yield f"several values of {origin.what} are one class: {listed(several, most=3)}"


def _alike(found: Census, names: Mapping[Key, str], origin: Origin) -> Iterator[str]:
    """Of classes that differ in capitals only, both stay, because someone may mean them; the remedy is printed."""
    groups = defaultdict(list)
    for name in dict.fromkeys(names.values()):
        groups[_folded(name)].append(name)
    counts: Counter[str] = Counter()
    for key, name in names.items():
        counts[name] += found.counts[key]
    one = dict(names)
    told = []
    for group in groups.values():
        if len(group) > 1:
            first, *others = sorted(group, key=lambda name: -counts[name])
            told.append(
                " beside ".join(f"'{name}' ({counts[name]} {origin.each})" for name in (*others, first))
            )
            one |= {key: first for key, name in names.items() if name in others}
    if told:
        yield (
            f"{origin.what} holds {listed(told, most=3)}; did you mean one class? {mapping_setting(one)} makes one of "
            "them"
        )


def _check_names(words: Sequence[str], found: Census, origin: Origin) -> None:
    """Raises InputError, with counts and remedy, for words that no class can be called."""
    odd = {shortened(word): (found.counts[word], name_problem(word)) for word in words if name_problem(word)}
    if odd:
        told = listed((f"'{name}' ({count} times): {why}" for name, (count, why) in odd.items()), most=3)
        raise InputError(
            f"{origin.what} holds {len(odd)} names that no class can have: {told}; {_elsewhere(origin)}"
        )


def _elsewhere(origin: Origin) -> str:
    return origin.another or "check the labels"


def list_counts(counts: Mapping[Key, int]) -> str:
    """`7 (120 times), 9 (3 times)`, the most frequent first, ten at most."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    shown = [repr(key) if isinstance(key, int) else repr(shortened(key)) for key, _ in ranked[:_TOLD]]
    text = ", ".join(f"{key} ({count} times)" for key, (_, count) in zip(shown, ranked, strict=False))
    return text + (f" and {len(ranked) - _TOLD} more" if len(ranked) > _TOLD else "")
