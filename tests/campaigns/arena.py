"""Commands on tiny data, each in a forked process that may be killed at any moment: for kills.py and full_disk.py.

Forking is safe only before any thread has begun, so everything is imported first and nothing is computed here but the
inputs, in a forked process of their own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torchvision

import aerial_seg.cli.benchmark
import aerial_seg.cli.export
import aerial_seg.cli.import_weights
import aerial_seg.cli.predict
import aerial_seg.cli.tile
import aerial_seg.cli.train
import aerial_seg.cli.vectorize  # noqa: F401
from aerial_seg.bands import Band
from aerial_seg.benchmarks.catalogue import open_benchmark
from aerial_seg.cli.main import main
from aerial_seg.errors import AerialSegError
from aerial_seg.jobs import demo as demo_room
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train import job as train_room  # noqa: F401 - before anything is forked
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import Legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, load_model, save_model
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.synthetic.town import TOWN_LEGEND, make_town, write_town
from aerial_seg.version import __version__

SECONDS = 300
"""More than any run needs: one that hangs is a failure, not a wait."""

Tree = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A command. arguments: with {inputs} for the folder of the inputs and {out} for that of the outputs.

    older: arguments that make another result of the same names first, for the half of the runs that replace one.
    in_place: whether it writes where the result is to lie from its beginning on, so that what lies there is a result
    only when it has ended; its models are whole at any moment all the same.
    """

    name: str
    arguments: tuple[str, ...]
    older: tuple[str, ...] | None = None
    in_place: bool = False


CASES = {
    "predict-vectors": Case(
        "predict-vectors",
        ("predict", "{inputs}/model.safetensors", "{inputs}/scene/image.tif", "-o", "{out}/map.tif", "--confidence",
         "--vectors", "{out}/map.gpkg", "--engine", "eager", "--precision", "fp32", "--device", "cpu"),
        ("predict", "{inputs}/model.safetensors", "{inputs}/small/image.tif", "-o", "{out}/map.tif", "--confidence",
         "--vectors", "{out}/map.gpkg", "--engine", "eager", "--precision", "fp32", "--device", "cpu"),
    ),
    "vectorize": Case(
        "vectorize",
        ("vectorize", "{inputs}/scene/truth.tif", "{out}/map.shp", "--classes", "all", "--simplify", "0px"),
        ("vectorize", "{inputs}/small/truth.tif", "{out}/map.shp", "--classes", "all", "--simplify", "0px"),
    ),
    "tile": Case(
        "tile",
        ("tile", "{inputs}/scene/image.tif", "--labels", "{inputs}/scene/labels.gpkg", "--class-field", "class",
         "--chip-size", "64", "-o", "{out}/chips"),
        ("tile", "{inputs}/small/image.tif", "--labels", "{inputs}/small/labels.gpkg", "--class-field", "class",
         "--chip-size", "64", "-o", "{out}/chips"),
    ),
    "export": Case(
        "export",
        ("export", "{inputs}/model.safetensors", "-o", "{out}/model.onnx"),
        ("export", "{inputs}/model.safetensors", "-o", "{out}/model.onnx", "--logits"),
    ),
    "import-weights": Case(
        "import-weights",
        ("import-weights", "{inputs}/checkpoint.pth", "--from", "torchvision", "-o", "{out}/model.safetensors"),
        ("import-weights", "{inputs}/older.pth", "--from", "torchvision", "-o", "{out}/model.safetensors"),
    ),
    "benchmark": Case(
        "benchmark",
        ("benchmark", "voc", "{inputs}/VOC2012", "--model", "{inputs}/voc.safetensors", "-o", "{out}/result",
         "--device", "cpu"),
    ),
    "train": Case(
        "train",
        ("train", "{inputs}/chips", "--recipe", "{inputs}/recipe.toml", "-o", "{out}/run", "--device", "cpu",
         "--checkpoint-every", "0.3s", "--no-tensorboard"),  # whose files are named by time and process
        ("train", "{inputs}/chips", "--recipe", "{inputs}/older.toml", "-o", "{out}/run", "--device", "cpu",
         "--no-tensorboard"),
        in_place=True,
    ),
    "demo": Case("demo", ("demo", "{out}/demo")),
}  # fmt: skip


