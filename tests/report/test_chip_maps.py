"""The maps that are drawn are the maps that were scored."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.models.build import build_network
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.report import chip_maps
from aerial_seg.report.chip_maps import ChipMaps
from aerial_seg.training.callbacks import Checkpoint
from aerial_seg.training.validation.calibration import THRESHOLDS
from aerial_seg.training.validation.chips import validate
from aerial_seg.training.validation.monitor import Monitor
from aerial_seg.training.validation.outcome import ValidationGround, judge

CPU = torch.device("cpu")
MONITOR = Monitor("miou", ("background", "building"))


@pytest.fixture
def chips() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of several sizes, none of which the network takes as it is."""
    random = np.random.default_rng(0)
    return [
        (
            torch.from_numpy(random.normal(size=(3, h, w)).astype(np.float32)),
            torch.from_numpy(random.choice(np.array([0, 1, 2, 255], np.uint8), (h, w))),
        )
        for h, w in ((33, 40), (70, 65), (33, 40))
    ]


def test_maps_are_those_that_validation_counts_and_the_network_goes_on_untouched(
    chips: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    torch.manual_seed(0)
    settings = ModelSettings(architecture="fcn", output_stride=16, head_channels=8, auxiliary=False)
    training, other = (build_network(settings, bands=3, classes=3) for _ in range(2))
    training.train()
    before = copy.deepcopy(training.state_dict())
    random = torch.get_rng_state()
    made = ChipMaps(training, chips, CPU).maps(Checkpoint(5, other.state_dict(), None), [2, 0, 1])
    assert torch.equal(random, torch.get_rng_state())
    assert training.training
    assert all(torch.equal(before[name], tensor) for name, tensor in training.state_dict().items())
    for number, predicted in zip((2, 0, 1), made, strict=True):
        _, labels = chips[number]
        drawn = ConfusionMatrix(3)
        drawn.add(labels.numpy(), predicted)
        counted = validate(other, chips[number : number + 1], classes=3, device=CPU).matrix()
        assert np.array_equal(drawn.counts, counted.counts)
        assert predicted.shape == labels.shape


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_maps_are_at_the_calibrated_threshold(
    chips: list[tuple[torch.Tensor, torch.Tensor]], share: float
) -> None:
    """They were at one half, beside captions that told the scores at the threshold that ships."""
    two = [(image, torch.where(labels == 2, 0, labels)) for image, labels in chips]
    torch.manual_seed(0)
    settings = ModelSettings(architecture="fcn", output_stride=16, head_channels=8, auxiliary=False)
    network = build_network(settings, bands=3, classes=2)
    tallies = validate(network, two, classes=2, device=CPU)
    # The threshold that calls about this share of all pixels a building.
    called = {t: tallies.matrix(t).counts[:, 1].sum() for t in THRESHOLDS.tolist()}
    pixels = tallies.matrix().counts.sum()
    threshold = min(called, key=lambda t: abs(called[t] - share * pixels))
    assert 0 < called[threshold] < pixels
    assert called[threshold] != called[0.5]
    scored = tallies.scored(threshold)
    ground = ValidationGround.of_images(tuple(chip.name for chip in scored))
    outcome = judge(tallies, ground, ("background", "building"), calibrate=True, monitor=MONITOR)
    outcome = replace(outcome, threshold=threshold, chips=scored)
    checkpoint = Checkpoint(5, network.state_dict(), outcome.scores, chips=scored, outcome=outcome)
    made = ChipMaps(network, two, CPU).maps(checkpoint, range(3))
    for (_, labels), predicted, score in zip(two, made, scored, strict=True):
        drawn = ConfusionMatrix(2)
        drawn.add(labels.numpy(), predicted)
        assert np.array_equal(drawn.counts, score.confusion)


def test_a_chip_is_run_once_per_checkpoint(
    chips: list[tuple[torch.Tensor, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(
        ModelSettings(architecture="fcn", output_stride=16, head_channels=8, auxiliary=False),
        bands=3,
        classes=3,
    )
    run: list[int] = []
    plain = chip_maps.PaddedForward.logits
    monkeypatch.setattr(
        chip_maps.PaddedForward,
        "logits",
        lambda self, images: (run.append(images.shape[2]), plain(self, images))[1],
    )
    maps = ChipMaps(network, chips, CPU)
    for iteration, numbers in ((1, [0, 1]), (1, [1, 0, 1]), (2, [1])):
        maps.maps(Checkpoint(iteration, network.state_dict(), None), numbers)
    assert run == [33, 70, 70]
