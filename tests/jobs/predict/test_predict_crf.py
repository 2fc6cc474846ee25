"""predict with a CRF: what the blocks make of the network's probabilities, whatever cut the work and wherever."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from rasterio.io import MemoryFile

from aerial_seg.bands import normalise
from aerial_seg.crf import blocks as crf_blocks
from aerial_seg.crf import dense
from aerial_seg.crf.blocks import BlockedCrf
from aerial_seg.crf.dense import refine
from aerial_seg.crf.settings import DenseCrf
from aerial_seg.errors import Interrupted, OutputError, SettingsError
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.inference import crf_rows
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.predictor import Predictor
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.inference.stream import MaskStream
from aerial_seg.jobs.predict import one_scene as map_scene
from aerial_seg.jobs.predict.job import forecast_prediction, predict
from aerial_seg.jobs.predict.segments_writer import PieceMaker
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.models.file import TrainedModel
from aerial_seg.tiling.plan import TilePlan, TileShape

pytest.importorskip("pydensecrf", reason="pip install aerial-seg[crf]")

NODATA = 7
MODEL = Path("any.safetensors")
FIELD = DenseCrf(iterations=3, bi_xy_std=5, bi_rgb_std=20)
BLOCKS = BlockedCrf(FIELD, core=16, halo=6)
ALL = Definition(confidence=True, probabilities=True, crf=BLOCKS)

quicker = settings(max_examples=examples(15), deadline=None)


def patchy_image(seed: int, height: int, width: int, scale: int = 4) -> np.ndarray:
    """Two bands of even patches with a little noise, and a rectangle of nodata."""
    random = np.random.default_rng(seed)
    coarse = random.integers(20, 236, (2, -(-height // scale), -(-width // scale)))
    noise = random.integers(-9, 10, (2, height, width))
    image = coarse.repeat(scale, 1).repeat(scale, 2)[:, :height, :width] + noise
    top, left = random.integers(0, height), random.integers(0, width)
    image[:, top : top + height // 3, left : left + width // 3] = NODATA
    return image.astype(np.uint8)


def expected_marginals(
    probabilities: np.ndarray, image: np.ndarray, valid: np.ndarray, core: int, halo: int
) -> np.ndarray:
    """Blocks cut by hand from arrays of the whole raster."""
    made = np.zeros_like(probabilities)
    height, width = valid.shape
    for top in range(0, height, core):
        for left in range(0, width, core):
            north, west = max(0, top - halo), max(0, left - halo)
            seen = slice(north, top + core + halo), slice(west, left + core + halo)
            part = refine(
                np.ascontiguousarray(probabilities[:, seen[0], seen[1]]),
                image[:, seen[0], seen[1]].astype(np.float32),
                valid[seen],
                FIELD,
                origin=(north, west),
            )
            kept = slice(top - north, top - north + core), slice(left - west, left - west + core)
            made[:, top : top + core, left : left + core] = part[:, kept[0], kept[1]]
    return made


@pytest.mark.parametrize("stride", [1, 8])
@quicker
@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 99))
def test_layers_are_the_marginals_of_blocks_cut_by_hand(
    stream_layers: Callable[..., Any],
    whole_logits: Callable[..., Any],
    pointwise: Callable[..., TrainedModel],
    stride: int,
    height: int,
    width: int,
    seed: int,
) -> None:
    model = pointwise(stride=stride, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=32, halo=0, step=24)
    image = patchy_image(seed, height, width)
    layers = stream_layers(image, model, shape, definition=ALL).layers
    logits, valid = whole_logits(image, model)
    probabilities = torch.from_numpy(logits).softmax(0).numpy()
    marginals = expected_marginals(probabilities, image, valid, BLOCKS.core, BLOCKS.halo)
    # What the network says differs in its last bits; where the field is about to tip over, that shows.
    off = np.abs(layers["probabilities"].astype(float) / 250 - marginals)[:, valid]
    assert (off > 0.01).mean() < 0.02
    wanted = model.card.legend.value_table()[marginals.argmax(axis=0)]
    ranked = np.sort(marginals, axis=0)
    clear = valid & (ranked[-1] - ranked[-2] > 0.05)
    assert (layers["class"][clear] != wanted[clear]).mean() < 0.005 if clear.any() else True
    for values in layers.values():
        np.testing.assert_array_equal(values == 255, np.broadcast_to(~valid, values.shape))


@quicker
@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 99))
def test_class_and_confidence_belong_to_the_probabilities(
    stream_layers: Callable[..., Any],
    pointwise: Callable[..., TrainedModel],
    height: int,
    width: int,
    seed: int,
) -> None:
    model = pointwise(stride=8, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=32, halo=0, step=24)
    layers = stream_layers(patchy_image(seed, height, width), model, shape, definition=ALL).layers
    measured = layers["class"] != 255
    shares = layers["probabilities"][:, measured].astype(int)
    assert (abs(shares.sum(axis=0) - 250) <= 2).all()
    np.testing.assert_array_equal(layers["confidence"][measured], shares.max(axis=0))
    channels = model.card.legend.channel_table()[layers["class"][measured]]
    np.testing.assert_array_equal(np.take_along_axis(shares, channels[None], 0)[0], shares.max(axis=0))


DEFINITIONS = [
    ALL,
    Definition(blend="probabilities", window="cosine", confidence=True, crf=BLOCKS),
    Definition(tta=("flips",), crf=BlockedCrf(FIELD, core=24, halo=40)),
]


@pytest.mark.parametrize("definition", DEFINITIONS, ids=["logits", "probabilities", "tta"])
@pytest.mark.parametrize("stride", [1, 8])
@quicker
@given(data=st.data(), height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 99))
def test_panels_swaths_and_resume_points_change_no_bit(
    stream_layers: Callable[..., Any],
    pointwise: Callable[..., TrainedModel],
    stride: int,
    definition: Definition,
    data: st.DataObject,
    height: int,
    width: int,
    seed: int,
) -> None:
    model = pointwise(stride=stride, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=32, halo=8, step=8)
    image = patchy_image(seed, height, width)
    whole = stream_layers(image, model, shape, definition=definition).layers
    left, first = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    region = Region(first, range(left, data.draw(st.integers(left + 1, width))))
    part = stream_layers(image, model, shape, region=region, definition=definition).layers
    assert part.keys() == whole.keys()
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][..., first:, left : region.cols.stop])


def test_blocks_without_a_measured_pixel_are_not_computed(
    stream_layers: Callable[..., Any], pointwise: Callable[..., TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pointwise(stride=8, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=32, halo=0, step=32)
    image = np.full((2, 64, 80), NODATA, np.uint8)
    image[:, 20:30, 40:60] = patchy_image(0, 80, 80)[:, 60:70, 60:80] + 1
    at: list[tuple[int, int]] = []

    def counted(*arguments: object, origin: tuple[int, int]) -> np.ndarray:
        at.append(origin)
        return refine(*arguments, origin=origin)  # type: ignore[arg-type]

    monkeypatch.setattr(crf_rows, "refine", counted)
    layers = stream_layers(image, model, shape, definition=ALL).layers
    assert at == [(10, 26), (10, 42)]
    np.testing.assert_array_equal(layers["class"] == 255, (image == NODATA).all(axis=0))


def test_a_frame_for_another_result_is_our_own_bug(pointwise: Callable[..., TrainedModel]) -> None:
    model = pointwise(stride=8, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=32, halo=0, step=32)
    region_tiles = RegionTiles(
        TilePlan.of(height=20, width=20, shape=shape), Region(0, range(20)), height=20, width=20
    )
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", count=2, height=20, width=20, dtype="uint8") as file:
            file.write(np.ones((2, 20, 20), np.uint8))
        with Raster(memory.name, georeferenced=False) as raster:
            engine = EngineSettings("eager", "fp32", "cpu")
            predictor = Predictor(model, settings=engine, batch_size=1, side=32, tiles=1)
            card = model.card
            with pytest.raises(ValueError, match="the region is for None"):
                MaskStream(raster, raster, region_tiles, predictor, ALL, bands=card.bands, legend=card.legend)


def test_memory_is_flat_in_the_rasters_height(
    stream_layers: Callable[..., Any], pointwise: Callable[..., TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what Python holds: the library's own memory is one block's, whatever the raster."""
    model = pointwise(stride=1, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=64, halo=0, step=64)
    monkeypatch.setattr(crf_rows, "refine", lambda probabilities, *_, **__: probabilities)
    definition = Definition(crf=BlockedCrf(FIELD, core=64, halo=16))

    def peak(height: int) -> int:
        image = patchy_image(1, height, 300)
        raster_bytes = 3 * image.nbytes  # the test's own: the image, its file, the finished class rows
        tracemalloc.start()
        stream_layers(image, model, shape, definition=definition)
        used = tracemalloc.get_traced_memory()[1] - raster_bytes
        tracemalloc.stop()
        return used

    peak(256)
    low, high = peak(512), peak(2048)
    held = 3 * 300 * 4 * 2048  # all lattice rows of the taller one
    assert high - low < held / 8, f"{low} bytes for 512 rows, {high} for 2048"


