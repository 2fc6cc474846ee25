"""The command line's options are the settings' definitions, and nothing of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import aerial_seg
from aerial_seg import (
    BandChoice,
    BenchmarkSettings,
    CleanSettings,
    DenseCrf,
    ErrorMapSettings,
    ExportSettings,
    LabelSettings,
    LayerSettings,
    Measure,
    PredictSettings,
    SegmentSettings,
    ShapeSettings,
    TileSettings,
    VectorizeSettings,
)
from aerial_seg.cli.main import group
from aerial_seg.cli.setting_options import SettingOption, from_settings
from aerial_seg.settings import definitions, is_settings

WITHOUT_OPTION = {
    ErrorMapSettings: {"overwrite": "evaluate has one --overwrite for its two outputs"},
    DenseCrf: dict.fromkeys(definitions(DenseCrf), "typed as one text, --crf-parameters"),
    Measure: dict.fromkeys(definitions(Measure), "typed as one text, 25m2"),
    SegmentSettings: dict.fromkeys(
        definitions(SegmentSettings), "of a model in memory; predict has PredictSettings"
    ),
}
"""Settings that are no options of their own, and why; of a setting that is a class of settings, its own are options."""
KINDS: list[Any] = [kind for kind in map(aerial_seg.__getattr__, aerial_seg.__all__) if is_settings(kind)]


def commands() -> Iterator[click.Command]:
    waiting: list[click.Command] = [group]
    while waiting:
        command = waiting.pop()
        yield command
        if isinstance(command, click.Group):
            context = click.Context(command)
            found = (command.get_command(context, name) for name in command.list_commands(context))
            waiting += [one for one in found if one is not None]


OPTIONS = [option for command in commands() for option in command.params if isinstance(option, SettingOption)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_has_an_option(kind: Any) -> None:
    left_out = WITHOUT_OPTION.get(kind, {})
    for name, one in definitions(kind).items():
        if name not in left_out and not (
            is_settings(one.kind) and not one.optional and one.kind is not Measure
        ):
            assert any(option.definition == one for option in OPTIONS), name


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.opts[-1]}")
def test_every_option_is_its_definition(option: SettingOption) -> None:
    one = option.definition
    assert option.help
    assert set(option.opts) <= {*"/".join(one.flags).split("/"), "--crf-parameters"}
    if one.choices:
        assert isinstance(option.type, click.Choice)
        assert list(option.type.choices) == list(map(str, one.choices))
        assert option.default == (None if one.default is None else str(one.default))
    elif one.kind is bool:
        assert option.is_flag or option.secondary_opts
        assert bool(option.default) == (bool(one.default) and not one.is_inverted)
    elif one.required or one.default is None or one.default == () or one.kind is DenseCrf:
        assert option.default is False or not isinstance(option.default, str | int | float)
    else:
        assert option.type.convert(option.default, option, None) == one.default


def parsed(kind: Any, *words: object, **told: Any) -> Any:
    got = []

    @click.command()
    @from_settings(kind, **told)
    def command(settings: Any) -> None:
        got.append(settings)

    command.main(list(map(str, words)), standalone_mode=False)
    (settings,) = got
    return settings


@pytest.mark.parametrize(
    "kind",
    [kind for kind in KINDS if kind not in (Measure, DenseCrf, BandChoice, ErrorMapSettings)],
    ids=lambda kind: kind.__name__,
)
def test_without_options_there_are_the_defaults(kind: Any) -> None:
    assert parsed(kind) == kind()
    for name, one in definitions(kind).items():
        for choice in one.choices:
            assert getattr(parsed(kind, one.flags[-1], choice), name) == choice
        if one.kind is bool and "/" not in one.flags[-1]:
            assert getattr(parsed(kind, one.flags[-1]), name) is not one.default


def test_each_option_sets_its_setting() -> None:
    assert parsed(
        PredictSettings, "--vectors", "m.gpkg", "--mosaic", "--aoi", "a.gpkg", "--aoi-layer", "l",
        "--aoi-crs", "EPSG:1", "--bounds", 1, 2, 3, 4, "--tile-size", 512, "--overlap", 0, "--halo", 64,
        "--window", "gaussian", "--blend",
        "probabilities", "--tta", "flips, scales=0.5:2", "--crf-parameters", "iterations=5", "--confidence",
        "--probabilities", "--stac", "--datetime", "2024-05-03T10:00:00Z", "--force-gsd", "--bands", "red=1,nir=4",
        "--stack", "h.tif", "--stack", "g.tif", "--nodata", "255", "--no-georef", "--batch-size", 3, "--engine", "onnx",
        "--precision", "fp32", "--carrier", "host", "--max-memory", "2GB", "--device", "cuda:1", "--restart",
        "--overwrite",
    ) == PredictSettings(
        vectors=Path("m.gpkg"), mosaic=True, aoi="a.gpkg", aoi_layer="l", aoi_crs="EPSG:1", bounds=(1, 2, 3, 4),
        tile_size=512, overlap=0, halo=64, window="gaussian", blend="probabilities", tta=("flips", "scales=0.5:2"),
        crf=DenseCrf(iterations=5), confidence=True, probabilities=True, stac=True, taken="2024-05-03T10:00:00Z",
        force_gsd=True, bands=BandChoice((1, 4), ("red", "nir"), ("h.tif", "g.tif")), nodata=255, georeferenced=False,
        batch_size=3, engine="onnx", precision="fp32", carrier="host", max_memory=2_000_000_000, device="cuda:1",
        restart=True, overwrite=True,
    )  # fmt: skip
    assert parsed(PredictSettings, "--crf").crf == DenseCrf()
    assert parsed(PredictSettings, "-b", "3,1").bands == BandChoice((3, 1))
    assert math.isnan(parsed(PredictSettings, "--nodata", "nan").nodata)
    assert parsed(
        TileSettings, "--class-field", "f", "--classes", "1=a,7=b", "--unlabelled", 0, "--unlabelled", -9, "--outside",
        "unlabelled", "--labels-crs", "EPSG:1", "--layer", "l", "--gsd", 0.25, "--chip-size", 64, "--split-by",
        "source", "--block", 3, "--val", "10%", "--test", "n*", "--seed", 5, "--stride", 32, "--min-valid", 0.5,
        "--min-labelled", 0.25, "--split-layer", "areas", "--split-field", "site", "--folds", 5, "--fold", 2,
    ) == TileSettings(
        labels=LabelSettings("f", {1: "a", 7: "b"}, (0, -9), "unlabelled", "EPSG:1", "l"),
        gsd=0.25, chip_size=64, split_by="source", block=3, val="10%", test="n*", seed=5, stride=32, min_valid=0.5,
        min_labelled=0.25, split_layer="areas", split_field="site", folds=5, fold=2,
    )  # fmt: skip
    assert parsed(
        VectorizeSettings, "--min-area", "25m2", "--fill-holes", "9px", "--smooth-mask", 5, "--simplify", "0",
        "--simplify-method", "visvalingam", "--smooth", "--connectivity", 8, "--split-grid", 64, "--classes", "a, b",
        "--confidence", "c.tif", "--of", "gpkg", "--dst-crs", "EPSG:1", "--layer", "l", "--append", "--overwrite",
    ) == VectorizeSettings(
        CleanSettings(Measure(25, "m2"), Measure(9, "px"), 5),
        ShapeSettings(Measure(0, "px"), "visvalingam", True, 8, 64),
        ("a", "b"),
        Path("c.tif"),
        LayerSettings("gpkg", "EPSG:1", "l", append=True, overwrite=True),
    )  # fmt: skip
    assert parsed(VectorizeSettings, "--instances", "a", "--regularize", "a,b").shape == ShapeSettings(
        instances=("a",), regularize=("a", "b")
    )
    assert parsed(
        ExportSettings, "--tile-size", 64, "--no-normalise", "--no-upsample", "--logits"
    ) == ExportSettings(64, normalise=False, upsample=False, probabilities=False)
    assert parsed(
        BenchmarkSettings, "--protocol", "fcn", "--split", "test", "--submission", "a.zip", "--worst", 0,
        without=("competition",),
    ) == BenchmarkSettings("fcn", "test", Path("a.zip"), worst=0)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("predict m r -o o --max-memory 2", "'--max-memory': '2' is no amount of memory"),
        ("predict m r -o o --tta flip", "'--tta': there is no test-time augmentation 'flip'; did you mean 'flips'?"),
        ("predict m r -o o --device gpu", "'--device': 'gpu': there is no such device, use auto, cpu"),
        ("predict m r -o o --datetime now", "'--datetime': "),
        ("predict m r -o o --crf-parameters pos=1", "'--crf-parameters': the CRF has no parameter 'pos'"),
        ("predict m r -o o --crf-parameters pos_w=-1", "pos_w is -1.0, wanted a number from 0 on"),
        ("predict m r -o o --bounds 1 2 3 nan", "'--bounds': 'nan' is not a number"),
        ("predict m r -o o --window gauss", "'--window': 'gauss' is not one of 'linear', 'cosine'"),
        ("tile r --labels l -o o --val 1.5", "'--val': "),
        ("tile r --labels l -o o --chip-size 15", "'15' is not a whole number from 16 to 65536"),
        ("tile r --labels l -o o --classes 1=a,b", "'--classes': "),
        ("vectorize m o.gpkg --min-area 25", "'--min-area': '25' is not a number with its unit"),
        ("vectorize m o.gpkg --of GPGK", "'--output-format': 'GPGK': it is not known, wanted one of GPKG"),
        ("vectorize m o.gpkg --connectivity 6", "'--connectivity': '6' is not one of '4', '8'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_its_flag(run: Any, words: str, told: str) -> None:
    result = run(*words.split())
    assert result.code == 2
    assert told in result.err
    assert result.err.count("\n") == 1
    assert "Settings:" not in result.err


def test_the_device_is_asked_for_alike_everywhere() -> None:
    asked = [option for option in OPTIONS if option.setting == "device"]
    assert len(asked) >= len(("demo", "train", "predict", "evaluate", "voc", "cityscapes", "ade20k"))
    assert len({(option.help, option.default, option.metavar) for option in asked}) == 1
