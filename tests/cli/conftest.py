"""Runs commands in this process, and holds every refusal to the same promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import rasterio
from odd_name_files import DECOYS
from rasterio.transform import from_origin

from aerial_seg.bands import Band
from aerial_seg.cli.main import main
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings


@dataclass(frozen=True)
class Result:
    """What a command left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs `aerial-seg …` in this process, with the test's folder as the working directory."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> Result:
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return command


def listing(folder: Path) -> dict[str, str]:
    """Every path below the folder, with the hash of its bytes."""
    return {
        str(path): sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(run: Callable[..., Result], tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must fail: one line on stderr, nothing on stdout, nothing written. Returns the line."""

    def command(*arguments: object, code: int = 1) -> str:
        before = listing(tmp_path)
        result = run(*arguments)
        assert result.err.startswith("Error: "), result.err
        assert result.err.count("\n") == 1, result.err
        assert result.code == code, result.err
        assert result.out == ""
        assert "Traceback" not in result.err
        assert listing(tmp_path) == before
        return result.err.strip()

    return command


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Untrained model files by architecture and encoder, made once: 3 bands of uint8, `background` and `road`, 1 m.

    By default the smallest encoder there is: what its logits are is hardly ever asked.
    """
    folder = tmp_path_factory.mktemp("models")

    def model(architecture: str = "fcn", encoder: str = "tu-test_resnet") -> Path:
        path = folder / f"{architecture}-{encoder}.safetensors"
        if not path.exists():
            recipe = Recipe(
                model=ModelSettings(
                    architecture=architecture,
                    encoder=encoder,
                    head_channels=8,
                    output_stride=16,
                    auxiliary=False,
                ),
                prediction=PredictionSettings(tile_size=64, batch_size=2),
            )
            card = ModelCard(
                tool_version="test",
                recipe=recipe,
                legend=make_legend({0: "background", 1: "road"}, background=[0]),
                bands=tuple(
                    Band(name=name, dtype="uint8", mean=120, std=60, p2=0, p98=255)
                    for name in ("red", "green", "blue")
                ),
                gsd=1.0,
                class_bias=(0.0, 0.0),
                iteration=1,
                validation_miou=None,
                data_fingerprint="none",
            )
            save_model(build_network(recipe.model, bands=3, classes=2).state_dict(), card, path)
        return path

    return model


@pytest.fixture
def raster(tmp_path: Path) -> Callable[..., Path]:
    """Writes noise, or `pixels` (C,H,W), as a GeoTIFF in UTM zone 33 in the test's folder."""

    def write(
        name: str,
        *,
        bands: int = 3,
        size: tuple[int, int] = (60, 80),
        dtype: str = "uint8",
        pixels: np.ndarray | None = None,
        gsd: float = 1.0,
        crs: str | None = "EPSG:32633",
        corner: tuple[float, float] = (500_000.0, 5_200_000.0),
        **profile: object,
    ) -> Path:
        if pixels is None:
            pixels = np.random.default_rng(1).integers(1, 200, (bands, *size)).astype(dtype)
        count, height, width = pixels.shape
        profile = {
            "photometric": "RGB" if count == 3 and pixels.dtype == "uint8" else "MINISBLACK",
            **profile,
        }
        place = {} if crs is None else {"crs": crs, "transform": from_origin(*corner, gsd, gsd)}
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype,
            **place, **profile,
        ) as file:  # fmt: skip
            file.write(pixels)
        return tmp_path / name

    return write


@pytest.fixture
def labels(raster: Callable[..., Path]) -> Path:
    """A label raster of two classes, 1 in the west and 2 in the east."""
    pixels = np.ones((1, 60, 80), np.uint8)
    pixels[:, :, 40:] = 2
    return raster("labels.tif", pixels=pixels)


@pytest.fixture
def keep(tmp_path: Path) -> dict[str, bytes]:
    """The user's files lie in the working directory; returns their bytes."""
    for number, name in enumerate(DECOYS):
        (tmp_path / name).write_bytes(b"precious %d" % number)
    return {name: (tmp_path / name).read_bytes() for name in DECOYS}
