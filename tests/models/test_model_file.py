"""What is no model file of ours, or no longer whole, and documents of other versions."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.legend import make_legend
from aerial_seg.models import file
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, load_model, load_on_meta, read_card, save_model
from aerial_seg.models.meta import build_to_fill
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.model import ModelSettings

CARD = ModelCard(
    tool_version="test",
    recipe=Recipe(model=ModelSettings(architecture="fcn", head_channels=8, output_stride=16)),
    legend=make_legend({0: "background", 1: "building"}, background=[0]),
    bands=tuple(Band(name=n, dtype="uint8", mean=9, std=2, p2=1, p98=20) for n in "rgb"),
    gsd=0.25,
    class_bias=(0.0, 0.5),
    iteration=3,
    validation_miou=0.5,
    data_fingerprint="f",
)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_network(CARD.recipe.model, bands=3, classes=2).state_dict()


@pytest.fixture
def model_path(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(weights, CARD, path)
    return path


def refusal(path: Path) -> str:
    """What both ways of reading a model say, which must be the same one line with the file's name."""
    said = set()
    for load in (load_model, load_on_meta):
        with pytest.raises(InputError) as caught:
            load(path)
        said.add(str(caught.value))
    (line,) = said
    assert "\n" not in line
    assert str(path) in line
    return line


def test_a_weightless_model_is_the_model_without_its_weights(model_path: Path) -> None:
    whole, bare = load_model(model_path), load_on_meta(model_path)
    assert (bare.card, bare.sha256) == (whole.card, whole.sha256)
    assert bare.network.geometry == whole.network.geometry
    shapes = [
        {name: (weight.shape, weight.dtype) for name, weight in model.network.state_dict().items()}
        for model in (whole, bare)
    ]
    assert shapes[0] == shapes[1]
    assert {weight.device.type for weight in bare.network.state_dict().values()} == {"meta"}
    assert not bare.network.training


@pytest.mark.parametrize(
    "settings",
    [
        CARD.recipe.model,
        ModelSettings(architecture="Unet", encoder="tu-tf_efficientnet_lite0"),
        ModelSettings(architecture="Segformer", encoder="mit_b0"),
    ],
    ids=lambda settings: settings.architecture,
)
def test_a_network_to_fill_is_the_saved_one_once_it_is_filled(settings: ModelSettings) -> None:
    saved = build_network(settings.model_copy(update={"weights": "none"}), bands=3, classes=2).eval()
    state = torch.get_rng_state()
    network = build_to_fill(settings, bands=3, classes=2)
    if settings is CARD.recipe.model:
        assert torch.equal(torch.get_rng_state(), state), "weights were drawn"
    assert network.training
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(torch.nan)
    network.load_state_dict(saved.state_dict(), strict=True)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(image), saved(image), rtol=0, atol=0)
    assert (torch.nn.Linear(2, 2).weight != torch.nn.Linear(2, 2).weight).all(), "what comes next is drawn"


CONV, NORM = "encoder.conv1.weight", "encoder.bn1.running_var"


def without(weights: dict[str, Tensor]) -> None:
    del weights[CONV]


def with_another(weights: dict[str, Tensor]) -> None:
    weights["head.extra"] = torch.zeros(2)


def in_half_precision(weights: dict[str, Tensor]) -> None:
    weights[CONV] = weights[CONV].half()


def turned(weights: dict[str, Tensor]) -> None:
    weights[CONV] = weights[CONV].transpose(0, 1).contiguous()


def not_a_number(weights: dict[str, Tensor]) -> None:
    weights[NORM] = weights[NORM].clone()
    weights[NORM][3] = torch.nan


