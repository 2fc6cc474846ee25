"""What of mmsegmentation's networks no tensor tells: read from its name of the configuration, or from that itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting

Stride = Literal[8, 16, 32]
_STRIDES: Mapping[str, Stride] = {"8": 8, "16": 16, "32": 32}
_HEADS = {"fcn": "fcn", "pspnet": "pspnet", "deeplabv3": "deeplabv3", "deeplabv3plus": "deeplabv3+"}

NAMES = "fcn_r50-d8, fcn-d6_r50-d16, deeplabv3_r101-d16-mg124, deeplabv3plus_r18-d8, pspnet_r50-d8-769, …"
_NAME = re.compile(
    r"(?P<head>fcn|pspnet|deeplabv3plus|deeplabv3)(?P<d6>[-_]d6)?_r(?P<depth>18|34|50|101|152)b?-d(?P<stride>8|16|32)"
    r"(?P<extra>(-mg124|-769|-rsb|-b)*)(?P<rest>(_[\w.+-]*)?)"
)
_CROP = re.compile(r"(?<![0-9x])(\d{2,4})x(\d{2,4})(?![0-9x])")

CITYSCAPES = 19
"""Classes. mmseg publishes networks of one shape with several maps for Cityscapes alone (its configs, 1.2.2)."""
CITYSCAPES_CROP = "769x769"
"""Its configurations of this crop, and no others, align corners."""
D32_RATES = (1, 1, 2, 4)
"""Its configurations at output stride 32 keep the rates of stride 8. Source: configs/pspnet/pspnet_r50-d32_…"""


@dataclass(frozen=True, slots=True)
class Form:
    """A network up to its weights: what decides its map beside the names and shapes of tensors.

    head, depth: None where it is silent. aspp_rates: at output stride 16, as a recipe has them. crop: height, width in
    training. threshold: of a single output. why_no_auxiliary: where the auxiliary head is none of ours.
    """

    head: str | None = None
    depth: int | None = None
    output_stride: Stride = 8
    stage_rates: tuple[int, ...] = ()
    multi_grid: tuple[int, ...] = ()
    dilation_placement: Literal["full", "contracted"] = "contracted"
    align_corners: bool = False
    head_rate: int = 1
    concat: bool = True
    bins: tuple[int, ...] = (1, 2, 3, 6)
    aspp_rates: tuple[int, ...] | None = None
    dropout: float = 0.1
    bn_eps: float | None = None
    bands: tuple[Band, ...] = IMAGENET_BANDS
    crop: tuple[int, int] | None = None
    threshold: float = 0.3
    why_no_auxiliary: str = ""


def form_of_name(name: str) -> Form | None:
    """What a name says: of a configuration (of version 1 or 0), of a published file, or the short `fcn_r50-d8`.

    None for a name of another form.
    """
    match = _NAME.fullmatch(name.removesuffix(".py").removesuffix(".pth"))
    if match is None:
        return None
    crop = _CROP.search(match["rest"])
    stride = _STRIDES[match["stride"]]
    aligned = "-769" in match["extra"] or (crop is not None and crop[0] == CITYSCAPES_CROP)
    return Form(
        head=_HEADS[match["head"]],
        depth=int(match["depth"]),
        output_stride=stride,
        stage_rates=D32_RATES if stride == 32 else (),
        multi_grid=(1, 2, 4) if "-mg124" in match["extra"] else (),
        align_corners=aligned,
        head_rate=6 if match["d6"] else 1,
        crop=(int(crop[1]), int(crop[2])) if crop else (769, 769) if aligned else None,
    )


def read_form(arch: str) -> Form:
    """As form_of_name. Raises SettingsError for a name that is none of mmseg's."""
    form = form_of_name(arch)
    if form is None:
        raise SettingsError(
            f"{setting('arch')} is '{arch}', which is no name that is understood here; wanted {NAMES} or the whole "
            "name of its configuration (pspnet_r50-d8_4xb4-80k_potsdam-512x512)"
        )
    return form


def published(head: str, depth: int, classes: int) -> Mapping[str, str]:
    """The names by which mmseg publishes several networks with the same tensors, and what they stand for.

    Source: the configurations of mmsegmentation 1.2.2, of which tests/fidelity/mmseg_networks.py makes the same list.
    """
    if classes != CITYSCAPES:
        return {}
    name = f"{head.replace('+', 'plus')}_r{depth}"
    found = {f"{name}-d8": "output stride 8", f"{name}-d8-769": "that with align_corners"}
    if head == "fcn" and depth > 18:
        found[f"fcn-d6_r{depth}-d16"] = "output stride 16, the head's convolutions of rate 6"
        found[f"fcn-d6_r{depth}-d16-769"] = "that with align_corners"
    if head.startswith("deeplabv3") and depth == 101:
        found[f"{name}-d16-mg124"] = "output stride 16, rates 1, 2, 4 in the last stage"
    if head == "pspnet" and depth == 50:
        found[f"{name}-d32"] = "output stride 32"
    return found
