"""Train and test the rows of a paper's tables, and print the tables with the paper's figures beside ours.

    python ablate.py deeplabv3 ablation --root voc=VOCdevkit/VOC2012 --only table-5
    python ablate.py pspnet ablation --root ade20k=ADEChallengeData2016 --iterations 2000
    python ablate.py fcn ablation

`deeplabv3` is a grid that ships with aerial-seg (deeplab, deeplabv3, fcn, pspnet), or a TOML file of your own in their
form; `ablation` is a folder: it gets a run for each recipe, an evaluation for each row, and the rows that were asked
for as table.txt, table.csv and table.json. --root says where a data set lies, in its publishers' layout; rows of other
data sets are left out. Without any, the tables are printed with what the rows change. --only takes a row or a whole
table, as often as you like. --iterations shortens every run, --set KEY=VALUE changes every recipe: both are told beside
the figures, for these are not the paper's any more. Rows that differ by their test alone share a run. The same command
goes on where it was interrupted, and what is finished is kept.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import aerial_seg
from aerial_seg import BenchmarkSettings, InputError, Recipe, RecipeRow, SettingsError, TrainSettings

SHORT = 40
"""Letters of a remark that has a place beside its row."""
METRICS = {"miou": "mIoU", "pixel_accuracy": "pixel acc.", "mean_accuracy": "mean acc."}


@dataclass(frozen=True)
class Result:
    """One row: what came out, in percent by metric, and what is to be said of it."""

    row: RecipeRow
    ours: dict[str, float]
    remarks: tuple[str, ...]


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grid", help=f"one of {', '.join(aerial_seg.grid_names())}, or a .toml file")
    parser.add_argument("work", type=Path, help="folder of the runs and the tables")
    parser.add_argument("--root", action="append", default=[], metavar="DATASET=FOLDER")
    parser.add_argument("--only", action="append", default=[], metavar="ROW|TABLE")
    parser.add_argument("--iterations", type=int, metavar="N")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def chosen_rows(grid: aerial_seg.RecipeGrid, only: list[str]) -> list[RecipeRow]:
    """The rows that were asked for, or all."""
    for name in only:
        if not any(name in (row.name, row.name.partition("/")[0]) for row in grid.rows):
            raise SystemExit(
                f"grid {grid.name} has no row or table {name}; rows: {', '.join(r.name for r in grid.rows)}"
            )
    return [row for row in grid.rows if not only or {row.name, row.name.partition("/")[0]} & {*only}]


def recipe_of(row: RecipeRow, asked: argparse.Namespace) -> Recipe:
    """The row's recipe, with what was asked for all rows."""
    recipe = aerial_seg.change_recipe(row.recipe, asked.changes)
    if asked.iterations is None:
        return recipe
    every = min(recipe.training.validate_every, asked.iterations)
    # A further stage that says nothing of its length has that of the first.
    stages = {f"stage.{k}.training.iterations": asked.iterations for k in range(len(recipe.stage))}
    return aerial_seg.change_recipe(
        recipe, {"training.iterations": asked.iterations, "training.validate_every": every, **stages}
    )


def differences(row: RecipeRow, recipe: Recipe, asked: argparse.Namespace) -> list[str]:
    """In what a recipe is not the row's own any more."""
    done, whole = (
        "+".join(f"{stage.training.iterations:,}" for stage in one.by_stage()) for one in (recipe, row.recipe)
    )
    remarks = [f"{done} of {whole} iterations"] if done != whole else []
    if recipe != row.recipe and asked.changes:
        remarks.append(f"with {', '.join(asked.changes)}")
    return remarks


def trained(row: RecipeRow, recipe: Recipe, root: Path, asked: argparse.Namespace) -> Path:
    """The model of a finished run of this recipe on these data, by which the run's folder is named."""
    said = json.dumps([recipe.model_dump(mode="json"), str(root.resolve())], sort_keys=True)
    digest = hashlib.sha256(said.encode()).hexdigest()[:12]
    runs: Path = asked.work / "runs"
    run = next(runs.glob(f"*-{digest}"), runs / f"{row.name.replace('/', '-')}-{digest}")
    if not (run / "run.json").is_file() or aerial_seg.info(run)["state"] != "finished":
        print(f"{row.name}: training {run}", flush=True)
        aerial_seg.train(root, recipe, run, TrainSettings(device=asked.device))
    return run / "best.safetensors"


def tested(row: RecipeRow, model: Path, root: Path, asked: argparse.Namespace) -> dict[str, float]:
    """The scores of a model under the row's protocol, in percent."""
    out = asked.work / "tests" / f"{model.parent.name}-{row.protocol}"
    if not (out / "benchmark.json").is_file():
        print(f"{row.name}: testing by {row.protocol}", flush=True)
        settings = BenchmarkSettings(protocol=row.protocol, worst=0, device=asked.device)
        aerial_seg.benchmark(row.dataset, root, model, out, settings)
    scores = json.loads((out / "benchmark.json").read_text(encoding="utf-8"))["scores"]
    return {metric: 100 * scores[metric] for metric in row.published if scores[metric] is not None}


