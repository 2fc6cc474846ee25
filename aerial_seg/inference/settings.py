"""What `predict` and a model in memory can both be told; each setting is defined once, here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aerial_seg.choices import BlendName, ModelTile, Scale, WindowName
from aerial_seg.crf.settings import DenseCrf, parse_crf
from aerial_seg.settings import MOST_PIXELS, Setting, byte_size, names_in, settings

if TYPE_CHECKING:
    from aerial_seg.inference.definition import Definition, SaysResult


def _crf(value: Any) -> Any:
    """True is the field with DeepLabv2's parameters, False none; a text holds parameters."""
    if isinstance(value, bool):
        return DenseCrf() if value else None
    return parse_crf(value) if isinstance(value, str) else value


def _check_tta(kinds: Sequence[str]) -> None:
    if kinds:
        # Imported here because it takes torch along, which a prediction needs anyway.
        from aerial_seg.inference.tta import check_kinds

        check_kinds(kinds)


TileOverlap = Annotated[
    int | None,
    Setting("Pixels that neighbouring tiles blend over.", low=0, high=MOST_PIXELS, metavar="PX"),
]
TileHalo = Annotated[
    int | Literal["auto"] | None,
    Setting(
        "Context around each tile that is run and dropped; auto: all that a logit sees, if a quarter of the tile "
        "holds it.",
        low=0,
        high=MOST_PIXELS,
        word="auto",
        wanted=f"a whole number of pixels from 0 to {MOST_PIXELS:,}, or auto",
        metavar="PX|auto",
    ),
]
TileWindow = Annotated[
    WindowName,
    Setting("How tiles are weighted where they overlap; centre: a hard crop, no blending."),
]
TileBlend = Annotated[BlendName, Setting("What is averaged where tiles overlap.")]
Augmentations = Annotated[
    tuple[str, ...],
    Setting(
        "Run every tile in 4 (flips or rot90) or 8 orientations (both), each also at these scales beside 1, as "
        "scales=0.5:0.75:1.25, and average: a little better, as much slower.",
        wanted="any of flips, rot90 and scales=0.5:0.75:1.25",
        read=names_in,
        check=_check_tta,
        metavar="flips,rot90,scales=S:S",
    ),
]
Crf = Annotated[
    DenseCrf | None,
    Setting(
        "Move the classes' borders to the image's edges: a DenseCRF with DeepLabv2's parameters, on the raster's "
        "own grid. Takes long: 11 s per million pixels with 2 classes, 25 s with 20. Needs pip install "
        "'aerial-seg[crf]'.",
        wanted="a DenseCrf (True is DenseCrf())",
        read=_crf,
    ),
]
ForceGsd = Annotated[bool, Setting("Go on where the pixel size is more than 4 times off the model's.")]


class DefinesResult:
    """Give settings that say what a result is the `definition` of it."""

    __slots__ = ()

    @property
    def definition(self: SaysResult) -> Definition:
        """What the stream has to know of it."""
        # Imported here because it takes torch along: settings are read by --help, too.
        from aerial_seg.inference.definition import Definition

        return Definition.of(self)


@settings
@dataclass(frozen=True, slots=True)
class SegmentSettings(DefinesResult):
    """Say what a Segmenter makes of an image; names and meanings are those of PredictSettings."""

    tile_size: ModelTile = None
    overlap: TileOverlap = None
    halo: TileHalo = None
    window: TileWindow = "linear"
    blend: TileBlend = "logits"
    tta: Augmentations = ()
    crf: Crf = None
    confidence: Annotated[bool, Setting("Also keep the probability of the class that won.")] = False
    probabilities: Annotated[
        bool,
        Setting(
            "Also keep the probability of every class; a calibrated threshold is in them, so that the mask is the "
            "class with the largest."
        ),
    ] = False
    force_gsd: ForceGsd = False
    scale: Scale = "auto"
    max_memory: Annotated[
        int | None,
        Setting(
            "Memory the process may use, as 2GB or 800MB. Default: what the machine has left.",
            low=1,
            high=2**63 - 1,
            wanted="an amount of memory, as 2GB or 800MB, or a number of bytes",
            read=byte_size,
        ),
    ] = None
