"""Array in, polygons out: run a model on pixels that lie in memory.

    python array_to_polygons.py run/best.safetensors photo.tif polygons.gpkg

The array is read from a file here; yours may come from a camera, a web service or a computation. An array has no
place on earth, so its polygons are in pixels. Hand the open raster to the segmenter instead, and they lie on the map.
"""

from __future__ import annotations

import sys

import geopandas
import rasterio

import aerial_seg


def polygons_of(model: str, photo: str) -> geopandas.GeoDataFrame:
    """The polygons of all classes but the background, one row each."""
    segmenter = aerial_seg.load(model)
    with rasterio.open(photo) as file:
        array = file.read()  # (C,H,W), in the values that the model was trained on
    return segmenter(array).polygons()


if __name__ == "__main__":
    polygons = polygons_of(sys.argv[1], sys.argv[2])
    polygons.to_file(sys.argv[3])
    print(f"{len(polygons)} polygons in {sys.argv[3]}")
