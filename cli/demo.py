"""aerial-seg demo"""

from __future__ import annotations

from pathlib import Path

import click

from . import console, options


@click.command(
    "demo",
    epilog="""\b
Examples:
  aerial-seg demo
  aerial-seg demo try_it --overwrite""",
)
@click.argument("output", metavar="[OUT]", default="aerial-seg-demo", type=click.Path(path_type=Path))
@options.device
@options.overwrite
@options.as_json
def command(output: Path, *, device: str, overwrite: bool, as_json: bool) -> None:
    """Run the whole main job on synthetic imagery in a few minutes.

    Makes three georeferenced scenes with vector labels, tiles two, trains a small model on them, predicts the third,
    vectorises the map and scores it against the known truth. Everything lies in OUT (default: aerial-seg-demo).
    """
    from aerial_seg.jobs.demo import demo

    report = demo(output, device=device, overwrite=overwrite, progress=console.bar)
    places = {
        "scenes": report.scenes,
        "chip dataset": report.dataset,
        "model": report.model,
        "training curves": report.curves,
        "mask": report.mask,
        "GeoPackage": report.geopackage,
        "Shapefile": report.shapefile,
        "picture": report.picture,
        "page": report.page,
        "report": report.report,
    }
    if as_json:
        console.print_json({"miou": report.miou, **places})
        return
    console.score_tables(report.evaluation.scores)
    console.say()
    for name, path in places.items():
        console.say(f"{name:<16}{path}")
    console.say(f"\nmIoU {report.miou:.3f}")
