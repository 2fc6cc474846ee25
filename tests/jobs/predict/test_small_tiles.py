"""Tiles that are small for their network: a halo and an overlap are never rounded down to nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.bands import Band
from aerial_seg.errors import SettingsError
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.inference.tile_choice import choose_tile, stitched_prediction
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import stitched_side, tile_shape

EAGER = EngineSettings("eager", "fp32", "cpu")


@pytest.fixture(scope="module")
def unet() -> TrainedModel:
    """A U-Net (origin step 32) of 3 classes whose file asks for tiles of 128 px; it has seen noise, so that it acts."""
    torch.manual_seed(0)
    model = ModelSettings(architecture="Unet", options={"decoder_channels": [16, 16, 8, 8, 8]})
    network = build_network(model, bands=3, classes=3).train()
    with torch.no_grad():
        for _ in range(4):
            network(torch.randn(2, 3, 128, 128))
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=model, prediction=PredictionSettings(tile_size=128, batch_size=1)),
        legend=make_legend({0: "ground", 1: "road", 2: "water"}),
        bands=tuple(Band(name=f"band {k}", dtype="uint8", mean=128, std=60, p2=0, p98=255) for k in range(3)),
        gsd=None,
        class_bias=(0.0,) * 3,
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    return TrainedModel(network=network.eval(), card=card, sha256="0" * 64)


def test_tiles_of_128_px_no_longer_show_their_seams(unet: TrainedModel) -> None:
    """Against one tile over all, more than half of the worst row was of another class; now a few in a hundred are."""
    random = np.random.default_rng(1).normal(size=(3, 48, 48))
    image = np.clip(128 + 60 * random.repeat(4, axis=1).repeat(4, axis=2), 0, 255).astype(np.uint8)

    def classes(**changes: int) -> np.ndarray:
        one = Segmenter(Ensemble((unet,)), SegmentSettings(**changes), EAGER, batch_size=1)
        return one(image).classes

    whole = classes(tile_size=448, halo=128)

    def worst_row(said: np.ndarray) -> float:
        return float((said != whole).mean(axis=1).max())

    assert worst_row(classes(tile_size=128, halo=0, overlap=0)) > 0.5  # what 128 px were until now
    assert worst_row(classes()) < 0.15
    assert worst_row(classes(tile_size=128)) < 0.15


def test_the_tile_of_a_model_grows_and_a_note_says_how_to_have_it_as_before(unet: TrainedModel) -> None:
    shape, (note,) = choose_tile(Ensemble((unet,)), tile_size=None, halo=None, overlap=None)
    assert (shape.side, shape.halo, shape.overlap) == (256, 32, 32)
    assert "tiles have 256 px instead of 128" in note
    assert "`tile_size=128` `halo=0` `overlap=0` takes them as they are" in note
    shape, notes = choose_tile(Ensemble((unet,)), tile_size=128, halo=0, overlap=0)
    assert (shape.side, shape.halo, shape.overlap, notes) == (128, 0, 0, ())
    # One that was asked for grows only as far as it must.
    assert choose_tile(Ensemble((unet,)), tile_size=128, halo=None, overlap=None)[0].side == 128
    assert choose_tile(Ensemble((unet,)), tile_size=64, halo=None, overlap=None)[0].side == 128
    with pytest.raises(SettingsError, match="try 96 or 128"):
        choose_tile(Ensemble((unet,)), tile_size=100, halo=None, overlap=None)


def test_training_writes_a_tile_that_its_network_stitches_well(unet: TrainedModel) -> None:
    geometry = unet.network.geometry
    made, (note,) = stitched_prediction(geometry, PredictionSettings(tile_size=128))
    assert made.tile_size == 256
    assert "prediction.tile_size is 256 in the model file, not 128" in note
    for fine in (PredictionSettings(), PredictionSettings(tile_size=128, halo=0, overlap=0)):
        assert stitched_prediction(geometry, fine) == (fine, ())


@given(
    stride=st.sampled_from([1, 4, 8]),
    times=st.sampled_from([1, 2, 4]),
    steps=st.integers(1, 40),
    corners=st.booleans(),
    halo=st.none() | st.integers(0, 100),
    overlap=st.none() | st.integers(0, 100),
    asked=st.booleans(),
)
@settings(max_examples=examples(200))
def test_halo_and_overlap_are_at_least_one_origin_step_unless_said_otherwise(
    stride: int,
    times: int,
    steps: int,
    corners: bool,
    halo: int | None,
    overlap: int | None,
    asked: bool,
) -> None:
    unit = stride * times
    geometry = ModelGeometry(stride, stride, unit, align_corners=corners)
    wanted = unit * steps + corners
    side = stitched_side(geometry, wanted, halo=halo, overlap=overlap, asked=asked)
    assert side >= wanted
    if halo is not None and overlap is not None:
        assert side == wanted
        return
    try:
        shape = tile_shape(geometry, side, halo=halo, overlap=overlap)
    except SettingsError:
        least = unit + 2 * -(-(halo or 0) // unit) * unit + (overlap or 0)
        room = max(side // 16, unit) if halo is None else 0, max(side // 8, unit) if overlap is None else 0
        assert side < least + 2 * room[0] + room[1] + corners  # what was asked for is too much
        return
    assert shape.halo >= (unit if halo is None else halo)
    assert shape.overlap >= (unit if overlap is None else overlap)
    if halo is None and overlap is None and not asked:
        assert 8 * shape.step >= 5 * unit * (side // unit) - 8 * unit  # at most some 2.56 runs of every pixel
