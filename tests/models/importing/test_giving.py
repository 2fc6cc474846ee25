"""Weights given back: torchvision's own networks load them strictly and compute what ours do; mmseg's importer too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import segmentation

from aerial_seg import export_weights
from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.errors import AerialSegError
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel, save_model
from aerial_seg.models.importing.checkpoint import read_checkpoint
from aerial_seg.models.importing.giving import give
from aerial_seg.models.importing.sources import import_checkpoint
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings

CLASSES = 3
TORCHVISIONS = {"encoder": "resnet50", "head": "torchvision", "dilation_placement": "contracted"}
MMSEGS = {"encoder": "resnet50", "stem": "deep32", "dilation_placement": "contracted"}
SMALL = {"encoder": "resnet18", "dilation_placement": "contracted-first"}


def trained(
    *, bands: Sequence[Band] = IMAGENET_BANDS, bias: Sequence[float] = (0.0,) * CLASSES, **settings: Any
) -> TrainedModel:
    """A network with random weights and statistics, and the card of its settings."""
    torch.manual_seed(8)
    chosen = ModelSettings(**settings)
    network = build_network(chosen, bands=len(bands), classes=CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 0.9)
            module.bias.data.normal_(std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=chosen),
        legend=make_legend({0: "background", 1: "road", 2: "roof"}),
        bands=tuple(bands),
        gsd=None,
        class_bias=tuple(bias),
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    return TrainedModel(network.eval(), card, "0" * 64)


def file_of(model: TrainedModel, folder: Path) -> Path:
    path = folder / "model.safetensors"
    save_model(model.network.state_dict(), model.card, path)
    return path


def imported_again(path: Path, project: str, arch: str) -> dict[str, Tensor]:
    return import_checkpoint(read_checkpoint(path), project, arch).network.state_dict()


@pytest.mark.parametrize("architecture", ["fcn", "deeplabv3"])
def test_torchvisions_own_network_loads_it_strictly_and_gives_our_logits(
    architecture: str, tmp_path: Path
) -> None:
    rates = {"aspp_rates": (6, 12, 18)} if architecture == "deeplabv3" else {}
    model = trained(architecture=architecture, bias=(0.0, 0.5, -0.25), **TORCHVISIONS, **rates)
    out = tmp_path / "weights.pth"
    report = export_weights(file_of(model, tmp_path), out, "torchvision")
    assert report.arch == f"{architecture}_resnet50"
    assert any("calibrated threshold was added" in note for note in report.notes)
    assert any("mean (123.675, 116.28, 103.53)" in note for note in report.notes)
    theirs = getattr(segmentation, report.arch)(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    ).eval()
    theirs.load_state_dict(torch.load(out, weights_only=True), strict=True)
    image = torch.randn(1, 3, 40, 56, dtype=torch.float64)
    with torch.inference_mode():
        got = theirs.double()(image)["out"]
        cells = model.network.double()(image) + torch.tensor(model.card.class_bias)[:, None, None]
    wanted = interpolate(cells, size=(40, 56), mode="bilinear", align_corners=False)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-7, msg="but for the bias's rounding")


@pytest.mark.parametrize(
    ("chosen", "arch"),
    [
        ({"architecture": "deeplabv3", "head": "mmseg", "output_stride": 16}, "deeplabv3_r50-d16"),
        ({"architecture": "pspnet", "align_corners": True}, "pspnet_r50-d8-769"),
        ({"architecture": "fcn", "stem": "7x7"}, "fcn_r50b-d8"),
        (
            SMALL | {"architecture": "deeplabv3+", "head": "mmseg", "aspp_rates": (6, 12, 18)},
            "deeplabv3plus_r18-d8",
        ),
        (SMALL | {"architecture": "fcn", "head_rate": 6, "output_stride": 16}, "fcn-d6_r18-d16"),
    ],
)
def test_what_mmseg_gets_is_the_same_network_when_it_is_imported(
    chosen: dict[str, Any], arch: str, tmp_path: Path
) -> None:
    model = trained(**(MMSEGS | chosen))
    out = tmp_path / "weights.pth"
    report = export_weights(file_of(model, tmp_path), out, "mmseg")
    assert report.arch == arch
    again, ours = imported_again(out, "mmseg", arch), model.network.state_dict()
    assert again.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in again.items())
    read = read_checkpoint(out)
    assert read.classes == ("background", "road", "roof")
    if chosen["architecture"].startswith("deeplabv3"):
        fused = read.tensors["decode_head.bottleneck.conv.weight"]
        own = next(tensor for name, tensor in ours.items() if name.endswith("project.0.weight"))
        assert torch.equal(fused[:, :512], own[:, -512:]), "its image pooling comes first"
        assert torch.equal(fused[:, 512:], own[:, :-512])
    aligned = "True" if chosen.get("align_corners") else "False"
    assert any(f"align_corners={aligned}" in note for note in report.notes)


@pytest.mark.parametrize(
    ("project", "chosen", "message"),
    [
        ("torchvision", TORCHVISIONS | {"architecture": "fcn", "output_stride": 16}, "output_stride 16 instead of 8"),
        (
            "torchvision",
            TORCHVISIONS | {"architecture": "fcn", "dilation_placement": "full"},
            "dilation_placement full instead of contracted",
        ),
        ("torchvision", {"architecture": "fcn", "encoder": "resnet50"}, r"\(head default\), which torchvision has not"),
        ("torchvision", TORCHVISIONS | {"architecture": "fcn", "encoder": "resnet18"}, "cannot be given"),
        ("mmseg", MMSEGS | {"architecture": "fcn", "stretched_side": 97}, "stretched_side 97 instead of None"),
        ("mmseg", MMSEGS | {"architecture": "pspnet", "pooling": "max"}, "pooling max instead of average"),
        ("mmseg", {"architecture": "Unet", "encoder": "resnet18"}, "Unet on resnet18 .*have no name there"),
        ("caffe", MMSEGS | {"architecture": "fcn"}, "no project 'caffe'.*known: torchvision, mmseg"),
    ],
)  # fmt: skip
def test_what_computes_otherwise_there_is_refused(project: str, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(AerialSegError, match=message):
        give(trained(**chosen), Path("model.safetensors"), project)


def test_four_bands_are_refused() -> None:
    bands = (*IMAGENET_BANDS, IMAGENET_BANDS[0].model_copy(update={"name": "nir"}))
    with pytest.raises(AerialSegError, match="takes 4 bands, and mmseg's networks take 3"):
        give(trained(architecture="fcn", encoder="resnet18", bands=bands), Path("model.safetensors"), "mmseg")
