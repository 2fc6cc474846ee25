"""A result in memory stays as it was made, and what its image was read from is never replaced by it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import CRS
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.segmentation import Segmentation
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.models.file import TrainedModel

Models = Callable[..., TrainedModel]
Write = Callable[..., Path]
IMAGE = np.random.default_rng(4).integers(1, 256, (2, 20, 30), dtype=np.uint8)
UTM: dict[str, Any] = {"crs": "EPSG:32633", "transform": from_origin(500_000.0, 5_200_000.0, 1, 1)}


def segmenter(model: TrainedModel, **wanted: Any) -> Segmenter:
    engine = EngineSettings("eager", "fp32", "cpu")
    return Segmenter(Ensemble((model,)), SegmentSettings(**wanted), engine, batch_size=None)


def through_a_pickle(result: Segmentation) -> Segmentation:
    """As a worker's result comes back."""
    made = pickle.loads(pickle.dumps(result))
    assert isinstance(made, Segmentation)
    return made


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, through_a_pickle])
def test_a_copy_is_as_unchangeable_as_the_first(
    pointwise: Models, tmp_path: Path, write_raster: Write, again: Callable[[Segmentation], Segmentation]
) -> None:
    path = write_raster(tmp_path / "image.tif", IMAGE)
    with rasterio.open(path) as file:
        first = segmenter(pointwise(), confidence=True, probabilities=True)(file)
    other = again(first)
    for name in ("classes", "confidence", "probabilities"):
        assert (getattr(other, name) == getattr(first, name)).all()
        assert not getattr(other, name).flags.writeable, name
    assert (other.legend, other.grid, other.notes, other.facts) == (
        first.legend,
        first.grid,
        first.notes,
        first.facts,
    )
    with pytest.raises(OutputError, match="is one of the files to read"):
        other.write(path, overwrite=True)


def test_write_never_replaces_what_the_image_was_read_from(
    pointwise: Models, write_raster: Write, tmp_path: Path
) -> None:
    path = write_raster(tmp_path / "image.tif", IMAGE)
    before, link = path.read_bytes(), tmp_path / "link.tif"
    link.symlink_to(path)
    one = segmenter(pointwise(), confidence=True)
    with rasterio.open(path) as file, WarpedVRT(file, crs="EPSG:32632") as warped:
        results = {"file": one(file), "window": one((file, Window(2, 3, 9, 8))), "warped": one(warped)}
    for name, result in results.items():
        for output in (path, link):
            with pytest.raises(OutputError, match=r"is one of the files to read.*; choose another output"):
                result.write(output, overwrite=True)
        assert path.read_bytes() == before, name
    other = write_raster(tmp_path / "map_confidence.tif", IMAGE)
    with (
        rasterio.open(other) as file,
        pytest.raises(OutputError, match=r"map_confidence\.tif would be written"),
    ):
        one(file).write(tmp_path / "map.tif", overwrite=True)
    assert results["file"].write(tmp_path / "fresh.tif")[0].exists()


def test_write_takes_paths_and_true_or_false_alone(pointwise: Models, tmp_path: Path) -> None:
    result = segmenter(pointwise())(IMAGE, **UTM)
    (final := tmp_path / "map.tif").write_bytes(b"somebody's")
    told: Any
    for told in ("no", 1, None):
        with pytest.raises(SettingsError, match=r"overwrite is .*, wanted True or False"):
            result.write(final, overwrite=told)
    assert final.read_bytes() == b"somebody's"
    for told in (None, 3, "", b"map.tif"):
        with pytest.raises(SettingsError, match=r"path is .*, wanted a path"):
            result.write(told)


def test_polygons_take_every_form_of_a_crs_and_refuse_what_is_none(pointwise: Models) -> None:
    one = segmenter(pointwise())
    result = one(IMAGE, **UTM)
    wanted = result.polygons(["all"], crs="EPSG:4326")
    told: Any
    for told in (4326, CRS.from_epsg(4326), rasterio.CRS.from_epsg(4326)):
        made = result.polygons(["all"], crs=told)
        assert made.crs == wanted.crs
        assert [one.wkb for one in made.geometry] == [one.wkb for one in wanted.geometry]
    for told in (object(), 999_999):
        with pytest.raises(SettingsError, match=r"crs is .*, wanted one like EPSG:"):
            result.polygons(["all"], crs=told)
    with pytest.raises(InputError, match="crs is given, but the image had none; pass crs and transform"):
        one(IMAGE).polygons(crs="EPSG:4326")
    told = 3
    with pytest.raises(SettingsError, match="classes is 3, wanted names of classes"):
        result.polygons(told)
