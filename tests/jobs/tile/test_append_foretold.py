"""What a dry run foretells of chips that are added, and whose the notes are that the dataset tells then."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from added_town import ADDED, FAR, Town, content, cut
from tile_town import CHIP, SETTINGS, scene

from aerial_seg.jobs.tile.dry_run import forecast_tiling
from aerial_seg.training.manifest import open_manifest


@pytest.fixture
def labels(town_labels: Path) -> Path:
    """Roads and roofs wherever a test puts a raster."""
    return town_labels


@pytest.mark.parametrize("only", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_dry_run_foretells_what_appending_makes(
    town: Town, labels: Path, tmp_path: Path, only: bool
) -> None:
    settings = replace(SETTINGS, index_only=only)
    cut([town("a.tif")], labels, tmp_path / "set", settings)
    before, more = content(tmp_path / "set"), town("b.tif", CHIP / 4, seed=1)
    added = replace(settings, append=True, seed=3)
    forecast = forecast_tiling([str(more)], [str(labels)], tmp_path / "set", added)
    assert content(tmp_path / "set") == before
    report = cut([more], labels, tmp_path / "set", added)
    assert (forecast.chips, forecast.class_pixels) == (report.chips, report.class_pixels)
    assert (forecast.gsd, forecast.legend) == (report.gsd, report.legend)
    told = [
        [note for note in notes if "images are not written" not in note]
        for notes in ([one.problem for one in forecast.problems], report.notes)
    ]
    assert told[0] == told[1]
    assert forecast.bytes is not None
    assert forecast.bytes > 0


def test_a_dry_run_of_appending_tells_what_it_would_refuse(town: Town, labels: Path, tmp_path: Path) -> None:
    image = town("a.tif")
    cut([image], labels, tmp_path / "set")
    for rasters, settings, told in (
        ([image], ADDED, r"holds chips of .*a\.tif already"),
        ([town("four.tif", FAR, pixels=scene(bands=4))], ADDED, "has bands: 4, but the chips of .* have 3"),
        ([town("b.tif", FAR)], replace(ADDED, chip_size=40), "made with `chip_size=20`, got `chip_size=40`"),
        ([town("c.tif", FAR), tmp_path / "gone.tif"], ADDED, r"gone\.tif does not exist"),
    ):
        forecast = forecast_tiling([str(path) for path in rasters], [str(labels)], tmp_path / "set", settings)
        errors = [one.problem for one in forecast.problems if one.severity == "error"]
        assert any(re.search(told, error) for error in errors), errors
        assert forecast.chips == {}


def test_notes_of_former_chips_are_said_to_be_theirs(town: Town, labels: Path, tmp_path: Path) -> None:
    """Fractions and counts of a run are none of the whole dataset, and a split that is filled now is not empty."""
    folder, block = tmp_path / "set", {"block": 3, "val": "0.4", "test": "0"}
    cut([town("a.tif")], labels, folder, replace(SETTINGS, **block))
    first = open_manifest(folder)
    former = [note for note in first.document.notes if "of the labelled pixels lie outside" in note]
    assert len(former) == 1
    for number, name in enumerate(("b.tif", "c.tif"), start=1):
        report = cut([town(name, number * FAR, seed=number)], labels, folder, replace(ADDED, **block))
        outside = [note for note in report.notes if "of the labelled pixels lie outside" in note]
        assert len(outside) == len(set(outside)) == 1 + number
        assert f"of the {len(first.chips)} chips that were there: {former[0]}" in outside
        assert sum(note.startswith("of the ") for note in outside) == number
        assert not any(note.count("that were there: ") > 1 for note in report.notes)
        # What is odd about the splits is said of them as they are now, once.
        assert not [note for note in report.notes if "that were there: validation is" in note]
