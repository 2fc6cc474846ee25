"""What `report` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aerial_seg.choices import Overwrite
from aerial_seg.settings import Setting, settings


@settings
@dataclass(frozen=True, slots=True)
class ReportSettings:
    """Say what a report shows beside the map."""

    image: Annotated[
        Path | None,
        Setting("Imagery that the map was made from, to lie below it.", metavar="RASTER"),
    ] = None
    run: Annotated[
        Path | None,
        Setting("Folder of the training run: its curves and its worst chips are shown, too.", metavar="RUN"),
    ] = None
    assessment: Annotated[
        Path | None,
        Setting(
            "JSON of `aerial-seg assess report` on this map: accuracy and areas from a random sample are shown, too.",
            metavar="FILE.json",
        ),
    ] = None
    overwrite: Overwrite = False
