"""How near training from chips comes to a bare loop of the same network on random tensors that lie on the device.

    python tests/speed/training_loader.py [--device cuda] [--seconds 60] [--rounds 6] [--json FILE]
    python tests/speed/training_loader.py --device cpu --small     # the rehearsal: the same code, in seconds

loop: images/s of both, in turns in one process, `--seconds` each in all; the ratio of every round, and their median.
cpu_ratio is that of CPU seconds per image, which others on the machine disturb less (with OMP_NUM_THREADS=1, and no
workers, whose seconds are not this process's).
Every part of a training step is in both: forward, loss, backward, update; the loader's has its reading, cutting,
carrying and finishing besides. parts: what one sample costs, without a network: finding what is sample i of 10^6 chips,
cutting it from kept bytes and from its file, finishing a batch where it lies. Bars: 95 % on 2 CPU cores; on a GPU with
16 cores 90 % for DeepLabv3 R50 and 80 % for U-Net R18; 50 µs to find a sample.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from affine import Affine
from machine import facts
from pyproj import CRS
from torch import Tensor

from aerial_seg.files.operating_system import usable_cores
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.values.accumulator import BandAccumulator
from aerial_seg.labels.chip_file import write_image, write_labels
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.device import (
    batch_to_device,
    pick_device,
    pick_training_precision,
    to_device,
    training_precision,
    wait_for,
)
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.loader import Loader
from aerial_seg.training.loss import SegmentationLoss
from aerial_seg.training.manifest import Chip
from aerial_seg.training.optimisation import make_optimizer
from aerial_seg.training.samples.batch import finished
from aerial_seg.training.samples.chip_reader import ChipReader
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.draws import draw
from aerial_seg.training.samples.order import ChipOrder

LEGEND = make_legend({0: "background", 1: "building"})
SCALE = (0.75, 1.33)

CASES: dict[str, dict[str, Any]] = {
    "DeepLabv3 R50 256 px batch 16": {
        "model": load_recipe("deeplabv3").model.model_copy(update={"encoder": "resnet50"}),
        "crop": 256, "batch_size": 16, "on": "cuda", "bar": 0.90,
    },
    "U-Net R18 256 px batch 16": {
        "model": ModelSettings(architecture="Unet", encoder="resnet18"),
        "crop": 256, "batch_size": 16, "on": "cuda", "bar": 0.80,
    },
    "DeepLabv3 R18 256 px batch 8": {
        "model": load_recipe("deeplabv3").model, "crop": 256, "batch_size": 8, "on": "cpu", "bar": 0.95,
    },
    "U-Net R18 256 px batch 8": {
        "model": load_recipe("unet").model, "crop": 256, "batch_size": 8, "on": "cpu", "bar": 0.95,
    },
    "banepa/unet 128 px batch 2": {
        "model": load_recipe("banepa/unet").model, "crop": 128, "batch_size": 2, "on": "cpu", "bar": 0.95,
    },
}  # fmt: skip


def make_chips(folder: Path, *, count: int, side: int) -> ChipReader:
    """So many chips of textured noise, as `tile` writes them."""
    random = np.random.default_rng(0)
    chips, statistics_of_bands = [], BandAccumulator(["red", "green", "blue"], "uint8")
    grid = Grid(CRS.from_epsg(32645), Affine(0.5, 0, 3e5, 0, -0.5, 3e6), height=side, width=side)
    valid = np.ones((side, side), np.bool_)
    for number in range(count):
        coarse = random.integers(0, 200, (3, side // 16, side // 16)).repeat(16, 1).repeat(16, 2)
        image = (coarse + random.integers(0, 40, (3, side, side))).astype(np.uint8)
        labels = (image[0] > 120).astype(np.uint8)
        paths = folder / f"{number}.tif", folder / f"{number}_labels.tif"
        write_image(paths[0], image, valid, grid, ["red", "green", "blue"])
        write_labels(paths[1], labels, grid, LEGEND)
        statistics_of_bands.add(image, valid)
        chips.append(Chip(str(number), "train", *paths))
    return ChipReader(tuple(chips), statistics_of_bands.bands(), LEGEND)


def make_step(case: dict[str, Any], device: torch.device) -> Callable[[Tensor, Tensor], float]:
    """One training step of a new network; gives the loss, which waits for the device as the loop does."""
    torch.manual_seed(0)
    network = build_network(case["model"], bands=3, classes=len(LEGEND))
    to_device(network, device)
    network.train()
    settings = TrainingSettings(optimizer="adamw", learning_rate=1e-3, batch_size=case["batch_size"])
    criterion = SegmentationLoss(
        network.geometry, auxiliary_weight=0.4, class_weights=torch.ones(len(LEGEND))
    ).to(device)
    optimizer = make_optimizer(network, settings)
    precision = pick_training_precision("auto", device)[0]

    def step(images: Tensor, labels: Tensor) -> float:
        with training_precision(device, precision):
            (logits, *others), auxiliary = network.forward_members(images)
        loss = criterion(logits, auxiliary, labels, others)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def resident(case: dict[str, Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The same random batch again and again."""
    random, n, side = torch.Generator().manual_seed(0), case["batch_size"], case["crop"]
    images = batch_to_device(torch.randn(n, 3, side, side, generator=random), device)
    labels = torch.randint(0, len(LEGEND), (n, side, side), generator=random).to(device)
    while True:
        yield images, labels


