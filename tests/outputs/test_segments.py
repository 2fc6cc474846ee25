"""Finished rows are whole on the disk or not there at all, and show as one raster however they were cut."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from pyproj import CRS

from aerial_seg.errors import OutputError
from aerial_seg.files.disk import human_bytes
from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE
from aerial_seg.outputs import pieces
from aerial_seg.outputs.packing import block_profile
from aerial_seg.outputs.pieces import read_pieces
from aerial_seg.outputs.segments import Layer, Segment, SegmentStore, writing_bytes

HEIGHT, WIDTH = 1400, 1300
GRID = Grid(crs=CRS(32645), transform=Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), height=HEIGHT, width=WIDTH)
CLASS, PROBABILITIES = Layer("class", 1), Layer("probabilities", 3)
ONE_PANEL = (range(WIDTH),)
THREE_PANELS = (range(512), range(512, 1024), range(1024, WIDTH))


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from affine import Affine
from aerial_seg.geo.grid import Grid
from aerial_seg.outputs.segments import Layer, SegmentStore

Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
grid = Grid(crs=None, transform=Affine.identity(), height=1400, width=1300)
store = SegmentStore(Path(sys.argv[1]), grid, (Layer("class", 1),), panels=(range(1300),))
store.write(0, range(512, 1400), {"class": np.ones((888, 1300), np.uint8)})
"""


