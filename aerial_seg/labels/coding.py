"""From what label rasters hold, numbers or colours, to the map's own values, the same for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from aerial_seg.documents import listed
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.labels.census import Census
from aerial_seg.labels.class_table import UNLABELLED, ClassTable
from aerial_seg.labels.classes import ClassMap, Origin, class_map, legend_of_table, mapping_setting
from aerial_seg.labels.label_file import LabelFile, legend_of_files
from aerial_seg.labels.presets import preset_table, presets_of
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, Legend, make_legend
from aerial_seg.mentions import setting

MOST_UNKNOWN = 0.005
"""Share of the pixels whose colour may be none of the table's: beyond it the table or the file is wrong."""
_SHOWN = 5
_SPECK, _MANY_SPECKS = 0.001, 8
"""Share of the pixels that a class rarely has so little of; so many values of so few are rather noise."""


@dataclass(frozen=True, slots=True)
class Coding:
    """What the pixels of opened label rasters mean.

    by_colour: 0xrrggbb → pixel value, for files whose colours tell the class. classes: for those whose numbers do.
    named: numbers that `classes` names, which are classes though a file declares them as nodata. ignored: numbers that
    are not labelled.
    """

    legend: Legend
    notes: tuple[str, ...]
    by_colour: Mapping[int, int]
    classes: ClassMap | None
    named: frozenset[int]
    ignored: frozenset[int]
    coloured: frozenset[str]

    def read(self, file: LabelFile, window: Window) -> NDArray[np.uint8]:
        """Pixel values (h, w) of a window of the file, 255 = unlabelled."""
        colours = str(file.path) in self.coloured
        stored, valid, hidden = file.read(window, grey=file.colours and not colours)
        if not colours:
            assert self.classes is not None
            valid = valid | (hidden & np.isin(stored, list(self.named)))
            valid &= ~np.isin(stored, list(self.ignored))
            values = self.classes.pixels(stored)
        else:
            values = _looked_up(
                stored if file.palette is None else _through(file.palette, stored), self.by_colour
            )
        values[~valid] = IGNORE
        return values


def coding_of(files: Sequence[LabelFile], settings: LabelSettings, known: Legend | None) -> Coding:
    """What the pixels mean: by colour where `classes` or `preset` tell the colours, else by number.

    known: the classes of a mask or model that the labels are matched with. Raises InputError for numbers and colours
    that are no class, with the remedy; SettingsError where `unlabelled` and the table contradict each other.
    """
    table = preset_table(settings.preset) if settings.preset is not None else settings.classes
    by_colour = dict(table.colour_values) if table is not None else {}
    coloured = [file for file in files if _by_colour(file, by_colour)]
    numbered = [file.plain if file.is_grey else file for file in files if file not in coloured]
    for file in numbered:
        if file.colours:
            raise _needs_colours(file)
    _check_palettes(numbered)
    # The classes of a mask say nothing of what its labels leave out.
    _check_unlabelled(settings, table if known is None else None, numbered, coloured)
    notes = [note for file in files for note in file.notes]
    notes += _hidden_notes(files, settings, table, {str(file.path) for file in coloured})
    classes, legend = None, known
    named = frozenset(key for key in table or () if isinstance(key, int))
    ignored = frozenset(settings.unlabelled) | ({IGNORE} - named)
    if numbered or not coloured:
        classes = _numbers(numbered, settings, table, known, named, ignored)
        legend = classes.legend
        notes += [*_undeclared(numbered, ignored), *classes.notes, *_doubts(numbered, table, known)]
    if coloured:
        assert table is not None
        of_table = legend_of_table(table)
        by_colour = _matched(of_table, by_colour, legend)
        legend = legend or of_table
        notes += [note for note in (_unknown_colours(coloured, by_colour),) if note]
    assert legend is not None
    paths = frozenset(str(file.path) for file in coloured)
    return Coding(legend, tuple(notes), by_colour, classes, named, ignored, paths)


def _numbers(
    files: Sequence[LabelFile],
    settings: LabelSettings,
    table: ClassTable | None,
    known: Legend | None,
    named: Set[int],
    ignored: Set[int],
) -> ClassMap:
    counts: Counter[int] = Counter()
    rescued: Counter[int] = Counter()
    for file in files:
        counts.update(file.counts)
        rescued.update({value: n for value, n in file.hidden.items() if value in named})
    counts.update(rescued)
    for value in ignored:
        counts.pop(value, None)
    what = _called(files)
    if known is None and table is None:
        known = legend_of_files(files, counts)
    another = f"check {setting('unlabelled')} and the file's nodata value"
    if not counts:
        another = _whole_remedy(files) or another
    beside = tuple(sorted(unlabelled_counts(files).keys() - named - set(settings.unlabelled)))
    origin = Origin(what, each="pixels", unlabelled=True, another=another, beside=beside)
    found = class_map(Census.of_counts(counts), table, origin, known=known)
    if known is None and table is None and all(file.palette is not None for file in files):
        palette = {k: f"#{colour:06x}" for file in files for k, colour in (file.palette or {}).items()}
        names = {entry.value: entry.name for entry in found.legend.entries}
        found = replace(
            found, legend=make_legend(names, colours={k: palette[k] for k in names if k in palette})
        )
    return found


