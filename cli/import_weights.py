"""aerial-seg import-weights"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import console, options

if TYPE_CHECKING:
    from aerial_seg.bands import Band
    from aerial_seg.jobs.import_weights import ImportReport


@click.command(
    "import-weights",
    epilog="""\b
Examples:
  aerial-seg import-weights deeplabv3_resnet50_coco.pth --from torchvision -o deeplabv3.safetensors
  aerial-seg import-weights pspnet_r50.pth --from mmseg --arch pspnet_r50-d8 -o pspnet.safetensors
  aerial-seg import-weights mine.pth --from torchvision --classes cityscapes -o model.safetensors --report
  aerial-seg import-weights last.ckpt --from torchgeo --bands red 0 255 --bands nir 0 255 -o u.safetensors""",
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "source",
    required=True,
    type=click.Choice(
        [
            "torchvision",
            "mmseg",
            "semseg",
            "ssseg",
            "deeplab-pytorch",
            "vainf",
            "smp",
            "torchgeo",
            "terratorch",
        ]
    ),
    help="The project whose program wrote the checkpoint.",
)
@click.option(
    "--arch",
    help="That project's name of the network, for what tensors cannot tell: mmseg's fcn_r50-d8, "
    "deeplabv3_r101-d16-mg124, pspnet_r50-d8-769, or the whole name of its configuration; ssseg's pspnet_resnet50os16; "
    "deeplab-pytorch's deeplabv2_resnet101 (without multi-scale); vainf's deeplabv3plus_resnet50_os8; smp's, "
    "torchgeo's and terratorch's unet_resnet34 (architecture and encoder).",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The new model file (.safetensors).",
)
@click.option(
    "--classes",
    type=click.Choice(["voc", "cityscapes", "ade20k"]),
    help="Whose class names the channels have; without it the checkpoint's own, else those of the benchmark with "
    "as many, else class_0, class_1, …",
)
@click.option(
    "--bands",
    type=(str, float, float),
    metavar="NAME MEAN STD",
    multiple=True,
    help="A band that the network was trained on, with the mean that was taken off it and the deviation that it was "
    "divided by, in the units of the rasters; once for each, in their order. Where neither the project nor the "
    "checkpoint tells.",
)
@click.option(
    "--dtype",
    type=click.Choice(["uint8", "uint16", "int16", "float32"]),
    default="uint8",
    show_default=True,
    help="What the rasters of --bands hold.",
)
@click.option(
    "--ema/--no-ema",
    default=None,
    help="Of two sets of weights take the moving average, or those as trained; without it those that stand first, as "
    "their own program evaluates them.",
)
@click.option("--report", "with_matches", is_flag=True, help="List which tensor became which.")
@options.overwrite
@options.as_json
def command(
    checkpoint: Path,
    *,
    source: str,
    arch: str | None,
    output: Path,
    classes: str | None,
    bands: tuple[tuple[str, float, float], ...],
    dtype: str,
    ema: bool | None,
    with_matches: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a model file of another project's weights.

    CHECKPOINT is what a training saved by torch.save, a safetensors file, or a folder of smp's save_pretrained: FCN or
    DeepLabv3 of torchvision; FCN, PSPNet, DeepLabv3 or v3+ of mmseg; FCN, PSPNet or DeepLabv3 of ssseg; PSPNet of
    semseg; DeepLabv2 of deeplab-pytorch; DeepLabv3 or v3+ of vainf (DeepLabV3Plus-Pytorch); on ResNets; and every
    network of smp, also as torchgeo and terratorch train it. The model gives the same logits; dilation, normalisation,
    band order and class names are recorded in it, and what was assumed is said. No code of a pickle is run; one that
    asks for it is refused, and so is a checkpoint with a name too many or too few.
    """
    from aerial_seg.jobs.import_weights import CheckpointFacts, import_weights

    report = import_weights(
        checkpoint,
        output,
        source=source,
        arch=arch,
        facts=CheckpointFacts(classes=classes, bands=_bands(bands, dtype), ema=ema),
        overwrite=overwrite,
    )
    console.notes(report.notes)
    if as_json:
        console.print_json(_document(report, with_matches=with_matches))
        return
    if with_matches:
        rows = [[m.theirs or "(none: 0)", m.ours, "×".join(map(str, m.shape))] for m in report.matches]
        console.table([source, "aerial-seg", "shape"], rows)
        console.say()
    model = report.settings
    console.say(
        f"{report.model}: {model.architecture}, {model.encoder}, output stride {model.output_stride}, "
        f"{len(report.classes)} classes, {report.parameters:,} parameters from {len(report.matches)} tensors"
    )


def _bands(given: tuple[tuple[str, float, float], ...], dtype: str) -> tuple[Band, ...]:
    """Raises SettingsError for what no band can be."""
    from aerial_seg.bands import trained_band

    return tuple(trained_band(name, dtype, mean=mean, std=std) for name, mean, std in given)


def _document(report: ImportReport, *, with_matches: bool) -> dict[str, object]:
    matches = [{"theirs": m.theirs, "ours": m.ours, "shape": m.shape} for m in report.matches]
    return {
        "model": report.model,
        "settings": report.settings.model_dump(mode="json"),
        "classes": report.classes,
        "parameters": report.parameters,
        "notes": report.notes,
        **({"matches": matches} if with_matches else {}),
    }
