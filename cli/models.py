"""aerial-seg models"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from . import console, options
from .setting_options import Whole

if TYPE_CHECKING:
    from aerial_seg.jobs.models import ModelFacts


@click.command(
    "models",
    epilog="""\b
Examples:
  aerial-seg models
  aerial-seg models --encoder resnet50 --bands 4 --classes 6
  aerial-seg models --encoders""",
)
@click.option(
    "--encoder", default="resnet18", show_default=True, metavar="NAME", help="Encoder of all architectures."
)
@click.option(
    "--bands",
    type=Whole(1, 10_000),
    default=3,
    show_default=True,
    metavar="N",
    help="Bands of the imagery.",
)
@click.option(
    "--classes",
    type=Whole(1, 255),
    default=2,
    show_default=True,
    metavar="N",
    help="Classes to tell apart.",
)
@click.option("--encoders", is_flag=True, help="List the encoders instead.")
@options.as_json
def command(*, encoder: str, bands: int, classes: int, encoders: bool, as_json: bool) -> None:
    """List architectures, their sizes and what they cost.

    They are what a recipe's model.architecture can be, each with the same encoder; one that cannot be built with it
    says why. Parameters are all that are trained. GFLOPs are 10⁹ operations per million pixels of a forward over a
    512 × 512 image; a multiply-add counts as two, and only convolutions and matrix products count. The output stride
    is how far the encoder shrinks the image, the logit stride how many pixels each cell of the output stands for.
    """
    from aerial_seg.jobs.models import list_encoders, list_models

    if encoders:
        kinds = list_encoders()
        if as_json:
            console.print_json([dataclasses.asdict(kind) for kind in kinds])
            return
        console.table(
            ["encoder", "family", "weights"],
            [[kind.name, kind.family, ", ".join(kind.weights) or "none"] for kind in kinds],
        )
        console.say("\nand every encoder of timm, as tu-NAME")
        return
    rows = list_models(encoder, bands=bands, classes=classes)
    if as_json:
        console.print_json({"encoder": encoder, "models": [dataclasses.asdict(row) for row in rows]})
    else:
        _print(rows)


def _print(rows: tuple[ModelFacts, ...]) -> None:
    head = ["architecture", "M parameters", "GFLOPs/Mpx", "output stride", "logit stride"]
    console.table(head, [_cells(row) for row in rows])
    missing = [row for row in rows if row.problem is not None]
    if missing:
        console.say("\nwhat does not work with this encoder:")
    for row in missing:
        console.say(f"  {row.architecture}: {row.problem}")


def _cells(row: ModelFacts) -> list[str]:
    numbers = (
        None if row.parameters is None else f"{row.parameters / 1e6:.2f}",
        None if row.gflops_per_mpx is None else f"{row.gflops_per_mpx:,.1f}",
        row.output_stride,
        row.logit_stride,
    )
    return [row.architecture, *("-" if number is None else str(number) for number in numbers)]
