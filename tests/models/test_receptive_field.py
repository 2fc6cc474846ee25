"""What a logit cell sees, by the network's structure and by trying."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples, few
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from aerial_seg.models.build import build_network
from aerial_seg.models.network import Network
from aerial_seg.models.receptive_field.field import ReceptiveField, receptive_field
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry

WIDTH = 8
"""Pixels across the strips that are tried, at least."""


class Small(Network):
    """Some layers as a network."""

    def __init__(self, layers: nn.Module, *, stride: int = 1, step: int | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.geometry = ModelGeometry(output_stride=stride, logit_stride=stride, origin_step=step or stride)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,h,w)."""
        logits: Tensor = self.layers(image)
        return logits


def positive(network: Network) -> Network:
    """The network without anything that could cancel, in float64: a black image gives zeros, any light more."""
    generator = torch.Generator().manual_seed(0)
    network = network.double().eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.dim() > 1:
                draw = torch.rand(weight.shape, generator=generator, dtype=weight.dtype)
                weight.copy_((0.5 + draw) / weight[0].numel())
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return network


def answers(network: Network, axis: int, length: int, pixels: list[int], bands: int = 3) -> NDArray[np.bool_]:
    """(pixels, cells): does the cell change when the pixel, in a black strip along this axis, is lit?"""
    strips = torch.zeros(len(pixels), bands, length, valid_length(network, WIDTH), dtype=torch.float64)
    strips[range(len(pixels)), :, pixels] = 1
    with torch.inference_mode():
        logits = network(strips if axis == 0 else strips.mT)
    return (logits != 0).any(dim=1).any(dim=2 - axis).numpy()


def valid_length(network: Network, pixels: int) -> int:
    """The smallest valid side of at least so many pixels."""
    return network.geometry.nearest_valid_sides(pixels)[1]