def infinite(weights: dict[str, Tensor]) -> None:
    weights[CONV] = weights[CONV].clone()
    weights[CONV][0, 0, 0, 0] = -torch.inf


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (without, f"it misses {CONV}; train again"),
        (with_another, "it has also head.extra; train again"),
        (in_half_precision, f"{CONV} is F16 [64, 3, 7, 7], wanted F32 [64, 3, 7, 7]; train again"),
        (turned, f"{CONV} is F32 [3, 64, 7, 7], wanted F32 [64, 3, 7, 7]; train again"),
        (not_a_number, f"NaN or infinite numbers in {NORM}"),
        (infinite, f"NaN or infinite numbers in {CONV}"),
    ],
)
def test_weights_that_are_not_the_networks_are_told(
    weights: dict[str, Tensor], tmp_path: Path, change: Callable[[dict[str, Tensor]], None], wanted: str
) -> None:
    changed = dict(weights)
    change(changed)
    save_model(changed, CARD, tmp_path / "model.safetensors")
    assert wanted in refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("cut", "wanted"),
    [
        (lambda whole: b"", "is empty"),
        (lambda whole: whole[:5], "cut off"),
        (lambda whole: whole[:300], "cut off"),
        (lambda whole: whole[: len(whole) // 2], "damaged (cut off after"),
        (lambda whole: whole[:-1], "damaged (cut off after"),
        (lambda whole: whole + b"\0", "damaged (longer than it should be"),
        (lambda whole: b"\x10" + bytes(7) + b"[" + whole[9:], "not a safetensors file"),
    ],
    ids=["empty", "length", "header", "half", "last byte", "longer", "header of another"],
)
def test_files_that_are_not_whole_are_told(
    model_path: Path, cut: Callable[[bytes], bytes], wanted: str
) -> None:
    model_path.write_bytes(cut(model_path.read_bytes()))
    line = refusal(model_path)
    assert wanted in line
    assert line.endswith(("copy it again", "train again", "that `train` wrote"))


def test_checkpoints_of_pytorch_are_sent_to_import_weights(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    few = {CONV: weights[CONV]}
    zipped, legacy, pickled = (tmp_path / f"{name}.safetensors" for name in ("zip", "legacy", "pickle"))
    torch.save(few, zipped)
    torch.save(few, legacy, _use_new_zipfile_serialization=False)
    pickled.write_bytes(pickle.dumps({"state": 1}))
    for path in (zipped, legacy, pickled):
        assert "import-weights" in refusal(path)


def test_a_folder_and_nothing_are_told(model_path: Path) -> None:
    assert "is a folder; wanted a model file in it" in refusal(model_path.parent)
    assert "does not exist" in refusal(model_path.with_name("gone.safetensors"))


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The file's header is changed, its weights stay."""
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + whole[8 + length :])


def change_card(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The file's document is changed, its weights stay."""

    def on_header(header: dict[str, Any]) -> None:
        document = json.loads(header["__metadata__"]["aerial_seg"])
        change(document)
        header["__metadata__"]["aerial_seg"] = json.dumps(document)

    rewritten(path, on_header)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda header: header.pop("__metadata__"), "of another tool"),
        (lambda header: header["__metadata__"].update(aerial_seg="{"), "of its document: it is not JSON"),
        (lambda header: header["__metadata__"].update(aerial_seg="[]"), "schema_version None"),
        (lambda header: header[CONV].pop("dtype"), "its header is odd at 'dtype'"),
        (lambda header: header.update({CONV: 7}), "its header is odd"),
        (
            lambda header: header[CONV].update(data_offsets=header[NORM]["data_offsets"]),
            "damaged (encoder.conv1.weight begins at byte 592,072 of the weights, wanted 592,328)",
        ),
    ],
    ids=["foreign", "no JSON", "no object", "no type", "no entry", "shared bytes"],
)
def test_odd_headers_are_told(
    model_path: Path, change: Callable[[dict[str, Any]], object], wanted: str
) -> None:
    rewritten(model_path, change)
    assert wanted in refusal(model_path)


def test_a_foreign_file_of_safetensors_is_told(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    assert "of another tool" in refusal(tmp_path / "foreign.safetensors")


def test_a_newer_schema_asks_for_an_update(model_path: Path) -> None:
    change_card(model_path, lambda document: document.update(schema_version=2, more={"than": "known"}))
    assert refusal(model_path) == (
        f"{model_path} was written by a newer aerial-seg (schema 2, this reads 1): update aerial-seg"
    )


@pytest.mark.parametrize("version", ["1", None, True, 1.0])
def test_a_schema_that_is_no_number_is_damage(model_path: Path, version: object) -> None:
    change_card(model_path, lambda document: document.update(schema_version=version))
    assert "schema_version" in refusal(model_path)


def test_a_key_that_no_version_knows_is_named(model_path: Path) -> None:
    change_card(model_path, lambda document: document.update(colour="blue"))
    assert "'colour'" in refusal(model_path)


def test_older_documents_are_brought_up_to_date_step_by_step(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if version −1 had called the GSD `resolution` and version 0 had had it in centimetres."""

    def make_old(document: dict[str, Any]) -> None:
        document["resolution"] = document.pop("gsd") * 100
        document["schema_version"] = -1

    def rename(document: dict[str, Any]) -> dict[str, Any]:
        assert document["schema_version"] == -1
        return {key: value for key, value in document.items() if key != "resolution"} | {
            "gsd": document["resolution"]
        }

    def to_metres(document: dict[str, Any]) -> dict[str, Any]:
        assert document["schema_version"] == 0
        return document | {"gsd": document["gsd"] / 100}

    change_card(model_path, make_old)
    assert "has the schema -1, which is older than this aerial-seg reads; train again" in refusal(model_path)
    monkeypatch.setattr(file, "_MIGRATIONS", {-1: rename})
    assert "older than this" in refusal(model_path)
    monkeypatch.setattr(file, "_MIGRATIONS", {-1: rename, 0: to_metres})
    assert read_card(model_path) == load_model(model_path).card == load_on_meta(model_path).card == CARD


def test_models_from_before_zooms_stayed_inside_say_what_they_did(model_path: Path) -> None:
    def forget(document: dict[str, Any]) -> None:
        assert document["recipe"]["augmentation"].pop("stay_inside") is True

    assert read_card(model_path).recipe.augmentation.stay_inside
    change_card(model_path, forget)
    assert not read_card(model_path).recipe.augmentation.stay_inside
    assert read_card(model_path).recipe.training == CARD.recipe.training


def test_every_older_version_has_its_migration() -> None:
    assert CARD.schema_version == file.SCHEMA_VERSION
    assert sorted(file._MIGRATIONS) == list(range(1, file.SCHEMA_VERSION))
