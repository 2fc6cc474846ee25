"""Bands as an analyst chooses them: `--bidx`, `--bands`, `--stack`, and what `info` says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio


def test_info_lists_every_band_with_what_masks_it(run: Callable, raster: Callable, tmp_path: Path) -> None:
    path = raster("in.tif", bands=4)
    with rasterio.open(path, "r+") as file:
        file.set_band_description(4, "near infrared")
        colours = [colour.name for colour in file.colorinterp]
        masks = [[flag.name for flag in flags] for flags in file.mask_flag_enums]
    result = run("info", path)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    head = next(k for k, line in enumerate(lines) if line.split()[:2] == ["band", "name"])
    assert len(lines) == head + 5
    assert "near infrared" in lines[-1]
    bands = json.loads(run("info", path, "--json").out)["bands"]
    assert [band["number"] for band in bands] == [1, 2, 3, 4]
    assert [band["colour"] for band in bands] == colours
    assert [band["mask"] for band in bands] == masks


def test_a_model_reads_the_bands_that_are_named(
    run: Callable, models: Callable[..., Path], raster: Callable, tmp_path: Path
) -> None:
    path = raster("four.tif", bands=4)
    names = {"red": 3, "green": 2, "blue": 1}
    by_name = ",".join(f"{name}={number}" for name, number in names.items())
    for name, options in {
        "number": ["-b", "3,2,1"],
        "name": ["--bands", f"nir=4,{by_name}"],
        "other": ["--bidx", "1,2,4"],
    }.items():
        result = run("predict", models(), path, *options, "-o", f"{name}.tif", "--probabilities")
        assert result.code == 0, result.err
    number, name, other = (
        rasterio.open(tmp_path / f"{k}_probabilities.tif").read() for k in ("number", "name", "other")
    )
    np.testing.assert_array_equal(number, name)
    assert (number != other).any()


def test_a_stacked_file_gives_the_missing_band(
    run: Callable, models: Callable[..., Path], raster: Callable, refused: Callable
) -> None:
    two, one, small = (
        raster("two.tif", bands=2),
        raster("one.tif", bands=1),
        raster("small.tif", bands=1, size=(60, 40)),
    )
    line = refused("predict", models(), two, "-o", "map.tif")
    assert "--stack" in line
    line = refused("predict", models(), two, "--stack", small, "-o", "map.tif")
    assert "cannot be stacked on" in line
    assert "small.tif" in line
    result = run("predict", models(), two, "--stack", one, "-o", "map.tif")
    assert result.code == 0, result.err


def test_wrong_use_is_told_in_one_line(
    models: Callable[..., Path], raster: Callable, refused: Callable
) -> None:
    path = raster("four.tif", bands=4)
    for options, says in (
        (["--bidx", "1,2,3", "--bands", "red=1"], "pass one of them"),
        (["--bidx", "red"], "'red' is no band number"),
        (["--bands", "red=1,green=2"], "which band is blue"),
    ):
        assert says in refused("predict", models(), path, *options, "-o", "map.tif", code=2)
    assert "has 4 bands" in refused("predict", models(), path, "--bidx", "1,2,9", "-o", "map.tif")
