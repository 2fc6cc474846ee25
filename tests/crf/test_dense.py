"""DenseCRF against mean-field written out, against the library's own two-dimensional calls, and as laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from numpy.typing import NDArray

from aerial_seg.crf import dense
from aerial_seg.crf.dense import check_crf_installed, refine
from aerial_seg.crf.settings import DenseCrf, parse_crf
from aerial_seg.errors import SettingsError

pydensecrf = pytest.importorskip("pydensecrf.densecrf", reason="pip install aerial-seg[crf]")

quick = settings(max_examples=examples(25), deadline=None)
Array = NDArray[np.float64]
SEEDS = st.integers(0, 99)


def random_case(
    seed: int, height: int = 12, width: int = 14, classes: int = 3, channels: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Two shades with a slanted border and some noise, and in each a class that is a little more probable.

    Without that the field tips over to one class or another as a whole, and rounding decides which.
    """
    random = np.random.default_rng(seed)
    slanted = np.add.outer(np.arange(height), np.arange(width)) > (height + width) / 2
    guide = np.where(slanted, 60, 90) + random.normal(0, 2, (channels, height, width))
    likely = np.arange(classes)[:, None, None] == slanted % classes
    weights = random.gamma(np.where(likely, 4.0, 2.0))
    probabilities = weights / weights.sum(axis=0)
    return probabilities.astype(np.float32), guide.astype(np.float32)


def everywhere(probabilities: np.ndarray) -> np.ndarray:
    return np.ones(probabilities.shape[1:], np.bool_)


def kernels(guide: Array, valid: np.ndarray, crf: DenseCrf) -> list[tuple[float, Array]]:
    """Weight and Gaussian of every pair of valid pixels, (n, n), of both kernels."""
    rows, cols = np.nonzero(valid)
    places = np.stack([cols, rows]).astype(float)
    like = np.concatenate([places / crf.bi_xy_std, guide[:, valid] / crf.bi_rgb_std])
    near = places / crf.pos_xy_std
    return [
        (weight, np.exp(-0.5 * ((at[:, :, None] - at[:, None, :]) ** 2).sum(axis=0)))
        for weight, at in ((crf.pos_w, near), (crf.bi_w, like))
    ]


def mean_field(
    probabilities: np.ndarray, guide: np.ndarray, valid: np.ndarray, crf: DenseCrf, normalised: str = "both"
) -> Array:
    """Algorithm 1 of Krähenbühl and Koltun, every pair of pixels by itself, in float64."""
    matrix = np.zeros((int(valid.sum()),) * 2)
    for weight, kernel in kernels(guide.astype(float), valid, crf):
        total = kernel.sum(axis=1)
        share = {"both": np.sqrt(np.outer(total, total)), "after": total[:, None], "mean": total.mean()}
        matrix += weight * kernel / share[normalised]
    unary = np.log(np.maximum(probabilities[:, valid].astype(float), 1e-5))
    state = np.exp(unary) / np.exp(unary).sum(axis=0)
    for _ in range(crf.iterations):
        score = unary + state @ matrix.T
        powers = np.exp(score - score.max(axis=0))
        state = powers / powers.sum(axis=0)
    result = probabilities.astype(float)
    result[:, valid] = state
    return result


# The permutohedral lattice is no exact Gaussian: kernels that reach far come out within a hundredth on the mean, the
# default kernel of one pixel as well.
TOLERANCE = 0.01


@quick
@given(
    SEEDS,
    st.integers(2, 5),
    st.integers(1, 3),
    st.sampled_from(
        [DenseCrf(), DenseCrf(iterations=1), DenseCrf(bi_w=0, pos_xy_std=2), DenseCrf(iterations=3, pos_w=0)]
    ),
    st.floats(0, 0.4),
)
def test_marginals_are_those_of_mean_field_written_out(
    seed: int, classes: int, channels: int, crf: DenseCrf, unmeasured: float
) -> None:
    probabilities, guide = random_case(seed, classes=classes, channels=channels)
    valid = np.random.default_rng(seed).random(guide.shape[1:]) >= unmeasured
    got = refine(probabilities, guide, valid, crf)
    expected = mean_field(probabilities, guide, valid, crf)
    assert got.dtype == np.float32
    assert np.abs(got - expected)[:, valid].mean() < TOLERANCE
    np.testing.assert_allclose(got[:, valid].sum(axis=0), 1, atol=1e-5)


def test_kernels_are_normalised_by_both_pixels_and_not_otherwise() -> None:
    crf = DenseCrf(bi_w=0, pos_xy_std=2)
    error = {"both": 0.0, "after": 0.0, "mean": 0.0}
    for seed in range(5):
        probabilities, guide = random_case(seed)
        got = refine(probabilities, guide, everywhere(probabilities), crf)
        for kind in error:
            expected = mean_field(probabilities, guide, everywhere(probabilities), crf, kind)
            error[kind] += np.abs(got - expected).mean() / 5
    assert error["both"] < 0.005
    assert min(error["after"], error["mean"]) > 2 * error["both"], error


