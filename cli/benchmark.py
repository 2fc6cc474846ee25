"""aerial-seg benchmark"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aerial_seg.jobs.benchmark.settings import BenchmarkSettings

from . import console, options
from .setting_options import from_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from aerial_seg.jobs.benchmark.settings import BenchmarkReport

_TITLES = {
    "voc": "PASCAL VOC 2012",
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K SceneParsing",
    "coco": "COCO with the classes of PASCAL VOC",
}
_SUFFIXES = {"voc": "tar.gz", "cityscapes": "zip", "ade20k": "zip"}
_SPLITS = {
    "voc": "val, train, trainval, trainaug, test",
    "cityscapes": "val, train, trainval, train_extra, coarse, train_coarse, trainval_coarse, test",
    "ade20k": "val, train, test",
    "coco": "val, train, val2014, train2014",
}


@click.group(
    "benchmark",
    subcommand_metavar="voc|cityscapes|ade20k|coco|check|validate-submission [ARGS]...",
    epilog="""\b
Examples:
  aerial-seg benchmark check voc VOCdevkit/VOC2012
  aerial-seg benchmark voc VOCdevkit/VOC2012 --model run/best.safetensors -o voc_val
  aerial-seg benchmark ade20k ADEChallengeData2016 --model run/best.safetensors --protocol psp-ms
  aerial-seg benchmark validate-submission voc.tar.gz --root VOCdevkit/VOC2012""",
)
def command() -> None:
    """Score a model on VOC, Cityscapes, ADE20K or COCO.

    Images are shown to the network as a paper's protocol has it, and the scores stand beside the published ones. The
    datasets are read in the layout their publishers ship. Train on them with `train ROOT --recipe voc/deeplabv3`.
    """


def _evaluate_command(name: str) -> click.Command:
    """`benchmark voc` and its siblings: the same options for every dataset."""

    @click.command(
        name,
        help=f"""Evaluate a model on {_TITLES[name]}.

        Prints mIoU and the other scores of one confusion matrix over all images, beside the published numbers of the
        same system. -o keeps benchmark.json, benchmark.md, the predictions and pictures of the worst images; an
        interrupted run goes on where it stopped when the same command is given again.""",
        epilog=f"""\b
Examples:
  aerial-seg benchmark {name} ROOT --model run/best.safetensors -o {name}_val
  aerial-seg benchmark {name} ROOT --model run/best.safetensors --protocol deeplabv3-os8-ms-flip{_example(name)}""",
    )
    @click.argument("root", type=click.Path(path_type=Path))
    @_evaluation_options(name)
    def evaluate(
        root: Path, *, model: Path, output: Path | None, settings: BenchmarkSettings, as_json: bool
    ) -> None:
        from aerial_seg.jobs.benchmark.job import benchmark

        report = benchmark(name, root, model, output, settings, console.bar)
        if as_json:
            console.print_json({**report.as_json(), "folder": report.folder, "submission": report.submission})
        else:
            _print_report(report)

    return evaluate


def _example(name: str) -> str:
    """Of a submission, for those that have a server."""
    if name not in _SUFFIXES:
        return ""
    return f"""
  aerial-seg benchmark {name} ROOT --model run/best.safetensors --split test -o {name}_test \\
    --submission {name}.{_SUFFIXES[name]}"""


def _evaluation_options(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    own = {"split": {"help": f"One of {_SPLITS[name]}; default: val."}}
    if name in _SUFFIXES:
        own["submission"] = {"metavar": f"FILE.{_SUFFIXES[name]}"}
    not_there = () if name in _SUFFIXES else ("submission",)
    added = [
        click.option(
            "--model", required=True, type=click.Path(path_type=Path), help="A model file (.safetensors)."
        ),
        click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the results."),
        from_settings(
            BenchmarkSettings, without=() if name == "voc" else ("competition", *not_there), told=own
        ),
        options.as_json,
    ]

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(added):
            function = option(function)
        return function

    return add


for _name in _TITLES:
    command.add_command(_evaluate_command(_name))


@command.command(
    "check",
    short_help="Verify a benchmark's files.",
    epilog="""\b
