"""The loop that a practitioner would write: what a recipe of ours has to be as good as.

    python tests/speed/learning/plain_loop.py CHIPS -o MODEL.safetensors --iterations 800 [--seed 0]

U-Net with a ResNet-18 of segmentation_models_pytorch from scratch, AdamW, cosine to 0, cross-entropy, random crops of
256, flips and quarter turns. No validation, no schedule of its own, no average of weights, no calibration: it learns
from every chip (of the splits train and val) and ships the last weights at threshold 0.5. The four numbers below were
written down before any recipe was tuned against it, and stay as they are: the rate and the batch are what such loops
begin with, the decay is torch's default. CHIPS is what `tile` wrote; the model file is one of ours, so that `predict`
maps both alike and only the training differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.training.chip_dataset import ChipDataset
from aerial_seg.training.manifest import open_manifest
from aerial_seg.version import __version__

LEARNING_RATE = 1e-3
BATCH = 8
WEIGHT_DECAY = 1e-2
CROP = 256


def read_all(chips: Path) -> list[tuple[Tensor, Tensor]]:
    """Every chip that is no test chip, in memory."""
    manifest = open_manifest(chips)
    splits = [split for split in ("train", "val") if manifest.split(split)]
    return [(image, labels) for split in splits for image, labels in ChipDataset(chips, split)]  # type: ignore[arg-type]


def batches(
    samples: list[tuple[Tensor, Tensor]], iterations: int, batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """images (N,C,256,256) and labels (N,256,256): each chip once before any comes again."""
    random = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    for _ in range(iterations):
        chosen = []
        for _ in range(batch):
            queue = queue or torch.randperm(len(samples), generator=random).tolist()
            chosen.append(augment(*samples[queue.pop()], random))
        yield torch.stack([image for image, _ in chosen]), torch.stack([labels for _, labels in chosen])


def augment(image: Tensor, labels: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random crop, flipped and turned by chance; smaller chips are filled up with what is ignored."""
    down, right = (max(0, CROP - side) for side in labels.shape)
    if down or right:
        image = torch.nn.functional.pad(image, (0, right, 0, down))
        labels = torch.nn.functional.pad(labels, (0, right, 0, down), value=255)
    height, width = labels.shape
    top = int(torch.randint(height - CROP + 1, (), generator=random))
    left = int(torch.randint(width - CROP + 1, (), generator=random))
    both = torch.cat([image, labels[None].float()])[:, top : top + CROP, left : left + CROP]
    for axis in (1, 2):
        if torch.rand((), generator=random) < 0.5:
            both = both.flip(axis)
    both = torch.rot90(both, int(torch.randint(4, (), generator=random)), (1, 2))
    return both[:-1], both[-1].long()


def train_plain(chips: Path, model: Path, *, iterations: int, seed: int, batch: int = BATCH) -> None:
    """The model file lies at `model`, trained on the CPU. batch: smaller ones are a stronger rival in a short run."""
    document = open_manifest(chips).document
    torch.manual_seed(seed)
    network = smp.Unet(
        "resnet18", encoder_weights=None, in_channels=len(document.bands), classes=len(document.legend)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=iterations)
    network.train()
    for images, labels in batches(read_all(chips), iterations, batch, seed):
        loss = torch.nn.functional.cross_entropy(network(images), labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    save(network, chips, model, iterations)


def save(network: torch.nn.Module, chips: Path, model: Path, iterations: int) -> None:
    """The weights under a card that builds the same network again."""
    document = open_manifest(chips).document
    settings = ModelSettings(architecture="Unet", encoder="resnet18")
    built = build_network(settings, bands=len(document.bands), classes=len(document.legend))
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    built.load_state_dict(state)
    card = ModelCard(
        tool_version=__version__,
        recipe=Recipe(model=settings, prediction=PredictionSettings(tile_size=CROP)),
        legend=document.legend,
        bands=document.bands,
        gsd=document.gsd,
        class_bias=(0.0,) * len(document.legend),
        iteration=iterations,
        validation_miou=None,
        data_fingerprint=document.fingerprint,
    )
    save_model(built.state_dict(), card, model)


def main() -> None:
    """Train, and say where the model lies."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chips", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train_plain(options.chips, options.output, iterations=options.iterations, seed=options.seed)
    print(f"{options.output}: {options.iterations} iterations", file=sys.stderr)


if __name__ == "__main__":
    main()
