"""Starting from a file: torchvision and timm as oracles, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.models.network import Network
from aerial_seg.models.pretrained import spread_bands, start_from
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings

RGB = ("red", "green", "blue")
RGBN = (*RGB, "nir")
SENTINEL = ("b1", "blue", "green", "red", "b5", "b6", "b7", "nir", "b8a", "b9", "b10", "b11", "b12")
TWO = ("background", "building")


# From an encoder's state dict


def random_state(model: nn.Module, seed: int = 5) -> dict[str, Tensor]:
    """The model's state dict, its batch norms far from what they begin with."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    return model.state_dict()


@pytest.fixture(scope="module")
def resnet() -> torchvision.models.ResNet:
    model = torchvision.models.resnet18(weights=None)
    random_state(model)
    return model.eval()


@pytest.fixture(scope="module")
def state(resnet: nn.Module) -> dict[str, Tensor]:
    return resnet.state_dict()


def saved(tensors: Mapping[str, Tensor], folder: Path, name: str = "resnet18.pth") -> Path:
    torch.save(dict(tensors), folder / name)
    return folder / name


def trunk(resnet: torchvision.models.ResNet, image: Tensor) -> Tensor:
    """torchvision's features before pooling."""
    stem = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
    features: Tensor = resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(stem))))
    return features


def encoder_of(network: Network) -> nn.Module:
    inside = getattr(network, "model", None) or getattr(network, "base", network)
    encoder: nn.Module = inside.encoder
    return encoder


FCN = ModelSettings(architecture="fcn", output_stride=32, head_channels=8)


@pytest.mark.parametrize(
    ("settings", "prefix"),
    [
        (FCN, ""),
        (FCN, "backbone."),
        (FCN, "encoder."),
        (FCN, "module."),
        (FCN.model_copy(update={"encoder": "tu-resnet18"}), ""),
        (FCN.model_copy(update={"deformable": True}), ""),
        (ModelSettings(architecture="Unet"), ""),
    ],
)
def test_torchvisions_encoder_gives_its_features(
    resnet: torchvision.models.ResNet,
    state: dict[str, Tensor],
    tmp_path: Path,
    settings: ModelSettings,
    prefix: str,
) -> None:
    whole = prefix == "module."  # what DataParallel puts before the classifier too
    path = saved({n if "fc." in n and not whole else prefix + n: t for n, t in state.items()}, tmp_path)
    network = build_network(settings, bands=3, classes=2)
    notes = start_from(network, path, bands=RGB, classes=TWO)
    assert notes == (
        f"started from the encoder in {path}: 120 tensors; 2 of a classifier left out (fc.weight, fc.bias)",
    )
    image = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        ours, theirs = encoder_of(network.eval())(image)[-1], trunk(resnet, image)
    assert 0.1 < theirs.std() < 10
    assert float((ours - theirs).abs().max()) <= 1e-6


def test_timms_encoder_gives_its_features_under_its_own_names(tmp_path: Path) -> None:
    """timm calls the stages of its features stages_0 …, in the classifier stages.0 …."""
    model = timm.create_model("convnext_atto").eval()
    path = saved(model.state_dict(), tmp_path, "convnext.pt")
    network = build_network(ModelSettings(architecture="FPN", encoder="tu-convnext_atto"), bands=3, classes=2)
    (note,) = start_from(network, path, bands=RGB, classes=TWO)
    assert "4 of a classifier left out (head.norm.weight" in note
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        ours, theirs = encoder_of(network.eval())(image)[-1], model.forward_features(image)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("bands", "told"),
    [
        (("pan",), "(red, green, blue) to pan"),
        (RGBN, "(red, green, blue) to red, green, blue, nir"),
        (SENTINEL, "(red, green, blue) to b1, blue"),
        (("blue", "green", "red"), "(red, green, blue) to blue, green, red"),
    ],
    ids=["1", "4", "13", "bgr"],
)
def test_the_first_layer_answers_a_constant_image_as_before(
    resnet: torchvision.models.ResNet,
    state: dict[str, Tensor],
    tmp_path: Path,
    bands: Sequence[str],
    told: str,
) -> None:
    network = build_network(FCN, bands=len(bands), classes=2)
    notes = start_from(network, saved(state, tmp_path), bands=bands, classes=TWO)
    assert told in notes[1]
    conv = network.get_submodule("encoder.conv1")
    theirs = resnet.conv1(torch.full((1, 3, 16, 16), 0.7))
    torch.testing.assert_close(conv(torch.full((1, len(bands), 16, 16), 0.7)), theirs, rtol=1e-4, atol=2e-6)
    red, scale = bands.index("red") if "red" in bands else None, min(1, 3 / len(bands))
    if red is not None:
        torch.testing.assert_close(conv.weight[:, red], scale * state["conv1.weight"][:, 0])


