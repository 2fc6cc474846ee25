"""What the jobs without a folder of their own can be told: `export`, `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aerial_seg.choices import ModelTile, Overwrite
from aerial_seg.settings import Setting, settings


@settings
@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Say what the ONNX file computes."""

    tile_size: ModelTile = None
    normalise: Annotated[
        bool,
        Setting(
            "Whether the file normalises pixels itself, or takes images that are normalised already.",
            flag="--normalise/--no-normalise",
        ),
    ] = True
    upsample: Annotated[
        bool,
        Setting(
            "Whether the output has the input's size, or one value per cell of the network's logits.",
            flag="--upsample/--no-upsample",
        ),
    ] = True
    probabilities: Annotated[
        bool,
        Setting(
            "Whether the output is a probability per class, or the logits with the class bias added.",
            flag="--probabilities/--logits",
        ),
    ] = True
    overwrite: Overwrite = False


@settings
@dataclass(frozen=True, slots=True)
class EightBitSettings:
    """Say what a model of 8-bit weights may cost."""

    max_drop: Annotated[
        float,
        Setting(
            "How much of the validation IoU 8-bit weights may cost; layers are kept in float32 to hold it, else the "
            "model is refused.",
            low=0,
            high=1,
            metavar="IOU",
        ),
    ] = 0.003
    overwrite: Overwrite = False


@settings
@dataclass(frozen=True, slots=True)
class ErrorMapSettings:
    """Say where the error map goes, and whether it may replace one that is there."""

    path: Annotated[
        Path,
        Setting(
            "Also write where the mask errs: a raster on its grid with a band per class, 1 hit, 2 miss, 3 false alarm, "
            "0 neither, nodata where nothing is labelled or mapped; names, counts and a QGIS style beside it.",
            wanted="a path that ends in .tif",
            flag="--error-map",
            metavar="OUT.tif",
        ),
    ]
    overwrite: Overwrite = False