def noise(bands: int = 1) -> np.ndarray:
    values = np.array([0, 1, 7, IGNORE], np.uint8)
    coarse = np.random.default_rng(bands).choice(values, (bands, HEIGHT // 5, WIDTH // 5))
    return coarse.repeat(5, axis=1).repeat(5, axis=2)


def fill(store: SegmentStore, values: dict[str, np.ndarray], edges: list[int]) -> None:
    for panel, cols in enumerate(store.panels):
        for start, stop in pairwise(edges):
            arrays = {name: array[:, start:stop, cols.start : cols.stop] for name, array in values.items()}
            store.write(panel, range(start, stop), arrays)


def shown(store: SegmentStore, layer: Layer = CLASS) -> np.ndarray:
    """(bands, H, W) of the layer, read from its pieces."""
    whole, *_ = store.versions(layer)
    rows, cols = map(range, whole.shape)
    return np.moveaxis(read_pieces(whole.pieces.overlapping(rows, cols), layer.bands, rows, cols), -1, 0)


def class_store(folder: Path, panels: tuple[range, ...] = ONE_PANEL) -> SegmentStore:
    return SegmentStore(folder, GRID, (CLASS,), panels=panels)


class TestShown:
    @settings(max_examples=examples(8), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cuts=st.sets(st.sampled_from([512, 1024])), panels=st.sampled_from([ONE_PANEL, THREE_PANELS]))
    def test_however_it_was_cut_it_shows_what_was_written(
        self, tmp_path_factory: pytest.TempPathFactory, cuts: set[int], panels: tuple[range, ...]
    ) -> None:
        store = SegmentStore(tmp_path_factory.mktemp("s"), GRID, (CLASS, PROBABILITIES), panels=panels)
        values = {"class": noise(), "probabilities": noise(3)}
        fill(store, values, [0, *sorted(cuts), HEIGHT])
        for layer in store.layers:
            np.testing.assert_array_equal(shown(store, layer), values[layer.name])

    def test_the_folder_may_be_moved(self, tmp_path: Path) -> None:
        store = class_store(tmp_path / "before", THREE_PANELS)
        fill(store, {"class": noise()}, [0, 512, HEIGHT])
        moved = class_store(store.folder.rename(tmp_path / "after"), THREE_PANELS)
        np.testing.assert_array_equal(shown(moved), noise())

    def test_a_segment_stands_at_its_own_place(self, tmp_path: Path) -> None:
        store = class_store(tmp_path, THREE_PANELS)
        fill(store, {"class": noise()}, [0, 512, HEIGHT])
        with rasterio.open(tmp_path / "class-p01-r00000512-00001400.tif") as part:
            assert part.transform == GRID.transform * Affine.translation(512, 512)
            np.testing.assert_array_equal(part.read(1), noise()[0, 512:, 512:1024])

    def test_an_incomplete_layer_is_our_own_bug(self, tmp_path: Path) -> None:
        store = class_store(tmp_path, THREE_PANELS)
        for panel in (0, 2):
            cols = store.panels[panel]
            store.write(panel, range(HEIGHT), {"class": noise()[..., cols.start : cols.stop]})
        with pytest.raises(ValueError, match="panel 1 of layer class is not complete"):
            store.versions(CLASS)


class TestEmpty:
    def test_what_is_all_nodata_takes_no_space_and_is_no_source(self, tmp_path: Path) -> None:
        values = noise()
        values[:, 512:1024] = IGNORE
        store = class_store(tmp_path)
        fill(store, {"class": values}, [0, 512, 1024, HEIGHT])
        assert (tmp_path / "class-p00-r00000512-00001024.empty").stat().st_size == 0
        assert store.done(0) == HEIGHT
        assert store.intact(0, range(512, 1024))
        np.testing.assert_array_equal(shown(store), values)

    def test_written_again_only_the_new_one_counts(self, tmp_path: Path) -> None:
        store = class_store(tmp_path)
        full = np.full((HEIGHT, WIDTH), IGNORE, np.uint8)
        for values in (full, noise()[0], full, noise()[0]):
            store.write(0, range(HEIGHT), {"class": values})
            assert len(list(tmp_path.iterdir())) == 1
            np.testing.assert_array_equal(shown(store)[0], values)
            store.forget_versions(CLASS)


class TestDone:
    def test_rows_count_from_the_north_without_a_gap_and_in_every_layer(self, tmp_path: Path) -> None:
        store = SegmentStore(tmp_path, GRID, (CLASS, PROBABILITIES), panels=ONE_PANEL)
        assert store.done(0) == 0
        values = {"class": noise(), "probabilities": noise(3)}
        for start, stop, done in ((0, 512, 512), (1024, HEIGHT, 512), (512, 1024, HEIGHT)):
            store.write(0, range(start, stop), {name: part[:, start:stop] for name, part in values.items()})
            assert store.done(0) == done
        next(tmp_path.glob("probabilities-p00-r00000512-*")).unlink()
        assert store.done(0) == 512
        assert not store.intact(0, range(512, 1024))

    def test_discarded_rows_are_gone(self, tmp_path: Path) -> None:
        store = class_store(tmp_path, THREE_PANELS)
        fill(store, {"class": noise()}, [0, 512, 1024, HEIGHT])
        store.discard(1, after=512)
        assert [store.done(panel) for panel in range(3)] == [HEIGHT, 512, HEIGHT]

    def test_what_overlaps_older_rows_replaces_them(self, tmp_path: Path) -> None:
        store = class_store(tmp_path)
        fill(store, {"class": noise()}, [0, 512, 1024, HEIGHT])
        store.write(0, range(1024), {"class": noise()[:, :1024]})
        assert {p.name for p in tmp_path.iterdir()} == {
            "class-p00-r00000000-00001024.tif",
            "class-p00-r00001024-00001400.tif",
        }

    def test_another_layout_of_panels_left_behind_is_not_seen(self, tmp_path: Path) -> None:
        fill(class_store(tmp_path, THREE_PANELS), {"class": noise()}, [0, HEIGHT])
        store = class_store(tmp_path)
        store.write(0, range(HEIGHT), {"class": noise()})
        np.testing.assert_array_equal(shown(store), noise())

    def test_other_files_in_the_folder_are_no_segments(self, tmp_path: Path) -> None:
        for name in ("lock", "journal.jsonl", "class-p00-r00000000-00000512.tif.partial", "mosaic.vrt"):
            (tmp_path / name).touch()
            assert Segment.of(tmp_path / name) is None
        assert class_store(tmp_path).done(0) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A segment's file; blocks that are not in it must not hide that its end is missing."""
    store = class_store(tmp_path_factory.mktemp("whole"))
    values = noise()[:, :1024]
    values[:, :512, 512:] = IGNORE
    store.write(0, range(1024), {"class": values})
    return next(store.folder.glob("*.tif")).read_bytes()


class TestIntact:
    @settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 1, exclude_max=True))
    def test_a_truncated_one_is_not(self, tmp_path: Path, whole: bytes, share: float) -> None:
        path = tmp_path / "class-p00-r00000000-00001024.tif"
        path.write_bytes(whole)
        store = class_store(tmp_path)
        assert store.intact(0, range(1024))
        path.write_bytes(whole[: int(share * len(whole))])
        assert not store.intact(0, range(1024))

    def test_only_exactly_these_rows_of_this_raster_are(self, tmp_path: Path, whole: bytes) -> None:
        path = tmp_path / "class-p00-r00000000-00001024.tif"
        path.write_bytes(whole)
        assert not class_store(tmp_path).intact(0, range(512))
        assert not class_store(tmp_path).intact(0, range(1024, HEIGHT))
        assert not class_store(tmp_path, THREE_PANELS).intact(0, range(1024))
        path.write_text("not a raster")
        assert not class_store(tmp_path).intact(0, range(1024))


