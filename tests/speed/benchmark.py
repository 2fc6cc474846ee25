"""What `benchmark` costs beside the bare forward: medians and ratios from one run.

    python tests/speed/benchmark.py [--rounds 5] [--images 16] [--precision fp32] [--protocol deeplabv3-os16]

A VOC-layout set of 500 × 375 JPEGs with palette labels; DeepLabv3 R50 with 21 classes, output stride 16. Evaluating
decodes, normalises, runs, upsamples to full size, takes the argmax, writes the prediction durably and counts it; the
bare forward runs the same prepared network on the same images, already in memory. Model loading is excluded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import facts
from PIL import Image
from predict import image_part, interleaved

from aerial_seg.benchmarks.catalogue import open_benchmark
from aerial_seg.benchmarks.protocol import load_protocol
from aerial_seg.benchmarks.submission import voc_palette
from aerial_seg.benchmarks.training_data import BANDS, read_normalised
from aerial_seg.files.journal import Journal
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.jobs.benchmark.images import ImageRun, Tally
from aerial_seg.legend import Legend
from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.progress import silent
from aerial_seg.recipe.document import Recipe

HEIGHT, WIDTH = 375, 500


def write_voc(root: Path, count: int) -> None:
    """VOC's layout with `count` val images of texture, and labels of all classes."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names = [f"2007_{number:06}" for number in range(count)]
    for number, name in enumerate(names):
        pixels, _ = image_part(HEIGHT, WIDTH, seed=number)
        Image.fromarray(np.moveaxis(pixels, 0, -1)).save(root / "JPEGImages" / f"{name}.jpg", quality=92)
        label = Image.fromarray((pixels[0] // 12 % 21).astype(np.uint8))
        label.putpalette(voc_palette().tobytes())
        label.save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names) + "\n")


def make_model(legend: Legend) -> TrainedModel:
    """An untrained DeepLabv3 R50 at output stride 16."""
    torch.manual_seed(0)
    settings = {"architecture": "deeplabv3", "encoder": "resnet50", "output_stride": 16}
    recipe = Recipe.model_validate({"model": settings})
    card = ModelCard(
        tool_version="speed", recipe=recipe, legend=legend, bands=BANDS, gsd=None,
        class_bias=(0.0,) * len(legend), iteration=0, validation_miou=None, data_fingerprint="",
    )  # fmt: skip
    network = build_network(recipe.model, bands=3, classes=len(legend)).eval()
    return TrainedModel(network=network, card=card, sha256="0" * 64)


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--protocol", default="deeplabv3-os16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"machine": facts(), **measure(Path(folder), options)}, indent=2))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Seconds per image of both, and their ratio (bar 0.90)."""
    write_voc(folder / "VOC2012", options.images)
    data = open_benchmark("voc", folder / "VOC2012")
    model, examples = make_model(data.legend), data.examples("val")
    forward = PaddedForward.prepared(model, EngineSettings(precision=options.precision, device="cpu"))
    images = [read_normalised(example.image, BANDS) for example in examples]
    protocol = load_protocol(options.protocol).for_dataset("voc")
    turn = iter(range(10**6))

    def evaluate() -> None:
        work = folder / f"work{next(turn)}"
        work.mkdir()
        run = ImageRun(
            benchmark=data, examples=examples, bands=BANDS, net=forward,
            protocol=protocol, folder=work / "predictions", still=Unchanged([]),
        )  # fmt: skip
        tally = Tally(ConfusionMatrix(len(data.legend)), keep=10)
        run.run(Journal.open(work / "journal.jsonl", {}), tally, silent)

    def bare() -> None:
        for image in images:
            forward.forward(image[None])

    works: dict[str, Callable[[], object]] = {"evaluate": evaluate, "bare forward": bare}
    interleaved(1, works)  # numba's kernels compile, memory warms up
    times = interleaved(options.rounds, works)
    medians = {name: statistics.median(seen) / options.images for name, seen in times.items()}
    return {
        "images": options.images,
        "rounds": options.rounds,
        "protocol": options.protocol,
        "precision": options.precision,
        "seconds per image": medians,
        "share of the bare forward's throughput (bar 0.90)": medians["bare forward"] / medians["evaluate"],
    }


if __name__ == "__main__":
    main()
