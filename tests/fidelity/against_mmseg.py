"""Hold what is imported from mmsegmentation, its protocols and `export --as mmseg` to mmsegmentation's own code.

A script that is run by hand, in an environment of its own beside aerial-seg's packages (mmsegmentation 1.2.2 wants an
mmcv below 2.2):

    python -m venv --system-site-packages fidelity
    fidelity/bin/pip install "mmsegmentation==1.2.2" mmengine "mmcv-lite==2.1.0" ftfy regex opencv-python-headless
    fidelity/bin/python tests/fidelity/against_mmseg.py                      # all configurations below
    fidelity/bin/python tests/fidelity/against_mmseg.py --only pspnet --trained

mmsegmentation's networks are built from its own configuration files with random weights and running statistics, saved
as its runner saves them, imported, and run beside it in float64. mmcv-lite has no compiled operations; none of these
networks calls one. A line for each configuration: the largest difference relative to the largest value of

    cells      logits on the lattice
    auxiliary  those of the auxiliary head
    whole      `inference` with mode whole
    slide      the same with sliding windows, over images larger and smaller than them
    back       the cells of mmsegmentation's network after `export --as mmseg`, loaded strictly
    between    mode whole on sides that the stride does not divide, where it stretches the lattice and we do not

All but `between` have to be below 1e-11; the script ends with 1 where one is not.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import types
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aerial_seg.benchmarks.inference import class_scores
from aerial_seg.benchmarks.protocol import SlideWindow, load_protocol
from aerial_seg.benchmarks.resize import ResizeRule
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.legend import make_legend
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.importing.checkpoint import read_checkpoint
from aerial_seg.models.importing.giving import give
from aerial_seg.models.importing.matching import ImportedNetwork
from aerial_seg.models.importing.sources import import_checkpoint
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe

LIMIT = 1e-11
CONFIGS = (
    "fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py",
    "fcn/fcn_r50b-d8_4xb2-80k_cityscapes-512x1024.py",
    "pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py",
    "pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-769x769.py",
    "deeplabv3/deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512.py",
    "deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-769x769.py",
    "deeplabv3/deeplabv3_r101-d16-mg124_4xb2-40k_cityscapes-512x1024.py",
)
"""Of mmsegmentation's own, under configs/."""


class _NoOperations(types.ModuleType):
    """Stands for mmcv's compiled module: whatever is asked of it can be imported, and not be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: object) -> None:
            raise RuntimeError(f"mmcv-lite has no {name}")

        return missing


def configuration(name: str) -> Any:
    """mmsegmentation's configuration, its networks without weights of the net and without synchronised batch norm."""
    import mmseg
    from mmengine.config import Config

    config = Config.fromfile(str(Path(mmseg.__file__).parent / ".mim" / "configs" / name))
    config.model.pretrained = None
    for part in (config.model.backbone, config.model.decode_head, config.model.auxiliary_head):
        part.norm_cfg.type = "BN"
    return config