def make_inputs(folder: Path) -> None:
    """Scenes, models, a checkpoint and a benchmark: all that the commands read."""
    for name, seed, side in (("scene", 5, 1024), ("small", 6, 512)):
        write_town(make_town(seed, height=side, width=side), folder / name)
    bands = tuple(
        Band(name=name, dtype="uint8", mean=120.0, std=50.0, p2=10, p98=240)
        for name in ("red", "green", "blue")
    )
    _write_model(folder / "model.safetensors", TOWN_LEGEND, bands)
    for seed, name in enumerate(("checkpoint.pth", "older.pth")):
        torch.manual_seed(seed)
        network = torchvision.models.segmentation.fcn_resnet50(
            weights=None, weights_backbone=None, num_classes=21
        )
        torch.save(network.state_dict(), folder / name)
    _write_voc(folder / "VOC2012")
    _write_chips(folder)
    _write_model(folder / "voc.safetensors", open_benchmark("voc", folder / "VOC2012").legend, bands)


def _write_model(path: Path, legend: Legend, bands: tuple[Band, ...]) -> None:
    torch.manual_seed(1)
    settings = ModelSettings(architecture="fcn", encoder="resnet18", output_stride=16, head_channels=8)
    card = ModelCard(
        tool_version=__version__,
        recipe=Recipe(model=settings, prediction=PredictionSettings(tile_size=128)),
        legend=legend,
        bands=bands,
        gsd=None,
        class_bias=(0.0,) * len(legend),
        iteration=0,
        validation_miou=None,
        data_fingerprint="",
    )
    save_model(build_network(settings, bands=len(bands), classes=len(legend)).state_dict(), card, path)


RECIPE = """
[model]
architecture = "fcn"
encoder = "tu-mobilenetv3_small_050"
output_stride = 32
head_channels = 8
auxiliary = false
dropout = 0.5
[training]
iterations = {iterations}
batch_size = 2
crop = 64
optimizer = "adamw"
validate_every = 10
ema_decay = 0.9
calibrate = true
workers = {workers}
[prediction]
tile_size = 64
"""


def _write_chips(folder: Path) -> None:
    """The small scene as chips, and recipes of a few seconds."""
    scene = folder / "small"
    settings = TileSettings(labels=LabelSettings(class_field="class"), chip_size=64, block=2, test="0")
    tile([str(scene / "image.tif")], [str(scene / "labels.gpkg")], folder / "chips", settings)
    for name, iterations, workers in (("recipe", 60, 0), ("older", 5, 0), ("workers", 60, 2)):
        text = RECIPE.format(iterations=iterations, workers=workers)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def _write_voc(root: Path) -> None:
    kit = _neighbour("benchmarks")
    random = np.random.default_rng(3)
    names = [f"2007_{number:06d}" for number in range(7)]
    for name in names:
        labels = kit.patches(random, (90, 120), [0, 3, 7, 15, 255])
        kit.write_picture(root / "JPEGImages" / f"{name}.jpg", labels, random)
        kit.write_palette_png(root / "SegmentationClass" / f"{name}.png", labels)
    for split, part in {"train": names[:2], "val": names[2:], "trainval": names}.items():
        kit.write_list(root / "ImageSets" / "Segmentation" / f"{split}.txt", part)


