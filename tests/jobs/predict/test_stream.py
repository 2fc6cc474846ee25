"""The laws of the stream: stitched equals whole, no cut of the work changes a bit, memory is flat."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from concurrent.futures import Future
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples, few

from aerial_seg.geo.raster import swath
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.predictor import Predictor
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.inference.stream import MaskStream
from aerial_seg.models.file import TrainedModel
from aerial_seg.outputs.maps import PROBABILITY_STEP
from aerial_seg.progress import silent
from aerial_seg.tiling.plan import TilePlan, TileShape, tile_shape

NODATA = 7
MARGIN = 1e-4

quick = settings(max_examples=examples(60), deadline=None)
quicker = settings(max_examples=examples(20), deadline=None)

PATCH = (2, 16, 18, 23, 32, 34)
"""Where a patch of 30 pixels ends or begins on a border of 16-pixel tiles, and once where it does not."""


def random_image(seed: int, height: int, width: int) -> np.ndarray:
    """Two bands of noise with a patch of nodata."""
    random = np.random.default_rng(seed)
    image = random.integers(NODATA + 1, 256, (2, height, width), dtype=np.uint8)
    top, left = random.integers(0, height), random.integers(0, width)
    image[:, top : top + height // 3, left : left + width // 3] = NODATA
    return image


def check_against(mask: np.ndarray, logits: np.ndarray, valid: np.ndarray, model: TrainedModel) -> None:
    """The mask is the argmax of the logits (K,H,W) where their margin is clear, and 255 exactly off `valid`."""
    ranked = np.sort(logits, axis=0)
    clear = valid & (ranked[-1] - ranked[-2] > MARGIN)
    wanted = model.card.legend.value_table()[logits.argmax(axis=0)]
    np.testing.assert_array_equal(mask[clear], wanted[clear])
    np.testing.assert_array_equal(mask == 255, ~valid)


@st.composite
def shapes(draw: st.DrawFn, model: TrainedModel, *, least_halo: int = 0) -> TileShape:
    unit = model.network.geometry.origin_step
    halo = draw(st.integers(-(-least_halo // unit), 3)) * unit
    step = draw(st.integers(1, 3)) * unit
    overlap = draw(st.integers(0, 2)) * unit
    return TileShape(geometry=model.network.geometry, side=step + overlap + 2 * halo, halo=halo, step=step)


@quick
@given(data=st.data(), height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 99))
def test_a_pointwise_model_stitched_equals_the_whole(
    stream_layers: Callable[..., Any],
    whole_logits: Callable[..., Any],
    pointwise: Callable[..., TrainedModel],
    data: st.DataObject,
    height: int,
    width: int,
    seed: int,
) -> None:
    model = pointwise(stride=1, origin_step=data.draw(st.sampled_from([8, 16])))
    image = random_image(seed, height, width)
    mask = stream_layers(image, model, data.draw(shapes(model))).layers["class"]
    check_against(mask, *whole_logits(image, model), model)


@quick
@given(data=st.data(), height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 99))
def test_a_strided_pointwise_model_stitched_equals_the_whole_upsampled(
    stream_layers: Callable[..., Any],
    whole_logits: Callable[..., Any],
    pointwise: Callable[..., TrainedModel],
    data: st.DataObject,
    height: int,
    width: int,
    seed: int,
) -> None:
    model = pointwise(stride=8, origin_step=data.draw(st.sampled_from([8, 16])))
    image = random_image(seed, height, width)
    mask = stream_layers(image, model, data.draw(shapes(model))).layers["class"]
    check_against(mask, *whole_logits(image, model), model)


@quick
@given(data=st.data(), height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 99))
def test_a_halo_of_the_receptive_field_makes_tiles_equal_the_padded_whole(
    stream_layers: Callable[..., Any],
    whole_logits: Callable[..., Any],
    neighbourly: Callable[..., TrainedModel],
    data: st.DataObject,
    height: int,
    width: int,
    seed: int,
) -> None:
    model = neighbourly(origin_step=data.draw(st.sampled_from([4, 8])))
    shape = data.draw(shapes(model, least_halo=2))
    image = random_image(seed, height, width)
    mask = stream_layers(image, model, shape).layers["class"]
    check_against(mask, *whole_logits(image, model, ring=shape.halo), model)


def test_beyond_the_raster_the_image_is_mirrored_not_grey(
    stream_layers: Callable[..., Any], neighbourly: Callable[..., TrainedModel]
) -> None:
    """An even image stays even to its last pixel: a grey rim would show at once to a network that sees edges."""
    model = neighbourly(origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=32, halo=8, step=16)
    for height, width in ((1, 1), (5, 40), (33, 47)):
        mask = stream_layers(np.full((2, height, width), 200, np.uint8), model, shape).layers["class"]
        assert len(np.unique(mask)) == 1


DEFINITIONS = [
    Definition(confidence=True, probabilities=True),
    Definition(blend="probabilities", window="cosine", confidence=True),
    Definition(window="centre", tta=("flips", "rot90")),
]


@pytest.mark.parametrize("definition", DEFINITIONS, ids=["logits", "probabilities", "centre+tta"])
@pytest.mark.parametrize("kind", ["pointwise stride 8", "neighbourly"])
@quicker
@given(data=st.data(), height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 99))
def test_panels_and_resume_points_change_no_bit(
    stream_layers: Callable[..., Any],
    pointwise: Callable[..., TrainedModel],
    neighbourly: Callable[..., TrainedModel],
    kind: str,
    definition: Definition,
    data: st.DataObject,
    height: int,
    width: int,
    seed: int,
) -> None:
    model = pointwise(stride=8, origin_step=8) if kind != "neighbourly" else neighbourly(origin_step=8)
    shape, image = data.draw(shapes(model)), random_image(seed, height, width)
    whole = stream_layers(image, model, shape, definition=definition).layers
    left, first = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    region = Region(first, range(left, data.draw(st.integers(left + 1, width))))
    part = stream_layers(image, model, shape, region=region, definition=definition).layers
    assert part.keys() == whole.keys()
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][..., first:, left : region.cols.stop])


@pytest.mark.parametrize("architecture", few(["Unet", "deeplabv3", "pspnet", "fcn"], quick=1))
def test_panels_and_resume_points_change_no_bit_of_real_networks(
    stream_layers: Callable[..., Any], untrained: Callable[[str], TrainedModel], architecture: str
) -> None:
    model = untrained(architecture)
    shape = tile_shape(model.network.geometry, 128, halo=32, overlap=16)
    image = random_image(6, 210, 250)
    definition = Definition(confidence=True)
    streamed = stream_layers(image, model, shape, definition=definition)
    whole = streamed.layers
    assert streamed.tiles.run > 9
    for first, cols in ((0, range(0, 100)), (97, range(100, 250)), (209, range(31, 32))):
        part = stream_layers(image, model, shape, region=Region(first, cols), definition=definition).layers
        for name, values in part.items():
            np.testing.assert_array_equal(values, whole[name][first:, cols.start : cols.stop])


@quicker
@given(height=st.integers(1, 50), width=st.integers(1, 50), seed=st.integers(0, 99))
def test_confidence_and_probabilities_belong_to_the_mask(
    stream_layers: Callable[..., Any],
    whole_logits: Callable[..., Any],
    pointwise: Callable[..., TrainedModel],
    height: int,
    width: int,
    seed: int,
) -> None:
    model = pointwise(stride=1, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=16, halo=0, step=8)
    image = random_image(seed, height, width)
    definition = Definition(confidence=True, probabilities=True)
    layers = stream_layers(image, model, shape, definition=definition).layers
    logits, valid = whole_logits(image, model)
    softmax = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=0)
    scale = PROBABILITY_STEP
    for name, wanted in (("confidence", softmax.max(axis=0)), ("probabilities", softmax)):
        stored = layers[name].astype(float)
        np.testing.assert_allclose((stored * scale)[..., valid], wanted[..., valid], atol=0.51 * scale)
        assert (layers[name][..., ~valid] == 255).all()
    assert (layers["class"][~valid] == 255).all()


@quicker
@given(seed=st.integers(0, 99), batch_sizes=st.tuples(st.integers(1, 4), st.integers(5, 9)))
def test_the_batch_size_changes_no_clear_pixel(
    stream_layers: Callable[..., Any],
    whole_logits: Callable[..., Any],
    neighbourly: Callable[..., TrainedModel],
    seed: int,
    batch_sizes: tuple[int, int],
) -> None:
    model = neighbourly(origin_step=4)
    shape = TileShape(geometry=model.network.geometry, side=16, halo=4, step=8)
    image = random_image(seed, 27, 22)
    oracle = whole_logits(image, model, ring=4)
    for batch_size in batch_sizes:
        mask = stream_layers(image, model, shape, batch_size=batch_size).layers["class"]
        check_against(mask, *oracle, model)


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("overlap", [0, 8])
def test_tiles_without_measured_pixels_are_skipped_and_no_bit_changes(
    stream_layers: Callable[..., Any], pointwise: Callable[..., TrainedModel], stride: int, overlap: int
) -> None:
    # Skipping also changes which tiles share a batch: that must not show either. Without overlap a cell has one
    # tile only, so one tile skipped too many leaves a hole that interpolation reaches.
    model = pointwise(stride=stride, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=16 + overlap, halo=0, step=16)
    skipped = 0
    for seed, (top, left) in enumerate(product(PATCH, PATCH)):
        image = np.full((2, 90, 80), NODATA, np.uint8)
        patch = random_image(seed, 5, 5).repeat(6, axis=1).repeat(6, axis=2)
        image[:, top : top + 30, left : left + 30] = patch
        done = stream_layers(image, model, shape)
        with pytest.MonkeyPatch.context() as every:
            every.setattr(MaskStream, "_is_measured", lambda *_: True)
            every_tile = stream_layers(image, model, shape)
        assert every_tile.tiles.skipped == 0
        assert done.tiles.run + done.tiles.skipped == every_tile.tiles.run
        skipped += done.tiles.skipped
        np.testing.assert_array_equal(done.layers["class"], every_tile.layers["class"])
    assert skipped > 0


def test_an_unmeasured_raster_runs_no_tile(
    stream_layers: Callable[..., Any], pointwise: Callable[..., TrainedModel]
) -> None:
    model = pointwise(stride=8, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=16, halo=0, step=16)
    done = stream_layers(np.full((2, 40, 40), NODATA, np.uint8), model, shape)
    assert (done.layers["class"] == 255).all()
    assert done.tiles.run == 0


class AtOnce:
    """An executor that does the work when it is submitted."""

    def __init__(self, **_: object) -> None:
        return None

    def submit(self, work: Callable[..., None], *arguments: object) -> Future[None]:
        """The finished future."""
        done: Future[None] = Future()
        done.set_result(work(*arguments))
        return done

    def shutdown(self, **_: object) -> None:
        """Nothing runs."""


@pytest.mark.parametrize("ground", ["measured", "empty", "one pixel in the north"])
def test_memory_is_flat_in_the_rasters_height(
    pointwise: Callable[..., TrainedModel], tmp_path: Path, ground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pointwise(stride=8, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=64, halo=8, step=40)

    def peak(rows_of_tiles: int) -> int:
        path = tmp_path / f"{rows_of_tiles}.tif"
        height, width = 48 + 40 * (rows_of_tiles - 1), 4000
        image = random_image(1, height, width)
        if ground != "measured":
            image[:] = NODATA
            image[:, :1, :1] += np.uint8(ground != "empty")
        profile = {"driver": "GTiff", "count": 2, "height": height, "width": width, "dtype": "uint8"}
        with rasterio.open(path, "w", **profile) as file:
            file.write(image)
        with Raster(path, nodata=NODATA, georeferenced=False) as raster:
            plan = TilePlan.of(height=height, width=width, shape=shape)
            assert len(plan.rows.origins) == rows_of_tiles
            settings = EngineSettings("eager", "fp32", "cpu")
            predictor = Predictor(model, settings=settings, batch_size=2, side=shape.side, tiles=1)
            region_tiles = RegionTiles(plan, Region(0, range(width)), height=height, width=width)
            tracemalloc.start()
            with MaskStream(
                raster,
                raster,
                region_tiles,
                predictor,
                Definition(),
                bands=model.card.bands,
                legend=model.card.legend,
            ) as stream:
                rows = sum(len(part.layers["class"]) for part in stream.rows(silent("", total=0, unit="")))
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert rows == height
        return used

    # Reading ahead in this thread: otherwise chance decides whether the reader's peak meets the stream's.
    monkeypatch.setattr(swath, "ThreadPoolExecutor", AtOnce)
    peak(8)
    # The first few rows of tiles meet the end of the ring in fewer ways than many do.
    low, high = peak(16), peak(40)
    assert high < 1.02 * low, f"{low} bytes for 16 rows of tiles, {high} for 40"