def random_model(config: Any) -> nn.Module:
    """mmsegmentation's segmentor with random weights, batch norm affine and running statistics, in evaluation mode."""
    from mmseg.registry import MODELS

    torch.manual_seed(1)
    model: nn.Module = MODELS.build(config.model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                module.bias.data.normal_()
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 0.9)
            module.bias.data.normal_(std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
            module.num_batches_tracked.fill_(7)
    return model.eval()


def save(model: nn.Module, config: Any, path: Path, *, trained: bool) -> None:
    """As mmengine's runner saves it. trained: with the configuration and the message hub, as a training does."""
    from mmengine.logging import MessageHub
    from mmengine.runner.checkpoint import save_checkpoint, weights_to_cpu

    classes = [f"class {k}" for k in range(config.model.decode_head.num_classes)]
    meta: dict[str, object] = {"dataset_meta": {"classes": classes, "palette": None}}
    document: dict[str, object] = {"meta": meta, "state_dict": weights_to_cpu(model.state_dict())}
    if trained:
        hub = MessageHub.get_instance("fidelity")
        hub.update_scalar("train/loss", 0.5)
        meta |= {"cfg": config.pretty_text, "iter": 20_000, "epoch": 0, "seed": 1}
        document["message_hub"] = hub.state_dict()
    save_checkpoint(document, str(path))


def their_cells(model: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    features = model.extract_feat(image)
    return model.decode_head(features), model.auxiliary_head(features)


def their_inference(model: Any, image: Tensor, test: dict[str, Any]) -> Tensor:
    from mmengine.config import ConfigDict

    model.test_cfg = ConfigDict(test)
    shape = tuple(image.shape[2:])
    found: Tensor = model.inference(image, [{"ori_shape": shape, "img_shape": shape}])
    return found


class ExactForward(PaddedForward):
    """A forward whose cells keep their dtype: here nothing is to be rounded to float32."""

    __slots__ = ()

    def cells(self, images: Tensor) -> Tensor:
        high, wide = (self.run_side(side) for side in images.shape[2:])
        more = (0, wide - images.shape[3], 0, high - images.shape[2])
        return self.forward(nn.functional.pad(images, more))


def our_scores(network: Network, image: Tensor, window: SlideWindow | None = None) -> Tensor:
    protocol = load_protocol("mmseg").for_dataset("voc")
    protocol = replace(protocol, resize=ResizeRule("none"), average="logits", window=window)
    net = ExactForward(network, network.geometry, any_side=network.any_side)
    return class_scores(image[0], net, protocol)[None]


def given_back(imported: ImportedNetwork, config: Any, tensors: dict[str, Tensor]) -> nn.Module:
    """mmsegmentation's network with what `export --as mmseg` makes of the imported one."""
    card = ModelCard(
        tool_version="fidelity",
        recipe=Recipe(model=imported.settings),
        legend=make_legend({k: f"class {k}" for k in range(imported.classes)}),
        bands=imported.bands,
        gsd=None,
        class_bias=(0.0,) * imported.classes,
        iteration=0,
        validation_miou=None,
        data_fingerprint="fidelity",
    )
    given = give(TrainedModel(imported.network, card, "0" * 64), Path("imported"), "mmseg")
    assert given.tensors.keys() == tensors.keys()
    model = random_model(config)
    for weight in model.parameters():
        weight.data.zero_()
    model.load_state_dict(given.tensors, strict=True)
    return model


def difference(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    return float((got - wanted).abs().max() / wanted.abs().max())


def compare(name: str, *, trained: bool) -> dict[str, float]:
    config = configuration(name)
    model = random_model(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "iter_20000.pth"
        save(model, config, path, trained=trained)
        tensors = read_checkpoint(path)
        imported = import_checkpoint(tensors, "mmseg", arch_of(name))
    back = given_back(imported, config, model.state_dict()).double()
    model, network = model.double(), imported.network.double()
    end = int(bool(config.model.decode_head.align_corners))
    step = network.geometry.origin_step
    generator = torch.Generator().manual_seed(2)

    def image(*cells: int, more: int = end) -> Tensor:
        sides = (count * step + more for count in cells)
        return torch.randn(1, 3, *sides, generator=generator, dtype=torch.float64)

    found: dict[str, float] = {}
    with torch.inference_mode():
        odd = image(8, 12, more=1)
        cells, auxiliary = their_cells(model, odd)
        got, got_auxiliary = network.forward_training(odd)
        found["cells"], found["auxiliary"] = difference(got, cells), difference(got_auxiliary, auxiliary)
        found["back"] = difference(their_cells(back, odd)[0], cells)
        whole = image(8, 12)
        found["whole"] = difference(
            our_scores(network, whole), their_inference(model, whole, {"mode": "whole"})
        )
        crop, stride = 6 * step + end, 4 * step
        slid = {"mode": "slide", "crop_size": (crop, crop), "stride": (stride, stride)}
        window = SlideWindow(crop, stride, "logits", "none")
        found["slide"] = max(
            difference(our_scores(network, seen, window), their_inference(model, seen, slid))
            for seen in (image(9, 13), image(4, 9), image(3, 5))
        )
        between = image(8, 12, more=3 + end)
        found["between"] = difference(
            our_scores(network, between), their_inference(model, between, {"mode": "whole"})
        )
    return found


def arch_of(name: str) -> str:
    """What `import-weights --arch` is given for a configuration."""
    head = Path(name).stem.split("_4xb")[0]
    return head + ("-769" if "769x769" in name else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="a regular expression of the configurations to run")
    parser.add_argument(
        "--trained", action="store_true", help="save the message hub and the configuration, too"
    )
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    sys.modules["mmcv._ext"] = _NoOperations("mmcv._ext")
    from mmengine.registry import init_default_scope

    init_default_scope("mmseg")
    worst = 0.0
    columns = ("cells", "auxiliary", "whole", "slide", "back", "between")
    print(f"{'':72}" + "".join(f"{name:>11}" for name in columns))
    for name in CONFIGS:
        if re.search(chosen.only, name):
            found = compare(name, trained=chosen.trained)
            print(f"{name:72}" + "".join(f"{found[column]:11.1e}" for column in columns), flush=True)
            worst = max(worst, *(found[column] for column in columns[:-1]))
    print(f"the largest difference that counts is {worst:.1e}, wanted at most {LIMIT:g}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
