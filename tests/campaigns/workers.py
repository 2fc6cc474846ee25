"""Kills workers and drivers of `predict --workers` at random moments: bytes stay equal, nothing is left behind.

Run by hand: python tests/campaigns/workers.py --workers-killed 30 --drivers-killed 10
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import rasterio
import torch
from rasterio.transform import from_origin

from aerial_seg.bands import Band
from aerial_seg.legend import legend_from_colormap
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.version import __version__

SECONDS = 900
"""More than any run needs."""
OPTIONS = ("--confidence", "--engine", "eager", "--precision", "fp32", "--device", "cpu")


def make_inputs(folder: Path, height: int) -> None:
    """A model and a raster, with unmeasured ground."""
    torch.manual_seed(1)
    legend = legend_from_colormap(["grass", "road", "water"], {})
    bands = tuple(
        Band(name=name, dtype="uint8", mean=120.0, std=60.0, p2=10, p98=240) for name in ("red", "green")
    )
    made = ModelSettings(architecture="fcn", encoder="resnet18", output_stride=16, head_channels=8)
    card = ModelCard(
        tool_version=__version__,
        recipe=Recipe(model=made, prediction=PredictionSettings(tile_size=128)),
        legend=legend,
        bands=bands,
        gsd=None,
        class_bias=(0.0,) * 3,
        iteration=0,
        validation_miou=None,
        data_fingerprint="",
    )
    save_model(build_network(made, bands=2, classes=3).state_dict(), card, folder / "model.safetensors")
    image = np.random.default_rng(1).integers(1, 256, (2, -(-height // 16), 20), dtype=np.uint8)
    image = image.repeat(16, 1).repeat(16, 2)[:, :height]
    image[:, 300:700, :100] = 0
    place = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5e6, 1, 1), "nodata": 0}
    size = {"count": 2, "height": height, "width": image.shape[2], "dtype": "uint8"}
    with rasterio.open(folder / "in.tif", "w", driver="GTiff", **size, **place) as file:
        file.write(image)


def start(folder: Path, out: str, *more: str) -> subprocess.Popen[str]:
    """The command, on one thread for each network."""
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; from aerial_seg.cli.main import main; sys.exit(main())",
    ]
    words = ["predict", "model.safetensors", "in.tif", "-o", f"{out}/map.tif", *OPTIONS, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "AERIAL_SEG_CAMPAIGN": out}
    return subprocess.Popen(
        [*command, *words],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def workers_of(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that the driver started for its workers."""
    try:
        below = psutil.Process(driver.pid).children(recursive=True)
        return [one for one in below if "spawn_main" in " ".join(one.cmdline())]
    except psutil.Error:
        return []


def tree(folder: Path) -> dict[str, bytes]:
    """Names and bytes of what lies there."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def play(folder: Path, name: str, *, workers: int, drivers: int, chance: random.Random) -> str:
    """One map under so many kills; returns what to say of it. Raises AssertionError where a byte differs."""
    killed, begun = 0, 0
    while True:
        driver, start_time = start(folder, name, "--workers", "2"), time.monotonic()
        begun += 1
        end = chance.uniform(5, 40) if begun <= drivers else SECONDS
        next_kill = chance.uniform(5, 30)
        own: list[psutil.Process] = []
        while driver.poll() is None and (passed := time.monotonic() - start_time) < end:
            time.sleep(0.2)
            own = workers_of(driver) or own
            alive = [one for one in own if one.is_running()]
            if killed < workers and passed > next_kill and alive:
                chance.choice(alive).kill()
                killed, next_kill = killed + 1, passed + chance.uniform(5, 30)
        if driver.poll() is None:
            assert begun <= drivers, "it hangs"
            driver.kill()
        said, _ = driver.communicate()
        gone, left = psutil.wait_procs(own, timeout=60)
        del gone
        assert not left, f"{len(left)} workers outlived the run"
        if driver.returncode == 0:
            break
        assert driver.returncode < 0, said
    assert tree(folder / name) == tree(folder / "calm"), "bytes differ"
    assert [path.name for path in (folder / name).iterdir() if path.is_dir()] == []
    return f"{name}: {killed} workers and {begun - 1} drivers killed, bytes equal"


def main() -> int:
    """0 if all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers-killed", type=int, default=30)
    parser.add_argument("--drivers-killed", type=int, default=10)
    parser.add_argument("--height", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, asked.height)
        calm = start(folder, "calm")
        said, _ = calm.communicate(timeout=SECONDS)
        assert calm.returncode == 0, said
        chance = random.Random(asked.seed)
        print(
            play(folder, "killed", workers=asked.workers_killed, drivers=asked.drivers_killed, chance=chance)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
