"""Each term of the loss against its definition, written out in numpy, and against others' code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from numpy.typing import NDArray
from segmentation_models_pytorch.losses import FocalLoss, LovaszLoss
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.ops import sigmoid_focal_loss

from aerial_seg.errors import SettingsError
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.loss import SegmentationLoss
from aerial_seg.training.loss_terms.terms import Terms

WHOLE = ModelGeometry(1, 1, 1)
SHARES = st.sampled_from([0.0, 0.02, 0.5, 1.0])


def labelled(seed: int, shape: tuple[int, ...], classes: int, share: float) -> Tensor:
    """Random labels, about `share` of them known."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, shape)
    labels[random.random(shape) >= share] = 255
    return torch.from_numpy(labels)


def batch(seed: int, classes: int, share: float, *, images: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Logits float64, labels, class weights."""
    torch.manual_seed(seed)
    logits = (3 * torch.randn(images, classes, 9, 7, dtype=torch.float64)).requires_grad_()
    return logits, labelled(seed, (images, 9, 7), classes, share), torch.rand(classes).double() + 0.5


def loss_of(terms: Terms, weights: Tensor, geometry: ModelGeometry = WHOLE) -> SegmentationLoss:
    return SegmentationLoss(geometry, auxiliary_weight=0.4, class_weights=weights, terms=terms)


def compare(ours: Tensor, wanted: Tensor, logits: Tensor) -> None:
    torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-12)
    gradients = (torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (ours, wanted))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def known_numbers(logits: Tensor, labels: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities (pixels, classes) and labels (pixels,) of the labelled pixels."""
    known = (labels != 255).numpy()
    probability = np.moveaxis(logits.detach().numpy(), 1, -1)[known]
    probability = np.exp(probability - probability.max(axis=1, keepdims=True))
    return probability / probability.sum(axis=1, keepdims=True), labels.numpy()[known]


# label smoothing


@settings(max_examples=examples(20))
@given(st.integers(0, 999), st.integers(2, 5), st.sampled_from([0.02, 0.5, 1.0]), st.floats(0, 0.9))
def test_smoothed_labels_are_torchs_with_class_weights_and_ignored_pixels(
    seed: int, classes: int, share: float, smoothing: float
) -> None:
    logits, labels, weights = batch(seed, classes, share)
    labels[0, 0, 0] = 0
    ours = loss_of(Terms(label_smoothing=smoothing), weights)(logits, None, labels)
    wanted = cross_entropy(logits, labels, weight=weights, ignore_index=255, label_smoothing=smoothing)
    compare(ours, wanted, logits)


# focal


@settings(max_examples=examples(20))
@given(st.integers(0, 999), st.floats(0.05, 0.95), st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_the_focal_loss_of_two_classes_is_torchvisions_sigmoid_form(
    seed: int, alpha: float, gamma: float
) -> None:
    """α is the weight of class 1, 1 − α that of class 0; the mean is by weight as that of cross-entropy is."""
    torch.manual_seed(seed)
    x, labels = (3 * torch.randn(2, 1, 9, 7).double()).requires_grad_(), labelled(seed, (2, 9, 7), 2, 0.6)
    weights = torch.tensor([1 - alpha, alpha], dtype=torch.float64)
    ours = loss_of(Terms("focal", focal_gamma=gamma), weights)(
        torch.cat([torch.zeros_like(x), x], dim=1), None, labels
    )
    known = labels != 255
    terms = sigmoid_focal_loss(x[:, 0][known], labels[known].double(), alpha=alpha, gamma=gamma)
    compare(ours, terms.sum() / weights[labels[known]].sum(), x)


def test_the_focal_loss_of_two_classes_is_smps_binary_one() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(2, 1, 9, 7).double(), labelled(0, (2, 9, 7), 2, 0.6)
    ours = loss_of(Terms("focal"), torch.ones(2))(torch.cat([torch.zeros_like(x), x], 1), None, labels)
    assert ours.item() == pytest.approx(FocalLoss("binary", gamma=2, ignore_index=255)(x, labels).item())


@settings(max_examples=examples(20))
@given(st.integers(0, 999), st.integers(2, 5), SHARES, st.sampled_from([0.0, 0.3, 2.0]))
def test_the_focal_loss_is_its_formula_over_labelled_pixels(
    seed: int, classes: int, share: float, gamma: float
) -> None:
    """Silent error 11: what is ignored is neither in the sum nor in the count."""
    logits, labels, weights = batch(seed, classes, share)
    ours = loss_of(Terms("focal", focal_gamma=gamma), weights)(logits, None, labels).item()
    probability, truth = known_numbers(logits, labels)
    p, w = probability[np.arange(len(truth)), truth], weights.numpy()[truth]
    wanted = (w * (1 - p) ** gamma * -np.log(p)).sum() / w.sum() if len(truth) else 0.0
    assert ours == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_pixels_that_are_sure_have_a_finite_focal_gradient(gamma: float) -> None:
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [20.0, 0.0]]).T[None, :, None].clone().requires_grad_()
    loss = loss_of(Terms("focal", focal_gamma=gamma), torch.ones(2))(
        logits, None, torch.zeros(1, 1, 3).long()
    )
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert loss.item() == pytest.approx(1e4 / 3, rel=1e-5)  # the one that is surely wrong


