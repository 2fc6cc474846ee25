"""An untrained model file for any bands, rasters on any grid, and `predict` as a user runs it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from aerial_seg.cli.main import main


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`model_file(bands, dtype=, gsd=)` → a model of the classes 0 background and 7 road, made once."""
    spec = importlib.util.spec_from_file_location("odd_worker", Path(__file__).with_name("worker.py"))
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    folder = tmp_path_factory.mktemp("models")

    def make(bands: int, *, dtype: str = "uint8", gsd: float | None = None) -> Path:
        path = folder / f"{bands}-{dtype}-{gsd}.safetensors"
        if not path.exists():
            worker.make_model(path, bands=bands, dtype=dtype, gsd=gsd)
        return path

    return make


@pytest.fixture
def predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """`predict(model, raster, *options)` → the report of the map in map.tif, or {"error": the line on stderr}."""

    def run(model: Path, raster: Path, *options: object) -> dict[str, Any]:
        capsys.readouterr()
        arguments = ["predict", model, raster, "-o", tmp_path / "map.tif", "--overwrite", "--json"]
        code = 0
        try:
            main([*map(str, arguments), "--precision", "fp32", "--device", "cpu", *map(str, options)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        if code:
            err = capsys.readouterr().err
            assert code in (1, 3), err
            return {"error": err}
        report: dict[str, Any] = json.loads(capsys.readouterr().out)[0]
        return report

    return run


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """`save(name, image (C,H,W), crs, transform, …)` → path of a GeoTIFF; `alpha` (H,W) becomes its last band."""

    def write(
        name: str,
        image: NDArray[Any],
        crs: str | None,
        transform: Affine,
        *,
        nodata: float | None = None,
        mask: NDArray[np.bool_] | None = None,
        alpha: NDArray[np.bool_] | None = None,
    ) -> Path:
        path = tmp_path / name
        bands = (
            image
            if alpha is None
            else np.concatenate([image, np.where(alpha, 255, 0)[None].astype(image.dtype)])
        )
        profile = {
            "driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2],
            "dtype": bands.dtype, "crs": crs, "transform": transform, "nodata": nodata, "photometric": "MINISBLACK",
        }  # fmt: skip
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as file:
            meanings = [ColorInterp.gray] + [ColorInterp.undefined] * (len(bands) - 1)
            if alpha is not None:
                meanings[-1] = ColorInterp.alpha
            file.colorinterp = meanings
            file.write(bands)
            if mask is not None:
                file.write_mask(mask)
        return path

    return write
