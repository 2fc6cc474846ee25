"""Weights of a first layer that are spread over other bands answer as before."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aerial_seg.models.pretrained import spread_bands

RGB = ("red", "green", "blue")
RGBN = (*RGB, "nir")
POOL = [*RGBN, "swir", "thermal", "height", "pan"]

band_names = st.lists(st.sampled_from(POOL), min_size=1, unique=True)


def weights_of(bands: int, seed: int = 0) -> Tensor:
    return torch.randn(6, bands, 3, 3, generator=torch.Generator().manual_seed(seed))


@given(source=band_names, target=band_names)
def test_a_constant_image_keeps_its_response(source: list[str], target: list[str]) -> None:
    before = weights_of(len(source))
    after = spread_bands(before, source, target)
    assert after.shape == (6, len(target), 3, 3)
    torch.testing.assert_close(after.sum(dim=1), before.sum(dim=1), rtol=0, atol=2e-6)


@given(source=band_names, order=st.randoms())
def test_the_same_bands_in_another_order_keep_their_exact_weights(source: list[str], order: object) -> None:
    target = list(source)
    order.shuffle(target)  # type: ignore[attr-defined]
    before = weights_of(len(source))
    after = spread_bands(before, source, target)
    for k, name in enumerate(target):
        assert torch.equal(after[:, k], before[:, source.index(name)])


@given(source=band_names, added=band_names)
def test_added_bands_get_the_mean_and_all_are_scaled_alike(source: list[str], added: list[str]) -> None:
    target = [*(name for name in added if name not in source), *source]
    before = weights_of(len(source))
    after = spread_bands(before, source, target)
    scale = len(source) / len(target)
    for k, name in enumerate(target):
        wanted = before[:, source.index(name)] if name in source else before.mean(dim=1)
        torch.testing.assert_close(after[:, k], scale * wanted, rtol=1e-5, atol=1e-6)


def test_a_band_that_replaces_another_takes_its_share_and_the_others_stay() -> None:
    before = weights_of(3)
    after = spread_bands(before, RGB, ("NIR", " Red", "green"))
    assert torch.equal(after[:, 1:], before[:, :2])
    torch.testing.assert_close(after[:, 0], before[:, 2])


def test_a_band_that_is_gone_leaves_its_share_to_all() -> None:
    before = weights_of(4)
    after = spread_bands(before, RGBN, RGB)
    torch.testing.assert_close(after, before[:, :3] + before[:, 3:] / 3)


def test_bands_without_a_common_name_are_the_same_by_position() -> None:
    before = weights_of(3)
    assert spread_bands(before, RGB, ("band 1", "band 2", "band 3")) is before
    torch.testing.assert_close(spread_bands(before, RGB, ("gray",))[:, 0], before.sum(dim=1))
    after = spread_bands(before, RGB, [f"band {k}" for k in range(1, 14)])
    torch.testing.assert_close(after[:, :3], before * 3 / 13)
