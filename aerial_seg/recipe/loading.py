"""Recipes: TOML → frozen, validated settings. An unknown key is an error that names the nearest one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from aerial_seg.documents import DocumentError, parse_toml, read_text
from aerial_seg.errors import SettingsError, at_work, did_you_mean
from aerial_seg.paths import StrPath, as_name
from aerial_seg.recipe.changes import Changes, apply_changes, read_changes
from aerial_seg.recipe.document import STAGE, Recipe, StageSettings
from aerial_seg.recipe.section import Section, first_problem

DEFAULT = "default"
"""The shipped recipe for people who choose none."""
_NO_RECIPES = ("classes", "protocols", "published")
"""Folders of the shipped configs that hold other documents."""

Document = TypeVar("Document", bound=Section)


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

    changes: what differs from it, as {"training.crop": 128} or ["training.crop=128"]; validated with the rest.
    Raises SettingsError for an unknown recipe, key or value, naming the nearest known one.
    """
    recipe = load_document(name, Recipe, what="recipe", known=recipe_names())
    return change_recipe(recipe, changes, name=as_name(name, "recipe"))


def change_recipe(recipe: Recipe, changes: Changes, *, name: str = "") -> Recipe:
    """Make the recipe that has these values instead of its own, validated anew. name: of the recipe, for messages.

    Raises SettingsError as load_recipe does.
    """
    read = read_changes(changes)
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


def load_document(
    name: StrPath, kind: type[Document], *, what: str, known: Sequence[str], folder: str = ""
) -> Document:
    """The document called `name`: a TOML file if the name ends in .toml, else a shipped one, one of `known`.

    what: what messages call it. folder: where in the configs the shipped ones lie.
    Raises SettingsError for an unknown document, key or value, naming the nearest known one.
    """
    name = as_name(name, what)
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise SettingsError(f"{path} does not exist; shipped {what}s: {', '.join(known)}")
        with at_work(path):
            try:
                text = read_text(path)
            except DocumentError as error:
                raise SettingsError(f"{what} {name} cannot be read: {error}") from error
            return parse_document(text, kind, name, what=what)
    if name not in known:
        raise SettingsError(
            f"there is no {what} '{name}'{did_you_mean(name, known)}; shipped: {', '.join(known)}; "
            "or name a file that ends in .toml"
        )
    return parse_document(shipped_text(folder, name), kind, name, what=what)


def parse_recipe(text: str, name: str) -> Recipe:
    """The recipe in a TOML text; `name` is for messages."""
    return parse_document(text, Recipe, name, what="recipe")


def parse_document(text: str, kind: type[Document], name: str, *, what: str) -> Document:
    """The document in a TOML text; `name` and `what` are for messages."""
    try:
        return kind.model_validate(parse_toml(text))
    except DocumentError as error:
        raise SettingsError(f"{what} {name} cannot be read: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"{what} {name}: {first_problem(error, kind)}") from error
