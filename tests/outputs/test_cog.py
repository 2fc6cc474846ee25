"""A COG holds its pixels and nothing of how they came: valid, exact in place, whole or not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from gdal_cogs import gdals_cog, half
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from pyproj import CRS
from rasterio.crs import CRS as RasterioCRS
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from aerial_seg.errors import OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.legend import IGNORE
from aerial_seg.outputs import assembly, pieces
from aerial_seg.outputs.cog import CogStyle, write_cog
from aerial_seg.outputs.segments import Layer, SegmentStore

ZONE_45 = CRS(32645)
UTM = Affine(0.05, 0, 300_000, 0, -0.05, 8_000_000)
MODE = CogStyle(("class",), tags={"AERIAL_SEG_VERSION": "1.2"})
AVERAGE = CogStyle(("confidence",), scale=1 / 254)


def grid(height: int, width: int, *, crs: CRS | None = ZONE_45, transform: Affine = UTM) -> Grid:
    return Grid(crs=crs, transform=transform, height=height, width=width)


def noise(bands: int, height: int, width: int, values: tuple[int, ...] = (1, 3, IGNORE)) -> np.ndarray:
    return np.random.default_rng(3).choice(np.array(values, np.uint8), (bands, height, width))


def layer_for(style: CogStyle, bands: int) -> Layer:
    """Classes, or what is averaged."""
    return Layer("errors" if style.scale is None else "probabilities", bands)


def make(
    folder: Path,
    values: np.ndarray,
    style: CogStyle = MODE,
    *,
    place: Grid | None = None,
    step: int = BLOCK,
    panels: int = 1,
) -> Path:
    """values (K, H, W) through segments of `step` rows and this many panels."""
    folder.mkdir(exist_ok=True)
    bands, height, width = values.shape
    layer = layer_for(style, bands)
    edges = sorted({min(k * BLOCK, width) for k in range(panels)} | {width})
    place = place or grid(height, width)
    cols = tuple(range(a, b) for a, b in pairwise(edges))
    store = SegmentStore(folder / "work", place, (layer,), panels=cols)
    for panel, columns in enumerate(cols):
        for start in range(0, height, step):
            rows = range(start, min(start + step, height))
            part = values[:, rows.start : rows.stop, columns.start : columns.stop]
            store.write(panel, rows, {layer.name: part})
    descriptions = style.descriptions if bands == 1 else tuple(f"c{k}" for k in range(bands))
    final = folder / "out.tif"
    write_cog(store, layer, final, style=replace(style, descriptions=descriptions))
    return final


def overview_levels(path: Path) -> Iterator[np.ndarray]:
    with rasterio.open(path) as file:
        levels = len(file.overviews(1))
    for level in range(levels):
        with rasterio.open(path, OVERVIEW_LEVEL=level) as overview:
            yield overview.read()


def with_a_hole() -> np.ndarray:
    values = noise(1, 1500, 1300)
    values[:, 512:1024, :512] = IGNORE
    return values


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make(tmp_path_factory.mktemp("once"), with_a_hole()).read_bytes()


class TestBytes:
    @pytest.mark.parametrize(("step", "panels"), [(512, 1), (512, 3), (1024, 1), (1024, 3), (2048, 2)])
    def test_do_not_depend_on_segments_and_panels(
        self, tmp_path: Path, once: bytes, step: int, panels: int
    ) -> None:
        assert make(tmp_path, with_a_hole(), step=step, panels=panels).read_bytes() == once

    def test_do_not_depend_on_the_order_of_tags(self, tmp_path: Path) -> None:
        tags = {"B": "1", "A": "2"}
        for name, order in (("one", tags), ("two", dict(reversed(tags.items())))):
            make(tmp_path / name, noise(1, 9, 9), replace(MODE, tags=order))
        assert (tmp_path / "one/out.tif").read_bytes() == (tmp_path / "two/out.tif").read_bytes()

    def test_hold_no_other_tags_than_those_given(self, tmp_path: Path) -> None:
        with rasterio.open(make(tmp_path, noise(1, 600, 600))) as file:
            assert file.tags() == {**MODE.tags, "AREA_OR_POINT": "Area"}
            assert file.tags(1) == {}
            assert file.descriptions == ("class",)

    def test_nothing_else_is_left_behind(self, tmp_path: Path) -> None:
        path = make(tmp_path, noise(1, 1100, 600))
        assert {p.name for p in tmp_path.iterdir()} == {"work", path.name}
        assert {p.suffix for p in (tmp_path / "work").iterdir()} == {".tif"}
        assert len(list((tmp_path / "work").iterdir())) == 3


class TestGdal:
    """GDAL's COG driver, given the same pixels and the smaller versions that numpy makes, writes the same bytes."""

    @settings(
        max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
    )
    @given(data=st.data(), classes=st.booleans(), bands=st.sampled_from([1, 1, 2, 5]))
    def test_would_have_written_this_very_file(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, classes: bool, bands: int
    ) -> None:
        folder = tmp_path_factory.mktemp("c")
        height, width = (data.draw(st.integers(1, 700) | st.integers(1, 2100)) for _ in "hw")
        values = np.random.default_rng(height).integers(
            0, 4, (bands, -(-height // 8), -(-width // 8)), np.uint8
        )
        values = values.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width] * np.uint8(85)
        for _ in range(data.draw(st.integers(0, 2))):
            # Blocks of nodata, which are absent.
            y, x = (data.draw(st.integers(0, (side - 1) // BLOCK)) * BLOCK for side in (height, width))
            values[:, y : y + BLOCK, x : x + 2 * BLOCK] = IGNORE
        style = MODE if classes else AVERAGE
        if classes and bands == 1:
            style = replace(style, palette={0: (9, 8, 7, 255), 255: (0, 0, 0, 0)})
        if bands > 1:
            style = replace(style, descriptions=tuple(f"c{k}" for k in range(bands)))
        place, layer = grid(height, width), layer_for(style, bands)
        cuts = data.draw(st.sets(st.integers(1, -(-width // BLOCK)), max_size=2))
        edges = sorted({0, width} | {min(k * BLOCK, width) for k in cuts})
        store = SegmentStore(folder / "work", place, (layer,), panels=tuple(map(range, edges, edges[1:])))
        big = data.draw(st.booleans())
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(assembly, "_MOST_BYTES", 0 if big else assembly._MOST_BYTES)
            # Some, none or all pixels are remembered, the others unpacked.
            patched.setattr(pieces, "RECENT_BYTES", data.draw(st.sampled_from([0, 1_000_000, 24_000_000])))
            for panel, cols in enumerate(store.panels):
                step = BLOCK * data.draw(st.integers(1, 3))
                for top in range(0, height, step):
                    rows = range(top, min(top + step, height))
                    part = values[:, rows.start : rows.stop, cols.start : cols.stop]
                    store.write(panel, rows, {layer.name: part})
                    if data.draw(st.booleans()):
                        store.reduce()
            write_cog(store, layer, folder / "ours.tif", style=style)
        wanted = gdals_cog(
            folder / "gdal", values, place, style, classes=classes, bigtiff="YES" if big else "IF_SAFER"
        )
        assert (folder / "ours.tif").read_bytes() == wanted.read_bytes()


class TestValidity:
    @pytest.mark.parametrize(
        ("bands", "height", "width"),
        [
            (1, 1, 1),
            (1, 512, 512),
            (1, 513, 512),
            (1, 2100, 1300),
            (4, 1100, 700),
            (1, 3, 3000),
            (1, 1200, 1),
        ],
    )
    @pytest.mark.parametrize("style", [MODE, AVERAGE])
    def test_rio_cogeo_has_nothing_to_object_to(
        self, tmp_path: Path, bands: int, height: int, width: int, style: CogStyle
    ) -> None:
        path = make(tmp_path, noise(bands, height, width), style)
        verdict = cog_validate(path, strict=True, quiet=True)
        # It takes blocks as wide as the raster for no tiles, and measures overviews by their width: whatever it
        # says of a narrow raster, it says of GDAL's own COG.
        with rasterio.open(path) as file:
            rasterio.shutil.copy(file, tmp_path / "gdal.tif", driver="COG")
        assert verdict == cog_validate(tmp_path / "gdal.tif", strict=True, quiet=True)
        assert verdict == (True, [], []) or width <= BLOCK

    def test_nor_where_most_of_it_is_nodata(self, tmp_path: Path) -> None:
        values = np.full((1, 3000, 3000), IGNORE, np.uint8)
        for name, put in (("empty", None), ("spot", (1500, 2900))):
            if put is not None:
                values[0, put[0], put[1]] = 1
            path = make(tmp_path / name, values)
            assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
            with rasterio.open(path) as file:
                np.testing.assert_array_equal(file.read(), values)

    def test_an_empty_raster_is_small_whatever_its_size(self, tmp_path: Path) -> None:
        store = SegmentStore(tmp_path, grid(20_000, 20_000), (Layer("class", 1),), panels=(range(20_000),))
        rows = np.full((10_240, 20_000), IGNORE, np.uint8)
        store.write(0, range(10_240), {"class": rows})
        store.write(0, range(10_240, 20_000), {"class": rows[:9_760]})
        write_cog(store, store.layers[0], tmp_path / "out.tif", style=MODE)
        assert (tmp_path / "out.tif").stat().st_size < 50_000

    @pytest.mark.parametrize("bands", [2, 3, 4, 5])
    def test_no_band_is_taken_for_colour_or_alpha(self, tmp_path: Path, bands: int) -> None:
        with rasterio.open(make(tmp_path, noise(bands, 600, 40), AVERAGE)) as file:
            assert set(file.colorinterp) <= {ColorInterp.gray, ColorInterp.undefined}
            assert file.nodatavals == (IGNORE,) * bands
            assert file.descriptions == tuple(f"c{k}" for k in range(bands))
            assert file.scales == (1 / 254,) * bands
            assert file.offsets == (0,) * bands

    @settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(height=st.integers(1, 700), width=st.integers(1, 700), bands=st.integers(1, 3))
    def test_pixels_of_any_size_survive(
        self, tmp_path_factory: pytest.TempPathFactory, height: int, width: int, bands: int
    ) -> None:
        values = noise(bands, height, width, (0, 100, 254, IGNORE))
        with rasterio.open(make(tmp_path_factory.mktemp("c"), values, AVERAGE, panels=2)) as file:
            np.testing.assert_array_equal(file.read(), values)


class TestOverviews:
    def test_hold_only_classes_that_are_there(self, tmp_path: Path) -> None:
        levels = list(overview_levels(make(tmp_path, noise(1, 2100, 2300))))
        assert len(levels) == 3
        for level in levels:
            assert set(np.unique(level)) <= {1, 3, IGNORE}

    @pytest.mark.parametrize(("style", "classes"), [(MODE, True), (AVERAGE, False)])
    def test_are_the_levels_that_we_made(self, tmp_path: Path, style: CogStyle, classes: bool) -> None:
        values = noise(2, 1201, 1300, (0, 1, 3, 254, IGNORE))
        for level in overview_levels(make(tmp_path, values, style)):
            values = half(values, classes=classes)
            np.testing.assert_array_equal(level, values)

    def test_nodata_does_not_bleed_into_an_average(self, tmp_path: Path) -> None:
        values = noise(1, 1500, 1500, (200, IGNORE))
        values[:, :512, :512] = IGNORE
        levels = list(overview_levels(make(tmp_path, values, AVERAGE)))
        for level in levels:
            assert set(np.unique(level)) <= {200, IGNORE}
        assert (levels[0][0, :255, :255] == IGNORE).all()
        # Certainty is never averaged up to nodata.
        for level in overview_levels(make(tmp_path / "sure", noise(1, 1100, 600, (254,)), AVERAGE)):
            assert set(np.unique(level)) == {254}


class TestPlace:
    @settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        x=st.floats(166_000, 834_000),
        y=st.floats(7_900_000, 8_100_000),
        size=st.sampled_from([0.05, 0.1, 0.3, 1 / 3, 0.5]),
    )
    def test_is_exact_to_the_last_bit_far_north(
        self, tmp_path_factory: pytest.TempPathFactory, x: float, y: float, size: float
    ) -> None:
        place = grid(20, 30, transform=Affine(size, 0, x, 0, -size, y))
        with rasterio.open(make(tmp_path_factory.mktemp("c"), noise(1, 20, 30), place=place)) as file:
            assert file.transform == place.transform

    @pytest.mark.parametrize(
        "transform",
        [
            Affine.translation(3e5, 8e6) * Affine.rotation(30) * Affine.scale(0.5, -0.5),
            Affine(0.5, 0, 3e5, 0, 0.5, 8e6),
        ],
    )
    def test_is_kept_when_rotated_or_south_up(self, tmp_path: Path, transform: Affine) -> None:
        place = grid(20, 30, transform=transform)
        with rasterio.open(make(tmp_path, noise(1, 20, 30), place=place)) as file:
            assert file.transform == transform

    @pytest.mark.parametrize("epsg", [32645, 4326, 31467, 3857, 2193, 7415, 5514])
    def test_has_the_crs_that_rasterio_itself_would_write(self, tmp_path: Path, epsg: int) -> None:
        # Among them CRSs whose first axis is the northing or latitude.
        crs = CRS(epsg)
        transform = Affine(1e-5, 0, 9, 0, -1e-5, 50) if crs.is_geographic else UTM
        place = grid(20, 30, crs=crs, transform=transform)
        path = make(tmp_path, noise(1, 20, 30), place=place)
        with rasterio.open(
            tmp_path / "direct.tif", "w", driver="GTiff", height=20, width=30, count=1, dtype="uint8",
            crs=RasterioCRS.from_wkt(crs.to_wkt()), transform=transform,
        ):  # fmt: skip
            pass
        with rasterio.open(tmp_path / "direct.tif") as direct, rasterio.open(path) as file:
            assert file.crs == direct.crs
            assert file.crs.to_wkt() == direct.crs.to_wkt()
            assert (file.transform, file.bounds) == (direct.transform, direct.bounds)

    @pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
    @pytest.mark.parametrize("transform", [Affine.identity(), UTM])
    def test_may_be_nowhere(self, tmp_path: Path, transform: Affine) -> None:
        path = make(tmp_path, noise(1, 20, 30), place=grid(20, 30, crs=None, transform=transform))
        with rasterio.open(path) as file:
            assert (file.crs, file.transform) == (None, transform)


class TestDisk:
    @pytest.mark.parametrize("share", [0.002, 0.1, 0.5, 0.9, 0.999])
    def test_a_full_disk_is_one_line_and_no_file(
        self, tmp_path: Path, share: float, disk_of: Callable
    ) -> None:
        values = noise(1, 1100, 1300)
        size = make(tmp_path / "whole", values).stat().st_size
        folder = tmp_path / "full"
        folder.mkdir()
        store = SegmentStore(
            folder / "work", grid(1100, 1300), (Layer("class", 1),), panels=(range(512), range(512, 1300))
        )
        for panel, cols in enumerate(store.panels):
            for rows in (range(512), range(512, 1024), range(1024, 1100)):
                store.write(panel, rows, {"class": values[0, rows.start : rows.stop, cols.start : cols.stop]})
        final = folder / "out.tif"
        final.write_text("an older result")
        before = {p.name for p in store.folder.iterdir()}
        with (
            disk_of(int(share * size)),
            pytest.raises(OutputError, match="free disk space") as raised,
        ):
            write_cog(store, store.layers[0], final, style=MODE)
        assert "\n" not in str(raised.value)
        assert final.read_text() == "an older result"
        assert {p.name for p in folder.iterdir()} == {"work", "out.tif"}
        assert {p.name for p in store.folder.iterdir()} == before
        write_cog(store, store.layers[0], final, style=MODE)
        assert final.read_bytes() == (tmp_path / "whole/out.tif").read_bytes()

    def test_a_folder_that_is_gone_is_one_line(self, tmp_path: Path) -> None:
        layer = layer_for(MODE, 1)
        store = SegmentStore(tmp_path / "work", grid(9, 9), (layer,), panels=(range(9),))
        store.write(0, range(9), {layer.name: noise(1, 9, 9)})
        with pytest.raises(OutputError, match=r"out.tif could not be written .*check the folder"):
            write_cog(store, layer, tmp_path / "nowhere/out.tif", style=MODE)
