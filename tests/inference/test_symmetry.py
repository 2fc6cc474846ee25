"""Orientations are undone exactly, sizes span the same ground, and an averaged prediction turns with its image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from aerial_seg.errors import SettingsError
from aerial_seg.inference.tta import (
    Image,
    averaged,
    run_sides,
    size_notes,
    sizes,
    symmetries,
)
from aerial_seg.inference.tta_scales import scaled_tile
from aerial_seg.models.pending import Pending
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.upsample import softmax_cells

CLASSES = 3
PIXELS = ModelGeometry(1, 1, 1)
kinds = st.sampled_from([(), ("flips",), ("rot90",), ("flips", "rot90")])


def lopsided(images: Sequence[Image]) -> Pending:
    """A network that looks at each cell's west neighbour: it is not symmetric by itself."""
    weights = np.random.default_rng(1).normal(size=(2, images[0].shape[0], CLASSES))
    found = [
        np.einsum("chw,ck->hwk", image, weights[0])
        + np.einsum("chw,ck->hwk", np.roll(image, 1, axis=2), weights[1])
        for image in images
    ]
    return Pending.arrived(np.stack(found).astype(np.float32))


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
    submit = averaged(lopsided, everything, geometry=PIXELS, side=side)
    image = tile(seed, side)
    straight = submit([image]).logits()[0]
    member = data.draw(st.sampled_from(symmetries(everything)))
    turned = submit([member.apply(image)]).logits()[0]
    np.testing.assert_allclose(member.undo(turned), straight, rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 99))
def test_the_average_is_that_of_the_probabilities(seed: int) -> None:
    images = [tile(seed, 4), tile(seed + 1, 4)]
    members = symmetries(("rot90",))
    got = np.exp(averaged(lopsided, ("rot90",), geometry=PIXELS, side=4)(images).logits())
    for number, image in enumerate(images):
        each = [m.undo(lopsided([m.apply(image)]).logits()[0]).astype(np.float64) for m in members]
        wanted = np.mean([np.exp(e) / np.exp(e).sum(-1, keepdims=True) for e in each], axis=0)
        np.testing.assert_allclose(got[number], wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.sum(axis=-1), 1, rtol=1e-5)


def test_without_kinds_nothing_is_added() -> None:
    for nothing in ((), ("scales=1",)):
        assert averaged(lopsided, nothing, geometry=PIXELS, side=4) is lopsided


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(
        SettingsError, match=r"'flip'; did you mean 'flips'\?; known: flips, rot90, scales=0.5:0.75:1.25"
    ):
        symmetries(("flip",))


# Sizes


