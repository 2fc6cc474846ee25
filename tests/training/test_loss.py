from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from segmentation_models_pytorch.losses import DiceLoss
from torch.nn.functional import cross_entropy, interpolate

from aerial_seg.errors import SettingsError
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.loss import SegmentationLoss, class_weight_tensor
from aerial_seg.training.loss_terms.terms import Terms

STRIDE8 = ModelGeometry(8, 8, 8)


def criterion(weight: float = 0.4, classes: int = 3) -> SegmentationLoss:
    return SegmentationLoss(STRIDE8, auxiliary_weight=weight, class_weights=torch.ones(classes))


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean of −log softmax over labelled pixels, in numpy, on logits upsampled to the labels."""
    full = (
        interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False).numpy().astype(float)
    )
    log = full - np.log(np.exp(full).sum(axis=1, keepdims=True))
    terms = [
        -log[n, labels[n, y, x], y, x] for n, y, x in np.ndindex(*labels.shape) if labels[n, y, x] != 255
    ]
    return float(np.mean(terms))


def test_the_loss_is_over_labelled_pixels_of_upsampled_logits() -> None:
    torch.manual_seed(0)
    logits, side = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 16, 16))
    labels[:, :5] = 255
    expected = by_hand(logits, labels) + 0.4 * by_hand(side, labels)
    assert criterion()(logits, side, labels).item() == pytest.approx(expected, rel=1e-5)
    assert criterion()(logits, None, labels).item() == pytest.approx(by_hand(logits, labels), rel=1e-5)


def test_the_dice_share_is_one_minus_the_mean_f1_of_soft_decisions() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(2, 3, 16, 16), torch.randint(0, 3, (2, 16, 16))
    labels[:, :5] = 255
    both = SegmentationLoss(
        ModelGeometry(1, 1, 1), auxiliary_weight=0, class_weights=torch.ones(3), terms=Terms(dice_weight=0.5)
    )
    known = labels != 255
    scores = []
    for k in range(3):
        p, t = logits.softmax(1)[:, k][known], (labels == k)[known].float()
        scores.append(2 * (p * t).sum() / (p.sum() + t.sum()))
    expected = by_hand(logits, labels) + 0.5 * (1 - torch.stack(scores).mean().item())
    assert both(logits, None, labels).item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_labels_has_loss_zero_and_a_gradient() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = criterion()(logits, None, torch.full((1, 16, 16), 255))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_class_weights_go_by_name() -> None:
    assert class_weight_tensor({"b": 3.0}, ["a", "b"]).tolist() == [1, 3]
    with pytest.raises(SettingsError, match="did you mean 'road'"):
        class_weight_tensor({"raod": 2.0}, ["road"])


def labelled(seed: int, shape: tuple[int, ...], classes: int, share: float) -> torch.Tensor:
    """Random labels, about `share` of them known."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, shape)
    labels[random.random(shape) >= share] = 255
    return torch.from_numpy(labels)


@settings(max_examples=examples(40))
@given(
    st.integers(0, 999),
    st.integers(2, 6),
    st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    st.sampled_from([0.0, 0.7]),
)
def test_loss_and_gradient_are_those_of_torch_and_smp(
    seed: int, classes: int, share: float, dice_weight: float
) -> None:
    """Cross-entropy by torch, Dice by segmentation_models_pytorch; both make NaN or 0 of a batch without labels."""
    torch.manual_seed(seed)
    logits = (3 * torch.randn(2, classes, 9, 7, dtype=torch.float64)).requires_grad_()
    labels, weights = labelled(seed, (2, 9, 7), classes, share), torch.rand(classes) + 0.5
    ours = SegmentationLoss(
        ModelGeometry(1, 1, 1),
        auxiliary_weight=0,
        class_weights=weights,
        terms=Terms(dice_weight=dice_weight),
    )(logits, None, labels)
    (gradient,) = torch.autograd.grad(ours, logits)
    if not (labels != 255).any():
        assert ours.item() == 0
        assert (gradient == 0).all()
        return
    wanted = cross_entropy(logits, labels, weight=weights.double(), ignore_index=255)
    wanted = wanted + dice_weight * DiceLoss(mode="multiclass", ignore_index=255)(logits, labels)
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, logits)[0], rtol=1e-10, atol=1e-12)


@settings(max_examples=examples(20))
@given(st.integers(0, 999), st.integers(1, 4), st.sampled_from([0.0, 0.05, 0.6]))
def test_the_losses_of_parts_add_up_to_that_of_the_batch(seed: int, parts: int, share: float) -> None:
    """However unequally the parts are labelled, and with the auxiliary logits' share."""
    torch.manual_seed(seed)
    logits, side = torch.randn(4, 3, 2, 2).double(), torch.randn(4, 3, 4, 4).double()
    labels = labelled(seed, (4, 16, 16), 3, share)
    labels[0] = 255
    loss = SegmentationLoss(STRIDE8, auxiliary_weight=0.4, class_weights=torch.tensor([1.0, 2, 0.5]))
    total = loss.total_weight(labels)
    of_parts = [
        loss(a, b, c, total_weight=total, parts=parts)
        for a, b, c in zip(*(x.tensor_split(parts) for x in (logits, side, labels)), strict=True)
    ]
    torch.testing.assert_close(sum(of_parts), loss(logits, side, labels), rtol=1e-12, atol=1e-12)


def test_the_dice_loss_of_parts_is_their_mean() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3, 8, 8).double(), labelled(0, (4, 8, 8), 3, 0.7)
    geometry, ones = ModelGeometry(1, 1, 1), torch.ones(3)
    loss = SegmentationLoss(geometry, auxiliary_weight=0, class_weights=ones, terms=Terms(dice_weight=2.0))
    plain = SegmentationLoss(geometry, auxiliary_weight=0, class_weights=ones)
    total = loss.total_weight(labels)
    cut = list(zip(logits.split(2), labels.split(2), strict=True))
    of_parts = sum(loss(a, None, b, total_weight=total, parts=2) for a, b in cut)
    dice = [DiceLoss(mode="multiclass", ignore_index=255)(a, b) for a, b in cut]
    torch.testing.assert_close(of_parts, plain(logits, None, labels) + sum(dice), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_16_bits_have_their_loss_in_32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 2, 2).to(dtype), labelled(0, (1, 16, 16), 3, 0.7)
    loss = criterion()(logits, None, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == criterion()(logits.float(), None, labels).item()
