"""What people say of classes, as a list, as pairs or as a table: which values of labels are which class."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.labels.class_value import Key, key_of
from aerial_seg.mentions import setting
from aerial_seg.printable import name_problem, shortened

UNLABELLED = "unlabelled"
"""The name that no class has: values of this name are not labelled."""
LARGEST_VALUE = 254
"""Of a pixel of a mask: 255 is unlabelled and nodata."""
_COLUMNS = ("value", "name", "colour", "code")
_SPELLINGS = {"color": "colour"}
_FILES = (".csv", ".tsv", ".toml")
_LONGEST = 1000
"""Characters of a value: what is longer is no class, and nobody could read a message about it."""
_FORMS = "building,road or 1=water,2=sand"


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One row of a table.

    key: what labels hold, as key_of gives it; None for a class that they hold as a colour only. value: of the map's
    pixels, where the table says it. colour: #rrggbb. code: the class's number elsewhere.
    """

    name: str
    key: Key | None = None
    value: int | None = None
    colour: str | None = None
    code: int | None = None


class ClassTable(Mapping[Key, str]):
    """Which value of labels means which class: a mapping of what labels hold to the class's name.

    Values of labels from 0 to 254 stay the map's own; any other integer or word gets the smallest number that is free
    from 1 on, and an integer stays as the class's `code`. Several values of one name are one class; those called
    'unlabelled' are none.
    """

    def __init__(self, rows: Sequence[ClassRow]) -> None:
        """Raises SettingsError for rows that contradict each other."""
        self.rows = tuple(rows)
        self._keys = {row.key: row.name for row in self.rows if row.key is not None}
        self._check()

    def __getitem__(self, key: Key) -> str:
        return self._keys[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return repr(self._keys)

    def __eq__(self, other: object) -> bool:
        return self.rows == other.rows if isinstance(other, ClassTable) else Mapping.__eq__(self, other)

    def __hash__(self) -> int:
        return hash(frozenset(self._keys.items()))

    def name_of(self, key: Key) -> str | None:
        """The class of a value of labels; None where the table does not know it.

        A class's own name stands for it, and True and False are 1 and 0 where the table has only these.
        """
        if key in self._keys:
            return self._keys[key]
        if key in self.names or key == UNLABELLED:
            return str(key)
        truth = {"True": 1, "False": 0}.get(str(key)) if isinstance(key, str) else None
        return self._keys.get(truth) if truth is not None else None

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, each once."""
        return tuple(dict.fromkeys(row.name for row in self.rows if row.name != UNLABELLED))

    @cached_property
    def pixel_values(self) -> Mapping[str, int]:
        """Class → pixel value of the map."""
        return _assigned(self.names, self.rows)

    @property
    def colours(self) -> dict[int, str]:
        """Pixel value of the map → colour, of the classes that have one in the table."""
        found: dict[int, str] = {}
        for row in self.rows:
            if row.colour is not None and row.name != UNLABELLED:
                found.setdefault(self.pixel_values[row.name], row.colour)
        return found

    @cached_property
    def colour_values(self) -> Mapping[int, int]:
        """Colour, as 0xrrggbb → pixel value of the map, 255 for what is called 'unlabelled'.

        Of a colour that several rows have, that of a class goes before 'unlabelled', and the first before others.
        """
        found: dict[int, int] = {}
        for row in sorted(self.rows, key=lambda row: row.name == UNLABELLED):
            if row.colour is not None:
                value = 255 if row.name == UNLABELLED else self.pixel_values[row.name]
                found.setdefault(int(row.colour[1:], 16), value)
        return found

    @property
    def codes(self) -> dict[int, int]:
        """Pixel value of the map → code, of the classes that have exactly one; empty where all codes are the values."""
        told: dict[str, set[int]] = {}
        for row in self.rows:
            code = row.code if row.code is not None else row.key
            if isinstance(code, int) and row.name != UNLABELLED:
                told.setdefault(row.name, set()).add(code)
        codes = {self.pixel_values[name]: codes for name, codes in told.items()}
        single = {value: min(many) for value, many in codes.items() if len(many) == 1}
        return single if any(code != value for value, code in single.items()) else {}

    def _check(self) -> None:
        if not self.names:
            raise SettingsError("no class is named; leave the setting out to take what the labels hold")
        for row in self.rows:
            problem = name_problem(row.name)
            if problem is not None:
                raise SettingsError(
                    f"'{shortened(row.name)}' cannot be a class's name: {problem}; choose another"
                )
            if isinstance(row.key, str) and len(row.key) > _LONGEST:
                raise SettingsError(
                    f"value '{shortened(row.key)}' is {len(row.key):,} characters long, wanted at most {_LONGEST:,}"
                )
        twice = [
            key for key, n in Counter(row.key for row in self.rows if row.key is not None).items() if n > 1
        ]
        if twice:
            names = [row.name for row in self.rows if row.key == twice[0]]
            raise SettingsError(
                f"value {shortened(str(twice[0]))} comes twice, as {' and '.join(map(repr, names))}; "
                "give every value one name"
            )
        if len(self.names) > LARGEST_VALUE + 1:
            raise SettingsError(f"there are {len(self.names)} classes, wanted at most {LARGEST_VALUE + 1}")
        said = {
            (row.value, row.name) for row in self.rows if row.value is not None and row.name != UNLABELLED
        }
        for part, what in ((0, "value"), (1, "class")):
            many = [one for one, count in Counter(pair[part] for pair in said).items() if count > 1]
            if many:
                raise SettingsError(
                    f"{what} {shortened(repr(many[0]))} stands in two rows that contradict each other"
                )


def _assigned(names: Sequence[str], rows: Sequence[ClassRow]) -> dict[str, int]:
    """A pixel value for every class: what its row says, else the first integer that fits, else what is free."""
    found: dict[str, int] = {
        row.name: row.value for row in rows if row.value is not None and row.name in names
    }
    taken = set(found.values())
    for row in rows:
        fits = isinstance(row.key, int) and 0 <= row.key <= LARGEST_VALUE and row.key not in taken
        if row.value is None and row.name in names and row.name not in found and fits:
            assert isinstance(row.key, int)
            found[row.name] = row.key
            taken.add(row.key)
    free = (value for value in (*range(1, LARGEST_VALUE + 1), 0) if value not in taken)
    return {name: found[name] if name in found else next(free) for name in names}


def class_table(value: Any) -> Any:
    """The table that a text, a list of names, a mapping or the name of a file means; anything else stays as it is.

    Raises SettingsError for a text or a file that is none.
    """
    if isinstance(value, os.PathLike) or (isinstance(value, str) and value.strip().lower().endswith(_FILES)):
        return _read_file(Path(os.fspath(value)))
    if isinstance(value, str):
        pairs = parse_classes(value)
        return ClassTable([ClassRow(name, key) for key, name in (pairs or {}).items()])
    if isinstance(value, ClassTable):
        return value
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        if len(set(value)) < len(value):
            raise SettingsError("a name comes twice; give every value one name of its own")
        return ClassTable([ClassRow(name, k) for k, name in enumerate(value, start=1)])
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value.values()):
        keys = [key_of(key) for key in value]
        if None not in keys:
            return ClassTable([ClassRow(name, key) for key, name in zip(keys, value.values(), strict=True)])
    return value


def parse_classes(text: str | None) -> dict[Key, str] | None:
    """`building,road` → {1: building, 2: road}; `0=background,255=building` → these; None stays None.

    What stands before a '=' is what labels hold: any integer or word. Raises SettingsError for anything else, and for
    a value that comes twice, or a name without pairs that does.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise SettingsError(f"{setting('classes')} is empty; wanted {_FORMS}, or a table (.csv, .toml)")
    paired = ["=" in part for part in parts]
    if any(paired) and not all(paired):
        raise SettingsError(f"{setting('classes')} mixes names and value=name pairs; use one form for all")
    classes: dict[Key, str] = {}
    for number, part in enumerate(parts, start=1):
        left, _, right = part.partition("=") if paired[0] else (str(number), "=", part)
        key, name = key_of(left), right.strip()
        problem = name_problem(name)
        if problem is not None and name:
            raise SettingsError(
                f"{setting('classes')}: '{shortened(name)}' cannot be a class's name: {problem}; choose another"
            )
        if problem is not None:
            raise SettingsError(f"{setting('classes')}: '{shortened(part)}' has no name; wanted {_FORMS}")
        if key is None or key in classes or (not paired[0] and name in classes.values()):
            raise SettingsError(
                f"{setting('classes')} has '{shortened(part)}' beside {classes or 'nothing'}; "
                "give every value one name of its own"
            )
        classes[key] = name
    return classes


def _read_file(path: Path) -> ClassTable:
    from aerial_seg.documents import DocumentError, parse_toml, read_text

    try:
        text = read_text(path)
        rows = parse_toml(text).get("classes") if path.suffix.lower() == ".toml" else _csv_rows(text)
    except DocumentError as error:
        raise SettingsError(f"{path} is no table of classes: {error}") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise SettingsError(
            f"{path} is no table of classes; wanted the columns {', '.join(_COLUMNS)} in a CSV, or in TOML "
            'classes = [{ value = 1, name = "building", colour = "#c0392b" }, …]'
        )
    try:
        return table_of(rows)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def _csv_rows(text: str) -> list[dict[str, str]]:
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=separator, restkey="more columns")
    return [row for row in reader if any(isinstance(cell, str) and cell.strip() for cell in row.values())]


