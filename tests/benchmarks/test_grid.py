"""Grids: every row of every paper's table is a recipe, and no figure contradicts another."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from aerial_seg.benchmarks.grid import RecipeRow, grid_names, load_grid
from aerial_seg.benchmarks.protocol import load_protocol
from aerial_seg.benchmarks.published import published
from aerial_seg.errors import SettingsError
from aerial_seg.models.build import build_network

GRIDS = {name: load_grid(name) for name in grid_names()}
ROWS = [row for grid in GRIDS.values() for row in grid.rows]


def what_is_run(row: RecipeRow) -> tuple[str, str]:
    return row.recipe.model_dump_json(), row.protocol


def figure(grid: str, row: str, metric: str = "miou") -> float:
    (found,) = [one for one in GRIDS[grid].rows if one.name == row]
    return found.published[metric]


def test_the_papers_tables_are_there_whole() -> None:
    counts = {
        name: {table: sum(row.name.startswith(f"{table}/") for row in grid.rows) for table in tables(name)}
        for name, grid in GRIDS.items()
    }
    assert counts == {
        "deeplab": {"voc": 4, "cityscapes": 1},
        "deeplabv3": {
            "table-1": 6, "table-2": 8, "table-3": 20, "table-4": 4, "table-5": 5, "table-6": 5, "table-7": 2,
            "table-8": 4, "table-9": 4, "table-10": 6, "table-12": 4, "table-13": 1,
        },
        "fcn": {"voc": 4, "ade20k": 4, "cityscapes": 4},
        "pspnet": {"table-1": 7, "table-2": 5, "table-3": 8, "table-4": 6},
    }  # fmt: skip


def tables(grid: str) -> list[str]:
    return list(dict.fromkeys(row.name.partition("/")[0] for row in GRIDS[grid].rows))


@pytest.mark.parametrize("grid", GRIDS)
def test_a_row_differs_from_its_neighbours_in_training_or_test(grid: str) -> None:
    """A row that cannot be run yet may still look like another: it says why."""
    for first, second in pairwise(GRIDS[grid].rows):
        same_table = first.table == second.table
        if same_table and not (first.missing or second.missing):
            assert what_is_run(first) != what_is_run(second), (first.name, second.name)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_row_that_stands_in_two_tables_has_the_same_figures_in_both(grid: str) -> None:
    """Tables 2 and 3 of DeepLabv3 share four rows, five of its tables the best one: papers agree with themselves."""
    found: dict[tuple[str, str], RecipeRow] = {}
    for row in GRIDS[grid].rows:
        if row.missing:
            continue
        other = found.setdefault(what_is_run(row), row)
        assert row.published == other.published, (row.name, other.name)


SYSTEMS = {
    "deeplab": ("tensorpack DeepLab", ["voc/imagesize473", "cityscapes/imagesize672"]),
    "deeplabv3": ("Chen et al. 2017, DeepLabv3", [
        "table-4/os8-ms-flip", "table-6/os16", "table-6/os8", "table-6/os8-ms-flip", "table-12/os16", "table-12/os8",
        "table-12/os8-ms-flip",
    ]),
    "fcn": ("sssegmentation", [row.name for row in GRIDS["fcn"].rows]),
    "pspnet": ("Zhao et al. 2017, PSPNet", [
        "table-1/baseline", "table-1/b1236-ave-dr", "table-3/psp269", "table-3/psp269-ms",
    ]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "row"), [(grid, row) for grid, (_, rows) in SYSTEMS.items() for row in rows]
)
def test_a_figure_that_is_a_published_result_is_that_one(grid: str, row: str) -> None:
    """What `benchmark` prints beside a score, found by the row's own network, test and data."""
    (one,) = [one for one in GRIDS[grid].rows if one.name == row]
    model = one.recipe.model
    tested_at = load_protocol(one.protocol).output_stride or model.output_stride
    system = (model.architecture, model.encoder, one.protocol, tested_at, "val")
    theirs = {
        result.metric: result.value
        for result in reversed(published(one.dataset))  # the first of several is that without COCO
        if (result.architecture, result.encoder, result.protocol, result.output_stride, result.split)
        == system
        and result.source.startswith(SYSTEMS[grid][0])
    }
    assert theirs == one.published


