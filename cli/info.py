"""aerial-seg info"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import console, options
from .reports import model_card, run_card


@click.command(
    "info",
    epilog="""\b
Examples:
  aerial-seg info ortho.tif
  aerial-seg info run/best.safetensors --json
  aerial-seg info run
  aerial-seg info chips""",
)
@click.argument("path", type=click.Path(path_type=Path))
@options.as_json
def command(path: Path, *, as_json: bool) -> None:
    """Tell what a raster, mask, model file or chip dataset holds, and where a training run stands.

    Of a raster: size, pixel size on the ground, CRS, and of every band its number, name, colour, nodata and what masks
    it. Of a model its card: the network and how far it sees, bands and pixel size that it expects, classes, training,
    validation. Of a dataset: chips and pixels per split and class. Of a run, also while it goes on: iteration, time
    left, the best validation and the last one, and whether a process is at work on it.
    """
    from aerial_seg.jobs.info.job import info

    document = console.with_flags(info(path))
    if as_json:
        console.print_json(document)
    elif document["kind"] == "model":
        model_card.show(document)
    elif document["kind"] == "training run":
        run_card.show(document)
    else:
        bands = document.pop("bands") if document["kind"] in ("raster", "mask") else []
        width = max(map(len, document))
        for key, value in document.items():
            console.say(f"{key:<{width}}  {console.one_line(_text(value))}")
        if bands:
            console.say()
            console.table(["band", *list(bands[0])[1:]], [list(map(_text, band.values())) for band in bands])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
