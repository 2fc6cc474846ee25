"""Runs commands one after the other under a limit of memory, for test_every_odd_file.py.

A process of its own, because the limit holds for a whole process and a command that hangs must be killed. It makes
the models it is asked for, then reads one list of arguments per line as JSON and answers each with {"code", "out",
"err", "grown": how much memory beyond what it had before, at its peak, in bytes}.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from aerial_seg.bands import Band
from aerial_seg.cli.main import main
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings

ROOM = 3 * 2**30
"""Bytes of address space that a command may take beyond what the imported libraries have."""


def status(key: str) -> int:
    """A figure of this process in bytes, as Linux has it."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def make_model(
    path: Path, *, bands: int, dtype: str, gsd: float | None, encoder: str = "mobilenet_v2"
) -> None:
    """An untrained model for rasters of so many bands of this dtype; by default one that maps both its classes."""
    torch.manual_seed(bands)
    settings = ModelSettings(
        architecture="PSPNet", encoder=encoder, options={"psp_out_channels": 16}, weights="none"
    )
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=settings, prediction=PredictionSettings(tile_size=256, batch_size=1)),
        legend=make_legend({0: "background", 7: "road"}, background=[0]),
        bands=tuple(
            Band(name=f"band {b + 1}", dtype=dtype, mean=100, std=50, p2=0, p98=255) for b in range(bands)
        ),
        gsd=gsd,
        class_bias=(0.0, 0.0),
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    save_model(build_network(settings, bands=bands, classes=2).state_dict(), card, path)


def run(arguments: list[str]) -> dict[str, Any]:
    """What the command left behind; anything that is no exit is a traceback in `err`."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    # 5 sets the peak back to what is in use now.
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:  # noqa: BLE001 - the test wants to see it, whatever it is
            code = -1
            traceback.print_exc()
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "grown": status("VmHWM") - before}


def answer() -> None:
    """Answer until the commands end."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    limit = status("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        order = json.loads(line)
        wanted = order["model"]
        arguments: list[str] = order["arguments"]
        if wanted is not None:
            model = folder / f"{wanted['bands']}-{wanted['dtype']}-{wanted['gsd']}.safetensors"
            if not model.exists():
                # Loaded in a quarter of the time; which class a pixel gets is not asked of these maps.
                make_model(model, **wanted, encoder="tu-test_resnet")
            arguments = [str(model) if text == "MODEL" else text for text in arguments]
        print(json.dumps(run(arguments)), flush=True)


if __name__ == "__main__":
    answer()
