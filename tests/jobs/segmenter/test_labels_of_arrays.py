"""What DataArrays say wrongly of themselves is refused by name, and what they say of their bands is used."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aerial_seg.errors import InputError
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.models.file import TrainedModel

xarray = pytest.importorskip("xarray")
pytest.importorskip("rioxarray")

Models = Callable[..., TrainedModel]
IMAGE = np.random.default_rng(5).integers(1, 256, (2, 12, 14), dtype=np.uint8)


def segmenter(model: TrainedModel) -> Segmenter:
    engine = EngineSettings("eager", "fp32", "cpu")
    return Segmenter(Ensemble((model,)), SegmentSettings(), engine, batch_size=None)


def test_what_rioxarray_cannot_read_is_told_and_not_raised(pointwise: Models) -> None:
    one = segmenter(pointwise())
    array = xarray.DataArray(IMAGE, dims=("band", "y", "x"))
    with pytest.raises(InputError, match="nodata value is 'x', wanted a number"):
        one(array.assign_attrs(_FillValue="x"))
    with pytest.raises(InputError, match=r"CRS that PROJ cannot build .*999999.*\.rio\.write_crs"):
        one(array.assign_attrs(crs="EPSG:999999"))
    # No pixel of uint8 is -9999: GDAL takes such a value for none, too.
    assert (one(array.assign_attrs(_FillValue=-9999)).classes == one(IMAGE).classes).all()


@pytest.mark.parametrize("labels", [np.arange(14).astype("M8[s]"), [str(k) for k in range(14)]])
def test_dates_and_texts_are_no_coordinates(pointwise: Models, labels: object) -> None:
    array = xarray.DataArray(IMAGE, dims=("band", "y", "x"), coords={"x": labels})
    with pytest.raises(InputError, match=r"coordinates along x are .*, wanted numbers.*\.drop_vars\('x'\)"):
        segmenter(pointwise())(array)


def test_bands_of_a_data_array_are_chosen_by_number(pointwise: Models) -> None:
    one = segmenter(pointwise())
    turned = xarray.DataArray(IMAGE[[1, 0]], dims=("band", "y", "x"))
    assert (one(turned, bands=[2, 1]).classes == one(IMAGE).classes).all()
    assert (one(turned.transpose("y", "x", "band"), bands=[2, 1]).classes == one(IMAGE).classes).all()
