"""Only what runs is built, stored and counted, whatever the architecture and encoder, and older files still load."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aerial_seg.bands import IMAGENET_BANDS
from aerial_seg.errors import AerialSegError, InputError
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.jobs.info.model_card import model_card
from aerial_seg.legend import make_legend
from aerial_seg.models.backbone.encoders import encoder_names
from aerial_seg.models.build import architectures, build_network
from aerial_seg.models.file import ModelCard, load_model, load_on_meta, save_model
from aerial_seg.models.header import HEADER_KEY
from aerial_seg.models.meta import build_on_meta
from aerial_seg.models.network import Network, SmpNetwork
from aerial_seg.models.pretrained import start_from
from aerial_seg.models.unused import Unused, drop_unused
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.recipe.model import OWN_ARCHITECTURES, ModelSettings

CLASSES = 3
DEMO = load_recipe("demo").model
SHORT = [
    DEMO,
    ModelSettings(architecture="PSPNet", encoder="mobilenet_v2"),  # of which it ran blocks to no effect
    ModelSettings(architecture="FPN", encoder="efficientnet-b0", options={"encoder_depth": 3}),
    ModelSettings(architecture="fcn", encoder="timm-efficientnet-b0", output_stride=16, head_channels=16),
    ModelSettings(architecture="Segformer", encoder="mit_b0", options={"encoder_depth": 3}),
]
"""Networks of which a library builds layers that they never use."""
EVERY_HEAD = [
    *(ModelSettings(architecture=name, output_stride=16, auxiliary=True) for name in OWN_ARCHITECTURES),
    ModelSettings(architecture="deeplabv2", msc=True),
    ModelSettings(architecture="deeplabv3", deformable=True),
    ModelSettings(architecture="pspnet", reduce_bins=False, bins=(1, 3)),
    ModelSettings(architecture="fcn", head="no-concat"),
    *(
        ModelSettings(architecture=name)
        for name in architectures()
        if name not in (*OWN_ARCHITECTURES, "DPT")
    ),
    ModelSettings(architecture="DPT", encoder="tu-convnext_tiny"),
    *SHORT,
]


def name_of(settings: ModelSettings) -> str:
    chosen = settings.model_dump(exclude_defaults=True, exclude={"head_channels"})
    return "-".join(str(value) for value in chosen.values())


def idle_tensors(network: Network) -> list[str]:
    """Parameters that a backward pass leaves without a gradient, and statistics of modules that no forward calls.

    Oracle: torch's own backward, on its meta device where a whole network costs nothing.
    """
    called: set[nn.Module] = set()
    for module in network.modules():
        module.register_forward_pre_hook(lambda module, _: called.add(module))
    side = network.geometry.nearest_valid_sides(max(128, network.geometry.origin_step))[1]
    members, auxiliary = network.train().forward_members(torch.zeros(2, 3, side, side, device="meta"))
    everything = [*members, *([] if auxiliary is None else [auxiliary])]
    torch.autograd.backward([logits.sum() for logits in everything])
    return [
        *(name for name, weight in network.named_parameters() if weight.grad is None),
        *(
            f"{name}.{key}"
            for name, module in network.named_modules()
            for key, _ in module.named_buffers(recurse=False)
            if module not in called and not list(module.parameters(recurse=False))
        ),
    ]


@pytest.mark.parametrize("settings", EVERY_HEAD, ids=name_of)
def test_every_weight_of_every_head_is_trained(settings: ModelSettings) -> None:
    network = build_on_meta(settings, bands=3, classes=CLASSES).requires_grad_()
    assert idle_tensors(network) == []


def every_encoder() -> Iterator[Any]:
    """One of each family of smp's, with a decoder that reads all stages, with one that reads three, and under a head of
    ours: members of a family differ in how often a block is repeated."""
    few = (
        "tu-resnet18", "tu-convnext_tiny", "tu-efficientnet_b0", "tu-mobilenetv3_large_100", "tu-regnety_002",
        "tu-resnest14d", "tu-seresnet50", "tu-tf_efficientnetv2_b0", "tu-mobilenetv4_conv_small", "tu-darknet53",
    )  # fmt: skip
    families = {re.split(r"\d", name)[0]: name for name in reversed(encoder_names())}
    for encoder in (*families.values(), *few):
        yield ModelSettings(architecture="Unet", encoder=encoder)
        yield ModelSettings(architecture="PSPNet", encoder=encoder)
        yield ModelSettings(architecture="fcn", encoder=encoder, output_stride=16)


@pytest.mark.slow
def test_every_weight_of_every_encoder_is_trained() -> None:
    built, idle = 0, {}
    for settings in every_encoder():
        try:
            network = build_on_meta(settings, bands=3, classes=CLASSES).requires_grad_()
        except AerialSegError:
            continue  # an encoder that its library cannot dilate or does not give to this decoder
        built += 1
        if found := idle_tensors(network):
            idle[name_of(settings)] = found[:5]
    assert idle == {}
    assert built > 70


def whole(settings: ModelSettings) -> nn.Module:
    """The network as its library builds it, and as older versions did."""
    torch.manual_seed(3)
    model: nn.Module = getattr(smp, settings.architecture)(
        settings.encoder, encoder_weights=None, in_channels=3, classes=CLASSES, **settings.options
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def card_of(settings: ModelSettings) -> ModelCard:
    return ModelCard(
        tool_version="0.1.0",
        recipe=Recipe(model=settings),
        legend=make_legend(dict(enumerate(["ground", "road", "water"]))),
        bands=IMAGENET_BANDS,
        gsd=0.5,
        class_bias=(0.0,) * CLASSES,
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )


def write(folder: Path, settings: ModelSettings, weights: dict[str, Tensor]) -> Path:
    path = folder / "old.safetensors"
    save_model(weights, card_of(settings), path)
    return path


def old_file(folder: Path, settings: ModelSettings) -> tuple[Path, nn.Module]:
    model = whole(settings)
    return write(folder, settings, {f"model.{name}": t for name, t in model.state_dict().items()}), model


SMPS = [one for one in SHORT if one.architecture not in OWN_ARCHITECTURES]


@pytest.mark.parametrize("settings", SMPS, ids=name_of)
def test_a_file_with_the_unused_layers_predicts_as_it_did(settings: ModelSettings, tmp_path: Path) -> None:
    path, model = old_file(tmp_path, settings)
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    loaded = load_model(path)
    with torch.no_grad():
        assert torch.equal(loaded.network(image), model(image))
    dropped = len(model.state_dict()) - len(loaded.network.state_dict())
    assert dropped > 0
    (note,) = loaded.notes
    assert f"holds {dropped} tensors" in note
    assert load_on_meta(path).notes == loaded.notes
    # Written again it is what this version writes, and needs no note.
    again = tmp_path / "new.safetensors"
    save_model(loaded.network.state_dict(), loaded.card, again)
    assert load_model(again).notes == ()
    assert again.stat().st_size < path.stat().st_size


def test_the_demos_model_is_counted_and_stored_without_the_layers_it_never_runs(tmp_path: Path) -> None:
    """Oracle: the parts of smp's network that its forward reads, counted by hand."""
    path, model = old_file(tmp_path, DEMO)
    encoder: Any = model.encoder
    never = sum(w.numel() for stage in (encoder.layer3, encoder.layer4) for w in stage.parameters())
    wanted = sum(w.numel() for w in model.parameters()) - never
    card = model_card(path)
    assert card["parameters"] == card["network"]["parameters"]["network"] == wanted == 824_243
    assert "layer3, model.encoder.layer4" in card["file"]["notes"][0]
    small = tmp_path / "small.safetensors"
    save_model(load_model(path).network.state_dict(), card_of(DEMO), small)
    assert small.stat().st_size < 3_400_000 < 45_000_000 < path.stat().st_size
    assert model_card(small)["parameters"] == wanted
    assert model_card(small)["file"]["notes"] == []


