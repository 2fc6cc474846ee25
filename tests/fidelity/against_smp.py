"""Hold the importer to segmentation_models_pytorch's networks as its own versions save them, older ones included.

By hand, in two steps: `write` in any version of smp, without aerial-seg, and `read` beside an installed aerial-seg.

    pip install --no-deps --target smp-0.4.0 segmentation-models-pytorch==0.4.0
    PYTHONPATH=smp-0.4.0 python tests/fidelity/against_smp.py write saved-0.4.0
    python tests/fidelity/against_smp.py read saved-0.4.0

`write` makes every architecture on a small encoder and U-Net on every family of encoders, with random weights and
running statistics, saves each by save_pretrained and its state dict by torch.save, and beside them an image and its
logits in float64. `read` imports the folder by its config.json and, where it has no options of its own, the state dict
by its name, and prints for each the largest difference relative to the largest logit, or the words of the refusal. It
ends with 1 where one is above 1e-11.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from shaking import shake_norms
from torch import nn

LIMIT = 1e-11
ARCHITECTURES: dict[str, tuple[dict[str, Any], ...]] = {
    "Unet": (
        {},
        {"decoder_attention_type": "scse"},
        {"decoder_use_batchnorm": False},
        {"activation": "sigmoid"},
    ),
    "UnetPlusPlus": ({}, {"decoder_use_batchnorm": False}),
    "MAnet": ({},),
    "Linknet": ({}, {"decoder_use_batchnorm": False}),
    "FPN": ({}, {"decoder_merge_policy": "cat", "upsampling": 2}),
    "PSPNet": ({}, {"psp_use_batchnorm": False}, {"aux_params": {"classes": 2}}),
    "PAN": ({}, {"encoder_output_stride": 32}, {"encoder_dilation": False}),
    "DeepLabV3": ({}, {"decoder_atrous_rates": (2, 4, 6)}),
    "DeepLabV3Plus": ({}, {"encoder_output_stride": 8}),
    "UPerNet": ({},),
    "Segformer": ({},),
    "DPT": ({"encoder_name": "tu-vit_tiny_patch16_224"},),
}
"""Options of each; what a version does not take is passed over with a line."""
ENCODERS = (
    "mobilenet_v2", "efficientnet-b0", "timm-efficientnet-b0", "timm-tf_efficientnet_lite0", "mit_b0", "tu-resnet18",
    "densenet121", "dpn68", "vgg11_bn", "xception", "se_resnet50", "resnext50_32x4d", "timm-regnetx_002",
    "timm-mobilenetv3_small_100", "timm-skresnet18", "timm-gernet_s", "timm-res2net50_26w_4s", "timm-resnest14d",
    "mobileone_s0", "inceptionv4",
)  # fmt: skip
"""One of each family."""
SIDES = {"PAN": (256, 288), "DPT": (224, 224)}
"""Of the image, where 64 by 96 does not do."""


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind, several in ARCHITECTURES.items():
        for options in several:
            yield kind, {"encoder_name": "resnet18", **options}
    for encoder in ENCODERS:
        yield "Unet", {"encoder_name": encoder}


def random_network(kind: str, options: dict[str, Any]) -> Any:
    import segmentation_models_pytorch as smp

    torch.manual_seed(7)
    network = getattr(smp, kind)(encoder_weights=None, classes=3, **options)
    shake_norms(network)
    return network.eval()


def write(folder: Path) -> None:
    import segmentation_models_pytorch as smp

    print(f"smp {smp.__version__}")
    for number, (kind, options) in enumerate(cases()):
        place = folder / f"{number:02d}-{kind}-{options['encoder_name']}"
        try:
            network = random_network(kind, options)
            network.save_pretrained(str(place))
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            print(f"{place.name} {options}: this smp does not make it ({str(error)[:90]})", flush=True)
            continue
        plain = set(options) == {"encoder_name"}
        image = torch.randn(1, 3, *SIDES.get(kind, (64, 96)), dtype=torch.float64)
        if "activation" in options:
            network.segmentation_head[-1] = nn.Identity()
        with torch.inference_mode():
            found = network.double()(image)
        logits = found[0] if isinstance(found, tuple) else found
        torch.save({"image": image, "logits": logits, "plain": plain}, place / "wanted.pth")


def compare(path: Path, wanted: dict[str, Any], arch: str | None) -> tuple[float, str]:
    from aerial_seg.errors import AerialSegError
    from aerial_seg.jobs.import_weights import import_weights
    from aerial_seg.models.file import load_model

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.safetensors"
        try:
            report = import_weights(path, out, source="smp", arch=arch)
        except AerialSegError as error:
            return 0.0, f"refused: {error}"
        network = load_model(out).network.double()
    with torch.inference_mode():
        got = network(wanted["image"])
    logits = wanted["logits"]
    assert got.shape == logits.shape, (got.shape, logits.shape)
    told = "; ".join(
        note for note in report.notes if not note.startswith(("assumed images", "3 classes without"))
    )
    return float((got - logits).abs().max() / logits.abs().max()), told


def read(folder: Path) -> int:
    worst = 0.0
    for place in sorted(folder.iterdir()):
        wanted = torch.load(place / "wanted.pth", weights_only=True)
        found, told = compare(place, wanted, None)
        print(f"{found:8.1e} {place.name} {told}", flush=True)
        worst = max(worst, found)
        if wanted["plain"]:
            encoder = json.loads((place / "config.json").read_text())["encoder_name"]
            found, told = compare(
                place / "model.safetensors", wanted, f"{place.name.split('-')[1].lower()}_{encoder}"
            )
            print(f"{found:8.1e} {place.name} by its name {told}", flush=True)
            worst = max(worst, found)
    print(f"the largest difference is {worst:.1e}, wanted at most {LIMIT:g}")
    return int(worst > LIMIT)


def main() -> int:
    warnings.filterwarnings("ignore")
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "write":
        write(folder)
        return 0
    return read(folder)


if __name__ == "__main__":
    sys.exit(main())