def run_row(row: RecipeRow, roots: dict[str, Path], asked: argparse.Namespace) -> Result:
    """Train and test one row, if its data are there and it can be."""
    recipe = recipe_of(row, asked)
    remarks = [row.note] if row.note else []
    root = roots.get(row.dataset)
    if row.missing:
        return Result(row, {}, (f"cannot be done here: {row.missing}", *remarks))
    if root is None:
        return Result(row, {}, tuple(remarks))
    remarks += differences(row, recipe, asked)
    try:
        ours = tested(row, trained(row, recipe, root, asked), root, asked)
    except (
        InputError,
        SettingsError,
    ) as error:  # as weights that are not there: the other rows need not wait for them
        return Result(row, {}, (f"refused: {error}", *remarks))
    return Result(row, ours, tuple(remarks))


def table_lines(results: list[Result], *, with_changes: bool) -> list[str]:
    """The tables as text: ours | published | difference for every metric that the paper prints, and notes below."""
    width = max(len(one.row.label) for one in results)
    lines: list[str] = []
    for _, grouped in groupby(results, key=lambda one: one.row.name.partition("/")[0]):
        table = list(grouped)
        row, notes = table[0].row, list[str]()
        heads = "".join(f"  {METRICS[m]:>10}  {'published':>9}  {'diff':>6}" for m in row.published)
        lines += ["", f"{row.table}: {row.title}{in_common(table) if with_changes else ''}"]
        lines += [
            f"  {'':<{width}}{heads}",
            *(row_line(one, table, width, notes, with_changes) for one in table),
        ]
        lines += [f"  [{number}] {note}" for number, note in enumerate(notes, 1)]
    if any(one.row.evidence == "memory" for one in results):
        lines += ["", "? from memory, not checked"]
    return lines


def in_common(table: list[Result]) -> str:
    """The recipe and the protocol of all rows, where there is one."""
    common = ({one.row.base for one in table}, {one.row.protocol for one in table})
    told = [
        f"{what} {value}"
        for what, (value, *others) in zip(("recipe", "protocol"), common, strict=True)
        if not others
    ]
    return f" ({', '.join(told)})" if told else ""


def row_line(one: Result, table: list[Result], width: int, notes: list[str], with_changes: bool) -> str:
    """A row's figures and what is to be said of it; what is long is a number there, and goes to the notes."""
    row = one.row
    cells = "".join(
        f"  {ours:>10}  {value:>8.2f}{'?' if row.evidence == 'memory' else ' '}  {difference:>6}"
        for value, ours, difference in figures(one)
    )
    said = []
    for remark in one.remarks:
        if len(remark) <= SHORT:
            said.append(remark)
            continue
        if remark not in notes:
            notes.append(remark)
        said.append(f"[{notes.index(remark) + 1}]")
    if with_changes:
        changes = ", ".join(f"{key} = {json.dumps(value)}" for key, value in row.changes.items())
        parts = [changes or "as it is"]
        if len({each.row.base for each in table}) > 1:
            parts = [f"{row.base}: {parts[0]}"]
        if len({each.row.protocol for each in table}) > 1:
            parts.append(row.protocol)
        said = [*parts, *said]
    return f"  {row.label:<{width}}{cells}  {'; '.join(said)}".rstrip()


def figures(one: Result) -> list[tuple[float, str, str]]:
    """For every metric that the paper prints: its value, ours and the difference."""
    found = []
    for metric, value in one.row.published.items():
        ours = one.ours.get(metric)
        found.append((value, "-", "") if ours is None else (value, f"{ours:.2f}", f"{ours - value:+.2f}"))
    return found


def records(results: list[Result]) -> list[dict[str, Any]]:
    """A record for every row and metric, for table.csv and table.json."""
    return [
        {
            "row": one.row.name,
            "table": one.row.table,
            "label": one.row.label,
            "recipe": one.row.base,
            "changes": json.dumps(one.row.changes),
            "protocol": one.row.protocol,
            "metric": metric,
            "ours": one.ours.get(metric),
            "published": value,
            "evidence": one.row.evidence,
            "remarks": "; ".join(one.remarks),
        }
        for one in results
        for metric, value in one.row.published.items()
    ]


def write(work: Path, lines: list[str], rows: list[dict[str, Any]]) -> None:
    """table.txt, table.csv and table.json in the folder."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "table.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (work / "table.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    with (work / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Run the rows one after another; the tables are renewed after each."""
    asked = arguments()
    grid = aerial_seg.load_grid(asked.grid)
    rows = chosen_rows(grid, asked.only)
    roots = {name: Path(folder) for name, _, folder in (text.partition("=") for text in asked.root)}
    known = {row.dataset for row in rows}
    for name in roots:
        if name not in known:
            raise SystemExit(f"--root {name}=… is for no row; wanted {', '.join(sorted(known))}")
    for name in sorted(known - roots.keys()) if roots else ():
        print(f"no --root {name}=FOLDER: its rows are left out")
    results: list[Result] = []
    for row in rows:
        results.append(run_row(row, roots, asked))
        lines = [f"{grid.title} ({grid.source})", *table_lines(results, with_changes=not roots)]
        if roots:
            write(asked.work, lines, records(results))
    print("\n".join(lines))
    if any(one.remarks and one.remarks[0].startswith("refused: ") for one in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
