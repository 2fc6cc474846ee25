"""Where logits meet labels: both nearest conventions, and the scales of DeepLabv2 each at its own cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from aerial_seg.models.build import build_network
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.loss import SegmentationLoss
from aerial_seg.training.loss_terms.places import labels_at_cells
from aerial_seg.training.loss_terms.terms import Terms


def labelled(seed: int, shape: tuple[int, ...], classes: int, share: float) -> Tensor:
    """Random labels, about `share` of them known."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, shape)
    labels[random.random(shape) >= share] = 255
    return torch.from_numpy(labels)


def loss_of(terms: Terms, weights: Tensor, geometry: ModelGeometry) -> SegmentationLoss:
    return SegmentationLoss(geometry, auxiliary_weight=0.4, class_weights=weights, terms=terms)


@settings(max_examples=examples(200))
@given(st.integers(1, 900), st.integers(1, 130))
def test_silent_error_3_labels_at_cells_are_pillows_nearest(pixels: int, cells: int) -> None:
    """Not torch's `nearest`, which takes the cell's first pixel."""
    labels = torch.from_numpy(np.random.default_rng(pixels).integers(0, 21, (1, pixels, 3)))
    found = labels_at_cells(labels, cells, 3, align_corners=False)
    wanted = Image.fromarray(labels[0].numpy().astype(np.uint8)).resize((3, cells), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(found[0].numpy(), np.array(wanted))


@pytest.mark.parametrize("pixels", [321, 161, 241, 320, 473, 513])
@pytest.mark.parametrize("cells", [41, 21, 31, 40, 60, 65])
def test_the_papers_crops_are_sampled_as_deeplab_pytorch_does_by_pillow(pixels: int, cells: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 21, (1, pixels, pixels)))
    found = labels_at_cells(labels, cells, cells, align_corners=False)
    picture = Image.fromarray(labels[0].numpy().astype(np.float32))
    np.testing.assert_array_equal(
        found[0].numpy(), np.array(picture.resize((cells, cells), Image.Resampling.NEAREST))
    )


def test_with_align_corners_a_cells_label_is_that_of_its_own_pixel() -> None:
    labels = torch.arange(513)[None, :, None].repeat(1, 1, 513)
    found = labels_at_cells(labels, 65, 65, align_corners=True)
    assert found[0, :, 0].tolist() == list(range(0, 513, 8))
    uneven = labels_at_cells(labels[:, :10], 4, 513, align_corners=True)
    assert uneven[0, :, 0].tolist() == [0, 3, 6, 9]
    assert labels_at_cells(labels, 2, 1, align_corners=True)[0].tolist() == [[0], [512]]


@pytest.mark.parametrize("align", [False, True])
def test_the_loss_at_logits_is_cross_entropy_there(align: bool) -> None:
    torch.manual_seed(0)
    side = 33 if align else 32
    geometry, cells = ModelGeometry(8, 8, 8, align_corners=align), 5 if align else 4
    logits, labels = torch.randn(2, 3, cells, cells).double(), labelled(3, (2, side, side), 3, 0.6)
    loss = loss_of(Terms(at_logits=True), torch.tensor([1.0, 2, 3]), geometry)
    at_cells = labels[:, ::8, ::8] if align else labels[:, 4::8, 4::8]
    wanted = cross_entropy(logits, at_cells, weight=torch.tensor([1.0, 2, 3]).double(), ignore_index=255)
    assert loss(logits, None, labels).item() == pytest.approx(wanted.item(), rel=1e-12)
    upsampled = interpolate(logits, size=(side, side), mode="bilinear", align_corners=align)
    other = cross_entropy(upsampled, labels, weight=torch.tensor([1.0, 2, 3]).double(), ignore_index=255)
    assert loss_of(Terms(), torch.tensor([1.0, 2, 3]), geometry)(
        logits, None, labels
    ).item() == pytest.approx(other.item(), rel=1e-9)


def test_the_loss_of_each_scale_is_at_that_scales_own_cells() -> None:
    """As deeplab-pytorch trains: cross-entropy of 1, 0.5, 0.75 and the largest, labels by Pillow at each one's size."""
    torch.manual_seed(0)
    settings_ = ModelSettings(
        architecture="deeplabv2", encoder="resnet18", msc=True, auxiliary=False, output_stride=8
    )
    network = build_network(settings_, bands=3, classes=4).double().eval()
    image, labels = torch.randn(1, 3, 64, 64).double(), labelled(1, (1, 64, 64), 4, 0.7)
    (largest, *scales), _ = network.forward_scales(image)
    assert [one.shape[-1] for one in (largest, *scales)] == [8, 8, 4, 6]
    loss = loss_of(Terms(at_logits=True), torch.ones(4), network.geometry)(largest, None, labels, scales)
    wanted = 0.0
    for logits in (largest, *scales):
        small = Image.fromarray(labels[0].numpy().astype(np.float32)).resize(
            logits.shape[2:], Image.Resampling.NEAREST
        )
        target = torch.from_numpy(np.array(small)).long()[None]
        wanted += cross_entropy(logits, target, ignore_index=255).item()
    assert loss.item() == pytest.approx(wanted, rel=1e-9)
    # The largest logits are those of all scales on one lattice, whoever asks.
    (same, *on_one), _ = network.forward_members(image)
    assert torch.equal(same, largest)
    assert {one.shape for one in on_one} == {largest.shape}
