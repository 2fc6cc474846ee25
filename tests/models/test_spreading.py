"""Weights of a first layer that are spread over other bands answer as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aerial_seg.band_names import out_of_order
from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.errors import InputError
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.models.network import Network
from aerial_seg.models.pretrained import spread_bands, start_from
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings

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


# Starting from a model whose bands come in another order, or whose images were in other units

CAFFES = tuple(band.model_copy(update={"std": 1.0}) for band in reversed(IMAGENET_BANDS))
SMALL = ModelSettings(architecture="fcn", output_stride=16, head_channels=8, auxiliary=False)
CLASSES = ("a", "b")


def fresh() -> Network:
    return build_network(SMALL, bands=3, classes=2).eval()


@pytest.fixture
def bgr_model(tmp_path: Path) -> tuple[Path, Network]:
    """A model of blue, green, red less their mean, and its network."""
    torch.manual_seed(5)
    network = fresh()
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=SMALL),
        legend=make_legend(dict(enumerate(CLASSES))),
        bands=CAFFES,
        gsd=None,
        class_bias=(0.0, 0.0),
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    save_model(network.state_dict(), card, tmp_path / "bgr.safetensors")
    return tmp_path / "bgr.safetensors", network


@pytest.mark.parametrize("names", [("red", "green", "blue"), ("R", "g", "Blue")])
def test_an_rgb_network_begins_with_the_logits_of_the_bgr_one(
    bgr_model: tuple[Path, Network], names: tuple[str, ...]
) -> None:
    path, source = bgr_model
    bands = [band.model_copy(update={"name": name}) for band, name in zip(IMAGENET_BANDS, names, strict=True)]
    network = fresh()
    notes = start_from(network, path, bands=names, classes=CLASSES, statistics=bands)
    assert any("scaled to the deviations" in note and "1 to 58.4" in note for note in notes)
    pixels = torch.rand(1, 3, 64, 64) * 255

    def normalised(image: torch.Tensor, by: tuple[Band, ...]) -> torch.Tensor:
        mean, std = (
            torch.tensor([getattr(band, key) for band in by])[:, None, None] for key in ("mean", "std")
        )
        return (image - mean) / std

    with torch.inference_mode():
        wanted = source(normalised(pixels.flip(1), CAFFES))
        got = network(normalised(pixels, IMAGENET_BANDS))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_bands_that_nothing_names_are_refused(bgr_model: tuple[Path, Network]) -> None:
    path, _ = bgr_model
    with pytest.raises(
        InputError, match=r"blue, green, red, and the data's bands are band 1, .*: nothing says"
    ):
        start_from(fresh(), path, bands=("band 1", "band 2", "band 3"), classes=CLASSES)


def test_the_first_layer_stays_where_units_are_alike(bgr_model: tuple[Path, Network]) -> None:
    path, source = bgr_model
    network = fresh()
    start_from(network, path, bands=("blue", "green", "red"), classes=CLASSES, statistics=CAFFES)
    held = source.state_dict()
    assert all(torch.equal(tensor, held[name]) for name, tensor in network.state_dict().items())


def test_which_orders_are_unusual() -> None:
    assert out_of_order(("blue", "green", "red"))
    assert out_of_order(("B", "g", "R", "nir"))
    assert out_of_order(("green", "red", "blue"))
    assert not out_of_order(("red", "green", "blue"))
    assert not out_of_order(("nir", "red", "green", "blue"))
    assert not out_of_order(("nir", "red", "green"))
    assert not out_of_order(("band 1", "band 2", "band 3"))
