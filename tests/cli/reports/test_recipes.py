"""recipes list and show: what is printed is a recipe, and says where its values come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aerial_seg.jobs.recipes import list_recipes
from aerial_seg.recipe.loading import load_recipe, parse_recipe, recipe_names

MINE = """
base = "near.toml"
[about]
purpose = "roofs"
[training]
crop = 96
"""
NEAR = """
base = "voc/fcn"
[training]
batch_size = 4
crop = 64
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(MINE, encoding="utf-8")
    Path("near.toml").write_text(NEAR, encoding="utf-8")
    return Path("mine.toml")


def test_what_show_prints_is_the_recipe(run: Callable, mine: Path) -> None:
    changes = (
        "training.seed=7",
        'training.class_weights."car park"=2.0',
        # A house, which JSON writes as two halves, and a text that looks like one of them.
        'training.class_weights."\U0001f3e0 \\\\ud83c é"=3.0',
        "augmentation.scale=[0.5, 2.0]",
        'data.train="\U0001f3e1"',
    )
    words = [word for change in changes for word in ("--set", change)]
    for name in (str(mine), "voc/fcn", "default"):
        shown = run("recipes", "show", name, *words)
        assert (shown.code, shown.err) == (0, "")
        assert parse_recipe(shown.out, "printed") == load_recipe(name, changes)


def test_show_says_which_values_are_a_bases_which_are_set_and_which_are_defaults(
    run: Callable, mine: Path
) -> None:
    lines = run("recipes", "show", str(mine), "--set", "training.seed=7").out.splitlines()
    assert lines[:2] == ["# mine.toml: roofs", "# base: near.toml ← voc/fcn"]
    rate = load_recipe("voc/fcn").training.learning_rate
    for line in (
        "crop = 96",
        "batch_size = 4  # of near.toml",
        f"learning_rate = {rate}  # of voc/fcn",
        "seed = 7  # --set",
        "ema_decay = 0.0  # default",
    ):
        assert line in lines
    told = json.loads(run("recipes", "show", str(mine), "--set", "training.seed=7", "--json").out)
    assert told["origins"]["training.batch_size"] == "near.toml"
    assert told["origins"]["training.seed"] == "set"
    assert told["origins"]["training.ema_decay"] is None
    assert "training.crop" not in told["origins"]


def test_list_has_every_recipe_with_what_its_source_prints(run: Callable) -> None:
    shown = run("recipes", "list")
    assert (shown.code, shown.err) == (0, "")
    head, *lines, _, grids = shown.out.splitlines()
    assert head.split()[:2] == ["recipe", "data"]
    assert grids.endswith("ablate.py: deeplab, deeplabv3, fcn, pspnet")
    assert [line.split()[0] for line in lines] == list(recipe_names())
    facts = {one["name"]: one for one in json.loads(run("recipes", "list", "--json").out)}
    assert [row["value"] for row in facts["voc/deeplabv3"]["published"]] == [77.21, 78.51]
    assert [row["value"] for row in facts["voc/fcn"]["published"]] == [69.86]
    assert facts["unet"]["published"] == []


@pytest.mark.parametrize("facts", list_recipes(), ids=lambda one: one.name)
def test_every_recipe_says_what_it_is_for_and_one_of_a_benchmark_what_it_is_held_against(facts) -> None:
    assert facts.purpose
    if facts.name == "voc/deeplabv3-coco":  # a row beside that without COCO, which only its note tells apart
        assert not facts.published
        return
    assert bool(facts.published) == (facts.dataset is not None)
    assert len({row.source for row in facts.published}) <= 1, "name one table of the published ones"


def test_a_changed_recipe_is_held_against_nothing(run: Callable) -> None:
    assert "# published: 69.86" in run("recipes", "show", "voc/fcn").out
    assert "published" not in run("recipes", "show", "voc/fcn", "--set", "model.encoder=resnet50").out


def test_an_unknown_recipe_or_key_is_one_line(run: Callable) -> None:
    unknown = run("recipes", "show", "voc/deeplab")
    assert (unknown.code, unknown.out) == (2, "")
    assert unknown.err.startswith("Error: there is no recipe 'voc/deeplab'; did you mean")
    wrong = run("recipes", "show", "voc/fcn", "--set", "training.cro=3")
    assert wrong.code == 2
    assert "did you mean 'training.crop'" in wrong.err
