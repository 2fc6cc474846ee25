"""DeepLabV3Plus-Pytorch's DeepLabv3 and v3+ against modules of the same structure and names, on torchvision's ResNet.

Held about the project (read in its network/_deeplab.py, network/modeling.py and main.py): the backbone is torchvision's
ResNet with the strides of the last stages replaced by dilation; rates 12/24/36 at output stride 8, 6/12/18 at 16;
DeepLabv3+ concatenates the low-level features (48 channels) before the pyramid's; `classifier.classifier` ends both;
checkpoints have `model_state` and are called best_NAME_DATASET_osSTRIDE.pth; the program begins with output stride 16.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from shaken import shake_norms
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50
from torchvision.models.segmentation.deeplabv3 import ASPP

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.mentions import settings_in

if TYPE_CHECKING:
    from tests.models.importing.conftest import Agreement

CLASSES = 5


def refining(inside: int, classes: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inside, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, classes, 1),
    ]  # fmt: skip


class Classifier(nn.Module):
    """Their DeepLabHead or DeepLabHeadV3Plus."""

    def __init__(self, rates: list[int], classes: int, *, plus: bool) -> None:
        super().__init__()
        pyramid = ASPP(2048, rates)
        if plus:
            self.project = nn.Sequential(nn.Conv2d(256, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
            self.aspp = pyramid
            self.classifier = nn.Sequential(*refining(304, classes))
        else:
            self.classifier = nn.Sequential(pyramid, *refining(256, classes))

    def forward(self, low: Tensor, last: Tensor) -> Tensor:
        if not hasattr(self, "project"):
            return self.classifier(last)
        fine = self.project(low)
        seen = functional.interpolate(
            self.aspp(last), size=fine.shape[2:], mode="bilinear", align_corners=False
        )
        return self.classifier(torch.cat([fine, seen], dim=1))


class Theirs(nn.Module):
    def __init__(self, *, stride: int, plus: bool, classes: int = CLASSES) -> None:
        super().__init__()
        full = resnet50(replace_stride_with_dilation=[False, stride == 8, True])
        parts = OrderedDict(
            (name, part) for name, part in full.named_children() if name not in ("avgpool", "fc")
        )
        self.backbone = nn.Sequential(parts)
        self.classifier = Classifier([6, 12, 18] if stride == 16 else [12, 24, 36], classes, plus=plus)

    def forward(self, image: Tensor) -> Tensor:
        found: dict[str, Tensor] = {}
        for name, part in self.backbone.named_children():
            image = found[name] = part(image)
        return self.classifier(found["layer1"], found["layer4"])


def theirs(*, stride: int, plus: bool, classes: int = CLASSES) -> Theirs:
    torch.manual_seed(stride)
    network = Theirs(stride=stride, plus=plus, classes=classes)
    shake_norms(network)
    return network.eval()


def saved(network: nn.Module, path: Path) -> Path:
    state = {
        "cur_itrs": 30_000,
        "model_state": network.state_dict(),
        "optimizer_state": {},
        "best_score": 0.7,
    }
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("plus", "stride"),
    [
        pytest.param(True, 16),
        pytest.param(False, 8),
        pytest.param(True, 8, marks=pytest.mark.slow),
        pytest.param(False, 16, marks=pytest.mark.slow),
    ],
)
def test_imported_network_has_their_logits(
    plus: bool,
    stride: int,
    tmp_path: Path,
    agreement: Agreement,
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    network = theirs(stride=stride, plus=plus)
    name = f"best_deeplabv3{'plus' * plus}_resnet50_voc_os{stride}.pth"
    imported = imported_from(saved(network, tmp_path / name), "vainf", None)
    assert imported.settings.output_stride == stride
    assert imported.notes[0].startswith("the network was read from the file's name")
    assert imported.training.crop == (513, 513)
    # Long enough for every rate along one side.
    image = torch.randn(1, 3, 33, 209, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = network.double()(image)
    agreement.forward(imported, image, wanted)


def test_the_stride_that_nobody_tells_is_assumed_aloud_and_what_it_offers_works(
    tmp_path: Path, imported_from: Callable[[Path, str, str | None], Any]
) -> None:
    path = saved(theirs(stride=16, plus=True), tmp_path / "last.pth")
    imported = imported_from(path, "vainf", None)
    (note,) = imported.notes
    assert note.startswith("assumed output stride 16, its training program's first choice: pass")
    assert imported.settings.output_stride == 16
    (mention,) = settings_in(note)
    assert imported_from(path, "vainf", mention.value).settings.output_stride == 8
    with pytest.raises(SettingsError, match=r"`arch` tells the head deeplabv3, but .* holds deeplabv3plus"):
        imported_from(path, "vainf", "deeplabv3_resnet50")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("backbone.low_level_features.0.0.weight", "MobileNetV2, whose padding"),
        ("backbone.stage4.0.weight", "HRNet"),
        ("classifier.aspp.convs.1.0.body.0.weight", "separable convolutions"),
    ],
)
def test_its_other_networks_are_refused_by_name(
    name: str, what: str, tmp_path: Path, imported_from: Callable[[Path, str, str | None], Any]
) -> None:
    torch.save({"model_state": {name: torch.ones(1, 1, 1, 1)}}, tmp_path / "last.pth")
    with pytest.raises(
        InputError, match=rf"{what}.* no network is made here; wanted a checkpoint of DeepLabV3Plus"
    ):
        imported_from(tmp_path / "last.pth", "vainf", None)
