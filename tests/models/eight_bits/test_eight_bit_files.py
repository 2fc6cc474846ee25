"""8-bit weights: what the file holds, what its numbers stand for, and that hostile ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.inference.engines.eight_bits import rounded_graph
from aerial_seg.legend import make_legend
from aerial_seg.models.eight_bits.calibrate import calibrate
from aerial_seg.models.eight_bits.card import EightBits
from aerial_seg.models.eight_bits.graph import InputRange
from aerial_seg.models.eight_bits.layers import EightBitLayers, quantised, to_tensors
from aerial_seg.models.file import ModelCard, load_model, load_on_meta, save_model
from aerial_seg.models.header import HEADER_KEY
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.tiling.geometry import ModelGeometry


class Joined(Network):
    """A residual sum, and a pooled tensor joined to an enlarged one: all that shares ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = ModelGeometry(2, 2, 4)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second, self.down = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 2, stride=2)
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H/2,W/2)."""
        wide = torch.relu(self.norm(self.first(image)))
        wide = torch.relu(self.second(wide) + wide)
        low = torch.relu(self.down(torch.max_pool2d(wide, 2)))
        low = nn.functional.interpolate(low, scale_factor=2, mode="nearest")
        logits: Tensor = self.last(torch.cat([torch.max_pool2d(wide, 2), low], dim=1))
        return logits


LAYERS = ("first", "second", "down", "last")
FORM: dict[str, Any] = {"folded": ("norm",), "biased": ()}


def joined() -> Joined:
    """One whose batch norm is gone."""
    torch.manual_seed(0)
    network = Joined().eval().requires_grad_(False)
    network.norm = nn.Identity()  # type: ignore[assignment]
    return network


def images(count: int = 4) -> list[Tensor]:
    return [torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(count)]


def rounded(network: Network) -> tuple[dict[str, Tensor], EightBitLayers]:
    """A file's tensors, and what the engine must know."""
    weights = {name: network.get_submodule(name).weight for name in LAYERS}
    layers = calibrate(network, images(), tell=lambda: None).layers(LAYERS, weights)
    whole = {name: quantised(weights[name], layers.weight_scales[name]) for name in LAYERS}
    return to_tensors(network.state_dict(), whole, layers), layers


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes the model; `facts` replace parts of what its card says of 8 bits."""

    def write(**facts: Any) -> Path:
        document = FORM | {
            "layers": LAYERS, "chips": 4, "seed": 0, "source_sha256": "0" * 64, "miou": 0.5, "source_miou": 0.5,
        }  # fmt: skip
        card = ModelCard(
            tool_version="test", recipe=Recipe(), own_network="Joined", legend=make_legend({0: "no", 1: "yes"}),
            bands=tuple(Band(name=n, dtype="uint8", mean=9, std=2, p2=1, p98=20) for n in "rgb"),
            gsd=None, class_bias=(0.0, 0.0), iteration=3, validation_miou=None, data_fingerprint="f",
            eight_bits=EightBits.model_validate(document | facts),
        )  # fmt: skip
        tensors, _ = rounded(joined())
        save_model(tensors, card, tmp_path / "m8.safetensors")
        return tmp_path / "m8.safetensors"

    return write


def test_a_file_gives_the_numbers_that_its_bytes_stand_for(written: Callable[..., Path]) -> None:
    path = written()
    tensors = load_file(path)
    model, source = load_model(path, Joined()), joined()
    assert model.eight_bits is not None
    for name in LAYERS:
        held, scale = tensors[f"{name}.weight"].numpy(), tensors[f"{name}.weight_scale"].numpy()
        weight = source.get_submodule(name).weight.numpy()
        assert held.dtype == np.int8
        assert np.abs(held.astype(int)).max(axis=(1, 2, 3)).tolist() == [127] * len(held)
        np.testing.assert_allclose(scale, np.abs(weight).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
        got = model.network.get_submodule(name).weight.detach().numpy()
        np.testing.assert_array_equal(got, held.astype(np.float32) * scale[:, None, None, None])
        assert (np.abs(got - weight) <= scale[:, None, None, None] * 0.5001).all()
        assert torch.equal(model.eight_bits.weight_scales[name], tensors[f"{name}.weight_scale"])
    assert isinstance(model.network.norm, nn.Identity)


def test_one_place_has_one_range(written: Callable[..., Path]) -> None:
    inputs = load_model(written(), Joined()).eight_bits.inputs  # type: ignore[union-attr]
    # `down` reads the pooled sum, which `last` reads joined to another tensor; nobody else reads the others.
    assert inputs["down"] == inputs["last"]
    assert len({inputs["first"], inputs["second"], inputs["down"]}) == 3
    assert [inputs[name].zero_point > 0 for name in LAYERS] == [True, False, False, False]


def test_the_graph_rounds_as_whole_numbers_do() -> None:
    """The first layer by hand, in integers: bytes times bytes, summed in 32 bits."""
    network = joined()
    network.forward = lambda image: network.first(image)  # type: ignore[method-assign]
    weights = {"first": network.first.weight}
    layers = calibrate(network, images(), tell=lambda: None).layers(["first"], weights)
    (image,) = images(1)
    got = rounded_graph(network, layers, image)(image)
    one, scale = layers.inputs["first"], layers.weight_scales["first"].double()
    bytes_in = (image.double() / one.scale).round().add(one.zero_point).clamp(0, 255) - one.zero_point
    whole = quantised(weights["first"], layers.weight_scales["first"]).double()
    sums = nn.functional.conv2d(bytes_in, whole, padding=1)
    assert torch.equal(sums, sums.round())
    wanted = sums * scale[None, :, None, None] * one.scale + network.first.bias.double()[None, :, None, None]
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)


def test_rounding_changes_little_and_what_is_shared_is_read_rounded() -> None:
    network = joined()
    _, layers = rounded(network)
    (image,) = images(1)
    graph = rounded_graph(network, layers, image)
    wanted, got = network(image), graph(image)
    assert 0 < float((got - wanted).square().mean() / wanted.square().mean()) ** 0.5 < 0.05
    told = [node for node in graph.graph.nodes if "fake_quantize_per_tensor" in str(node.target)]
    # The image, both ReLUs before the pooling, and the enlarged one: rounded where they arise, once.
    assert len(told) == 4
    assert sorted(len(node.users) for node in told) == [1, 1, 2, 2]


def test_layers_that_are_kept_are_not_rounded() -> None:
    network = joined()
    weights = {name: network.get_submodule(name).weight for name in LAYERS}
    some = calibrate(network, images(), tell=lambda: None).layers(["second"], weights)
    assert list(some.inputs) == list(some.weight_scales) == ["second"]
    graph = rounded_graph(network, some, images(1)[0])
    assert sum("fake_quantize" in str(node.target) for node in graph.graph.nodes) == 2


def change(path: Path, name: str, tensor: Tensor | None) -> None:
    """One tensor of the file is another, or gone."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    save_file(tensors, path, metadata={HEADER_KEY: metadata[HEADER_KEY]})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("first.weight_scale", torch.full((8,), torch.nan), "NaN or infinite numbers in first.weight_scale"),
        ("first.input_scale", torch.tensor(torch.inf), "NaN or infinite numbers in first.input_scale"),
        ("first.weight_scale", torch.zeros(8), "first.weight_scale is not between"),
        ("down.input_scale", torch.tensor(-0.5), "down.input_scale is not between"),
        ("down.input_scale", torch.tensor(1e30), "down.input_scale is not between"),
        ("first.weight_scale", torch.ones(7), r"weight_scale is F32 \[7\], wanted F32 \[8\]"),
        ("first.input_scale", torch.ones(1), r"input_scale is F32 \[1\], wanted F32 \[\]"),
        ("first.weight", torch.zeros(8, 3, 3, 3), r"first.weight is F32 .* wanted I8"),
        ("first.weight", torch.full((8, 3, 3, 3), -128, dtype=torch.int8), "numbers below -127"),
        ("last.input_zero_point", None, "misses last.input_zero_point"),
        ("last.more", torch.ones(1), "has also last.more"),
    ],
)
def test_hostile_tensors_are_refused_in_a_line(
    written: Callable[..., Path], name: str, value: Tensor | None, reason: str
) -> None:
    path = written()
    change(path, name, value)
    with pytest.raises(InputError, match=reason) as error:
        load_model(path, Joined())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"layers": ("first", "gone")}, "gone is no convolution"),
        ({"layers": ("norm",)}, "norm is no convolution"),
        ({"layers": ("first", "first")}, "named twice"),
        ({"folded": ("first",)}, "first is no batch norm"),
        ({"biased": ("norm",)}, "norm is no convolution"),
        ({"kept": {"first": 0.1}}, "first cannot be of 8 bits"),
    ],
)
def test_a_card_of_another_network_is_refused(
    written: Callable[..., Path], facts: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        load_model(written(**facts), Joined())


def test_ranges_that_do_not_fit_the_graph_are_refused() -> None:
    network = joined()
    _, layers = rounded(network)
    other = EightBitLayers(layers.weight_scales, {**layers.inputs, "last": InputRange(9.0, 3)})
    with pytest.raises(InputError, match="down and last read one tensor by two scales"):
        rounded_graph(network, other, images(1)[0])
    network.down = nn.Identity()  # type: ignore[assignment]
    network.forward = lambda image: network.first(image)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="no convolution second"):
        rounded_graph(network, layers, images(1)[0])


def test_shapes_alone_are_checked_as_strictly(tmp_path: Path, written: Callable[..., Path]) -> None:
    path = written()
    with pytest.raises(InputError, match="a network of one's own"):
        load_on_meta(path)


def test_models_of_float32_say_nothing_of_8_bits(written: Callable[..., Path]) -> None:
    path = written()
    with safe_open(path, framework="pt") as file:
        assert '"eight_bits"' in file.metadata()[HEADER_KEY]
    card = load_model(path, Joined()).card.model_copy(update={"eight_bits": None})
    save_model(Joined().state_dict(), card, path)
    with safe_open(path, framework="pt") as file:
        assert '"eight_bits"' not in file.metadata()[HEADER_KEY]
    assert load_model(path, Joined()).eight_bits is None
