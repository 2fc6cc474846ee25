"""What a run of `train` can be told besides its recipe: where it runs and what becomes of a run that is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from aerial_seg.choices import Device, Overwrite, PrecisionName, Restart
from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
from aerial_seg.settings import MOST_PIXELS, Setting, settings, time_span


@settings
@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Say how a recipe is run. What an update learns from is the recipe's; here stands what computes it.

    Another precision, number of processes or of parts computes the same but for rounding, with two exceptions: batch
    norms and the Dice loss see one part at a time, and dropout draws other numbers. Only overfit changes the data.

    An unfinished run goes on when it is asked for again, with or without overwrite; a finished one is replaced with
    overwrite.
    """

    device: Device = "auto"
    overwrite: Overwrite = False
    restart: Restart = False
    extend: Annotated[
        int | None,
        Setting(
            "Train a finished run on by so many iterations, counted from the last that it made; the learning rate goes "
            "on as that of a run of the whole length would.",
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
    processes: Annotated[
        int,
        Setting(
            "Processes that share each batch, with a GPU or an equal part of the CPU's cores each; the recipe's "
            "batch_size is that of all together. Started by torchrun, also on several machines, it is left at 1.",
            low=1,
            high=4096,
            metavar="N",
        ),
    ] = 1
    accumulate: Annotated[
        int,
        Setting(
            "Parts that each process cuts its share of a batch into, one after another, where memory is short.",
            low=1,
            high=MOST_PIXELS,
            metavar="N",
        ),
    ] = 1
    precision: Annotated[
        PrecisionName,
        Setting(
            "Numbers that convolutions compute in; norms, losses and weights stay in fp32. auto: bf16 on GPUs "
            "that multiply it, else fp32; a run that goes on keeps its own."
        ),
    ] = "auto"
    compile: Annotated[
        Literal["auto", "on", "off"],
        Setting(
            "Compile the network before training it. auto is off: see the documentation for when it pays."
        ),
    ] = "auto"
    overfit: Annotated[
        int | None,
        Setting(
            "Train and validate on the same N training chips, without augmentation, to see whether the network learns "
            "at all; the model says that it was made so.",
            low=1,
            high=1000,
            metavar="N",
        ),
    ] = None
    tensorboard: Annotated[
        bool,
        Setting(
            "Write no event files for TensorBoard into the run's folder.",
            flag="--no-tensorboard",
        ),
    ] = True
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
        if self.overfit is not None and self.processes > 1:
            raise SettingsError(
                f"{setting('overfit')} looks at a few chips and {setting('processes')} shares large batches; "
                "pass one of them"
            )
        if self.extend is not None and self.time_limit is not None:
            raise SettingsError(
                f"{setting('time_limit')} settles the iterations of a run that begins, {setting('extend')} says how "
                "many more a finished one has; pass one of them"
            )
        if self.extend is not None and (self.overwrite or self.restart):
            raise SettingsError(
                f"{setting('extend')} goes on with a run, {setting('overwrite')} and {setting('restart')} begin one "
                "anew; pass one of them"
            )
