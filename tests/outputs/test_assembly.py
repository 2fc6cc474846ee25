"""A COG of copied blocks: absent blocks cost nothing, what is not as it was compared is noticed, and all is whole."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from pyproj import CRS
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from aerial_seg.errors import OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK, Extent
from aerial_seg.legend import IGNORE
from aerial_seg.outputs import cog, packing, tiff
from aerial_seg.outputs.cog import CogStyle, write_cog
from aerial_seg.outputs.segments import Layer, SegmentStore

STYLE = CogStyle(("class",), tags={"AERIAL_SEG_VERSION": "1.2"}, palette={0: (9, 8, 7, 255)})
CLASS = Layer("class", 1)


def sparse_store(folder: Path, shape: tuple[int, int], extent: Extent) -> tuple[SegmentStore, np.ndarray]:
    """A raster that holds noise in the extent alone, and that noise."""
    height, width = shape
    grid = Grid(crs=CRS(32645), transform=Affine(0.05, 0, 3e5, 0, -0.05, 8e6), height=height, width=width)
    store = SegmentStore(folder, grid, (CLASS,), panels=(extent.cols,), extent=extent)
    size = len(extent.rows), len(extent.cols)
    values = np.random.default_rng(3).choice(np.array([1, 3, IGNORE], np.uint8), size)
    for start in range(0, size[0], BLOCK):
        rows = range(extent.rows.start + start, min(extent.rows.start + start + BLOCK, extent.rows.stop))
        store.write(0, rows, {"class": values[None, start : start + len(rows)]})
    return store, values


# 38,400² and 38,401²: the last at which GDAL takes a classic TIFF, and the first at which it takes BigTIFF.
# 66,000: sides that no longer fit in 16 bits.
@pytest.mark.parametrize(("side", "magic"), [(38_400, b"II*\0"), (38_401, b"II+\0"), (66_000, b"II+\0")])
def test_a_large_raster_that_is_mostly_empty(tmp_path: Path, side: int, magic: bytes) -> None:
    left, top = 40 * BLOCK, 30 * BLOCK
    extent = Extent(range(top, top + 2 * BLOCK), range(left, left + BLOCK))
    store, values = sparse_store(tmp_path / "work", (side, side), extent)
    final = tmp_path / "m.tif"
    write_cog(store, CLASS, final, style=STYLE)
    assert final.read_bytes()[:4] == magic
    assert final.stat().st_size < 1_500_000
    assert cog_validate(final, strict=True) == (True, [], [])
    with rasterio.open(final) as file:
        around = file.read(1, window=Window(left - 10, top - 10, BLOCK + 20, 2 * BLOCK + 20))
        np.testing.assert_array_equal(around[10:-10, 10:-10], values)
        assert np.count_nonzero(around != IGNORE) == np.count_nonzero(values != IGNORE)
        assert (file.read(window=Window(0, 0, 600, 600)) == IGNORE).all()
        assert file.tags() == {**STYLE.tags, "AREA_OR_POINT": "Area"}
        levels = len(file.overviews(1))
    assert levels == (7 if side <= 2**7 * BLOCK else 8)
    with rasterio.open(final, OVERVIEW_LEVEL=levels - 1) as file:
        smallest = file.read(1)
        scale = side / len(smallest)
        rows, cols = np.nonzero(smallest != IGNORE)
        assert rows.min() >= int(top / scale) - 1
        assert rows.max() <= int((top + 2 * BLOCK) / scale) + 1
        assert cols.min() >= int(left / scale) - 1
        assert cols.max() <= int((left + BLOCK) / scale) + 1


@pytest.mark.slow
@pytest.mark.parametrize("side", [38_400, 38_401])
def test_gdal_makes_the_same_of_a_large_raster(tmp_path: Path, side: int) -> None:
    left, top = 40 * BLOCK, 30 * BLOCK
    extent = Extent(range(top, top + 2 * BLOCK), range(left, left + BLOCK))
    store, _ = sparse_store(tmp_path / "work", (side, side), extent)
    final = tmp_path / "m.tif"
    write_cog(store, CLASS, final, style=STYLE)
    rasterio.shutil.copy(
        final, tmp_path / "gdal.tif", driver="COG", compress="DEFLATE", level=6, blocksize=512,
        overviews="AUTO", bigtiff="IF_SAFER", sparse_ok=True, statistics="NO",
    )  # fmt: skip
    assert final.read_bytes() == (tmp_path / "gdal.tif").read_bytes()


def small(folder: Path) -> SegmentStore:
    return sparse_store(folder, (1700, 1900), Extent(range(1024), range(512, 1536)))[0]


def test_a_piece_that_changed_since_it_was_compared_is_noticed(tmp_path: Path) -> None:
    store = small(tmp_path / "work")
    piece = min(store.folder.glob("class-*.tif"))
    data = bytearray(piece.read_bytes())
    data[len(data) // 2] ^= 1
    piece.write_bytes(data)
    final = tmp_path / "m.tif"
    final.write_text("an older result")
    with pytest.raises(OutputError, match=r"reads back other than it was written"):
        write_cog(store, CLASS, final, style=STYLE)
    assert final.read_text() == "an older result"
    assert not list(store.folder.glob("*overviews*"))


def test_a_smaller_version_that_changed_is_noticed(tmp_path: Path) -> None:
    store = small(tmp_path / "work")
    store.reduce()
    overview = min(store.folder.glob("class.overviews/1/*"))
    data = bytearray(overview.read_bytes())
    data[len(data) // 2] ^= 1
    overview.write_bytes(data)
    with pytest.raises(OutputError, match=r"reads back other than it was written"):
        write_cog(store, CLASS, tmp_path / "m.tif", style=STYLE)


def test_a_lost_write_of_the_copy_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-100:] = bytes(100)
        path.write_bytes(data)

    monkeypatch.setattr(cog, "sync", lossy)
    with pytest.raises(OutputError, match=r"m.tif reads back other than it was written; free disk"):
        write_cog(small(tmp_path / "work"), CLASS, tmp_path / "m.tif", style=STYLE)
    assert not (tmp_path / "m.tif").exists()


def test_blocks_at_wrong_places_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own bug: the checksum is right, GDAL does not find the pixels."""
    store, place = small(tmp_path / "work"), tiff.Image.place

    def shifted(one: tiff.Image, start: int, *, around: int = 0) -> int:
        return place(one, start + around, around=around)

    monkeypatch.setattr(tiff.Image, "place", shifted)
    with pytest.raises(OutputError, match=r"m\.tif could not be written"):
        write_cog(store, CLASS, tmp_path / "m.tif", style=STYLE)
    assert not (tmp_path / "m.tif").exists()


