"""Speed of a training step by precision and by compilation, and the IoU that precisions lead to.

    python tests/speed/training.py steps [--rounds 5] [--threads N]
    python tests/speed/training.py compile
    python tests/speed/training.py iou IMAGERY [-o OUT] [--recipe unet] [--set KEY=VALUE] [--iterations N] [--seeds 3]

steps: one update of fp32 and one of bf16 in turns, in one process; each in seconds of the clock and of the CPU, the
ratio that of the medians. compile: the same for the eager and the compiled network, and how long compiling takes.
iou: `train` on banepa's western columns, scored on column 386693, for each seed once in fp32 and once in bf16: the
difference of precisions beside the spread of seeds; batches of 4 and crops of 128 where --set does not say else. Run
alone for the clock; ratios of CPU seconds bear company.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import facts

from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.models.build import build_network
from aerial_seg.models.device import batch_to_device, to_device
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe, load_recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.training.fabric import Members, open_fabric
from aerial_seg.training.loss import SegmentationLoss
from aerial_seg.training.optimisation import make_optimizer

CPU = torch.device("cpu")
NETWORKS = {
    "deeplabv3 R18": ModelSettings(),
    "deeplabv3 R50": ModelSettings(encoder="resnet50"),
    "Unet R18": ModelSettings(architecture="Unet"),
    "Unet lite0": ModelSettings(architecture="Unet", encoder="tu-tf_efficientnet_lite0"),
}
CASES = (
    ("deeplabv3 R18", 256, 8), ("deeplabv3 R18", 512, 2), ("Unet R18", 256, 8), ("Unet lite0", 256, 8),
    ("deeplabv3 R50", 256, 4),
)  # fmt: skip


def updater(
    name: str, crop: int, batch: int, precision: str, *, compiled: bool = False
) -> Callable[[], None]:
    """What makes one update of a network, as the loop does."""
    torch.manual_seed(0)
    network = build_network(NETWORKS[name], bands=3, classes=2)
    to_device(network, CPU)
    network.train()
    criterion = SegmentationLoss(network.geometry, auxiliary_weight=0.4, class_weights=torch.ones(2))
    fabric = open_fabric(CPU, precision)
    module = torch.compile(Members(network)) if compiled else Members(network)
    optimizer = make_optimizer(network, TrainingSettings(optimizer="adamw"))
    model, optimizer = fabric.setup(module, optimizer, move_to_device=False)
    image, labels = torch.randn(batch, 3, crop, crop), torch.randint(0, 2, (batch, crop, crop))

    def update() -> None:
        optimizer.zero_grad()
        (logits, *others), aux_logits = model(batch_to_device(image, CPU))
        fabric.backward(criterion(logits, aux_logits, labels, others))
        optimizer.step()

    return update


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the clock, and of the CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def compare(update: dict[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, float]]:
    """The median seconds of each, taken in turns; the first round warms up."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in update}
    for _ in range(rounds + 1):
        for name, work in update.items():
            seen[name].append(timed(work))
    return {
        name: {
            "clock": statistics.median(a for a, _ in times[1:]),
            "cpu": statistics.median(b for _, b in times[1:]),
        }
        for name, times in seen.items()
    }


def steps(rounds: int) -> None:
    """A row for each network."""
    print(f"{'':16} {'crop':>5} {'batch':>5} {'fp32 s':>8} {'bf16 s':>8} {'clock':>7} {'CPU':>7}")
    for name, crop, batch in CASES:
        both = compare({p: updater(name, crop, batch, p) for p in ("fp32", "bf16")}, rounds)
        ratio = {what: both["fp32"][what] / both["bf16"][what] for what in ("clock", "cpu")}
        seconds = f"{both['fp32']['clock']:8.2f} {both['bf16']['clock']:8.2f}"
        print(
            f"{name:16} {crop:5} {batch:5} {seconds} {ratio['clock']:6.2f}x {ratio['cpu']:6.2f}x", flush=True
        )


def compiling(rounds: int) -> None:
    """A row for each network and precision: eager against compiled."""
    print(
        f"{'':16} {'crop':>5} {'batch':>5} {'compile s':>10} {'eager s':>8} {'then s':>8} {'clock':>7} {'CPU':>7}"
    )
    for name, crop, batch in CASES[:4]:
        for precision in ("fp32", "bf16"):
            eager, quick = (updater(name, crop, batch, precision, compiled=on) for on in (False, True))
            first, _ = timed(quick)
            both = compare({"eager": eager, "compiled": quick}, rounds)
            ratio = {what: both["eager"][what] / both["compiled"][what] for what in ("clock", "cpu")}
            seconds = f"{first:10.1f} {both['eager']['clock']:8.2f} {both['compiled']['clock']:8.2f}"
            print(
                f"{name + ' ' + precision:16} {crop:5} {batch:5} {seconds} {ratio['clock']:6.2f}x {ratio['cpu']:6.2f}x",
                flush=True,
            )


def iou(imagery: Path, out: Path, recipe: Recipe, *, iterations: int, seeds: int) -> None:
    """Building IoU of fp32 and bf16 for each seed, at the last update."""
    chips = out / "chips"
    if not chips.exists():
        cut = TileSettings(
            labels=LabelSettings(classes=("building",)), gsd=0.26, chip_size=256,
            val="*-386693-*", test="*-38669[45]-*",
        )  # fmt: skip
        tile([imagery / "train"], [imagery / "buildings.geojson"], chips, cut)
    scores: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in range(seeds):
        for precision, found in scores.items():
            changes = {
                "training.iterations": iterations, "training.validate_every": iterations, "training.seed": seed,
                "training.calibrate": False,
            }  # fmt: skip
            settings = TrainSettings(device="cpu", precision=precision, overwrite=True)
            report = train(chips, change_recipe(recipe, changes), out / f"{precision}-{seed}", settings)
            assert report.scores is not None
            found.append(next(one.iou for one in report.scores.classes if one.name == "building"))
            print(f"seed {seed} {precision} building IoU {found[-1]:.4f}", flush=True)
    differences = [b - a for a, b in zip(scores["fp32"], scores["bf16"], strict=True)]
    spread = statistics.stdev(scores["fp32"])
    print(
        f"bf16 − fp32: mean {statistics.mean(differences):+.4f}, each {[round(one, 4) for one in differences]}; "
        f"spread of seeds in fp32 (standard deviation) {spread:.4f}"
    )


def main() -> None:
    """Print the machine's facts, then what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["steps", "compile", "iou"])
    parser.add_argument("imagery", nargs="?", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("training"))
    parser.add_argument("--recipe", default="unet")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--iterations", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(json.dumps(facts()))
    if options.what == "steps":
        steps(options.rounds)
    elif options.what == "compile":
        compiling(options.rounds)
    elif options.imagery is None:
        parser.error("iou wants the folder of the imagery: train/ and buildings.geojson of banepa")
    else:
        recipe = load_recipe(options.recipe, {"training.batch_size": 4, "training.crop": 128})
        recipe = change_recipe(recipe, options.set)
        iou(options.imagery, options.output, recipe, iterations=options.iterations, seeds=options.seeds)


if __name__ == "__main__":
    main()
