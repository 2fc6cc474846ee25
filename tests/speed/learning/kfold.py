"""Is a recipe as good as a plain loop at equal CPU time? Three folds over the western columns of Banepa, paired.

    python tests/speed/learning/kfold.py IMAGERY -o OUT calibrate --arm plain --arm banepa/unet
    python tests/speed/learning/kfold.py IMAGERY -o OUT run --arm plain --arm banepa/unet [--budget 400] [--seed 0 1 2]
    python tests/speed/learning/kfold.py IMAGERY -o OUT report --arm banepa/unet [--against plain]

IMAGERY holds train/ and buildings.geojson (see banepa.py). The eastern columns 386694 and 386695 are the test ground:
nothing here opens them. A fold holds out one western column and learns from the other three; its score is the
building IoU of the stitched map of the held-out column, at the threshold that the model ships, predicted alike for
all arms. The plain loop learns from all 24 tiles; a recipe splits its validation chips off them as `tile` does when
told nothing (--val 0.15).

Time is CPU seconds, counted as iterations fixed beforehand: beside other programs they inflate, and not alike.
`calibrate` measures seconds per iteration and per validation, arms taking turns, least of the rounds, on an idle
machine with OMP_NUM_THREADS=1; `run` reckons iterations from that, or takes them (--iterations). Every run
is one JSON file under OUT/runs and a line of OUT/runs.jsonl; what is there is not run again, so the same command
goes on. An arm is `plain` (or 'plain batch=2': a stronger rival in a short run), a recipe, or a variation of one:
'banepa/unet training.crop=256 training.batch_size=1', with val=0 for all tiles and no validation, and gsd=own for
chips of the imagery's own 0.13 m, as who tells `tile` nothing gets them.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from plain_loop import BATCH, train_plain
from scipy import stats

from aerial_seg.documents import parse_toml
from aerial_seg.jobs.evaluate import evaluate_mask
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.models.file import load_model, save_model
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import load_recipe

WEST = ("386690", "386691", "386692", "386693")
FOLDS = ("386690", "386692", "386693")
"""Held-out columns: two at an edge of the ground, one inside; the fourth always trains."""
GSD, CHIP = 0.26, 256
"""Metres per pixel and chips of the worked example; chips at the imagery's own 0.13 m are twice as many pixels wide."""
ROUNDS = 3


class Ground:
    """The western imagery, cut into chips once per fold and share of validation."""

    def __init__(self, imagery: Path, out: Path) -> None:
        self.labels, self._out = imagery / "buildings.geojson", out
        self._tiles = {column: sorted((imagery / "train").glob(f"*-{column}-*.tif")) for column in WEST}

    def held_out(self, fold: str) -> list[Path]:
        """The rasters of the fold's column."""
        return self._tiles[fold]

    def chips(self, fold: str, arm: Arm) -> Path:
        """The dataset of the other columns."""
        dataset = self._out / "chips" / f"{fold}-val{arm.val}{'-own' if arm.own_gsd else ''}"
        if not (dataset / "dataset.json").is_file():
            rest = [path for column in WEST if column != fold for path in self._tiles[column]]
            settings = TileSettings(
                labels=LabelSettings(classes="building"),
                gsd=None if arm.own_gsd else GSD,
                chip_size=arm.tile,
                val=arm.val,
                test="0",
            )
            tile(rest, self.labels, dataset, settings)
        return dataset


