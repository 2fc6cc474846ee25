"""aerial-seg recipes"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from . import console, options

if TYPE_CHECKING:
    from aerial_seg.jobs.recipes import RecipeFacts

_SOURCE = 60


@click.group(
    "recipes",
    subcommand_metavar="list|show [ARGS]...",
    epilog="""\b
Examples:
  aerial-seg recipes list
  aerial-seg recipes show voc/deeplabv3
  aerial-seg recipes show voc/deeplabv3 --set model.output_stride=8 > mine.toml
  aerial-seg train chips --recipe mine.toml -o run""",
)
def command() -> None:
    """List the recipes that ship, or show one whole.

    A recipe is a TOML file that says how a network is built and trained. It may name another one as its `base` and hold
    only what differs: base = "voc/deeplabv3".
    """


@command.command(
    "list",
    epilog="""\b
Example:
  aerial-seg recipes list --json""",
)
@options.as_json
def list_command(*, as_json: bool) -> None:
    """List the recipes: what for, data, network, the mIoU that its source prints.

    A recipe without a data set is for chips that `tile` made.
    """
    from aerial_seg.benchmarks.grid import grid_names
    from aerial_seg.jobs.recipes import list_recipes

    rows = list_recipes()
    if as_json:
        console.print_json([{**asdict(row), "published": _numbers(row)} for row in rows])
        return
    head = ["recipe", "data", "network", "published mIoU", "source", "what for"]
    console.table(head, [_cells(row) for row in rows], left=len(head))
    console.say(f"\nthe rows of papers' tables, for examples/ablate.py: {', '.join(grid_names())}")


@command.command(
    "show",
    epilog="""\b
Examples:
  aerial-seg recipes show voc/fcn
  aerial-seg recipes show cityscapes/pspnet --set model.encoder=resnet50 > mine.toml""",
)
@click.argument("name", metavar="NAME|FILE.toml")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another value for a key, as `train --set` takes it; once for each key.",
)
@options.as_json
def show_command(name: str, *, changes: tuple[str, ...], as_json: bool) -> None:
    """Show a recipe whole, its base and defaults resolved.

    What is printed is TOML, and a recipe itself. Remarks say which values are not the document's own: those of a base,
    of --set, and defaults.
    """
    from aerial_seg.jobs.recipes import CHANGED, show_recipe

    from .reports.recipe_text import toml_lines

    shown = show_recipe(name, changes)
    facts = shown.facts
    if as_json:
        document = {"recipe": shown.recipe.model_dump(mode="json"), "origins": shown.origins}
        console.print_json({**asdict(facts), "published": _numbers(facts), **document})
        return
    remarks = {
        key: "default" if origin is None else "--set" if origin == CHANGED else f"of {origin}"
        for key, origin in shown.origins.items()
    }
    head = [f"{facts.name}: {facts.purpose}" if facts.purpose else facts.name]
    head += [f"base: {' ← '.join(facts.bases)}"] if facts.bases else []
    head += [f"published: {_told(facts)} ({facts.published[0].source})"] if facts.published else []
    for line in (
        *(f"# {line}" for line in head),
        "",
        *toml_lines(shown.recipe.model_dump(mode="json"), remarks),
    ):
        console.say(console.one_line(line))


def _numbers(facts: RecipeFacts) -> list[dict[str, object]]:
    return [row.model_dump(mode="json") for row in facts.published]


def _cells(facts: RecipeFacts) -> list[str]:
    source = facts.published[0].source if facts.published else ""
    short = source if len(source) <= _SOURCE else f"{source[: _SOURCE - 1]}…"
    network = f"{facts.architecture}, {facts.encoder}"
    return [
        facts.name,
        facts.dataset or "-",
        network,
        _told(facts) or "-",
        short or "-",
        facts.purpose or "-",
    ]


def _told(facts: RecipeFacts) -> str:
    """The values in their source's order, with the tests' output strides where they differ; on val unless it says."""
    rows = facts.published
    strides = {row.output_stride for row in rows}
    return ", ".join(
        f"{row.value:.2f}"
        + (f" at {row.output_stride}" if len(strides) > 1 else "")
        + (" on test" if row.split == "test" else "")
        for row in rows
    )