class TestFormer:
    """Pieces that an interrupted run of a former version left: ZSTD, or a plane per band."""

    def store(self, folder: Path, **profile: object) -> tuple[SegmentStore, Path]:
        place = replace(GRID, height=600, width=520)
        store = SegmentStore(folder, place, (PROBABILITIES,), panels=(range(520),))
        path = folder / "probabilities-p00-r00000000-00000600.tif"
        with rasterio.open(path, "w", **{**block_profile(place, 3), **profile}) as file:
            file.write(noise(3)[:, :600, :520])
        return store, path

    @pytest.mark.parametrize(
        "profile",
        [
            {"compress": "ZSTD", "zstd_level": 1, "interleave": "band"},
            {"compress": "DEFLATE", "zlevel": 1, "interleave": "band"},
            {"predictor": 2},
        ],
    )
    def test_are_taken_over_as_what_they_hold(self, tmp_path: Path, profile: dict[str, object]) -> None:
        store, path = self.store(tmp_path, **profile)
        assert pieces.blocks_of(path, (3, 600, 520)) is None
        assert store.intact(0, range(600))
        assert pieces.blocks_of(path, (3, 600, 520)) is not None
        np.testing.assert_array_equal(shown(store, PROBABILITIES), noise(3)[:, :600, :520])
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(file.read(), noise(3)[:, :600, :520])

    def test_with_other_facts_are_none(self, tmp_path: Path) -> None:
        store, path = self.store(tmp_path, nodata=7, interleave="band")
        before = path.read_bytes()
        assert not store.intact(0, range(600))
        assert path.read_bytes() == before


