"""Every recipe of the benchmarks, trained through all its stages and tested by its own protocol, an eighth as large.

    python tests/speed/learning/recipe_families.py WORK [--only voc/deeplabv3 …] [--iterations 24] [--small]

WORK gets a made-up VOC, COCO, Cityscapes and ADE20K in their publishers' layouts (towns of aerial_seg.synthetic, tinted
by class so that minutes are enough), a stand-in for the ImageNet weights, which are not at hand here (an encoder that
learnt on the same towns), a run for each recipe, and table.txt. Printed for each recipe and protocol: seconds (of the
clock, training and tests), each stage's loss in its first and last quarter, the mean IoU by the protocol, and that of
the network as its run began. It fails where the loss of a recipe's first stage does not fall, where its last stage ends
no lower than the first began, or where a score is not above that of the untrained network.

What is shortened, and nothing else: all lengths are divided by eight (the images, crops, tiles, base_size and
stretched_side of the recipe; crop, step, long_side and fit of the protocol), to the next side that the network takes;
iterations are --iterations for the first stage and half as many for each later one; batches have 4 images; what is kept
of running statistics (batch_norm.decay) is so much that a run forgets as much of the beginning as the whole one does;
where the first stage's statistics are frozen, its rate is a twentieth, as the stand-in's features are larger than
ImageNet's.
The networks have their whole depth, but with --small, which tries the plumbing in a few minutes: ResNet-18 (ResNet-50
in cascade), whose last stage has two blocks for multi_grid's three rates. A run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from small_sets import make_sets

import aerial_seg
from aerial_seg import BenchmarkSettings, Recipe, TrainSettings
from aerial_seg.benchmarks.protocol import Protocol, load_protocol
from aerial_seg.errors import Incomplete
from aerial_seg.jobs.train.company import Plan
from aerial_seg.jobs.train.preparing import prepare
from aerial_seg.jobs.train.stages import asked_stages
from aerial_seg.models.device import pick_device
from aerial_seg.models.file import load_model, save_model
from aerial_seg.recipe.loading import read_lineage, recipe_names, with_lineage
from aerial_seg.recipe.model import ModelSettings

SMALLER = 8
"""What all lengths are divided by."""
BATCH = 4
BEFORE = 30
"""Iterations of the stand-in for ImageNet, of crops an eighth of 512 large."""
CPU = TrainSettings(device="cpu", tensorboard=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One recipe under one protocol. losses: of each stage, first and last quarter. miou, untrained: in percent."""

    recipe: str
    protocol: str
    seconds: float
    losses: tuple[tuple[float, float], ...]
    miou: float
    untrained: float
    shortened: str

    def failures(self) -> tuple[str, ...]:
        """What came out other than it has to."""
        (first, last), found = self.losses[0], []
        if not last < first:
            found.append(f"the first stage's loss does not fall: {first:.3f} to {last:.3f}")
        if not self.losses[-1][1] < first:
            found.append(f"the last stage ends at {self.losses[-1][1]:.3f}, the first began at {first:.3f}")
        if not self.miou > self.untrained:
            found.append(f"mIoU {self.miou:.2f} %, untrained {self.untrained:.2f} %")
        return tuple(f"{self.recipe}, {self.protocol}: {one}" for one in found)


def folder_of(recipe: Recipe, root: Path) -> Path:
    """The data set of a recipe's benchmark; of several the folder that holds them all."""
    inside = {"voc": "VOCdevkit/VOC2012", "cityscapes": "cityscapes", "ade20k": "ADEChallengeData2016"}
    wanted = {one.data.benchmark for one in recipe.by_stage()}
    return root / inside[str(wanted.pop())] if len(wanted) == 1 else root


def smaller(side: Any, stride: int, *, plus_one: bool) -> Any:
    """A crop's side, or both, an eighth as long, to the next that the network takes."""
    if isinstance(side, list | tuple):
        return [smaller(one, stride, plus_one=plus_one) for one in side]
    cells = max(2, round(side / SMALLER / stride))
    return stride * cells + (1 if plus_one else 0)


def shallow(recipe: Recipe) -> Mapping[str, Any]:
    """What --small changes."""
    if recipe.model.architecture == "deeplabv3-cascade":
        return {"model.encoder": "resnet50"}
    return {"model.encoder": "resnet18", "model.multi_grid": recipe.model.multi_grid[:2]}


