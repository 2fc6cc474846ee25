"""aerial-seg export"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from aerial_seg.jobs.settings import ExportSettings

from . import console, options
from .setting_options import from_settings


@click.command(
    "export",
    epilog="""\b
Examples:
  aerial-seg export run/best.safetensors -o model.onnx
  aerial-seg export run/best.safetensors -o logits.onnx --no-upsample --logits --tile-size 1024
  aerial-seg export run/best.safetensors --as torchvision -o weights.pth""",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write (.onnx; with --as, .pth).",
)
@click.option(
    "--as",
    "project",
    type=click.Choice(["torchvision", "mmseg"]),
    help="Write a checkpoint with that project's names instead of ONNX, where its network is the same one.",
)
@from_settings(ExportSettings)
@options.as_json
def command(
    model: Path,
    *,
    output: Path,
    project: str | None,
    settings: ExportSettings,
    as_json: bool,
) -> None:
    """Write a model as ONNX, for QGIS and other programs, or its weights as another project's checkpoint.

    The ONNX file takes batches of any size of square images of one fixed side, and says in its metadata what QGIS's
    plugin Deepness asks for: classes, resolution, tile size, overlap and standardisation. It is run with onnxruntime
    and compared with the network before it appears. Nodata is unknown to it: pixels without measurement are pixels like
    others. Needs pip install 'aerial-seg[onnx]'. With --as the weights get torchvision's or mmseg's names; a network
    that computes anything else there is refused.
    """
    if project is not None:
        _export_weights(model, output, project, settings, as_json=as_json)
        return
    from aerial_seg.jobs.export import export

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


def _export_weights(
    model: Path, output: Path, project: str, settings: ExportSettings, *, as_json: bool
) -> None:
    from aerial_seg.jobs.export_weights import export_weights

    if settings != ExportSettings(overwrite=settings.overwrite):
        raise click.UsageError(
            "--tile-size, --no-normalise, --no-upsample and --logits are about an ONNX file; leave them out with --as"
        )
    report = export_weights(model, output, project, overwrite=settings.overwrite)
    console.notes(report.notes)
    if as_json:
        console.print_json(dataclasses.asdict(report))
        return
    console.say(
        f"{report.path}: {report.tensors} tensors of {report.project}'s {report.arch}, {report.size / 1e6:.1f} MB"
    )