class TestDisk:
    @pytest.mark.parametrize("size", [100, 5_000, 30_000])
    def test_a_full_disk_is_one_line_and_leaves_no_rows(
        self, tmp_path: Path, size: int, disk_of: Callable
    ) -> None:
        store = class_store(tmp_path)
        store.write(0, range(512), {"class": noise()[:, :512]})
        with (
            disk_of(size),
            pytest.raises(
                OutputError, match=r"class-p00-r00000512-00001400.tif could not be written .*free disk space"
            ) as raised,
        ):
            store.write(0, range(512, HEIGHT), {"class": noise()[:, 512:]})
        assert "\n" not in str(raised.value)
        assert store.done(0) == 512
        assert [p.name for p in tmp_path.iterdir()] == ["class-p00-r00000000-00000512.tif"]
        store.write(0, range(512, HEIGHT), {"class": noise()[:, 512:]})
        assert store.done(0) == HEIGHT

    def test_a_lost_write_is_noticed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        honest = pieces.blocks_of

        def after_a_loss(path: Path, *given: Any, **named: Any) -> pieces.Blocks | None:
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 2)
                file.write(bytes(100))
            return honest(path, *given, **named)

        monkeypatch.setattr(pieces, "blocks_of", after_a_loss)
        with pytest.raises(OutputError, match="reads back other than it was written; free disk space"):
            class_store(tmp_path).write(0, range(HEIGHT), {"class": noise()})
        assert list(tmp_path.iterdir()) == []

    def test_a_kill_between_write_and_rename_leaves_no_rows(self, tmp_path: Path) -> None:
        store = class_store(tmp_path)
        store.write(0, range(512), {"class": noise()[:, :512]})
        killed = subprocess.run([sys.executable, "-P", "-c", KILLED, str(tmp_path)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 2
        assert store.done(0) == 512
        assert not store.intact(0, range(512, HEIGHT))
        store.write(0, range(512, HEIGHT), {"class": noise()[:, 512:]})
        assert store.intact(0, range(512, HEIGHT))
        np.testing.assert_array_equal(shown(store), noise())


class TestOwnBugs:
    @pytest.mark.parametrize("rows", [range(1, 512), range(0, 500), range(512, 512), range(1024, 2048)])
    def test_rows_that_are_no_rows_of_blocks(self, tmp_path: Path, rows: range) -> None:
        with pytest.raises(ValueError, match="are not whole rows of blocks"):
            class_store(tmp_path).write(0, rows, {"class": np.zeros((len(rows), WIDTH), np.uint8)})

    def test_other_layers_than_the_stores(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"layers \['confidence'\] were given"):
            class_store(tmp_path).write(0, range(HEIGHT), {"confidence": noise()})

    @pytest.mark.parametrize(
        "panels",
        [
            (),
            (range(1024),),
            (range(500), range(500, WIDTH)),
            (range(512), range(1024, WIDTH)),
            (range(512), range(512, 512), range(512, WIDTH)),
        ],
    )
    def test_panels_that_do_not_cover_the_width(self, tmp_path: Path, panels: tuple[range, ...]) -> None:
        with pytest.raises(ValueError, match="do not cover 1300 columns from 0 in whole blocks"):
            class_store(tmp_path, panels)

    @pytest.mark.parametrize(("name", "bands"), [("classes", 1), ("class", 0)])
    def test_a_layer_that_is_none(self, name: str, bands: int) -> None:
        with pytest.raises(ValueError, match="no layer is called"):
            Layer(name, bands)


@pytest.mark.slow
@pytest.mark.parametrize("bands", [1, 6])
@pytest.mark.parametrize("cores", [2, 16])
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is held")
def test_writing_takes_no_more_than_is_reckoned(
    tmp_path: Path, bands: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, which cannot be packed, in a process of its own: what is held once stays held."""
    monkeypatch.setattr("aerial_seg.outputs.packing.usable_cores", lambda: cores)
    width = 40_000 // bands
    code = f"""
import numpy as np, sys
from pathlib import Path
from affine import Affine
from aerial_seg.files.operating_system import peak_while
from aerial_seg.geo.grid import Grid
from aerial_seg.inference.memory import resident_bytes
from aerial_seg.outputs import packing
from aerial_seg.outputs.segments import Layer, SegmentStore
packing.usable_cores = lambda: {cores}
layer = Layer("probabilities" if {bands} > 1 else "confidence", {bands})
grid = Grid(crs=None, transform=Affine.identity(), height=4096, width={width})
def write(store, starts):
    for start in starts:
        rows = range(start, start + 512)
        noise = np.random.default_rng(start).integers(0, 250, ({bands}, 512, {width}), dtype=np.uint8)
        store.write(0, rows, {{layer.name: noise}})
        store.reduce()
small = Grid(crs=None, transform=Affine.identity(), height=1024, width=1024)
warm = SegmentStore(Path(sys.argv[1]) / "warm", small, (layer,), panels=(range(1024),))
warm.write(0, range(512), {{layer.name: np.zeros(({bands}, 512, 1024), np.uint8)}})
warm.write(0, range(512, 1024), {{layer.name: np.zeros(({bands}, 512, 1024), np.uint8)}})
warm.reduce()
store = SegmentStore(Path(sys.argv[1]) / "wide", grid, (layer,), panels=(range({width}),))
before = resident_bytes()
peak = peak_while(lambda: write(store, range(0, 4096, 512)))
print(peak - before)
"""
    run = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    layer = Layer("probabilities" if bands > 1 else "confidence", bands)
    # Of the rows themselves there are two: the noise, and what it was made of.
    rows = 2 * bands * 512 * width
    assert int(run.stdout) < rows + writing_bytes([layer], width), human_bytes(int(run.stdout))
