"""What a run of `train` can be told besides its recipe: where it runs and what becomes of a run that is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from aerial_seg.choices import Device, Overwrite, Restart
from aerial_seg.settings import Setting, settings, time_span


@settings
@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Say how a recipe is run. Nothing here changes what a step computes on the same hardware.

    An unfinished run goes on when it is asked for again, with or without overwrite; a finished one is replaced with
    overwrite.
    """

    device: Device = "auto"
    overwrite: Overwrite = False
    restart: Restart = False
    checkpoint_every: Annotated[
        float | None,
        Setting(
            "Longest time between two checkpoints, as 90s or 1h; every validation makes one, too. Default: 10min.",
            low=0,
            wanted="a time, as 10min, 90s or 2h, or a number of seconds",
            read=time_span,
            metavar="TIME",
        ),
    ] = None
