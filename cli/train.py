"""aerial-seg train"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aerial_seg.jobs.train.settings import TrainSettings

from . import console, options
from .help.short import ShortHelp
from .setting_options import from_settings

if TYPE_CHECKING:
    from aerial_seg.recipe.document import Recipe


@click.command(
    "train",
    cls=ShortHelp,
    common=(
        "--recipe",
        "--output",
        "--weights",
        "--set",
        "--device",
        "--overwrite",
        "--extend",
        "--time-limit",
        "--dry-run",
    ),
    epilog="""\b
Examples:
  aerial-seg train chips -o run
  aerial-seg train chips --recipe buildings -o run
  aerial-seg train chips --recipe my_recipe.toml --device cuda -o run
  aerial-seg train chips --recipe unet --time-limit 2h -o run
  aerial-seg train chips --recipe deeplabv3 -o run --extend 2000
  aerial-seg train chips --recipe deeplabv3 --weights resnet18-f37072fd.pth -o run
  aerial-seg train chips --recipe unet --set training.learning_rate=3e-4 --set model.encoder=resnet34 -o run
  aerial-seg train chips --recipe unet -o run --dry-run --picture batch.png
  torchrun --nproc-per-node 4 --no-python aerial-seg train chips --recipe unet -o run""",
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    metavar="NAME|FILE.toml",
    help="A recipe that ships with aerial-seg, or your own file.  [default: default]",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the new run.")
@click.option(
    "--weights",
    metavar="none|imagenet|FILE",
    help="What to start from instead of the recipe's model.weights: nothing, the encoder's pretrained weights, or a "
    "file (.safetensors, .pth, .pt, .ckpt): a model of aerial-seg's or an encoder's state dict.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another value for a key of the recipe, as training.crop=128, in TOML's syntax, where bare words are texts; "
    "once for each key.",
)
@from_settings(TrainSettings)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Try some updates and say what the run would take: memory, time, settings, files. Nothing is left of it.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    metavar="OUT.png",
    help="With --dry-run: draw the first batch as the network sees it, after augmentation, beside its labels.",
)
@options.as_json
def command(
    dataset: Path,
    recipe: str | None,
    output: Path,
    *,
    weights: str | None,
    changes: tuple[str, ...],
    settings: TrainSettings,
    dry_run: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Train a model on a chip dataset that `tile` made.

    The run holds best.safetensors and last.safetensors (each all that `predict` needs), log.csv, run.json,
    training.safetensors, and the pictures curves.png and samples.png, renewed at validations; `info` tells where it
    stands. A run that was interrupted, even by a power cut, goes on from its last checkpoint when the same command is
    given again, and ends as if it had not been. A recipe of several stages runs them one after another; those that are
    finished lie in stage-1, stage-2, …. Shipped recipes: default (taken where none is named), buildings,
    deeplabv3, fcn, pspnet, unet and more; an unknown name lists them all. Pretrained weights are spread over any number
    of bands; imagenet is downloaded once, --weights none and --weights FILE need no internet.
    """
    from aerial_seg.jobs.train.job import train
    from aerial_seg.progress import listening
    from aerial_seg.recipe.loading import DEFAULT, change_recipe, load_recipe
    from aerial_seg.training.companions import is_onlooker

    from .reports.train_watch import Watch

    chosen = load_recipe(recipe or DEFAULT, changes)
    taken = () if recipe else (_taken(DEFAULT, chosen),)
    if weights is not None:
        if any(one.partition("=")[0].strip() == "model.weights" for one in changes):
            raise click.UsageError("--weights and --set model.weights are the same; leave one of them out")
        chosen = change_recipe(chosen, {"model.weights": weights})
    if picture is not None and not dry_run:
        raise click.UsageError("--picture is of a dry run's batch; add --dry-run")
    if is_onlooker():  # the first of torchrun's processes says it all, and tries a dry run alone
        if not dry_run:
            train(dataset, chosen, output, settings)
        return
    console.notes(taken)
    if dry_run:
        from aerial_seg.jobs.train.dry_run import forecast_training

        from .reports.train_forecast import show

        show(forecast_training(dataset, chosen, output, settings, picture=picture), as_json=as_json)
        return
    told: list[str] = []
    with Watch() as watch, listening(told.append):
        report = train(dataset, chosen, output, settings, callbacks=[watch])
    notes = (*report.notes, *report.doubts)
    console.notes(note for note in notes if f"note: {note}" not in told)
    if as_json:
        scores = report.scores.as_json() if report.scores else None
        intervals = report.intervals.as_json() if report.intervals else None
        console.print_json(
            {
                "model": report.model,
                "best_iteration": report.best_iteration,
                "stage": None if report.stage is None else report.stage.model_dump(),
                "earlier": [asdict(one) for one in report.earlier],
                "threshold": report.threshold,
                "notes": (*taken, *report.notes),
                "doubts": report.doubts,
                "validation": scores,
                "uncertainty": intervals,
            }
        )
        return
    for one in report.earlier:
        miou = "" if one.miou is None else f", mIoU {console.number(one.miou)}"
        at = (
            ""
            if one.best_iteration is None
            else f": iteration {one.best_iteration:,} of {one.iterations:,}{miou}"
        )
        console.say(f"stage {one.number}: {one.model}{at}")
    if report.scores is None:
        console.note("note: the dataset has no validation chips, so the last weights count as the best")
    else:
        console.score_tables(report.scores, report.intervals)
    threshold = f", decision threshold {report.threshold:.2f}" if report.threshold is not None else ""
    within = f" of {report.stage}" if report.stage else ""
    console.say(
        f"\n{report.model}: iteration {report.best_iteration} of {report.iterations}{within}{threshold}"
    )


def _taken(name: str, recipe: Recipe) -> str:
    model, training = recipe.model, recipe.training
    return (
        f"no --recipe was given: the recipe {name} is taken ({model.architecture}, {model.encoder}, "
        f"{training.iterations} iterations)"
    )
