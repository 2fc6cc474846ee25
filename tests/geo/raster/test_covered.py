"""What a file says it holds: right against its pixels, and a raster is asked for nothing beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from rasterio.windows import Window

from aerial_seg.errors import InputError
from aerial_seg.geo.raster import band_facts as facts
from aerial_seg.geo.raster.covered import Extent, covered_extent
from aerial_seg.geo.raster.raster import Raster

SIDE, TILE = 200, 16
SAME_FOLDER = settings(
    max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sparse_tiff(path: Path, blocks: list[tuple[int, int]], **profile: Any) -> Path:
    """200 × 200 px in blocks of 16, of which only these (row, column) are written, with the value 5."""
    with rasterio.open(
        path, "w", driver="GTiff", height=SIDE, width=SIDE, dtype="uint8", tiled=True, blockxsize=TILE,
        blockysize=TILE, SPARSE_OK=True, crs="EPSG:32645", transform=rasterio.Affine(1, 0, 3e5, 0, -1, 3e6),
        **{"count": 1, "compress": "deflate", **profile},
    ) as file:  # fmt: skip
        for y, x in blocks:
            height, width = min(TILE, SIDE - y * TILE), min(TILE, SIDE - x * TILE)
            values = np.full((file.count, height, width), 5, np.uint8)
            file.write(values, window=Window(x * TILE, y * TILE, width, height))
    return path


def sparse_vrt(path: Path, member: Path, box: tuple[float, float, float, float], nodata: str = "0") -> Path:
    """300,000 × 300,000 px that show the member in a box (left, top, width, height)."""
    left, top, width, height = box
    declared = f"<NoDataValue>{nodata}</NoDataValue>" if nodata else ""
    with rasterio.open(member) as file:
        wkt = file.crs.to_wkt()
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{b}">{declared}<SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{member.name}</SourceFilename><SourceBand>{b}</SourceBand>'
            f'<SrcRect xOff="0" yOff="0" xSize="{file.width}" ySize="{file.height}"/>'
            f'<DstRect xOff="{left}" yOff="{top}" xSize="{width}" ySize="{height}"/></SimpleSource></VRTRasterBand>'
            for b in file.indexes
        )
    path.write_text(
        f'<VRTDataset rasterXSize="300000" rasterYSize="300000"><SRS>{wkt}</SRS>'
        f"<GeoTransform>300000, 1, 0, 6000000, 0, -1</GeoTransform>{bands}</VRTDataset>"
    )
    return path


@SAME_FOLDER
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6),
    st.sampled_from([{}, {"count": 3, "interleave": "band"}, {"count": 3, "interleave": "pixel"}]),
)
def test_the_extent_of_a_tiff_is_that_of_its_blocks(
    tmp_path: Path, blocks: list[tuple[int, int]], profile: dict[str, Any]
) -> None:
    path = sparse_tiff(tmp_path / "s.tif", blocks, nodata=0, **profile)
    with Raster(path) as raster:
        found = raster.measured_extent()
        valid = raster.read(top=0, left=0, height=SIDE, width=SIDE)[1]
    rows, cols = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    assert found == Extent(range(rows[0], rows[-1] + 1), range(cols[0], cols[-1] + 1))


def test_what_a_file_does_not_hold_may_count_all_the_same(tmp_path: Path) -> None:
    plain = sparse_tiff(tmp_path / "plain.tif", [(5, 5)])
    declared = sparse_tiff(tmp_path / "declared.tif", [(5, 5)], nodata=0)
    with Raster(plain) as raster:
        assert raster.measured_extent() == Extent.whole(SIDE, SIDE)
    with Raster(plain, nodata=0) as raster:
        assert raster.measured_extent() == Extent(range(80, 96), range(80, 96))
    with Raster(declared, nodata=9) as raster:
        assert raster.measured_extent() == Extent.whole(SIDE, SIDE)


def test_a_file_that_holds_nothing_and_says_so_is_nodata_and_one_that_does_not_is_refused(
    tmp_path: Path,
) -> None:
    with Raster(sparse_tiff(tmp_path / "declared.tif", [], nodata=0)) as raster:
        assert raster.measured_extent().pixels == 1
    empty = sparse_tiff(tmp_path / "empty.tif", [])
    with (
        Raster(empty) as raster,
        pytest.raises(InputError, match=r"empty\.tif claims 40,000 pixels and holds none.*-a_nodata 0"),
    ):
        raster.measured_extent()
    # The remedy that it names.
    with rasterio.open(empty, "r+") as file:
        file.nodata = 0
    with Raster(empty) as raster:
        assert raster.measured_extent().pixels == 1


def test_a_mask_of_its_own_is_not_overlooked(tmp_path: Path) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = sparse_tiff(tmp_path / "m.tif", [(5, 5)])
        with rasterio.open(path, "r+") as file:
            file.write_mask(np.full((SIDE, SIDE), True))
    with rasterio.open(path) as file:
        assert covered_extent(file) == Extent.whole(SIDE, SIDE)


@pytest.mark.parametrize(
    ("nodata", "wanted"),
    [
        ("0", Extent(range(149_000, 149_201), range(150_000, 150_201))),
        ("", Extent.whole(300_000, 300_000)),
    ],
)
def test_the_extent_of_a_vrt_is_that_of_its_sources(tmp_path: Path, nodata: str, wanted: Extent) -> None:
    member = sparse_tiff(tmp_path / "member.tif", [(0, 0)])
    path = sparse_vrt(tmp_path / "s.vrt", member, (150_000.5, 149_000.5, 200, 200), nodata)
    with Raster(path) as raster:
        assert raster.measured_extent() == wanted


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('<VRTRasterBand dataType="Byte"', '<VRTRasterBand subClass="VRTDerivedRasterBand" dataType="Byte"'),
        ("<VRTDataset ", '<VRTDataset subClass="VRTWarpedDataset" '),
        ('<DstRect xOff="5" yOff="5" xSize="200" ySize="200"/>', ""),
    ],
)
def test_a_vrt_that_computes_or_does_not_tell_is_read_whole(tmp_path: Path, old: str, new: str) -> None:
    member = sparse_tiff(tmp_path / "member.tif", [(0, 0)])
    path = sparse_vrt(tmp_path / "s.vrt", member, (5, 5, 200, 200))

    class Named:
        driver, height, width, name = "VRT", 300_000, 300_000, str(path)
        mask_flag_enums = ([],)

    assert covered_extent(Named()) == Extent(range(5, 205), range(5, 205))  # type: ignore[arg-type]
    path.write_text(path.read_text().replace(old, new))
    assert covered_extent(Named()) == Extent.whole(300_000, 300_000)  # type: ignore[arg-type]


def test_thousands_of_bands_are_asked_about_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bands.tif"
    with rasterio.open(path, "w", driver="GTiff", count=40, height=3, width=3, dtype="uint8") as file:
        file.set_band_description(7, "red edge")
    asked: dict[str, int] = {}

    class Counted:
        def __init__(self, dataset: Any) -> None:
            self._dataset = dataset

        def __getattr__(self, name: str) -> Any:
            asked[name] = asked.get(name, 0) + 1
            return getattr(self._dataset, name)

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            self._dataset.close()

    monkeypatch.setattr(facts, "described", lambda name: Counted(rasterio.open(name)))
    found = facts.band_facts(path)
    assert [band.name for band in found] == [f"band {b}" if b != 7 else "red edge" for b in range(1, 41)]
    assert max(asked.values()) <= 3
