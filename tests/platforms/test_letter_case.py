"""Names that differ by case only, where the disk takes them for one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aerial_seg.errors import SettingsError
from aerial_seg.geo.raster.remote import output_stem
from aerial_seg.jobs.predict import checks
from aerial_seg.jobs.tile.chip_cutter import ChipCutter
from aerial_seg.jobs.tile.settings import TileSettings

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="NOT PROVED: kills are played in forked processes"
)


def test_masks_that_differ_by_case_only_are_refused_where_they_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasters = [tmp_path / "north" / "Site.tif", tmp_path / "south" / "site.tif"]
    assert [output_stem(raster) for raster in rasters] == ["Site", "site"]
    for ignored in (False, True):
        monkeypatch.setattr(checks, "ignores_case", lambda folder, told=ignored: told)
        if ignored:
            with pytest.raises(SettingsError, match="same file name"):
                checks.scenes_of(rasters, tmp_path / "out", many_scenes=True)
        else:
            assert len(checks.scenes_of(rasters, tmp_path / "out", many_scenes=True)) == 2


def test_chips_of_rasters_that_differ_by_case_only_never_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("Site", "site", "SITE", "site-2")
    for ignored, wanted in ((False, list(names)), (True, ["Site", "site-2", "SITE-3", "site-2-2"])):
        monkeypatch.setattr(
            "aerial_seg.jobs.tile.chip_cutter.ignores_case", lambda folder, told=ignored: told
        )
        cutter = ChipCutter(tmp_path, None, TileSettings())  # type: ignore[arg-type]
        assert [cutter._unused_stem(name) for name in names] == wanted
