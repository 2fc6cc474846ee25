"""What `predict` tells of its maps."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from .. import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aerial_seg.jobs.predict.many_scenes import SceneOutcome
    from aerial_seg.jobs.predict.settings import Forecast, PredictReport


def show_outcomes(outcomes: Sequence[SceneOutcome]) -> None:
    """A line for each of several scenes."""
    rows = []
    for outcome in outcomes:
        made, seconds = outcome.report, f"{outcome.seconds:.1f}"
        if made is None:
            rows.append([outcome.source, "", "", seconds, outcome.outcome])
        else:
            total = made.height * made.width
            share = f"{made.nodata_pixels / total:.1%}"
            rows.append([outcome.source, f"{total:,}", share, seconds, outcome.outcome])
    console.say()
    console.table(["scene", "pixels", "nodata", "seconds", "outcome"], rows)


def show_report(report: PredictReport) -> None:
    """One map: pixels per class, and what was done otherwise than asked."""
    console.notes(report.notes)
    if report.resampled_to is not None:
        console.note(f"note: resampled to the model's {report.resampled_to:.3g} m for the network")
    total = max(1, report.height * report.width)
    rows = [[name, f"{pixels:,}", f"{pixels / total:.1%}"] for name, pixels in report.class_pixels.items()]
    rows.append(["(nodata)", f"{report.nodata_pixels:,}", f"{report.nodata_pixels / total:.1%}"])
    console.table(["class", "pixels", "share"], rows)
    console.say(
        f"\n{report.mask}: {report.width} × {report.height} px from {report.source}, "
        f"{report.tiles} tiles run, {report.tiles_skipped} skipped as nodata or outside"
    )
    if report.resumed_rows:
        console.note(f"note: went on after {report.resumed_rows:,} rows that an interrupted run had finished")
    if report.vectors is not None:
        console.notes(report.vectors.notes)
        counts = ", ".join(f"{c.name}: {c.polygons:,}" for c in report.vectors.classes)
        console.say(f"{report.vectors.path}: {report.vectors.polygons:,} polygons ({counts})")


def show_forecasts(forecasts: Sequence[Forecast], *, as_json: bool) -> None:
    """What each prediction will take."""
    if as_json:
        console.print_json([asdict(one) for one in forecasts])
        return
    for one in forecasts:
        console.notes(one.notes)
    gpu = [] if forecasts[0].gpu_memory is None else ["GPU memory"]
    head = ["raster", "pixels", "tiles", "side", "panels", "memory", *gpu, "disk", "time at most"]
    rows = [
        [
            one.source,
            f"{one.width:,} × {one.height:,}",
            f"{one.tiles:,}",
            str(one.tile_size),
            str(one.panels),
            f"{one.memory / 1e9:.2f} GB",
            *([] if one.gpu_memory is None else [f"{one.gpu_memory / 1e9:.2f} GB"]),
            f"{one.disk / 1e9:.2f} GB",
            console.duration(one.seconds),
        ]
        for one in forecasts
    ]
    console.table(head, rows)
    console.say(f"\n{forecasts[0].engine}; nothing was written")