# The whole of `predict`.


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`predict` cuts blocks of 64 pixels."""
    monkeypatch.setattr(crf_blocks, "_CORE", 64)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def run(source: Path | str, out: Path, **changes: object) -> None:
    given = {"crf": FIELD, "confidence": True, "nodata": NODATA, "engine": "eager", "precision": "fp32"}
    predict(MODEL, [str(source)], out, PredictSettings(**{**given, **changes}))  # type: ignore[arg-type]


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("gsd", [1.0, 2.0, 0.5])
def test_nodata_in_is_nodata_out_on_the_sources_grid(
    gsd: float, use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8, gsd=1.0))
    image = patchy_image(3, 95, 81)
    valid = np.random.default_rng(1).random((95, 81)) > 0.2
    image[:, ~valid] = NODATA
    source = write_raster(tmp_path / "in.tif", image, gsd=gsd)
    run(source, tmp_path / "out.tif", probabilities=True)
    with rasterio.open(source) as given, rasterio.open(tmp_path / "out.tif") as made:
        assert (made.shape, made.transform, made.crs) == (given.shape, given.transform, given.crs)
    unmeasured = (image == NODATA).all(axis=0)
    for name in ("out.tif", "out_confidence.tif", "out_probabilities.tif"):
        for band in read(tmp_path / name):
            np.testing.assert_array_equal(band == 255, unmeasured)


@pytest.mark.parametrize("gsd", [1.0, 2.0])
def test_borders_move_to_the_images_edges(
    gsd: float, use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    """A network at stride 8 cannot see where between two cells an edge lies; the field on the raster's grid can."""
    model = pointwise(stride=8, origin_step=8, gsd=1.0)
    use(model)
    first, second = (np.array(pair) for pair in two_shades_of_different_class(model))
    truth = np.zeros((90, 100), np.bool_)
    truth[23:61, 37:75] = True
    noise = np.random.default_rng(0).integers(-3, 4, (2, 90, 100))
    image = (np.where(truth, second[:, None, None], first[:, None, None]) + noise).astype(np.uint8)
    source = write_raster(tmp_path / "in.tif", image, gsd=gsd)
    off = {}
    for name, field in (("plain", None), ("crf", DenseCrf(bi_xy_std=15))):
        run(source, tmp_path / f"{name}.tif", crf=field, nodata=None)
        mask = read(tmp_path / f"{name}.tif")[0]
        off[name] = min((((mask == value) != truth).mean()) for value in np.unique(mask))
    assert off["crf"] < off["plain"] / 2, off


