"""The command from a checkpoint of torchvision's to a model file that the other commands take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import segmentation_models_pytorch as smp
import torch
from torchvision.models.segmentation import fcn_resnet50

from aerial_seg.models.file import load_model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """fcn_resnet50 with so many classes, as torch.save writes its state dict; made once."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def checkpoint(classes: int) -> Path:
        path = folder / f"{classes}.pth"
        if not path.exists():
            torch.manual_seed(classes)
            model = fcn_resnet50(weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)
            torch.save(model.state_dict(), path)
        return path

    return checkpoint


def test_a_checkpoint_becomes_a_model_that_predicts(
    run: Callable, raster: Callable[..., Path], checkpoints: Callable[[int], Path], tmp_path: Path
) -> None:
    result = run("import-weights", checkpoints(21), "--from", "torchvision", "-o", "new/model.safetensors")
    assert result.code == 0, result.err
    assert "fcn, resnet50, output stride 8, 21 classes, 35,322,218 parameters" in result.out
    assert "taken for those of voc" in result.err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.safetensors"]

    told = json.loads(run("info", "new/model.safetensors", "--json").out)
    assert (told["architecture"], told["encoder"], told["output_stride"]) == ("fcn", "resnet50", 8)
    assert (told["classes"]["0"], told["classes"]["20"]) == ("background", "tvmonitor")
    assert told["parameters"] == 35_322_218
    assert told["bands"]["red"] == "uint8, mean 123.7, std 58.4"

    model = load_model(tmp_path / "new/model.safetensors")
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    theirs.load_state_dict(torch.load(checkpoints(21), weights_only=True))
    seen = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.network(seen), theirs.classifier(theirs.backbone(seen)["out"]), rtol=1e-4, atol=1e-5
        )

    done = run(
        "predict", "new/model.safetensors", raster("in.tif"), "-o", "mask.tif", "--tile-size", 64, "--halo", 0,
        "--batch-size", 1, "--engine", "eager",
    )  # fmt: skip
    assert done.code == 0, done.err
    with rasterio.open(tmp_path / "mask.tif") as mask:
        assert np.isin(mask.read(1), range(21)).all()


def test_the_report_lists_every_tensor(run: Callable, checkpoints: Callable[[int], Path]) -> None:
    names = set(torch.load(checkpoints(19), weights_only=True))
    arguments = ("import-weights", checkpoints(19), "--from", "torchvision", "--classes", "cityscapes")
    result = run(*arguments, "-o", "model.safetensors", "--report")
    rows = [line.split() for line in result.out.splitlines()]
    assert names <= {row[0] for row in rows if row}
    assert ["classifier.4.weight", "head.2.weight", "19×512×1×1"] in rows
    document = json.loads(run(*arguments, "-o", "model.safetensors", "--overwrite", "--report", "--json").out)
    assert {match["theirs"] for match in document["matches"]} == names
    assert document["classes"][0] == "road"
    assert document["settings"]["dilation_placement"] == "contracted"


def test_classes_without_names_get_numbers(run: Callable, checkpoints: Callable[[int], Path]) -> None:
    result = run("import-weights", checkpoints(3), "--from", "torchvision", "-o", "m.safetensors", "--json")
    assert json.loads(result.out)["classes"] == ["class_0", "class_1", "class_2"]
    assert "called class_0 to class_2" in result.err


def test_what_cannot_be_imported_leaves_nothing(
    run: Callable, refused: Callable[..., str], checkpoints: Callable[[int], Path], tmp_path: Path
) -> None:
    import_ = ("import-weights", checkpoints(3), "--from", "torchvision", "-o")
    assert "voc has 21 classes, but" in refused(*import_, "m.safetensors", "--classes", "voc", code=2)
    assert "does not end in .safetensors" in refused(*import_, "m.pth", code=2)
    assert "'caffe' is not" in refused(
        "import-weights", checkpoints(3), "--from", "caffe", "-o", "m.safetensors", code=2
    )
    assert "wanted a checkpoint of mmsegmentation's" in refused(
        "import-weights", checkpoints(3), "--from", "mmseg", "-o", "m.safetensors"
    )
    assert "--arch tells the head deeplabv3, but" in refused(
        *import_, "m.safetensors", "--arch", "deeplabv3_resnet50", code=2
    )
    (tmp_path / "taken.safetensors").write_bytes(b"x")
    assert "pass --overwrite" in refused(*import_, "taken.safetensors")
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "code.pth")
    assert "is refused: its pickle asks to run or build torch.nn" in refused(
        "import-weights", "code.pth", "--from", "torchvision", "-o", "m.safetensors"
    )
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    assert "wanted the state dict of torchvision's fcn_resnet50" in refused(
        "import-weights", "other.pth", "--from", "torchvision", "-o", "m.safetensors"
    )


