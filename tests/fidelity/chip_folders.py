"""Hold the folders that `tile --layout folders` makes to the code that reads them: mmsegmentation's and torchgeo's.

A script that is run by hand, in an environment of its own beside aerial-seg's packages:

    python -m venv --system-site-packages fidelity
    fidelity/bin/pip install "mmsegmentation==1.2.2" mmengine "mmcv-lite==2.1.0" ftfy regex opencv-python-headless
    fidelity/bin/pip install torchgeo
    fidelity/bin/python tests/fidelity/chip_folders.py

A drawn town with unmeasured ground and classes of values 0, 7 and 200 is cut into chips of 64 px whose outermost reach
beyond it. Both read the dataset by the code that its own README.md prints: mmsegmentation through its pipeline's
LoadImageFromFile and LoadAnnotations, torchgeo through the index of its intersection, chip by chip. Every array has to
equal what aerial-seg's manifest gives: images where they are measured, labels everywhere (class numbers, 255 = ignore).
A line for each reader and split: chips, pixels compared, pixels that differ. The script ends with 1 where one does.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
from affine import Affine
from shapely import box

from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.chip_file import label_channels, read_chip
from aerial_seg.labels.class_table import class_table
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.training.manifest import SPLITS, Chip, Manifest, open_manifest

SIDE = 64
PLACE = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)


class NoOperations(types.ModuleType):
    """Stands for mmcv's compiled module: whatever is asked of it can be imported, and is nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def make(folder: Path) -> Manifest:
    """The dataset."""
    height, width = 500, 570
    image = np.random.default_rng(0).integers(1, 255, (3, height, width)).astype(np.uint8)
    image[:, 100:180, 200:330] = 0
    with rasterio.open(folder / "town.tif", "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8",
                       crs="EPSG:32645", transform=PLACE, nodata=0) as file:  # fmt: skip
        file.write(image)
    roofs = [
        box(x, y, x + 7, y + 8) for x in range(300_000, 300_285, 14) for y in range(3_059_750, 3_060_000, 13)
    ]
    kinds = ["roof" if k % 3 else "road" for k in range(len(roofs))]
    frame = geopandas.GeoDataFrame({"kind": kinds}, geometry=roofs, crs="EPSG:32645")
    frame.to_file(folder / "labels.gpkg")
    labels = LabelSettings(class_field="kind", classes=class_table("0=background,7=roof,200=road"))
    settings = TileSettings(labels=labels, chip_size=SIDE, layout="folders", block=1)
    tile(folder / "town.tif", folder / "labels.gpkg", folder / "chips", settings)
    return open_manifest(folder / "chips")


def code_of(manifest: Manifest, title: str) -> str:
    """The code that the dataset's README.md prints below this title."""
    text = (manifest.root / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"## {title}\n\n```python\n(.*?)```", text, re.DOTALL)
    assert found, title
    return found.group(1)


def wanted(manifest: Manifest, chip: Chip) -> tuple[Any, Any, Any]:
    """Image (C,h,w), measured pixels and class numbers (h,w) of a chip."""
    image, valid, values = read_chip(chip.image, chip.labels)
    return image, valid, label_channels(values, manifest.document.legend, chip.labels)


def by_mmseg(manifest: Manifest, split: str) -> Iterator[tuple[str, Any, Any]]:
    """Name, image and labels of every chip of a split, as mmsegmentation's pipeline gives them."""
    # mmcv-lite has no compiled operations, and reading needs none.
    sys.modules.setdefault("mmcv._ext", NoOperations("mmcv._ext"))
    from mmcv.transforms import LoadImageFromFile
    from mmengine.registry import DefaultScope
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    del LoadAnnotations, LoadImageFromFile  # registered by their import
    space: dict[str, Any] = {}
    exec(code_of(manifest, "mmsegmentation"), space)
    settings = space["train_dataset"]
    assert settings.pop("type") == "BaseSegDataset"
    prefix = {key: value.replace("train/", f"{split}/") for key, value in settings.pop("data_prefix").items()}
    pipeline = [{"type": "mmcv.LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = BaseSegDataset(
            **{**settings, "data_root": str(manifest.root), "data_prefix": prefix}, pipeline=pipeline
        )
        for number in range(len(dataset)):
            sample = dataset[number]
            # OpenCV gives blue, green, red.
            image = sample["img"][..., ::-1].transpose(2, 0, 1)
            yield Path(sample["img_path"]).stem, image, sample["gt_seg_map"]


def by_torchgeo(manifest: Manifest, split: str) -> Iterator[tuple[str, Any, Any]]:
    """The same by torchgeo, asked for the ground of each chip."""
    space: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(manifest.root)
    try:
        exec(code_of(manifest, "torchgeo").replace("train/", f"{split}/"), space)
        dataset = space["train_dataset"]
        for chip in manifest.split(split):
            with rasterio.open(chip.labels) as file:
                bounds = file.bounds
            time = dataset.bounds[2]
            sample = dataset[bounds.left : bounds.right, bounds.bottom : bounds.top, time.start : time.stop]
            yield chip.name, sample["image"].numpy(), sample["mask"].numpy().squeeze()
    finally:
        os.chdir(before)


def main() -> int:
    warnings.simplefilter("ignore")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # of GeoTIFF's tags, which it does not know
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        manifest = make(Path(folder))
        for name, read in (("mmsegmentation", by_mmseg), ("torchgeo", by_torchgeo)):
            for split in SPLITS:
                chips = {chip.name: chip for chip in manifest.split(split)}
                seen, compared, differ = set(), 0, 0
                for stem, image, labels in read(manifest, split):
                    pixels, valid, numbers = wanted(manifest, chips[stem])
                    seen.add(stem)
                    if image.shape != pixels.shape or labels.shape != numbers.shape:
                        print(f"{stem}: {image.shape} and {labels.shape}, wanted {pixels.shape}")
                        failed = 1
                        continue
                    compared += int(valid.sum()) + numbers.size
                    differ += int((image != pixels)[:, valid].any(axis=0).sum() + (labels != numbers).sum())
                failed |= differ > 0 or seen != set(chips)
                print(
                    f"{name:15} {split:6} {len(seen)} of {len(chips)} chips, {compared:,} px, {differ} differ"
                )
    return failed


if __name__ == "__main__":
    sys.exit(main())
