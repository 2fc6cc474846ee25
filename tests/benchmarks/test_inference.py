"""Protocols on images: laws, and an independent reference in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from protocol_parts import (
    AVERAGES,
    MULTI,
    POINTWISE,
    SIDE,
    WEIGHTS,
    WHOLE,
    Array,
    image_of,
    pointwise,
    resized,
    sampler,
    slide,
)
from torch import Tensor
from torch.nn.functional import avg_pool2d

from aerial_seg.benchmarks.inference import class_scores
from aerial_seg.benchmarks.protocol import (
    ResolvedProtocol,
)
from aerial_seg.benchmarks.slide import axis_origins, counts, slide_scores
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.models.build import build_network
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry

FEW = st.integers(1, 20)


class Recorder:
    """A forward that keeps what it was shown."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += [image.clone() for image in images]
        return self.forward(images)


# An independent reference: every linear step is a matrix, every average is written out, all in float64.


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


def reference_members(image: Tensor, stride: int, protocol: ResolvedProtocol) -> list[Array]:
    """The logits of every member at the original size, whole mode."""
    original = image.numpy().astype(np.float64)
    _, height, width = original.shape
    members = []
    for scale in protocol.scales:
        shape = protocol.resize.shape(height, width, scale)
        for mirrored in (False, True) if protocol.flip == "image" else (False,):
            seen = resized(original, *shape)
            seen = seen[:, :, ::-1] if mirrored else seen
            cells = np.tanh(np.einsum("kc,chw->khw", WEIGHTS.numpy(), seen[:, ::stride, ::stride])) * 3
            logits = resized(cells, *shape, stride=stride, run=shape)
            logits = logits[:, :, ::-1] if mirrored else logits
            members.append(resized(logits, height, width))
    return members


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize(("height", "width", "stride"), [(24, 32, 4), (19, 30, 4), (7, 5, 2), (1, 9, 8)])
def test_scales_and_flips_are_averaged_at_full_resolution(
    average: str, height: int, width: int, stride: int
) -> None:
    image = image_of(height, width)
    protocol = replace(MULTI, average=average)
    members = reference_members(image, stride, protocol)
    expected = np.mean([softmax(m) if average == "probabilities" else m for m in members], axis=0)
    got = class_scores(image, sampler(stride), protocol)
    assert got.shape == (4, height, width)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-5)


def test_silent_error_16_max_is_not_mean_and_logits_are_not_probabilities() -> None:
    image = image_of(24, 32)
    members = reference_members(image, 4, MULTI)
    logits = class_scores(image, sampler(4), MULTI).numpy()
    probabilities = class_scores(image, sampler(4), replace(MULTI, average="probabilities")).numpy()
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    assert np.abs(logits - np.max(members, axis=0)).max() > 0.1
    assert np.abs(softmax(logits.astype(np.float64)) - probabilities).max() > 0.01
    assert np.abs(logits - np.mean(members, axis=0)).max() < 2e-5


def test_silent_error_16_flips_are_unflipped_before_they_are_added() -> None:
    image = image_of(24, 32)
    flipped = replace(WHOLE, flip="image")
    net = sampler(4)
    straight = class_scores(image, net, WHOLE)
    mirror_image = class_scores(image.flip(-1), net, WHOLE)
    torch.testing.assert_close(class_scores(image, net, flipped), (straight + mirror_image.flip(-1)) / 2)
    left_mirrored = (straight + mirror_image) / 2
    assert (class_scores(image, net, flipped) - left_mirrored).abs().max() > 0.5