def _neighbour(room: str) -> ModuleType:
    tests = Path(__file__).parents[1]
    for shared in (tests / "on_path", tests / "on_path" / "training"):  # as pyproject.toml has pytest do
        if str(shared) not in sys.path:
            sys.path.insert(0, str(shared))
    path = tests / room / "conftest.py"
    spec = importlib.util.spec_from_file_location(f"{room}_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Ended:
    """How a run ended. code: its exit code, None where it was killed. said: all that it printed.

    seconds: of the processor, which other programs on the machine do not lengthen.
    """

    code: int | None
    said: str
    seconds: float


def run(
    case: Case,
    inputs: Path,
    out: Path,
    *,
    older: bool = False,
    overwrite: bool = False,
    watch: Callable[[int], None] | None = None,
) -> Ended:
    """The command in a process of its own; `watch(pid)` may kill it meanwhile."""
    arguments = case.older if older else case.arguments
    assert arguments is not None
    given = [part.format(inputs=inputs, out=out) for part in arguments] + ["--overwrite"] * overwrite
    said = inputs.parent / "said.txt"  # not on the disk that may be full
    pid = os.fork()
    if pid == 0:
        _child(case, given, said)
    if watch is not None:
        watch(pid)
    _, status, used = os.wait4(pid, 0)
    killed = os.WIFSIGNALED(status)
    if killed and os.WTERMSIG(status) != signal.SIGKILL:
        raise RuntimeError(f"{case.name} ended by signal {os.WTERMSIG(status)}: {said.read_text()}")
    text = said.read_text(encoding="utf-8", errors="replace")
    return Ended(None if killed else os.WEXITSTATUS(status), text, used.ru_utime + used.ru_stime)


def _child(case: Case, given: list[str], said: Path) -> None:
    code = 99
    try:
        signal.alarm(SECONDS)
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        torch.set_num_threads(1)
        if case.name == "demo":
            _short_demo(given)
            code = 0
        else:
            main(given)
            code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except AerialSegError as error:
        print(f"Error: {error}", file=sys.stderr)
        code = error.exit_code
    except BaseException:  # noqa: BLE001 a traceback is what the campaign looks for
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _short_demo(given: list[str]) -> None:
    demo_room.SIDE, demo_room.TRAINING_SEEDS = 512, (1,)
    recipe: Any = load_recipe("demo")
    short = {"iterations": 2, "validate_every": 2, "crop": 64, "warmup": 0, "workers": 0}
    fields = {key: value for key, value in short.items() if hasattr(recipe.training, key)}
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=fields)})
    demo_room.demo(Path(given[1]), device="cpu", recipe=recipe, overwrite="--overwrite" in given)


def forked(work: Callable[[], None]) -> None:
    """The work is done in a process of its own, whose threads end with it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1] != 0:
        raise RuntimeError("the inputs could not be made")


def tree(folder: Path) -> Tree:
    """Every file below by its name, with the sum of its content; folders with an empty one."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(_content(path)).hexdigest() if path.is_file() else "")
        for path in sorted(folder.rglob("*"))
    }


_TOKEN = re.compile(rb'(\\?"run\\?": \\?")[0-9a-f]{16}')
"""What tells a run of training from one that was there before, in run.json and in a safetensors header."""


def _content(path: Path) -> bytes:
    """What lies there, but for the token of a run, which is drawn, and times."""
    content = path.read_bytes()
    if path.name == "run.json" and content.startswith(b"{"):
        document = json.loads(content)
        for name in ("begun", "data_newest"):  # the demo cuts its chips anew
            document.pop(name, None)
        content = json.dumps(document).encode()
    return _TOKEN.sub(rb"\1", content) if path.name in ("run.json", "training.safetensors") else content


def other_than_calm(again: Ended, out: Path, wanted: Tree) -> list[str]:
    """What is wrong with the end of the same command, run again: it failed, or left other than an uninterrupted run."""
    if again.code != 0:
        return [f"the same command said {again.said.strip()[-300:]}"]
    now = tree(out)
    odd = sorted(name for name in {*now, *wanted} if now.get(name) != wanted.get(name))
    return [f"other than an uninterrupted run in {', '.join(odd[:5])}"] if odd else []


def damaged_models(out: Path) -> list[str]:
    """The models below that cannot be loaded, with the reason; looked at in a process of its own."""
    told = out.parent / "damaged.txt"

    def look() -> None:
        torch.set_num_threads(1)
        lines = []
        for path in sorted(out.rglob("*.safetensors")):
            if path.name != "training.safetensors":
                try:
                    load_model(path)
                except AerialSegError as error:
                    lines.append(str(error))
        told.write_text("\n".join(lines), encoding="utf-8")

    forked(look)
    return told.read_text(encoding="utf-8").splitlines()


def results(found: Tree) -> Tree:
    """Without what lies in work folders."""
    return {
        name: content
        for name, content in found.items()
        if not any(part.endswith(".work") for part in Path(name).parts)
    }


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
