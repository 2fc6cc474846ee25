"""Settings of jobs whose outputs are looked at, and what lies in a folder."""

from __future__ import annotations

from pathlib import Path

from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings

MODEL = Path("any.safetensors")
TILE = TileSettings(chip_size=32, labels=LabelSettings(class_field="kind"), val="0", test="0", overwrite=True)
EAGER = PredictSettings(engine="eager", precision="fp32", device="cpu")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
