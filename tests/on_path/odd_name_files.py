"""Files beside those that an odd name means, which must not be taken for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

from aerial_seg.legend import make_legend

DECOYS = (
    "keep.tif",
    "keep.gpkg",
    "keep.shp",
    "keep.dbf",
    "keep.geojson",
    "keep.fgb",
    "keep.csv",
    "b.gpkg",
    "b.tif",
)
"""Files of the user that no command may touch here."""


def kept(tmp_path: Path) -> dict[str, bytes]:
    return {name: (tmp_path / name).read_bytes() for name in DECOYS if (tmp_path / name).exists()}


def entries(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def mask_file(path: Path) -> None:
    """A mask of two classes, 8 × 8 px: class 1 are 16 px in the north-west and 12 in the south-east."""
    pixels = np.zeros((1, 8, 8), np.uint8)
    pixels[:, :4, :4] = pixels[:, 4:, 5:] = 1
    with rasterio.open(
        f"{path.parent}/{path.name}", "w", driver="GTiff", count=1, height=8, width=8, dtype="uint8", crs="EPSG:32633",
        transform=rasterio.Affine(1, 0, 500_000, 0, -1, 5_200_000),
    ) as file:  # fmt: skip
        file.write(pixels)
        file.update_tags(
            AERIAL_SEG_LEGEND=make_legend({0: "background", 1: "road"}, background=[0]).model_dump_json()
        )
