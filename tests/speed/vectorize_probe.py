"""Peak memory of one vectorising above what the process held before it (see vectorize.py).

python tests/speed/vectorize_probe.py MASK OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from memory_probe import forget_peak, status_mib

from aerial_seg import VectorizeSettings, vectorize
from aerial_seg.vectors.from_mask.settings import LayerSettings


def main() -> None:
    """Print one JSON line."""
    mask, out = Path(sys.argv[1]), Path(sys.argv[2])
    settings = VectorizeSettings(classes=("all",), layer=LayerSettings(overwrite=True))
    small = out.with_name("small.tif")
    with rasterio.open(mask) as source:
        profile = {**source.profile, "height": 300, "width": 300, "driver": "GTiff"}
        with rasterio.open(small, "w", **profile) as file:
            file.write(np.tile(np.arange(300, dtype=np.uint8) // 60, (300, 1)), 1)
    vectorize(small, out, settings)
    forget_peak()
    before = status_mib("VmRSS")
    report = vectorize(mask, out, settings)
    print(json.dumps({"peak_mib": status_mib("VmHWM") - before, "polygons": report.polygons}))


if __name__ == "__main__":
    main()