@quick
@given(SEEDS, st.integers(3, 30), st.integers(3, 30), st.integers(2, 6))
def test_an_image_from_its_origin_is_what_the_librarys_own_calls_make_of_it(
    seed: int, height: int, width: int, classes: int
) -> None:
    probabilities, guide = random_case(seed, height, width, classes)
    photograph = np.clip(guide, 0, 255).astype(np.uint8)
    crf = DenseCrf(iterations=4)
    plane = pydensecrf.DenseCRF2D(width, height, classes)
    unary = -np.log(np.maximum(probabilities, 1e-5)).reshape(classes, -1)
    plane.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    plane.addPairwiseGaussian(sxy=crf.pos_xy_std, compat=crf.pos_w)
    picture = np.ascontiguousarray(np.moveaxis(photograph, 0, 2))
    plane.addPairwiseBilateral(sxy=crf.bi_xy_std, srgb=crf.bi_rgb_std, rgbim=picture, compat=crf.bi_w)
    expected = np.array(plane.inference(crf.iterations)).reshape(probabilities.shape)
    got = refine(probabilities, photograph, everywhere(probabilities), crf)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_two_noisy_regions_get_cleaner_and_their_border_follows_the_image() -> None:
    random = np.random.default_rng(2)
    rows, cols = np.mgrid[:80, :90]
    truth = (rows - 40) ** 2 + (cols - 40) ** 2 < 30**2
    guide = np.where(truth, 120, 90) + random.normal(0, 2, (3, 80, 90))
    # The network is unsure everywhere, wrong here and there, and its border is 4 pixels off.
    shifted = np.roll(truth, 4, axis=1)
    building = np.clip(np.where(shifted, 0.65, 0.35) + random.normal(0, 0.2, truth.shape), 0.02, 0.98)
    probabilities = np.stack([1 - building, building]).astype(np.float32)
    before = ((building > 0.5) != truth).mean()
    refined = refine(probabilities, guide, everywhere(probabilities), DenseCrf())
    after = (refined.argmax(axis=0) != truth).mean()
    assert before > 0.2
    assert after < 0.002


@quick
@given(SEEDS, st.integers(2, 6), st.integers(1, 25), st.integers(1, 25))
def test_who_knows_nothing_learns_nothing(seed: int, classes: int, height: int, width: int) -> None:
    _, guide = random_case(seed, height, width)
    even = np.full((classes, height, width), 1 / classes, np.float32)
    np.testing.assert_allclose(refine(even, guide, everywhere(even), DenseCrf()), even, atol=1e-5)


@quick
@given(SEEDS, st.integers(2, 5), st.integers(0, 255))
def test_even_probabilities_on_an_even_image_keep_their_class_and_stay_even(
    seed: int, classes: int, grey: int
) -> None:
    share = np.random.default_rng(seed).dirichlet(np.full(classes, 3.0)).astype(np.float32)
    probabilities = np.broadcast_to(share[:, None, None], (classes, 40, 50)).copy()
    guide = np.full((3, 40, 50), grey, np.uint8)
    refined = refine(probabilities, guide, everywhere(probabilities), DenseCrf())
    assert (refined.argmax(axis=0) == share.argmax()).all()
    # At the rim the symmetric normalisation gives a little less than within.
    inside = refined[:, 5:-5, 5:-5]
    assert np.ptp(inside, axis=(1, 2)).max() < 0.05


@quick
@given(SEEDS, st.permutations([0, 1, 2, 3]))
def test_the_classes_have_no_order(seed: int, order: list[int]) -> None:
    probabilities, guide = random_case(seed, classes=4)
    straight = refine(probabilities, guide, everywhere(probabilities), DenseCrf())
    permuted = refine(probabilities[order], guide, everywhere(probabilities), DenseCrf())
    np.testing.assert_allclose(permuted, straight[order], atol=1e-4)


