"""A COG made of the part that holds something is the one that GDAL makes of the whole, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from pyproj import CRS
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from aerial_seg.errors import OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK, Extent, FilledBlocks
from aerial_seg.legend import IGNORE
from aerial_seg.outputs import cog, sparse_cog
from aerial_seg.outputs.cog import CogStyle, write_cog
from aerial_seg.outputs.segments import Layer, SegmentStore

STYLE = CogStyle(
    ("class",), overviews="mode", tags={"AERIAL_SEG_VERSION": "1.2"}, palette={0: (9, 8, 7, 255)}
)


def sparse_layer(
    folder: Path, shape: tuple[int, int], extent: Extent, *, bands: int = 1, holes: bool = False
) -> Path:
    """The VRT of a raster that holds noise in the extent alone; holes: of which some blocks are nodata."""
    height, width = shape
    grid = Grid(crs=CRS(32645), transform=Affine(0.05, 0, 3e5, 0, -0.05, 8e6), height=height, width=width)
    layer = Layer("probabilities", bands)
    store = SegmentStore(folder, grid, (layer,), panels=(extent.cols,), extent=extent)
    random = np.random.default_rng(3)
    for start in range(extent.rows.start, extent.rows.stop, BLOCK):
        rows = range(start, min(start + BLOCK, extent.rows.stop))
        values = random.choice(np.array([1, 3, IGNORE], np.uint8), (bands, len(rows), len(extent.cols)))
        if holes and start > extent.rows.start:
            values[:, :, BLOCK : 2 * BLOCK] = IGNORE
        store.write(0, rows, {layer.name: values})
    return store.vrt(layer)


def styled(bands: int) -> CogStyle:
    if bands == 1:
        return STYLE
    return replace(STYLE, descriptions=tuple(f"c{k}" for k in range(bands)), palette=None)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pixels of each VRT that GDAL was told to copy."""
    pixels: list[int] = []
    copy = cog._copy

    def watched(source: Path, final: Path, *, bigtiff: str = "IF_SAFER") -> None:
        with rasterio.open(source) as dataset:
            pixels.append(dataset.height * dataset.width)
        copy(source, final, bigtiff=bigtiff)

    monkeypatch.setattr(cog, "_copy", watched)
    return pixels


