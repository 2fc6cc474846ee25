"""`assess` as it is typed: tables that add up, JSON that is the same, one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from aerial_seg.cli.main import main
from aerial_seg.geo.grid import Grid
from aerial_seg.legend import make_legend
from aerial_seg.outputs.maps import write_mask

LEGEND = make_legend({0: "background", 1: "building"}, background=[0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A map of 20 ha, a fifth of it buildings."""
    monkeypatch.chdir(tmp_path)
    grid = Grid(CRS(32645), Affine(1, 0, 500_000, 0, -1, 3_060_000), 400, 500)
    values = np.zeros(grid.shape, np.uint8)
    values[:, ::5] = 1
    write_mask(tmp_path / "map.tif", values, grid=grid, legend=LEGEND)
    return tmp_path


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `aerial-seg assess …`."""
    capsys.readouterr()
    code = 0
    try:
        main(["assess", *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_from_a_map_to_its_accuracy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = typed(capsys, "design", "map.tif", "--count", "200", "-o", "points.gpkg")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()]
    assert rows[1] == ["background", "16.01", "80.00%", "0.80", "150"]
    assert rows[2] == ["building", "4.00", "20.00%", "0.80", "50"]
    assert "points.gpkg: label its 200 points" in err
    frame = geopandas.read_file("points.gpkg", layer="points")
    background = np.flatnonzero(frame["stratum"] == 0)
    frame["reference"] = frame["stratum"]
    frame.loc[background[:15], "reference"] = 1
    frame.to_file("points.gpkg", layer="points", driver="GPKG")
    code, out, err = typed(capsys, "report", "points.gpkg", "map.tif", "-o", "accuracy.json")
    assert code == 0, err
    assert "0.7200    0.0800" in out
    assert "0.9000 ± 0.0482" in out  # 1.96 · √(0.9 · 0.1 / 149)
    assert "14.41 ± 0.77" in out
    assert "overall accuracy 0.9200 ± 0.0385" in out
    document = json.loads(Path("accuracy.json").read_text())
    code, out, err = typed(capsys, "report", "points.gpkg", "map.tif", "--json")
    assert json.loads(out) == document
    assert document["classes"][1]["producers"]["value"] == pytest.approx(0.2 / 0.28)
    assert document["classes"][0]["area"]["value"] == pytest.approx(144_115, rel=1e-3)


def test_wrong_use_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for expected, words, wanted in (
        (1, ("design", "map.tif", "-o", "points.shp"), "wanted .gpkg"),
        (1, ("design", "map.tif", "-o", "map.tif"), "wanted .gpkg"),
        (1, ("design", "none.tif", "-o", "points.gpkg"), "none.tif"),
        (2, ("design", "map.tif", "--class-accuracy", "roof=0.9", "-o", "p.gpkg"), "--class-accuracy"),
        (1, ("report", "none.gpkg", "map.tif"), "none.gpkg"),
    ):
        code, out, err = typed(capsys, *words)
        assert code == expected, words
        assert out == ""
        assert wanted in err
        assert len(err.strip().splitlines()) == 1
    code, _, err = typed(capsys, "design", "map.tif", "--minimum", "1", "-o", "points.gpkg")
    assert code == 2
    assert "--minimum" in err
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".gpkg") == []