# hard pixels


@settings(max_examples=examples(40))
@given(st.integers(0, 999), st.integers(2, 5), SHARES, st.integers(1, 70), st.sampled_from([0.05, 0.7, 1.0]))
def test_ohem_is_the_mean_over_the_hard_pixels_and_the_hardest_of_the_batch(
    seed: int, classes: int, share: float, least: int, below: float
) -> None:
    """Sorted in numpy. Silent error 11: an ignored pixel is neither hard nor counted."""
    logits, labels, weights = batch(seed, classes, share)
    terms = Terms("ohem", ohem_threshold=below, ohem_min_kept=least)
    ours = loss_of(terms, weights)(logits, None, labels)
    probability, truth = known_numbers(logits, labels)
    p, w = probability[np.arange(len(truth)), truth], weights.numpy()[truth]
    order = np.argsort(p)
    kept = {*order[: 2 * least].tolist(), *np.flatnonzero(p < below).tolist()}
    chosen = sorted(kept)
    wanted = (w * -np.log(p))[chosen].sum() / w[chosen].sum() if chosen else 0.0
    assert ours.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    (gradient,) = torch.autograd.grad(ours, logits)
    assert int((gradient != 0).any(dim=1).sum()) == len(chosen)


def test_ohem_keeps_pixels_that_are_as_hard_as_the_last_one() -> None:
    """In float32: all are alike, so none is harder than another."""
    loss = loss_of(Terms("ohem", ohem_threshold=0.1, ohem_min_kept=3), torch.ones(2))
    logits = torch.zeros(1, 2, 4, 4).requires_grad_()
    loss(logits, None, torch.ones(1, 4, 4).long()).backward()
    assert logits.grad is not None
    assert (logits.grad[0, 1] == -0.5 / 16).all()


def test_ohem_tells_of_logits_that_are_no_numbers() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, 0, 0, 0] = float("nan")
    terms = Terms("ohem", ohem_threshold=0.1, ohem_min_kept=1)
    assert not torch.isfinite(loss_of(terms, torch.ones(2))(logits, None, torch.ones(1, 4, 4).long()))


# Lovász


def lovasz_by_levels(errors: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """∫ Δ({i: m_i ≥ t}) dt, Δ(M) = |M| / |truth ∪ M|: what the Lovász extension is, without slopes or an order."""
    levels = np.unique(np.concatenate([[0.0], errors]))
    total = 0.0
    for low, high in itertools.pairwise(levels):
        wrong = errors >= high
        total += (high - low) * wrong.sum() / (truth | wrong).sum()
    return total


@settings(max_examples=examples(30))
@given(st.integers(0, 999), st.integers(2, 5), st.sampled_from([0.02, 0.5, 1.0]))
def test_lovasz_is_its_definition_and_smps(seed: int, classes: int, share: float) -> None:
    logits, labels, weights = batch(seed, classes, share)
    labels[0, 0, 0] = 1
    ours = loss_of(Terms("none", lovasz_weight=1.0), weights)(logits, None, labels)
    probability, truth = known_numbers(logits, labels)
    per_class = [
        lovasz_by_levels(np.abs((truth == k) - probability[:, k]), truth == k)
        for k in range(classes)
        if (truth == k).any()
    ]
    assert ours.item() == pytest.approx(np.mean(per_class), rel=1e-9)
    # smp's weights are float32, and so is what it can take.
    theirs = LovaszLoss("multiclass", per_image=False, ignore_index=255)(logits.float(), labels)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-6)
    gradients = (torch.autograd.grad(one, logits)[0] for one in (ours, theirs))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_lovasz_of_sure_classes_is_one_minus_the_mean_iou() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 2, 255]]])
    said = torch.tensor([[[0, 1, 1, 1, 1, 2]]])
    logits = 1e3 * torch.nn.functional.one_hot(said, 4).movedim(-1, 1).double()
    loss = loss_of(Terms("none", lovasz_weight=1.0), torch.ones(4))(logits, None, labels)
    assert loss.item() == pytest.approx(1 - np.mean([1 / 2, 2 / 4, 0]))


