"""Seconds and peak memory of rasters whose size, band count or claims are odd: work follows what is there.

    python tests/speed/odd_sizes.py [--only NAME …] [--limit 300]

Names: area (a sparse VRT of 300,000² predicted with --bounds of 900 px, its mask looked at and vectorized), bands
(3,000 bands looked at, and predicted with --bidx), claims (a TIFF of 1 MB that claims 200,000² and holds nothing).
Each command runs in a process of its own; its seconds include some 4 s of importing torch. To be run alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from many_scenes import write_model
from rasterio.transform import from_origin

WEST, NORTH = 300_000.0, 6_000_000.0
PLACE = {
    "driver": "GTiff",
    "dtype": "uint8",
    "crs": "EPSG:32633",
    "transform": from_origin(WEST, NORTH, 1, 1),
}


def write_sparse_vrt(folder: Path) -> Path:
    """A file of 1,200² px in the middle of 300,000²."""
    member, left, top = folder / "member.tif", 150_000, 149_000
    image = np.random.default_rng(0).integers(1, 255, (3, 1200, 1200), dtype=np.uint8)
    with rasterio.open(member, "w", count=3, height=1200, width=1200, nodata=0, **PLACE) as file:
        file.write(image)
        wkt = file.crs.to_wkt()
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{b}"><NoDataValue>0</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">member.tif</SourceFilename><SourceBand>{b}</SourceBand>'
        '<SrcRect xOff="0" yOff="0" xSize="1200" ySize="1200"/>'
        f'<DstRect xOff="{left}" yOff="{top}" xSize="1200" ySize="1200"/></SimpleSource></VRTRasterBand>'
        for b in (1, 2, 3)
    )
    vrt = folder / "sparse.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="300000" rasterYSize="300000"><SRS>{wkt}</SRS>'
        f"<GeoTransform>{WEST}, 1, 0, {NORTH}, 0, -1</GeoTransform>{bands}</VRTDataset>"
    )
    return vrt


def write_bands(path: Path) -> Path:
    """3,000 bands of 100² px."""
    image = np.random.default_rng(0).integers(1, 255, (3000, 100, 100), dtype=np.uint8)
    with rasterio.open(path, "w", count=3000, height=100, width=100, interleave="band", **PLACE) as file:
        file.write(image)
    return path


def write_claims(path: Path, bands: int) -> Path:
    """200,000² px in blocks of 512², none of which is written."""
    blocks = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "SPARSE_OK": True}
    with rasterio.open(path, "w", count=bands, height=200_000, width=200_000, **blocks, **PLACE):
        pass
    return path


COMMAND = """
import atexit, sys
atexit.register(lambda: print(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")), file=sys.stderr))
from aerial_seg.cli.main import main
main()
"""


def measured(name: str, limit: int, *arguments: object) -> dict[str, object]:
    """One command: seconds, peak MiB, exit code and last line."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", COMMAND, *map(str, arguments)],
            capture_output=True, text=True, timeout=limit, check=False,
        )  # fmt: skip
        *said, peak = done.stderr.strip().splitlines()
        code, peak_mib = str(done.returncode), int(peak.split()[1]) // 1024
    except subprocess.TimeoutExpired:
        code, said, peak_mib = f"over {limit} s", [], 0
    seconds = time.perf_counter() - start
    return {"what": name, "seconds": round(seconds, 1), "peak_mib": peak_mib, "exit": code, "said": said[-1:]}


def main() -> None:
    """Print a JSON line for each command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=["area", "bands", "claims"])
    parser.add_argument("--limit", type=int, default=300)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, mask = write_model(folder / "m.safetensors", tile_size=512), folder / "mask.tif"
        commands: list[tuple[object, ...]] = []
        if "claims" in asked.only:
            one, three = write_claims(folder / "one.tif", 1), write_claims(folder / "three.tif", 3)
            commands += [("info", three), ("predict", model, three, "-o", folder / "claims.tif")]
            commands += [("vectorize", one, folder / "claims.gpkg", "--classes", "all")]
        if "bands" in asked.only:
            bands = write_bands(folder / "bands.tif")
            commands += [("info", bands)]
            commands += [("predict", model, bands, "-o", folder / "b.tif", "--bidx", "10,20,30")]
        if "area" in asked.only:
            vrt = write_sparse_vrt(folder)
            bounds = "--bounds", WEST + 150_150, NORTH - 150_050, WEST + 151_050, NORTH - 149_150
            commands += [("info", vrt), ("predict", model, vrt, "-o", mask, *bounds)]
            commands += [("info", mask), ("vectorize", mask, folder / "m.gpkg", "--classes", "all")]
        for command in commands:
            names = (Path(str(part)).name for part in command[:3])
            print(json.dumps(measured(" ".join(names), asked.limit, *command)), flush=True)


if __name__ == "__main__":
    main()