def test_the_figures_differ_as_the_papers_say_they_do() -> None:
    """Sentences of the papers' texts; the tables themselves are pictures in what this project began from."""
    v3, psp = "deeplabv3", "pspnet"
    for more, less, difference in [
        ((v3, "table-4/os8"), (v3, "table-4/os16"), 1.39),
        ((v3, "table-5/mg124"), (v3, "table-5/mg124-rate24"), 0.12),
        ((v3, "table-6/os8"), (v3, "table-6/os16"), 1.3),
        ((v3, "table-6/os8-ms"), (v3, "table-6/os8"), 0.94),
        ((v3, "table-6/os8-ms-flip"), (v3, "table-6/os8-ms"), 0.32),
        ((psp, "table-1/b1236-ave-dr"), (psp, "table-1/b1-ave"), 1.61),
        ((psp, "table-1/b1236-ave-dr"), (psp, "table-1/baseline"), 4.45),
        ((psp, "table-2/alpha0.4"), (psp, "table-2/no-al"), 1.41),
        ((psp, "table-4/da"), (psp, "table-4/baseline"), 1.54),
        ((psp, "table-4/da-al-psp"), (psp, "table-4/baseline"), 7.40),
    ]:
        assert math.isclose(figure(*more) - figure(*less), difference, abs_tol=1e-6)
    means = [
        (figure(psp, f"table-3/psp{d}") + figure(psp, f"table-3/psp{d}", "pixel_accuracy")) / 2
        for d in (50, 269)
    ]
    assert [round(mean, 1) for mean in means] == [60.9, 62.3]  # figure 5: 60.86 and 62.35


def test_every_rows_network_takes_its_crop() -> None:
    seen = set()
    for row in ROWS:
        model = row.recipe.model.model_copy(update={"weights": "none"})
        key = model.model_dump_json(), row.recipe.training.crop
        if key in seen:
            continue
        seen.add(key)
        with torch.device("meta"):
            network = build_network(model, bands=3, classes=2)
        height, width = row.recipe.training.crop_size
        network.geometry.check_crop(height=height, width=width)
        network.geometry.check_side(row.recipe.prediction.tile_size)
    assert len(seen) > 50


ROW = 'row = [{ name = "a", label = "A", published = { miou = 50.0 } }]\n'
TABLE = '[[table]]\nname = "t"\nnumber = "1"\ntitle = "t"\nevidence = "memory"\nprotocol = "fcn"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{TABLE}base = "voc/fc"\n{ROW}', r"row t/a: there is no recipe 'voc/fc'; did you mean 'voc/fcn'"),
        (f'{TABLE}base = "fcn"\n{ROW}', r"row t/a: recipe fcn is for chips of one's own, wanted one with data.ben"),
        (f'{TABLE}base = "voc/fcn"\nset = {{ training.cro = 3 }}\n{ROW}', r"row t/a: unknown key 'training.cro'; did"),
        (f'{TABLE}base = "voc/fcn"\nbas = 1\n{ROW}', r"unknown key 'table.0.bas'; did you mean 'base'"),
        (f'{TABLE}base = "voc/fcn"\n{ROW}{TABLE}base = "voc/fcn"\n{ROW}', r"row t/a comes twice"),
        (f'{TABLE.replace("fcn", "deeplabv3-cityscapes-test")}base = "voc/fcn"\n{ROW}', r"row t/a: .*not for voc"),
    ],
)  # fmt: skip
def test_a_grid_that_is_none_is_told_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'title = "mine"\nsource = "me"\n{text}', encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load_grid(file)
    with pytest.raises(SettingsError, match="there is no grid 'deeplabv4'; did you mean 'deeplabv3'"):
        load_grid("deeplabv4")
