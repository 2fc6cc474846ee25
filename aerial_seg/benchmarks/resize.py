"""How large the network sees an image, and bilinear resizing there and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import interpolate

from aerial_seg.errors import SettingsError

ResizeKind = Literal["none", "long-side", "long-side-plus-one", "fit"]


@dataclass(frozen=True, slots=True)
class ResizeRule:
    """The size that an image has before the network, at a scale; the ratio of its sides is kept.

    Sizes are rounded as each reference's code does (read there):
    none: scale·(side − 1) + 1, cut off; the same size at scale 1. Source: TensorFlow deeplab, scale_dimension.
    long-side: the long side becomes round(scale·long_side), the other follows; halves to even. Source: semseg, test.py.
    long-side-plus-one: scale·long_side + 1, halves up. Source: PSPNet's Caffe code, evaluation/eval_sub.m.
    fit: as large as fits into a box (W,H), scaled first; its longer side bounds the image's, however that lies;
         halves up. Source: mmcv, imrescale, and mmsegmentation's Resize.
    """

    kind: ResizeKind
    long_side: int | None = None
    fit: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        wanted = {"none": (False, False), "fit": (False, True)}.get(self.kind, (True, False))
        for name, value, is_wanted in zip(
            ("long_side", "fit"), (self.long_side, self.fit), wanted, strict=True
        ):
            if (value is not None) != is_wanted:
                state = "is missing; add it" if is_wanted else f"is {value}, which nothing reads; remove it"
                raise SettingsError(f'with resize = "{self.kind}", {name} {state}')

    def shape(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """(height, width) of an image of this size at a scale, at least 1 each."""
        if self.fit is not None:
            box = sorted(int(side * scale) for side in self.fit)
            factor = min(box[1] / max(height, width), box[0] / min(height, width))
            sides = (int(height * factor + 0.5), int(width * factor + 0.5))
        elif self.long_side is not None:
            sides = self._with_long_side(self.long_side * scale, height, width)
        else:
            sides = (int((height - 1) * scale + 1), int((width - 1) * scale + 1))
        return max(1, sides[0]), max(1, sides[1])

    def _with_long_side(self, wanted: float, height: int, width: int) -> tuple[int, int]:
        if self.kind == "long-side":
            long_side = round(wanted)
            short_side = round(long_side / max(height, width) * min(height, width))
        else:
            long_side = int(wanted + 1.5)
            short_side = int(long_side / max(height, width) * min(height, width) + 0.5)
        return (long_side, short_side) if height > width else (short_side, long_side)


def resize_bilinear(planes: Tensor, height: int, width: int) -> Tensor:
    """planes (K,h,w) at (K,height,width), the tensor itself where that is its size.

    Half-pixel centres, no antialiasing: what cv2's INTER_LINEAR does, which semseg, mmsegmentation and ssseg call.
    MATLAB's imresize (PSPNet's Caffe code) and Pillow average over the pixels when they make an image smaller, and
    TensorFlow's deeplab puts the corners' centres on each other; neither is followed.
    """
    if planes.shape[1:] == (height, width):
        return planes
    return interpolate(planes[None], size=(height, width), mode="bilinear", align_corners=False)[0]
