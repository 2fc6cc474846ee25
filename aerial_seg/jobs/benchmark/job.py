"""benchmark: a model on VOC, Cityscapes, ADE20K or COCO by a paper's protocol, beside the published numbers."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from aerial_seg.band_names import RGB, role
from aerial_seg.benchmarks.catalogue import open_benchmark
from aerial_seg.benchmarks.cityscapes import CATEGORIES
from aerial_seg.benchmarks.dataset import Benchmark, Example
from aerial_seg.benchmarks.protocol import Protocol, ResolvedProtocol, default_protocol, load_protocol
from aerial_seg.benchmarks.published import ComparisonRow, comparison_rows, matching
from aerial_seg.benchmarks.scores import BenchmarkScores, benchmark_scores
from aerial_seg.benchmarks.submission import check_submission_target, write_submission
from aerial_seg.benchmarks.training_data import ExampleReader, fingerprint, photograph_order
from aerial_seg.crf.dense import check_crf_installed
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.journal import (
    NAME,
    RESULT,
    Journal,
    has_records,
    locked_work,
    telling_what_is_kept,
)
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import (
    behind_link,
    check_folder,
    check_writable,
    place_folder,
    reopen_folder,
)
from aerial_seg.files.work import work_folder
from aerial_seg.geo.raster.unchanged import Unchanged, kept_only_if
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.jobs.benchmark.images import ImageRun, Tally
from aerial_seg.jobs.benchmark.settings import BenchmarkReport, BenchmarkSettings
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting
from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.models.file import ModelCard, TrainedModel, load_model
from aerial_seg.models.restride import with_output_stride
from aerial_seg.paths import StrPath, as_optional_path, as_path, with_device
from aerial_seg.progress import Progress, silent
from aerial_seg.report.benchmark_page import benchmark_page, worst_pictures
from aerial_seg.settings import chosen
from aerial_seg.version import __version__

RESULTS, PAGE, WORST, PREDICTIONS = "benchmark.json", "benchmark.md", "worst", "predictions"
_OWN = (PAGE, f"{WORST}/*.png", f"{PREDICTIONS}/*.png")


def benchmark(
    name: str,
    root: StrPath,
    model_path: StrPath,
    out: StrPath | None = None,
    settings: BenchmarkSettings | None = None,
    progress: Progress = silent,
    *,
    device: str = "auto",
) -> BenchmarkReport:
    """Evaluate a model on a benchmark: benchmark.json, benchmark.md, worst/ and predictions/ (PNGs) lie in `out`.

    name: voc, cityscapes, ade20k or coco; root: where it lies. Without `out` nothing but the report (and the
    submission) remains. After a crash the same call goes on behind the last finished image, and ends with the same
    scores. device: where the network runs, as in every job; auto takes that of the settings.
    Raises AerialSegError before any image runs when model, protocol and benchmark do not fit together, InputError when
    the model or an image changes meanwhile; then nothing is kept.
    """
    settings = with_device(chosen(settings, BenchmarkSettings), device)
    root, model_path = as_path(root, "root"), as_path(model_path, "model_path")
    out = as_optional_path(out, "out")
    _check_outputs(name, out, settings)
    inputs = Inputs([root, model_path])
    inputs.refuse([] if settings.submission is None else [settings.submission])
    if out is not None:
        inputs.refuse_folder(out)
        out = behind_link(out)
    still = Unchanged([model_path])
    plan = _make_plan(name, root, model_path, settings)
    still.add([file for example in plan.examples for file in example.files])
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return _evaluate(plan, Path(folder) / "benchmark", still, progress, keep=False)
    return _evaluate(plan, out, still, progress, keep=True)


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """A checked command."""

    benchmark: Benchmark
    split: str
    examples: tuple[Example, ...]
    model_path: Path
    model: TrainedModel
    protocol_name: str
    protocol: Protocol
    settings: BenchmarkSettings
    notes: tuple[str, ...]

    @property
    def resolved(self) -> ResolvedProtocol:
        """The protocol on this benchmark."""
        return self.protocol.for_dataset(self.benchmark.evaluated_as)

    @property
    def labelled(self) -> bool:
        """Whether the split has published labels."""
        return any(example.label is not None for example in self.examples)


def _check_outputs(name: str, out: Path | None, settings: BenchmarkSettings) -> None:
    """Raises AerialSegError unless everything can be written: before hours of work, not after them."""
    if out is not None:
        check_folder(out, overwrite=settings.overwrite, marker=RESULTS, own=_OWN)
    archive = settings.submission
    if archive is None:
        return
    check_submission_target(name, archive, split=settings.split or "val", competition=settings.competition)
    if out is not None and archive.resolve().is_relative_to(out.resolve()):
        raise SettingsError(
            f"the submission {archive} lies in the folder of the results {out}, which is replaced as a whole; "
            "write it beside that folder"
        )
    # An interrupted run of ours may have written it just before its end.
    resumes = out is not None and not settings.restart and has_records(work_folder(out))
    check_writable(archive, overwrite=settings.overwrite or resumes)


def _make_plan(name: str, root: Path, model_path: Path, settings: BenchmarkSettings) -> BenchmarkPlan:
    data = open_benchmark(name, root)
    model = load_model(model_path)
    notes = (*model.notes, *_check_model(model_path, model.card, data))
    architecture = model.card.recipe.model.architecture
    protocol_name = settings.protocol or default_protocol(
        architecture, output_stride=model.network.geometry.output_stride
    )
    protocol = load_protocol(protocol_name)
    resolved = protocol.for_dataset(data.evaluated_as)
    if resolved.crf is not None:
        check_crf_installed()
    if resolved.output_stride is not None:
        model = with_output_stride(model, resolved.output_stride)
    split = settings.split or data.splits[0]
    examples = data.examples(split)
    notes = (*notes, *data.notes(split))
    if settings.submission is not None and settings.split is None:
        notes = (
            *notes,
            f"the submission holds split {split}, which no server takes; pass {setting('split', 'test')} for one",
        )
    return BenchmarkPlan(data, split, examples, model_path, model, protocol_name, protocol, settings, notes)


def _check_model(path: Path, card: ModelCard, data: Benchmark) -> tuple[str, ...]:
    """Notes where names differ; InputError where the model cannot be meant for this benchmark."""
    bands = ", ".join(f"{band.name} {band.dtype}" for band in card.bands)
    if len(card.bands) != 3 or any(band.dtype != "uint8" for band in card.bands):
        raise InputError(
            f"{path} was trained on {len(card.bands)} bands ({bands}), but {data.title} holds RGB of uint8; "
            f"evaluate a model trained with a {data.name}/ recipe"
        )
    ours, theirs = card.legend.names, data.legend.names
    if len(ours) != len(theirs):
        raise InputError(
            f"{path} knows {len(ours)} classes, but {data.title} has {len(theirs)} (channel: model | benchmark: "
            f"{_side_by_side(card.legend, data.legend)}); evaluate a model trained with a {data.name}/ recipe"
        )
    if sorted(ours) == sorted(theirs) and ours != theirs:
        raise InputError(
            f"{path} knows the classes of {data.title} in another order (channel: model | benchmark: "
            f"{_side_by_side(card.legend, data.legend)}); train it with a {data.name}/ recipe"
        )
    notes = [*_band_notes(path, card, data)]
    if ours == theirs:
        return tuple(notes)
    return (
        *notes,
        "channels are compared by number, but some names differ (channel: model | benchmark: "
        f"{_side_by_side(card.legend, data.legend)})",
    )


def _band_notes(path: Path, card: ModelCard, data: Benchmark) -> tuple[str, ...]:
    """How the model is shown red, green and blue. Raises InputError where its bands are others."""
    names = ", ".join(band.name for band in card.bands)
    order = photograph_order(card.bands)
    if order is None:
        raise InputError(
            f"{path} was trained on {names}, but {data.title} holds photographs in red, green and blue; evaluate a "
            f"model trained with a {data.name}/ recipe"
        )
    if not any(role(band.name) for band in card.bands):
        return (f"the model does not say which band is which ({names}): it is shown red, green, blue",)
    if order != tuple(range(len(order))):
        return (f"the images' red, green, blue are shown to the model as it was trained: {names}",)
    return ()


def _side_by_side(ours: Legend, theirs: Legend, *, most: int = 25) -> str:
    """The channels whose names differ, the first of them."""
    pairs = list(zip_longest(ours.names, theirs.names, fillvalue="–"))
    odd = [f"{k}: {a} | {b}" for k, (a, b) in enumerate(pairs) if a != b]
    return "; ".join(odd[:most]) + (f"; and {len(odd) - most} more" if len(odd) > most else "")


def _evaluate(
    plan: BenchmarkPlan, out: Path, still: Unchanged, progress: Progress, *, keep: bool
) -> BenchmarkReport:
    """keep: whether `out` and, after an error, the finished images stay."""
    data, settings = plan.benchmark, plan.settings
    forward = PaddedForward.prepared(plan.model, settings.engine_settings)
    tally = Tally(ConfusionMatrix(len(data.legend)), keep=settings.worst)
    with locked_work(out, restart=settings.restart) as work:
        if keep:
            check_folder(out, overwrite=settings.overwrite, marker=RESULTS, own=_OWN)
        job = _job(plan, forward)
        journal = Journal.open(work / NAME, job)
        if journal.records:
            reopen_folder(work / RESULT, out)
        run = ImageRun(
            benchmark=data,
            examples=plan.examples,
            bands=plan.model.card.bands,
            net=forward,
            protocol=plan.resolved,
            folder=work / RESULT / PREDICTIONS,
            still=still,
        )
        with telling_what_is_kept(work, "images") if keep else nullcontext():
            with kept_only_if(still, work):
                resumed = run.run(journal, tally, progress)
                # Before a submission takes its place outside of the folder.
                still.check()
                report = _report(plan, tally, job=job, notes=forward.notes)
                _write_results(plan, report, run, progress, keep=keep)
            place_folder(work / RESULT, out)
    return replace(report, resumed=resumed, folder=out if keep else None)


def _job(plan: BenchmarkPlan, forward: PaddedForward) -> dict[str, Any]:
    """All that finished images depend on."""
    assert forward.runtime is not None
    order = photograph_order(plan.model.card.bands)
    return {
        "version": __version__,
        "model_sha256": plan.model.sha256,
        "benchmark": plan.benchmark.name,
        "root": str(plan.benchmark.root.resolve()),
        "split": plan.split,
        "files": fingerprint(plan.benchmark, [ExampleReader(plan.benchmark, plan.examples)]),
        "protocol": plan.protocol.model_dump(mode="json"),
        "runtime": forward.runtime.as_dict(),
        # What ran before colours were put in order is not to be gone on with where that matters.
        **({} if order == tuple(range(len(RGB))) else {"band_order": order}),
    }


def _report(
    plan: BenchmarkPlan, tally: Tally, *, job: dict[str, Any], notes: tuple[str, ...]
) -> BenchmarkReport:
    data, settings = plan.benchmark, plan.model.card.recipe.model
    stride = plan.model.network.geometry.output_stride
    scores: BenchmarkScores | None = None
    comparison: tuple[ComparisonRow, ...] = ()
    if plan.labelled:
        categories = CATEGORIES if data.name == "cityscapes" else None
        scores = benchmark_scores(data.name, tally.matrix, data.legend, categories=categories)
        matches = matching(
            data.name,
            settings.architecture,
            encoder=settings.encoder,
            output_stride=stride,
            protocol=plan.protocol_name,
            split=plan.split,
        )
        comparison = comparison_rows(scores.scores, matches)
    return BenchmarkReport(
        title=data.title,
        root=str(data.root),
        split=plan.split,
        images=len(plan.examples),
        model=str(plan.model_path),
        system=f"{settings.architecture} {settings.encoder} at output stride {stride}",
        protocol=plan.protocol_name,
        protocol_title=plan.protocol.title,
        scores=scores,
        comparison=comparison,
        worst=tally.worst(),
        job=job,
        submission=plan.settings.submission,
        notes=(*plan.notes, *notes),
    )


def _write_results(
    plan: BenchmarkPlan, report: BenchmarkReport, run: ImageRun, progress: Progress, *, keep: bool
) -> None:
    folder, by_name = run.folder.parent, {example.name: example for example in plan.examples}
    document = report.as_json()
    (folder / RESULTS).write_text(json.dumps(document, indent=2), encoding="utf-8", newline="\n")
    (folder / PAGE).write_text(
        benchmark_page(document, report.protocol_title), encoding="utf-8", newline="\n"
    )
    if keep:
        shutil.rmtree(folder / WORST, ignore_errors=True)
        worst = [(by_name[image.name], image.miou) for image in report.worst]
        worst_pictures(plan.benchmark, worst, run.folder, folder / WORST)
    if plan.settings.submission is not None:
        write_submission(
            plan.benchmark,
            [(example, run.prediction(example)) for example in plan.examples],
            plan.settings.submission,
            split=plan.split,
            competition=plan.settings.competition,
            progress=progress,
        )
