"""What messages say of settings: names that exist, in one grammar that Python and the command line both read."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aerial_seg
from aerial_seg.cli import COMMANDS
from aerial_seg.cli.setting_options import as_flags
from aerial_seg.geo.raster.band_choice import BandChoice, bands_setting, parse_bands
from aerial_seg.mentions import Made, Mention, Placeholder, replace_settings, setting, settings_in

PACKAGE = Path(aerial_seg.__file__).parent
BELOW = [path for path in sorted(PACKAGE.rglob("*.py")) if not path.is_relative_to(PACKAGE / "cli")]
"""All code below the command line, which lies in the package where that is installed and beside it in a checkout."""
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in BELOW}
NAMES = st.sampled_from(["overwrite", "aoi_crs", "x", "bi_xy_std2"])
SCALARS = st.one_of(
    st.text(),
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.just(...),
    st.none(),
    NAMES.map(Placeholder),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3).map(tuple),
    st.dictionaries(st.integers(), st.text(), max_size=3),
    st.dictionaries(NAMES, st.lists(SCALARS, max_size=2).map(tuple), max_size=2).map(
        lambda some: Made("Bands", some)
    ),
)


def python(text: str) -> object:
    """What Python makes of a keyword and its value."""
    return eval(f"dict({text})", {"inf": float("inf")})


@given(NAMES, VALUES, st.sampled_from([None, "predict"]), st.text())
def test_what_is_said_is_read_back_whatever_stands_around(
    name: str, value: object, job: str | None, around: str
) -> None:
    said = setting(name, value, job=job)
    wanted = Mention(name, value, job, has_value=True)
    # A foreign backquote may make another pair with ours, so only texts without one can hide nothing.
    plain = around.replace("`", "'")
    assert settings_in(f"{plain}{said}{plain}") == (wanted,)
    assert replace_settings(f"{plain}{said}{plain}", lambda *_: None) == f"{plain}{said}{plain}"
    assert replace_settings(f"{plain}{said}{plain}", lambda *_: "X") == f"{plain}X{plain}"


@given(
    NAMES,
    st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False), st.tuples(st.text())),
)
def test_what_is_said_is_python(name: str, value: object) -> None:
    said = setting(name, value)
    assert said[0] == said[-1] == "`"
    assert "\n" not in said
    assert python(said[1:-1].replace(name, "key", 1)) == {"key": value}


def test_a_bare_name_and_a_foreign_backquote() -> None:
    assert setting("nodata") == "`nodata`"
    assert settings_in("check `nodata`") == (Mention("nodata"),)
    text = "it`s a=b.tif exists; pass `overwrite=True`, not `x=(` or `aerial-seg tile`"
    assert settings_in(text) == (Mention("overwrite", True, has_value=True),)
    assert replace_settings(text, lambda *_: "O") == text.replace("`overwrite=True`", "O")


def test_whole_numbers_are_written_as_people_do() -> None:
    assert setting("nodata", 255.0) == "`nodata=255`"
    assert setting("nodata", -3.4028234663852886e38) == "`nodata=-3.4028234663852886e+38`"
    assert setting("nodata", float("nan")) == '`nodata=float("nan")`'


@pytest.mark.parametrize(
    "choice", [parse_bands("4,3,2"), parse_bands(bands="red=1,nir=4"), parse_bands("1", stack=["height.tif"])]
)
def test_a_choice_of_bands_is_said_as_it_is_made(choice: BandChoice) -> None:
    said = bands_setting(numbers=choice.numbers, names=choice.names, stack=choice.stack)
    assert eval(f"dict({said[1:-1]})", {"BandChoice": BandChoice}) == {"bands": choice}


# What is said in messages below is read off the source.

JOBS = (
    "predict", "predict_scenes", "tile", "train", "vectorize", "evaluate_mask", "evaluate_model_on_chips",
    "evaluate_model_on_rasters", "benchmark", "export", "import_weights", "demo", "info", "list_models",
    "forecast_training",
)  # fmt: skip
RUN_AS_THEY_ARE = frozenset({
    "gdal_translate -co PROFILE=GeoTIFF --config GDAL_PAM_ENABLED NO in.tif out.tif",
    "aerial-seg tile --dry-run",
})  # fmt: skip
"""Whole command lines, which remedies name."""
LOOPS = {
    ("agreement.py", "name"): ("chip_size", "stride", "split_by", "layout"),
    ("shares.py", "name"): ("val", "test"),
    ("assign.py", "name"): ("val", "test"),
    ("doubts.py", "split"): ("val", "test"),
    ("tile_sources.py", "name"): ("val", "test"),
    ("settings.py", "there"): ("folds", "fold"),
    ("settings.py", "absent"): ("folds", "fold"),
    ("checks.py", "name"): ("aoi_layer", "aoi_crs"),
    ("labels.py", "name"): (
        "class_field",
        "layer",
        "encoding",
        "outside",
        "labelled_area",
        "buffer",
        "all_touched",
        "priority",
        "unlabelled",
        "preset",
    ),
    ("polygon_maker.py", "kind"): ("instances", "regularize"),
}
"""Names that a loop or an argument gives: where, and which."""


def settings_and_parameters() -> dict[str, set[str]]:
    """Every name that a Python user can type as a keyword, by who takes it."""
    known = {
        name: {field.name for field in dataclasses.fields(thing)}
        for name in aerial_seg.__all__
        if dataclasses.is_dataclass(thing := getattr(aerial_seg, name)) and name.endswith("Settings")
    }
    known["BandChoice"] = {field.name for field in dataclasses.fields(BandChoice)}
    known["CheckpointFacts"] = {field.name for field in dataclasses.fields(aerial_seg.CheckpointFacts)}
    known["ModelSettings"] = set(aerial_seg.ModelSettings.model_fields)
    known["parse_bands"] = set(inspect.signature(parse_bands).parameters)
    for job in JOBS:
        known[job] = set(inspect.signature(getattr(aerial_seg, job)).parameters)
    return known


def said_in(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    """Line, name and call of each setting that the messages of a file name."""
    for node in ast.walk(TREES[path]):
        if not isinstance(node, ast.Call):
            continue
        for word in node.keywords:
            # A name that goes on to a function that says it.
            if word.arg == "setting_name" and isinstance(word.value, ast.Constant):
                yield node.lineno, word.value.value, node
        if isinstance(node.func, ast.Name) and node.func.id == "setting":
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield node.lineno, first.value, node
            elif isinstance(first, ast.Name) and first.id != "setting_name":
                assert (path.name, first.id) in LOOPS, (
                    f"{path}:{node.lineno} says a setting that no test sees"
                )
                for name in LOOPS[path.name, first.id]:
                    yield node.lineno, name, node


def test_every_setting_that_a_message_names_exists() -> None:
    known = set().union(*settings_and_parameters().values())
    said = [(path.name, line, name) for path in TREES for line, name, _ in said_in(path)]
    assert len(said) > 120
    assert {"overwrite", "aoi_crs", "val", "instances", "georeferenced", "weights"} <= {
        name for *_, name in said
    }
    assert [one for one in said if one[2] not in known] == []


def test_a_setting_of_another_job_is_one_of_that_job() -> None:
    known = settings_and_parameters()
    others = 0
    for path in TREES:
        for _, name, call in said_in(path):
            for word in call.keywords:
                if word.arg == "job":
                    assert isinstance(word.value, ast.Constant)
                    job = word.value.value
                    assert name in known[job] | known[f"{job.capitalize()}Settings"]
                    others += 1
    assert others


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every string in a file that is no documentation; of f-strings the parts between the braces."""
    tree = TREES[path]
    documentation = {
        id(line.value)
        for node in ast.walk(tree)
        for line in (node.body if isinstance(getattr(node, "body", None), list) else ())
        if isinstance(line, ast.Expr)
    }
    # Where a setting is defined, the names of its option are no message.
    silent = documentation | {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Setting"
        for word in node.keywords
        if word.arg == "flag"
        for part in ast.walk(word.value)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value


def test_no_message_below_the_command_line_speaks_of_a_flag() -> None:
    odd, foreign = [], set()
    for path in TREES:
        for line, text in texts_of(path):
            for whole in RUN_AS_THEY_ARE:
                if whole in text:
                    foreign.add(whole)
                text = text.replace(whole, "")
            if re.search(r"(?<![\w-])--[a-z]", text):
                odd.append(f"{path.relative_to(PACKAGE)}:{line}: {text}")
    assert odd == []
    assert foreign == RUN_AS_THEY_ARE


def test_backquotes_of_messages_come_from_one_place() -> None:
    """Beside settings only commands stand in them, so nothing else can be taken for a setting."""
    allowed = re.compile(r"`(aerial-seg [a-z-]+( design| report| --dry-run)?|train|timm\.list_models\(\))`")
    odd = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in TREES
        if path.name
        not in ("mentions.py", "benchmark_page.py", "folders.py")  # Markdown there is a file, no message
        for line, text in texts_of(path)
        if "`" in allowed.sub("", text) and text != _STRANGE
    ]
    assert odd == []