def images_per_second(
    batches: Iterator[tuple[Tensor, Tensor]],
    step: Callable[[Tensor, Tensor], float],
    *,
    seconds: float,
    device: torch.device,
) -> tuple[float, float]:
    """(images/s, CPU seconds of this process per image) of steps that fill so many seconds."""
    wait_for(device)
    begun, cpu, images = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begun < seconds:
        image, labels = next(batches)
        step(image, labels)
        images += len(image)
    wait_for(device)
    return images / (time.perf_counter() - begun), (time.process_time() - cpu) / images


def loop(reader: ChipReader, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of the bare loop and of the loader's, in turns; which of them begins changes."""
    case, device = CASES[name], pick_device(options.device)
    if options.small:
        case = case | {"crop": 64, "batch_size": 2}
    step = make_step(case, device)
    crops = CropDataset(
        ChipStore(reader),
        length=10**9 // case["batch_size"] * case["batch_size"],
        crop=case["crop"],
        augmentation=AugmentationSettings(scale=SCALE),
        seed=0,
    )
    loader = Loader(crops, batch_size=case["batch_size"], workers=options.workers, device=device)
    ways = {"bare": resident(case, device), "loader": iter(loader)}
    each = options.seconds / options.rounds
    for batches in ways.values():  # chips kept, kernels chosen, memory taken
        images_per_second(batches, step, seconds=min(5.0, each), device=device)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for way in list(ways)[:: 1 if number % 2 else -1]:
            found[way].append(images_per_second(ways[way], step, seconds=each, device=device))
    ratios = [own[0] / bare[0] for own, bare in zip(found["loader"], found["bare"], strict=True)]
    row = {
        "workers": loader.workers,
        "seconds_each": options.seconds,
        "bare_images_s": statistics.median(speed for speed, _ in found["bare"]),
        "loader_images_s": statistics.median(speed for speed, _ in found["loader"]),
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "cpu_ms_beside_bare": 1e3 * statistics.median(
            own[1] - bare[1] for own, bare in zip(found["loader"], found["bare"], strict=True)
        ),
        "cpu_ratio": statistics.median(
            bare[1] / own[1] for own, bare in zip(found["loader"], found["bare"], strict=True)
        ),
        "bar": case["bar"],
    }  # fmt: skip
    show(name, row)
    return row


def best_of(work: Callable[[], object], *, times: int, rounds: int = 7, cpu: bool = True) -> float:
    """Seconds of one call, in the fastest of the rounds; cpu: of the processor, whatever else it does."""
    found = []
    for _ in range(rounds):
        begun = time.process_time() if cpu else time.perf_counter()
        for _ in range(times):
            work()
        found.append(((time.process_time() if cpu else time.perf_counter()) - begun) / times)
    return min(found)


def parts(reader: ChipReader, options: argparse.Namespace) -> dict[str, Any]:
    """What a sample of 256 px costs one process, without a network, in its parts."""
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings, crop, batch_size = AugmentationSettings(scale=SCALE), 256, 16
    order, index = ChipOrder(10**6, 3), iter(range(10**9))

    def find() -> None:
        number = next(index)
        order.chip_of(number)
        draw(3, number, settings, bands=3)

    def crops(budget: int | None) -> CropDataset:
        store = ChipStore(reader, budget=budget)
        return CropDataset(store, length=10**9, crop=crop, augmentation=settings, seed=0)

    kept, fresh = crops(None), crops(0)
    layout = kept.layout(batch_size)
    flat = torch.empty(layout.size, dtype=torch.uint8)
    batch = layout.split(flat)
    kept.fill(kept.layout(len(reader)).split(torch.empty(kept.layout(len(reader)).size, dtype=torch.uint8)),
              range(len(reader)))  # fmt: skip
    samples = range(1000, 1000 + batch_size)
    device = pick_device(options.device)
    there = layout.split(flat.to(device))

    def finish() -> None:
        finished(there, all_measured=True)
        wait_for(device)

    times = 2 if options.small else 10
    row = {
        "find_us": 1e6 * best_of(find, times=200 * times),
        "cut_kept_ms": 1e3 * best_of(lambda: kept.fill(batch, samples), times=times) / batch_size,
        "cut_from_file_ms": 1e3 * best_of(lambda: fresh.fill(batch, samples), times=times) / batch_size,
        "finish_ms_a_batch": 1e3 * best_of(finish, times=times, cpu=device.type == "cpu"),
        "bytes_a_batch": layout.size,
        "bytes_a_kept_chip": kept._store._place,
    }
    torch.set_num_threads(torch_threads)
    show("parts", row)
    return row


def show(name: str, row: dict[str, Any]) -> None:
    """One line."""
    numbers = ", ".join(f"{k} {v:.3g}" for k, v in row.items() if isinstance(v, float | int))
    print(f"  {name:32} {numbers}", flush=True)


def main() -> None:
    """Print the rows, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two, in all rounds")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workers", type=lambda text: text if text == "auto" else int(text), default="auto")
    parser.add_argument("--only", nargs="+", choices=[*CASES, "parts"])
    parser.add_argument("--chips", type=int, default=200)
    parser.add_argument(
        "--small", action="store_true", help="a rehearsal: few chips, seconds, both devices' cases"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kind = pick_device(options.device).type
    names = options.only or [
        "parts",
        *(n for n, case in CASES.items() if options.small or case["on"] == kind),
    ]
    if options.small:
        options.seconds, options.rounds, options.chips = 2.0, 1, 8
    result: dict[str, Any] = {"machine": facts() | {"usable_cores": usable_cores()}}
    print(json.dumps(result["machine"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        reader = make_chips(Path(folder), count=options.chips, side=512)
        for name in names:
            result[name] = parts(reader, options) if name == "parts" else loop(reader, name, options)
            if options.json:
                options.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
