"""`predict --crf` as an analyst types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from aerial_seg.crf import dense

pytest.importorskip("pydensecrf", reason="pip install aerial-seg[crf]")


def tags(path: Path) -> str:
    with rasterio.open(path) as mask:
        return mask.tags()["AERIAL_SEG_PARAMETERS"]


def test_the_flag_takes_deeplabs_parameters_and_no_raster_for_them(
    run: Callable, models: Callable[..., Path], raster: Callable, tmp_path: Path
) -> None:
    source = raster("in.tif")
    for name, options in {"plain": [], "crf": ["--crf"]}.items():
        result = run("predict", models(), *options, source, "-o", f"{name}.tif", "--probabilities", "--json")
        assert result.code == 0, result.err
    assert '"bi_xy_std": 67' in tags(tmp_path / "crf.tif")
    plain, refined = (
        rasterio.open(tmp_path / f"{name}_probabilities.tif").read() for name in ("plain", "crf")
    )
    assert plain.shape == refined.shape
    assert (np.abs(plain.astype(int) - refined) > 5).mean() > 0.2


def test_parameters_alone_ask_for_the_field(
    run: Callable, models: Callable[..., Path], raster: Callable, tmp_path: Path
) -> None:
    result = run(
        *(
            "predict",
            models(),
            raster("in.tif"),
            "-o",
            "out.tif",
            "--crf-parameters",
            "iterations=2,bi_xy_std=9",
        )
    )
    assert result.code == 0, result.err
    assert '"bi_xy_std": 9' in tags(tmp_path / "out.tif")
    assert '"halo": 18' in tags(tmp_path / "out.tif")


def test_a_dry_run_writes_nothing(
    run: Callable, models: Callable[..., Path], raster: Callable, tmp_path: Path
) -> None:
    result = run("predict", models(), raster("in.tif"), "-o", "out.tif", "--crf", "--dry-run")
    assert result.code == 0, result.err
    assert "nothing was written" in result.out
    assert not (tmp_path / "out.tif").exists()


def test_a_misspelt_parameter_names_the_nearest(
    refused: Callable, models: Callable[..., Path], raster: Callable
) -> None:
    said = refused(
        *("predict", models(), raster("in.tif"), "-o", "out.tif", "--crf-parameters", "bi_xystd=9"), code=2
    )
    assert "did you mean 'bi_xy_std'?" in said


def test_a_missing_package_is_one_line(
    refused: Callable,
    models: Callable[..., Path],
    raster: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dense, "find_spec", lambda name: None)
    said = refused("predict", models(), raster("in.tif"), "-o", "out.tif", "--crf", code=2)
    assert said.endswith("pip install 'aerial-seg[crf]'")
