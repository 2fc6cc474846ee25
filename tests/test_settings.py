"""Settings cannot lie: what is misspelt, of another type or out of bounds is refused by name when one is made."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter

import aerial_seg
from aerial_seg import choices
from aerial_seg.errors import SettingsError
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.engines.external import EXTERNAL
from aerial_seg.labels.class_table import ClassRow, ClassTable
from aerial_seg.settings import Definition, definitions, is_settings

PUBLIC = {name: getattr(aerial_seg, name) for name in aerial_seg.__all__}
RESULTS = {
    "PredictReport", "Forecast", "VectorizeReport", "BenchmarkReport", "Scores", "ReceptiveField", "TrainedModel",
    "Segmentation", "Step", "Checkpoint", "TrainForecast", "TileForecast", "CheckReport",
    "RecipeGrid", "RecipeRow", "DesignReport", "AssessReport", "MapReport", "Accuracy", "Estimate",
}  # fmt: skip
"""Public dataclasses that the library makes and nobody else."""
VALUES = {"Grid", "ModelGeometry", "CheckpointFacts"}
"""Public dataclasses that are facts of a raster, a network or a checkpoint, and no settings."""
CLASSES: list[Any] = [kind for kind in PUBLIC.values() if is_settings(kind)] + [EngineSettings]
RECIPES = [
    kind for name, kind in PUBLIC.items() if isinstance(kind, type) and issubclass(kind, BaseModel)
    if name.endswith("Settings") or name == "Recipe"
]  # fmt: skip
REQUIRED: Mapping[str, dict[str, Any]] = {
    "Measure": {"number": 1, "unit": "px"},
    "ErrorMapSettings": {"path": Path("e.tif")},
}
TWO_CLASSES = ClassTable([ClassRow("building", 1), ClassRow("road", 2)])
EACH = [(kind, one) for kind in CLASSES for one in definitions(kind).values()]


def named(case: object) -> str:
    return getattr(case, "__name__", None) or getattr(case, "name", None) or ""


def make(kind: Any, **given: Any) -> Any:
    return kind(**{**REQUIRED.get(kind.__name__, {}), **given})


def refused(kind: Any, **given: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        make(kind, **given)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(kind.__name__)
    assert all(name in said for name in given)
    return said


def test_no_public_class_of_settings_is_forgotten() -> None:
    dataclasses = {name for name, kind in PUBLIC.items() if isinstance(kind, type) and is_dataclass(kind)}
    assert {kind.__name__ for kind in CLASSES[:-1]} == dataclasses - RESULTS - VALUES
    assert {name for name in PUBLIC if name.endswith("Settings")} <= {
        kind.__name__ for kind in (*CLASSES, *RECIPES)
    }


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (
            "TileSettings",
            {"split_by": "sources"},
            "split_by is 'sources', wanted one of block, source; did you mean 'source'?",
        ),
        ("LabelSettings", {"outside": "Background"}, "did you mean 'background'?"),
        (
            "PredictSettings",
            {"blend": "probability"},
            "wanted one of logits, probabilities; did you mean 'probabilities'?",
        ),
        ("ShapeSettings", {"method": "vw"}, "method is 'vw', wanted one of douglas-peucker, visvalingam"),
        ("ShapeSettings", {"connectivity": 6}, "connectivity is 6, wanted one of 4, 8"),
        ("ShapeSettings", {"connectivity": "8"}, "connectivity is '8', wanted one of 4, 8"),
        ("PredictSettings", {"max_memory": "2 Gigs"}, "wanted a number with a unit, as 2GB or 800MB"),
        (
            "PredictSettings",
            {"max_memory": 2.5},
            "an amount of memory, as 2GB or 800MB, or a number of bytes",
        ),
        ("PredictSettings", {"crf": aerial_seg.DenseCrf}, "write DenseCrf()"),
        ("PredictSettings", {"crf": 1}, "wanted a DenseCrf"),
        ("PredictSettings", {"engine": "tensorrt"}, "wanted one of auto, eager, compile, onnx, openvino"),
        ("PredictSettings", {"precision": "int8"}, "wanted one of auto, fp32, bf16, fp16"),
        ("PredictSettings", {"window": "gauss"}, "did you mean 'gaussian'?"),
        ("PredictSettings", {"tta": ("flip",)}, "did you mean 'flips'?"),
        ("PredictSettings", {"tta": "flips,scales=x"}, "wanted numbers between colons"),
        ("PredictSettings", {"device": "gpu"}, "use auto, cpu, cuda or cuda:N; did you mean 'cpu'?"),
        ("PredictSettings", {"tile_size": -5}, "wanted a whole number from 1 to 65,536"),
        ("PredictSettings", {"tile_size": True}, "tile_size is True"),
        ("PredictSettings", {"tile_size": "512"}, "tile_size is '512'"),
        ("PredictSettings", {"bounds": (1, 2, 3)}, "wanted west, south, east and north"),
        ("PredictSettings", {"bounds": (1, 2, 3, math.nan)}, "wanted west, south, east and north"),
        ("PredictSettings", {"taken": "yesterday"}, "wanted 2024-05-03T10:00:00Z"),
        ("PredictSettings", {"vectors": 7}, "vectors is 7, wanted a path"),
        ("PredictSettings", {"bands": "red=x"}, "'x' is no band number"),
        ("TileSettings", {"val": 2}, "is not a fraction from 0 to below 1"),
        ("TileSettings", {"gsd": math.inf}, "gsd is inf"),
        ("TileSettings", {"labels": aerial_seg.LabelSettings}, "write LabelSettings()"),
        (
            "LabelSettings",
            {"classes": {300: 7}},
            "wanted names, a mapping of values to names, or a table's file",
        ),
        ("LabelSettings", {"classes": ["a", "a"]}, "give every value one name"),
        ("LabelSettings", {"unlabelled": 0}, "unlabelled is 0, wanted a list"),
        ("CleanSettings", {"min_area": 25}, "an area, as 25m2 or 100px"),
        ("CleanSettings", {"min_area": "25"}, "write it like 25m2 or 100px"),
        ("LayerSettings", {"format": "GPGK"}, "did you mean 'GPKG'?"),
        ("BenchmarkSettings", {"competition": "comp7"}, "wanted one of comp5, comp6"),
        ("Measure", {"unit": "ha"}, "wanted one of px, m, m2"),
    ],
)
def test_what_cannot_be_is_told(kind: str, given: dict[str, Any], told: str) -> None:
    assert told in refused(PUBLIC[kind], **given)


@pytest.mark.parametrize(
    ("kind", "given", "held"),
    [
        ("PredictSettings", {"max_memory": "2GB"}, 2_000_000_000),
        ("PredictSettings", {"max_memory": " 1.5 gib"}, 3 * 2**29),
        ("PredictSettings", {"crf": True}, aerial_seg.DenseCrf()),
        ("PredictSettings", {"crf": False}, None),
        ("PredictSettings", {"crf": "iterations=5"}, aerial_seg.DenseCrf(5)),
        ("PredictSettings", {"tta": "flips, rot90"}, ("flips", "rot90")),
        ("PredictSettings", {"tta": ["flips"]}, ("flips",)),
        ("PredictSettings", {"vectors": "map.gpkg"}, Path("map.gpkg")),
        ("PredictSettings", {"aoi": Path("area.gpkg")}, "area.gpkg"),
        ("PredictSettings", {"bands": [3, 2, 1]}, aerial_seg.BandChoice((3, 2, 1))),
        ("PredictSettings", {"bands": "4,3,2"}, aerial_seg.BandChoice((4, 3, 2))),
        ("PredictSettings", {"bands": {"red": 1, "nir": 4}}, aerial_seg.BandChoice((1, 4), ("red", "nir"))),
        ("PredictSettings", {"bounds": np.array([0, 1, 2, 3])}, (0.0, 1.0, 2.0, 3.0)),
        ("PredictSettings", {"tile_size": np.int64(512)}, 512),
        ("PredictSettings", {"nodata": -math.inf}, -math.inf),
        ("PredictSettings", {"confidence": np.bool_(True)}, True),
        ("TileSettings", {"val": 0.2}, "0.2"),
        (
            "LabelSettings",
            {"classes": "building,road"},
            TWO_CLASSES,
        ),
        (
            "LabelSettings",
            {"classes": ["building", "road"]},
            TWO_CLASSES,
        ),
        (
            "LabelSettings",
            {"classes": "1=water,255=x"},
            ClassTable([ClassRow("water", 1), ClassRow("x", 255)]),
        ),
        ("VectorizeSettings", {"classes": "building"}, ("building",)),
        ("VectorizeSettings", {"classes": ["building", "road"]}, ("building", "road")),
        ("CleanSettings", {"min_area": "25m2"}, aerial_seg.Measure(25, "m2")),
        ("ShapeSettings", {"simplify": 0}, aerial_seg.Measure(0, "px")),
        ("ShapeSettings", {"simplify": "0.8m"}, aerial_seg.Measure(0.8, "m")),
        ("BandChoice", {"stack": [Path("h.tif")]}, ("h.tif",)),
        ("BenchmarkSettings", {"submission": "val.tar.gz"}, Path("val.tar.gz")),
    ],
)
def test_what_people_write_is_taken(kind: str, given: dict[str, Any], held: Any) -> None:
    ((name, _),) = given.items()
    found = getattr(make(PUBLIC[kind], **given), name)
    assert found == held
    assert type(found) is type(held)


def test_nodata_may_be_nan() -> None:
    assert math.isnan(aerial_seg.PredictSettings(nodata=math.nan).nodata or 0)


def test_rules_across_settings_hold_for_what_was_read() -> None:
    for kind, values, told in [
        (aerial_seg.CleanSettings, {"min_area": aerial_seg.Measure(1, "m")}, "wanted an area"),
        (aerial_seg.CleanSettings, {"smooth_mask": 4}, "an odd number from 3 on"),
        (aerial_seg.ShapeSettings, {"simplify": aerial_seg.Measure(1, "m2")}, "wanted a length"),
        (aerial_seg.ShapeSettings, {"connectivity": 8, "instances": "building"}, "single polygons"),
        (aerial_seg.ShapeSettings, {"split_grid": 15}, "at least 16 pixels"),
        (aerial_seg.VectorizeSettings, {"classes": ""}, "no class is chosen"),
        (aerial_seg.BandChoice, {"numbers": [1, 2], "names": ["red"]}, "1 band names for 2 bands"),
        (aerial_seg.BandChoice, {"numbers": [1], "names": ["re\nd"]}, "cannot be a band's name"),
    ]:
        with pytest.raises(SettingsError, match=told):
            kind(**values)


@pytest.mark.parametrize(("kind", "one"), EACH, ids=named)
def test_a_misspelt_name_tells_the_nearest(kind: Any, one: Definition) -> None:
    said = refused(kind, **{f"{one.name}z": one.default})
    assert f"did you mean '{one.name}'?" in said
    assert all(name in said for name in definitions(kind))


@pytest.mark.parametrize("kind", CLASSES, ids=named)
def test_too_few_and_too_many_values_are_told(kind: Any) -> None:
    count = len(definitions(kind))
    with pytest.raises(SettingsError, match="too many positional arguments; its settings are"):
        kind(*[None] * (count + 1))
    if kind.__name__ in REQUIRED:
        with pytest.raises(SettingsError, match=next(iter(REQUIRED[kind.__name__]))):
            kind()


@pytest.mark.parametrize(
    ("kind", "one"), [case for case in EACH if get_origin(case[1].kind) is Literal], ids=named
)
def test_a_misspelt_choice_tells_all_and_the_nearest(kind: Any, one: Definition) -> None:
    for choice in one.choices:
        assert getattr(make(kind, **{one.name: choice}), one.name) == choice
        if isinstance(choice, str) and len(choice) > 2:
            said = refused(kind, **{one.name: f"{choice}z"})
            assert f"did you mean '{choice}'?" in said
            assert f"wanted one of {', '.join(one.choices)}" in said


@pytest.mark.parametrize(("kind", "one"), [case for case in EACH if case[1].kind in (int, float)], ids=named)
def test_numbers_end_at_their_bounds(kind: Any, one: Definition) -> None:
    low, high = one.setting.low, one.setting.high
    wrong = [True, "1", [1], 1j, 10**400]
    wrong += [] if one.setting.may_be_nan else [math.nan, math.inf, -math.inf]
    wrong += [low - 1] if low is not None and math.isfinite(low) else []
    wrong += [high * 2] if high is not None and math.isfinite(high) else []
    for value in wrong:
        refused(kind, **{one.name: value})
    for bound in (low, high):
        if bound is not None and math.isfinite(bound) and one.name not in ("smooth_mask", "split_grid"):
            assert getattr(make(kind, **{one.name: bound}), one.name) == bound


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4),
        st.complex_numbers(), st.dates(), st.decimals(), st.fractions(),
        st.sampled_from(["auto", "flips", "25m2", "2GB", "red=1", "1,2", "all", "0.2", Path("a"), object(), int,
                         aerial_seg.Measure(2, "px"), aerial_seg.DenseCrf(), aerial_seg.CleanSettings()]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(st.text(max_size=3), inner, max_size=2),
        st.dictionaries(st.integers(0, 300), inner, max_size=2), st.frozensets(st.integers(), max_size=2),
    ),
    max_leaves=5,
)  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES, ids=named)
@given(data=st.data())
def test_any_value_is_refused_or_held_as_its_type(kind: Any, data: st.DataObject) -> None:
    one = data.draw(st.sampled_from(list(definitions(kind).values())), label="setting")
    value = data.draw(ANYTHING, label="value")
    try:
        held = getattr(make(kind, **{one.name: value}), one.name)
    except SettingsError:
        return
    # The independent judge of types; its strict mode takes no True for 1 and no "5" for 5.
    wanted = one.kind | None if one.optional else one.kind
    config = ConfigDict(arbitrary_types_allowed=True) if one.kind is ClassTable else None
    TypeAdapter(wanted, config=config).validate_python(held, strict=True)
    if one.setting.read is None:
        same = tuple(value) if isinstance(value, list) else value
        if isinstance(held, float) and isinstance(value, Fraction | Decimal):
            same = float(value)  # no float is a third
        assert held == same or str(held) == str(same) or held != held


@pytest.mark.parametrize("kind", CLASSES, ids=named)
def test_they_stay_values(kind: Any) -> None:
    one, other = make(kind), make(kind)
    assert one == other == pickle.loads(pickle.dumps(one)) == replace(one)
    assert hash(one) == hash(other)
    assert repr(one).startswith(f"{kind.__name__}(")
    with pytest.raises(AttributeError):
        setattr(one, fields(kind)[0].name, None)
    with pytest.raises(SettingsError, match="has no setting 'blnd'"):
        replace(one, blnd=1)
    for setting in definitions(kind).values():
        if not setting.required and setting.default is not None:
            assert setting.fitted(setting.default) == setting.default


@pytest.mark.parametrize(("kind", "one"), EACH, ids=named)
def test_the_documentation_tells_every_setting(kind: Any, one: Definition) -> None:
    assert f"{one.name}: {one.setting.help} Wanted: {one.wanted}." in kind.__doc__
    assert one.setting.help.endswith((".", ")", "'."))


@pytest.mark.parametrize("kind", RECIPES, ids=named)
def test_recipes_made_in_python_are_told_like_settings(kind: Any) -> None:
    name = next(iter(kind.model_fields))
    with pytest.raises(SettingsError, match=f"{kind.__name__}: unknown key '{name}z'; did you mean '{name}'"):
        kind(**{f"{name}z": 1})
    with pytest.raises(SettingsError, match=f"{kind.__name__}: '{name}' is"):
        kind(**{name: object()})


def test_the_engines_are_those_there_are() -> None:
    assert set(get_args(choices.EngineName)) == {"auto", "eager", "compile", *EXTERNAL}


def test_making_settings_loads_the_standard_library_alone(tmp_path: Path) -> None:
    public = ", ".join(f"s.{kind.__name__}" for kind in CLASSES[:-1] if kind.__name__ not in REQUIRED)
    code = f"import sys, aerial_seg as s\nfor kind in ({public}): kind()\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "aerial_seg" in loaded
    assert not loaded & {"torch", "rasterio", "numpy", "pydantic", "shapely", "pyproj", "pyogrio", "click"}