@pytest.mark.parametrize("strange", ["order", "ghost", "sizes", "blocks"])
def test_a_layout_that_is_not_known_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strange: str
) -> None:
    skeleton = cog._skeleton

    def other(*given: object) -> Path:
        path = skeleton(*given)  # type: ignore[arg-type]
        data = path.read_bytes()
        if strange == "order":
            path.write_bytes(b"MM" + data[2:])
        elif strange == "ghost":
            path.write_bytes(data.replace(b"BLOCK_LEADER", b"BLOCK_LEAPER"))
        else:
            profile = {"width": 512, "height": 512, "count": 1, "dtype": "uint8"}
            with rasterio.open(path.with_name("s.tif"), "w", driver="GTiff", **profile) as file:
                file.write(np.ones((1, 512, 512), np.uint8))
            options = {"overviews": "NONE"} if strange == "sizes" else {"blocksize": 128}
            rasterio.shutil.copy(path.with_name("s.tif"), path, driver="COG", **options)
        return path

    monkeypatch.setattr(cog, "_skeleton", other)
    # Not of the disk, which has nothing to do with it.
    with pytest.raises(
        OutputError, match=r"^this GDAL lays out a COG in a way .* install another release of rasterio"
    ):
        write_cog(small(tmp_path / "work"), CLASS, tmp_path / "m.tif", style=STYLE)
    assert not (tmp_path / "m.tif").exists()


def test_leaders_and_trailers_are_those_of_their_blocks(tmp_path: Path) -> None:
    """Who reads a COG through a network takes the size from before a block, and trusts what stands after it."""
    final = tmp_path / "m.tif"
    write_cog(small(tmp_path / "work"), CLASS, final, style=STYLE)
    data, seen = final.read_bytes(), []
    with rasterio.open(final) as file:
        for level in (None, 0, 1):
            size = [-(-side // (1 if level is None else 2 << level)) for side in file.shape]
            for y, x in np.ndindex(*(-(-side // BLOCK) for side in size)):
                at, length = (
                    file.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=1, ovr=level)
                    for what in ("OFFSET", "SIZE")
                )
                if at is None:
                    continue
                start, stop = int(at), int(at) + int(length)
                assert data[start - 4 : start] == int(length).to_bytes(4, "little")
                assert data[stop : stop + 4] == data[stop - 4 : stop]
                assert len(zlib.decompress(data[start:stop])) == BLOCK * BLOCK
                seen.append((start - 4, stop + 4))
    assert len(seen) == 4 + 2 + 1
    # Nothing lies between them, nor after the last; the smallest version comes first.
    assert [stop for _, stop in sorted(seen)][:-1] == [start for start, _ in sorted(seen)][1:]
    assert max(stop for _, stop in seen) == len(data)
    assert seen[-1] == min(seen)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_a_full_disk_is_one_line_and_no_file(tmp_path: Path, share: float, disk_of: Callable) -> None:
    store = small(tmp_path / "work")
    before = sorted(store.folder.iterdir())
    final = tmp_path / "m.tif"
    write_cog(store, CLASS, final, style=STYLE)
    wanted = final.read_bytes()
    final.write_text("an older result")
    with disk_of(int(share * len(wanted))), pytest.raises(OutputError, match="free disk space") as raised:
        write_cog(store, CLASS, final, style=STYLE)
    assert "\n" not in str(raised.value)
    assert final.read_text() == "an older result"
    assert sorted(store.folder.iterdir()) == before
    write_cog(store, CLASS, final, style=STYLE)
    assert final.read_bytes() == wanted


def test_threads_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for cores in (1, 7):
        monkeypatch.setattr(packing, "usable_cores", lambda cores=cores: cores)
        store = small(tmp_path / str(cores))
        write_cog(store, CLASS, tmp_path / f"{cores}.tif", style=STYLE)
        made.append((tmp_path / f"{cores}.tif").read_bytes())
    assert made[0] == made[1]
