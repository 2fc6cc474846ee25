"""Map a folder of orthophotos and write the polygons of each map as a Shapefile.

    python predict_folder_to_shapefiles.py run/best.safetensors orthophotos maps

A photo that cannot be mapped does not stop the others. After an interruption run it again: what is finished stays, and
a map that was begun goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import aerial_seg

SMALLEST = aerial_seg.Measure(25, "m2")
"""Patches below this join their neighbour before polygons are drawn."""


def map_folder(model: Path, photos: Path, maps: Path) -> Iterator[str]:
    """Writes maps/NAME.tif and maps/NAME.shp of every photos/NAME.tif, and yields a line on each."""
    maps.mkdir(parents=True, exist_ok=True)
    shapes = aerial_seg.VectorizeSettings(clean=aerial_seg.CleanSettings(min_area=SMALLEST))
    for photo in sorted(photos.glob("*.tif")):
        mask, shapefile = maps / photo.name, maps / f"{photo.stem}.shp"
        if shapefile.exists():
            yield f"{photo.name}: there already"
            continue
        try:
            if not mask.exists():
                aerial_seg.predict(model, [str(photo)], mask, aerial_seg.PredictSettings())
            report = aerial_seg.vectorize(mask, shapefile, shapes)
        except aerial_seg.InputError as error:
            yield f"{photo.name}: not mapped: {error}"
        else:
            yield f"{photo.name}: {report.polygons} polygons in {shapefile}"


if __name__ == "__main__":
    for line in map_folder(*map(Path, sys.argv[1:4])):
        print(line)
