"""torchvision's own networks as the oracle: random weights and statistics in, equal logits out."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import segmentation

from aerial_seg.bands import IMAGENET_BANDS
from aerial_seg.errors import InputError
from aerial_seg.models.build import build_network
from aerial_seg.models.importing.checkpoint import Checkpoint, read_checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork
from aerial_seg.models.importing.torchvision import import_torchvision

PARAMETERS = {
    "fcn_resnet50": 35_322_218,
    "fcn_resnet101": 54_314_346,
    "deeplabv3_resnet50": 42_004_074,
    "deeplabv3_resnet101": 60_996_202,
}
"""With the auxiliary head and 21 classes, as torchvision's model table has them."""

LIMIT = 1e-10


def torchvisions(name: str, *, classes: int = 21, auxiliary: bool = True) -> nn.Module:
    """One of torchvision's networks: random weights, batch norm affine and running statistics."""
    torch.manual_seed(3)
    build = getattr(segmentation, name)
    model = build(weights=None, weights_backbone=None, num_classes=classes, aux_loss=auxiliary)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 0.9)
            module.bias.data.normal_(std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
            module.num_batches_tracked.fill_(7)
    return model.eval()


def checkpoint_of(state: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(Path("weights.pth"), state, "0")


@pytest.fixture(
    scope="module",
    # A ResNet-101 has more of the same blocks.
    params=[pytest.param(name, marks=[pytest.mark.slow] * name.endswith("101")) for name in PARAMETERS],
)
def pair(request: pytest.FixtureRequest) -> tuple[str, nn.Module, ImportedNetwork]:
    """A network of torchvision's in float64 beside what was imported from its float32 state dict, in float64 too."""
    theirs = torchvisions(request.param)
    imported = import_torchvision(checkpoint_of(theirs.state_dict()))
    imported.network.double()
    return request.param, theirs.double(), imported


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A state dict to be spoilt, of the smallest of them."""
    return torchvisions("fcn_resnet50", classes=2).state_dict()


def image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randn(1, 3, height, width, generator=generator, dtype=torch.float64)


def distance(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


# Long enough for every atrous rate along one side or the other, which a square of as many pixels is not.
@pytest.mark.parametrize("size", [(33, 305), (305, 33)])
def test_logits_are_equal_before_and_after_upsampling(
    pair: tuple[str, nn.Module, ImportedNetwork], size: tuple[int, int]
) -> None:
    _, theirs, imported = pair
    seen = image(*size)
    low: list[Tensor] = []
    with torch.inference_mode(), ExitStack() as hooks:
        for head in (theirs.classifier, theirs.aux_classifier):
            hooks.callback(head.register_forward_hook(lambda _, __, logits: low.append(logits)).remove)
        final = theirs(seen)
        main, side = imported.network.forward_training(seen)
        assert side is not None
    for ours, before, after in zip((main, side), low, (final["out"], final["aux"]), strict=True):
        # Logits that hardly vary, or that are huge, would make the limit mean little.
        assert 0.01 < before.std() < 100
        assert distance(ours, before) <= LIMIT
        upsampled = interpolate(ours, size=size, mode="bilinear", align_corners=False)
        assert distance(upsampled, after) <= LIMIT


def test_parameters_settings_and_preprocessing(pair: tuple[str, nn.Module, ImportedNetwork]) -> None:
    name, theirs, imported = pair
    assert sum(weight.numel() for weight in imported.network.parameters()) == PARAMETERS[name]
    settings = imported.settings
    assert f"{settings.architecture}_{settings.encoder}" == name
    assert (settings.output_stride, settings.dilation_placement) == (8, "contracted")
    assert imported.classes == 21
    # torchvision's presets scale to 0-1 first.
    for band, mean, std in zip(imported.bands, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True):
        assert (band.mean, band.std) == pytest.approx((255 * mean, 255 * std), rel=1e-12)
    assert [band.name for band in imported.bands] == ["red", "green", "blue"]
    dropouts = [
        [m.p for m in net.modules() if isinstance(m, nn.Dropout)] for net in (theirs, imported.network)
    ]
    assert dropouts[0] == dropouts[1]


def test_every_tensor_is_matched_once(pair: tuple[str, nn.Module, ImportedNetwork]) -> None:
    _, theirs, imported = pair
    assert {match.theirs for match in imported.matches} == set(theirs.state_dict())
    ours = imported.network.state_dict()
    assert sorted(match.ours for match in imported.matches) == sorted(ours)
    assert all(match.shape == tuple(ours[match.ours].shape) for match in imported.matches)


def test_full_placement_with_the_same_weights_has_other_logits(state: dict[str, Tensor]) -> None:
    """What a strict match of names and shapes does not prove."""
    imported = import_torchvision(checkpoint_of(state))
    full = imported.settings.model_copy(update={"dilation_placement": "full"})
    network = build_network(full, bands=3, classes=2).eval()
    network.load_state_dict(imported.network.state_dict(), strict=True)
    seen = image(65, 97).float()
    with torch.inference_mode():
        logits = imported.network(seen)
        assert distance(network(seen), logits) > 0.01 * logits.abs().max()


def test_weights_without_auxiliary_head_make_a_network_without() -> None:
    theirs = torchvisions("fcn_resnet50", classes=4, auxiliary=False)
    imported = import_torchvision(checkpoint_of(theirs.state_dict()))
    assert not imported.settings.auxiliary
    assert imported.classes == 4
    with torch.inference_mode():
        seen = image(33, 33).float()
        torch.testing.assert_close(imported.network(seen), theirs.classifier(theirs.backbone(seen)["out"]))


def test_counters_of_batches_may_be_missing(state: dict[str, Tensor]) -> None:
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    imported = import_torchvision(checkpoint_of(old))
    for name, tensor in import_torchvision(checkpoint_of(state)).network.state_dict().items():
        found = imported.network.state_dict()[name]
        if name.endswith("num_batches_tracked"):
            assert (int(found), int(tensor)) == (0, 7)
        else:
            assert torch.equal(found, tensor), name
    implied = [match.ours for match in imported.matches if match.theirs is None]
    assert len(implied) == len(state) - len(old)


def test_names_that_do_not_fit_are_listed(state: dict[str, Tensor]) -> None:
    spoilt = dict(state)
    del spoilt["backbone.layer3.2.bn1.running_var"]
    del spoilt["aux_classifier.4.bias"]
    spoilt["backbone.fc.weight"] = torch.zeros(3)
    spoilt["classifier.0.weight"] = torch.zeros(512, 2048, 1, 1)
    with pytest.raises(InputError) as caught:
        import_torchvision(checkpoint_of(spoilt))
    message = str(caught.value)
    assert message.startswith("weights.pth does not fit torchvision's fcn_resnet50 with 2 classes: ")
    assert "1 without a place there (backbone.fc.weight)" in message
    assert "2 missing (backbone.layer3.2.bn1.running_var, aux_classifier.4.bias)" in message
    assert (
        "1 of another shape (classifier.0.weight (512, 2048, 1, 1) instead of (512, 2048, 3, 3))" in message
    )
    assert "\n" not in message


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("classifier.4.weight", r"no convolution classifier\.4\.weight among"),
        ("backbone.layer4.2.", r"bottlenecks \(3, 4, 6, 2\)"),
        ("backbone.", r"no convolution backbone\.conv1\.weight nor backbone\.layer1"),
    ],
)
def test_other_networks_are_not_recognised(state: dict[str, Tensor], drop: str, message: str) -> None:
    other = {name: tensor for name, tensor in state.items() if not name.startswith(drop)}
    with pytest.raises(InputError, match=message + r".*wanted the state dict of torchvision's fcn_resnet50"):
        import_torchvision(checkpoint_of(other))


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_networks_on_mobilenet_are_refused_by_their_name(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        network = getattr(segmentation, name)(weights=None, weights_backbone=None)
    tensors = {key: torch.zeros(()) for key in network.state_dict()}
    path = tmp_path / "model_29.pth"
    torch.save({"model": tensors, "args": argparse.Namespace(model=name), "epoch": 29}, path)
    with pytest.raises(
        InputError, match=rf"is {name}, on MobileNetV3, of which no network is made here; wanted"
    ):
        import_torchvision(read_checkpoint(path))
    with pytest.raises(InputError, match=r"weights\.pth is on MobileNetV3, of which no network"):
        import_torchvision(checkpoint_of(tensors))


def test_other_bands_than_three_are_told(state: dict[str, Tensor]) -> None:
    four = dict(state) | {"backbone.conv1.weight": torch.zeros(64, 4, 7, 7)}
    with pytest.raises(
        InputError, match=r"backbone\.conv1\.weight \(64, 4, 7, 7\) instead of \(64, 3, 7, 7\)"
    ):
        import_torchvision(checkpoint_of(four))


SMALL = OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.tensor(4))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("inside", [None, "model", "state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_is_found_where_programs_put_it(
    tmp_path: Path, prefix: str, inside: str | None, legacy: bool
) -> None:
    tensors = OrderedDict((prefix + name, tensor) for name, tensor in SMALL.items())
    held = tensors if inside is None else {inside: tensors, "epoch": 3, "optimizer": {"lr": 0.1}}
    path = tmp_path / "held.pth"
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(path)
    assert list(read.tensors) == list(SMALL)
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in SMALL.items())


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    save_file(dict(SMALL), tmp_path / "held.safetensors")
    read = read_checkpoint(tmp_path / "held.safetensors")
    assert {name: tensor.tolist() for name, tensor in read.tensors.items()} == {
        name: tensor.tolist() for name, tensor in SMALL.items()
    }


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, way: str) -> None:
    path, sprung = tmp_path / "trap.pth", tmp_path / "sprung"
    held = {"state_dict": dict(SMALL), "extra": Trap(sprung)}
    if way == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(
        InputError, match=r"trap\.pth is refused: its pickle asks to run or build \S+, wanted"
    ):
        read_checkpoint(path)
    assert not sprung.exists()
    # It would have run.
    if way == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert sprung.exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save(nn.Conv2d(1, 1, 1), path)
    with pytest.raises(
        InputError, match=r"run or build torch\.nn\.modules\.conv\.Conv2d.*state_dict\(\), FILE"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_damaged(tmp_path: Path, ending: str, legacy: bool) -> None:
    path = tmp_path / f"cut{ending}"
    large = {"a": torch.randn(200, 100)}
    if ending == ".pth":
        torch.save(large, path, _use_new_zipfile_serialization=not legacy)
    else:
        save_file(large, path)
    whole = path.read_bytes()
    for length in (0, 1, 7, 9, 100, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"or is damaged|no state dict") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"<html>404</html>\n" * 50,
        bytes(range(256)),
        b"\x80\x02}q\x00.",
        b"PK\x03\x04" + bytes(64),
    ],
)
def test_foreign_files_are_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"or is damaged|no state dict") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("held", [{}, {"lr": 0.1}, [torch.zeros(2)], {"model": {"a": 1}}, torch.zeros(2)])
def test_a_file_without_a_state_dict_is_told(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "held.pth")
    with pytest.raises(InputError, match=r"holds no state dict .*torch\.save\(model\.state_dict\(\), FILE\)"):
        read_checkpoint(tmp_path / "held.pth")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist or is no file; wanted a checkpoint"):
        read_checkpoint(tmp_path / "gone.pth")


def test_the_imported_network_is_in_evaluation_mode_and_can_be_trained(state: dict[str, Tensor]) -> None:
    network = copy.deepcopy(import_torchvision(checkpoint_of(state)).network)
    assert not network.training
    main, side = network.train().forward_training(torch.randn(2, len(IMAGENET_BANDS), 32, 32))
    assert side is not None
    (main.square().mean() + side.square().mean()).backward()
    assert not [name for name, weight in network.named_parameters() if weight.grad is None]


def test_weights_that_are_no_numbers_are_told(state: dict[str, Tensor]) -> None:
    spoilt = {name: value.clone() for name, value in state.items()}
    spoilt["backbone.layer1.0.conv1.weight"][0] = torch.nan
    with pytest.raises(
        InputError, match=r"1 with NaN or infinite numbers \(backbone\.layer1\.0\.conv1\.weight\)"
    ):
        import_torchvision(checkpoint_of(spoilt))
