"""The parameters of a DenseCRF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.settings import Setting, definitions, settings

_LEAST_XY_STD, _LEAST_RGB_STD = 0.5, 0.1
"""The library counts lattice cells in 16 bits; from these on they hold images of 8,000 px and 8-bit colours."""


@settings
@dataclass(frozen=True, slots=True)
class DenseCrf:
    """Hold the field's parameters; the defaults are DeepLabv2's.

    Raises SettingsError for values that cannot work.
    Source: Krähenbühl and Koltun 2011, equation 3; the numbers: kazuto1011/deeplab-pytorch, configs/voc12.yaml.
    """

    iterations: Annotated[int, Setting("Iterations of mean-field inference.", low=1)] = 10
    pos_w: Annotated[float, Setting("Weight of the kernel that smooths.", low=0)] = 3.0
    pos_xy_std: Annotated[
        float, Setting("Standard deviation, in pixels, of the kernel that smooths.", low=_LEAST_XY_STD)
    ] = 1.0
    bi_w: Annotated[float, Setting("Weight of the kernel that joins pixels of like colour.", low=0)] = 4.0
    bi_xy_std: Annotated[float, Setting("That kernel's standard deviation in pixels.", low=_LEAST_XY_STD)] = (
        67.0
    )
    bi_rgb_std: Annotated[
        float, Setting("That kernel's standard deviation in grey levels (0–255).", low=_LEAST_RGB_STD)
    ] = 3.0


def parse_crf(text: str) -> DenseCrf:
    """The parameters in `name=value,…`, all others at their defaults; an empty text is DeepLabv2's.

    Raises SettingsError for an unknown name, naming the nearest, and for what is no number.
    """
    known = {name: one.kind for name, one in definitions(DenseCrf).items()}
    given: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise SettingsError(
                f"the CRF has no parameter '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}"
            )
        try:
            given[name] = known[name](value)
        except ValueError as error:
            wanted = "a whole number" if known[name] is int else "a number"
            raise SettingsError(
                f"the CRF's {name} is '{value}', wanted {wanted}; write {name}=10 or the like"
            ) from error
    return DenseCrf(**given)