@settings(max_examples=examples(25))
@given(SIDE, SIDE, st.sampled_from([1, 2, 4, 8]), AVERAGES, st.booleans(), st.data())
def test_flipped_members_make_scores_equivariant(
    height: int, width: int, stride: int, average: str, sliding: bool, data: st.DataObject
) -> None:
    window = None
    if sliding:
        crop = data.draw(st.integers(4, 24))
        window = slide(crop, data.draw(st.integers(max(1, crop // 3), crop)), average, "centre")
    protocol = replace(WHOLE, scales=(1.0, 0.5), flip="image", average=average, window=window)
    image, net = image_of(height, width), sampler(stride)
    scores = class_scores(image.flip(-1), net, protocol)
    torch.testing.assert_close(scores, class_scores(image, net, protocol).flip(-1), atol=1e-4, rtol=1e-4)
    if stride > 1 and width > 2 * stride and not sliding:
        alone = replace(protocol, flip="none")
        unlike = class_scores(image.flip(-1), net, alone) - class_scores(image, net, alone).flip(-1)
        assert unlike.abs().max() > 1e-3


@settings(max_examples=examples(25))
@given(
    st.integers(4, 12),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(["window", "window-sum"]),
    st.data(),
)
def test_flips_in_windows_make_scores_equivariant_where_windows_lie_symmetrically(
    crop: int, down: int, across: int, flip: str, data: st.DataObject
) -> None:
    step = data.draw(st.integers(max(1, crop // 3), crop))
    image = image_of(crop + down * step, crop + across * step)
    protocol = replace(WHOLE, flip=flip, average="probabilities", window=slide(crop, step, "probabilities"))
    scores = class_scores(image.flip(-1), sampler(4), protocol)
    expected = class_scores(image, sampler(4), protocol).flip(-1)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


# Windows.


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_silent_error_17_windows_cover_an_axis_each_once_the_last_one_shifted_inward(
    crop: int, more: int, data: st.DataObject
) -> None:
    length = crop + more - 1
    step = data.draw(st.integers(1, crop))
    origins = axis_origins(length, crop, step)
    assert origins[0] == 0
    assert origins[-1] == length - crop
    assert len(set(origins)) == len(origins)
    assert all(origin == index * step for index, origin in enumerate(origins[:-1]))
    # The count that semseg's tool/test.py makes, in floats.
    assert len(origins) == int(np.ceil(float(length - crop) / step) + 1)
    seen = counts(origins, crop, length)
    assert seen.min() >= 1
    assert seen.sum() == len(origins) * crop
    expected = [sum(o <= p < o + crop for o in origins) for p in range(length)]
    assert seen.tolist() == expected


def test_silent_error_17_a_window_that_fits_exactly_is_there_once() -> None:
    assert axis_origins(12, 6, 3) == (0, 3, 6)
    assert axis_origins(13, 6, 3) == (0, 3, 6, 7)
    assert axis_origins(6, 6, 6) == (0,)
    assert axis_origins(10, 6, 6) == (0, 4)


@settings(max_examples=examples(30))
@given(SIDE, SIDE, st.integers(1, 24), st.data())
def test_silent_error_17_every_window_runs_once_and_is_whole(
    height: int, width: int, crop: int, data: st.DataObject
) -> None:
    window = slide(crop, data.draw(st.integers(max(1, crop // 3), crop)))
    at = torch.stack(torch.meshgrid(torch.arange(1, height + 1), torch.arange(1, width + 1), indexing="ij"))
    forward = Recorder(lambda images: images)
    scores = slide_scores(at.float(), PaddedForward(forward, POINTWISE, any_side=True), window, flip="none")
    torch.testing.assert_close(scores, at.float(), atol=1e-4, rtol=1e-5)
    corners = [tuple(image[:, 0, 0].int().tolist()) for image in forward.seen]
    rows = axis_origins(max(height, crop), crop, window.step)
    cols = axis_origins(max(width, crop), crop, window.step)
    assert corners == [(row + 1, col + 1) for row in rows for col in cols]
    assert {tuple(image.shape[1:]) for image in forward.seen} == {(crop, crop)}


@settings(max_examples=examples(40))
@given(
    FEW,
    FEW,
    st.integers(2, 16),
    st.sampled_from(["none", "image", "window", "window-sum"]),
    AVERAGES,
    AVERAGES,
    st.sampled_from(["end", "centre", "none"]),
    st.booleans(),
    st.data(),
)
def test_slide_equals_whole_for_a_pointwise_model(
    height: int,
    width: int,
    crop: int,
    flip: str,
    average: str,
    window_average: str,
    padding: str,
    any_side: bool,
    data: st.DataObject,
) -> None:
    if flip == "window-sum":
        flip = "window" if window_average == "logits" else flip
    if window_average == "probabilities":
        average = "probabilities"
    window = slide(crop, data.draw(st.integers(max(1, crop // 3), crop)), window_average, padding)
    net = PaddedForward(pointwise, ModelGeometry(4, 1, 4), any_side=any_side)
    image = image_of(height, width)
    got = class_scores(image, net, replace(WHOLE, flip=flip, average=average, window=window))
    expected = class_scores(image, net, replace(WHOLE, average=average))
    if flip == "window-sum":  # of a pointwise model: twice the logits
        expected = (2 * class_scores(image, net, WHOLE)).softmax(0)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("flip", ["none", "window", "window-sum"])
def test_windows_are_averaged_as_written_out(average: str, flip: str) -> None:
    image = image_of(9, 12)
    expected, seen = np.zeros((4, 9, 12)), np.zeros((9, 12))
    for row in (0, 3):
        for col in (0, 4, 6):
            part = image[:, row : row + 6, col : col + 6]
            (straight,) = reference_members(part, 2, WHOLE)
            (mirrored,) = (m[:, :, ::-1] for m in reference_members(part.flip(-1), 2, WHOLE))
            if flip == "window-sum":
                scores = softmax(straight + mirrored)
            else:
                sides = [straight, mirrored] if flip == "window" else [straight]
                scores = np.mean([softmax(s) if average == "probabilities" else s for s in sides], axis=0)
            expected[:, row : row + 6, col : col + 6] += scores
            seen[row : row + 6, col : col + 6] += 1
    got = slide_scores(image, sampler(2), slide(6, 4, average), flip=flip)
    np.testing.assert_allclose(got.numpy(), expected / seen, atol=2e-5)


def test_logits_averaged_in_windows_are_softmaxed_before_members_are_averaged() -> None:
    image = image_of(9, 12)
    protocol = replace(WHOLE, window=slide(6, 4), average="probabilities", flip="image")
    sides = [slide_scores(seen, sampler(2), slide(6, 4), flip="none") for seen in (image, image.flip(-1))]
    expected = (sides[0].softmax(0) + sides[1].flip(-1).softmax(0)) / 2
    torch.testing.assert_close(class_scores(image, sampler(2), protocol), expected)
    assert (expected - ((sides[0] + sides[1].flip(-1)) / 2).softmax(0)).abs().max() > 1e-3


# Padding.


@pytest.mark.parametrize(("padding", "top", "left"), [("end", 0, 0), ("centre", 1, 1)])
def test_silent_error_8_windows_are_padded_with_the_mean_which_is_0(
    padding: str, top: int, left: int
) -> None:
    forward = Recorder(pointwise)
    net = PaddedForward(forward, POINTWISE, any_side=True)
    slide_scores(torch.full((3, 5, 6), 5.0), net, slide(8, 8, padding=padding), flip="none")
    (seen,) = forward.seen
    expected = torch.zeros(3, 8, 8)
    expected[:, top : top + 5, left : left + 6] = 5
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("shape", [(5, 13), (13, 5), (5, 6), (8, 8), (14, 9)])
def test_without_padding_windows_end_with_the_image_as_mmsegs_do(shape: tuple[int, int]) -> None:
    """Written out from mmsegmentation's slide_inference: as many windows, of these pixels, averaged."""
    image, crop, step = image_of(*shape), 8, 5
    forward = Recorder(pointwise)
    got = slide_scores(
        image,
        PaddedForward(forward, POINTWISE, any_side=True),
        slide(crop, step, padding="none"),
        flip="none",
    )
    height, width = shape
    expected, windows = torch.zeros(4, height, width), []
    seen = torch.zeros(height, width)
    for row in range(max(height - crop + step - 1, 0) // step + 1):
        for col in range(max(width - crop + step - 1, 0) // step + 1):
            bottom, right = min(row * step + crop, height), min(col * step + crop, width)
            inside = slice(max(bottom - crop, 0), bottom), slice(max(right - crop, 0), right)
            windows.append(image[:, *inside])
            expected[:, *inside] += pointwise(image[None, :, *inside])[0]
            seen[inside] += 1
    assert len(forward.seen) == len(windows)
    assert all(map(torch.equal, forward.seen, windows))
    torch.testing.assert_close(got, expected / seen)


def test_silent_error_8_whole_images_are_padded_with_0_to_a_side_that_the_network_takes() -> None:
    forward = Recorder(pointwise)
    class_scores(
        torch.full((3, 5, 6), 5.0), PaddedForward(forward, ModelGeometry(4, 1, 4), any_side=False), WHOLE
    )
    (seen,) = forward.seen
    assert seen.shape == (3, 8, 8)
    assert seen.sum() == 3 * 5 * 6 * 5
    assert torch.equal(seen[:, :5, :6], torch.full((3, 5, 6), 5.0))


def test_padding_sees_the_corners_of_an_aligned_lattice() -> None:
    net = sampler(4, align_corners=True, any_side=False)
    assert [net.run_side(side) for side in (1, 9, 10, 17)] == [9, 9, 17, 17]
    image = image_of(10, 13)
    aligned = class_scores(image, net, WHOLE)
    lattice = pointwise(image[None, :, ::4, ::4])[0]
    torch.testing.assert_close(aligned[:, ::4, ::4], lattice, atol=1e-5, rtol=1e-5)


def pooling(images: Tensor) -> Tensor:
    """Image-level features and nothing else."""
    return pointwise(images.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *images.shape[2:])


def test_silent_error_9_pooling_sees_the_image_and_no_padding() -> None:
    image = image_of(13, 18) + 1
    forward = Recorder(pooling)
    scores = class_scores(image, PaddedForward(forward, ModelGeometry(8, 1, 8), any_side=True), WHOLE)
    (seen,) = forward.seen
    assert torch.equal(seen, image)
    expected = pointwise(image.mean(dim=(1, 2))[None, :, None, None])[0].expand(-1, 13, 18)
    torch.testing.assert_close(scores, expected)
    padded = class_scores(image, PaddedForward(pooling, ModelGeometry(8, 1, 8), any_side=False), WHOLE)
    assert (padded - scores).abs().max() > 0.05


def test_silent_error_9_pooling_is_another_one_in_windows() -> None:
    image = image_of(12, 12)
    net = PaddedForward(pooling, POINTWISE, any_side=True)
    whole = class_scores(image, net, WHOLE)
    windows = class_scores(image, net, replace(WHOLE, window=slide(6, 6)))
    assert (whole - windows).abs().max() > 0.1
    pooled = avg_pool2d(image[None], 6)
    torch.testing.assert_close(windows[:, ::6, ::6], pointwise(pooled)[0])


@pytest.mark.parametrize("architecture", ["deeplabv3", "pspnet", "fcn", "Unet"])
def test_our_networks_take_any_side_and_smps_are_padded(architecture: str) -> None:
    torch.manual_seed(0)
    head = {} if architecture == "Unet" else {"head_channels": 8}
    model = ModelSettings(architecture=architecture, output_stride=8, **head)
    network = build_network(model, bands=3, classes=4).eval()
    forward = Recorder(network)
    scores = class_scores(image_of(37, 50), PaddedForward.of(network, forward), WHOLE)
    assert scores.shape == (4, 37, 50)
    assert torch.isfinite(scores).all()
    assert forward.seen[0].shape == ((3, 64, 64) if architecture == "Unet" else (3, 37, 50))
