"""What a model in memory can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aerial_seg.crf.blocks import BlockedCrf
from aerial_seg.crf.settings import DenseCrf
from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.tile_choice import Halo
from aerial_seg.tiling.windows import WINDOWS

BLENDS = ("logits", "probabilities")


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """What the result of a Segmenter is; the names and meanings are those of PredictSettings.

    tile_size, halo, overlap: pixels, None takes what the model's file says; halo "auto" covers all that a logit sees,
    where a quarter of the tile holds it. window: linear, cosine, gaussian or centre. blend: logits or probabilities.
    tta: any of flips, rot90 and scales=0.5:0.75. crf: a DenseCrf that the probabilities go through. confidence,
    probabilities: keep these layers too. force_gsd: resample even beyond a factor of 4. max_memory: bytes that the
    process may use; None: what the machine has left.
    """

    tile_size: int | None = None
    halo: Halo = None
    overlap: int | None = None
    window: str = "linear"
    blend: str = "logits"
    tta: str | Sequence[str] = ()
    crf: DenseCrf | None = None
    confidence: bool = False
    probabilities: bool = False
    force_gsd: bool = False
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.halo, str):
            _check_pixels("halo", self.halo, "a whole number of pixels, or 'auto'")
        elif self.halo != "auto":
            raise SettingsError(f"halo is '{self.halo}', wanted a whole number of pixels, or 'auto'")
        _check_pixels("tile_size", self.tile_size, "a whole number of pixels")
        _check_pixels("overlap", self.overlap, "a whole number of pixels")
        _check_pixels("max_memory", self.max_memory, "a whole number of bytes")
        for name, value, known in (("window", self.window, WINDOWS), ("blend", self.blend, BLENDS)):
            if value not in known:
                raise SettingsError(
                    f"{name} is '{value}', wanted one of {', '.join(known)}{did_you_mean(str(value), known)}"
                )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The test-time augmentations, also of a text as the command line takes it: 'flips,rot90'."""
        kinds = self.tta.split(",") if isinstance(self.tta, str) else self.tta
        return tuple(kind.strip() for kind in kinds if kind.strip())

    @property
    def definition(self) -> Definition:
        """What the stream has to know of it."""
        return Definition(
            window=self.window,
            blend=self.blend,
            tta=self.kinds,
            confidence=self.confidence,
            probabilities=self.probabilities,
            crf=None if self.crf is None else BlockedCrf.of(self.crf),
        )


def _check_pixels(name: str, value: object, wanted: str) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise SettingsError(f"{name} is {value!r}, wanted {wanted}, or None")
