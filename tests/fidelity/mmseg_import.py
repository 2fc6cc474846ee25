"""Hold the importer to mmsegmentation's own code. By hand, in an environment of its own beside an installed aerial-seg:

    pip install --no-deps mmsegmentation==1.2.2 mmengine mmcv-lite==2.1.0 addict yapf platformdirs termcolor rich \
        prettytable wcwidth ftfy regex opencv-python-headless
    python tests/fidelity/mmseg_import.py            # every network once, at the sizes of IMAGES
    python tests/fidelity/mmseg_import.py r18 d32    # those with one of these in their names

Every configuration of fcn, pspnet, deeplabv3 and deeplabv3plus that mmseg ships is read as its own reader reads it, and
its name says what it says. Every network of other shapes or maps among them is built by mmseg with random weights,
batch norm affine and running statistics, saved as mmengine saves it (message hub and configuration included), imported,
and run in float64 on odd, non-square images: logits and auxiliary logits may differ by LIMIT of the largest.
"""

from __future__ import annotations

import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

LIMIT = 1e-11
IMAGES = {False: ((1, 3, 65, 97), (1, 3, 17, 313)), True: ((1, 3, 65, 97), (1, 3, 33, 161))}
"""By align_corners; its sides are 8·n + 1."""
HEADS = ("fcn", "pspnet", "deeplabv3", "deeplabv3plus")


class _NoOps(types.ModuleType):
    """mmcv-lite has no compiled operators; none of these networks uses one, but mmseg imports them by name."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})


sys.modules["mmcv.ops"] = _NoOps("mmcv.ops")
warnings.simplefilter("ignore")

import mmseg  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

from aerial_seg.errors import SettingsError  # noqa: E402
from aerial_seg.models.importing.checkpoint import read_checkpoint  # noqa: E402
from aerial_seg.models.importing.config_text import read_config  # noqa: E402
from aerial_seg.models.importing.mmseg_config import form_of_config  # noqa: E402
from aerial_seg.models.importing.mmseg_form import form_of_name, published  # noqa: E402
from aerial_seg.models.importing.sources import import_checkpoint  # noqa: E402

MAP = ("head", "depth", "output_stride", "stage_rates", "multi_grid", "align_corners", "head_rate", "crop")


def configurations() -> Iterator[tuple[str, Any]]:
    folder = Path(mmseg.__file__).parent / ".mim" / "configs"
    for head in HEADS:
        for path in sorted((folder / head).glob("*.py")):
            yield path.stem, Config.fromfile(path)


def check_texts() -> dict[tuple[Any, ...], tuple[str, Any]]:
    """Texts and names say what mmseg's reader says; one configuration for every network that differs."""
    networks: dict[tuple[Any, ...], tuple[str, Any]] = {}
    maps: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    names = []
    for name, config in configurations():
        names.append(name)
        read = read_config(config.pretty_text)
        wanted = config.to_dict()["model"]
        assert read is not None, name
        assert read["model"] == wanted, name
        form, named = form_of_config(read, Path(name)), form_of_name(name)
        assert named is not None, name
        for what in MAP:
            assert getattr(form, what) == getattr(named, what), (name, what, form, named)
        backbone, head = wanted["backbone"], wanted["decode_head"]
        key = tuple(getattr(form, what) for what in MAP[:-1])
        networks.setdefault((*key, backbone["type"]), (name, config))
        maps.setdefault((form.head, form.depth, head["num_classes"]), set()).add(key)
    for (head, depth, classes), several in maps.items():
        choices = published(head, depth, classes)
        told = {tuple(getattr(form_of_name(choice), what) for what in MAP[:-1]) for choice in choices}
        assert told == (several if len(several) > 1 else set()), (head, depth, classes, told ^ several)
    print(f"{len(names)} configurations read alike, {len(networks)} networks among them")
    return networks


def random_network(config: Any) -> torch.nn.Module:
    config.model.pretrained = None
    config.model.backbone.init_cfg = None
    torch.manual_seed(5)
    network = revert_sync_batchnorm(MODELS.build(config.model))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_uniform_(module.weight, a=1.0)
    return network.eval()


def written(network: torch.nn.Module, config: Any, path: Path) -> None:
    """As mmengine's Runner.save_checkpoint writes it."""
    hub = MessageHub.get_instance("fidelity")
    hub.update_scalar("train/loss", 0.25)
    classes = config.model.decode_head.num_classes
    meta = {
        "epoch": 0,
        "iter": 80_000,
        "cfg": config.pretty_text,
        "seed": 1,
        "dataset_meta": {
            "classes": tuple(f"class {k}" for k in range(classes)),
            "palette": [[k, 2 * k % 256, 3] for k in range(classes)],
        },
        "mmengine_version": "0.10.7",
    }
    torch.save({"meta": meta, "state_dict": network.state_dict(), "message_hub": hub.state_dict()}, path)


def compare(name: str, config: Any, folder: Path) -> float:
    network = random_network(config)
    path = folder / "iter_80000.pth"
    written(network, config, path)
    read = read_checkpoint(path)
    imported = import_checkpoint(read, "mmseg")
    by_name = import_checkpoint(read, "mmseg", name)
    assert by_name.settings == imported.settings, name
    assert imported.training.crop == tuple(config.crop_size), name
    network, ours = network.double(), imported.network.double()
    worst = 0.0
    with torch.inference_mode():
        for shape in IMAGES[imported.settings.align_corners]:
            image = torch.randn(shape, dtype=torch.float64)
            features = network.backbone(image)
            wanted = network.decode_head(features), network.auxiliary_head(features)
            for got, want in zip(ours.forward_training(image), wanted, strict=True):
                assert got.shape == want.shape, (name, got.shape, want.shape)
                worst = max(worst, float((got - want).abs().max() / want.abs().max()))
    path.unlink()
    return worst


def main() -> None:
    torch.set_num_threads(2)
    register_all_modules()
    networks = check_texts()
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, config in networks.values():
            if sys.argv[1:] and not any(part in name for part in sys.argv[1:]):
                continue
            try:
                found = compare(name, config, Path(folder))
            except SettingsError as error:
                raise SystemExit(f"{name}: {error}") from error
            worst = max(worst, found)
            print(f"{found:8.1e}  {name}", flush=True)
    print(f"largest relative difference {worst:.1e}, limit {LIMIT:g}")
    if not worst <= LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