class Arm:
    """One way to train, by its name: plain, or a recipe, with changes. tile: of prediction, as large as the chips."""

    def __init__(self, name: str) -> None:
        self.name = name
        first, *changes = name.split()
        self._changes = dict(change.split("=", 1) for change in changes)
        self.val = self._changes.pop("val", "0" if first == "plain" else "0.15")
        self.own_gsd = self._changes.pop("gsd", "") == "own"
        self.tile = 2 * CHIP if self.own_gsd else CHIP
        self._recipe = None if first == "plain" else load_recipe(first)

    def recipe(self, iterations: int, seed: int) -> Recipe:
        """The recipe at another length: as many validations as before."""
        assert self._recipe is not None
        document = self._recipe.model_dump()
        for key, text in self._changes.items():
            *sections, last = key.split(".")
            place = document
            for section in sections:
                place = place[section]
            place[last] = parse_toml(f"value = {text}")["value"]
        training = document["training"]
        times = max(1, round(training["iterations"] / training["validate_every"]))
        training |= {"iterations": iterations, "validate_every": -(-iterations // times), "seed": seed}
        training["workers"] = 0  # as the plain loop, and all CPU seconds are this process's
        return Recipe.model_validate(document)

    def validations(self) -> int:
        """How often a run of the recipe validates."""
        if self._recipe is None or self.val == "0":
            return 0
        made = self.recipe(10**6, 0).training
        return -(-made.iterations // made.validate_every)

    def train(self, chips: Path, out: Path, iterations: int, seed: int, every: int | None = None) -> Path:
        """The model file. every: validate so often instead."""
        if self._recipe is None:
            batch = int(self._changes.get("batch", BATCH))
            train_plain(chips, out / "plain.safetensors", iterations=iterations, seed=seed, batch=batch)
            return out / "plain.safetensors"
        recipe = self.recipe(iterations, seed)
        if every is not None:
            training = recipe.training.model_copy(update={"validate_every": every})
            recipe = recipe.model_copy(update={"training": training})
        return train(chips, recipe, out / "run", TrainSettings(device="cpu", overwrite=True)).model


def cpu_seconds(work: Callable[[], object]) -> float:
    """User and system time of this process that the work takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def calibrate(arms: Sequence[Arm], ground: Ground, out: Path) -> None:
    """OUT/calibration.json tells of each arm the CPU seconds of an iteration and of a validation."""
    file, scratch = out / "calibration.json", out / "scratch"
    known = json.loads(file.read_text()) if file.is_file() else {}
    costs: dict[str, list[tuple[float, float]]] = {arm.name: [] for arm in arms}
    few, more = 4, 20
    for _ in range(ROUNDS):
        for arm in arms:
            chips = ground.chips(FOLDS[0], arm)
            scratch.mkdir(exist_ok=True)
            runs = [(few, None), (more, None), *([(few, 1)] if arm.validations() else [])]
            taken = [cpu_seconds(partial(arm.train, chips, scratch, n, 0, every)) for n, every in runs]
            per_iteration = (taken[1] - taken[0]) / (more - few)
            per_validation = (taken[2] - taken[0]) / (few - 1) if len(taken) > 2 else 0.0
            costs[arm.name].append((per_iteration, per_validation))
            print(arm.name, f"{per_iteration:.3f} s, validation {per_validation:.2f} s", flush=True)
    for name, measured in costs.items():
        each, validation = np.min(measured, axis=0)
        known[name] = {
            "iteration": round(float(each), 4),
            "validation": round(max(0.0, float(validation)), 3),
        }
    file.write_text(json.dumps(known, indent=1))
    shutil.rmtree(scratch)


def iterations_of(arm: Arm, budget: float, out: Path) -> int:
    """How many iterations the budget of CPU seconds pays for."""
    file = out / "calibration.json"
    cost = json.loads(file.read_text()).get(arm.name) if file.is_file() else None
    if cost is None:
        sys.exit(f"{file} does not know '{arm.name}'; calibrate it first, or give --iterations")
    return int((budget - arm.validations() * cost["validation"]) / cost["iteration"])


def one_run(arm: Arm, ground: Ground, fold: str, seed: int, iterations: int, scratch: Path) -> dict[str, Any]:
    """Train without the fold's column, map it, score the map at the shipped threshold (and, to learn from, at 0.5)."""
    model: list[Path] = []
    chips = ground.chips(fold, arm)
    scratch.mkdir(parents=True)
    seconds = cpu_seconds(lambda: model.append(arm.train(chips, scratch, iterations, seed)))
    card = load_model(model[0]).card
    shipped = building_iou(model[0], ground.held_out(fold), ground.labels, arm.tile)
    half = shipped
    if any(card.class_bias):
        unbiased = card.model_copy(update={"class_bias": (0.0,) * len(card.class_bias)})
        save_model(load_model(model[0]).network.state_dict(), unbiased, scratch / "half.safetensors")
        half = building_iou(scratch / "half.safetensors", ground.held_out(fold), ground.labels, arm.tile)
    return {
        "arm": arm.name, "fold": fold, "seed": seed, "iterations": iterations, "cpu_seconds": round(seconds, 1),
        "iou": round(shipped, 5), "iou_at_half": round(half, 5), "bias": round(card.class_bias[1], 3),
        "best_iteration": card.iteration, "validation_miou": card.validation_miou,
    }  # fmt: skip


def building_iou(model: Path, rasters: list[Path], labels: Path, tile_size: int) -> float:
    """IoU of the map of the held-out column."""
    mask = model.with_name("map.tif")
    settings = PredictSettings(
        mosaic=True, tile_size=tile_size, engine="eager", precision="fp32", device="cpu", overwrite=True
    )
    predict(model, rasters, mask, settings)
    scores = evaluate_mask(mask, labels).scores
    return float(next(one.iou for one in scores.classes if one.name == "building"))


def run(options: argparse.Namespace, ground: Ground) -> None:
    """Every fold, seed and arm that has no result yet, arms taking turns."""
    folder = options.output / "runs"
    folder.mkdir(exist_ok=True)
    for seed in options.seed:
        for fold in options.fold:
            for arm in map(Arm, options.arm):
                iterations = options.iterations or iterations_of(arm, options.budget, options.output)
                name = f"{arm.name}-{iterations}-{fold}-{seed}".replace("/", "_").replace(" ", "_")
                file = folder / f"{name}.json"
                if file.is_file():
                    continue
                scratch = options.output / f"scratch-{name}"
                shutil.rmtree(scratch, ignore_errors=True)
                result = one_run(arm, ground, fold, seed, iterations, scratch)
                result["budget"] = None if options.iterations else options.budget
                line = json.dumps(result)
                file.write_text(line)
                with (options.output / "runs.jsonl").open("a") as lines:
                    lines.write(line + "\n")
                print(line, flush=True)
                shutil.rmtree(scratch)


def report(options: argparse.Namespace) -> None:
    """Of each arm the mean, and the paired difference to another with its 95 % interval."""
    runs = [json.loads(file.read_text()) for file in sorted((options.output / "runs").glob("*.json"))]
    runs = [one for one in runs if one["budget"] == options.budget]
    of: dict[str, dict[tuple[str, int], float]] = {}
    for one in runs:
        of.setdefault(one["arm"], {})[one["fold"], one["seed"]] = one["iou"]
    for name in options.arm or sorted(of):
        scores = of.get(name, {})
        pairs = sorted(set(scores) & set(of.get(options.against, {})))
        difference = np.array([scores[pair] - of[options.against][pair] for pair in pairs])
        print(f"{name}: mean {np.mean(list(scores.values())):.4f} of {len(scores)} runs", end="")
        if name == options.against or not len(difference):
            print()
            continue
        means = [difference[[fold == f for f, _ in pairs]].mean() for fold in sorted({f for f, _ in pairs})]
        over_pairs, over_folds = interval(difference), interval(np.array(means))
        print(
            f"; minus {options.against}: {difference.mean():+.4f} {over_pairs} over {len(pairs)} pairs, "
            f"{over_folds} over {len(means)} folds; {np.round(difference, 3).tolist()}"
        )


def interval(values: np.ndarray) -> str:
    """Student's 95 % interval of the mean. Pairs of a fold share its ground: that over folds is the honest one."""
    if len(values) < 2:
        return "(no interval)"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"[{values.mean() - half:+.4f}, {values.mean() + half:+.4f}]"


def main() -> None:
    """Calibrate, run or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("imagery", type=Path)
    parser.add_argument("what", choices=["calibrate", "run", "report"])
    parser.add_argument("-o", "--output", type=Path, default=Path("kfold"))
    parser.add_argument("--arm", action="append", default=[])
    parser.add_argument("--against", default="plain")
    parser.add_argument("--budget", type=float, default=400.0, help="CPU seconds of a run")
    parser.add_argument("--iterations", type=int, help="instead of a budget")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fold", nargs="+", choices=FOLDS, default=list(FOLDS))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    ground = Ground(options.imagery, options.output)
    if options.what == "calibrate":
        calibrate([Arm(name) for name in options.arm], ground, options.output)
    elif options.what == "run":
        run(options, ground)
    else:
        report(options)


if __name__ == "__main__":
    main()
