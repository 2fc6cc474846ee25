"""An item of STAC, as a map has it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from pyproj import CRS

from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE, Legend, make_legend
from aerial_seg.outputs.acquisition import Taken
from aerial_seg.outputs.maps import PROBABILITY_STEP
from aerial_seg.outputs.stac import Catalogued, item_name, write_item

if TYPE_CHECKING:
    pass


LEGEND = make_legend({0: "background", 1: "bâtiment léger", 7: "road"})
UTM = Grid(
    crs=CRS.from_epsg(32633), transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000), height=3000, width=4000
)

MOMENT = datetime(2024, 5, 3, 12, 0, tzinfo=timezone(timedelta(hours=2)))
TAKEN = Taken(MOMENT, MOMENT, "ACQUISITIONDATETIME of ortho.tif")
NAMES = ("map.tif", "map.tif.aux.xml", "map.qml", "map_confidence.tif", "map_probabilities.tif")


def item(
    folder: Path,
    grid: Grid = UTM,
    taken: Taken = TAKEN,
    legend: Legend = LEGEND,
    names: tuple[str, ...] = NAMES,
) -> dict[str, Any]:
    for name in (name for name in names if name.endswith(".tif")):
        count = len(legend) if "probabilities" in name else 1
        profile = {
            "driver": "GTiff",
            "width": 4,
            "height": 4,
            "count": count,
            "dtype": "uint8",
            "nodata": IGNORE,
        }
        with rasterio.open(folder / name, "w", transform=UTM.transform, **profile) as file:
            file.write(np.zeros((count, 4, 4), np.uint8))
            if name != names[0]:
                file.scales, file.offsets = [PROBABILITY_STEP] * count, [0.0] * count
    facts = Catalogued(
        files=[folder / name for name in names],
        grid=grid,
        legend=legend,
        taken=taken,
        sources=["ortho.tif"],
        parameters={"tile_size": 512},
    )
    assert item_name("map.tif") == "map.json"
    return json.loads(write_item(folder / item_name(names[0]), facts).read_text(encoding="utf-8"))