@pytest.mark.parametrize(
    "settings_",
    [
        ModelSettings(architecture="fcn", head_channels=8, output_stride=8),
        ModelSettings(architecture="fcn", head_channels=8, output_stride=16, dilation_placement="contracted"),
        ModelSettings(architecture="fcn", head_channels=8, output_stride=32),
        ModelSettings(
            architecture="fcn", head_channels=8, encoder="resnet50", output_stride=16, multi_grid=(1, 2, 4)
        ),
        ModelSettings(
            architecture="fcn", head_channels=8, encoder="resnext50_32x4d", dilation_placement="contracted"
        ),
        ModelSettings(architecture="fcn", head_channels=8, align_corners=True, ceil_mode=True),
        ModelSettings(architecture="deeplabv2", output_stride=16, aspp_rates=(6, 24)),
    ],
    ids=lambda s: "-".join(map(str, s.model_dump(exclude_defaults=True).values())),
)
def test_a_pixel_inside_changes_a_dilated_networks_logit_and_one_outside_does_not(
    settings_: ModelSettings,
) -> None:
    network = positive(build_network(settings_, bands=1, classes=2))
    field = receptive_field(network, 1)
    for axis, reach in enumerate((field.rows, field.cols)):
        assert reach is not None
        stride = network.geometry.logit_stride
        assert reach.side == reach.last - reach.first + 1
        cell = -reach.first // stride + 2
        at = cell * stride
        length = valid_length(network, at + reach.last + 2)
        pixels = [at + reach.first - 1, at + reach.first, at + reach.last, at + reach.last + 1]
        seen = answers(network, axis, length, pixels, bands=1)[:, cell]
        assert seen.tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    "chosen",
    [
        ModelSettings(architecture="Unet", options={"decoder_channels": [16, 8, 8, 4, 4]}),
        ModelSettings(architecture="gcn", output_stride=32, kernel=5),
    ],
    ids=lambda chosen: chosen.architecture,
)
@pytest.mark.parametrize("axis", few([0, 1], quick=1))
def test_no_logit_behind_a_decoder_sees_beyond_the_field(chosen: ModelSettings, axis: int) -> None:
    network = positive(build_network(chosen, bands=1, classes=2))
    field = receptive_field(network, 1)
    reach, stride = (field.rows, field.cols)[axis], network.geometry.logit_stride
    assert reach is not None
    step = network.geometry.origin_step
    pixels = [valid_length(network, -reach.first), valid_length(network, -reach.first) + step // 2]
    length = valid_length(network, pixels[-1] + reach.last + step)
    for pixel, seen in zip(pixels, answers(network, axis, length, pixels, bands=1), strict=True):
        distances = pixel - stride * np.flatnonzero(seen)
        assert reach.first <= distances.min() < reach.first + step
        assert reach.last - step < distances.max() <= reach.last
    assert field.halo is not None
    check_halo(network, field.halo)


def test_scales_without_exact_places_are_given_a_cell_more() -> None:
    chosen = ModelSettings(architecture="deeplabv2", output_stride=32, msc=True)
    network = positive(build_network(chosen, bands=1, classes=2))
    reach = receptive_field(network, 1).rows
    assert reach is not None
    at = valid_length(network, -reach.first)
    length = valid_length(network, at + reach.last)
    distances = at - 32 * np.flatnonzero(answers(network, 0, length, [at], bands=1)[0])
    assert reach.first <= distances.min()
    assert distances.max() <= reach.last
    # A cell of the image at half its size, and the cell's own pixels.
    assert distances.max() - distances.min() >= reach.last - reach.first - 3 * 64


def check_halo(network: Network, halo: int) -> None:
    """Kept logits are those of a much larger image, and with a halo of one step less they are not."""
    geometry = network.geometry
    step, stride = geometry.origin_step, geometry.logit_stride
    core, margin = 2 * step + int(geometry.align_corners), halo + step
    side = core + 2 * halo
    places = torch.arange(-margin, side + margin, dtype=torch.float64)

    def kept(line: Tensor, axis: int, before: int) -> Tensor:
        """The core's logits of a strip in which `before` pixels lie before it."""
        strip = line[None, None, :, None].repeat(1, 1, 1, valid_length(network, WIDTH))
        with torch.inference_mode():
            logits = network(strip) if axis == 0 else network(strip.mT).mT
        return logits[:, :, before // stride :][:, :, : geometry.cells(core)]

    missed = []
    for axis in (0, 1):
        # Brighter towards the borders, so that neither a mean nor a maximum overlooks what is missing there.
        bright = 1 + (places - side / 2).square() / side**2
        endless = kept(bright, axis, margin + halo)
        torch.testing.assert_close(
            kept(bright[margin : margin + side], axis, halo), endless, rtol=1e-12, atol=0
        )
        for less in (0, step):
            # Black but for what is outside the tile: a mean over thousands of pixels would hide a single one.
            outside = ((places < less) | (places >= side - less)).double()
            missed.append((less, bool(kept(outside, axis, margin + halo).any())))
    assert not any(seen for less, seen in missed if less == 0)
    assert halo == 0 or any(seen for less, seen in missed if less == step)


@pytest.mark.parametrize(
    "chosen",
    [
        ModelSettings(architecture="fcn", head_channels=8),
        ModelSettings(architecture="fcn", head_channels=8, align_corners=True),
        ModelSettings(architecture="fcn", head_channels=8, output_stride=32),
    ],
    ids=["8", "8 with aligned corners", "32"],
)
def test_a_tile_with_the_halo_has_the_logits_of_the_endless_image(chosen: ModelSettings) -> None:
    network = positive(build_network(chosen, bands=1, classes=2))
    halo = receptive_field(network, 1).halo
    assert halo is not None
    check_halo(network, halo)


@dataclass(frozen=True)
class Layer:
    """One drawn layer and what it does to the stride, as a factor and a divisor."""

    module: nn.Module
    factor: int = 1
    divisor: int = 1


def convolution(kernel: tuple[int, int], stride: int, dilation: int) -> Layer:
    padding = (kernel[0] // 2 * dilation, kernel[1] // 2 * dilation)
    module = nn.Conv2d(1, 1, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    return Layer(module, factor=stride)


class Beside(nn.Module):
    """The input plus a layer's answer to it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> Tensor:
        """features → features of the same shape."""
        return features + self.module(features)


KERNELS = st.sampled_from([1, 3, 5])
LAYERS = st.one_of(
    st.builds(
        convolution, st.tuples(KERNELS, KERNELS), st.sampled_from([1, 1, 2]), st.sampled_from([1, 2, 3])
    ),
    st.builds(
        lambda kernel, rate: Layer(Beside(convolution((kernel, 1), 1, rate).module)),
        KERNELS,
        st.sampled_from([1, 4]),
    ),
    st.sampled_from(
        [
            Layer(nn.MaxPool2d(3, stride=2, padding=1), factor=2),
            Layer(nn.AvgPool2d(2), factor=2),
            Layer(nn.MaxPool2d(2, ceil_mode=True), factor=2),
            Layer(nn.AvgPool2d(3, stride=1, padding=1)),
            Layer(nn.ReLU(inplace=True)),
            Layer(nn.Upsample(scale_factor=2, mode="nearest"), divisor=2),
            Layer(nn.Upsample(scale_factor=2, mode="bilinear"), divisor=2),
        ]
    ),
    st.builds(lambda: Layer(nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, bias=False), divisor=2)),
)


@st.composite
def chains(draw: st.DrawFn) -> Small:
    """One to five layers whose stride never falls below 1 nor exceeds 8."""
    chosen, stride, step = [], 1, 1
    for layer in draw(st.lists(LAYERS, min_size=1, max_size=5)):
        after = stride * layer.factor // layer.divisor
        if layer.divisor <= stride and after <= 8:
            chosen.append(layer.module)
            stride, step = after, max(step, after)
    return Small(nn.Sequential(*chosen), stride=stride, step=step)


def check_against_trying(network: Small, *, exact: bool = True) -> ReceptiveField:
    """Every pixel of a strip is lit, one after another; cells that no border is near must answer as foretold."""
    field = receptive_field(network, 1)
    for axis, reach in enumerate((field.rows, field.cols)):
        assert reach is not None
        step, stride = network.geometry.origin_step, network.geometry.logit_stride
        before, after = (valid_length(network, abs(end) + 1) for end in (reach.first, reach.last))
        length = before + after + 2 * step
        seen = answers(network, axis, length, list(range(length)), bands=1).T
        cells = range(before // stride, (before + step) // stride)
        first = min(int(np.flatnonzero(seen[cell]).min()) - cell * stride for cell in cells)
        last = max(int(np.flatnonzero(seen[cell]).max()) - cell * stride for cell in cells)
        side = max(int(np.ptp(np.flatnonzero(seen[cell]))) + 1 for cell in cells)
        if exact:
            assert (reach.first, reach.last, reach.side) == (first, last, side)
        else:
            assert reach.first <= first
            assert last <= reach.last
    return field


@given(network=chains())
@settings(max_examples=examples(40))
def test_chains_of_layers_see_what_they_answer_to(network: Small) -> None:
    positive(network)
    field = check_against_trying(network)
    assert field.halo is not None
    check_halo(network, field.halo)


class ByFunction(nn.Module):
    """A function as a layer."""

    def __init__(self, function: object, *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.inner = nn.ModuleList(layers)

    def forward(self, features: Tensor) -> Tensor:
        """Whatever the function makes of the features and the inner layers."""
        assert callable(self.function)
        result: Tensor = self.function(features, *self.inner)
        return result


def channels_last(x: Tensor, linear: nn.Module) -> Tensor:
    last: Tensor = linear(x.permute(0, 2, 3, 1))
    return last.permute(0, 3, 1, 2)


def flat(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, x.shape[2:])


def shifted(x: Tensor) -> Tensor:
    return functional.pad(x, (3, 0, 2, 0))[:, :, :-2, :-3]


FOLLOWED = {
    "linear in channels": (channels_last, (nn.Linear(1, 2),)),
    "flattened and back": (flat, ()),
    "shifted by padding and cutting": (shifted, ()),
    "reflection": (lambda x: functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2), "reflect"), 5, 1), ()),
    "replication": (lambda x: functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), "replicate"), 3, 1), ()),
    "both shuffles": (lambda x: functional.pixel_shuffle(functional.pixel_unshuffle(x, 4), 4), ()),
    "bicubic": (lambda x: functional.interpolate(x, scale_factor=2, mode="bicubic")[:, :, ::2, ::2].abs(), ()),
    "bilinear by three": (lambda x: functional.interpolate(x, scale_factor=3, mode="bilinear")[:, :, ::3, ::3], ()),
    "two halves": (lambda x: torch.cat(torch.cat([x, functional.max_pool2d(x, 3, 1, 1)], 1).chunk(2, 1), 1), ()),
    "stacked": (lambda x: torch.stack([x, functional.max_pool2d(x, 5, 1, 2)]).sum(dim=0), ()),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
def test_operations_besides_convolution_are_followed(name: str) -> None:
    function, layers = FOLLOWED[name]
    network = positive(Small(ByFunction(function, *layers), step=4 if "shuffle" in name else 1))
    check_against_trying(network, exact=name not in ("bicubic", "bilinear by three", "both shuffles"))


def test_an_auxiliary_head_and_the_training_mode_do_not_matter() -> None:
    fields = set()
    for auxiliary in (False, True):
        chosen = ModelSettings(architecture="fcn", auxiliary=auxiliary)
        network = build_network(chosen, bands=3, classes=2).train()
        before = {name: weight.clone() for name, weight in network.state_dict().items()}
        fields.add(receptive_field(network, 3))
        assert network.training
        assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
    assert len(fields) == 1


def test_upsampling_with_aligned_corners_on_even_sides_has_a_field_but_no_halo() -> None:
    network = Small(
        nn.Sequential(nn.AvgPool2d(4), nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True)),
        step=4,
    )
    field = receptive_field(network, 1)
    assert field.side is not None
    assert field.halo is None
    assert "depends on the size" in str(field.reason)
    # A place lies up to three quarters of a cell before that of a cell itself.
    length = 64
    seen = answers(positive(network), 0, length, list(range(length)), bands=1).T
    assert field.rows is not None
    for cell in range(length):
        pixels = np.flatnonzero(seen[cell]) - cell
        assert field.rows.first <= pixels.min()
        assert pixels.max() <= field.rows.last


def test_an_origin_step_that_is_too_small_has_no_halo() -> None:
    layers = nn.Sequential(nn.AvgPool2d(4), nn.Upsample(scale_factor=4))
    assert receptive_field(Small(layers, step=4), 1).halo == 0
    assert receptive_field(Small(layers, step=2), 1).halo is None


@pytest.mark.parametrize(
    ("features", "side"),
    [
        pytest.param(torchvision.models.alexnet, 195, id="alexnet"),
        pytest.param(torchvision.models.vgg16, 212, id="vgg16"),
    ],
)
def test_published_fields(features: object, side: int) -> None:
    """Araujo et al. 2019, table of common networks: 195 px at AlexNet's last pooling, 212 px at VGG-16's."""
    assert callable(features)
    with torch.device("meta"):
        network = Small(features().features, stride=32)
    assert receptive_field(network, 3).side == side