def planes(side: int, geometry: ModelGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every cell's centre, in pixels of a tile of this side."""
    stride = geometry.logit_stride
    centres = stride * np.arange(geometry.cells(side)) + (0 if geometry.align_corners else (stride - 1) / 2)
    return np.meshgrid(centres, centres, indexing="ij")


def pointwise(geometry: ModelGeometry) -> Callable[[Sequence[Image]], Pending]:
    """Each cell's logits are linear in the mean of its own pixels, or in its pixel where corners are aligned."""
    weights = np.random.default_rng(2).normal(size=(2, CLASSES)).astype(np.float32)

    def submit(images: Sequence[Image]) -> Pending:
        s, found = geometry.logit_stride, []
        for image in images:
            assert geometry.is_valid_side(image.shape[1])
            if geometry.align_corners:
                cells = image[:, ::s, ::s]
            else:
                bands, side, _ = image.shape
                cells = image.reshape(bands, side // s, s, side // s, s).mean(axis=(2, 4))
            found.append(np.einsum("chw,ck->hwk", cells, weights))
        return Pending.arrived(np.stack(found))

    return submit


def affine(side: int, coefficients: Sequence[float]) -> Image:
    """Two bands that are linear in row and column."""
    rows, cols = np.mgrid[:side, :side] / side
    a, b, c, d = coefficients
    return np.stack([a * rows + b * cols + 1, c * rows + d * cols - 1]).astype(np.float32)


geometries = st.builds(
    lambda stride, times, align: ModelGeometry(stride, stride, stride * times, align_corners=align),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 2),
    st.booleans(),
)
coefficients = st.lists(st.floats(-3, 3), min_size=4, max_size=4)


@given(geometry=geometries, steps=st.integers(6, 12), scale=st.floats(0.3, 3), slopes=coefficients)
def test_cells_of_every_size_lie_on_the_same_ground(
    geometry: ModelGeometry, steps: int, scale: float, slopes: list[float]
) -> None:
    """A network of linear cells says the same of a linear image at every size, away from the outermost cells."""
    side = steps * geometry.origin_step + int(geometry.align_corners)
    tile, submit, image = scaled_tile(geometry, side, scale), pointwise(geometry), affine(side, slopes)
    plain = submit([image]).logits()[0]
    scaled = tile.undo(submit([tile.apply(image)]).logits()[0])
    assert scaled.shape == plain.shape
    # What lies beyond the centres of the outermost cells or pixels of either size repeats them.
    reach = 0.0 if geometry.align_corners else geometry.logit_stride * (1 + 1 / tile.ratio) / 2 + 1
    rows, cols = planes(side, geometry)
    inner = (np.minimum(rows, cols) >= reach) & (np.maximum(rows, cols) <= side - 1 - reach)
    np.testing.assert_allclose(scaled[inner], plain[inner], atol=1e-4)


@given(geometry=geometries, value=st.floats(-3, 3), kinds=kinds)
def test_a_flat_image_is_the_same_at_every_size_to_the_rim(
    geometry: ModelGeometry, value: float, kinds: tuple[str, ...]
) -> None:
    side = 8 * geometry.origin_step + int(geometry.align_corners)
    submit, image = pointwise(geometry), np.full((2, side, side), value, np.float32)
    many = averaged(submit, (*kinds, "scales=0.5:0.75:1.5"), geometry=geometry, side=side)
    got, plain = many([image, -image]).logits(), submit([image, -image]).logits()
    for one, other in zip(got, plain, strict=True):
        np.testing.assert_allclose(np.exp(one), softmax_cells(other), atol=1e-5)


@pytest.mark.parametrize("align", [False, True])
def test_the_average_of_an_affine_image_is_the_plain_answer(align: bool) -> None:
    geometry = ModelGeometry(4, 4, 8, align_corners=align)
    side = 64 + int(align)
    submit, image = pointwise(geometry), affine(side, (2, -1, 0.5, 3))
    kinds = ("flips", "rot90", "scales=0.5:0.75:1.25")
    got = averaged(submit, kinds, geometry=geometry, side=side)([image]).logits()[0]
    inner = slice(None) if align else slice(3, -3)
    plain = softmax_cells(submit([image]).logits()[0])
    np.testing.assert_allclose(np.exp(got)[inner, inner], plain[inner, inner], atol=1e-5)


@given(seed=st.integers(0, 99), orientation=kinds)
def test_members_are_all_orientations_at_all_sizes_brought_to_the_lattice_before_their_softmax(
    seed: int, orientation: tuple[str, ...]
) -> None:
    """Against torch's own interpolation and a plain loop."""
    geometry, image = ModelGeometry(2, 2, 4), tile(seed, 16)
    submit = pointwise(geometry)

    def resized(planes: np.ndarray, side: int) -> np.ndarray:
        return interpolate(torch.tensor(planes)[None], size=(side, side), mode="bilinear")[0].numpy()

    each = []
    for side in (16, 8, 24):
        for member in symmetries(orientation):
            turned = member.apply(image if side == 16 else resized(image, side))
            logits = member.undo(submit([turned]).logits()[0])
            on_lattice = resized(np.ascontiguousarray(logits.transpose(2, 0, 1)), 8).transpose(1, 2, 0)
            each.append(softmax_cells(on_lattice.astype(np.float64)))
    got = averaged(submit, ("scales=1.5:0.5", *orientation), geometry=geometry, side=16)([image]).logits()[0]
    np.testing.assert_allclose(np.exp(got), np.mean(each, axis=0), atol=1e-5)


@given(geometry=geometries, steps=st.integers(1, 20), scale=st.floats(0.1, 4))
def test_a_scale_runs_at_the_nearest_side_that_the_network_takes(
    geometry: ModelGeometry, steps: int, scale: float
) -> None:
    extra = int(geometry.align_corners)
    side = steps * geometry.origin_step + extra
    tile = scaled_tile(geometry, side, scale)
    assert geometry.is_valid_side(tile.run_side)
    wanted = scale * (side - extra) + extra
    valid = [n * geometry.origin_step + extra for n in range(1, 5 * steps + 2)]
    assert abs(tile.run_side - wanted) == min(abs(one - wanted) for one in valid)
    assert tile.ratio == (tile.run_side - extra) / (side - extra)


def test_sides_are_the_tiles_own_and_those_of_rising_scales() -> None:
    geometry = ModelGeometry(16, 16, 16)
    assert run_sides(("flips", "scales=1.25:1:0.5"), geometry, 512) == (512, 256, 640)
    assert run_sides(("flips",), geometry, 512) == (512,)
    aligned = ModelGeometry(8, 8, 8, align_corners=True)
    assert run_sides(("scales=0.5",), aligned, 513) == (513, 257)


def test_a_ratio_that_is_not_the_scales_is_stated() -> None:
    (note,) = size_notes(("scales=0.5:0.7",), ModelGeometry(16, 16, 16), 512)
    assert "scale 0.7" in note
    assert "352 px" in note
    assert "0.6875 times" in note


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("scales",), "'scales'.*known: flips, rot90, scales=0.5"),
        (("flips=2",), "'flips=2'"),
        (("scales=",), "cannot be read; wanted numbers between colons"),
        (("scales=0.5:big",), "cannot be read"),
        (("scales=0.5:nan",), "scale nan, wanted 0.1 to 4"),
        (("scales=0.05",), "scale 0.05, wanted 0.1 to 4"),
        (("scales=0.5:0.5",), "names a scale twice"),
        (("scales=0.5", "scales=2"), "names scales 2 times; name all in one: scales=0.5:2"),
        (("scales=1.05",), "scales 1 and 1.05 of a tile of 64 px are both 64 px, .* steps of 16 px"),
        (("scales=0.5:0.55",), "scales 0.5 and 0.55 of a tile of 64 px are both 32 px"),
    ],
)
def test_scales_that_cannot_be_are_refused_in_a_line(wanted: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        run_sides(wanted, ModelGeometry(16, 16, 16), 64)
    assert "\n" not in str(error.value)
    assert sizes((), PIXELS, 4) == ()