def table_of(rows: Sequence[Mapping[str, Any]]) -> ClassTable:
    """The table of rows with the columns value, name, colour and code; only the name must be there.

    Labels hold the code where a table has codes, else the value. A row without either is known by its colour, else by
    its name.
    """
    plain = [_plain(row) for row in rows]
    coded = any(row.get("code") is not None for row in plain)
    found = []
    for number, row in enumerate(plain, start=1):
        name = str(row.get("name") or "").strip()
        if not name:
            raise SettingsError(f"row {number} has no name; call what is no class '{UNLABELLED}'")
        key = key_of(row.get("code" if coded else "value"))
        key = key_of(row.get("value")) if key is None else key
        value = _map_value(row.get("value"), name) if coded and row.get("value") is not None else None
        colour = _colour(row.get("colour"), name)
        code = key_of(row.get("code"))
        found.append(ClassRow(name, key, value, colour, code if isinstance(code, int) else None))
    return ClassTable(found)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """By the columns' own names, without what is blank."""
    found = {}
    for column, cell in row.items():
        name = _SPELLINGS.get(str(column).strip().lower(), str(column).strip().lower())
        if name not in _COLUMNS:
            hint = did_you_mean(name, _COLUMNS)
            raise SettingsError(f"there is no column '{shortened(name)}', wanted {', '.join(_COLUMNS)}{hint}")
        if cell is not None and str(cell).strip():
            found[name] = cell
    return found


def _map_value(cell: object, name: str) -> int | None:
    value = key_of(cell)
    if name == UNLABELLED:
        return None
    if not isinstance(value, int) or not 0 <= value <= LARGEST_VALUE:
        raise SettingsError(
            f"class '{shortened(name)}' has value {shortened(str(cell))} beside a code, wanted 0 to {LARGEST_VALUE}: "
            "the value is the map's, the code what labels hold"
        )
    return value


def _colour(cell: object, name: str) -> str | None:
    """#rrggbb of that, of three numbers or of a list of them."""
    if cell is None:
        return None
    text = " ".join(map(str, cell)) if isinstance(cell, list | tuple) else str(cell).strip().lower()
    if re.fullmatch(r"#?[0-9a-f]{6}", text):
        return f"#{text.removeprefix('#')}"
    numbers = [int(part) for part in re.findall(r"[0-9]{1,3}", text)]
    if len(numbers) == 3 and max(numbers) <= 255 and re.fullmatch(r"[0-9 ,;]+", text):
        return "#{:02x}{:02x}{:02x}".format(*numbers)
    raise SettingsError(
        f"class '{shortened(name)}' has colour {shortened(text)}, wanted #c0392b or 192 57 43"
    )
