"""mmsegmentation's networks by its own code, and whether we read its configurations and names as it does.

For against_mmseg.py, which says how to install it; to be imported before mmseg, whose compiled operators it stands for.
"""

from __future__ import annotations

import re
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shaking import shake_norms
from torch import nn


class _NoOperators(types.ModuleType):
    """mmcv-lite has no compiled operators; none of these networks uses one, but mmseg imports them by name."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


sys.modules["mmcv.ops"] = _NoOperators("mmcv.ops")
warnings.simplefilter("ignore")

import mmseg  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.runner.checkpoint import save_checkpoint, weights_to_cpu  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

from aerial_seg.models.importing.config_text import read_config  # noqa: E402
from aerial_seg.models.importing.mmseg_config import form_of_config  # noqa: E402
from aerial_seg.models.importing.mmseg_form import form_of_name, published  # noqa: E402

register_all_modules()

HEADS = ("fcn", "pspnet", "deeplabv3", "deeplabv3plus")
MAP = ("head", "depth", "output_stride", "stage_rates", "multi_grid", "align_corners", "head_rate")


@dataclass(frozen=True, slots=True)
class Named:
    """A network: the name of its configuration, and that as mmengine reads it."""

    name: str
    config: Any


def configurations(only: str) -> Iterator[Named]:
    folder = Path(mmseg.__file__).parent / ".mim" / "configs"
    for head in HEADS:
        for path in sorted((folder / head).glob("*.py")):
            if re.search(only, path.stem):
                yield Named(path.stem, Config.fromfile(path))


def read_networks(only: str = "") -> list[Named]:
    """One for every network of other shapes or another map; every text and name says what mmseg's reader says.

    only: a regular expression of the configurations to read. Where it leaves none out, also the networks that are asked
    for, because mmseg publishes several with the same tensors, are all that it does.
    """
    networks: dict[tuple[Any, ...], Named] = {}
    maps: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    count = 0
    for named in configurations(only):
        count += 1
        name, form = named.name, _form_of(named)
        wanted = named.config.to_dict()["model"]
        key = tuple(getattr(form, what) for what in MAP)
        networks.setdefault((*key, wanted["backbone"]["type"]), named)
        classes = wanted["decode_head"]["num_classes"]
        maps.setdefault((form.head, form.depth, classes), set()).add(key)
        assert form.crop == _form_of_name(name).crop, (name, form)
    for (head, depth, classes), several in maps.items() if not only else ():
        choices = published(head, depth, classes)
        told = {tuple(getattr(_form_of_name(choice), what) for what in MAP) for choice in choices}
        assert told == (several if len(several) > 1 else set()), (head, depth, classes, told ^ several)
    print(f"{count} configurations read alike, {len(networks)} networks among them", flush=True)
    return list(networks.values())


def _form_of(named: Named) -> Any:
    read = read_config(named.config.pretty_text)
    assert read is not None, named.name
    assert read["model"] == named.config.to_dict()["model"], named.name
    form, by_name = form_of_config(read, Path(named.name)), _form_of_name(named.name)
    for what in MAP:
        assert getattr(form, what) == getattr(by_name, what), (named.name, what, form, by_name)
    return form


def _form_of_name(name: str) -> Any:
    form = form_of_name(name)
    assert form is not None, name
    return form


@contextmanager
def uninitialised() -> Iterator[None]:
    """Convolutions are made with what lies in their memory, for every weight is set afterwards: that is faster."""
    slow = {name: getattr(nn.init, name) for name in ("kaiming_uniform_", "kaiming_normal_", "normal_")}
    for name in slow:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in slow.items():
            setattr(nn.init, name, function)


def random_network(config: Any) -> Any:
    """mmsegmentation's segmentor with random weights, batch norm affine and running statistics, in evaluation mode."""
    config.model.pretrained = None
    config.model.backbone.init_cfg = None
    with uninitialised():
        network = revert_sync_batchnorm(MODELS.build(config.model))
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            bound = (6 / module.weight[0].numel()) ** 0.5
            module.weight.data.uniform_(-bound, bound)
            if module.bias is not None:
                module.bias.data.normal_()
    shake_norms(network)
    return network.eval()


def save(network: nn.Module, config: Any, path: Path) -> None:
    """As mmengine's runner saves a training: with its configuration and its message hub."""
    hub = MessageHub.get_instance("fidelity")
    hub.update_scalar("train/loss", 0.25)
    classes = config.model.decode_head.num_classes
    meta: Mapping[str, object] = {
        "epoch": 0,
        "iter": 80_000,
        "cfg": config.pretty_text,
        "seed": 1,
        "dataset_meta": {
            "classes": tuple(f"class {k}" for k in range(classes)),
            "palette": [[k, 2 * k % 256, 3] for k in range(classes)],
        },
    }
    weights = weights_to_cpu(network.state_dict())
    document = {"meta": dict(meta), "state_dict": weights, "message_hub": hub.state_dict()}
    save_checkpoint(document, str(path))
