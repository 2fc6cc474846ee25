"""The laws of prediction: stitched equals whole, nodata stays nodata, memory is flat, the grid is the raster's."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from concurrent.futures import Future
from itertools import product
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile
from torch.nn.functional import interpolate

from aerial_seg.bands import normalise
from aerial_seg.errors import InputError, OutputError
from aerial_seg.geo import swath
from aerial_seg.geo.maps import PROBABILITY_STEP
from aerial_seg.geo.mask import read_legend
from aerial_seg.geo.raster import Raster
from aerial_seg.jobs.mapping.frame import Frame, Region
from aerial_seg.jobs.mapping.stream import MaskStream
from aerial_seg.jobs.predict import predict
from aerial_seg.jobs.predict_settings import Definition, PredictSettings
from aerial_seg.models.engine import EngineSettings
from aerial_seg.models.file import TrainedModel
from aerial_seg.models.predictor import Predictor
from aerial_seg.progress import silent
from aerial_seg.tiling.plan import TilePlan, TileShape, tile_shape

NODATA = 7
PLAIN = Definition()
MARGIN = 1e-4

quick = settings(max_examples=60, deadline=None)
quicker = settings(max_examples=20, deadline=None)

PATCH = (2, 16, 18, 23, 32, 34)
"""Where a patch of 30 pixels ends or begins on a border of 16-pixel tiles, and once where it does not."""


def random_image(seed: int, height: int, width: int) -> np.ndarray:
    """Two bands of noise with a patch of nodata."""
    random = np.random.default_rng(seed)
    image = random.integers(NODATA + 1, 256, (2, height, width), dtype=np.uint8)
    top, left = random.integers(0, height), random.integers(0, width)
    image[:, top : top + height // 3, left : left + width // 3] = NODATA
    return image


def stream_mask(
    image: np.ndarray, model: TrainedModel, shape: TileShape, *, batch_size: int = 3
) -> tuple[np.ndarray, MaskStream]:
    """The mask of an image in memory, row by row through MaskStream, in which 7 in all bands is nodata."""
    layers, stream = stream_layers(image, model, shape, batch_size=batch_size)
    return layers["class"], stream


def stream_layers(
    image: np.ndarray,
    model: TrainedModel,
    shape: TileShape,
    *,
    batch_size: int = 3,
    region: Region | None = None,
    definition: Definition = PLAIN,
) -> tuple[dict[str, np.ndarray], MaskStream]:
    """All layers of a region of the output; the whole of it by default."""
    count, height, width = image.shape
    region = region or Region(0, range(width))
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", count=count, height=height, width=width, dtype="uint8") as file:
            file.write(image)
        with Raster(memory.name, nodata=NODATA, georeferenced=False) as raster:
            plan = TilePlan.of(height=height, width=width, shape=shape)
            predictor = Predictor(
                model,
                settings=EngineSettings("eager", "fp32", "cpu"),
                batch_size=batch_size,
                side=shape.side,
                tiles=1,
            )
            frame = Frame(plan, region, height=height, width=width)
            card = model.card
            with MaskStream(
                raster, raster, frame, predictor, definition, bands=card.bands, legend=card.legend
            ) as stream:
                parts: dict[str, list[np.ndarray]] = {}
                following = region.first_row
                for rows in stream.rows(silent("", total=0, unit="")):
                    assert rows.start == following
                    following += len(rows.layers["class"])
                    for name, values in rows.layers.items():
                        parts.setdefault(name, []).append(values.copy())
            assert following == height
    return {name: np.concatenate(values, axis=-2) for name, values in parts.items()}, stream


def check_against(mask: np.ndarray, logits: np.ndarray, valid: np.ndarray, model: TrainedModel) -> None:
    """The mask is the argmax of the logits (K,H,W) where their margin is clear, and 255 exactly off `valid`."""
    ranked = np.sort(logits, axis=0)
    clear = valid & (ranked[-1] - ranked[-2] > MARGIN)
    wanted = model.card.legend.value_table()[logits.argmax(axis=0)]
    np.testing.assert_array_equal(mask[clear], wanted[clear])
    np.testing.assert_array_equal(mask == 255, ~valid)


def whole_logits(image: np.ndarray, model: TrainedModel, *, ring: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (K,H,W) of the whole image, mirrored out to the stride (and by a ring); and valid."""
    valid = ~(image == NODATA).all(axis=0)
    stride = model.network.geometry.logit_stride
    height, width = valid.shape
    normal = normalise(image, valid, model.card.bands)
    beyond = (0, 0), (ring, ring + -height % stride), (ring, ring + -width % stride)
    with torch.no_grad():
        logits = model.network(torch.from_numpy(np.pad(normal, beyond, mode="symmetric"))[None])
    if stride > 1:
        logits = interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    return logits[0, :, ring : ring + height, ring : ring + width].numpy(), valid


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
    pointwise: Callable[..., TrainedModel], data: st.DataObject, height: int, width: int, seed: int
) -> None:
    model = pointwise(stride=1, origin_step=data.draw(st.sampled_from([8, 16])))
    image = random_image(seed, height, width)
    mask, _ = stream_mask(image, model, data.draw(shapes(model)))
    check_against(mask, *whole_logits(image, model), model)


