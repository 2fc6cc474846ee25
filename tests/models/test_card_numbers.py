"""Whatever a model file says is checked as its weights are: it is read as it was meant, or refused in one line."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from pydantic import ValidationError

from aerial_seg.bands import Band
from aerial_seg.errors import InputError, OutputError
from aerial_seg.geo.raster.values.accumulator import BandAccumulator
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, load_model, read_card, save_model
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings

CARD = ModelCard(
    tool_version="test",
    recipe=Recipe(
        model=ModelSettings(architecture="fcn", head_channels=8, output_stride=16, multi_grid=(1, 2))
    ),
    legend=make_legend({0: "background", 7: "road"}, background=[0]),
    bands=tuple(Band(name=n, dtype="uint8", mean=9, std=2, p2=1, p98=20) for n in "rgb"),
    gsd=0.25,
    class_bias=(0.0, 0.5),
    iteration=3,
    validation_miou=0.5,
    data_fingerprint="f",
)
DOCUMENT: dict[str, Any] = json.loads(CARD.model_dump_json())


def written(path: Path, document: str) -> Path:
    """A model file with this document and no weights: only its card can be read."""
    header = json.dumps({"__metadata__": {"aerial_seg": document}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def band(**facts: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["bands"][1].update(facts)


def entry(**facts: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["legend"]["entries"][1].update(facts)


def card(**facts: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(facts)


def tiles(**facts: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["recipe"]["prediction"].update(facts)


def crops(**facts: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["recipe"]["training"].update(facts)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (card(class_bias=[0.0, NAN]), "NaN, which is no number"),
        (card(class_bias=[0.0, INF]), "Infinity, which is no number"),
        (card(class_bias=[0.0, None]), "'class_bias.1' is None"),
        (card(class_bias=[0.0, 1e300]), "'class_bias.1' is 1e+300"),
        (card(class_bias=[0.0]), "1 class biases for 2 classes"),
        (card(class_bias=[0.0, "0.5"]), "'class_bias.1' is '0.5'"),
        (card(class_bias=[0.0, True]), "'class_bias.1' is True"),
        (card(gsd=NAN), "NaN"),
        (card(gsd=0), "'gsd' is 0"),
        (card(gsd=1e9), "'gsd' is 1000000000.0"),
        (card(iteration=-1), "'iteration' is -1"),
        (card(validation_miou=1.5), "'validation_miou' is 1.5"),
        (card(bands=[]), "'bands'"),
        (band(mean=NAN), "NaN"),
        (band(mean=-INF), "-Infinity"),
        (band(mean=1e39), "'bands.1.mean' is 1e+39"),
        (band(std=0), "'bands.1.std' is 0"),
        (band(std=-1), "'bands.1.std' is -1"),
        (band(std=1e-50), "'bands.1.std' is 1e-50"),
        (band(std=INF), "Infinity"),
        (band(p2=30), "p2 is 30, above its p98 of 20"),
        (band(p98=NAN), "NaN"),
        (band(dtype="complex64"), "band dtype is 'complex64', wanted one of uint8, int8"),
        (band(dtype="uint7"), "band dtype is 'uint7'"),
        (entry(value=0), "class value ['0'] is used more than once"),
        (entry(name="background"), "class name ['background'] is used more than once"),
        (entry(value=255), "'legend.entries.1.value' is 255"),
        (entry(value=1.0), "'legend.entries.1.value' is 1.0"),
        (entry(colour="red"), "'legend.entries.1.colour' is 'red'"),
        (lambda document: document["recipe"]["augmentation"].update(flips=0), "'recipe.augmentation.flips' is 0"),
        (tiles(tile_size=0), "'recipe.prediction.tile_size' is 0"),
        (tiles(tile_size=1_000_000), "'recipe.prediction.tile_size' is 1000000"),
        (tiles(overlap=-1), "'recipe.prediction.overlap' is -1"),
        (tiles(halo=1e300), "'recipe.prediction.halo'"),
        (crops(crop=[512]), "'recipe.training.crop' is [512]: wanted one number of pixels (a square) or [height"),
        (crops(crop=[512, "1024"]), "'recipe.training.crop' is [512, '1024']"),
        (crops(crop=[512, 1024]), "set augmentation.rot90 = false"),
        (tiles(batch_size=True), "'recipe.prediction.batch_size' is True"),
    ],
)  # fmt: skip
def test_numbers_that_would_make_nonsense_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], wanted: str
) -> None:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    path = written(tmp_path / "m.safetensors", json.dumps(document))
    with pytest.raises(InputError) as caught:
        read_card(path)
    assert str(path) in str(caught.value)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_negative_variances_are_refused_as_nan_is(tmp_path: Path) -> None:
    weights = dict(build_network(CARD.recipe.model, bands=3, classes=2).state_dict())
    weights["encoder.bn1.running_var"] = weights["encoder.bn1.running_var"].clone()
    weights["encoder.bn1.running_var"][3] = -1
    save_model(weights, CARD, tmp_path / "m.safetensors")
    with pytest.raises(
        InputError, match=r"a negative variance in encoder\.bn1\.running_var, so it could only"
    ):
        load_model(tmp_path / "m.safetensors")


def test_training_never_makes_such_numbers() -> None:
    for change in ({"class_bias": (0.0, NAN)}, {"gsd": NAN}, {"validation_miou": INF}):
        with pytest.raises(ValidationError, match=next(iter(change))):
            ModelCard(**{**dict(CARD), **change})
    for pixels in ([1.0, np.nan], [np.inf, 2.0], [3e38, -3e38]):
        counted = BandAccumulator(["height"], "float32")
        counted.add(np.array([[pixels]], np.float32), np.ones((1, 2), bool))
        with pytest.raises(
            InputError, match=r"band 'height' has a mean of .* declare what is no measurement"
        ):
            counted.bands()
    flat = BandAccumulator(["flat"], "float32")
    flat.add(np.full((1, 2, 2), 1e-38, np.float32), np.ones((2, 2), bool))
    assert flat.bands()[0].std == 1


# A law: a changed card means what it says, or is refused


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a document."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inside for place in places(value, (*path, key)))]


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([0, 1, -1, 0.0, 1e-45, 1e300, 2**63, "1", "NaN", "uint8", "#ff0000", "none", "b", "road", [], {}]),
)  # fmt: skip
NUMBERS = st.sampled_from([0, 1, 1.5, -1, 0.0, 1e-45, 1e39, 1e300, 2**63, True, "1", None, NAN, INF, -INF])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def agrees(said: Any, read: Any) -> bool:
    """Whether what was read says all that was written; what was left out has its default."""
    if isinstance(said, dict):
        return isinstance(read, dict) and all(key in read and agrees(said[key], read[key]) for key in said)
    if isinstance(said, list):
        return isinstance(read, list) and len(said) == len(read) and all(map(agrees, said, read))
    if isinstance(said, bool) or isinstance(read, bool):
        return said is read
    return bool(said == read)


@settings(max_examples=examples(150))
@given(data=st.data())
def test_a_changed_card_is_read_as_it_was_meant_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    document = copy.deepcopy(DOCUMENT)
    for _ in range(data.draw(st.integers(1, 2))):
        everywhere = places(document)[1:]
        told = [place for place in everywhere if place[0] not in ("recipe", "tool_version")]
        *way, last = data.draw(st.sampled_from(told) | st.sampled_from(everywhere))
        node = document
        for key in way:
            node = node[key]
        if data.draw(st.booleans()):
            node[last] = data.draw(NUMBERS | VALUES)
        elif isinstance(node, dict):
            del node[last]
        else:
            node.append(copy.deepcopy(node[last]))
    path = written(tmp_path_factory.getbasetemp() / "changed.safetensors", json.dumps(document))
    try:
        read = read_card(path)
    except InputError as refused:
        line = str(refused)
        assert "\n" not in line
        assert str(path) in line
        assert line.replace("\u200b", "").isprintable()
        return
    assert agrees(document, json.loads(read.model_dump_json()))
    assert all(np.isfinite([b.mean, b.std, b.p2, b.p98]).all() and np.float32(b.std) > 0 for b in read.bands)
    assert np.isfinite(read.class_bias).all()
    assert len(read.class_bias) == len(read.legend)


def test_a_disk_that_takes_no_more_is_one_line_for_model_files_too(
    tmp_path: Path, disk_of: Callable[[int], Any]
) -> None:
    weights = {"weight": torch.zeros(100_000)}
    with (
        pytest.raises(OutputError, match=r"m\.safetensors could not be written .*File too large"),
        disk_of(50_000),
    ):
        save_model(weights, CARD, tmp_path / "m.safetensors")
