"""Work follows what is asked and what is there, and not a byte of the result depends on what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.windows import Window

from aerial_seg.errors import InputError
from aerial_seg.geo.measures import Measure
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.legend import IGNORE
from aerial_seg.outputs import overviews
from aerial_seg.vectors import class_raster
from aerial_seg.vectors.from_mask.settings import (
    CleanSettings,
    LayerSettings,
    ShapeSettings,
    VectorizeSettings,
)

WIDE, HIGH = 2900, 5000
MODEL = Path("model.safetensors")
WEST, NORTH = 500_000.0, 5_200_000.0


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on nothing is known of what files hold, as before."""

    def forget() -> None:
        monkeypatch.setattr(
            Raster, "measured_extent", lambda raster: Extent.whole(*raster.info.grid.shape), raising=True
        )

    return forget


@pytest.fixture
def sparse(tmp_path: Path, write_raster: Callable[..., Path]) -> Path:
    """A VRT of 2,900 × 5,000 px, two bands, nodata 0, with one file of 600 × 500 px in it."""
    image = np.random.default_rng(3).integers(1, 255, (2, 500, 600), dtype=np.uint8)
    member = write_raster(tmp_path / "member.tif", image, nodata=0)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{b}"><NoDataValue>0</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{member.name}</SourceFilename><SourceBand>{b}</SourceBand>'
        '<SrcRect xOff="0" yOff="0" xSize="600" ySize="500"/>'
        '<DstRect xOff="1300" yOff="1100" xSize="600" ySize="500"/></SimpleSource></VRTRasterBand>'
        for b in (1, 2)
    )
    with rasterio.open(member) as file:
        wkt = file.crs.to_wkt()
    path = tmp_path / "sparse.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{WIDE}" rasterYSize="{HIGH}"><SRS>{wkt}</SRS>'
        f"<GeoTransform>{WEST}, 1, 0, {NORTH}, 0, -1</GeoTransform>{bands}</VRTDataset>"
    )
    return path


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Rows of rasters of the sparse one's size that were read in earnest: not single pixels, nor lines."""
    rows: set[int] = set()
    read = Raster.read_into

    def watched(raster: Raster, image: np.ndarray, *, top: int, left: int) -> Any:
        _, height, width = image.shape
        if raster.info.grid.shape == (HIGH, WIDE) and width > 128 and height > 1:
            rows.update(range(top, top + height))
        return read(raster, image, top=top, left=left)

    monkeypatch.setattr(Raster, "read_into", watched)
    return rows


