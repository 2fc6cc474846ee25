"""From a protocol's logits to classes: constants stay constant, the largest score wins, parts make the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from protocol_parts import (
    AVERAGES,
    MULTI,
    POINTWISE,
    SIDE,
    WHOLE,
    image_of,
    pointwise,
    resized,
    sampler,
    slide,
)
from torch import Tensor

from aerial_seg.benchmarks import inference
from aerial_seg.benchmarks.inference import class_scores, predict_classes
from aerial_seg.benchmarks.protocol import (
    ResolvedProtocol,
    SlideWindow,
    load_protocol,
    protocol_names,
)
from aerial_seg.benchmarks.resize import ResizeRule
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.tiling.geometry import ModelGeometry


@pytest.mark.parametrize("name", protocol_names())
@pytest.mark.parametrize("stride", [1, 8])
def test_constants_stay_constant_through_every_protocol(name: str, stride: int) -> None:
    protocol = load_protocol(name)
    resolved = protocol.for_dataset("voc" if "voc" in protocol.datasets else "cityscapes")
    values = torch.tensor([0.5, -2.0, 1.0])

    def constant(images: Tensor) -> Tensor:
        cells = [-(-side // stride) for side in images.shape[2:]]
        return values[None, :, None, None].expand(len(images), -1, *cells)

    geometry = ModelGeometry(stride, stride, stride)
    scores = class_scores(image_of(51, 70), PaddedForward(constant, geometry, any_side=True), resolved)
    expected = values
    if resolved.average == "probabilities":
        expected = (values * (2 if resolved.flip == "window-sum" else 1)).softmax(0)
    torch.testing.assert_close(scores, expected[:, None, None].expand(-1, 51, 70), atol=1e-5, rtol=1e-5)


@given(SIDE, SIDE, st.integers(1, 60), st.integers(1, 60))
def test_images_are_resized_between_half_pixel_centres_without_smoothing(
    height: int, width: int, to_height: int, to_width: int
) -> None:
    image = image_of(height, width)
    expected = resized(image.numpy().astype(np.float64), to_height, to_width)
    got = inference.resize_bilinear(image, to_height, to_width)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)


@given(SIDE, SIDE, st.sampled_from([1, 2, 4, 8]), st.sampled_from(["own", "padded", "aligned"]), AVERAGES)
def test_classes_from_the_lattice_are_those_of_the_largest_scores(
    height: int, width: int, stride: int, sides: str, average: str
) -> None:
    net = sampler(stride, align_corners=sides == "aligned", any_side=sides == "own")
    image, protocol = image_of(height, width), replace(WHOLE, average=average)
    classes = predict_classes(image, net, protocol)
    assert classes.shape == (height, width)
    assert classes.dtype == np.uint8
    assert_are_largest(classes, class_scores(image, net, protocol))


@given(SIDE, SIDE, st.sampled_from([1, 2, 4, 8]), st.sampled_from(["own", "padded", "aligned"]))
def test_classes_made_where_the_cells_lie_are_the_hosts_to_the_byte(
    height: int, width: int, stride: int, sides: str
) -> None:
    net = sampler(stride, align_corners=sides == "aligned", any_side=sides == "own")
    image = image_of(height, width)
    hosts = predict_classes(image, net, WHOLE)
    with pytest.MonkeyPatch.context() as device:
        device.setattr(inference, "has_own_memory", lambda of: True)
        device.setattr(inference, "RowUpsampler", None)  # cells do not come home
        np.testing.assert_array_equal(predict_classes(image, net, WHOLE), hosts)


@pytest.mark.parametrize(
    "protocol",
    [
        MULTI,
        replace(MULTI, average="probabilities"),
        replace(WHOLE, scales=(0.5,), average="probabilities"),
        replace(WHOLE, resize=ResizeRule("fit", fit=(80, 40))),
        replace(WHOLE, average="probabilities", window=slide(12, 8, "probabilities"), flip="window"),
    ],
    ids=["logits", "probabilities", "one scale", "fit", "slide"],
)
def test_classes_are_those_of_the_largest_scores(protocol: ResolvedProtocol) -> None:
    image = image_of(21, 30)
    assert_are_largest(
        predict_classes(image, sampler(4), protocol), class_scores(image, sampler(4), protocol)
    )


def assert_are_largest(classes: NDArray[np.uint8], scores: Tensor) -> None:
    best = scores.topk(2, dim=0)
    certain = (best.values[0] - best.values[1] > 1e-4).numpy()
    assert certain.mean() > 0.9 or certain.size < 50
    np.testing.assert_array_equal(classes[certain], best.indices[0].numpy()[certain])


@pytest.mark.parametrize(("stride", "span"), [(8, 16), (4, 16), (16, 8), (8, 8)])
def test_cells_of_another_span_lie_where_they_were_trained(stride: int, span: int) -> None:
    """Cells that hold their own place give every pixel its own, along both ways to pixels."""
    height, width = 5 * 16, 7 * 16
    geometry = ModelGeometry(stride, stride, stride, cell_span=span)
    centres = [torch.arange(side // stride) * stride + (span - 1) / 2 for side in (height, width)]
    cells = torch.stack(torch.meshgrid(*centres, indexing="ij"))
    net = PaddedForward(lambda images: cells[None], geometry, any_side=True)
    pixels = net.logits(torch.zeros(1, 3, height, width))[0]
    inside = slice(16, -32)
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    torch.testing.assert_close(pixels[0, inside, inside], rows[inside, inside].float())
    torch.testing.assert_close(pixels[1, inside, inside], cols[inside, inside].float())
    direct = predict_classes(torch.zeros(3, height, width), net, WHOLE)
    np.testing.assert_array_equal(direct, class_scores(torch.zeros(3, height, width), net, WHOLE).argmax(0))


def test_a_tie_goes_to_the_first_class() -> None:
    image = image_of(9, 9)
    for protocol in (WHOLE, MULTI):
        net = PaddedForward(
            lambda images: torch.ones(len(images), 5, *images.shape[2:]), POINTWISE, any_side=True
        )
        assert not predict_classes(image, net, protocol).any()


@pytest.mark.parametrize("window", [None, slide(12, 8)])
def test_working_on_some_channels_and_rows_at_a_time_changes_nothing(
    window: SlideWindow | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = replace(MULTI, average="probabilities", window=window)
    image = image_of(21, 30)
    at_once = class_scores(image, sampler(4), protocol)
    monkeypatch.setattr(inference, "_VALUES_AT_ONCE", 700)
    torch.testing.assert_close(class_scores(image, sampler(4), protocol), at_once)


def test_neither_the_image_nor_the_networks_own_output_is_changed() -> None:
    image = image_of(6, 7)
    before = image.clone()
    for protocol in (WHOLE, MULTI, replace(WHOLE, window=slide(4, 3))):
        net = PaddedForward(lambda images: images, POINTWISE, any_side=True)
        class_scores(image, net, replace(protocol, average="probabilities"))
        assert torch.equal(image, before)


def test_a_network_that_breaks_its_word_about_its_lattice_is_our_own_bug() -> None:
    net = PaddedForward(pointwise, ModelGeometry(8, 8, 8), any_side=True)
    with pytest.raises(ValueError, match=r"cells for 9×9 pixels, not \(2, 2\)"):
        class_scores(image_of(9, 9), net, WHOLE)


def test_half_precision_logits_are_averaged_in_float32() -> None:
    net = PaddedForward(lambda images: pointwise(images).to(torch.bfloat16), POINTWISE, any_side=True)
    assert class_scores(image_of(6, 7), net, MULTI).dtype == torch.float32