@quick
@given(data=st.data(), height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 99))
def test_a_strided_pointwise_model_stitched_equals_the_whole_upsampled(
    pointwise: Callable[..., TrainedModel], data: st.DataObject, height: int, width: int, seed: int
) -> None:
    model = pointwise(stride=8, origin_step=data.draw(st.sampled_from([8, 16])))
    image = random_image(seed, height, width)
    mask, _ = stream_mask(image, model, data.draw(shapes(model)))
    check_against(mask, *whole_logits(image, model), model)


@quick
@given(data=st.data(), height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 99))
def test_a_halo_of_the_receptive_field_makes_tiles_equal_the_padded_whole(
    neighbourly: Callable[..., TrainedModel], data: st.DataObject, height: int, width: int, seed: int
) -> None:
    model = neighbourly(origin_step=data.draw(st.sampled_from([4, 8])))
    shape = data.draw(shapes(model, least_halo=2))
    image = random_image(seed, height, width)
    mask, _ = stream_mask(image, model, shape)
    check_against(mask, *whole_logits(image, model, ring=shape.halo), model)


def test_beyond_the_raster_the_image_is_mirrored_not_grey(neighbourly: Callable[..., TrainedModel]) -> None:
    """An even image stays even to its last pixel: a grey rim would show at once to a network that sees edges."""
    model = neighbourly(origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=32, halo=8, step=16)
    for height, width in ((1, 1), (5, 40), (33, 47)):
        mask, _ = stream_mask(np.full((2, height, width), 200, np.uint8), model, shape)
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
    whole, _ = stream_layers(image, model, shape, definition=definition)
    left, first = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    region = Region(first, range(left, data.draw(st.integers(left + 1, width))))
    part, _ = stream_layers(image, model, shape, region=region, definition=definition)
    assert part.keys() == whole.keys()
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][..., first:, left : region.cols.stop])


@pytest.mark.parametrize("architecture", ["Unet", "deeplabv3", "pspnet", "fcn"])
def test_panels_and_resume_points_change_no_bit_of_real_networks(
    untrained: Callable[[str], TrainedModel], architecture: str
) -> None:
    model = untrained(architecture)
    shape = tile_shape(model.network.geometry, 128, halo=32, overlap=16)
    image = random_image(6, 210, 250)
    definition = Definition(confidence=True)
    whole, ran = stream_layers(image, model, shape, definition=definition)
    assert ran.tiles.run > 9
    for first, cols in ((0, range(0, 100)), (97, range(100, 250)), (209, range(31, 32))):
        part, _ = stream_layers(image, model, shape, region=Region(first, cols), definition=definition)
        for name, values in part.items():
            np.testing.assert_array_equal(values, whole[name][first:, cols.start : cols.stop])


