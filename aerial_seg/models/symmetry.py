"""Test-time augmentation: a tile is run in several orientations and its class probabilities are averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.tiling.upsample import softmax_cells

KINDS = ("flips", "rot90")
Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Symmetry:
    """Quarter turns, then a mirror from left to right."""

    turns: int
    mirrored: bool

    def apply(self, image: Image) -> Image:
        """image (C, H, W), H = W, in this orientation."""
        turned = np.rot90(image, self.turns, (1, 2))
        return np.ascontiguousarray(turned[:, :, ::-1] if self.mirrored else turned)

    def undo(self, logits: Image) -> Image:
        """logits (h, w, K) of an image in this orientation, as they lie on the image itself."""
        unmirrored = logits[:, ::-1] if self.mirrored else logits
        straight: Image = np.rot90(unmirrored, -self.turns, (0, 1))
        return straight


def symmetries(kinds: Sequence[str]) -> tuple[Symmetry, ...]:
    """The orientations that these kinds make, the identity first: flips 4, rot90 4, both together 8, none 1."""
    for kind in kinds:
        if kind not in KINDS:
            raise SettingsError(
                f"there is no test-time augmentation '{kind}'{did_you_mean(kind, KINDS)}; known: {', '.join(KINDS)}"
            )
    flips, rotations = "flips" in kinds, "rot90" in kinds
    turns = (0, 1, 2, 3) if rotations else (0, 2) if flips else (0,)
    return tuple(Symmetry(n, mirrored) for n in turns for mirrored in ((False, True) if flips else (False,)))


class Pending(Protocol):
    """A batch on its way through a network."""

    def logits(self) -> Image: ...


@dataclass(frozen=True, slots=True)
class Arrived:
    """A batch that is through."""

    result: Image

    def logits(self) -> Image:
        """(N, h, w, K) float32."""
        return self.result


Submit = Callable[[Sequence[Image]], Pending]


def averaged(submit: Submit, kinds: Sequence[str]) -> Submit:
    """`submit`, or one that runs every orientation of these kinds and averages the members' probabilities.

    It gives the logarithm of the mean, members added in a fixed order. Orientations are exact on the lattice: a
    tile's cells lie symmetrically in it. Source: the flips of the papers' multi-scale evaluations, and the quarter
    turns that imagery seen from above allows.
    """
    members = symmetries(kinds)
    if len(members) == 1:
        return submit

    def submit_all(images: Sequence[Image]) -> Pending:
        total: Image | None = None
        for member in members:
            turned = submit([member.apply(image) for image in images]).logits()
            probabilities = np.stack([softmax_cells(member.undo(logits)) for logits in turned])
            total = probabilities if total is None else total + probabilities
        assert total is not None
        return Arrived(np.log(np.maximum(total / np.float32(len(members)), np.finfo(np.float32).tiny)))

    return submit_all