BOUNDS = (WEST + 1400, NORTH - 1400, WEST + 1700, NORTH - 1200)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"bounds": BOUNDS},
        {"confidence": True, "bounds": BOUNDS},
        {"max_memory": 900_000_000, "batch_size": 1},
    ],
)
@pytest.mark.parametrize("stride", [1, 8])
def test_what_is_left_out_changes_no_byte(
    tmp_path: Path,
    sparse: Path,
    pointwise: Callable,
    use: Callable,
    whole: Callable,
    rows_read: set[int],
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    stride: int,
) -> None:
    use(pointwise(stride=stride, origin_step=stride, tile_size=256))
    # Which panels a machine takes is not what is compared here.
    monkeypatch.setattr("aerial_seg.jobs.predict.memory.resident_bytes", lambda: 0)
    monkeypatch.setattr("aerial_seg.jobs.predict.memory.peak_while", lambda work: (work() and 0) or 0)
    settings = PredictSettings(engine="eager", precision="fp32", **asked)
    (cut,) = predict(MODEL, [str(sparse)], tmp_path / "cut" / "m.tif", settings)
    assert len(rows_read) <= 2048, "the rows of the member, and a ring of the reader"
    whole()
    if "bounds" in asked:
        monkeypatch.setattr(
            "aerial_seg.geo.grid_area.GridArea.extent", property(lambda area: Extent.whole(HIGH, WIDE))
        )
    (full,) = predict(MODEL, [str(sparse)], tmp_path / "full" / "m.tif", settings)
    assert [file.name for file in cut.files] == [file.name for file in full.files]
    for one, other in zip(cut.files, full.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert (cut.class_pixels, cut.nodata_pixels) == (full.class_pixels, full.nodata_pixels)
    assert (cut.tiles, cut.tiles_skipped) == (full.tiles, full.tiles_skipped)
    assert sum(cut.class_pixels.values()) == (300 * 200 if "bounds" in asked else 600 * 500)


def test_overviews_are_made_where_something_is(
    tmp_path: Path, sparse: Path, pointwise: Callable, use: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(pointwise(stride=8, origin_step=8, tile_size=256))
    taken: list[int] = []
    halve = overviews.halve_part

    def counting(values: np.ndarray, *args: Any, **named: Any) -> Any:
        taken.append(values.size)
        return halve(values, *args, **named)

    monkeypatch.setattr(overviews, "halve_part", counting)
    predict(MODEL, [str(sparse)], tmp_path / "m.tif", PredictSettings(engine="eager", bounds=BOUNDS))
    # Rows 1024-1536 and columns 1024-2048 of 5,000 × 2,900 lie in one block or two of each of the four smaller sizes.
    assert 4 <= len(taken) <= 6
    assert max(taken) <= 1025 * 2049


def test_of_a_large_mask_nobody_looks_at_more_than_what_was_made(
    tmp_path: Path, sparse: Path, pointwise: Callable, use: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(pointwise(stride=8, origin_step=8, tile_size=256))
    text = sparse.read_text().replace(
        f'rasterXSize="{WIDE}" rasterYSize="{HIGH}"', 'rasterXSize="60000" rasterYSize="60000"'
    )
    sparse.write_text(text)
    copied: list[int] = []
    copy = rasterio.shutil.copy

    def watched(source: Any, *args: Any, **named: Any) -> None:
        with rasterio.open(source) as dataset:
            copied.append(dataset.height * dataset.width)
        copy(source, *args, **named)

    monkeypatch.setattr(rasterio.shutil, "copy", watched)
    settings, mask = PredictSettings(engine="eager", bounds=BOUNDS), tmp_path / "m.tif"
    (report,) = predict(MODEL, [str(sparse)], mask, settings)
    # GDAL makes a COG of one empty block, for what it says of itself.
    assert copied == [512 * 512]
    assert sum(report.class_pixels.values()) == 300 * 200
    assert report.nodata_pixels == 60_000**2 - 300 * 200
    with rasterio.open(mask) as file:
        assert file.shape == (60_000, 60_000)
        assert (file.read(1, window=Window(1400, 1200, 300, 200)) != IGNORE).all()
        around = file.read(1, window=Window(1300, 1100, 500, 400))
        assert np.count_nonzero(around != IGNORE) == 300 * 200


@pytest.fixture
def corner_mask(tmp_path: Path) -> Path:
    """Classes in one part of a sparse mask of 2,900 × 5,000 px, with holes, specks and touching corners."""
    path = tmp_path / "mask.tif"
    coarse = np.random.default_rng(8).choice(np.array([0, 1, 2, IGNORE], np.uint8), (90, 110))
    values = coarse.repeat(7, axis=0).repeat(7, axis=1)
    speckle = np.random.default_rng(9).random(values.shape) < 0.01
    values[speckle] = 1
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=HIGH, width=WIDE, dtype="uint8", nodata=IGNORE, tiled=True,
        blockxsize=256, blockysize=256, SPARSE_OK=True, crs="EPSG:32633", compress="deflate",
        transform=rasterio.Affine(0.3, 0, WEST, 0, -0.3, NORTH),
    ) as file:  # fmt: skip
        file.write(values, 1, window=Window(1280, 1290, values.shape[1], values.shape[0]))
    return path


@pytest.mark.parametrize(
    "settings",
    [
        VectorizeSettings(),
        VectorizeSettings(shape=ShapeSettings(simplify=Measure(1.5, "px"), smooth=True)),
        VectorizeSettings(
            classes=("all",),
            clean=CleanSettings(
                min_area=Measure(30, "px"), fill_holes=Measure(60, "px"), smooth_mask=5
            ),
            shape=ShapeSettings(connectivity=8, simplify=Measure(1, "px")),
        ),
        VectorizeSettings(shape=ShapeSettings(split_grid=300, simplify=Measure(1, "px"))),
        VectorizeSettings(shape=ShapeSettings(instances=("class 1",), regularize=("class 2",))),
    ],
    ids=["plain", "simplified", "cleaned", "split", "objects"],
)  # fmt: skip
def test_polygons_of_a_part_are_those_of_the_whole(
    tmp_path: Path, corner_mask: Path, whole: Callable, rows_read: set[int], settings: VectorizeSettings
) -> None:
    settings = VectorizeSettings(
        classes=settings.classes, clean=settings.clean, shape=settings.shape, layer=LayerSettings(layer="seg")
    )
    for folder in ("cut", "full"):
        (tmp_path / folder).mkdir()
    cut = vectorize(corner_mask, tmp_path / "cut" / "m.geojson", settings)
    read = set(rows_read)
    whole()
    full = vectorize(corner_mask, tmp_path / "full" / "m.geojson", settings)
    assert (tmp_path / "cut" / "m.geojson").read_bytes() == (tmp_path / "full" / "m.geojson").read_bytes()
    assert cut.polygons == full.polygons > 100
    assert cut.nodata_pixels == full.nodata_pixels
    assert cut.sieve == full.sieve
    assert len(rows_read) == HIGH
    assert len(read) < HIGH


def test_a_raster_that_claims_all_and_holds_nothing_is_one_line(
    tmp_path: Path, pointwise: Callable, use: Callable
) -> None:
    use(pointwise())
    path, side = tmp_path / "zeros.tif", 200_000
    told: dict[int, Callable[[], object]] = {
        1: lambda: vectorize(path, tmp_path / "z.gpkg", VectorizeSettings()),
        2: lambda: predict(MODEL, [str(path)], tmp_path / "m.tif", PredictSettings(engine="eager")),
    }
    profile = {"driver": "GTiff", "height": side, "width": side, "dtype": "uint8", "crs": "EPSG:32633"}
    blocks = {"tiled": True, "blockxsize": 4096, "blockysize": 4096, "SPARSE_OK": True, "compress": "deflate"}
    place = {"transform": rasterio.Affine(1, 0, WEST, 0, -1, NORTH)}
    for count in (1, 2):
        with rasterio.open(path, "w", count=count, **profile, **blocks, **place):
            pass
        with pytest.raises(InputError, match="claims 40,000,000,000 pixels and holds none") as raised:
            told[count]()
        assert "\n" not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == [path]


def test_blocks_beyond_the_memory_are_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "strip.tif"
    values = np.zeros((2000, 40), np.uint8)
    values[5:9, 5:9] = 1
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=2000, width=40, dtype="uint8", blockysize=2000, compress="deflate",
        crs="EPSG:32633", transform=rasterio.Affine(1, 0, WEST, 0, -1, NORTH),
    ) as file:  # fmt: skip
        file.write(values, 1)
    assert vectorize(path, tmp_path / "a.gpkg", VectorizeSettings()).polygons == 1

    class Machine:
        total = 200_000

    monkeypatch.setattr(class_raster.psutil, "virtual_memory", Machine)
    with pytest.raises(InputError, match=r"blocks of 40 × 2,000 px.*gdal_translate -co TILED=YES"):
        vectorize(path, tmp_path / "b.gpkg", VectorizeSettings())
    with rasterio.open(
        tmp_path / "tiled.tif", "w", driver="GTiff", count=1, height=2000, width=40, dtype="uint8", tiled=True,
        blockxsize=16, blockysize=16, crs="EPSG:32633", transform=rasterio.Affine(1, 0, WEST, 0, -1, NORTH),
    ) as file:  # fmt: skip
        file.write(values, 1)
    assert vectorize(tmp_path / "tiled.tif", tmp_path / "b.gpkg", VectorizeSettings()).polygons == 1