def two_shades_of_different_class(model: TrainedModel) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two colours, 30 to 220, that the pointwise model takes for different classes with the clearest lead."""
    shades = [(a, b) for a in range(30, 221, 38) for b in range(30, 221, 38)]
    pixels = normalise(
        np.array(shades, np.uint8).T[:, :, None], np.ones((len(shades), 1), bool), model.card.bands
    )
    with torch.no_grad():
        logits = model.network.classify(torch.from_numpy(pixels)[None])[0, :, :, 0].numpy()
    lead = np.sort(logits, axis=0)[-1] - np.sort(logits, axis=0)[-2]
    winner = logits.argmax(axis=0)
    first = int(lead.argmax())
    second = int(np.where(winner != winner[first], lead, -1).argmax())
    return shades[first], shades[second]


def test_panels_change_no_byte(
    use: Callable,
    pointwise: Callable,
    write_raster: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = write_raster(tmp_path / "in.tif", patchy_image(2, 70, 560, scale=10))
    run(source, tmp_path / "one" / "map.tif")
    monkeypatch.setattr(map_scene, "choose_panels", lambda *_: (range(512), range(512, 560)))
    run(source, tmp_path / "two" / "map.tif")
    assert outputs(tmp_path / "one") == outputs(tmp_path / "two")


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    use: Callable,
    pointwise: Callable,
    write_raster: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Blocks of 96 px do not end where the first piece does, at row 512: one is computed twice.
    use(pointwise(stride=8, origin_step=8))
    monkeypatch.setattr(crf_blocks, "_CORE", 96)
    source = write_raster(tmp_path / "in.tif", patchy_image(5, 600, 70, scale=10))
    run(source, tmp_path / "calm" / "map.tif")
    keep, pieces = PieceMaker._keep, []

    def interrupted(self: PieceMaker, piece: Any) -> None:
        if pieces:
            raise KeyboardInterrupt
        pieces.append(piece.rows)
        keep(self, piece)

    with monkeypatch.context() as storm:
        storm.setattr(PieceMaker, "_keep", interrupted)
        with pytest.raises(Interrupted):
            run(source, tmp_path / "storm" / "map.tif")
    with pytest.raises(OutputError, match=r"bi_w was 4\.0, is 5"):
        run(
            source,
            tmp_path / "storm" / "map.tif",
            crf=DenseCrf(iterations=3, bi_w=5, bi_xy_std=5, bi_rgb_std=20),
        )
    run(source, tmp_path / "storm" / "map.tif")
    assert outputs(tmp_path / "storm") == outputs(tmp_path / "calm")


def test_several_scenes_with_tta_and_blended_probabilities(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    for seed, name in enumerate("ab"):
        write_raster(tmp_path / f"{name}.tif", patchy_image(seed, 50, 70))
    changes = {"tta": ("flips",), "blend": "probabilities"}
    run(tmp_path / "*.tif", tmp_path / "masks", **changes)
    run(tmp_path / "b.tif", tmp_path / "alone.tif", **changes)
    np.testing.assert_array_equal(read(tmp_path / "masks" / "b_mask.tif"), read(tmp_path / "alone.tif"))
    run(tmp_path / "b.tif", tmp_path / "plain.tif", **changes, crf=None)
    refined, plain = (read(tmp_path / f"{name}_confidence.tif") for name in ("alone", "plain"))
    assert (refined != plain).mean() > 0.1


def test_the_mask_tells_of_the_field_and_its_blocks(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = write_raster(tmp_path / "in.tif", patchy_image(1, 20, 30))
    run(source, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as mask:
        told = mask.tags()["AERIAL_SEG_PARAMETERS"]
    assert '"bi_rgb_std": 20' in told
    assert '"halo": 10' in told


def test_the_forecast_counts_the_fields_time_and_memory(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = write_raster(tmp_path / "in.tif", patchy_image(1, 300, 300))
    plain, crf = (
        forecast_prediction(MODEL, [str(source)], tmp_path / "out.tif", PredictSettings(crf=field))[0]
        for field in (None, DenseCrf())
    )
    assert crf.seconds > plain.seconds + 0.1
    # Each block sees the whole raster, and most of what a block takes is the library's.
    assert crf.memory > plain.memory + 300 * 300 * 300
    assert not (tmp_path / "out.tif").exists()


def test_a_missing_package_is_told_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'aerial-seg\[crf\]'"):
        predict(MODEL, ["absent.tif"], tmp_path / "out.tif", PredictSettings(crf=DenseCrf()))
