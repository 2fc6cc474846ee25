"""aerial-seg export"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from click.core import ParameterSource

from aerial_seg.jobs.settings import EightBitSettings, ExportSettings

from . import console, options
from .setting_options import from_settings, setting_option


@click.command(
    "export",
    epilog="""\b
Examples:
  aerial-seg export run/best.safetensors -o model.onnx
  aerial-seg export run/best.safetensors -o logits.onnx --no-upsample --logits --tile-size 1024
  aerial-seg export run/best.safetensors --as torchvision -o weights.pth
  aerial-seg export run/best.safetensors --int8 chips -o best8.safetensors""",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write (.onnx; with --as, .pth; with --int8, .safetensors).",
)
@click.option(
    "--as",
    "project",
    type=click.Choice(["torchvision", "mmseg"]),
    help="Write a checkpoint with that project's names instead of ONNX, where its network is the same one.",
)
@click.option(
    "--int8",
    "chips",
    type=click.Path(path_type=Path),
    metavar="CHIPS",
    help="Write a model file with 8-bit weights instead, which CPUs with VNNI or AMX run faster: its ranges are "
    "measured on training chips of this dataset, and its IoU on the validation chips.",
)
@setting_option(EightBitSettings, "max_drop")
@from_settings(ExportSettings)
@options.as_json
@click.pass_context
def command(
    context: click.Context,
    model: Path,
    *,
    output: Path,
    project: str | None,
    chips: Path | None,
    max_drop: float,
    settings: ExportSettings,
    as_json: bool,
) -> None:
    """Write a model as ONNX, for QGIS and other programs, with 8-bit weights, or as another project's checkpoint.

    The ONNX file takes batches of any size of square images of one fixed side, and says in its metadata what QGIS's
    plugin Deepness asks for: classes, resolution, tile size, overlap and standardisation. It is run with onnxruntime
    and compared with the network before it appears. Nodata is unknown to it: pixels without measurement are pixels like
    others. Needs pip install 'aerial-seg[onnx]'. With --as the weights get torchvision's or mmseg's names; a network
    that computes anything else there is refused.
    With --int8 the model file is one like any other, of a quarter of the size; CPUs that multiply 8-bit numbers run it
    as such by pip install 'aerial-seg[openvino]', others as the numbers that its weights stand for.
    """
    if chips is not None:
        if project is not None:
            raise click.UsageError("--int8 and --as write different files; leave one of them out")
        _export_eight_bits(
            model, chips, output, EightBitSettings(max_drop, settings.overwrite), settings, as_json=as_json
        )
        return
    if context.get_parameter_source("max_drop") is not ParameterSource.DEFAULT:
        raise click.UsageError("--max-drop is about --int8 CHIPS; give both")
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

    _refuse_onnx_settings(settings, "--as")
    report = export_weights(model, output, project, overwrite=settings.overwrite)
    console.notes(report.notes)
    if as_json:
        console.print_json(dataclasses.asdict(report))
        return
    console.say(
        f"{report.path}: {report.tensors} tensors of {report.project}'s {report.arch}, {report.size / 1e6:.1f} MB"
    )


def _export_eight_bits(
    model: Path,
    chips: Path,
    output: Path,
    settings: EightBitSettings,
    of_onnx: ExportSettings,
    *,
    as_json: bool,
) -> None:
    from aerial_seg.jobs.export_eight_bits import export_eight_bits

    _refuse_onnx_settings(of_onnx, "--int8")
    report = export_eight_bits(model, chips, output, settings, console.bar)
    console.notes(report.notes)
    if as_json:
        console.print_json(dataclasses.asdict(report))
        return
    kept = f", {len(report.kept)} kept in float32 ({', '.join(report.kept)})" if report.kept else ""
    console.say(
        f"{report.path}: {report.layers} layers of 8 bits{kept}, {report.size / 1e6:.1f} MB instead of "
        f"{report.source_size / 1e6:.1f}, validation IoU {report.miou:.4f} (float32 {report.source_miou:.4f})"
    )


def _refuse_onnx_settings(settings: ExportSettings, option: str) -> None:
    if settings != ExportSettings(overwrite=settings.overwrite):
        raise click.UsageError(
            "--tile-size, --no-normalise, --no-upsample and --logits are about an ONNX file; leave them out with "
            f"{option}"
        )