def shortened(recipe: Recipe, iterations: int, weights: Path) -> Mapping[str, Any]:
    """What a recipe is changed by, as the head of this file says."""
    model, training = recipe.model, recipe.training
    plus_one = model.align_corners or model.stretched_side is not None
    stride = 32 if model.msc else max(model.output_stride, 8)  # 0.5 and 0.75 of it are whole, too
    crop = smaller(training.crop, stride, plus_one=plus_one)
    found: dict[str, Any] = {
        "model.weights": str(weights),
        "training.iterations": iterations,
        "training.validate_every": iterations,
        "training.batch_size": BATCH,
        "training.crop": crop,
        "training.workers": 0,
        "prediction.tile_size": crop if isinstance(crop, int) else max(crop),
    }
    if model.stretched_side is not None:
        found["model.stretched_side"] = crop
    if recipe.augmentation.base_size is not None:
        found["augmentation.base_size"] = [side // SMALLER for side in recipe.augmentation.base_size]
    if recipe.batch_norm.statistics == "frozen":  # of the stand-in, whose features are larger than ImageNet's
        found["training.learning_rate"] = training.learning_rate / 20
    if recipe.batch_norm.decay is not None:
        found["batch_norm.decay"] = round(recipe.batch_norm.decay ** (training.iterations / iterations), 4)
    for number in range(len(recipe.stage)):
        found[f"stage.{number}.training.iterations"] = iterations // 2
        found[f"stage.{number}.training.validate_every"] = iterations // 2
    return found


def protocols_of(name: str) -> tuple[str, ...]:
    """The protocols that a recipe says are its own, or those of its rows in the papers' tables."""
    about = with_lineage(read_lineage(name))[1]
    rows = (row for grid in aerial_seg.grid_names() for row in aerial_seg.load_grid(grid).rows)
    return about.protocols or tuple(
        dict.fromkeys(r.protocol for r in rows if r.base == name and not r.changes)
    )


def smaller_protocol(name: str, recipe: Recipe, dataset: str, work: Path) -> Path:
    """A protocol's file whose lengths are an eighth; a window as large as the recipe's crop stays so."""
    protocol = load_protocol(name)
    tables = protocol.model_dump(mode="json", exclude_none=True)
    for key in ("long_side", "fit"):
        for which, value in tables.get(key, {}).items():
            small = [n // SMALLER for n in value] if isinstance(value, list) else value // SMALLER
            tables[key][which] = small
    if "crop" in tables:
        whole = _of(protocol, "crop", dataset)
        stride = max(recipe.model.output_stride, 8)
        crop = smaller(whole, stride, plus_one=recipe.model.align_corners)
        tables["crop"] = {"default": crop}
        tables["step"] = {"default": math.ceil(crop * _of(protocol, "step", dataset) / whole)}
    path = work / "protocols" / f"{dataset}-{name}-{recipe.model.architecture}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = [f"{key} = {json.dumps(one)}" for key, one in tables.items() if not isinstance(one, dict)]
    deep = [
        f"[{key}]\n" + "\n".join(f"{inner} = {json.dumps(one)}" for inner, one in table.items())
        for key, table in tables.items()
        if isinstance(table, dict)
    ]
    path.write_text("\n".join([*flat, *deep]) + "\n", encoding="utf-8")
    return path


def _of(protocol: Protocol, key: str, dataset: str) -> int:
    value = getattr(protocol, key).of(dataset)
    assert value is not None
    return int(value)


def train_once(data: Path, recipe: Recipe, run: Path) -> None:
    """Train, or go on, unless that is done."""
    if not (run / "run.json").is_file() or aerial_seg.info(run)["state"] != "finished":
        aerial_seg.train(data, recipe, run, CPU)


def stand_in(model: ModelSettings, root: Path, work: Path) -> Path:
    """An encoder's weights that know the towns, as ImageNet's know photographs; one for each depth.

    Its state dict, or for a network that begins with three convolutions the model that it learnt in, of which all fits
    but those.
    """
    run = work / "encoders" / model.encoder
    path = run / "encoder.safetensors"
    if not path.is_file():
        print(f"{model.encoder}: learning, in place of ImageNet", flush=True)
        recipe = aerial_seg.load_recipe("voc/fcn", {
            "model.encoder": model.encoder, "model.stem": "7x7", "model.weights": "none", "model.output_stride": 32,
            "model.auxiliary": False, "model.auxiliary_channels": None, "model.head_channels": 64, "training.crop": 64,
            "training.batch_size": BATCH, "training.iterations": BEFORE, "training.optimizer": "adamw",
            "training.learning_rate": 1e-3, "training.validate_every": BEFORE, "training.workers": 0,
            "augmentation.base_size": [256, 64], "prediction.tile_size": 128,
        })  # fmt: skip
        train_once(root / "VOCdevkit" / "VOC2012", recipe, run)
        tensors = load_file(run / "last.safetensors")
        own = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
        save_file(own, path)
    return path if model.stem == "7x7" else run / "last.safetensors"


def untrained(recipe: Recipe, root: Path, run: Path, work: Path) -> Path:
    """A model file of the network as its run began: with the encoder's weights, and a head that knows nothing."""
    first = asked_stages(recipe)[0]
    plan = Plan.of(CPU, recipe, pick_device("cpu"), None)
    ready = prepare(first, (root, None), work / "none" / run.name, CPU, plan, None)
    card = load_model((run / "stage-1" if recipe.stage else run) / "last.safetensors").card
    path = work / "untrained" / f"{run.name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(ready.beginning.network.state_dict(), card.model_copy(update={"iteration": 0}), path)
    return path


def losses_of(folder: Path) -> tuple[float, float]:
    """The mean loss in the first and the last quarter of a run, or of a stage."""
    with (folder / "log.csv").open(encoding="utf-8", newline="") as file:
        found = [float(row["loss"]) for row in csv.DictReader(file)]
    part = max(1, len(found) // 4)
    return float(np.mean(found[:part])), float(np.mean(found[-part:]))


def try_recipe(name: str, root: Path, work: Path, iterations: int, *, small: bool) -> list[Outcome]:
    """Train a recipe and test it by each of its protocols."""
    begun = time.monotonic()
    whole = aerial_seg.load_recipe(name)
    whole = aerial_seg.change_recipe(whole, shallow(whole) if small else {})
    changes = shortened(whole, iterations, stand_in(whole.model, root, work))
    recipe = aerial_seg.change_recipe(whole, changes)
    data, run = folder_of(recipe, root), work / "runs" / name.replace("/", "-")
    train_once(data, recipe, run)
    last = recipe.by_stage()[-1]
    dataset = str(last.data.benchmark)
    stages = [run / f"stage-{k}" for k in range(1, len(recipe.stage) + 1)]
    losses = tuple(losses_of(folder) for folder in (*stages, run))
    plain = untrained(recipe, data, run, work)
    said = [key for key, value in changes.items() if key not in ("model.weights", "training.workers")]
    found = []
    for protocol in protocols_of(name):
        file = smaller_protocol(protocol, last, dataset, work)
        scores = [
            miou(dataset, folder_of(last, root), model, file) for model in (run / "last.safetensors", plain)
        ]
        told = ", ".join(f"{key.rpartition('.')[2]} {changes[key]}" for key in said)
        found.append(Outcome(name, protocol, time.monotonic() - begun, losses, *scores, told))
        begun = time.monotonic()
    return found


def miou(dataset: str, root: Path, model: Path, protocol: Path) -> float:
    """Mean IoU in percent of a model under a protocol's file."""
    report = aerial_seg.benchmark(
        dataset, root, model, None, BenchmarkSettings(protocol=str(protocol), device="cpu", worst=0)
    )
    assert report.scores is not None
    return 100 * float(report.scores.as_json()["miou"])


def lines(outcomes: list[Outcome]) -> list[str]:
    """The table."""
    found = [
        f"{'recipe':<26}{'protocol':<24}{'seconds':>8}  {'loss by stage':<32}{'mIoU':>7}{'untrained':>11}"
    ]
    for one in outcomes:
        by_stage = ", ".join(f"{first:.3f} → {last:.3f}" for first, last in one.losses)
        found.append(
            f"{one.recipe:<26}{one.protocol:<24}{one.seconds:>8.0f}  {by_stage:<32}{one.miou:>7.2f}"
            f"{one.untrained:>11.2f}  {one.shortened}"
        )
    return found


def main() -> int:
    """Try the recipes one after another; a refusal of one does not keep the others from being tried."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", action="append", default=[], metavar="RECIPE")
    parser.add_argument("--iterations", type=int, default=24)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    make_sets(asked.work / "sets")
    names = [
        name for name in recipe_names() if aerial_seg.load_recipe(name).data.benchmark and not asked.only
    ] + asked.only
    outcomes: list[Outcome] = []
    failures: list[str] = []
    for name in names:
        try:
            new = try_recipe(name, asked.work / "sets", asked.work, asked.iterations, small=asked.small)
        except Incomplete as error:  # who interrupts one means all
            print(error, flush=True)
            return 3
        except aerial_seg.AerialSegError as error:
            failures.append(f"{name} is refused: {error}")
            print(failures[-1], flush=True)
            continue
        outcomes += new
        failures += [line for one in new for line in one.failures()]
        print("\n".join(lines(new)), flush=True)
    text = "\n".join([*lines(outcomes), "", *(failures or ["all as they have to be"])])
    (asked.work / "table.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