@pytest.mark.parametrize(
    "meta", [{"CLASSES": ("road", "roof", "tree")}, {"dataset_meta": {"classes": ["road", "roof", "tree"]}}]
)
def test_class_names_that_the_checkpoint_holds_are_taken(
    run: Callable, checkpoints: Callable[[int], Path], tmp_path: Path, meta: dict
) -> None:
    state = torch.load(checkpoints(3), weights_only=True)
    torch.save({"state_dict": state, "meta": meta}, tmp_path / "named.pth")
    result = run("import-weights", "named.pth", "--from", "torchvision", "-o", "m.safetensors")
    assert result.code == 0, result.err
    assert "without names" not in result.err
    told = json.loads(run("info", "m.safetensors", "--json").out)
    assert list(told["classes"].values()) == ["road", "roof", "tree"]


@pytest.fixture(scope="module")
def unet() -> dict[str, torch.Tensor]:
    """The weights of smp's U-Net with four bands and two classes."""
    torch.manual_seed(4)
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=2)
    return dict(network.state_dict())


FROM_SMP = ("--from", "smp", "--arch", "unet_resnet18", "-o", "m.safetensors")
FOUR = [word for name in ("blue", "green", "red", "nir") for word in ("--bands", name, 412.5, 100)]


def test_bands_and_their_dtype_are_those_that_were_typed(
    run: Callable, unet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(unet, tmp_path / "u.pth")
    asked = run("import-weights", "u.pth", *FROM_SMP)
    assert asked.code == 2
    assert "--bands" in asked.err
    few = run("import-weights", "u.pth", *FROM_SMP, *FOUR[:12])
    assert few.code == 1
    assert "(64, 4, 7, 7) instead of (64, 3, 7, 7)" in few.err
    assert not (tmp_path / "m.safetensors").exists()
    done = run("import-weights", "u.pth", *FROM_SMP, *FOUR, "--dtype", "uint16")
    assert done.code == 0, done.err
    bands = load_model(tmp_path / "m.safetensors").card.bands
    assert [(band.name, band.dtype, band.mean, band.std) for band in bands] == [
        (name, "uint16", 412.5, 100) for name in ("blue", "green", "red", "nir")
    ]
    bytes_ = run("import-weights", "u.pth", *FROM_SMP, *FOUR, "--overwrite")
    assert bytes_.code == 0, bytes_.err
    assert {band.dtype for band in load_model(tmp_path / "m.safetensors").card.bands} == {"uint8"}


def test_of_two_sets_of_weights_that_is_taken_which_was_asked_for(
    run: Callable, unet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    averaged = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in unet.items()}
    torch.save({"state_dict": unet, "ema_state_dict": averaged}, tmp_path / "two.pth")
    name, added = "encoder.conv1.weight", []
    for flag in ((), ("--ema",), ("--no-ema",)):
        done = run("import-weights", "two.pth", *FROM_SMP, *FOUR, "--overwrite", *flag)
        assert done.code == 0, done.err
        assert ("--ema takes ema_state_dict" in done.err) == (flag != ("--ema",))
        taken = load_model(tmp_path / "m.safetensors").network.state_dict()
        (ours,) = [tensor for key, tensor in taken.items() if key.endswith(name)]
        added.append(float((ours - unet[name]).mean().round()))
    assert added == [0, 1, 0]
    torch.save(unet, tmp_path / "one.pth")
    alone = run("import-weights", "one.pth", *FROM_SMP, *FOUR, "--overwrite", "--ema")
    assert alone.code == 1
    assert "holds no moving average of its weights" in alone.err
    assert "leave --ema out" in alone.err
