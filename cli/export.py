"""aerial-seg export"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from . import console, options


@click.command(
    "export",
    epilog="""\b
Examples:
  aerial-seg export run/best.safetensors -o model.onnx
  aerial-seg export run/best.safetensors -o logits.onnx --no-upsample --logits --tile-size 1024""",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="ONNX file to write (.onnx)."
)
@click.option(
    "--tile-size",
    type=options.PIXELS,
    metavar="PIXELS",
    help="Side of the input; by default the model's own tile size.",
)
@click.option(
    "--normalise/--no-normalise", default=True, show_default=True,
    help="Whether the file normalises pixels itself, or takes images that are normalised already.",
)  # fmt: skip
@click.option(
    "--upsample/--no-upsample", default=True, show_default=True,
    help="Whether the output has the input's size, or one value per cell of the network's logits.",
)  # fmt: skip
@click.option(
    "--probabilities/--logits", default=True, show_default=True,
    help="Whether the output is a probability per class, or the logits with the class bias added.",
)  # fmt: skip
@options.overwrite
@options.as_json
def command(
    model: Path,
    *,
    output: Path,
    tile_size: int | None,
    normalise: bool,
    upsample: bool,
    probabilities: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a model as ONNX, for QGIS and other programs.

    The file takes batches of any size of square images of one fixed side, and says in its metadata what QGIS's plugin
    Deepness asks for: classes, resolution, tile size, overlap and standardisation. It is run with onnxruntime and
    compared with the network before it appears. Nodata is unknown to it: pixels without measurement are pixels like
    others. Needs pip install 'aerial-seg[onnx]'.
    """
    from aerial_seg.jobs.export import export
    from aerial_seg.jobs.settings import ExportSettings

    settings = ExportSettings(
        tile_size=tile_size,
        normalise=normalise,
        upsample=upsample,
        probabilities=probabilities,
        overwrite=overwrite,
    )
    report = export(model, output, settings)
    console.notes(report.notes)
    if as_json:
        console.print_json(dataclasses.asdict(report))
        return
    side = report.tile_size
    console.say(
        f"{report.path}: N × {report.bands} × {side} × {side} px to {report.output}, opset {report.opset}, "
        f"{report.size / 1e6:.1f} MB, within {report.difference:.1e} of the network"
    )
