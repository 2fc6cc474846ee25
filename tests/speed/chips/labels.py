"""What polygons cost as labels: peak memory and CPU seconds, for more and more of them around the same small image.

    python tests/speed/chips/labels.py [--polygons 400000]

Memory is to be flat in the polygons that lie elsewhere, and nearly so in those that meet the imagery: 52 bytes each are
kept, the geometries lie in a file. Before the door was one (0.1.0), 400,000 polygons cost 580 MB for 256 × 256 pixels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyogrio.raw
import shapely

SPACING, SIDE = 20.0, 12.0
FORMATS = {"gpkg": "GPKG", "shp": "ESRI Shapefile", "fgb": "FlatGeobuf", "geojson": "GeoJSON"}

PROBE = """
import json, sys, time
import numpy as np
from affine import Affine
from pyproj import CRS
from aerial_seg.geo.grid import Grid
from aerial_seg.labels.labels import open_labels
from aerial_seg.labels.settings import LabelSettings
from pathlib import Path
path, side, chip = sys.argv[1], int(sys.argv[2]), 512
# Not ru_maxrss, which begins with what the process was forked from.
kib = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
grid = Grid(CRS(32645), Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), side, side)
before, begun = kib(), time.process_time()
labels = open_labels([Path(path)], LabelSettings(class_field="kind"), near=[grid])
opened = time.process_time()
pixels = 0
for top in range(0, side, chip):
    for left in range(0, side, chip):
        size = min(chip, side)
        pixels += int((labels.burn(grid.window(top=top, left=left, height=size, width=size)) != 0).sum())
print(json.dumps({"MB": (kib() - before) / 1024, "open": opened - begun, "burn": time.process_time() - opened,
                  "pixels": pixels}))
"""


def write(path: Path, count: int) -> int:
    """Squares on a lattice from the image's corner; how many pixels of half a metre its side has."""
    across = int(np.ceil(np.sqrt(count)))
    row, col = np.divmod(np.arange(count), across)
    x, y = 300_000 + SPACING * col + 2, 3_060_000 - SPACING * row - 2
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(shapely.box(x, y - SIDE, x + SIDE, y)),
        field_data=[np.array([f"class {k % 5}" for k in range(count)], object)],
        fields=["kind"],
        geometry_type="Polygon",
        crs="EPSG:32645",
        driver=FORMATS[path.suffix[1:]],
    )
    return int(across * SPACING / 0.5)


def probe(path: Path, side: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", PROBE, str(path), str(side)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--polygons", type=int, default=400_000)
    parser.add_argument("--formats", default="gpkg,shp,fgb,geojson")
    most = parser.parse_args()
    print(f"{'format':8} {'polygons':>9} {'image':>12} {'peak MB':>8} {'open s':>7} {'burn s':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for kind in most.formats.split(","):
            for count in (1000, most.polygons // 8, most.polygons):
                path = Path(folder) / f"l{count}.{kind}"
                whole = write(path, count)
                sides = (256, whole) if kind == "gpkg" and whole * whole < 4e8 else (256,)
                for side in sides:
                    found = probe(path, side)
                    figures = f"{found['MB']:8.0f} {found['open']:7.2f} {found['burn']:7.2f}"
                    print(f"{kind:8} {count:9,} {side:6}²      {figures}", flush=True)


if __name__ == "__main__":
    main()
