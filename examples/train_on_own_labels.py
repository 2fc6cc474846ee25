"""Train a model on your own imagery and labels, and score it on ground that it never saw.

    python train_on_own_labels.py ortho.tif buildings.gpkg work
    python train_on_own_labels.py ortho.tif buildings.gpkg work my_recipe.toml

The folder `work` then holds `chips/` (the dataset) and `run/` (the model, its log and curves).
"""

from __future__ import annotations

import sys
from pathlib import Path

import aerial_seg

CHIP_SIZE = 256
"""Pixels of a chip's side; at least the recipe's crop."""


def train_and_score(ortho: str, labels: str, work: Path, recipe: str = "unet") -> aerial_seg.Scores:
    """The scores of the trained model on the test chips, whose ground no training chip touches."""
    chips, run = work / "chips", work / "run"
    # A quarter of the ground is for validation, a quarter for the test.
    settings = aerial_seg.TileSettings(chip_size=CHIP_SIZE, block=1, val="0.25", test="0.25")
    aerial_seg.tile([ortho], [labels], chips, settings)
    trained = aerial_seg.train(chips, aerial_seg.load_recipe(recipe), run)
    return aerial_seg.evaluate_model_on_chips(trained.model, chips, split="test").scores


if __name__ == "__main__":
    scores = train_and_score(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:5])
    for one in scores.classes:
        print(f"{one.name:<20} IoU {one.iou:.3f}  F1 {one.f1:.3f}")
    print(f"mIoU {scores.miou:.3f}, the mean of {scores.counted} classes")
