"""When the imagery of an item was taken: what its files tell, what the user says, or nothing."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio

from aerial_seg.errors import SettingsError
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.outputs.acquisition import Taken, parse_taken, time_of_all

if TYPE_CHECKING:
    from tests.conftest import RasterFile, WebServer
from stac_items import item


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2021:07:04 09:30:00", datetime(2021, 7, 4, 9, 30, tzinfo=UTC)),
        ("2021-07-04T09:30:00+0200", datetime(2021, 7, 4, 7, 30, tzinfo=UTC)),
        ("in summer", None),
        ("0000:00:00 00:00:00", None),
    ],
)
def test_the_time_is_the_imagerys_where_it_tells_one(
    raster_file: RasterFile, server: WebServer, text: str, wanted: datetime | None
) -> None:
    path = raster_file("a.tif", np.ones((1, 4, 4), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME=text)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    written = datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)
    (server.folder / "b.tif").hardlink_to(path)
    for taken, name in ((taken_of(path), "a.tif"), (taken_of(Path(server.url("b.tif"))), "b.tif")):
        assert taken.first == taken.last == (wanted or written)
        if wanted is None:
            assert f"its TIFFTAG_DATETIME '{text}' is no time" in taken.source
            assert ("server" in taken.source) == (name == "b.tif")
        else:
            assert taken.source.startswith(f"TIFFTAG_DATETIME of {name}, which may be when the file was made")
            assert taken.source.endswith("taken as UTC") == ("+" not in text)


def taken_of(*paths: Path) -> Taken:
    """As predict finds it out, of rasters that it has open."""
    opened = []
    for path in paths:
        with Raster(path, georeferenced=False) as raster:
            opened.append((path, raster.tags))
    return time_of_all(opened)


def test_an_acquisition_time_counts_more_than_the_files_own(raster_file: RasterFile) -> None:
    path = raster_file("a.tif", np.ones((1, 4, 4), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2021:07:04 09:30:00")
        file.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2020-06-01 08:00:00")
    taken = taken_of(path)
    assert taken == Taken.at(datetime(2020, 6, 1, 8, tzinfo=UTC), "ACQUISITIONDATETIME of a.tif")


def test_a_mosaics_time_is_that_of_all_its_rasters(raster_file: RasterFile) -> None:
    paths = []
    for name, text in (("b.tif", "2021:07:04 09:30:00"), ("a.tif", "2021:07:02 08:00:00"), ("c.tif", None)):
        paths.append(raster_file(name, np.ones((1, 4, 4), np.uint8)))
        with rasterio.open(paths[-1], "r+") as file:
            file.update_tags(**({} if text is None else {"TIFFTAG_DATETIME": text}))
    taken = taken_of(*paths[:2])
    assert (taken.first, taken.last) == (
        datetime(2021, 7, 2, 8, tzinfo=UTC),
        datetime(2021, 7, 4, 9, 30, tzinfo=UTC),
    )
    assert "of a.tif" in taken.source
    assert "to TIFFTAG_DATETIME of b.tif" in taken.source
    # c.tif was written just now.
    assert "when the file c.tif was written" in taken_of(*paths).source


def test_a_time_that_nothing_tells_is_null_within_a_range(tmp_path: Path) -> None:
    properties = item(tmp_path, taken=Taken(None, None, "unknown"))["properties"]
    assert properties["datetime"] is None
    start, end = (datetime.fromisoformat(properties[f"{name}_datetime"]) for name in ("start", "end"))
    assert start < datetime.now(UTC) < end
    assert properties["aerial_seg:datetime_source"] == "unknown"


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("2024-05-03T10:00:00Z", {"datetime": "2024-05-03T10:00:00Z"}),
        ("2024-05-03t10:00:00.250+02:00", {"datetime": "2024-05-03T08:00:00.250000Z"}),
        (
            "2024-05-03T10:00:00Z/2024-05-04T00:00:00-05:00",
            {
                "datetime": None,
                "start_datetime": "2024-05-03T10:00:00Z",
                "end_datetime": "2024-05-04T05:00:00Z",
            },
        ),
    ],
)
def test_what_the_user_says_of_the_time_is_written(
    tmp_path: Path, text: str, times: dict[str, str | None]
) -> None:
    properties = item(tmp_path, taken=parse_taken(text))["properties"]
    assert {key: value for key, value in properties.items() if key.endswith("datetime")} == times
    assert properties["aerial_seg:datetime_source"] == "the setting taken"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2024-05-03", "'2024-05-03' is no time; wanted 2024-05-03T10:00:00Z"),
        ("2024-05-03T10:00:00", "is no time; wanted .* with a zone"),
        ("2024-13-03T10:00:00Z", "is no time .*month"),
        ("0001-01-01T00:00:00+10:00", "is no time"),
        ("2024-05-03T10:00:00Z/..", "'..' is no time"),
        ("", "'' is no time"),
        ("2024-05-03T10:00:00Z/2024-05-03T09:00:00Z", "ends before it begins"),
        ("2024-05-03T10:00:00Z/2024-05-03T11:00:00Z/2024-05-03T12:00:00Z", "names 3 times"),
    ],
)
def test_a_time_that_is_none_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        parse_taken(text)
    assert "\n" not in str(raised.value)
