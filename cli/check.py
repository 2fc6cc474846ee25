"""aerial-seg check"""

from __future__ import annotations

from pathlib import Path

import click

from . import console, options
from .reports import problems


@click.command(
    "check",
    epilog="""\b
Examples:
  aerial-seg check chips
  aerial-seg check chips --json > problems.json""",
)
@click.argument("dataset", type=click.Path(path_type=Path))
@options.as_json
def command(dataset: Path, *, as_json: bool) -> None:
    """Check a chip dataset that `tile` made, now or long ago, before a model is trained on it.

    Every chip is read: whether it is there, can be read, has the size, bands and class values that the dataset tells,
    lies where its image lies, and holds what the index counts; whether ground or images are in two splits; whether
    statistics are still true. All problems are told at once, errors first; with errors the exit code is 1.
    """
    from aerial_seg.jobs.check.job import check

    report = check(dataset, console.bar)
    if as_json:
        console.print_json(report.as_json())
    else:
        problems.show(report.problems)
        if report.legend is not None:
            console.split_class_table(report.legend, report.class_pixels)
        chips = ", ".join(f"{count:,} {split}" for split, count in report.chips.items())
        console.say(f"\n{report.dataset}: {chips} chips; {problems.summary(report.problems)}")
    problems.end(report.problems)
