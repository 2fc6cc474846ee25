"""Plain folders {train,val,test}/{images,labels}, as torchgeo, mmsegmentation and most scripts read them."""

from __future__ import annotations

from pathlib import Path

from aerial_seg.files.work import link_or_copy
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.labels.chip_file import label_channels, read_label_chip, write_label_file
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.training.manifest import SPLITS, Chip, Manifest

README = "README.md"


def write_folders(manifest: Manifest) -> tuple[str, ...]:
    """Each split has a folder of images and one of labels, with files of equal names, and README.md tells of them.

    Images, and labels whose values are class numbers already, are second names of the dataset's own files where the
    disk knows such (hard links), else copies. Returns notes.
    """
    legend, copied = manifest.document.legend, 0
    numbered = _numbered(legend)
    for chip in manifest.chips:
        assert isinstance(chip.image, Path)
        image, labels = (
            manifest.root / chip.split / kind / f"{chip.name}.tif" for kind in ("images", "labels")
        )
        for folder in (image.parent, labels.parent):
            folder.mkdir(parents=True, exist_ok=True)
        copied += link_or_copy(chip.image, image)
        if numbered == legend:
            copied += link_or_copy(chip.labels, labels)
        else:
            _write_numbers(chip, labels, numbered, manifest)
    (manifest.root / README).write_text(_readme(manifest, numbered), encoding="utf-8", newline="\n")
    told = [f"{'/'.join(SPLITS)} hold the chips once more for other programs, see {README}"]
    if copied:
        told.append(f"{copied} files were copied for that: this disk has no second names for files")
    return tuple(told)


def _numbered(legend: Legend) -> Legend:
    """The classes with the numbers 0, 1, … as values, which other programs expect."""
    entries = tuple(entry.model_copy(update={"value": k}) for k, entry in enumerate(legend.entries))
    return legend if entries == legend.entries else Legend(entries=entries)


def _write_numbers(chip: Chip, path: Path, numbered: Legend, manifest: Manifest) -> None:
    values = read_label_chip(chip.labels, side=manifest.document.chip_size)
    with Raster(chip.labels, georeferenced=False) as raster:
        grid = raster.grid
    write_label_file(path, label_channels(values, manifest.document.legend, chip.labels), grid, numbered)


def _readme(manifest: Manifest, numbered: Legend) -> str:
    document = manifest.document
    counts = ", ".join(f"{len(manifest.split(split))} {split}" for split in SPLITS)
    rows = "\n".join(
        f"| {entry.value} | {entry.name} | {entry.colour} |{' yes' if entry.background else ''} |"
        for entry in numbered.entries
    )
    names = ", ".join(map(repr, numbered.names))
    palette = ", ".join(str(list(entry.rgb)) for entry in numbered.entries)
    bands = ", ".join(f"{band.name} ({band.dtype})" for band in document.bands)
    mean = ", ".join(f"{band.mean:.6g}" for band in document.bands)
    std = ", ".join(f"{band.std:.6g}" for band in document.bands)
    return f"""# Chips in plain folders

{counts} chips of {document.chip_size} px: `SPLIT/images/NAME.tif` and `SPLIT/labels/NAME.tif`, SPLIT being train, val
or test. Chips of different splits share no ground. Written by aerial-seg {document.tool_version}, whose own layout lies
beside it (`dataset.json`, `chips.gpkg`, `images`, `labels`); where the disk allows it both name the same files.

Images: {bands}. Pixels that were not measured are masked inside the file, and {IGNORE} in the labels.
Mean and standard deviation over valid training pixels: [{mean}] and [{std}].

Labels: one band of class numbers with a palette; {IGNORE}, also their nodata value, is unlabelled: to be ignored by
losses and scores.

| number | class | colour | background |
|---|---|---|---|
{rows}

## mmsegmentation

```python
train_dataset = dict(
    type="BaseSegDataset",
    data_root=".",  # this folder
    data_prefix=dict(img_path="train/images", seg_map_path="train/labels"),
    img_suffix=".tif",
    seg_map_suffix=".tif",
    reduce_zero_label=False,
    ignore_index={IGNORE},
    metainfo=dict(classes=({names},), palette=[{palette}]),
)
```

## torchgeo

```python
from torchgeo.datasets import RasterDataset

class Images(RasterDataset):
    filename_glob = "*.tif"

class Labels(RasterDataset):
    filename_glob = "*.tif"
    is_image = False

train_dataset = Images("train/images") & Labels("train/labels")
```
"""
