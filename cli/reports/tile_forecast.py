"""What `tile` would make, and all that is wrong with what it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import console
from . import problems

if TYPE_CHECKING:
    from aerial_seg.jobs.tile.dry_run import TileForecast


def show(forecast: TileForecast, *, as_json: bool) -> None:
    """The problems, errors first, then classes, chips, disk and time; or all of it as a document."""
    if as_json:
        console.print_json(forecast.as_json())
        return
    problems.show(forecast.problems)
    if forecast.legend is not None:
        console.split_class_table(forecast.legend, forecast.class_pixels)
        chips = ", ".join(f"{count:,} {split}" for split, count in forecast.chips.items())
        at = f" at {forecast.gsd:.3g} m" if forecast.gsd else ""
        console.say(f"\n{forecast.dataset} would hold {chips} chips{at}")
        if forecast.bytes is not None and forecast.seconds is not None:
            size = f"{forecast.bytes / 2**20:,.3g} MiB"
            console.say(f"about {size} on the disk, about {console.duration(forecast.seconds)} to make")
    console.say(problems.summary(forecast.problems))
