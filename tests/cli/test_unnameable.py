"""A name that nothing can read or write is refused before anything runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_name_files import entries, mask_file

from .conftest import Result

Run = Callable[..., Result]
Refused = Callable[..., str]

REFUSED = {
    "a\nb": "a line break",
    "a\x1b[31mb": "the control character U+001B",
    "a\tb": "the control character U+0009",
    os.fsdecode(b"caf\xe9"): "bytes that are not UTF-8",
    "<VRTDataset>": "the XML of a VRT",
    "x" * 300: "longer than the system's names",
}


def commands(name: str, model: Path) -> dict[str, tuple[object, ...]]:
    """Every command that writes, with an output of that name."""
    return {
        "predict": ("predict", model, "in.tif", "-o", f"{name}.tif"),
        "predict --vectors": (
            "predict",
            model,
            "in.tif",
            "-o",
            "o.tif",
            "--vectors",
            f"{name}.shp",
        ),
        "predict, several": ("predict", model, "in.tif", "labels.tif", "-o", name),
        "vectorize": ("vectorize", "labels.tif", f"{name}.geojson"),
        "tile": ("tile", "in.tif", "--labels", "labels.tif", "-o", name),
        "train": ("train", "chips", "--recipe", "fcn", "-o", name),
        "export": ("export", model, "-o", f"{name}.onnx"),
        "import-weights": ("import-weights", "m.pth", "--from", "torchvision", "-o", f"{name}.safetensors"),
        "evaluate": ("evaluate", "labels.tif", "labels.tif", "-o", f"{name}.json"),
        "demo": ("demo", name),
    }


@pytest.mark.parametrize("command", sorted(commands("", Path())))
def test_an_output_that_nothing_can_name_is_refused_before_anything_runs(
    command: str,
    refused: Refused,
    models: Callable[..., Path],
    raster: Callable[..., Path],
    labels: Path,
    tmp_path: Path,
) -> None:
    model = models()
    raster("in.tif")
    (tmp_path / "loop.tif").symlink_to("loop.tif")
    (tmp_path / "loop").symlink_to("loop")
    told = {**REFUSED, "x" * 230: "so that there is room for", "loop/out": "a loop of symbolic links"}
    for name, reason in told.items():
        message = refused(*commands(name, model)[command])
        assert reason in message, (name, message)
        assert "choose another output" in message
        assert message.isprintable()
    assert "a loop of symbolic links" in refused("predict", model, "in.tif", "-o", "loop.tif")


def test_an_input_that_nothing_can_name_is_refused(
    refused: Refused, models: Callable[..., Path], raster: Callable[..., Path], labels: Path, tmp_path: Path
) -> None:
    model = models()
    image = raster("in.tif")
    mask_file(tmp_path / "mask.tif")
    (tmp_path / "loop").symlink_to("loop")
    latin = os.fsdecode(b"caf\xe9")
    for name in (latin, "x" * 300, "loop"):
        reason = {**REFUSED, "loop": "a loop of symbolic links"}[name]
        if name == latin:
            shutil.copyfile(image, tmp_path / name)
        for arguments in (
            ("info", name),
            ("predict", model, name, "-o", "o.tif"),
            ("predict", name, "in.tif", "-o", "o.tif"),
            ("predict", model, "in.tif", "-o", "o.tif", "--aoi", name),
            ("predict", model, "in.tif", "-o", "o.tif", "--stack", name),
            ("tile", name, "--labels", "labels.tif", "-o", "chips"),
            ("tile", "in.tif", "--labels", name, "-o", "chips"),
            ("vectorize", name, "o.gpkg"),
            ("evaluate", name, "labels.tif"),
            ("evaluate", "mask.tif", name),
            ("export", name, "-o", "o.onnx"),
            ("import-weights", name, "--from", "torchvision", "-o", "o.safetensors"),
            ("train", name, "--recipe", "fcn", "-o", "run"),
        ):
            message = refused(*arguments)
            assert reason in message, (arguments, message)
            assert message.isprintable()


def test_a_name_that_cannot_be_used_is_its_own_scenes_failure(
    run: Run, models: Callable[..., Path], raster: Callable[..., Path], tmp_path: Path
) -> None:
    image = raster("image.tif", size=(32, 32))
    folder = tmp_path / "scenes"
    folder.mkdir()
    bad = [os.fsdecode(b"caf\xe9.tif"), "line\nbreak.tif", "x" * 230 + ".tif"]
    for name in ("good.tif", *bad):
        shutil.copyfile(image, folder / name)
    (folder / "loop.tif").symlink_to("loop.tif")
    result = run("predict", models(), "scenes", "-o", "masks", "--json")
    assert result.code == 1, result.err
    assert {name for name in entries(tmp_path / "masks") if name.endswith(".tif")} == {"good_mask.tif"}
    outcomes = {one["source"]: one for one in json.loads(result.out)}
    assert {source: one["outcome"] for source, one in outcomes.items()} == {
        "scenes/good.tif": "done", "scenes/caf\\xe9.tif": "failed", "scenes/line\\x0abreak.tif": "failed",
        f"scenes/{'x' * 230}.tif": "failed", "scenes/loop.tif": "failed",
    }  # fmt: skip
    assert "bytes that are not UTF-8" in outcomes["scenes/caf\\xe9.tif"]["reason"]
    assert "wanted at most 215" in outcomes[f"scenes/{'x' * 230}.tif"]["reason"]
    assert "loop of symbolic links" in outcomes["scenes/loop.tif"]["reason"]
    assert result.err.startswith("Error: 4 of 5 scenes have no mask")
    # The remedy is tried: renamed, all are made.
    for number, name in enumerate((*bad, "loop.tif")):
        (folder / name).unlink()
        shutil.copyfile(image, folder / f"renamed{number}.tif")
    again = run("predict", models(), "scenes", "-o", "masks", "--json")
    assert again.code == 0, again.err
    assert sorted(one["outcome"] for one in json.loads(again.out)) == ["done"] * 4 + ["kept"]


def test_many_models_between_commas_are_longer_than_a_name(
    run: Run, models: Callable[..., Path], raster: Callable[..., Path], tmp_path: Path
) -> None:
    names = [f"{'m' * 90}{k}.safetensors" for k in range(3)]
    for name in names:
        shutil.copyfile(models(), tmp_path / name)
    raster("in.tif", size=(16, 16))
    result = run("predict", ",".join(names), "in.tif", "-o", "o.tif")
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("text", "meant"),
    [(r"https:\\host\a.tif", "https://host/a.tif"), ("https:///host/a.tif", "https://host/a.tif")],
)
def test_addresses_with_both_slashes_are_told_in_one_line(
    text: str, meant: str, refused: Refused, models: Callable[..., Path], tmp_path: Path
) -> None:
    model = models()
    (tmp_path / "list.txt").write_text(text)
    for arguments in (
        ("predict", model, text, "-o", "o.tif"),
        ("predict", model, "@list.txt", "-o", "o.tif"),
        ("tile", text, "--labels", "l.gpkg", "-o", "chips"),
    ):
        assert f"wanted {meant};" in refused(*arguments)
