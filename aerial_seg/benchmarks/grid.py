"""Grids: the rows of a paper's tables, each a recipe with what differs from it, the test, and the printed figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from aerial_seg.benchmarks.protocol import load_protocol
from aerial_seg.benchmarks.published import Metric
from aerial_seg.errors import SettingsError
from aerial_seg.paths import StrPath, as_name
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import document_names, load_document, load_recipe
from aerial_seg.recipe.section import Section

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,63}$")]
Text = Annotated[str, Field(min_length=1, max_length=300)]
Percent = Annotated[float, Field(gt=0, lt=100)]
Evidence = Literal["stated", "read", "memory"]


class RowSettings(Section):
    """One row of a table.

    name: what the row goes by in its table; label: as the paper prints it. base, set, protocol, evidence: as in
    TableSettings, in place of the table's; `set` is laid over the table's. published: what the paper prints, in
    percent. note: what is worth knowing. missing: why the row cannot be trained or tested here; one without it can.
    """

    name: Name
    label: Text
    base: Text | None = None
    set: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - pydantic copies it
    protocol: Text | None = None
    evidence: Evidence | None = None
    published: Annotated[dict[Metric, Percent], Field(max_length=3)]
    note: Annotated[str, Field(max_length=300)] = ""
    missing: Annotated[str, Field(max_length=300)] = ""


class TableSettings(Section):
    """One table of the paper.

    name: what its rows' names begin with. number: as the paper has it. title: what it is about, in our words. base: the
    recipe that its rows differ from. set: what differs in all rows, as {model.encoder = "resnet50"}. protocol: by
    which its rows are tested. evidence: stated = the figures are in the paper's text; read = in a transcription
    of the table by others; memory = not checked.
    """

    name: Name
    number: Text
    title: Text
    base: Text
    set: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - pydantic copies it
    protocol: Text
    evidence: Evidence
    row: Annotated[tuple[RowSettings, ...], Field(min_length=1, max_length=256)]


class GridSettings(Section):
    """The tables of one paper or project. title, source: for people."""

    title: Text
    source: Text
    table: Annotated[tuple[TableSettings, ...], Field(min_length=1, max_length=64)]


@dataclass(frozen=True, slots=True)
class RecipeRow:
    """Hold one row, resolved.

    name: of the table and the row, as "table-3/mg121-block7". changes: from the recipe `base`, by key. recipe: with
    them. dataset: that it is tested on, and trained on (in its last stage). published: in percent, by metric. missing:
    why it cannot be run here, "" where it can.
    """

    name: str
    table: str
    title: str
    label: str
    base: str
    changes: dict[str, Any]
    recipe: Recipe
    dataset: str
    protocol: str
    published: dict[Metric, float]
    evidence: Evidence
    note: str
    missing: str


@dataclass(frozen=True, slots=True)
class RecipeGrid:
    """Hold the rows of one paper's tables, in their order."""

    name: str
    title: str
    source: str
    rows: tuple[RecipeRow, ...]


def grid_names() -> tuple[str, ...]:
    """List the grids that ship with the package, as load_grid takes them."""
    return document_names("grids")


def load_grid(name: StrPath) -> RecipeGrid:
    """Load the grid called `name`, a TOML file if the name ends in .toml, with the recipe of every row.

    Raises SettingsError for an unknown grid, key or value, for a row whose recipe or protocol is none, and for names
    that come twice.
    """
    name = as_name(name, "grid")
    settings = load_document(name, GridSettings, what="grid", known=grid_names(), folder="grids")
    rows = tuple(_resolved(name, settings))
    names = [row.name for row in rows]
    for index, one in enumerate(names):
        if one in names[:index]:
            raise SettingsError(f"grid {name}: row {one} comes twice; give one of them another name")
    return RecipeGrid(name, settings.title, settings.source, rows)


def _resolved(grid: str, settings: GridSettings) -> Iterator[RecipeRow]:
    for table in settings.table:
        for row in table.row:
            name = f"{table.name}/{row.name}"
            base, protocol = row.base or table.base, row.protocol or table.protocol
            changes = {**_by_key(table.set), **_by_key(row.set)}
            try:
                recipe = load_recipe(base, changes)
                dataset = recipe.by_stage()[-1].data.benchmark
                if dataset is None:
                    raise SettingsError(
                        f"recipe {base} is for chips of one's own, wanted one with data.benchmark, as voc/fcn"
                    )
                load_protocol(protocol).for_dataset(dataset)
            except SettingsError as error:
                raise SettingsError(f"grid {grid}, row {name}: {error}") from error
            yield RecipeRow(
                name,
                table.number,
                table.title,
                row.label,
                base,
                changes,
                recipe,
                dataset,
                protocol,
                dict(row.published),
                row.evidence or table.evidence,
                row.note,
                row.missing,
            )


def _by_key(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Values by "table.key"."""
    return {f"{table}.{key}": value for table, keys in tables.items() for key, value in keys.items()}
