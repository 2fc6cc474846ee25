"""tile without images: what training reads of the rasters is what it would have read of the chips."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from shapely import box
from tile_town import SETTINGS, X, Y, at, scene
from torch.utils.data import DataLoader

from aerial_seg.errors import InputError
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.jobs.info.job import info
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.chip_file import read_chip
from aerial_seg.training.chip_dataset import ChipDataset
from aerial_seg.training.manifest import Manifest, open_manifest

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile
    from tests.on_path.web_server import WebServer


def cut(rasters: list[Path], labels: Path, wanted: TileSettings) -> Path:
    folder = labels.parent / "out" / ("indexed" if wanted.index_only else "chips")
    return tile(list(map(str, rasters)), [str(labels)], folder, replace(wanted, overwrite=True)).dataset


def both(rasters: list[Path], labels: Path, wanted: TileSettings = SETTINGS) -> tuple[Path, Path]:
    """The same rasters cut to chips, and to an index alone."""
    chips = cut(rasters, labels, wanted)
    return chips, cut(rasters, labels, replace(wanted, index_only=True))


def anywhere(text: str) -> str:
    """A message without the folder that a run makes for its mosaic."""
    return re.sub(r"/\S*aerial-seg-\w+/", "", text)


def check_same(chips: Path, indexed: Path) -> Manifest:
    """Documents but for what says where images are; and all that is read of every chip, whole and in part."""
    one, other = open_manifest(chips), open_manifest(indexed)
    assert not (indexed / "images").exists()
    assert other.document.imagery is not None
    added = {"imagery": None, "notes": ()}
    assert other.document.model_copy(update=added) == one.document.model_copy(update={"notes": ()})
    before = set(map(anywhere, one.document.notes))
    told = [note for note in map(anywhere, other.document.notes) if note not in before]
    assert [note.partition(":")[0] for note in told] == ["images are not written"], told
    assert len(one.chips) == len(other.chips)
    random = np.random.default_rng(0)
    for a, b in zip(one.chips, other.chips, strict=True):
        assert (a.name, a.split, a.place, a.block) == (b.name, b.split, b.place, b.block)
        top, left = random.integers(0, one.document.chip_size - 1, 2).tolist()
        part = slice(top, (top + one.document.chip_size + 1) // 2), slice(left, left + 1)
        for choose in (None, lambda height, width, part=part: part):
            wanted, got = read_chip(a.image, a.labels, choose), read_chip(b.image, b.labels, choose)
            for was, now in zip(wanted, got, strict=True):
                assert was.dtype == now.dtype
                assert was.tobytes() == now.tobytes()
    return other


DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    dtype = draw(st.sampled_from(DTYPES))
    bands = draw(st.integers(1, 5))
    return {
        "dtype": dtype,
        "bands": bands,
        "nodata": draw(st.sampled_from([None, 0, 7, *([float("nan"), -9999.0] if "float" in dtype else [])])),
        "callers": draw(st.sampled_from([None, 0, 9])),
        "mask": draw(st.booleans()),
        "choice": draw(st.sampled_from([(), (bands,), tuple(range(bands, 0, -1))])),
        "gsd": draw(st.sampled_from([None, 0.5, 0.4, 1.1])),
        "south_up": draw(st.booleans()),
        "scaled": draw(st.sampled_from([None, (0.01, -3.0)])),
        "rasters": draw(st.integers(1, 3)),
        "mosaic": draw(st.booleans()),
        "tiled": draw(st.booleans()),
        "stride": draw(st.sampled_from([None, 12])),
        "seed": draw(st.integers(0, 9)),
    }


def written(case: dict[str, Any], folder: Path) -> list[Path]:
    random = np.random.default_rng(case["seed"])
    paths = []
    for number in range(case["rasters"]):
        dtype = np.dtype(case["dtype"])
        height, width = random.integers(22, 55, 2).tolist()
        # Few values, so that nodata occurs; never one alone, and no labels of one class.
        pixels = random.integers(0, 12, (case["bands"], height, width)).astype(dtype)
        if dtype.kind == "f":
            pixels[0, :3] = np.nan
            if case["nodata"] is not None:
                pixels[:, 5:9, 4:20] = case["nodata"]
        transform = at(23 * number, 11 * number)
        if case["south_up"] and not case["mosaic"]:
            transform *= rasterio.Affine(1, 0, 0, 0, -1, height)
        options = {"tiled": True, "blockxsize": 16, "blockysize": 16} if case["tiled"] else {}
        path = folder / f"r{number}.tif"
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path,
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=case["bands"],
                dtype=dtype,
                crs="EPSG:32645",
                transform=transform,
                nodata=case["nodata"],
                photometric="MINISBLACK",
                **options,
            ) as file,
        ):
            file.colorinterp = [rasterio.enums.ColorInterp.gray] * case["bands"]
            file.write(pixels)
            if case["mask"]:
                file.write_mask(random.random((height, width)) > 0.2)
            if case["scaled"] is not None:
                file.scales, file.offsets = ([one] * case["bands"] for one in case["scaled"])
        paths.append(path)
    return paths


@settings(max_examples=examples(24), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_windows_of_the_rasters_are_the_chips_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, polygon_file: PolygonFile, case: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("law")
    rasters = written(case, folder)
    squares = [box(X + 7 * i, Y - 6 * j - 4, X + 7 * i + 5, Y - 6 * j) for i in range(12) for j in range(9)]
    labels = polygon_file("law.gpkg", squares, {"kind": ["road", "roof", "roof", "tree"] * 27})
    wanted = replace(
        SETTINGS,
        bands=BandChoice(case["choice"]),
        nodata=case["callers"],
        gsd=case["gsd"],
        mosaic=case["mosaic"],
        stride=case["stride"],
        val="0",
        test="0",
    )
    refused = []
    for only in (False, True):
        try:
            chips = cut(rasters, labels, replace(wanted, index_only=only))
        except InputError as error:
            refused.append(anywhere(str(error)))
    if refused:
        # What cannot be cut cannot be indexed either.
        assert len(refused) == 2
        assert refused[0] == refused[1]
        return
    chips, indexed = chips.with_name("chips"), chips
    # Wherever it is moved to: names in it are its own, or whole.
    moved = indexed.with_name("moved")
    shutil.rmtree(moved, ignore_errors=True)
    indexed.rename(moved)
    check_same(chips, moved)


@pytest.fixture
def dataset(image: Path, polygons: Path) -> Path:
    return cut([image], polygons, replace(SETTINGS, index_only=True))


@pytest.mark.slow
def test_workers_of_any_start_read_what_chips_hold(image: Path, polygons: Path) -> None:
    """Also those that are forked after the rasters were opened: a place in a file is shared with the parent."""
    chips, indexed = both([image], polygons)
    wanted, got = ChipDataset(chips), ChipDataset(indexed)
    assert len(wanted) > 8
    assert all((got[k][0] == wanted[k][0]).all() for k in range(3))
    for start, workers in (("fork", 2), ("spawn", 1)):
        if start == "fork" and not hasattr(os, "fork"):
            continue
        loader = DataLoader(got, batch_size=None, num_workers=workers, multiprocessing_context=start)
        for k, (pixels, labels) in enumerate(loader):
            assert (pixels == wanted[k][0]).all()
            assert (labels == wanted[k][1]).all()
            assert (got[k][0] == wanted[k][0]).all()


def test_a_stack_and_a_server_are_read_as_they_were_cut(
    raster_file: RasterFile, polygons: Path, server: WebServer
) -> None:
    heights = raster_file("height.tif", scene(bands=1, seed=3))
    raster_file("ortho.tif", scene(), nodata=0)
    shutil.copy(raster_file("ortho.tif", scene(), nodata=0), server.folder / "served.tif")
    wanted = replace(SETTINGS, bands=BandChoice((4, 1), stack=(str(heights),)))
    address = server.url("served.tif")
    for name in ("chips", "indexed"):
        folder = polygons.parent / "out" / name
        tile([address], [str(polygons)], folder, replace(wanted, index_only=name == "indexed"))
    manifest = check_same(polygons.parent / "out" / "chips", polygons.parent / "out" / "indexed")
    assert manifest.files(()) == (heights,)
    assert len(manifest.addresses) == 1
    shutil.copy(raster_file("ortho.tif", scene(seed=1), nodata=0), server.folder / "served.tif")
    os.utime(server.folder / "served.tif", (1, 1))
    with pytest.raises(
        InputError, match=r"served.tif, which changed since \(the server told .* and now tells"
    ):
        open_manifest(polygons.parent / "out" / "indexed")


def test_a_source_that_is_gone_or_another_is_refused_until_it_is_put_back(image: Path, dataset: Path) -> None:
    own, stat = image.read_bytes(), image.stat()
    assert info(dataset)["images"] == "windows of the sources"
    image.unlink()
    with pytest.raises(
        InputError, match=r"reads them from .*ortho.tif, which is not there any more; put the file"
    ):
        open_manifest(dataset)
    image.write_bytes(own + b"0")
    with pytest.raises(InputError, match=rf"it had {len(own):,} bytes and has {len(own) + 1:,}"):
        open_manifest(dataset)
    image.write_bytes(own[:-1] + bytes([own[-1] ^ 1]))
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(InputError, match="it has as many bytes, but others"):
        open_manifest(dataset)
    kept = image.with_name("kept.tif")
    kept.write_bytes(own)
    image.unlink()
    image.symlink_to(kept)
    assert open_manifest(dataset).chips
    facts = image.with_name(image.name + ".aux.xml")
    nodata = '<PAMRasterBand band="1"><NoDataValue>3</NoDataValue></PAMRasterBand>'
    facts.write_text(f"<PAMDataset>{nodata}</PAMDataset>")
    with pytest.raises(InputError, match=r"what ortho.tif.aux.xml says of it is something else"):
        open_manifest(dataset)
    seen = '<PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata></PAMRasterBand>'
    facts.write_text(f"<PAMDataset>{seen}</PAMDataset>")
    assert open_manifest(dataset).chips
    mask = image.with_name(image.name + ".msk")
    mask.write_bytes(own)
    with pytest.raises(InputError, match=r"there is a mask ortho\.tif\.msk now"):
        open_manifest(dataset)


def test_an_index_can_be_replaced_and_does_not_hold_its_own_rasters(image: Path, dataset: Path) -> None:
    again = tile([str(image)], [str(image.parents[1] / "l.gpkg")], dataset, replace(SETTINGS, overwrite=True))
    assert (again.dataset / "images").is_dir()
    assert open_manifest(dataset).document.imagery is None


def test_a_dataset_that_is_made_again_under_its_name_shows_the_new_pixels(
    image: Path, polygons: Path, raster_file: RasterFile
) -> None:
    """In one process, as in a notebook: rasters that wait open are those of before."""
    before = check_same(*both([image], polygons))
    old = read_chip(before.chips[0].image, before.chips[0].labels)[0]
    pixels = scene(seed=5)
    pixels[:, :, :25] = 0
    raster_file("scene/ortho.tif", pixels, nodata=0)
    after = check_same(*both([image], polygons))
    assert (read_chip(after.chips[0].image, after.chips[0].labels)[0] != old).any()
