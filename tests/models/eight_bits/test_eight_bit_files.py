"""8-bit weights: what the file holds, what its numbers stand for, and that hostile ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from eight_bit_models import LAYERS, Joined, card_of_two, images, joined
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aerial_seg.errors import InputError
from aerial_seg.inference.engines.eight_bits import rounded_graph
from aerial_seg.models.eight_bits.calibrate import calibrate
from aerial_seg.models.eight_bits.card import EightBits
from aerial_seg.models.eight_bits.graph import InputRange
from aerial_seg.models.eight_bits.layers import EightBitLayers, quantised
from aerial_seg.models.file import load_model, load_on_meta, save_model
from aerial_seg.models.header import HEADER_KEY
from aerial_seg.models.network import Network

FORM: dict[str, Any] = {"folded": ("norm",), "biased": ()}


def rounded(network: Network) -> tuple[dict[str, Tensor], EightBitLayers]:
    """A file's tensors, and what the engine must know."""
    made = calibrate(network, images(), tell=lambda: None).rounded(network, LAYERS)
    return made.tensors, made.layers


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes the model; `facts` replace parts of what its card says of 8 bits."""

    def write(**facts: Any) -> Path:
        document = FORM | {
            "layers": LAYERS, "summed": ("second",), "chips": 4, "seed": 0, "source_sha256": "0" * 64,
            "miou": 0.5, "source_miou": 0.5,
        }  # fmt: skip
        told = EightBits.model_validate(document | facts)
        card = card_of_two().model_copy(update={"eight_bits": told})
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
    made = calibrate(network, images(), tell=lambda: None).rounded(network, ["first"])
    layers, network.first.bias = made.layers, made.network.first.bias
    (image,) = images(1)
    got = rounded_graph(network, layers, image)(image)
    one, scale = layers.inputs["first"], layers.weight_scales["first"].double()
    bytes_in = (image.double() / one.scale).round().add(one.zero_point).clamp(0, 255) - one.zero_point
    whole = quantised(network.first.weight, layers.weight_scales["first"]).double()
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
    # The image, both ReLUs before the pooling, the enlarged one, and one part of the sum: where they arise, once.
    assert len(told) == 5
    assert sorted(len(node.users) for node in told) == [1, 1, 1, 2, 2]
    assert list(layers.outputs) == ["second"]


def test_layers_that_are_kept_are_not_rounded() -> None:
    network = joined()
    some = calibrate(network, images(), tell=lambda: None).rounded(network, ["second"]).layers
    assert list(some.inputs) == list(some.weight_scales) == list(some.outputs) == ["second"]
    graph = rounded_graph(network, some, images(1)[0])
    assert sum("fake_quantize" in str(node.target) for node in graph.graph.nodes) == 3


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
        ("second.output_scale", torch.tensor(torch.nan), "NaN or infinite numbers in second.output_scale"),
        ("second.output_scale", torch.tensor(0.0), "second.output_scale is not between"),
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
        ({"layers": ("first", "down", "last")}, "not of those of 8 bits"),
        ({"summed": ("second", "second")}, "named twice"),
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
    other = replace(layers, inputs={**layers.inputs, "last": InputRange(9.0, 3)})
    with pytest.raises(InputError, match="down and last read one tensor by two scales"):
        rounded_graph(network, other, images(1)[0])
    with pytest.raises(InputError, match="the output of first does not only go into sums"):
        rounded_graph(network, replace(layers, outputs={"first": InputRange(9.0, 3)}), images(1)[0])
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