@quick
@given(SEEDS, st.floats(0.05, 0.95))
def test_unmeasured_pixels_take_no_part_whatever_they_hold(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    probabilities, guide = random_case(seed, 20, 23)
    valid = random.random((20, 23)) > share
    refined = refine(probabilities, guide, valid, DenseCrf())
    np.testing.assert_array_equal(refined[:, ~valid], probabilities[:, ~valid])
    other, image = probabilities.copy(), guide.copy()
    other[:, ~valid] = 0
    other[0, ~valid] = 1
    image[:, ~valid] = np.nan
    again = refine(other, image, valid, DenseCrf())
    np.testing.assert_array_equal(again[:, valid], refined[:, valid])


@quick
@given(SEEDS, st.integers(0, 400), st.integers(0, 400))
def test_a_window_sees_the_lattice_of_the_whole_image(seed: int, top: int, left: int) -> None:
    """The same pixels as a window of their own and as the only measured ones of the image."""
    crf = DenseCrf(iterations=5)
    probabilities, guide = random_case(seed, 24, 25)
    height, width = top + 24, left + 25
    whole, image = np.ones((3, height, width), np.float32) / 3, np.zeros((3, height, width), np.float32)
    valid = np.zeros((height, width), np.bool_)
    whole[:, top:, left:], image[:, top:, left:], valid[top:, left:] = probabilities, guide, True
    expected = refine(whole, image, valid, crf)[:, top:, left:]
    got = refine(probabilities, guide, everywhere(probabilities), crf, origin=(top, left))
    assert np.abs(got - expected).mean() < 1e-4


def test_a_window_that_took_its_own_corner_for_the_origin_would_differ() -> None:
    crf = DenseCrf(iterations=1)
    differences = []
    for seed in range(5):
        probabilities, guide = random_case(seed, 24, 25)
        measured = everywhere(probabilities)
        moved = refine(probabilities, guide, measured, crf, origin=(33, 57))
        differences.append(np.abs(moved - refine(probabilities, guide, measured, crf)).mean())
    assert np.mean(differences) > 1e-3, differences


def test_certain_and_impossible_classes_are_numbers_and_one_class_is_certain() -> None:
    _, guide = random_case(0)
    certain = np.zeros((3, *guide.shape[1:]), np.float32)
    certain[1] = 1
    refined = refine(certain, guide, everywhere(certain), DenseCrf())
    assert np.isfinite(refined).all()
    assert (refined.argmax(axis=0) == 1).all()
    alone = np.ones((1, *guide.shape[1:]), np.float32)
    np.testing.assert_array_equal(refine(alone, guide, everywhere(alone), DenseCrf()), alone)
    nothing = np.zeros(guide.shape[1:], np.bool_)
    np.testing.assert_array_equal(refine(certain, guide, nothing, DenseCrf()), certain)


def test_255_classes_are_not_too_many() -> None:
    probabilities, guide = random_case(1, 6, 7, classes=255)
    refined = refine(probabilities, guide, everywhere(probabilities), DenseCrf(iterations=2))
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-4)


@pytest.mark.parametrize("changes", [{"guide": 4}, {"height": 5}])
def test_a_guide_that_does_not_belong_is_our_own_bug(changes: dict[str, int]) -> None:
    guide = np.zeros((changes.get("guide", 3), changes.get("height", 6), 7), np.float32)
    even = np.full((2, 6, 7), 0.5, np.float32)
    with pytest.raises(ValueError, match="guide"):
        refine(even, guide, everywhere(even), DenseCrf())


def test_without_kernels_the_network_has_the_last_word() -> None:
    probabilities, guide = random_case(4)
    deaf = refine(probabilities, guide, everywhere(probabilities), DenseCrf(pos_w=0, bi_w=0))
    np.testing.assert_allclose(deaf, np.maximum(probabilities, 1e-5), atol=1e-4)


# Parameters.


def test_parameters_are_read_and_the_others_stay_deeplabs() -> None:
    assert parse_crf("") == DenseCrf(10, 3, 1, 4, 67, 3)
    assert parse_crf(" bi_xy_std = 50, iterations=5,") == DenseCrf(iterations=5, bi_xy_std=50)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bi_xystd=50", r"no parameter 'bi_xystd'; did you mean 'bi_xy_std'\?; known: iterations, pos_w"),
        ("iterations=2.5", r"iterations is '2.5', wanted a whole number"),
        ("pos_w", r"pos_w is '', wanted a number"),
        ("iterations=0", r"iterations is 0, wanted a whole number from 1 on"),
        ("bi_rgb_std=0", r"bi_rgb_std is 0.0, wanted a number from 0.1 on"),
        ("pos_xy_std=0.1", r"pos_xy_std is 0.1, wanted a number from 0.5 on"),
        ("bi_w=nan", r"bi_w is nan"),
        ("bi_xy_std=inf", r"bi_xy_std is inf"),
        ("pos_w=-1", r"pos_w is -1.0"),
    ],
)
def test_parameters_that_cannot_work_are_told(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        parse_crf(text)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    check_crf_installed()
    monkeypatch.setattr(dense, "find_spec", lambda name: None)
    dense._library.cache_clear()
    probabilities, guide = random_case(0)
    for call in (
        check_crf_installed,
        lambda: refine(probabilities, guide, everywhere(probabilities), DenseCrf()),
    ):
        with pytest.raises(SettingsError, match=r"pip install 'aerial-seg\[crf\]'$"):
            call()
