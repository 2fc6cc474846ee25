"""Recipes that begin from another one: what each document of the line says itself, and which of them has a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard

from pydantic import Field

from aerial_seg.errors import SettingsError
from aerial_seg.printable import shortened
from aerial_seg.recipe.section import Section

BASE = "base"
"""The key at the top of a document that names the recipe it begins from."""
UNSET = "unset"
"""The key at the top of a document that lists which keys of its base it takes out, as "batch_norm.decay"."""
ABOUT = "about"
"""The table of a document that is for its readers, and no setting."""

Table = dict[str, Any]


class AboutSettings(Section):
    """What a recipe's document says of itself; no setting, not recorded with a run, and not inherited.

    purpose: what it is for, in a line. result: how the `source` of the published table (configs/published) begins that
    this recipe is to be held against; protocols: of its rows there.
    """

    purpose: Annotated[str, Field(max_length=300)] = ""
    result: Annotated[str, Field(max_length=300)] = ""
    protocols: Annotated[tuple[str, ...], Field(max_length=16)] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """One document as it was read.

    base: the recipe it begins from, as it names it. settings: its own tables. unset: the keys that it takes out of its
    base, whose values are the defaults again.
    """

    name: str
    base: str | None
    about: Any
    settings: Table
    unset: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, name: str, table: Table) -> Document:
        """Raises SettingsError for a base that is no name, and for keys to unset that it sets itself, or none."""
        settings = {key: value for key, value in table.items() if key not in (BASE, UNSET, ABOUT)}
        base = table.get(BASE)
        if base is not None and (not isinstance(base, str) or not base):
            raise SettingsError(
                f"recipe {name}: '{BASE}' is {shortened(repr(base))}, wanted the name of a recipe that ships, or a "
                "file that ends in .toml"
            )
        try:
            unset = read_unset(table.get(UNSET, ()), settings)
        except SettingsError as error:
            raise SettingsError(f"recipe {name}: {error}") from error
        return cls(name, base, table.get(ABOUT, {}), settings, unset)


@dataclass(frozen=True, slots=True)
class Lineage:
    """The documents that make a recipe, its farthest base first, it itself last."""

    documents: tuple[Document, ...]

    @classmethod
    def trace(cls, first: Document, read_base: Callable[[Document], Document]) -> Lineage:
        """The line of this document. Raises SettingsError where it leads back to a document that it holds already."""
        found = [first]
        while found[-1].base is not None:
            further = read_base(found[-1])
            names = [one.name for one in found]
            if further.name in names:
                circle = " → ".join([*names, further.name])
                raise SettingsError(
                    f"recipe {first.name}: its base leads in a circle, {circle}; take '{BASE}' out of one of them"
                )
            found.append(further)
        return cls(tuple(reversed(found)))

    def merged(self, count: int | None = None) -> Table:
        """The tables of the first `count` documents, or of all, as one.

        Tables are merged key by key, at every depth; any other value, a list too, takes the place of the one before.
        Raises SettingsError where a document unsets what none of its bases sets.
        """
        tables: Table = {}
        for document in self.documents[:count]:
            for path in document.unset:
                tables = _without(tables, path, document)
            tables = _over(tables, document.settings)
        return tables

    def origin(self, path: tuple[str, ...]) -> str | None:
        """The document that has the last word on a key, ("training", "crop"); None where none of them names it."""
        for document in reversed(self.documents):
            if _holds(document.settings, path) or any(path[: len(one)] == one for one in document.unset):
                return document.name
        return None


def read_unset(keys: Any, settings: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The paths of keys to unset. settings: what is set beside them. Raises SettingsError for what cannot be one."""
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) and key for key in keys):
        raise SettingsError(
            f"'{UNSET}' is {shortened(repr(keys))}, wanted a list of keys, as [\"batch_norm.decay\"]"
        )
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise SettingsError(f"'{UNSET}' names {shortened(key)} twice; leave one out")
        if _holds(settings, tuple(key.split("."))):
            raise SettingsError(
                f"'{UNSET}' names {shortened(key)}, which is set here too; leave one of them out"
            )
    return tuple(tuple(key.split(".")) for key in keys)


def _without(tables: Table, path: tuple[str, ...], document: Document) -> Table:
    """The tables without that key, at any depth."""
    if not _holds(tables, path):
        whose = "it has no base" if document.base is None else f"nothing in its base {document.base} sets it"
        raise SettingsError(
            f"recipe {document.name}: '{UNSET}' names {shortened('.'.join(path))}, but {whose}; leave it out"
        )
    first, *inside = path
    if not inside:
        return {key: value for key, value in tables.items() if key != first}
    return {**tables, first: _without(tables[first], tuple(inside), document)}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> Table:
    merged = dict(below)
    for key, value in above.items():
        before = merged.get(key)
        merged[key] = _over(before, value) if _are_tables(before) and _are_tables(value) else value
    return merged


def _are_tables(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _holds(table: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True