@quicker
@given(height=st.integers(1, 50), width=st.integers(1, 50), seed=st.integers(0, 99))
def test_confidence_and_probabilities_belong_to_the_mask(
    pointwise: Callable[..., TrainedModel], height: int, width: int, seed: int
) -> None:
    model = pointwise(stride=1, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=16, halo=0, step=8)
    image = random_image(seed, height, width)
    definition = Definition(confidence=True, probabilities=True)
    layers, _ = stream_layers(image, model, shape, definition=definition)
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
    neighbourly: Callable[..., TrainedModel], seed: int, batch_sizes: tuple[int, int]
) -> None:
    model = neighbourly(origin_step=4)
    shape = TileShape(geometry=model.network.geometry, side=16, halo=4, step=8)
    image = random_image(seed, 27, 22)
    oracle = whole_logits(image, model, ring=4)
    for batch_size in batch_sizes:
        mask, _ = stream_mask(image, model, shape, batch_size=batch_size)
        check_against(mask, *oracle, model)


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("overlap", [0, 8])
def test_tiles_without_measured_pixels_are_skipped_and_no_bit_changes(
    pointwise: Callable[..., TrainedModel], stride: int, overlap: int
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
        mask, stream = stream_mask(image, model, shape)
        with pytest.MonkeyPatch.context() as every:
            every.setattr(MaskStream, "_is_measured", lambda *_: True)
            unskipped, ran = stream_mask(image, model, shape)
        assert ran.tiles.skipped == 0
        assert stream.tiles.run + stream.tiles.skipped == ran.tiles.run
        skipped += stream.tiles.skipped
        np.testing.assert_array_equal(mask, unskipped)
    assert skipped > 0


def test_an_unmeasured_raster_runs_no_tile(pointwise: Callable[..., TrainedModel]) -> None:
    model = pointwise(stride=8, origin_step=8)
    shape = TileShape(geometry=model.network.geometry, side=16, halo=0, step=16)
    mask, stream = stream_mask(np.full((2, 40, 40), NODATA, np.uint8), model, shape)
    assert (mask == 255).all()
    assert stream.tiles.run == 0


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
        height, width = 48 + 40 * (rows_of_tiles - 1), 2000
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
            frame = Frame(plan, Region(0, range(width)), height=height, width=width)
            tracemalloc.start()
            with MaskStream(
                raster,
                raster,
                frame,
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
    low, high = peak(8), peak(32)
    assert high < 1.02 * low, f"{low} bytes for 8 rows of tiles, {high} for 32"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainedModel], None]:
    """Makes `predict` load this model, whatever file is named."""

    def patch(model: TrainedModel) -> None:
        monkeypatch.setattr("aerial_seg.jobs.predict.load_model", lambda path: model)

    return patch


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


MODEL = Path("any.safetensors")


@pytest.mark.parametrize("kind", ["mask", "value", "option"])
@pytest.mark.parametrize("gsd", [1.0, 2.0, 0.5])
def test_nodata_in_is_nodata_out_to_the_pixel_on_the_sources_grid(
    kind: str, gsd: float, use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8, gsd=1.0))
    random = np.random.default_rng(3)
    image = random.integers(NODATA + 1, 256, (2, 75, 61), dtype=np.uint8)
    valid = random.random((75, 61)) > 0.2
    valid[:, :9] = False
    # One band alone may hold the value: the pixel was measured.
    image[0, 40:60, 20:40] = NODATA
    if kind != "mask":
        image[:, ~valid] = NODATA
    declared = {"mask": {"valid": valid}, "value": {"nodata": NODATA}, "option": {}}[kind]
    source = write_raster(tmp_path / "in.tif", image, gsd=gsd, **declared)
    settings = PredictSettings(nodata=NODATA if kind == "option" else None)
    (report,) = predict(MODEL, [str(source)], tmp_path / "out.tif", settings)
    with rasterio.open(source) as given, rasterio.open(report.mask) as made:
        assert (made.shape, made.transform, made.crs) == (given.shape, given.transform, given.crs)
        assert made.nodata == 255
        np.testing.assert_array_equal(made.read(1) == 255, ~valid)
        np.testing.assert_array_equal(made.read_masks(1) > 0, valid)
    assert report.nodata_pixels == (~valid).sum()
    assert sum(report.class_pixels.values()) == valid.sum()
    assert report.resampled_to == (None if gsd == 1.0 else 1.0)


