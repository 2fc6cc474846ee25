"""A recipe that names another as its base holds only what differs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.errors import SettingsError
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.lineage import Document, Lineage
from aerial_seg.recipe.loading import load_recipe, parse_recipe, read_lineage, recipe_names, shipped_text


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_what_a_document_leaves_out_is_its_bases(tmp_path: Path) -> None:
    write(
        tmp_path,
        far="[training]\ncrop = 64\nbatch_size = 3\n[training.class_weights]\nroof = 2.0\nroad = 3.0\n",
        near='base = "far.toml"\n[training]\ncrop = 96\n[training.class_weights]\nroof = 5.0\n',
        own='base = "near.toml"\n[augmentation]\nscale = [1.0, 1.5]\n',
    )
    recipe = load_recipe(tmp_path / "own.toml", ["training.batch_size=7"])
    assert (recipe.training.crop, recipe.training.batch_size) == (96, 7)
    assert recipe.training.class_weights == {"roof": 5.0, "road": 3.0}
    assert recipe.augmentation.scale == (1.0, 1.5)
    assert recipe.model == Recipe().model
    lineage = read_lineage(tmp_path / "own.toml")
    assert [Path(one.name).name for one in lineage.documents] == ["far.toml", "near.toml", "own.toml"]
    origin = lineage.origin(("training", "crop"))
    assert origin is not None
    assert Path(origin).name == "near.toml"
    assert lineage.origin(("training", "seed")) is None


def test_the_base_of_a_file_lies_beside_it_or_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", a='base = "../b.toml"\n')
    write(tmp_path, b='base = "unet"\n[training]\nseed = 3\n')
    monkeypatch.chdir(tmp_path)
    found = load_recipe("deep/a.toml")
    assert found == load_recipe("unet", {"training.seed": 3})
    assert parse_recipe('base = "unet"\n[training]\nseed = 3\n', "text") == found


tables: st.SearchStrategy[Any] = st.recursive(
    st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
documents = st.lists(st.dictionaries(st.sampled_from("abc"), tables, max_size=3), min_size=1, max_size=4)


def paths(table: Any, here: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every key whose value is no table that holds some, with its value."""
    if not isinstance(table, dict) or not table:
        return [(here, table)]
    return [one for key, value in table.items() for one in paths(value, (*here, key))]


@settings(max_examples=examples(80))
@given(documents)
def test_a_value_is_that_of_the_last_document_that_has_its_key(tables: list[dict[str, Any]]) -> None:
    lineage = Lineage(tuple(Document.of(str(k), table) for k, table in enumerate(tables)))
    for path, value in paths(lineage.merged()):
        if not path:
            continue
        origin = lineage.origin(path)
        assert origin is not None
        told: Any = tables[int(origin)]
        for key in path:
            told = told[key]
        assert told == value
    # Nothing is lost: what the last document says stands.
    for path, value in paths(tables[-1]):
        merged: Any = lineage.merged()
        for key in path:
            merged = merged[key]
        assert merged == value or value == {}


def test_a_key_of_the_base_can_be_unset(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="[batch_norm]\ndecay = 0.9997\n[training]\ncrop = 64\nclass_weights = { roof = 2.0, road = 3.0 }\n",
        own='base = "base.toml"\nunset = ["batch_norm.decay", "training.class_weights.road"]\n'
        "[batch_norm]\nmomentum = 0.05\n",
        further='base = "own.toml"\nunset = ["training.class_weights"]\n[batch_norm]\nmomentum = 0.1\n',
    )
    recipe = load_recipe(tmp_path / "own.toml")
    assert (recipe.batch_norm.decay, recipe.batch_norm.momentum, recipe.training.crop) == (None, 0.05, 64)
    assert recipe.training.class_weights == {"roof": 2.0}
    assert load_recipe(tmp_path / "further.toml").training.class_weights == {}
    lineage = read_lineage(tmp_path / "own.toml")
    assert lineage.origin(("batch_norm", "decay")) == str(tmp_path / "own.toml")
    assert lineage.origin(("training", "class_weights", "roof")) == str(tmp_path / "base.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('unset = ["training.crop"]', "'unset' names training.crop, but it has no base; leave it out"),
        (
            'base = "unet"\nunset = ["batch_norm.decay"]',
            "'unset' names batch_norm.decay, but nothing in its base unet sets it; leave it out",
        ),
        (
            'base = "unet"\nunset = ["training.crop"]\n[training]\ncrop = 64',
            "'unset' names training.crop, which is set here too; leave one of them out",
        ),
        ('base = "unet"\nunset = ["training.crop", "training.crop"]', "'unset' names training.crop twice"),
        ('unset = "training.crop"', "'unset' is 'training.crop', wanted a list of keys"),
        ("unset = [1]", "'unset' is [1], wanted a list of keys"),
    ],
)
def test_what_is_not_there_to_be_unset_is_told(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"recipe mine: {message}")):
        parse_recipe(text, "mine")


def test_bases_in_a_circle_are_told_with_the_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path,
        a='base = "b.toml"\n',
        b='base = "./c.toml"\n',
        c='base = "a.toml"\n',
        me='base = "me.toml"\n',
    )
    with pytest.raises(
        SettingsError, match=r"a.toml → b.toml → c.toml → a.toml; take 'base' out of one of them"
    ):
        load_recipe("a.toml")
    with pytest.raises(SettingsError, match=r"in a circle, me.toml → me.toml"):
        load_recipe("me.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "voc/deeplab"', r"recipe .*own.toml, its base: there is no recipe 'voc/deeplab'; did you mean"),
        ('base = "absent.toml"', r"recipe .*own.toml, its base: .*absent.toml does not exist"),
        ("base = 3", r"recipe .*own.toml: 'base' is 3, wanted the name of a recipe that ships, or a file"),
        ('base = ""', r"'base' is ''"),
        ('bas = "unet"', r"unknown key 'bas'; did you mean 'base'"),
        ('base = "bad.toml"', r"recipe .*bad.toml: 'training.crop' is 0"),
        ('base = "unet"\n[training]\ncrop = 0', r"recipe .*own.toml: 'training.crop' is 0"),
        ('base = "unet"\n[about]\npurpos = "x"', r"own.toml: about: unknown key 'purpos'; did you mean 'purpose'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_document_it_is_wrong_in(
    tmp_path: Path, text: str, message: str
) -> None:
    write(tmp_path, own=text + "\n", bad="[training]\ncrop = 0\n")
    with pytest.raises(SettingsError, match=message):
        load_recipe(tmp_path / "own.toml")


def test_a_text_that_lies_in_no_file_has_no_file_for_a_base() -> None:
    with pytest.raises(SettingsError, match="a file, and it lies in none itself; name a recipe that ships"):
        parse_recipe('base = "beside.toml"', "text")


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_says_what_it_is_for_and_repeats_nothing_of_its_base(name: str) -> None:
    own = tomllib.loads(shipped_text("", name))
    if "base" not in own:
        return
    assert own.get("about", {}).get("purpose"), "its bases' purpose is not its own"
    below = Lineage(read_lineage(name).documents[:-1]).merged()
    for path, value in paths({key: table for key, table in own.items() if key not in ("base", "about")}):
        before: Any = below
        for key in path:
            before = before.get(key) if isinstance(before, dict) else None
        assert before != value, f"{'.'.join(path)} is what its base says already"
