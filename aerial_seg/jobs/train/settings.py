"""What a run of `train` can be told besides its recipe: where it runs and what becomes of a run that is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from aerial_seg.choices import Device, Overwrite, Restart
from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
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
    extend: Annotated[
        int | None,
        Setting(
            "Train a finished run on by so many iterations; the learning rate goes on as that of a run of the whole "
            "length would.",
            low=1,
            high=1_000_000_000,
            metavar="N",
        ),
    ] = None
    time_limit: Annotated[
        float | None,
        Setting(
            "Train as many iterations as fit into this time, as 45min or 2h, instead of the recipe's; some steps are "
            "timed before the first, and the number stays that of the run when it goes on.",
            low=1,
            wanted="a time, as 45min or 2h, or a number of seconds",
            read=time_span,
            metavar="TIME",
        ),
    ] = None
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

    def __post_init__(self) -> None:
        other = "overwrite" if self.overwrite else "restart" if self.restart else None
        if self.extend is not None and other is not None:
            raise SettingsError(
                f"{setting('extend')} goes on with a run and {setting(other)} begins one anew; pass one of them"
            )