def _called(files: Sequence[LabelFile]) -> str:
    return str(files[0].path) if len(files) == 1 else f"the {len(files)} label rasters"


def _undeclared(files: Sequence[LabelFile], ignored: Set[int]) -> list[str]:
    """What to say of 255, which counts as unlabelled although no file declares it and nobody said so."""
    pixels = sum(file.counts[IGNORE] for file in files)
    if not pixels or IGNORE not in ignored:
        return []
    how = f"{setting('classes')} can make it a class"
    return [f"{pixels} pixels of {_called(files)} are {IGNORE}, which counts as unlabelled; {how}"]


def _check_unlabelled(
    settings: LabelSettings,
    table: ClassTable | None,
    numbered: Sequence[LabelFile],
    coloured: Sequence[LabelFile],
) -> None:
    """Raises SettingsError for numbers that the table gives a meaning, and where only colours have one."""
    given = setting("unlabelled", settings.unlabelled)
    for value in settings.unlabelled:
        name = None if table is None else table.get(value)
        if name not in (None, UNLABELLED):
            raise SettingsError(
                f"{given} says that {value} means nothing, and "
                f"{setting('classes' if settings.preset is None else 'preset')} that it is '{name}'; "
                "leave it out of one of them"
            )
    if settings.unlabelled and coloured and not numbered:
        raise SettingsError(
            f"{given} is for numbers, but the colours of {_called(coloured)} tell its classes; leave it out, and call "
            f"colours that mean nothing '{UNLABELLED}' in {setting('classes')}"
        )


def _hidden_notes(
    files: Sequence[LabelFile], settings: LabelSettings, table: ClassTable | None, coloured: Set[str]
) -> Iterator[str]:
    """What files hide that may be meant as a class, and what was said of numbers that are nowhere."""
    hidden: Counter[int] = Counter()
    for file in files:
        hidden.update(file.hidden)
    for value, pixels in sorted(hidden.items()):
        # 255 has no other meaning, and what somebody spoke of needs no word.
        if value not in (IGNORE, *settings.unlabelled) and value not in (table or ()):
            yield (
                f"{pixels} pixels of {_called(files)} are {value}, which is declared as nodata and counts as "
                f"unlabelled; {setting('classes')} can make it a class"
            )
    masked = sum(file.masked for file in files)
    if masked:
        yield (
            f"{masked} pixels of {_called(files)} count as unlabelled: a mask, an alpha band or a nodata value of "
            "colours hides them"
        )
    numbered = [file.plain if file.is_grey else file for file in files if str(file.path) not in coloured]
    for value in settings.unlabelled:
        if not any(file.counts[value] or file.hidden[value] for file in numbered):
            yield f"no pixel of {_called(files)} is {value}, which {setting('unlabelled')} names"


def _doubts(files: Sequence[LabelFile], table: ClassTable | None, known: Legend | None) -> Iterator[str]:
    """What numbers that nobody explained rather look like."""
    if table is not None or known is not None:
        return
    colours: Counter[int] = Counter()
    for file in files:
        colours.update(_colours_of(file) if file.palette is not None else {})
    fitting = presets_of(colours, share=MOST_UNKNOWN) if len(colours) > 2 else []
    if fitting:
        yield (
            f"the palette of {_called(files)} has the colours of {setting('preset', fitting[0])}, "
            "which tells the names of its classes"
        )
    counts: Counter[int] = Counter()
    for file in files:
        counts.update(file.counts)
    rare = [value for value, pixels in counts.items() if pixels <= _SPECK * counts.total()]
    if len(rare) >= _MANY_SPECKS and 2 * len(rare) > len(counts):
        yield (
            f"{len(rare)} of the {len(counts)} values of {_called(files)} hold less than {_SPECK:.1%} of its pixels "
            "each: was it compressed with losses, or resized, once? Then get it as it was before"
        )


def unlabelled_counts(files: Sequence[LabelFile]) -> Counter[int]:
    """Pixels by number that are not labelled although the files hold something there: 255 and declared nodata."""
    found: Counter[int] = Counter()
    for file in (one.plain if one.is_grey else one for one in files):
        found.update(file.hidden)
        if not file.colours:
            found.update({IGNORE: file.counts[IGNORE]} if file.counts[IGNORE] else {})
    return found


def _whole_remedy(files: Sequence[LabelFile]) -> str:
    """`classes` that takes in what is declared as nodata, and 255, where nothing else is there."""
    found = unlabelled_counts(files)
    return "" if len(found) < 2 else f"if these are classes, name them: {two_classes({}, found)}"


def two_classes(present: Mapping[int, str], hidden: Mapping[int, int]) -> str:
    """`classes` in which the numbers that are not labelled are classes beside the present ones."""
    numbers = sorted({*present, *hidden})
    names: dict[int | str, str] = {}
    for number in numbers:
        default = (
            "background" if number == numbers[0] else "building" if len(numbers) == 2 else f"class {number}"
        )
        said = present.get(number)
        names[number] = default if said is None or said == f"class {number}" else said
    return mapping_setting(names)