_STRANGE = "`~!@#$%^&*()+-={}|[]\\:\";'<>?,./"
"""With what no layer of a GeoPackage may begin."""


def test_no_message_below_the_command_line_asks_for_a_command_again() -> None:
    odd = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in TREES
        for line, text in texts_of(path)
        if re.search(r"(same|former) command", text)
    ]
    assert odd == []


# The rooms of the messages, and the commands that come by them.

_OF_LABELS = ("tile", "evaluate", "report")
COMMANDS_OF = {
    "jobs/assess/design.py": ("design",), "jobs/assess/pictures.py": ("design",), "jobs/assess": ("assess report",),
    "choices.py": ("predict", "tile"), "geo/map_tiles": ("predict", "tile"),
    "bands.py": ("import-weights",), "jobs/benchmark": ("voc", "cityscapes", "ade20k"), "jobs/demo.py": ("demo",),
    "jobs/evaluate.py": ("evaluate",), "jobs/mask_scores.py": ("evaluate",),
    "jobs/export.py": ("export",), "jobs/export_eight_bits.py": ("export",),
    "jobs/import_weights.py": ("import-weights",), "jobs/predict": ("predict",),
    "jobs/report": ("report",), "jobs/tile": ("tile",), "jobs/train": ("train",),
    "files/journal.py": ("predict", "voc"), "benchmarks/submission.py": ("voc",), "files/staging.py": ("tile", "train"),
    "geo/areas": ("predict",), "geo/grid.py": ("tile",), "labels": _OF_LABELS, "outputs": ("predict",),
    "geo/raster": ("predict", "tile"), "inference": ("predict",), "models/importing": ("import-weights",),
    "models": ("train",), "polygonize": ("vectorize",), "vectors": ("vectorize",),
    "training": ("train",),
}  # fmt: skip
ELSEWHERE = {
    ("jobs/train/data.py", "val"), ("jobs/train/data.py", "test"), ("jobs/train/data.py", "seed"),
    ("jobs/train/data.py", "block"),  # after `aerial-seg tile`, whose they are
    ("training/validation/monitor.py", "val"),  # likewise
    ("training/validation/outcome.py", "val"), ("training/validation/outcome.py", "block"),  # likewise
    ("jobs/import_weights.py", "tile_size"),  # of predict, which takes the model
    ("vectors/from_mask/class_rows.py", "confidence"),  # of predict(confidence=True)
}  # fmt: skip


def test_every_command_has_an_option_for_what_its_messages_name() -> None:
    commands = {}
    for name in COMMANDS:
        command = importlib.import_module(f"aerial_seg.cli.{name.replace('-', '_')}").command
        below = command.commands if isinstance(command, click.Group) else {name: command}
        # `assess report` is not `report`.
        commands |= {
            f"{name} {one}" if one in COMMANDS and one != name else one: it for one, it in below.items()
        }
    odd, seen = [], set()
    for path in TREES:
        room = path.relative_to(PACKAGE).as_posix()
        for line, name, call in said_in(path):
            homes = [home for home in COMMANDS_OF if room == home or room.startswith(f"{home}/")]
            assert homes, f"{room} speaks of settings: say whose"
            seen.add(max(homes, key=len))
            given = [word.value for word in call.args[1:2] if isinstance(word, ast.Constant)]
            for command in COMMANDS_OF[max(homes, key=len)]:
                said = as_flags(setting(name, *given), click.Context(commands[command]))
                if not said.startswith("-") and (room, name) not in ELSEWHERE:
                    odd.append(f"{room}:{line}: {command} has no {said}")
    assert odd == []
    assert seen == set(COMMANDS_OF)