def test_an_encoder_of_other_bands_than_three_is_taken_by_position(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(weights=None)
    model.conv1 = nn.Conv2d(4, 64, 7, 2, 3, bias=False)
    path = saved(model.state_dict(), tmp_path)
    for bands in (RGBN, RGB):
        network = build_network(FCN, bands=len(bands), classes=2)
        notes = start_from(network, path, bands=bands, classes=TWO)
        wanted = spread_bands(model.conv1.weight, RGBN, bands)
        torch.testing.assert_close(network.get_submodule("encoder.conv1").weight, wanted)
        assert len(notes) == (1 if len(bands) == 4 else 2)


def test_two_first_convolutions_side_by_side_are_both_spread(tmp_path: Path) -> None:
    settings = ModelSettings(architecture="FPN", encoder="mobileone_s0")
    old = encoder_of(build_network(settings, bands=3, classes=2)).state_dict()
    network = build_network(settings, bands=4, classes=2)
    start_from(network, saved(old, tmp_path, "m.ckpt"), bands=RGBN, classes=TWO)
    new = encoder_of(network).state_dict()
    changed = [name for name in old if new[name].shape != old[name].shape]
    assert len(changed) == 2
    for name in changed:
        torch.testing.assert_close(new[name].sum(dim=1), old[name].sum(dim=1), rtol=1e-4, atol=1e-6)


def test_counters_may_be_missing_and_halves_are_widened(state: dict[str, Tensor], tmp_path: Path) -> None:
    halves = {name: t.half() for name, t in state.items() if not name.endswith("num_batches_tracked")}
    network = build_network(FCN, bands=3, classes=2)
    (note,) = start_from(network, saved(halves, tmp_path), bands=RGB, classes=TWO)
    assert "100 tensors" in note
    ours = encoder_of(network).state_dict()
    assert int(ours["bn1.num_batches_tracked"]) == 0
    assert ours["layer4.1.conv2.weight"].dtype == torch.float32
    assert torch.equal(ours["layer4.1.conv2.weight"], halves["layer4.1.conv2.weight"].float())


def test_further_blocks_of_a_cascade_begin_as_copies_of_the_last_stage(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    settings = ModelSettings(architecture="deeplabv3-cascade", output_stride=16, last_block=6)
    network = build_network(settings, bands=3, classes=2)
    start_from(network, saved(state, tmp_path), bands=RGB, classes=TWO)
    for name, tensor in network.get_submodule("head.blocks").state_dict().items():
        inside = name.partition(".")[2].replace("0.conv1.", "1.conv1.")
        assert torch.equal(tensor, state[f"layer4.{inside}"]), name


def test_what_does_not_fit_an_encoder_is_listed(state: dict[str, Tensor], tmp_path: Path) -> None:
    spoilt = dict(state)
    del spoilt["layer3.1.bn1.running_var"]
    del spoilt["layer2.0.conv1.weight"]
    spoilt["layer5.weight"] = torch.zeros(3)
    spoilt["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    network = build_network(FCN, bands=3, classes=2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        start_from(network, saved(spoilt, tmp_path), bands=RGB, classes=TWO)
    message = str(caught.value)
    assert "1 without a place there (layer5.weight)" in message
    assert "2 missing (layer2.0.conv1.weight, layer3.1.bn1.running_var)" in message
    assert "layer1.0.conv1.weight (64, 64, 1, 1) instead of (64, 64, 3, 3)" in message
    assert "choose the model.encoder" in message
    assert "\n" not in message
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_another_encoders_weights_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    for encoder in ("resnet34", "resnet50", "densenet121"):
        network = build_network(ModelSettings(architecture="FPN", encoder=encoder), bands=3, classes=2)
        with pytest.raises(InputError, match=r"no state dict of the recipe's encoder: .* missing"):
            start_from(network, saved(state, tmp_path), bands=RGB, classes=TWO)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "code.pth")
    network = build_network(FCN, bands=3, classes=2)
    with pytest.raises(InputError, match=r"code\.pth is refused: its pickle asks to run or build torch\.nn"):
        start_from(network, tmp_path / "code.pth", bands=RGB, classes=TWO)


# From a model of ours


def model_file(
    folder: Path,
    settings: ModelSettings,
    *,
    bands: Sequence[str] = RGB,
    classes: Sequence[str] = TWO,
) -> tuple[Path, Network]:
    """A model file with random weights, and its network."""
    network = build_network(settings, bands=len(bands), classes=len(classes))
    random_state(network)
    for name, weight in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight, std=0.3)
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=settings),
        legend=make_legend(dict(enumerate(classes))),
        bands=tuple(Band(name=name, dtype="uint8", mean=120, std=60, p2=0, p98=255) for name in bands),
        gsd=1.0,
        class_bias=(0.0,) * len(classes),
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    save_model(network.state_dict(), card, folder / "model.safetensors")
    return folder / "model.safetensors", network.eval()


SMALL = {"output_stride": 16, "head_channels": 8}
KINDS = [
    ModelSettings(architecture="fcn", **SMALL),
    ModelSettings(architecture="deeplabv3", **SMALL),
    ModelSettings(architecture="deeplabv2", msc=True, auxiliary=False, output_stride=8),
    ModelSettings(architecture="gcn", output_stride=32),
    ModelSettings(architecture="Unet"),
]


