"""Names that label rasters carry for their own numbers: one meaning for all files, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from aerial_seg.errors import InputError
from aerial_seg.labels.class_table import LARGEST_VALUE
from aerial_seg.labels.label_file import LabelFile
from aerial_seg.legend import Legend, LegendEntry, make_legend
from aerial_seg.mentions import setting
from aerial_seg.outputs.mask import read_legend


def legend_of_files(files: Sequence[LabelFile], counts: Mapping[int, int]) -> Legend | None:
    """The classes as the files name them; None where none of them names any, or a number can be no class's.

    counts: pixels of each number in all files. A number without a name is called by itself. Raises InputError where
    files name one number differently, or one class by two numbers: then the numbers mean no class.
    """
    told = [(file.path, own) for file in files if (own := read_legend(file.path)) is not None]
    if not told or not all(0 <= value <= LARGEST_VALUE for value in counts):
        return None
    held = {file.path: file.counts for file in files}
    found: dict[int, tuple[Path, LegendEntry]] = {}
    for path, own in told:
        for entry in own.entries:
            if held[path][entry.value]:
                first, other = found.setdefault(entry.value, (path, entry))
                if other.name != entry.name:
                    raise _contradiction(f"value {entry.value}", (first, other.name), (path, entry.name))
    numbers: dict[str, tuple[Path, int]] = {}
    for value, (path, entry) in found.items():
        first, number = numbers.setdefault(entry.name, (path, value))
        if number != value:
            raise _contradiction(f"class '{entry.name}'", (first, number), (path, value))
    legend = told[0][1]
    if counts.keys() <= set(legend.values) and all(found[value][1] in legend.entries for value in counts):
        return legend
    entries = {value: entry for value, (_, entry) in found.items()}
    missing = {value: f"class {value}" for value in counts if value not in entries}
    for entry in legend.entries:
        if entry.value not in missing and entry.name not in numbers:
            entries.setdefault(entry.value, entry)
    others = make_legend(missing).entries if missing else ()
    every = (*(entry for entry in entries.values() if entry.value not in missing), *others)
    return Legend(entries=tuple(sorted(every, key=lambda entry: entry.value)))


def _contradiction(what: str, one: tuple[Path, object], other: tuple[Path, object]) -> InputError:
    (path, said), (another, told) = one, other
    return InputError(
        f"{what} is {said!r} by the names that {path} carries, but {told!r} by those of {another}; bring them to one "
        f"numbering first, or say what all numbers mean with {setting('classes')}, if the names are wrong"
    )
