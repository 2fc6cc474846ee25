"""Cells that training stretched over its crops: where they lie, and that tiles and whole images are read there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laws import examples
from torch import Tensor
from torch.nn.functional import interpolate

from aerial_seg.benchmarks.inference import class_scores, predict_classes
from aerial_seg.benchmarks.protocol import load_protocol
from aerial_seg.errors import SettingsError
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.models.build import build_network
from aerial_seg.models.network import Network
from aerial_seg.models.placing import PlacedNetwork, for_tiles, untold_stretching
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry

strides = st.sampled_from([2, 4, 8, 16])


def stretched(stride: int, cells: int) -> ModelGeometry:
    return ModelGeometry(stride, stride, stride, stretched_side=stride * (cells - 1) + 1)


class Cells(Network):
    """Any image has these logits, (1,K,h,w)."""

    def __init__(self, geometry: ModelGeometry, cells: Tensor) -> None:
        super().__init__()
        self.geometry, self.cells = geometry, cells

    def forward(self, image: Tensor) -> Tensor:
        return self.cells


@given(stride=strides, cells=st.integers(2, 60), seed=st.integers(0, 9))
@settings(max_examples=examples(40))
def test_in_a_crop_as_trained_a_placed_cell_is_the_stretched_map_at_its_pixel(
    stride: int, cells: int, seed: int
) -> None:
    """torch's own stretching, align_corners=False, read at pixels 0, s, 2s, …"""
    geometry = stretched(stride, cells)
    side = geometry.stretched_side
    assert side is not None
    assert geometry.is_valid_side(side)
    assert geometry.cells(side) == cells
    logits = torch.randn(1, 2, cells, cells, generator=torch.Generator().manual_seed(seed))
    placed = for_tiles(Cells(geometry, logits))(torch.zeros(1, 3, side, side))
    wanted = interpolate(logits.double(), size=(side, side), mode="bilinear", align_corners=False)
    torch.testing.assert_close(placed.double(), wanted[:, :, ::stride, ::stride], rtol=1e-5, atol=1e-5)


@given(stride=strides, cells=st.integers(2, 60), count=st.integers(2, 150))
@settings(max_examples=examples(60))
def test_a_cell_lies_as_far_from_the_nearer_edge_as_it_did_in_training(
    stride: int, cells: int, count: int
) -> None:
    geometry = stretched(stride, cells)
    places = geometry.cell_places(count)
    assert (np.diff(places) > 0).all()
    np.testing.assert_allclose(
        places + places[::-1], stride * (count - 1), atol=1e-9, err_msg="mirrored alike"
    )
    assume(count >= cells)
    half = cells // 2
    side = stride * (cells - 1) + 1
    trained = (np.arange(half) + 0.5) * side / cells - 0.5
    np.testing.assert_allclose(places[:half], trained, atol=1e-9)
    middle = np.arange(half, count - half)
    np.testing.assert_allclose(places[half : count - half], stride * middle, atol=1e-9)


@given(stride=strides, cells=st.integers(2, 30), count=st.integers(2, 60))
@settings(max_examples=examples(40))
def test_what_is_linear_on_the_ground_is_linear_on_the_tiles_lattice(
    stride: int, cells: int, count: int
) -> None:
    geometry = stretched(stride, cells)
    places = torch.from_numpy(geometry.cell_places(count)).float()
    network = PlacedNetwork(Cells(geometry, (places[:, None] + 3 * places[None, :])[None, None]))
    got = network(torch.zeros(1, 3, 1, 1))[0, 0]
    ground = (stride * torch.arange(count)).clamp(float(places[0]), float(places[-1]))
    torch.testing.assert_close(got, ground[:, None] + 3 * ground[None, :], rtol=1e-5, atol=1e-3)
    assert network.geometry == ModelGeometry(stride, stride, stride, align_corners=True)


def test_a_whole_image_is_stretched_over_as_its_project_does() -> None:
    """Any size, all the cells that there are, the shortcut of one member alike; nothing is padded."""
    torch.manual_seed(3)
    chosen = ModelSettings(
        architecture="deeplabv2", encoder="resnet18", ceil_mode=True, stretched_side=97, auxiliary=False
    )
    network = build_network(chosen, bands=3, classes=4).eval()
    net = PaddedForward.of(network, network)
    whole = load_protocol("deeplabv2").for_dataset("voc")
    for height, width in ((97, 97), (100, 119), (64, 71)):
        image = torch.randn(3, height, width)
        with torch.inference_mode():
            cells = network(image[None])
        wanted = interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(class_scores(image, net, whole), wanted, rtol=1e-4, atol=1e-4)
        best = wanted.topk(2, dim=0).values
        sure = (best[0] - best[1] > 1e-3).numpy()
        assert sure.mean() > 0.9
        np.testing.assert_array_equal(
            predict_classes(image, net, whole)[sure], wanted.argmax(0).numpy()[sure]
        )


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"stretched_side": 320}, "side 320, wanted 8·n \\+ 1, and align_corners=False; try 321"),
        ({"stretched_side": 321, "align_corners": True}, "wanted 8·n \\+ 1, and align_corners=False"),
    ],
)
def test_crops_that_cells_cannot_be_stretched_over_are_refused(geometry: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ModelGeometry(8, 8, 8, **geometry)


def test_another_output_stride_is_refused() -> None:
    chosen = ModelSettings(architecture="deeplabv2", encoder="resnet18", stretched_side=97)
    network = build_network(chosen, bands=3, classes=2)
    with pytest.raises(SettingsError, match="stretched over its crops at 8, and lie elsewhere at another"):
        network.set_output_stride(16)


def test_crops_of_another_side_than_it_says_are_refused() -> None:
    geometry = stretched(8, 13)
    geometry.check_crop(height=97, width=97)
    with pytest.raises(
        SettingsError, match=r"training\.crop is 105, but model\.stretched_side .* crops of 97"
    ):
        geometry.check_crop(height=105, width=105)
    # However the sides are ordered, and though both are valid sides.
    for height, width in ((97, 193), (193, 97)):
        with pytest.raises(
            SettingsError,
            match=rf"is {height}x{width} \(height, width\).* crops of 97, squares; set training.crop = 97$",
        ):
            geometry.check_crop(height=height, width=width)
    ModelGeometry(8, 8, 8).check_crop(height=512, width=1024)


def test_a_model_that_an_older_version_imported_is_told_of() -> None:
    data = "imported from deeplab-pytorch, checkpoint sha256 0"
    old = ModelSettings(architecture="deeplabv2")
    (note,) = untold_stretching("m.safetensors", old, data)
    assert "import the checkpoint again" in note
    assert untold_stretching("m", old.model_copy(update={"stretched_side": 321}), data) == ()
    assert untold_stretching("m", old, "imported from mmseg, checkpoint sha256 0") == ()
