"""Orientations are undone exactly, and an averaged prediction turns with its image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.errors import SettingsError
from aerial_seg.models.symmetry import Image, averaged, symmetries

CLASSES = 3
kinds = st.sampled_from([(), ("flips",), ("rot90",), ("flips", "rot90")])


class Lopsided:
    """A network that looks at each cell's west neighbour: it is not symmetric by itself."""

    def __init__(self, images: Sequence[Image]) -> None:
        self._images = images

    def logits(self) -> Image:
        weights = np.random.default_rng(1).normal(size=(2, self._images[0].shape[0], CLASSES))
        found = [
            np.einsum("chw,ck->hwk", image, weights[0])
            + np.einsum("chw,ck->hwk", np.roll(image, 1, axis=2), weights[1])
            for image in self._images
        ]
        return np.stack(found).astype(np.float32)


def tile(seed: int, side: int) -> Image:
    return np.random.default_rng(seed).normal(size=(2, side, side)).astype(np.float32)


@given(kinds=kinds, side=st.integers(1, 6), seed=st.integers(0, 99))
def test_every_orientation_is_undone(kinds: tuple[str, ...], side: int, seed: int) -> None:
    image = tile(seed, side)
    for member in symmetries(kinds):
        turned = member.apply(image)
        np.testing.assert_array_equal(member.undo(turned.transpose(1, 2, 0)), image.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("kinds", "count"), [((), 1), (("flips",), 4), (("rot90",), 4), (("flips", "rot90"), 8)]
)
def test_members_are_the_identity_and_all_others_once(kinds: tuple[str, ...], count: int) -> None:
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    turned = [member.apply(image) for member in symmetries(kinds)]
    np.testing.assert_array_equal(turned[0], image)
    assert len({one.tobytes() for one in turned}) == len(turned) == count


@given(seed=st.integers(0, 99), side=st.integers(1, 5), data=st.data())
def test_the_average_turns_with_the_image(seed: int, side: int, data: st.DataObject) -> None:
    everything = ("flips", "rot90")
    submit = averaged(Lopsided, everything)
    image = tile(seed, side)
    straight = submit([image]).logits()[0]
    member = data.draw(st.sampled_from(symmetries(everything)))
    turned = submit([member.apply(image)]).logits()[0]
    np.testing.assert_allclose(member.undo(turned), straight, rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 99))
def test_the_average_is_that_of_the_probabilities(seed: int) -> None:
    images = [tile(seed, 4), tile(seed + 1, 4)]
    members = symmetries(("rot90",))
    got = np.exp(averaged(Lopsided, ("rot90",))(images).logits())
    for number, image in enumerate(images):
        each = [m.undo(Lopsided([m.apply(image)]).logits()[0]).astype(np.float64) for m in members]
        wanted = np.mean([np.exp(e) / np.exp(e).sum(-1, keepdims=True) for e in each], axis=0)
        np.testing.assert_allclose(got[number], wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.sum(axis=-1), 1, rtol=1e-5)


def test_without_kinds_nothing_is_added() -> None:
    assert averaged(Lopsided, ()) is Lopsided


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"'flip'; did you mean 'flips'\?; known: flips, rot90"):
        symmetries(("flip",))