def test_only_exactly_the_unused_layers_are_left_out(tmp_path: Path) -> None:
    path, _ = old_file(tmp_path, DEMO)
    held = load_file(path)
    first = "model.encoder.layer4.0.conv1.weight"
    for weights, wrong in (
        (held | {"model.encoder.layer5.weight": torch.ones(1)}, "has also model.encoder.layer5.weight"),
        (
            {name: t for name, t in held.items() if name != first},
            "has also model.encoder.layer3.0.bn1.bias and",
        ),
        (held | {first: torch.ones(3, 3)}, rf"{first} is F32 \[3, 3\], wanted F32 \[512, 256, 3, 3\]"),
    ):
        odd = write(tmp_path, DEMO, weights)
        for load in (load_model, load_on_meta):
            with pytest.raises(InputError, match=wrong):
                load(odd)


def test_nonsense_in_layers_that_never_run_does_no_harm(tmp_path: Path) -> None:
    path, model = old_file(tmp_path, DEMO)
    with torch.no_grad():
        for weight in model.encoder.layer4.parameters():  # type: ignore[union-attr]
            weight.fill_(float("nan"))
    path = write(tmp_path, DEMO, {f"model.{name}": t for name, t in model.state_dict().items()})
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_model(path).network(image), model(image))


@pytest.mark.parametrize("settings", SHORT, ids=name_of)
def test_a_whole_encoders_weights_start_the_shortened_one(settings: ModelSettings, tmp_path: Path) -> None:
    torch.manual_seed(4)
    encoder = smp.encoders.get_encoder(settings.encoder, weights=None, depth=5)
    file = tmp_path / "encoder.safetensors"
    save_file({name: t.contiguous() for name, t in encoder.state_dict().items()}, file)
    network = build_network(settings, bands=3, classes=CLASSES)
    told = start_from(
        network, file, bands=[band.name for band in IMAGENET_BANDS], classes=["ground", "road", "water"]
    )
    held = encoder.state_dict()
    ours = {
        name.rpartition("encoder.")[2]: tensor
        for name, tensor in network.state_dict().items()
        if "encoder." in name
    }
    assert ours
    assert all(torch.equal(held[name], tensor) for name, tensor in ours.items())
    assert f"{len(held) - len(ours)} of layers that this network never uses left out" in told[0]


