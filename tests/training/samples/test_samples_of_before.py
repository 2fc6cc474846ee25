"""Recipes of before have the samples that they had: a run that goes on sees what it would have seen."""

from __future__ import annotations

import hashlib

import pytest
import torch
from made_chips import MadeReader

from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.samples.chip_store import ChipStore

SETTINGS = {
    "still": AugmentationSettings(scale=(1, 1)),
    "default": AugmentationSettings(),
    "padded": AugmentationSettings(scale=(0.3, 1.2), stay_inside=False, flips="horizontal", rot90=False),
    "paper": AugmentationSettings(
        scale=(0.5, 2),
        stay_inside=False,
        flips="horizontal",
        rot90=False,
        brightness=0.56,
        contrast=0.5,
        band_noise=0,
    ),
    "turned": AugmentationSettings(rotation=20, aspect=0.15, scale=(0.4, 2)),
    "framed": AugmentationSettings(
        rotation=15, stay_inside=False, scale=(0.3, 2), cat_max_ratio=0.75, blur=0.5
    ),
}
# Made by the code before rotation, blur and the other changes that recipes have since.
BEFORE: dict[tuple[str, str, int, float], str] = {
    ("still", "uint8", 3, 0.0): "5e85396121c7a416",
    ("still", "uint8", 1, 0.3): "f553145e40b1f1f0",
    ("still", "uint16", 5, 0.0): "89e2e498d50e31a7",
    ("still", "float32", 4, 0.3): "360431020fe325b1",
    ("default", "uint8", 3, 0.0): "d8e3fb501f5ea20c",
    ("default", "uint8", 1, 0.3): "0b40447cf5ee9ec5",
    ("default", "uint16", 5, 0.0): "b192665d341f4c7a",
    ("default", "float32", 4, 0.3): "f15dcba279f4d49a",
    ("padded", "uint8", 3, 0.0): "1bbe2181b8653bbd",
    ("padded", "uint8", 1, 0.3): "02bb8917b3512d5f",
    ("padded", "uint16", 5, 0.0): "8713446a1ad61211",
    ("padded", "float32", 4, 0.3): "e2f96871c69cf2e3",
    ("paper", "uint8", 3, 0.0): "fc51642675e780c0",
    ("paper", "uint8", 1, 0.3): "520815666de62939",
    ("paper", "uint16", 5, 0.0): "a97b836cd2800c76",
    ("paper", "float32", 4, 0.3): "418cb03e7e33a8ba",
    # By the code that knew only squares.
    ("turned", "uint8", 3, 0.0): "f381c673b1828043",
    ("turned", "float32", 2, 0.3): "e1452169b92a4f71",
    ("framed", "uint8", 3, 0.0): "bfbf457252644344",
    ("framed", "float32", 2, 0.3): "f2187a2095b9cea5",
}


@pytest.mark.parametrize(("name", "dtype", "bands", "holes"), BEFORE)
def test_samples_are_those_of_before(name: str, dtype: str, bands: int, holes: float) -> None:
    """Places, labels, gaps and light of all; pixels where nothing is interpolated, which processors round apart."""
    reader = MadeReader([(40, 40), (31, 57), (64, 64)], dtype=dtype, count=bands, holes=holes)
    crops = CropDataset(ChipStore(reader), length=60, crop=24, augmentation=SETTINGS[name], seed=7)
    layout = crops.layout(60)
    batch = layout.split(torch.zeros(layout.size, dtype=torch.uint8))
    told = [crops.fill(batch, range(60)), [crops.chip_of(k) for k in range(60)]]
    digest = hashlib.sha256(repr(told).encode())
    parts = [batch.labels, batch.measured, batch.light, *([batch.images] if name == "still" else [])]
    for part in parts:
        digest.update(part.numpy().tobytes())
    assert digest.hexdigest()[:16] == BEFORE[name, dtype, bands, holes]
