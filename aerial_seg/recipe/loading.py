"""Recipes: TOML → frozen, validated settings. An unknown key is an error that names the nearest one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from aerial_seg.documents import DocumentError, parse_toml, read_text
from aerial_seg.errors import SettingsError, at_work, did_you_mean
from aerial_seg.paths import StrPath, as_name
from aerial_seg.printable import shortened
from aerial_seg.recipe.changes import Change, Changes, apply_changes, read_changes
from aerial_seg.recipe.document import STAGE, Recipe, StageSettings
from aerial_seg.recipe.lineage import ABOUT, BASE, UNSET, AboutSettings, Document, Lineage
from aerial_seg.recipe.section import Section, first_problem, unknown_key

DEFAULT = "default"
"""The shipped recipe for people who choose none."""
_NO_RECIPES = ("classes", "grids", "protocols", "published")
"""Folders of the shipped configs that hold other documents."""

Kind = TypeVar("Kind", bound=Section)


def recipe_names() -> tuple[str, ...]:
    """List the recipes that ship with the package, as `train --recipe` takes them."""
    root = resources.files("aerial_seg.configs")
    names = list(document_names(""))
    for entry in root.iterdir():
        if entry.is_dir() and not entry.name.startswith("_") and entry.name not in _NO_RECIPES:
            names += [f"{entry.name}/{name}" for name in document_names(entry.name)]
    return tuple(sorted(names))


def document_names(folder: str) -> tuple[str, ...]:
    """The TOML documents that ship in a folder of the configs, without their endings."""
    root = resources.files("aerial_seg.configs").joinpath(folder)
    names = [entry.name for entry in root.iterdir()] if root.is_dir() else []
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def shipped_text(folder: str, name: str) -> str:
    """The TOML text of the document `name` that ships in a folder of the configs."""
    root = resources.files("aerial_seg.configs").joinpath(folder)
    return root.joinpath(f"{name}.toml").read_text(encoding="utf-8")


def load_recipe(name: StrPath, changes: Changes = ()) -> Recipe:
    """Load the recipe called `name`: a TOML file if the name ends in .toml, else one that ships with the package.

    Where the document names a `base`, that one is read first and holds whatever the document leaves out, but for the
    keys in its `unset`; a file's base is a recipe that ships, or a .toml file beside it. changes: what differs from all
    of it, as {"training.crop": 128} or ["training.crop=128"]; validated with the rest.
    Raises SettingsError for an unknown recipe, key or value, naming the nearest known one, and for bases in a circle.
    """
    recipe, _ = with_lineage(read_lineage(name))
    return change_recipe(recipe, changes, name=as_name(name, "recipe"))


def read_lineage(name: StrPath) -> Lineage:
    """The documents that make the recipe called `name`, its bases first; nothing but their bases is validated."""
    name = as_name(name, "recipe")
    return Lineage.trace(_read_recipe(name), _read_base)


def with_lineage(lineage: Lineage) -> tuple[Recipe, AboutSettings]:
    """The recipe that these documents make, and what the last of them says of itself.

    Raises SettingsError with the name of the first document that makes none together with its bases.
    """
    recipe, about = Recipe(), AboutSettings()
    for number, document in enumerate(lineage.documents, start=1):
        try:
            recipe = Recipe.model_validate(lineage.merged(number))
        except ValidationError as error:
            raise SettingsError(f"recipe {document.name}: {_recipe_problem(error)}") from error
        try:
            about = AboutSettings.model_validate(document.about)
        except ValidationError as error:
            raise SettingsError(
                f"recipe {document.name}: {ABOUT}: {first_problem(error, AboutSettings)}"
            ) from error
    return recipe, about


def _recipe_problem(error: ValidationError) -> str:
    """As first_problem; what is unknown at the top may have been meant for a key that is no table of the recipe."""
    problem = error.errors()[0]
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        key, known = str(problem["loc"][0]), (*Recipe.model_fields, BASE, UNSET, ABOUT)
        return unknown_key(key, key, known)
    return first_problem(error, Recipe)


def _read_recipe(name: str) -> Document:
    known = recipe_names()
    return Document.of(name, _table(document_text(name, what="recipe", known=known), name, "recipe"))


def _read_base(document: Document) -> Document:
    base = document.base or ""
    if base.endswith(".toml") and not document.name.endswith(".toml"):
        raise SettingsError(
            f"recipe {document.name}: '{BASE}' is {shortened(base)}, a file, and it lies in none itself; name a recipe "
            f"that ships ({', '.join(recipe_names())})"
        )
    # Two ways to one file are one name, or bases in a circle would be followed for ever.
    name = os.path.normpath(Path(document.name).parent / base) if base.endswith(".toml") else base
    try:
        return _read_recipe(name)
    except SettingsError as error:
        raise SettingsError(f"recipe {document.name}, its {BASE}: {error}") from error


def change_recipe(recipe: Recipe, changes: Changes, *, name: str = "") -> Recipe:
    """Make the recipe that has these values instead of its own, validated anew. name: of the recipe, for messages.

    `none` for a key that has no value by default leaves it so: TOML has no word for that.
    Raises SettingsError as load_recipe does.
    """
    read = tuple(map(_with_none, read_changes(changes)))
    if not read:
        return recipe
    known = {
        key: tuple(type(getattr(recipe, key)).model_fields) for key in Recipe.model_fields if key != STAGE
    }
    lists = {STAGE: tuple(StageSettings.model_fields)}
    what = " ".join(("recipe", *([name] if name else []), "with", ", ".join(one.key for one in read)))
    try:
        return Recipe.model_validate(apply_changes(recipe.model_dump(), read, known, lists))
    except ValidationError as error:
        raise SettingsError(f"{what}: {first_problem(error, Recipe)}") from error


def _with_none(change: Change) -> Change:
    *_, table, key = ("", *change.path)
    section = Recipe.model_fields.get(table)
    kind = None if section is None else section.annotation
    if change.value != "none" or not (isinstance(kind, type) and issubclass(kind, Section)):
        return change
    field = kind.model_fields.get(key)
    return change if field is None or field.default is not None else replace(change, value=None)


def load_document(
    name: StrPath, kind: type[Kind], *, what: str, known: Sequence[str], folder: str = ""
) -> Kind:
    """The document called `name`: a TOML file if the name ends in .toml, else a shipped one, one of `known`.

    what: what messages call it. folder: where in the configs the shipped ones lie.
    Raises SettingsError for an unknown document, key or value, naming the nearest known one.
    """
    name = as_name(name, what)
    return parse_document(document_text(name, what=what, known=known, folder=folder), kind, name, what=what)


def document_text(name: str, *, what: str, known: Sequence[str], folder: str = "") -> str:
    """The text of the document called `name`, as load_document takes it. Raises SettingsError where there is none."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise SettingsError(f"{path} does not exist; shipped {what}s: {', '.join(known)}")
        with at_work(path):
            try:
                return read_text(path)
            except DocumentError as error:
                raise SettingsError(f"{what} {name} cannot be read: {error}") from error
    if name not in known:
        raise SettingsError(
            f"there is no {what} '{name}'{did_you_mean(name, known)}; shipped: {', '.join(known)}; "
            "or name a file that ends in .toml"
        )
    return shipped_text(folder, name)


def parse_recipe(text: str, name: str) -> Recipe:
    """The recipe in a TOML text, on its base, if it names one that ships; `name` is for messages."""
    document = Document.of(name, _table(text, name, "recipe"))
    return with_lineage(Lineage.trace(document, _read_base))[0]


def parse_document(text: str, kind: type[Kind], name: str, *, what: str) -> Kind:
    """The document in a TOML text; `name` and `what` are for messages."""
    try:
        return kind.model_validate(_table(text, name, what))
    except ValidationError as error:
        raise SettingsError(f"{what} {name}: {first_problem(error, kind)}") from error


def _table(text: str, name: str, what: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except DocumentError as error:
        raise SettingsError(f"{what} {name} cannot be read: {error}") from error
