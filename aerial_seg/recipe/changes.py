"""Single changes of a recipe: `training.learning_rate=3e-4`, in TOML's own syntax, where bare words are texts too."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aerial_seg.documents import DocumentError, parse_toml
from aerial_seg.errors import SettingsError
from aerial_seg.printable import shortened

Changes = Mapping[str, Any] | Sequence[str]
"""Values by key, as {"training.crop": 128}; or texts KEY=VALUE, as the command line takes them."""

_OPENS = ('"', "'", "[", "{")
"""What a value begins with that is no bare word."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value, and the tables that it lies in: ("training", "crop")."""

    path: tuple[str, ...]
    value: Any

    @property
    def key(self) -> str:
        """The path as one types it."""
        return ".".join(self.path)


def read_changes(changes: Changes) -> tuple[Change, ...]:
    """The changes, one for each key.

    Raises SettingsError for what is no KEY=VALUE, and where a key, or a table that it lies in, comes twice.
    """
    if isinstance(changes, str | bytes) or not isinstance(changes, Mapping | Sequence):
        raise SettingsError(
            f"changes is {shortened(repr(changes))}, wanted a mapping as {{'training.crop': 128}}, "
            "or a list of texts as 'training.crop=128'"
        )
    if isinstance(changes, Mapping):
        found = [Change(_path(str(key), str(key)), value) for key, value in changes.items()]
    else:
        found = [_read(str(text)) for text in changes]
    for number, one in enumerate(found):
        for other in found[:number]:
            least = min(len(one.path), len(other.path))
            if one.path[:least] == other.path[:least]:
                raise SettingsError(f"{other.key} and {one.key} are set at once; leave one of them out")
    return tuple(found)


def apply_changes(
    document: Mapping[str, Any],
    changes: Sequence[Change],
    known: Mapping[str, Sequence[str]],
    lists: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The document with these values in place of its own; it is not touched itself.

    known: the keys of each table at the top. lists: of each list of tables at the top the keys of an entry besides such
    tables: `stage.0.training.crop` is a key of its first entry, as `stage.NAME.training.crop` is of the one so called.
    Raises SettingsError for a whole table and for a key that there is not, with the nearest known one.
    """
    changed = _copied(document)
    done: dict[tuple[object, ...], Change] = {}
    for change in changes:
        name, *inside = change.path
        table, path, before = changed, change.path, ""
        if name in lists:
            table, before = _entry(change, changed.get(name, ()))
            path = tuple(inside[1:])
        if not (name in lists and len(path) == 1 and path[0] in lists[name]):
            _check_key(path, known, before)
        earlier = done.setdefault((id(table), *path), change)
        if earlier is not change:
            raise SettingsError(f"{earlier.key} and {change.key} are set at once; leave one of them out")
        for key in path[:-1]:
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                raise SettingsError(f"{change.key}: {key} holds {shortened(repr(inner))} and no table")
            table = inner
        table[path[-1]] = change.value
    return changed


def _entry(change: Change, entries: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """The entry of a list of tables that a change is of, and what a key there begins with."""
    name, *inside = change.path
    called = [str(entry.get("name")) for entry in entries]
    if len(inside) < 2:
        raise SettingsError(
            f"{name} is a list of tables, wanted a key of one of them, as {name}.0.training.learning_rate=VALUE"
        )
    which = inside[0]
    number = (
        called.index(which) if which in called else int(which) if re.fullmatch("[0-9]{1,9}", which) else -1
    )
    if not 0 <= number < len(entries):
        there = ", ".join(f"{k} ({one})" for k, one in enumerate(called))
        raise SettingsError(
            f"{shortened(change.key)}: there is no {name} '{shortened(which)}'; "
            + (
                f"those of the recipe: {there}"
                if there
                else f"the recipe has none, write [[{name}]] into its file"
            )
        )
    return entries[number], f"{name}.{which}."


def _check_key(path: tuple[str, ...], known: Mapping[str, Sequence[str]], before: str = "") -> None:
    """before: what the key begins with besides its path."""
    table, *keys = path
    if table in known and not keys:
        first = known[table][0] if known[table] else "…"
        raise SettingsError(
            f"{before}{table} is a table of the recipe, wanted one of its keys, as {before}{table}.{first}=VALUE"
        )
    if table in known and keys[0] in known[table]:
        return
    said = ".".join(path)
    names = [f"{table}.{key}" for table, keys in known.items() for key in keys]
    # Whoever left the table out, or took another one, meant this key.
    near = [name for name in names if name.rpartition(".")[2] == path[-1]]
    near = near or difflib.get_close_matches(said, names, n=1)
    if not near:
        last = [name.rpartition(".")[2] for name in names]
        near = [names[last.index(one)] for one in difflib.get_close_matches(path[-1], last, n=1)]
    hint = f"; did you mean '{before}{near[0]}'?" if near else ""
    here, beside = (f"known in {table}", known[table]) if table in known else ("tables", tuple(known))
    raise SettingsError(f"unknown key '{shortened(before + said)}'{hint}; {here}: {', '.join(beside)}")


def _read(text: str) -> Change:
    """The change that a text KEY=VALUE means. A key may hold `=` between quotes, so the first `=` need not end it."""
    at = text.find("=")
    while at >= 0:
        key, value = text[:at], text[at + 1 :]
        if key.count('"') % 2 == 0 and key.count("'") % 2 == 0:
            return Change(_path(key, text), _value(value.strip(), text))
        at = text.find("=", at + 1)
    raise SettingsError(
        f"'{shortened(text)}' is no change of a recipe, wanted KEY=VALUE, as training.learning_rate=3e-4"
    )


def _path(key: str, said: str) -> tuple[str, ...]:
    try:
        inner: Any = parse_toml(f"{key} = 0") if "\n" not in key else {}
    except DocumentError:
        inner = {}
    path: list[str] = []
    while isinstance(inner, dict) and len(inner) == 1:
        ((name, inner),) = inner.items()
        path.append(name)
    if inner != 0 or not path:
        raise SettingsError(
            f"'{shortened(said)}' names no key of a recipe, wanted one as training.learning_rate; names with odd "
            'letters stand in quotes, as training.class_weights."car park"'
        )
    return tuple(path)


def _value(text: str, said: str) -> Any:
    try:
        found = parse_toml(f"value = {text}")
    except DocumentError as error:
        if not text or text.startswith(_OPENS) or "\n" in text:
            raise SettingsError(f"'{shortened(said)}' has no value that TOML knows ({error})") from error
        return text  # a bare word: resnet34, deeplabv3+, a file's name
    if found.keys() != {"value"}:
        raise SettingsError(f"'{shortened(said)}' sets more than one key; give each a change of its own")
    return found["value"]


def _copied(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(one) for key, one in table.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _copied(value)
    return [_copy(one) for one in value] if isinstance(value, list | tuple) else value
