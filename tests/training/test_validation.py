from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.models.build import build_network
from aerial_seg.models.device import OutOfMemory
from aerial_seg.models.network import Network
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.validation import chips as validation
from aerial_seg.training.validation.calibration import THRESHOLDS, ThresholdCurve, threshold_bias
from aerial_seg.training.validation.chips import validate


class Pointwise(Network):
    """Two logits per pixel straight from the first band."""

    def __init__(self, step: int = 8) -> None:
        super().__init__()
        self.geometry = ModelGeometry(step, 1, step)
        self.unused = nn.BatchNorm2d(1)

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[2] % self.geometry.origin_step == 0
        return torch.stack([torch.zeros_like(image[:, 0]), image[:, 0]], dim=1)


class Store(list):
    """Chips of several sizes with random truth."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        super().__init__(
            (
                torch.from_numpy(random.normal(size=(1, h, w)).astype(np.float32)),
                torch.from_numpy(random.choice(np.array([0, 1, 255], np.uint8), (h, w))),
            )
            for h, w in ((8, 8), (13, 21), (30, 9))
        )


def test_validation_counts_every_labelled_pixel_once_whatever_the_chip_size() -> None:
    store, network = Store(), Pointwise().train()
    told: list[tuple[int, int]] = []
    tallies = validate(
        network,
        store,
        classes=2,
        device=torch.device("cpu"),
        names=["a", "b", "c"],
        tell=lambda *counts: told.append(counts),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    matrix = tallies.matrix()
    expected = np.zeros((2, 2), int)
    for image, labels in store:
        for truth, value in zip(labels.flatten().tolist(), image.flatten().tolist(), strict=True):
            if truth != 255:
                expected[truth, int(value > 0)] += 1
    assert np.array_equal(matrix.counts, expected)
    assert network.training
    scored = tallies.scored()
    assert [chip.name for chip in scored] == ["a", "b", "c"]
    assert np.array_equal(sum(chip.confusion for chip in scored), expected)
    for chip, (_, labels) in zip(scored, store, strict=True):
        assert chip.ignored == (labels == 255).sum()
        assert chip.confusion.sum() == (labels != 255).sum()


def test_the_loss_is_the_mean_over_labelled_pixels_of_all_chips() -> None:
    store = Store()
    tallies = validate(Pointwise(), store, classes=2, device=torch.device("cpu"), with_loss=True)
    losses = []
    for image, labels in store:
        logits = torch.stack([torch.zeros_like(image[0]), image[0]])
        each = torch.nn.functional.cross_entropy(
            logits[None], labels[None].long(), ignore_index=255, reduction="none"
        )
        losses.append(each[0][labels != 255])
    assert tallies.loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-6)
    assert validate(Pointwise(), store, classes=2, device=torch.device("cpu")).loss is None


def test_the_bias_shifts_the_decision() -> None:
    store = Store()
    tallies = validate(Pointwise(), store, classes=2, device=torch.device("cpu"), bias=(0.0, 99.0))
    assert tallies.matrix().counts[:, 0].sum() == 0


class Seen(Pointwise):
    """Remembers how many chips ran together; a device that has room for `room` of them."""

    def __init__(self, room: int = 99) -> None:
        super().__init__()
        self.room, self.together = room, list[int]()

    def forward(self, image: Tensor) -> Tensor:
        if len(image) > self.room:
            raise OutOfMemory("no room")
        self.together.append(len(image))
        return super().forward(image)


def alike_and_different() -> list[tuple[Tensor, Tensor]]:
    random = np.random.default_rng(1)
    sides = [(16, 16)] * 5 + [(8, 24)] * 2 + [(16, 16)]
    return [
        (
            torch.from_numpy(random.normal(size=(1, *side)).astype(np.float32)),
            torch.from_numpy(random.choice(np.array([0, 1, 255], np.uint8), side)),
        )
        for side in sides
    ]


@pytest.mark.parametrize(
    ("own_memory", "room", "together"),
    [(False, 99, [1] * 8), (True, 99, [4, 1, 2, 1]), (True, 1, [1] * 8)],
    ids=["the host", "a device", "a device that runs out of memory"],
)
def test_chips_of_one_size_run_together_where_a_device_has_memory_of_its_own(
    monkeypatch: pytest.MonkeyPatch, own_memory: bool, room: int, together: list[int]
) -> None:
    """Each counts once, whatever runs with it; on the CPU each runs alone, so that no bit of its logits moves."""
    store = alike_and_different()
    alone = validate(Pointwise(), store, classes=2, device=torch.device("cpu"))
    expected, curve_alone = alone.matrix(), alone.curve
    monkeypatch.setattr(validation, "has_own_memory", lambda device: own_memory)
    monkeypatch.setattr(validation, "_PIXELS_AT_ONCE", 4 * 16 * 16 + 16)
    network = Seen(room)
    tallies = validate(network, store, classes=2, device=torch.device("cpu"))
    matrix, curve = tallies.matrix(), tallies.curve
    assert network.together == together
    assert np.array_equal(matrix.counts, expected.counts)
    assert matrix.ignored == expected.ignored
    assert curve is not None
    assert curve_alone is not None
    assert curve.best() == curve_alone.best()


def test_a_chip_that_does_not_fit_alone_ends_validation() -> None:
    with pytest.raises(OutOfMemory):
        validate(Seen(room=0), Store(), classes=2, device=torch.device("cpu"))


def as_before(network: Network, image: Tensor) -> Tensor:
    """What validation did by itself until there was one whole-image forward: pad, run, enlarge, cut."""
    height, width = image.shape[1:]
    high, wide = (network.geometry.nearest_valid_sides(side)[1] for side in (height, width))
    padded = pad(image, (0, wide - width, 0, high - height))[None].to(memory_format=torch.channels_last)
    logits = network(padded).float()
    if logits.shape[2:] != (high, wide):
        corners = network.geometry.align_corners
        logits = interpolate(logits, size=(high, wide), mode="bilinear", align_corners=corners)
    return logits[:, :, :height, :width]


@pytest.mark.parametrize("architecture", ["fcn", "pspnet", "deeplabv3plus", "Unet"])
def test_validation_counts_what_it_always_counted_to_the_bit(architecture: str) -> None:
    torch.manual_seed(5)
    options = {"decoder_channels": [16, 16, 8, 8, 8]} if architecture == "Unet" else {}
    settings = ModelSettings(
        architecture=architecture, encoder="resnet18", head_channels=None if options else 16, options=options
    )
    network = build_network(settings, bands=2, classes=2).eval()
    whole = PaddedForward(
        lambda images: network(images.to(memory_format=torch.channels_last)), network.geometry, any_side=False
    )
    for height, width in ((1, 1), (37, 53), (64, 64), (65, 127), (97, 33)):
        image = torch.randn(2, height, width)
        with torch.inference_mode():
            new, old = whole.logits(image[None]), as_before(network, image)
        assert torch.equal(new, old), (height, width)
        labels = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (height, width), dtype=np.uint8))
        tallies = validate(network, [(image, labels)], classes=2, device=torch.device("cpu"))
        wanted = ConfusionMatrix(2)
        wanted.add(labels.numpy(), old.argmax(dim=1)[0].numpy())
        assert np.array_equal(tallies.matrix().counts, wanted.counts)
        assert tallies.curve is not None
        above = (old[0, 1] - old[0, 0]) > torch.logit(torch.tensor(0.3))
        said = [[int(((labels == t) & (above == s)).sum()) for s in (0, 1)] for t in (0, 1)]
        assert np.abs(tallies.curve.confusion(0.3) - said).sum() <= 2


def test_the_best_threshold_is_the_best_of_all() -> None:
    torch.manual_seed(0)
    truth = (torch.rand(1, 60, 60) < 0.3).to(torch.uint8)
    score = torch.randn(1, 60, 60) + 1.5 * truth - 1
    truth[:, :4] = 255
    curve = ThresholdCurve()
    curve.add(score[:, :30].numpy(), truth[:, :30].numpy())
    curve.add(score[:, 30:].numpy(), truth[:, 30:].numpy())
    threshold, iou = curve.best()

    def by_hand(t: float) -> float:
        said, known = torch.sigmoid(score) > t, truth != 255
        hit = (said & (truth == 1) & known).sum()
        return float(hit / ((said | (truth == 1)) & known).sum())

    assert iou == pytest.approx(by_hand(threshold), abs=1e-6)
    # Within a thousandth: of equally good ones the nearest to one half is taken.
    assert iou == pytest.approx(max(by_hand(float(t)) for t in THRESHOLDS), abs=1e-3)


@pytest.mark.parametrize("threshold", [0.1, 0.35, 0.5, 0.8])
def test_the_bias_of_a_threshold_moves_the_argmax_exactly_there(threshold: float) -> None:
    probability = torch.tensor([threshold - 1e-4, threshold + 1e-4], dtype=torch.float64)
    logits = torch.stack([torch.zeros(2, dtype=torch.float64), torch.logit(probability)])
    decided = (logits + torch.tensor(threshold_bias(threshold), dtype=torch.float64)[:, None]).argmax(dim=0)
    assert decided.tolist() == [0, 1]
