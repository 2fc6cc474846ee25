"""export --int8: calibrated on training chips, held to the validation chips, the same bytes from the same inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aerial_seg.cli.main import main
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.inference.engines import eight_bits
from aerial_seg.jobs import export_eight_bits as exporting
from aerial_seg.jobs.evaluate import evaluate_model_on_chips
from aerial_seg.jobs.export import export
from aerial_seg.jobs.export_eight_bits import EightBitReport, export_eight_bits
from aerial_seg.jobs.export_weights import export_weights
from aerial_seg.jobs.info.job import info
from aerial_seg.jobs.settings import EightBitSettings, ExportSettings
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, load_model, save_model
from aerial_seg.models.pretrained import start_from
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.training.manifest import open_manifest

FCN = ModelSettings(architecture="fcn", head_channels=8, output_stride=16, weights="none", encoder="resnet18")


@pytest.fixture(autouse=True)
def _no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads beside torch's have brought test processes down: torch rounds in its place."""
    monkeypatch.setattr(eight_bits, "has_byte_units", lambda: False)
    monkeypatch.setattr(exporting, "CHIPS", 3)


@pytest.fixture(scope="module")
def model(chips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of the chips' classes whose batch norms have something to say."""
    document = open_manifest(chips).document
    torch.manual_seed(0)
    network = build_network(FCN, bands=3, classes=len(document.legend))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    card = ModelCard(
        tool_version="test", recipe=Recipe(model=FCN, prediction=PredictionSettings(tile_size=64)),
        legend=document.legend, bands=document.bands, gsd=document.gsd, class_bias=(0.0,) * len(document.legend),
        iteration=3, validation_miou=None, data_fingerprint="f",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(network.state_dict(), card, path)
    return path


@pytest.fixture(scope="module")
def exported(model: Path, chips: Path) -> tuple[Path, EightBitReport]:
    """The model in 8 bits, and what was told of it."""
    made = model.with_name("m8.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eight_bits, "has_byte_units", lambda: False)
        patch.setattr(exporting, "CHIPS", 3)
        return made, export_eight_bits(model, chips, made, EightBitSettings(max_drop=1.0))


def test_a_model_of_8_bits_is_one_like_any_other(
    model: Path, chips: Path, exported: tuple[Path, EightBitReport], tmp_path: Path
) -> None:
    made, report = exported
    assert made.stat().st_size == report.size < 0.35 * model.stat().st_size
    assert report.kept == {}
    card = load_model(made).card.eight_bits
    assert card is not None
    assert (card.chips, card.source_sha256) == (3, load_model(model).sha256)
    convolutions = [
        name for name, one in load_model(made).network.named_modules() if isinstance(one, nn.Conv2d)
    ]
    assert sorted(card.layers) == sorted(convolutions)
    assert not any("norm" in name or "bn" in name for name in load_file(made))
    assert card.source_miou == evaluate_model_on_chips(model, chips, split="val").scores.miou
    assert abs(card.miou - card.source_miou) < 0.05

    # What has no units for it computes with the numbers, and says so.
    told = evaluate_model_on_chips(made, chips, split="val")
    assert any("as the numbers they stand for" in note for note in told.notes)
    assert abs(told.scores.miou - card.source_miou) < 0.05
    for refused, remedy in (
        (
            lambda: export_eight_bits(made, chips, tmp_path / "b.safetensors"),
            "wanted the model that it was made of",
        ),
        (
            lambda: export_weights(made, tmp_path / "b.pth", "torchvision"),
            "export the model that it was made of",
        ),
        (lambda: export_eight_bits(model, chips, tmp_path / "b.onnx"), "name the output b.safetensors"),
    ):
        with pytest.raises((InputError, SettingsError), match=remedy):
            refused()
    assert not list(tmp_path.iterdir())


def test_sensitive_layers_are_kept_or_the_model_is_refused_with_the_figure(
    model: Path, chips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.8, 0.7, 0.75, 0.7985])
    monkeypatch.setattr(exporting, "_miou", lambda *_: next(scores))
    made = tmp_path / "m8.safetensors"
    report = export_eight_bits(model, chips, made)
    assert (report.source_miou, report.miou, len(report.kept)) == (0.8, 0.7985, 2)
    loaded = load_model(made)
    assert loaded.eight_bits is not None
    held = load_file(made)
    for name in report.kept:
        assert held[f"{name}.weight"].dtype == torch.float32
        assert name not in loaded.eight_bits.inputs
    assert min(report.kept.values()) > 0

    scores = iter([0.8, *[0.7] * 9])
    with pytest.raises(
        InputError, match=r"8 bits cost 0\.1000 of validation IoU \(0\.8000 in float32\).*%"
    ) as error:
        export_eight_bits(model, chips, tmp_path / "none.safetensors")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "none.safetensors").exists()


def test_no_training_begins_with_8_bits(model: Path, exported: tuple[Path, EightBitReport]) -> None:
    made, _ = exported
    card = load_model(model).card
    names = [band.name for band in card.bands]
    with pytest.raises(InputError, match="name the model that it was made of"):
        start_from(build_network(FCN, bands=3, classes=2), made, bands=names, classes=card.legend.names)


def test_a_dataset_without_validation_chips_is_refused(
    model: Path, chips_without_val: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no chip in split 'val'"):
        export_eight_bits(model, chips_without_val, tmp_path / "m8.safetensors")


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes_and_what_is_told_of_them(
    model: Path, chips: Path, exported: tuple[Path, EightBitReport], tmp_path: Path
) -> None:
    made, _ = exported
    again = tmp_path / "again.safetensors"
    export_eight_bits(model, chips, again, EightBitSettings(max_drop=1.0))
    assert again.read_bytes() == made.read_bytes()
    card = load_model(made).card.eight_bits
    assert card is not None
    facts = info(made)["eight_bits"]
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["layers"], facts["miou"]) == (len(card.layers), card.miou)
    assert info(model)["eight_bits"] is None

    graph = export(made, tmp_path / "m.onnx", ExportSettings(tile_size=64))
    assert any("computes in float32 with the numbers" in note for note in graph.notes)


@pytest.mark.slow
def test_the_command(
    model: Path,
    chips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, "".join(capsys.readouterr())

    monkeypatch.chdir(tmp_path)
    code, told_then = run("export", model, "--int8", chips, "-o", "m8.safetensors", "--max-drop", 1)
    assert code == 0, told_then
    assert "layers of 8 bits" in told_then
    for more, told in (
        (("--as", "mmseg"), "--int8 and --as"),
        (("--logits",), "are about an ONNX file; leave them out with --int8"),
    ):
        code, line = run("export", model, "--int8", chips, "-o", "x.safetensors", *more)
        assert (code, told in line) == (2, True), line
    code, line = run("export", model, "-o", "x.onnx", "--max-drop", 0.1)
    assert (code, "--max-drop is about --int8" in line) == (2, True)
    assert "8 bits" in run("info", "m8.safetensors")[1]
