"""Test-time augmentation: a tile is run in several orientations and sizes, its class probabilities are averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.inference.tta_scales import ScaledTile, parse_scales, scaled_tiles
from aerial_seg.models.pending import Pending
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.upsample import softmax_cells

KINDS = ("flips", "rot90", "scales")
Image = NDArray[np.float32]
_SAME_RATIO = 1e-6
"""Scales as near as this are told as they were asked for."""


@dataclass(frozen=True, slots=True)
class Symmetry:
    """Turn an image by quarters, then mirror it from left to right."""

    turns: int
    mirrored: bool

    def apply(self, image: Image) -> Image:
        """Bring image (C, H, W), H = W, into this orientation."""
        turned = np.rot90(image, self.turns, (1, 2))
        return np.ascontiguousarray(turned[:, :, ::-1] if self.mirrored else turned)

    def undo(self, logits: Image) -> Image:
        """Bring logits (h, w, K) of an image in this orientation back to how they lie on the image itself."""
        unmirrored = logits[:, ::-1] if self.mirrored else logits
        straight: Image = np.rot90(unmirrored, -self.turns, (0, 1))
        return straight


def symmetries(kinds: Sequence[str]) -> tuple[Symmetry, ...]:
    """List the orientations that these kinds make, the identity first: flips 4, rot90 4, both 8, none 1.

    Raises SettingsError for a kind that there is not.
    """
    for kind in kinds:
        name = kind.partition("=")[0]
        if name not in KINDS or (name != kind) != (name == "scales"):
            raise SettingsError(
                f"there is no test-time augmentation '{kind}'{did_you_mean(name, KINDS)}; known: flips, rot90, "
                "scales=0.5:0.75:1.25"
            )
    flips, rotations = "flips" in kinds, "rot90" in kinds
    turns = (0, 1, 2, 3) if rotations else (0, 2) if flips else (0,)
    return tuple(Symmetry(n, mirrored) for n in turns for mirrored in ((False, True) if flips else (False,)))


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises SettingsError for kinds that cannot be read, whatever the network."""
    symmetries(kinds)
    _scales(kinds)


def sizes(kinds: Sequence[str], geometry: ModelGeometry, side: int) -> tuple[ScaledTile, ...]:
    """List the sizes besides its own that a tile of this side is run in, the smallest first.

    Raises SettingsError for kinds that cannot be read, and for a tile too small for its scales.
    """
    return scaled_tiles(geometry, side, _scales(kinds))


def _scales(kinds: Sequence[str]) -> tuple[float, ...]:
    wanted = [kind.partition("=")[2] for kind in kinds if kind.startswith("scales=")]
    if len(wanted) > 1:
        raise SettingsError(
            f"test-time augmentation names scales {len(wanted)} times; name all in one: scales={':'.join(wanted)}"
        )
    return parse_scales(wanted[0]) if wanted else ()


def run_sides(kinds: Sequence[str], geometry: ModelGeometry, side: int) -> tuple[int, ...]:
    """List all sides that images have in the network, the tile's own first. Errors as for symmetries and sizes."""
    symmetries(kinds)
    return (side, *(tile.run_side for tile in sizes(kinds, geometry, side)))


def size_notes(kinds: Sequence[str], geometry: ModelGeometry, side: int) -> tuple[str, ...]:
    """Note what is run in place of a scale at which the network takes no side."""
    return tuple(
        f"scale {scale:g}: tiles of {side} px are run at {tile.run_side} px, {tile.ratio:.4g} times theirs, the "
        "nearest that the model takes"
        for scale, tile in zip(_scales(kinds), sizes(kinds, geometry, side), strict=True)
        if abs(tile.ratio - scale) > _SAME_RATIO
    )


Submit = Callable[[Sequence[Image]], Pending]
UPSIDE_DOWN = Symmetry(turns=2, mirrored=True)
"""The rows in the other order."""


def seen_as(submit: Submit, orientation: Symmetry) -> Submit:
    """Return one that shows the network every tile in this orientation; its logits lie on the tile as it came."""

    def submit_turned(images: Sequence[Image]) -> Pending:
        turned = submit([orientation.apply(image) for image in images])
        return turned.map(lambda batch: np.stack([orientation.undo(logits) for logits in batch]))

    return submit_turned


def averaged(submit: Submit, kinds: Sequence[str], *, geometry: ModelGeometry, side: int) -> Submit:
    """Return `submit`, or one that runs tiles in all orientations and sizes and averages their probabilities.

    It gives the logarithm of the mean; members are added in a fixed order, the tile as it is first. Orientations are
    exact on the lattice: a tile's cells lie symmetrically in it. The logits of another size are brought to the lattice
    before their softmax. Source: the flips and scales of the papers' evaluations, and the quarter turns that imagery
    seen from above allows.
    """
    orientations = symmetries(kinds)
    members = tuple(product((None, *sizes(kinds, geometry, side)), orientations))
    if len(members) == 1:
        return submit

    def submit_all(images: Sequence[Image]) -> Pending:
        total: Image | None = None
        for size, orientation in members:
            resized = images if size is None else [size.apply(image) for image in images]
            turned = submit([orientation.apply(image) for image in resized]).logits()
            straight = (orientation.undo(logits) for logits in turned)
            on_lattice = straight if size is None else map(size.undo, straight)
            probabilities = np.stack([softmax_cells(logits) for logits in on_lattice])
            total = probabilities if total is None else total + probabilities
        assert total is not None
        mean = total / np.float32(len(members))
        return Pending.arrived(np.log(np.maximum(mean, np.finfo(np.float32).tiny)))

    return submit_all
