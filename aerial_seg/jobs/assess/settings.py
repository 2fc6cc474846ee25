"""What `assess design` and `assess report` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from aerial_seg.choices import Overwrite
from aerial_seg.errors import SettingsError
from aerial_seg.printable import shortened
from aerial_seg.settings import Setting, settings

_MOST_POINTS = 1_000_000
LARGEST_CHIP = 2048


def _accuracies(value: Any) -> Any:
    """The numbers by class name that a text like building=0.9,road=0.7 means; what is no text comes back as it is."""
    if not isinstance(value, str):
        return value
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, equals, number = part.rpartition("=")
        if name.strip() in found:
            raise SettingsError(
                f"'{name.strip()}' has two numbers in '{shortened(value)}', wanted one; delete the other"
            )
        try:
            found[name.strip()] = float(number)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise SettingsError(f"'{shortened(part)}' is no NAME=NUMBER; write it like building=0.9,road=0.7")
    return found


@settings
@dataclass(frozen=True, slots=True)
class DesignSettings:
    """Say how many points are drawn, and of which classes."""

    standard_error: Annotated[
        float,
        Setting(
            "Standard error that the overall accuracy is to have; half of a 95 % interval is about twice as much.",
            low=0.001,
            high=0.2,
        ),
    ] = 0.02
    expected_accuracy: Annotated[
        float,
        Setting("User's accuracy that each class is expected to have.", low=0.5, high=0.999),
    ] = 0.8
    class_accuracy: Annotated[
        Mapping[str, float] | None,
        Setting(
            "The same for some classes apart.",
            low=0.05,
            high=0.999,
            read=_accuracies,
            metavar="NAME=NUMBER,...",
        ),
    ] = None
    minimum: Annotated[int, Setting("Points that each class has at least.", low=2, high=_MOST_POINTS)] = 50
    count: Annotated[
        int | None,
        Setting("Number of all points, instead of that for the standard error.", low=2, high=_MOST_POINTS),
    ] = None
    seed: Annotated[int, Setting("Another one draws other points.", low=0, high=2**63 - 1)] = 0
    image: Annotated[
        Path | None,
        Setting(
            "Imagery to cut a picture of each point's surroundings from, for the form in QGIS.",
            metavar="RASTER",
        ),
    ] = None
    chip_size: Annotated[
        int, Setting("Pixels of the imagery a side of such a picture.", low=16, high=LARGEST_CHIP)
    ] = 256
    overwrite: Overwrite = False


@settings
@dataclass(frozen=True, slots=True)
class AssessSettings:
    """Say where the labelled points keep what they are."""

    reference_field: Annotated[
        str, Setting("Field of the points that holds the class that was seen there: its number or its name.")
    ] = "reference"
    layer: Annotated[str | None, Setting("Layer of the points, where the file has several.")] = None
