"""recipes: which there are, what each is for and is held against, and one of them whole."""

from __future__ import annotations

from dataclasses import dataclass

from aerial_seg.benchmarks.protocol import load_protocol, protocol_names
from aerial_seg.benchmarks.published import PublishedResult, published
from aerial_seg.paths import StrPath, as_name
from aerial_seg.recipe.changes import Changes, read_changes
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.lineage import AboutSettings, Lineage
from aerial_seg.recipe.loading import change_recipe, read_lineage, recipe_names, with_lineage

CHANGED = "set"
"""Where a value comes from that the caller has changed."""


@dataclass(frozen=True, slots=True)
class RecipeFacts:
    """Tell what a recipe is for. bases: the recipes that it begins from, the nearest first.

    published: what its source prints for its network on its data; empty where it names none.
    """

    name: str
    purpose: str
    bases: tuple[str, ...]
    dataset: str | None
    architecture: str
    encoder: str
    published: tuple[PublishedResult, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownRecipe:
    """Hold a recipe whole. origins: of its keys ("training.crop") whose value is not its own document's, where it is.

    That is a base's name, CHANGED, or None for a default.
    """

    name: str
    facts: RecipeFacts
    recipe: Recipe
    origins: dict[str, str | None]


def list_recipes() -> tuple[RecipeFacts, ...]:
    """List the recipes that ship with the package, by name."""
    found = []
    for name in recipe_names():
        lineage = read_lineage(name)
        recipe, about = with_lineage(lineage)
        found.append(_facts(name, lineage, recipe, about))
    return tuple(found)


def show_recipe(name: StrPath, changes: Changes = ()) -> ShownRecipe:
    """Show the recipe called `name` (see load_recipe) with these changes, and where each value comes from.

    Raises SettingsError as load_recipe does.
    """
    lineage = read_lineage(name)
    name = as_name(name, "recipe")
    recipe, about = with_lineage(lineage)
    changed = change_recipe(recipe, changes, name=name)
    set_now = {part for one in read_changes(changes) for part in (one.path[:1], one.path[:2])}
    origins: dict[str, str | None] = {}
    for table, settings in changed.model_dump().items():
        # What is no table is a list of them, which a document has whole.
        for path in [(table, key) for key in settings] if isinstance(settings, dict) else [(table,)]:
            origin = CHANGED if path in set_now else lineage.origin(path)
            if origin != name:
                origins[".".join(path)] = origin
    # A number is held against the recipe as it stands in its document, not against what became of it.
    facts = _facts(
        name, lineage, changed, AboutSettings(purpose=about.purpose) if changed != recipe else about
    )
    return ShownRecipe(name, facts, changed, origins)


def _facts(name: str, lineage: Lineage, recipe: Recipe, about: AboutSettings) -> RecipeFacts:
    bases = tuple(one.name for one in reversed(lineage.documents[:-1]))
    model = recipe.model
    return RecipeFacts(
        name,
        about.purpose,
        bases,
        recipe.by_stage()[-1].data.benchmark,
        model.architecture,
        model.encoder,
        _published(recipe, about),
    )


def _published(recipe: Recipe, about: AboutSettings) -> tuple[PublishedResult, ...]:
    """The rows, of the table that the recipe names, that are of its network, tested at the protocol's output stride."""
    dataset = recipe.by_stage()[-1].data.benchmark
    if dataset is None or not about.result:
        return ()
    return tuple(
        row
        for row in published(dataset)
        if row.source.startswith(about.result)
        and row.metric == "miou"
        and (row.architecture, row.encoder) == (recipe.model.architecture, recipe.model.encoder)
        and (not about.protocols or row.protocol in about.protocols)
        and row.output_stride in (None, _tested_at(recipe, row.protocol))
    )


def _tested_at(recipe: Recipe, protocol: str) -> int:
    """The output stride at which a protocol tests the recipe's network."""
    asked = load_protocol(protocol).output_stride if protocol in protocol_names() else None
    return asked or recipe.model.output_stride