@pytest.mark.parametrize("gsd", [2.0, 0.5])
def test_a_resampled_raster_gets_its_classes_where_they_lie(
    gsd: float, use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    model = pointwise(stride=1, origin_step=8, gsd=1.0)
    use(model)
    image = np.full((2, 96, 80), 40, np.uint8)
    image[0, 32:] = 230
    image[1, :, 40:] = 240
    source = write_raster(tmp_path / "in.tif", image, gsd=gsd)
    predict(MODEL, [str(source)], tmp_path / "out.tif", PredictSettings())
    mask = read(tmp_path / "out.tif")
    logits, _ = whole_logits(image, model)
    wanted = model.card.legend.value_table()[logits.argmax(axis=0)]
    assert len(np.unique(wanted)) > 1
    away = np.ones(mask.shape, bool)
    away[30:34] = away[:, 38:42] = False
    np.testing.assert_array_equal(mask[away], wanted[away])


def test_a_mask_opens_in_gis_software_with_colours_names_and_provenance(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    model = pointwise(stride=1, origin_step=8)
    use(model)
    source = write_raster(tmp_path / "in.tif", random_image(1, 40, 50), nodata=NODATA)
    predict(MODEL, [str(source)], tmp_path / "out.tif", PredictSettings())
    beside = ["out.qml", "out.tif", "out.tif.aux.xml", "out.tif.vat.cpg", "out.tif.vat.dbf"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", *beside]
    assert read_legend(tmp_path / "out.tif") == model.card.legend
    with rasterio.open(tmp_path / "out.tif") as mask:
        assert mask.dtypes == ("uint8",)
        assert mask.descriptions == ("class",)
        palette = mask.colormap(1)
        assert all(palette[entry.value][:3] == entry.rgb for entry in model.card.legend.entries)
        tags = mask.tags()
    assert tags["AERIAL_SEG_MODEL_SHA256"] == model.sha256
    assert "in.tif" in tags["AERIAL_SEG_SOURCES"]
    style = (tmp_path / "out.qml").read_text(encoding="utf-8")
    assert all(f'label="{name}"' in style for name in model.card.legend.names)
    names = (tmp_path / "out.tif.aux.xml").read_text(encoding="utf-8")
    assert all(f"<Category>{name}</Category>" in names for name in model.card.legend.names)


def test_vectors_are_the_polygons_of_the_mask(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = write_raster(tmp_path / "in.tif", random_image(5, 90, 90), nodata=NODATA)
    settings = PredictSettings(vectors=tmp_path / "out.gpkg")
    (report,) = predict(MODEL, [str(source)], tmp_path / "out.tif", settings)
    frame = geopandas.read_file(tmp_path / "out.gpkg")
    assert report.vectors is not None
    assert len(frame) == report.vectors.polygons > 0
    present = {name for name, pixels in report.class_pixels.items() if pixels}
    assert set(frame["class_name"]) <= present


def test_a_mosaic_of_tiles_equals_the_merged_raster(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    image = random_image(8, 60, 100)
    merged = write_raster(tmp_path / "merged.tif", image)
    west = write_raster(tmp_path / "west.tif", image[:, :, :44])
    east = write_raster(tmp_path / "east.tif", image[:, :, 44:], corner=(500_044.0, 5_200_000.0))
    predict(MODEL, [str(merged)], tmp_path / "a.tif", PredictSettings())
    predict(MODEL, [str(west), str(east)], tmp_path / "b.tif", PredictSettings(mosaic=True))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        assert a.transform == b.transform


def test_several_rasters_get_a_mask_each(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    for name in ("a", "b"):
        write_raster(tmp_path / f"{name}.tif", random_image(1, 20, 30))
    reports = predict(MODEL, [str(tmp_path / "*.tif")], tmp_path / "masks", PredictSettings())
    assert [report.mask.name for report in reports] == ["a_mask.tif", "b_mask.tif"]
    assert all(report.mask.is_file() for report in reports)


def test_every_raster_of_a_mosaic_is_checked_before_the_first_tile_runs(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    write_raster(tmp_path / "a.tif", random_image(1, 20, 30))
    write_raster(tmp_path / "b.tif", random_image(1, 20, 30)[:1])
    with pytest.raises(InputError, match=r"b\.tif has 1 bands"):
        predict(MODEL, [str(tmp_path / "*.tif")], tmp_path / "out" / "map.tif", PredictSettings(mosaic=True))
    assert not (tmp_path / "out").exists()


def test_a_raster_is_never_overwritten_by_its_mask(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise())
    source = write_raster(tmp_path / "a.tif", random_image(1, 20, 30))
    before = source.read_bytes()
    with pytest.raises(OutputError, match="one of the rasters"):
        predict(MODEL, [str(source)], source, PredictSettings(overwrite=True))
    assert source.read_bytes() == before


def test_equal_work_gives_equal_bytes(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = write_raster(tmp_path / "in.tif", random_image(2, 70, 50))
    for name in ("one", "two"):
        predict(MODEL, [str(source)], tmp_path / name / "mask.tif", PredictSettings())
    assert (tmp_path / "one/mask.tif").read_bytes() == (tmp_path / "two/mask.tif").read_bytes()
