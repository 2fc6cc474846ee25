"""Probabilities hold the calibrated threshold: the mask is their argmax, and the bias in the file takes it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.models.file import TrainedModel
from aerial_seg.outputs.maps import PROBABILITY_STEP


def test_the_mask_is_the_argmax_of_the_probabilities_whatever_was_calibrated(
    pointwise: Callable[..., TrainedModel],
) -> None:
    model, bias = pointwise(), (0.0, -1.2, 0.7)
    image = np.random.default_rng(0).integers(0, 256, (2, 40, 50), dtype=np.uint8)

    def made(bias: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        card = model.card.model_copy(update={"class_bias": bias})
        one = Segmenter(
            Ensemble((replace(model, card=card),)),
            SegmentSettings(probabilities=True),
            EngineSettings("eager", "fp32", "cpu"),
            batch_size=None,
        )
        found = one(image)
        assert found.probabilities is not None
        channels = model.card.legend.channel_table()[found.classes]
        return channels, found.probabilities * PROBABILITY_STEP

    channels, biased = made(bias)
    ranked = np.sort(biased, axis=0)
    clear = ranked[-1] - ranked[-2] > 1.5 * PROBABILITY_STEP
    np.testing.assert_array_equal(channels[clear], biased.argmax(axis=0)[clear])
    assert clear.mean() > 0.9
    plain_channels, plain = made((0.0, 0.0, 0.0))
    assert (channels != plain_channels).mean() > 0.02, "a bias that moves nothing proves little"
    without = biased * np.exp(-np.array(bias))[:, None, None]
    without /= without.sum(axis=0)
    # A byte of each layer is worth 0.004, and the largest factor between them e^1.9.
    assert np.abs(without - plain).max() < 0.004 * np.exp(1.9)