Examples:
  aerial-seg benchmark check voc VOCdevkit/VOC2012
  aerial-seg benchmark check ade20k ADEChallengeData2016""",
)
@click.argument("name", metavar="voc|cityscapes|ade20k|coco")
@click.argument("root", type=click.Path(path_type=Path))
@options.as_json
def check(name: str, root: Path, *, as_json: bool) -> None:
    """Verify a benchmark's layout, counts, label values and sizes.

    Every missing part is listed with the path where it is expected. Exit code 1 when something is wrong.
    """
    from aerial_seg.benchmarks.catalogue import open_benchmark
    from aerial_seg.errors import InputError

    report = open_benchmark(name, root).check(console.bar)
    if as_json:
        console.print_json(asdict(report))
    else:
        console.table(["split", "images"], [[split, f"{n:,}"] for split, n in report.counts.items()])
        console.notes(report.notes)
        for problem in report.problems:
            console.say(problem)
        for line in report.absent:
            console.say(f"{line} (the other splits do without it)")
    if report.problems:
        raise InputError(
            f"{report.total:,} problems in {report.root}, wanted none; restore what is listed from the "
            "publishers' archives"
        )


@command.command(
    "validate-submission",
    short_help="Check an archive for a server.",
    epilog="""\b
Examples:
  aerial-seg benchmark validate-submission voc.tar.gz
  aerial-seg benchmark validate-submission test.zip --root cityscapes --split test""",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--root", type=click.Path(path_type=Path), help="The benchmark, to check completeness and sizes too."
)
@click.option("--split", default="test", show_default=True, help="The split that was predicted.")
@options.as_json
def validate(file: Path, *, root: Path | None, split: str, as_json: bool) -> None:
    """Check an archive before it is sent to a benchmark's server.

    Names, folders, PNG modes, palette and values are checked; with --root also that no image is missing or strange
    and that every size is right. Exit code 1 when something is wrong.
    """
    from aerial_seg.benchmarks.catalogue import open_benchmark
    from aerial_seg.benchmarks.submission_check import recognise_submission, validate_submission
    from aerial_seg.errors import InputError

    data = None if root is None else open_benchmark(recognise_submission(file), root)
    report = validate_submission(file, benchmark=data, split=split)
    if as_json:
        console.print_json(asdict(report))
    else:
        console.say(f"{file}: {report.images:,} images for {_TITLES[report.kind]}")
        for problem in report.problems:
            console.say(problem)
    if report.problems:
        raise InputError(
            f"{report.total:,} problems in {file}, wanted none; write it again with --submission"
        )


def _print_report(report: BenchmarkReport) -> None:
    console.notes(report.notes)
    if report.resumed:
        console.note(f"note: went on after {report.resumed:,} images that an interrupted run had finished")
    if report.scores is not None:
        _print_scores(report)
    console.say(
        f"\n{report.title} {report.split}: {report.images:,} images, {report.system}, "
        f"protocol {report.protocol} ({report.protocol_title})"
    )
    if report.scores is None:
        console.say("no published labels, so nothing was scored")
    else:
        console.table(
            ["metric", "measured", "published", "difference", "source", "remark"],
            [
                [
                    row.metric,
                    f"{row.measured:.2f}",
                    "–" if row.published is None else f"{row.published:.2f}",
                    "–" if row.difference is None else f"{row.difference:+.2f}",
                    row.source or "–",
                    row.remark or "–",
                ]
                for row in report.comparison
            ],
        )
    if report.worst:
        listed = ", ".join(f"{image.name} {100 * image.miou:.1f}" for image in report.worst[:5])
        console.say(f"lowest images (mean IoU of their own classes, %): {listed}")
    for what, path in (("results", report.folder), ("submission", report.submission)):
        if path is not None:
            console.say(f"{what} {path}")


def _print_scores(report: BenchmarkReport) -> None:
    assert report.scores is not None
    scores = report.scores.scores
    console.class_scores(scores)
    if report.scores.categories:
        console.say(
            f"category mIoU {console.number(report.scores.category_miou)} over "
            f"{report.scores.categories_counted} of {len(report.scores.categories)} categories"
        )
    if report.scores.challenge_score is not None:
        console.say(f"(mIoU + pixel accuracy) / 2 {console.number(report.scores.challenge_score)}")