# all of them

TERMS = [
    Terms(),
    Terms(label_smoothing=0.1),
    Terms("focal"),
    Terms("ohem", ohem_min_kept=5),
    Terms("none", dice_weight=1.0),
    Terms("none", lovasz_weight=1.0),
    Terms("focal", focal_gamma=0.5, dice_weight=0.5, lovasz_weight=2.0),
]


@pytest.mark.parametrize("terms", TERMS)
def test_gradients_are_those_of_the_loss(terms: Terms) -> None:
    logits, labels, weights = batch(5, 3, 0.6)
    small, wanted = logits[:, :, :3, :4].detach().requires_grad_(), labels[:, :3, :4]
    assert torch.autograd.gradcheck(lambda x: loss_of(terms, weights)(x, None, wanted), small)


@pytest.mark.parametrize("terms", TERMS)
def test_a_batch_without_labels_has_loss_zero_and_no_gradient(terms: Terms) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    for at_logits, geometry in ((False, ModelGeometry(8, 8, 8)), (True, ModelGeometry(8, 8, 8))):
        if terms.pixel == "ohem" and at_logits:
            continue
        placed = Terms(
            **{**{k: getattr(terms, k) for k in terms.__dataclass_fields__}, "at_logits": at_logits}
        )
        loss = loss_of(placed, torch.ones(3), geometry)(logits, logits, torch.full((2, 32, 32), 255))
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None
        assert (logits.grad == 0).all()


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_16_bits_have_every_loss_in_32(terms: Terms, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 2, 2).to(dtype), labelled(0, (1, 16, 16), 3, 0.7)
    loss = loss_of(terms, torch.ones(3), ModelGeometry(8, 8, 8))
    assert loss(logits, None, labels).dtype == torch.float32
    assert loss(logits, None, labels).item() == loss(logits.float(), None, labels).item()


@settings(max_examples=examples(20))
@given(
    st.integers(0, 999),
    st.integers(2, 4),
    st.sampled_from([0.0, 0.05, 0.6]),
    st.sampled_from(
        [Terms("focal"), Terms(label_smoothing=0.2), Terms(at_logits=True), Terms("focal", at_logits=True)]
    ),
)
def test_the_losses_of_parts_add_up_to_that_of_the_batch(
    seed: int, parts: int, share: float, terms: Terms
) -> None:
    """However unequally they are labelled, with auxiliary logits and those of scales at their own sizes."""
    torch.manual_seed(seed)
    main, small, side = (torch.randn(4, 3, *size).double() for size in ((4, 4), (2, 3), (2, 2)))
    labels = labelled(seed, (4, 16, 16), 3, share)
    labels[0] = 255
    loss = loss_of(terms, torch.tensor([1.0, 2, 0.5]), ModelGeometry(4, 4, 4))
    total = loss.total_weight(labels)
    cut = zip(*(x.tensor_split(parts) for x in (main, side, labels, small)), strict=True)
    of_parts = [loss(a, b, c, [d], total_weight=total, parts=parts) for a, b, c, d in cut]
    torch.testing.assert_close(sum(of_parts), loss(main, side, labels, [small]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("terms", [Terms("ohem", ohem_min_kept=5), Terms(lovasz_weight=0.5)])
def test_terms_that_need_the_whole_batch_are_refused_in_parts(terms: Terms) -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4).long()
    loss = loss_of(terms, torch.ones(3))
    with pytest.raises(
        SettingsError, match=r"needs the whole batch at once, got one in 2 parts; leave `accumulate=2`"
    ):
        loss(logits, None, labels, total_weight=loss.total_weight(labels), parts=2)
