"""Hold what is imported from mmsegmentation, its protocols and `export --as mmseg` to mmsegmentation's own code.

A script that is run by hand, in an environment of its own beside aerial-seg's packages (mmsegmentation 1.2.2 wants an
mmcv below 2.2):

    python -m venv --system-site-packages fidelity
    fidelity/bin/pip install --no-deps mmsegmentation==1.2.2 mmengine mmcv-lite==2.1.0 addict yapf platformdirs \
        termcolor rich prettytable wcwidth ftfy regex opencv-python-headless
    fidelity/bin/python tests/fidelity/against_mmseg.py               # all networks, some twenty minutes on two cores
    fidelity/bin/python tests/fidelity/against_mmseg.py --only 'r18|d32'

Every configuration of FCN, PSPNet, DeepLabv3 and DeepLabv3+ that mmsegmentation ships is read as its own reader reads
it. Each network of other shapes or another map among them is built by its code with random weights and running
statistics, saved as its runner saves a training, imported by its configuration (its name has to tell the same), and run
beside it in float64. mmcv-lite has no compiled operations; none of these networks calls one. A line for each: the
largest difference relative to the largest value of

    cells      logits on the lattice
    auxiliary  those of the auxiliary head
    whole      `inference` with mode whole
    slide      the same with sliding windows, over images larger and smaller than them
    back       the cells of mmsegmentation's network after `export --as mmseg`, loaded strictly
    between    mode whole on sides that the stride does not divide, where it stretches the lattice and we do not

All but `between` have to be below 1e-11; the script ends with 1 where one is not. `back` is a dash where the export is
refused; the reason stands in the line below.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmseg_networks import Named, random_network, read_networks, save, uninitialised
from torch import Tensor, nn

from aerial_seg.benchmarks.inference import class_scores
from aerial_seg.benchmarks.protocol import SlideWindow, load_protocol
from aerial_seg.benchmarks.resize import ResizeRule
from aerial_seg.errors import InputError
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
COLUMNS = ("cells", "auxiliary", "whole", "slide", "back", "between")


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


def given_back(imported: ImportedNetwork, model: nn.Module) -> None:
    """The model, mmsegmentation's, has what `export --as mmseg` makes of the imported one: loaded strictly."""
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
    with uninitialised():
        given = give(TrainedModel(imported.network, card, "0" * 64), Path("imported"), "mmseg")
    assert given.tensors.keys() == model.state_dict().keys()
    for weight in model.parameters():
        weight.data.zero_()
    model.load_state_dict(given.tensors, strict=True)


def difference(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    return float((got - wanted).abs().max() / wanted.abs().max())


def imported_of(named: Named, model: nn.Module) -> ImportedNetwork:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "iter_80000.pth"
        save(model, named.config, path)
        read = read_checkpoint(path)
        with uninitialised():
            imported = import_checkpoint(read, "mmseg")
    assert imported.training.crop == tuple(named.config.crop_size), named.name
    assert len(read.classes) == len(read.palette) == imported.classes
    return imported


def compare(named: Named) -> tuple[dict[str, float], str]:
    model = random_network(named.config)
    imported = imported_of(named, model)
    model, network = model.double(), imported.network.double()
    end = int(bool(named.config.model.decode_head.align_corners))
    step = network.geometry.origin_step
    generator = torch.Generator().manual_seed(2)

    def image(*cells: int, more: int = end) -> Tensor:
        sides = (count * step + more for count in cells)
        return torch.randn(1, 3, *sides, generator=generator, dtype=torch.float64)

    found: dict[str, float] = {}
    # The widest atrous rate reaches 36 cells: one image is that wide.
    odd = torch.randn(1, 3, 2 * step + 1, 321, generator=generator, dtype=torch.float64)
    whole, between = image(3, 4), image(3, 4, more=3 + end)
    cells, auxiliary = their_cells(model, odd)
    got, got_auxiliary = network.forward_training(odd)
    assert got_auxiliary is not None
    found["cells"], found["auxiliary"] = difference(got, cells), difference(got_auxiliary, auxiliary)
    for what, seen in (("whole", whole), ("between", between)):
        found[what] = difference(our_scores(network, seen), their_inference(model, seen, {"mode": "whole"}))
    crop, stride = 3 * step + end, 2 * step
    slid = {"mode": "slide", "crop_size": (crop, crop), "stride": (stride, stride)}
    window = SlideWindow(crop, stride, "logits", "none")
    found["slide"] = max(
        difference(our_scores(network, seen, window), their_inference(model, seen, slid))
        for seen in (image(4, 5), image(2, 4), image(2, 2))
    )
    try:
        given_back(imported, model)
    except InputError as error:
        return found, str(error)
    found["back"] = difference(their_cells(model, odd)[0], cells)
    return found, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="a regular expression of the configurations to run")
    chosen = parser.parse_args()
    networks = read_networks(chosen.only)
    worst = 0.0
    print(f"{'':60}" + "".join(f"{name:>11}" for name in COLUMNS))
    for named in networks:
        with torch.inference_mode():
            found, refused = compare(named)
        figures = (f"{found[name]:11.1e}" if name in found else f"{'-':>11}" for name in COLUMNS)
        print(f"{named.name:60}" + "".join(figures), flush=True)
        if refused:
            print(f"    {refused}", flush=True)
        worst = max(worst, *(value for name, value in found.items() if name != "between"))
    print(f"the largest difference that counts is {worst:.1e}, wanted at most {LIMIT:g}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
