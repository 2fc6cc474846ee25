"""smp's own networks as the oracle, saved as smp, torchgeo's and terratorch's trainings save them."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from aerial_seg.bands import Band, trained_band
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.jobs.import_weights import import_weights
from aerial_seg.mentions import settings_in
from aerial_seg.models.file import load_model
from aerial_seg.models.importing.checkpoint import read_checkpoint
from aerial_seg.models.importing.sources import import_checkpoint

FOUR = tuple(trained_band(name, "uint16", mean=100, std=50) for name in ("blue", "green", "red", "nir"))


def random_network(kind: str, encoder: str = "resnet18", **options: Any) -> Any:
    torch.manual_seed(7)
    network = getattr(smp, kind)(encoder, encoder_weights=None, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
    return network.eval()


def agree(theirs: nn.Module, ours: nn.Module, bands: int = 3) -> None:
    image = torch.randn(1, bands, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        wanted = theirs.double()(image)
        got = ours.double()(image)
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max() / wanted.abs().max()) <= 1e-11


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Unet", {"classes": 3, "decoder_channels": (64, 32, 16, 16, 16), "decoder_attention_type": "scse"}),
        ("DeepLabV3Plus", {"classes": 2, "encoder_output_stride": 8, "decoder_atrous_rates": (2, 4, 6)}),
        ("FPN", {"classes": 4, "activation": "softmax2d", "aux_params": {"classes": 2}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_of_save_pretrained_tells_the_network(
    kind: str, options: dict[str, Any], safe: bool, tmp_path: Path
) -> None:
    theirs = random_network(kind, **options)
    theirs.save_pretrained(tmp_path / "saved")
    if not safe:
        (tmp_path / "saved" / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "saved" / "pytorch_model.bin")
    report = import_weights(tmp_path / "saved", tmp_path / "m.safetensors", source="smp")
    assert report.settings.architecture == kind
    model = load_model(tmp_path / "m.safetensors")
    if "activation" in options:
        assert any("its activation softmax2d was left off" in note for note in report.notes)
        assert any(
            re.search(r"2 tensors were left out \(classification_head\.…\)", note) for note in report.notes
        )
        theirs.classification_head = None
        theirs.segmentation_head[-1] = nn.Identity()
    agree(theirs, model.network)
    assumed = [note for note in report.notes if note.startswith("assumed images of 0 to 255")]
    assert len(assumed) == 1
    assert "red mean 123.675, std 58.395" in assumed[0]


@pytest.mark.parametrize(
    ("kind", "older", "options"),
    [
        ("Unet", {"decoder_use_batchnorm": True}, {}),
        ("Unet", {"decoder_use_batchnorm": False}, {"decoder_use_norm": False}),
        ("PSPNet", {"psp_use_batchnorm": False}, {"decoder_use_norm": False}),
    ],
)
def test_folders_of_smp_before_0_5_are_read_in_its_words(
    kind: str, older: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    theirs = random_network(kind, classes=2, **options)
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    for word in ("decoder_use_norm", "decoder_interpolation"):
        saved.pop(word, None)
    path.write_text(json.dumps(saved | older))
    import_weights(tmp_path, tmp_path / "m.safetensors", source="smp")
    agree(theirs, load_model(tmp_path / "m.safetensors").network)
    path.write_text(json.dumps(saved | {"decoder_pyramid_channels": 256}))
    with pytest.raises(
        InputError, match=rf"made with decoder_pyramid_channels = 256, which {kind} of smp .* does not have"
    ):
        import_weights(tmp_path, tmp_path / "m.safetensors", source="smp", overwrite=True)
    path.write_text(json.dumps(saved | {"decoder_use_norm": "inplace"}))
    with pytest.raises(
        SettingsError, match=r"decoder_use_norm = inplace, which needs the package inplace_abn"
    ):
        import_weights(tmp_path, tmp_path / "m.safetensors", source="smp", overwrite=True)


@pytest.mark.parametrize(
    ("kind", "encoder", "older", "today", "prefix"),
    [
        ("Unet", "timm-gernet_s", {"encoder.stages.": "encoder.model.stages_"}, "tu-gernet_s", "model."),
        ("Unet", "timm-mobilenetv3_small_100", {}, "tu-tf_mobilenetv3_small_100", ""),
        (
            "DeepLabV3",
            "resnet18",
            {"decoder.0.": "decoder.aspp.", "decoder.1.": "decoder.conv.", "decoder.2.": "decoder.bn."},
            "",
            "model.",
        ),
    ],
)
def test_tensors_are_found_under_the_names_of_smp_before_0_5(
    kind: str, encoder: str, older: dict[str, str], today: str, prefix: str, tmp_path: Path
) -> None:
    theirs = random_network(kind, today or encoder, classes=2)
    held = {}
    for name, tensor in theirs.state_dict().items():
        for before, after in (older | ({"encoder.": "encoder.model."} if today else {})).items():
            name = name.replace(after, before)
        held[prefix + name] = tensor
    torch.save(held, tmp_path / "best.pth")
    report = import_weights(
        tmp_path / "best.pth", tmp_path / "m.safetensors", source="smp", arch=f"{kind}_{encoder}"
    )
    agree(theirs, load_model(tmp_path / "m.safetensors").network)
    assert any(f"{encoder} is called {today}" in note for note in report.notes) == bool(today)


@pytest.mark.filterwarnings("ignore:Encoder does not have prefix tokens")
def test_dpt_is_taken_by_its_name_too(tmp_path: Path) -> None:
    theirs = random_network("DPT", "tu-convnext_atto", classes=2)
    torch.save(theirs.state_dict(), tmp_path / "best.pth")
    imported = import_checkpoint(read_checkpoint(tmp_path / "best.pth"), "smp", "dpt_tu-convnext_atto")
    agree(theirs, imported.network)


def test_a_plain_state_dict_needs_the_name_and_the_offered_one_works(tmp_path: Path) -> None:
    theirs = random_network("Unet", "resnet34")
    torch.save(theirs.state_dict(), tmp_path / "best.pth")
    out = tmp_path / "m.safetensors"
    with pytest.raises(SettingsError, match=r"has no config\.json of save_pretrained beside it") as caught:
        import_weights(tmp_path / "best.pth", out, source="smp")
    (mention,) = settings_in(str(caught.value))
    report = import_weights(tmp_path / "best.pth", out, source="smp", arch=mention.value)
    assert any(note == "assumed smp's defaults for all options of Unet" for note in report.notes)
    with pytest.raises(SettingsError, match=r"wanted smp's architecture and encoder .* did you mean 'unet'"):
        import_weights(tmp_path / "best.pth", out, source="smp", arch="unnet_resnet34", overwrite=True)
    with pytest.raises(InputError, match=r"does not fit smp's Unet on resnet18"):
        import_weights(tmp_path / "best.pth", out, source="smp", arch="unet_resnet18", overwrite=True)


def test_one_output_becomes_background_and_class(tmp_path: Path) -> None:
    theirs = random_network("Unet", classes=1)
    torch.save(
        {"state_dict": {f"model.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "last.ckpt"
    )
    report = import_weights(
        tmp_path / "last.ckpt", tmp_path / "m.safetensors", source="smp", arch="unet_resnet18"
    )
    assert report.classes == ("background", "class_1")
    model = load_model(tmp_path / "m.safetensors")
    assert model.card.class_bias == (0, 0)
    assert [entry.background for entry in model.card.legend.entries] == [True, False]
    image = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    with torch.inference_mode():
        one, two = theirs.double()(image), model.network.double()(image)
    assert float((two.softmax(dim=1)[:, 1:] - one.sigmoid()).abs().max()) < 1e-12
    assert any("a pixel is the class above 0.5" in note for note in report.notes)


def test_bands_that_nobody_tells_are_asked_for(tmp_path: Path) -> None:
    theirs = random_network("Unet", in_channels=4, classes=2)
    torch.save(theirs.state_dict(), tmp_path / "best.pth")
    out = tmp_path / "m.safetensors"
    with pytest.raises(
        SettingsError, match=r"best\.pth takes 4 bands, and neither their order .*; pass `bands` with"
    ):
        import_weights(tmp_path / "best.pth", out, source="smp", arch="unet_resnet18")
    import_weights(tmp_path / "best.pth", out, source="smp", arch="unet_resnet18", bands=FOUR)
    model = load_model(out)
    assert model.card.bands == FOUR
    agree(theirs, model.network, bands=4)
    with pytest.raises(
        InputError, match=r"encoder\.conv1\.weight \(64, 4, 7, 7\) instead of \(64, 3, 7, 7\)"
    ):
        import_weights(
            tmp_path / "best.pth", out, source="smp", arch="unet_resnet18", bands=FOUR[:3], overwrite=True
        )


def test_what_no_band_can_be_is_told() -> None:
    with pytest.raises(
        SettingsError, match=r"`bands` has 'red' with mean 1 and std 0 .*; wanted a name, a mean"
    ):
        trained_band("red", "uint8", mean=1, std=0)
    assert trained_band("nir", "uint16", mean=9, std=2) == Band(
        name="nir", dtype="uint16", mean=9, std=2, p2=5, p98=13
    )


def torchgeos(theirs: nn.Module, **told: object) -> dict[str, Any]:
    """As Lightning writes a SemanticSegmentationTask of torchgeo with class weights."""
    state = {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    state["criterion.weight"] = torch.ones(3)
    hyper = {
        "model": "unet",
        "backbone": "resnet18",
        "in_channels": 3,
        "num_classes": 3,
        "task": "multiclass",
        **told,
    }
    return {"state_dict": state, "hyper_parameters": hyper, "epoch": 3, "hparams_name": "kwargs"}


@pytest.mark.parametrize("kind", ["unet", "deeplabv3+"])
def test_torchgeos_tasks_tell_their_network(kind: str, tmp_path: Path) -> None:
    theirs = random_network({"unet": "Unet", "deeplabv3+": "DeepLabV3Plus"}[kind], classes=3)
    torch.save(torchgeos(theirs, model=kind), tmp_path / "last.ckpt")
    report = import_weights(tmp_path / "last.ckpt", tmp_path / "m.safetensors", source="torchgeo")
    agree(theirs, load_model(tmp_path / "m.safetensors").network)
    assert [(band.mean, band.std) for band in load_model(tmp_path / "m.safetensors").card.bands] == [
        (0, 255)
    ] * 3
    assert any("1 tensors were left out (criterion.…): the training's loss" in note for note in report.notes)
    assert any(note.startswith("assumed RGB of 0 to 255 divided by 255") for note in report.notes)


def test_torchgeos_ignored_class_is_told_and_its_older_words_are_read(tmp_path: Path) -> None:
    theirs = random_network("Unet", classes=3)
    held = torchgeos(theirs, ignore_index=2)
    older = held["hyper_parameters"]
    older |= {"segmentation_model": older.pop("model"), "encoder_name": older.pop("backbone")}
    torch.save(held, tmp_path / "last.ckpt")
    out = tmp_path / "m.safetensors"
    report = import_weights(tmp_path / "last.ckpt", out, source="torchgeo")
    agree(theirs, load_model(out).network)
    assert any(note.startswith("class 2 was the training's ignore_index") for note in report.notes)
    older["ignore_index"] = 255
    torch.save(held, tmp_path / "last.ckpt")
    report = import_weights(tmp_path / "last.ckpt", out, source="torchgeo", overwrite=True)
    assert not any("ignore_index" in note for note in report.notes)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"model": "fcn"}, r"hyper_parameters\.model = fcn, .*; wanted unet or deeplabv3\+"),
        ({"task": "multilabel"}, r"hyper_parameters\.task = multilabel, .*; wanted binary or multiclass"),
        (
            {"loss": "mse", "num_outputs": 1},
            r"hyper_parameters\.loss = mse, a regression's, .*; wanted a SemanticSeg",
        ),
        (
            {"_class_path": "torchgeo.trainers.PixelwiseRegressionTask"},
            r"_class_path = torchgeo\.trainers\.PixelwiseRegressionTask, .*; wanted a SemanticSegmentationTask",
        ),
    ],
)
def test_torchgeos_other_tasks_are_refused(told: dict[str, str], message: str, tmp_path: Path) -> None:
    torch.save(torchgeos(nn.Conv2d(1, 1, 1), **told), tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=message):
        import_weights(tmp_path / "last.ckpt", tmp_path / "m.safetensors", source="torchgeo")
    torch.save({"state_dict": nn.Conv2d(1, 1, 1).state_dict()}, tmp_path / "last.ckpt")
    with pytest.raises(
        SettingsError, match=r"does not say its model in hyper_parameters; pass `arch=\"unet_res"
    ):
        import_weights(tmp_path / "last.ckpt", tmp_path / "m.safetensors", source="torchgeo")


@pytest.mark.parametrize("before", ["smp_", "backbone_smp_"])
def test_terratorchs_tasks_tell_their_network_and_ask_for_bands(before: str, tmp_path: Path) -> None:
    theirs = random_network(
        "DeepLabV3Plus", in_channels=4, classes=2, encoder_output_stride=8, decoder_atrous_rates=(2, 4, 6)
    )
    arguments = {
        "backbone": "resnet18",
        "model": "DeepLabV3Plus",
        "bands": ["BLUE", "GREEN", "RED", "NIR_NARROW"],
        "num_classes": 2,
        "smp_encoder_output_stride": 8,
        f"{before}decoder_atrous_rates": [2, 4, 6],
    }
    held = {
        "state_dict": {f"model.smp_model.{name}": tensor for name, tensor in theirs.state_dict().items()},
        "hyper_parameters": {
            "model_args": arguments, "model_factory": "SMPModelFactory", "tiled": argparse.Namespace(h=1),
            "class_names": ["ground", "water"],
        },
    }  # fmt: skip
    torch.save(held, tmp_path / "last.ckpt")
    out = tmp_path / "m.safetensors"
    with pytest.raises(
        SettingsError, match=r"takes 4 bands \(BLUE, GREEN, RED, NIR_NARROW\), and what they were"
    ):
        import_weights(tmp_path / "last.ckpt", out, source="terratorch")
    report = import_weights(tmp_path / "last.ckpt", out, source="terratorch", bands=FOUR)
    agree(theirs, load_model(out).network, bands=4)
    assert report.classes == ("ground", "water")
    assert any(
        note.startswith("its training calls the bands BLUE, GREEN, RED, NIR_NARROW") for note in report.notes
    )
    older = [
        note for note in report.notes if note.startswith("model_args.backbone_smp_… (decoder_atrous_rates)")
    ]
    assert len(older) == (before == "backbone_smp_")
    arguments["bands"] = ["RED", "GREEN", "BLUE", "NIR"]
    held["hyper_parameters"]["class_names"] = ["ground", "water", "crop"]
    torch.save(held, tmp_path / "last.ckpt")
    with pytest.raises(
        SettingsError, match=r"has blue, green, red, nir, but .* was trained on red, green, blue, nir"
    ):
        import_weights(tmp_path / "last.ckpt", out, source="terratorch", bands=FOUR, overwrite=True)
    in_order = (FOUR[2], FOUR[1], FOUR[0], FOUR[3])
    report = import_weights(tmp_path / "last.ckpt", out, source="terratorch", bands=in_order, overwrite=True)
    assert report.classes == ("class_0", "class_1")
    assert any(
        note.startswith("the checkpoint names 3 different classes (ground, water") for note in report.notes
    )
    held["hyper_parameters"]["model_factory"] = "EncoderDecoderFactory"
    torch.save(held, tmp_path / "other.ckpt")
    with pytest.raises(
        InputError, match=r"model_factory = EncoderDecoderFactory, .*; wanted SMPModelFactory"
    ):
        import_weights(tmp_path / "other.ckpt", out, source="terratorch", bands=FOUR, overwrite=True)


def test_a_folder_without_weights_and_a_config_of_another_program_are_told(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match=r"is a folder without model\.safetensors or pytorch_model\.bin"):
        import_weights(tmp_path / "empty", out, source="smp")
    torch.save(nn.Conv2d(1, 1, 1).state_dict(), tmp_path / "w.pth")
    (tmp_path / "config.json").write_text(json.dumps({"_model_class": "Unett", "encoder_name": "resnet18"}))
    with pytest.raises(
        InputError, match=r"config\.json tells the class Unett, which smp .* did you mean 'Unet'"
    ):
        import_weights(tmp_path / "w.pth", out, source="smp")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json cannot be read \(it is not JSON"):
        import_weights(tmp_path / "w.pth", out, source="smp")