@st.composite
def places(draw: st.DrawFn) -> tuple[tuple[int, int], Extent]:
    shape = draw(st.integers(1, 4000)), draw(st.integers(1, 4000))
    spans = []
    for length in shape:
        blocks = -(-length // BLOCK)
        start = draw(st.integers(0, blocks - 1))
        stop = draw(st.integers(start + 1, min(blocks, start + 3)))
        spans.append(range(start * BLOCK, min(stop * BLOCK, length)))
    return shape, Extent(*spans)


@settings(
    max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(place=places(), bands=st.sampled_from([1, 1, 2, 5]), holes=st.booleans())
def test_the_part_gives_the_bytes_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[tuple[int, int], Extent], bands: int, holes: bool
) -> None:
    folder, (shape, extent) = tmp_path_factory.mktemp("s"), place
    source = sparse_layer(folder / "work", shape, extent, bands=bands, holes=holes)
    before = sorted((folder / "work").iterdir())
    with pytest.MonkeyPatch.context() as patched:
        copy, spread, done = cog._copy, sparse_cog.spread, []
        patched.setattr(cog, "_copy", lambda source, final, **_: copy(source, final, bigtiff="YES"))
        patched.setattr(sparse_cog, "spread", lambda *given: done.append(spread(*given)) or done[-1])
        for name, wanted in (("whole", False), ("part", True)):
            patched.setattr(sparse_cog, "worthwhile", lambda *_, wanted=wanted: wanted)
            write_cog(source, folder / f"{name}.tif", style=styled(bands))
    assert done == [True]
    assert (folder / "part.tif").read_bytes() == (folder / "whole.tif").read_bytes()
    assert sorted((folder / "work").iterdir()) == before


@pytest.mark.parametrize("side", [38_760, 66_000])
def test_gdal_copies_the_part_of_a_large_raster(
    tmp_path: Path, copied: list[int], monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    # 38,760²: the first at which GDAL takes BigTIFF. 66,000: sides that no longer fit in 16 bits.
    left, top = 40 * BLOCK, 30 * BLOCK
    extent = Extent(range(top, top + 2 * BLOCK), range(left, left + BLOCK))
    source = sparse_layer(tmp_path / "work", (side, side), extent)
    final, whole = tmp_path / "m.tif", tmp_path / "whole.tif"
    write_cog(source, final, style=STYLE)
    assert copied == [2 * BLOCK * BLOCK]
    monkeypatch.setattr(sparse_cog, "worthwhile", lambda *_: False)
    write_cog(source, whole, style=STYLE)
    assert copied == [2 * BLOCK * BLOCK, side * side]
    assert final.read_bytes() == whole.read_bytes()
    assert cog_validate(final, strict=True) == (True, [], [])
    with rasterio.open(final) as file, rasterio.open(source) as made:
        around = Window(left - 10, top - 10, BLOCK + 20, 2 * BLOCK + 20)
        np.testing.assert_array_equal(file.read(window=around), made.read(window=around))
        assert (file.read(window=Window(0, 0, 600, 600)) == IGNORE).all()
        assert file.tags() == {**STYLE.tags, "AREA_OR_POINT": "Area"}
    with rasterio.open(final, OVERVIEW_LEVEL=2) as file:
        assert (file.read(window=Window(0, 0, 600, 600)) == IGNORE).all()


def test_only_large_rasters_that_are_mostly_empty_are_made_of_a_part() -> None:
    def levels(side: int, *windows: Window) -> list[FilledBlocks]:
        return [FilledBlocks(side >> k, side >> k, windows if k == 0 else ()) for k in range(3)]

    corner, far = Window(0, 0, 900, 900), Window(59_000, 59_000, 900, 900)
    assert sparse_cog.worthwhile(levels(60_000, corner), 1)
    assert sparse_cog.worthwhile(levels(60_000), 1)
    assert not sparse_cog.worthwhile(levels(60_000, corner, far), 1)
    assert not sparse_cog.worthwhile(levels(30_000, corner), 1)
    assert sparse_cog.worthwhile(levels(30_000, corner), 3)


@pytest.mark.parametrize("strange", ["classic", "short", "types"])
def test_a_part_of_unknown_layout_is_left_to_gdal(
    tmp_path: Path, copied: list[int], monkeypatch: pytest.MonkeyPatch, strange: str
) -> None:
    source = sparse_layer(tmp_path / "work", (3000, 2000), Extent(range(1024, 1536), range(512, 1536)))
    write_cog(source, tmp_path / "whole.tif", style=STYLE)
    monkeypatch.setattr(sparse_cog, "worthwhile", lambda *_: True)
    spread = sparse_cog.spread

    def changed(part: Path, whole: Path, levels: list[FilledBlocks]) -> bool:
        if strange == "classic":
            rasterio.shutil.copy(part, part.with_name("c.tif"), driver="GTiff", tiled=True, bigtiff="NO")
            part.with_name("c.tif").replace(part)
        elif strange == "short":
            part.write_bytes(part.read_bytes()[:900])
        else:
            data = bytearray(part.read_bytes())
            at = data.index((324).to_bytes(2, "little") + (16).to_bytes(2, "little"), 200)
            data[at + 2] = 13
            part.write_bytes(data)
        done = spread(part, whole, levels)
        assert not done
        assert not whole.exists()
        return done

    monkeypatch.setattr(sparse_cog, "spread", changed)
    write_cog(source, tmp_path / "m.tif", style=STYLE)
    assert copied == [3000 * 2000, 512 * 1024, 3000 * 2000]
    assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_a_full_disk_is_one_line_and_no_file(
    tmp_path: Path, share: float, disk_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_cog, "worthwhile", lambda *_: True)
    source = sparse_layer(tmp_path / "work", (9000, 9000), Extent(range(1024, 2048), range(512, 2048)))
    before = sorted((tmp_path / "work").iterdir())
    final = tmp_path / "m.tif"
    write_cog(source, final, style=STYLE)
    wanted = final.read_bytes()
    final.write_text("an older result")
    with disk_of(int(share * len(wanted))), pytest.raises(OutputError, match="free disk space") as raised:
        write_cog(source, final, style=STYLE)
    assert "\n" not in str(raised.value)
    assert final.read_text() == "an older result"
    assert sorted((tmp_path / "work").iterdir()) == before
    write_cog(source, final, style=STYLE)
    assert final.read_bytes() == wanted
