"""Model files on the command line: the card as text, and one line for every file that is none."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from aerial_seg.models.file import read_card, save_model

Damage = Callable[[Path, Path], None]


def reweighted(change: Callable[[dict[str, Tensor]], None]) -> Damage:
    def damage(good: Path, path: Path) -> None:
        weights = load_file(good)
        change(weights)
        save_model(weights, read_card(good), path)

    return damage


def rewritten(change: Callable[[bytes], bytes]) -> Damage:
    def damage(good: Path, path: Path) -> None:
        path.write_bytes(change(good.read_bytes()))

    return damage


def newer(whole: bytes) -> bytes:
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    card = json.loads(header["__metadata__"]["aerial_seg"]) | {"schema_version": 2}
    header["__metadata__"]["aerial_seg"] = json.dumps(card)
    new = json.dumps(header).encode()
    return struct.pack("<Q", len(new)) + new + whole[8 + length :]


FIRST = "encoder.model.conv1.0.weight"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated header": (rewritten(lambda whole: whole[:500]), "copy it again"),
    "truncated weights": (rewritten(lambda whole: whole[:-1]), "copy it again"),
    "longer": (rewritten(lambda whole: whole + bytes(9)), "copy it again"),
    "zip": (lambda good, path: torch.save(load_file(good), path), "import-weights"),
    "pickle": (rewritten(lambda whole: pickle.dumps(whole[:99])), "import-weights"),
    "dtype": (reweighted(lambda w: w.update({FIRST: w[FIRST].half()})), "wanted F32"),
    "shape": (reweighted(lambda w: w.update({FIRST: w[FIRST][:7].clone()})), "wanted F32 [16, "),
    "missing": (reweighted(lambda w: w.__delitem__(FIRST)), f"misses {FIRST}"),
    "extra": (reweighted(lambda w: w.update(more=torch.ones(1))), "has also more"),
    "NaN": (reweighted(lambda w: w.update({FIRST: w[FIRST] * torch.nan})), "train again at a lower"),
    "newer": (rewritten(newer), "update aerial-seg"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_one_line_with_its_remedy(
    name: str, refused: Callable[..., str], models: Callable[..., Path], raster: Callable, tmp_path: Path
) -> None:
    image, path = raster("in.tif"), tmp_path / "model.safetensors"
    damage, wanted = DAMAGES[name]
    damage(models(), path)
    for arguments in (("predict", path, image, "-o", "map.tif"), ("info", path)):
        line = refused(*arguments)
        assert wanted in line
        assert "model.safetensors" in line


def test_the_folder_of_a_run_is_not_its_model(
    refused: Callable[..., str], models: Callable[..., Path], raster: Callable, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").write_bytes(models().read_bytes())
    assert "best.safetensors" in refused("predict", "run", raster("in.tif"), "-o", "map.tif")
    assert "run is a folder with models; name one of them: best.safetensors" in refused("info", "run")


def test_the_card_fits_the_screen_and_names_everything(
    run: Callable, models: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(models().read_bytes())
    told = run("info", "m.safetensors")
    assert told.code == 0
    assert max(map(len, told.out.splitlines())) <= 80
    card = json.loads(run("info", "m.safetensors", "--json").out)
    side = card["network"]["receptive_field"]["side"]
    for fact in (
        f"{card['parameters']:,}", f"{side} × {side} px", card["sha256"], "blue", "road", "background (background)",
        "output_stride 16", f"{card['prediction']['halo']} px of the {card['network']['receptive_field']['halo']} px",
        "not measured", f"{path.stat().st_size:,} bytes", "schema 1", "1,000 of 8 crops of 256 px",
    ):  # fmt: skip
        assert fact in told.out, fact
    # Without an auxiliary head its share of the loss is none.
    assert "cross-entropy 1\n" in told.out


def test_the_card_of_a_network_that_sees_everything(run: Callable, models: Callable[..., Path]) -> None:
    told = run("info", models("pspnet")).out
    assert "the whole image (pooling over the whole map)" in told
    assert "a tile is all that its logits see" in told