def _by_colour(file: LabelFile, by_colour: Mapping[int, int]) -> bool:
    """Whether the file's colours tell its classes: it holds colours, or its palette's are nearly all known."""
    if not by_colour:
        return False
    if file.colours:
        return True
    if file.palette is None:
        return False
    known = sum(n for index, n in file.counts.items() if file.palette.get(index) in by_colour)
    return known >= (1 - MOST_UNKNOWN) * sum(file.counts.values())


def _colours_of(file: LabelFile) -> Counter[int]:
    if file.palette is None:
        return file.counts
    found: Counter[int] = Counter()
    for index, n in file.counts.items():
        found[file.palette.get(index, 0)] += n
    return found


def _needs_colours(file: LabelFile) -> InputError:
    fitting = presets_of(file.counts, share=MOST_UNKNOWN)
    preset = f"its colours are those of {setting('preset', fitting[0])}; else " if fitting else ""
    return InputError(
        f"{file.path} holds colours: {_listed(file.counts)}, wanted class values; {preset}say what they mean with "
        f"{setting('classes', 'classes.csv')}, a table with the columns colour and name"
    )


def _unknown_colours(files: Sequence[LabelFile], by_colour: Mapping[int, int]) -> str | None:
    """What to say of pixels whose colour is none of the table's. Raises InputError where they are too many."""
    unknown: Counter[int] = Counter()
    total = 0
    for file in files:
        colours = _colours_of(file)
        total += sum(colours.values())
        unknown.update({colour: n for colour, n in colours.items() if colour not in by_colour})
    if not unknown:
        return None
    share = sum(unknown.values()) / total
    what = _called(files)
    if share <= MOST_UNKNOWN:
        return (
            f"{sum(unknown.values())} pixels ({100 * share:.2g} %) of {what} have a colour of no class and count as "
            f"unlabelled: {_listed(unknown)}"
        )
    raise InputError(
        f"{share:.1%} of the pixels of {what} have colours of no class: {_listed(unknown)}, wanted at most "
        f"{MOST_UNKNOWN:.1%}; were they compressed with losses, or resized? Add classes with {setting('classes')}, "
        f"or name these colours 'unlabelled' there"
    )


def _listed(colours: Mapping[int, int]) -> str:
    """`#3c1098 (120 px), …`, the most frequent first."""
    ranked = sorted(colours.items(), key=lambda item: -item[1])
    return listed((f"#{colour:06x} ({n} px)" for colour, n in ranked), most=_SHOWN)


def _matched(table: Legend, by_colour: Mapping[int, int], known: Legend | None) -> dict[int, int]:
    """In the values of the known classes, by name."""
    if known is None:
        return dict(by_colour)
    values = dict(zip(known.names, known.values, strict=True))
    strange = [name for name in table.names if name not in values]
    if strange:
        raise InputError(
            f"the labels' colours mean {', '.join(strange)}, which is no class here; known: {', '.join(known.names)}; "
            f"give the colours these names with {setting('classes', 'classes.csv')}, a table with colour and name"
        )
    names = {entry.value: entry.name for entry in table.entries}
    return {colour: values[names[v]] if v in names else IGNORE for colour, v in by_colour.items()}


def _check_palettes(files: Sequence[LabelFile]) -> None:
    """Raises InputError where one number is another colour in another file: then it is no class's number."""
    seen: dict[int, tuple[int, LabelFile]] = {}
    for file in files:
        for index in sorted(file.counts) if file.palette is not None else ():
            colour = (file.palette or {}).get(index, 0)
            other, first = seen.setdefault(index, (colour, file))
            if other != colour:
                colours = sum((_colours_of(one) for one in files if one.palette is not None), Counter[int]())
                fitting = presets_of(colours, share=MOST_UNKNOWN)
                preset = setting("preset", fitting[0]) if fitting else setting("preset")
                raise InputError(
                    f"value {index} is #{other:06x} in the palette of {first.path}, but #{colour:06x} in that of "
                    f"{file.path}: the numbers mean no class; tell classes by colour with {preset} or "
                    f"{setting('classes', 'classes.csv')}, a table with the columns colour and name"
                )


def _looked_up(stored: NDArray[np.uint32], by_colour: Mapping[int, int]) -> NDArray[np.uint8]:
    """Pixel values of colours of any shape; 255 for those that are none."""
    keys = np.array(sorted(by_colour), np.uint32)
    found = np.array([by_colour[int(key)] for key in keys], np.uint8)
    place = np.minimum(np.searchsorted(keys, stored), len(keys) - 1)
    out: NDArray[np.uint8] = np.where(keys[place] == stored, found[place], np.uint8(IGNORE))
    return out


def _through(palette: Mapping[int, int], stored: NDArray[np.integer]) -> NDArray[np.uint32]:
    table = np.full(256, 0xFFFFFFFF, np.uint32)  # no colour
    for index, colour in palette.items():
        table[index] = colour
    out: NDArray[np.uint32] = table[stored]
    return out
