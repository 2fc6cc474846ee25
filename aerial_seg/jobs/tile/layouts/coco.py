"""COCO: the regions of the classes as polygons in pixels, one JSON document per split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from shapely import Polygon, box

from aerial_seg.labels.chip_file import label_channels, read_label_chip
from aerial_seg.legend import IGNORE
from aerial_seg.training.manifest import SPLITS, Chip, Manifest

FOLDER = "annotations"


def write_coco(manifest: Manifest) -> tuple[str, ...]:
    """annotations/{train,val,test}.json tell of the images in `images`; returns notes.

    An annotation is a 4-connected region of one class in one chip; polygons run along the edges of pixels. Background
    classes have none. COCO knows no holes: a region around one is several polygons side by side, which together are it.
    """
    (manifest.root / FOLDER).mkdir()
    legend, totals = manifest.document.legend, {"annotations": 0, "unlabelled": 0}
    for split in SPLITS:
        _write_split(manifest, split, totals)
    told = f"{FOLDER}/ holds {totals['annotations']:,} polygons of COCO, of 4-connected regions"
    background = [entry.name for entry in legend.entries if entry.background]
    if background:
        told += f"; none of {', '.join(background)}, which is background"
    if not totals["unlabelled"]:
        return (told,)
    return (
        told,
        f"COCO has no word for the {totals['unlabelled']:,} pixels that are unlabelled or not measured: they are told "
        "per image (unlabelled_px), and programs will take them for background",
    )


def _write_split(manifest: Manifest, split: str, totals: dict[str, int]) -> None:
    """Regions go to the file as they are found: there may be millions."""
    document, chips = manifest.document, manifest.split(split)
    head = {
        "info": {
            "description": f"{split} chips",
            "version": document.fingerprint[:16],
            "contributor": "aerial-seg",
        },
        "licenses": [],
        "categories": [
            {"id": k, "name": entry.name, "supercategory": ""}
            for k, entry in enumerate(document.legend.entries, start=1)
            if not entry.background
        ],
    }
    images: list[dict[str, Any]] = []
    with (manifest.root / FOLDER / f"{split}.json").open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "annotations": [')
        before = 0
        for number, chip in enumerate(chips, start=1):
            channels = _channels(chip, manifest)
            unlabelled = int((channels == IGNORE).sum())
            images.append(_image(number, chip, document.chip_size, unlabelled))
            totals["unlabelled"] += unlabelled
            for found in regions(channels, manifest):
                before += 1
                file.write(
                    (",\n" if before > 1 else "\n") + json.dumps({"id": before, "image_id": number, **found})
                )
        file.write('\n], "images": ' + json.dumps(images, ensure_ascii=False) + "}\n")
        totals["annotations"] += before


def _channels(chip: Chip, manifest: Manifest) -> NDArray[np.uint8]:
    values = read_label_chip(chip.labels, side=manifest.document.chip_size)
    return label_channels(values, manifest.document.legend, chip.labels)


def _image(number: int, chip: Chip, side: int, unlabelled: int) -> dict[str, Any]:
    assert isinstance(chip.image, Path)
    told = {"id": number, "file_name": chip.image.name, "width": side, "height": side}
    return told | {"unlabelled_px": unlabelled}


def regions(channels: NDArray[np.uint8], manifest: Manifest) -> Iterator[dict[str, Any]]:
    """What COCO tells of each region of a class that is no background, without numbers. channels (H,W), 255 = none."""
    background = [k for k, entry in enumerate(manifest.document.legend.entries) if entry.background]
    wanted = ~np.isin(channels, [*background, IGNORE])
    for shape, channel in shapes(channels, mask=wanted, connectivity=4):
        outline, *holes = shape["coordinates"]
        whole = Polygon(outline, holes)
        left, top, right, bottom = whole.bounds
        yield {
            "category_id": int(channel) + 1,
            "segmentation": [_flat(part) for part in without_holes(whole)],
            "area": whole.area,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
        }


def without_holes(whole: Polygon) -> list[Polygon]:
    """Polygons without holes that are the whole together, cut from north to south at the sides of holes."""
    waiting, done = [whole], []
    while waiting:
        polygon = waiting.pop()
        if not polygon.interiors:
            done.append(polygon)
            continue
        left, top, right, bottom = polygon.bounds
        sides = [hole.bounds[0] for hole in polygon.interiors]
        # Through the middle of many, so that there are few pieces of pieces.
        at = sorted(sides)[len(sides) // 2]
        for half in (box(left, top, at, bottom), box(at, top, right, bottom)):
            parts = shapely.get_parts(shapely.intersection(polygon, half))
            waiting += [part for part in parts if isinstance(part, Polygon)]
    return sorted(done, key=lambda one: one.bounds)


def _flat(polygon: Polygon) -> list[float]:
    """x and y in turn, the last corner not again the first."""
    return [number for corner in polygon.exterior.coords[:-1] for number in corner]