def names_of(settings: ModelSettings) -> str:
    return settings.architecture


@pytest.mark.parametrize("settings", KINDS, ids=names_of)
def test_a_model_of_the_same_kind_is_taken_whole(settings: ModelSettings, tmp_path: Path) -> None:
    path, source = model_file(tmp_path, settings)
    network = build_network(settings, bands=3, classes=2)
    (note,) = start_from(network, path, bands=RGB, classes=TWO)
    held = source.state_dict()
    count = sum(not name.endswith("num_batches_tracked") for name in held)
    assert note == f"started from the model {path}: {count} of {count} tensors"
    assert all(torch.equal(held[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("settings", KINDS, ids=names_of)
def test_classes_in_another_order_give_the_same_logits_in_that_order(
    settings: ModelSettings, tmp_path: Path
) -> None:
    path, source = model_file(tmp_path, settings, classes=("a", "b", "c"))
    network = build_network(settings, bands=3, classes=3).eval()
    notes = start_from(network, path, bands=RGB, classes=("c", "a", "b"))
    assert "3 of 3 classes begin as the model's by name: c, a, b" in notes
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), source(image)[:, [2, 0, 1]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [KINDS[0], KINDS[1], KINDS[-1]], ids=names_of)
def test_shared_classes_keep_their_logits_and_new_ones_begin_fresh(
    settings: ModelSettings, tmp_path: Path
) -> None:
    path, source = model_file(tmp_path, settings, classes=("background", "building", "car"))
    target = ("building", "road", "water", "background")
    network = build_network(settings, bands=3, classes=4).eval()
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    notes = start_from(network, path, bands=RGB, classes=target)
    assert notes[1:] == ("2 of 4 classes begin as the model's by name: building, background",)
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(image)[:, [0, 3]], source(image)[:, [1, 0]], rtol=1e-5, atol=1e-5)
    held = source.state_dict()
    by_class = [name for name, tensor in network.state_dict().items() if tensor.shape != held[name].shape]
    assert by_class
    for name in by_class:
        assert torch.equal(network.state_dict()[name][1:3], fresh[name][1:3])


def test_no_common_class_leaves_the_last_layers_fresh(tmp_path: Path) -> None:
    path, source = model_file(tmp_path, KINDS[0])
    network = build_network(KINDS[0], bands=3, classes=2)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first, second = start_from(network, path, bands=RGB, classes=("corn", "wheat"))
    assert "4 that it lacks or has in another shape stay fresh (head." in first
    assert second == "all 2 classes are learnt afresh; the model's are background, building"
    held = source.state_dict()
    kept = [
        n for n, t in network.state_dict().items() if torch.equal(t, fresh[n]) and not torch.equal(t, held[n])
    ]
    assert len(kept) == 4


def test_bands_and_classes_change_together(tmp_path: Path) -> None:
    path, source = model_file(tmp_path, KINDS[1], bands=RGBN)
    network = build_network(KINDS[1], bands=3, classes=3)
    notes = start_from(network, path, bands=("nir", "red", "green"), classes=("x", *TWO))
    assert notes[1] == "the first layer was spread from 4 bands (red, green, blue, nir) to nir, red, green"
    old, new = (net.get_submodule("encoder.conv1").weight for net in (source, network))
    torch.testing.assert_close(new, old[:, [3, 0, 1]] + old[:, 2:3] / 3)


def test_the_encoder_goes_from_one_architecture_to_another(tmp_path: Path) -> None:
    path, source = model_file(tmp_path, KINDS[0])
    held = encoder_of(source).state_dict()
    for settings in KINDS[1:]:
        network = build_network(settings, bands=3, classes=2)
        note, *_ = start_from(network, path, bands=RGB, classes=TWO)
        assert "stay fresh" in note
        ours = encoder_of(network).state_dict()
        assert all(torch.equal(held[name], tensor) for name, tensor in ours.items())


def test_a_model_with_another_encoder_is_refused(tmp_path: Path) -> None:
    path, _ = model_file(tmp_path, KINDS[0])
    network = build_network(KINDS[0].model_copy(update={"encoder": "resnet50"}), bands=3, classes=2)
    with pytest.raises(
        InputError, match=r"the encoder resnet18, .* of 265 fit .* choose that model\.encoder"
    ):
        start_from(network, path, bands=RGB, classes=TWO)


def test_a_model_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path, _ = model_file(tmp_path, KINDS[0])
    whole = path.read_bytes()
    network = build_network(KINDS[0], bands=3, classes=2)
    for length in (4, 100, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"model\.safetensors is .* damaged"):
            start_from(network, path, bands=RGB, classes=TWO)


def test_random_numbers_go_on_as_if_nothing_had_been_read(tmp_path: Path) -> None:
    path, _ = model_file(tmp_path, KINDS[0])
    network = build_network(KINDS[0], bands=4, classes=3)
    before = torch.get_rng_state()
    start_from(network, path, bands=RGBN, classes=("x", *TWO))
    assert torch.equal(torch.get_rng_state(), before)
