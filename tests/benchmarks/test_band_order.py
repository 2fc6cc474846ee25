"""Photographs are shown to a model in the order of its band names; other bands are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.benchmarks.training_data import photograph_order, read_normalised
from aerial_seg.errors import InputError
from aerial_seg.jobs.benchmark.job import benchmark
from aerial_seg.models.file import load_model, save_model

BGR = IMAGENET_BANDS[::-1]


def called(*names: str) -> list[Band]:
    return [band.model_copy(update={"name": name}) for band, name in zip(IMAGENET_BANDS, names, strict=True)]


def with_bands(model: Path, bands: tuple[Band, ...], *, turned: bool) -> Path:
    """The model for images in these bands; turned: its first convolution looks at them in reverse."""
    trained = load_model(model)
    weights = dict(trained.network.state_dict())
    first = next(name for name, weight in weights.items() if weight.ndim == 4)
    if turned:
        weights[first] = weights[first].flip(1)
    path = model.with_name(f"{bands[0].name}-{turned}.safetensors")
    save_model(weights, trained.card.model_copy(update={"bands": bands}), path)
    return path


def test_a_bgr_model_predicts_what_the_same_network_of_rgb_predicts(voc_root: Path, voc_model: Path) -> None:
    def classes(model: Path) -> tuple[np.ndarray, tuple[str, ...]]:
        out = model.with_suffix("")
        report = benchmark("voc", voc_root, model, out, device="cpu")
        pictures = [np.array(Image.open(path)).ravel() for path in sorted(out.glob("predictions/*.png"))]
        return np.concatenate(pictures), report.notes

    plain, notes = classes(voc_model)
    assert not any("are shown" in note for note in notes)
    turned, notes = classes(with_bands(voc_model, BGR, turned=True))
    assert any("shown to the model as it was trained: blue, green, red" in note for note in notes)
    assert (turned == plain).mean() > 0.999
    mistaken, _ = classes(with_bands(voc_model, BGR, turned=False))
    assert (mistaken == plain).mean() < 0.99, "the order makes a difference"


def test_each_band_is_the_colour_of_its_name_in_its_own_units(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    got = read_normalised(tmp_path / "image.png", BGR).numpy()
    for plane, band, channel in zip(got, BGR, (2, 1, 0), strict=True):
        wanted = (pixels[:, :, channel].astype(np.float64) - band.mean) / band.std
        np.testing.assert_allclose(plane, wanted, atol=1e-5)
    assert photograph_order(called("G", "Red", "b")) == (1, 0, 2)
    assert photograph_order(called("band 1", "band 2", "band 3")) == (0, 1, 2)


def test_other_bands_are_refused_before_any_image(voc_root: Path, voc_model: Path) -> None:
    for names in (("nir", "red", "green"), ("red", "green", "band 3"), ("red", "red", "blue")):
        model = with_bands(voc_model, tuple(called(*names)), turned=False)
        with pytest.raises(InputError, match=f"was trained on {', '.join(names)}, but .*red, green and blue"):
            benchmark("voc", voc_root, model, device="cpu")


def test_bands_without_a_name_are_said_to_be_taken_for_rgb(voc_root: Path, voc_model: Path) -> None:
    model = with_bands(voc_model, tuple(called("band 1", "band 2", "band 3")), turned=False)
    report = benchmark("voc", voc_root, model, device="cpu")
    assert any("does not say which band is which (band 1, band 2, band 3)" in note for note in report.notes)