def test_an_old_model_file_starts_another_and_tells_what_it_left_out(tmp_path: Path) -> None:
    path, _ = old_file(tmp_path, DEMO)
    network = build_network(DEMO, bands=3, classes=CLASSES)
    told = start_from(
        network, path, bands=[band.name for band in IMAGENET_BANDS], classes=["ground", "road", "water"]
    )
    assert "60 of layers that this network never uses left out" in told[0]
    held = load_file(path)
    assert all(torch.equal(held[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("settings", SHORT, ids=name_of)
def test_weightless_networks_are_those_with_weights(settings: ModelSettings) -> None:
    real = build_network(settings.model_copy(update={"weights": "none"}), bands=3, classes=CLASSES)
    bare = build_on_meta(settings, bands=3, classes=CLASSES)
    assert {name: t.shape for name, t in real.state_dict().items()} == {
        name: t.shape for name, t in bare.state_dict().items()
    }
    assert real.unused == bare.unused != {}
    assert any(isinstance(module, Unused) for module in real.modules())


class Valued(nn.Conv2d):
    """Computes with a value, which torch's meta device has not."""

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → (N,K,H,W)."""
        return super().forward(image) * float(self.weight.detach().abs().max())


class OneSide(nn.Conv2d):
    """Takes images of one side only, and no others."""

    side = 224

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → (N,K,H,W)."""
        assert image.shape[2] == self.side
        return super().forward(image)


def around(layer: nn.Module) -> SmpNetwork:
    network = SmpNetwork(nn.Sequential(layer), output_stride=32, origin_step=32)
    network.idle = nn.Linear(3, 3)
    return network


@pytest.mark.parametrize("layer", [nn.Conv2d, Valued, OneSide])
def test_what_runs_is_seen_whatever_a_network_needs_to_run(layer: type[nn.Conv2d]) -> None:
    network = around(layer(3, 2, 1))
    drop_unused(network, bands=3)
    assert network.unused == {"idle.weight": (torch.float32, (3, 3)), "idle.bias": (torch.float32, (3,))}
    assert list(network.state_dict()) == ["model.0.weight", "model.0.bias"]


def test_a_network_that_takes_no_image_stays_whole() -> None:
    layer = OneSide(3, 2, 1)
    layer.side = 100
    network = around(layer)
    drop_unused(network, bands=3)
    assert network.unused == {}
    assert len(network.state_dict()) == 4


def test_only_weights_can_show_what_depends_on_values() -> None:
    """build_on_meta builds it with weights then."""
    with pytest.raises(RuntimeError, match="does not show without weights"):
        drop_unused(around(Valued(3, 2, 1)).to("meta"), bands=3)


def test_what_several_models_left_out_is_told_of_each(tmp_path: Path) -> None:
    path, _ = old_file(tmp_path, DEMO)
    models = [load_model(path), load_model(path)]
    assert Ensemble.of(models, [path, path]).as_one.notes == (*models[0].notes, *models[1].notes)


def test_building_leaves_weights_and_random_numbers_as_they_were() -> None:
    """What is trained from a seed is what it was before unused layers went."""
    model = whole(DEMO)
    torch.manual_seed(3)
    network = build_network(DEMO.model_copy(update={"weights": "none"}), bands=3, classes=CLASSES)
    after = torch.rand(3)
    torch.manual_seed(3)
    getattr(smp, DEMO.architecture)("resnet18", encoder_weights=None, classes=CLASSES, **DEMO.options)
    assert torch.equal(after, torch.rand(3))
    held = model.state_dict()
    learnt = dict(network.named_parameters())
    assert all(torch.equal(held[name.removeprefix("model.")], weight) for name, weight in learnt.items())
    assert network.training
    assert all(weight.requires_grad for weight in learnt.values())


def test_the_header_says_as_much_as_before(tmp_path: Path) -> None:
    """A file of this version holds no trace of what is not in it."""
    network = build_network(DEMO.model_copy(update={"weights": "none"}), bands=3, classes=CLASSES)
    path = tmp_path / "model.safetensors"
    save_model(network.state_dict(), card_of(DEMO), path)
    assert not any("layer3" in name or "layer4" in name for name in load_file(path))
    assert HEADER_KEY.encode() in path.read_bytes()[:100_000]


def test_what_a_network_does_without_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running the network for it takes most of the time of loading a small one."""
    settings = ModelSettings(
        architecture="FPN", encoder="resnet18", options={"encoder_depth": 3, "decoder_pyramid_channels": 40}
    )
    first = build_network(settings, bands=3, classes=CLASSES)
    looked: list[Network] = []
    monkeypatch.setattr(
        "aerial_seg.models.build.unused_modules", lambda network, **_: looked.append(network) or ()
    )
    again = build_network(settings, bands=3, classes=CLASSES)
    assert not looked
    assert first.unused
    assert again.unused == first.unused
    assert again.state_dict().keys() == first.state_dict().keys()
    options = {"decoder_pyramid_channels": 40}  # such as no other test builds in this process
    other = build_network(settings.model_copy(update={"options": options}), bands=3, classes=CLASSES)
    assert looked == [other]
