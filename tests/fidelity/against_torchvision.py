"""Hold the importer to checkpoints of torchvision's reference trainer (references/segmentation/train.py).

By hand, beside an installed aerial-seg; torchvision and torch come with it:

    python tests/fidelity/against_torchvision.py

For every network of torchvision.models.segmentation the checkpoint is written as that program writes it: a step of its
SGD with the auxiliary head at ten times the rate, its poly schedule after a linear warm-up, the epoch, the Namespace of
its arguments, and the scaler's state of --amp. It is imported and run in float64 beside torchvision's own forward, on
an image of sides that 8 divides. Those that are refused are printed with the words; the script ends with 1 where a
difference is above 1e-11.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from shaking import shake_norms
from torch import nn
from torchvision.models import segmentation

from aerial_seg.errors import AerialSegError
from aerial_seg.jobs.import_weights import import_weights
from aerial_seg.models.file import load_model

LIMIT = 1e-11
TAKEN = ("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101")
REFUSED = ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")


def network_of(name: str, *, auxiliary: bool) -> Any:
    torch.manual_seed(5)
    options = {} if name.startswith("lraspp") else {"aux_loss": auxiliary}
    network = segmentation.__dict__[name](weights=None, weights_backbone=None, num_classes=21, **options)
    shake_norms(network)
    return network


def save(network: Any, name: str, path: Path) -> None:
    """What utils.save_on_master gets at the end of an epoch."""
    groups = [
        {"params": list(network.backbone.parameters())},
        {"params": list(network.classifier.parameters())},
    ]
    if getattr(network, "aux_classifier", None) is not None:
        groups.append({"params": list(network.aux_classifier.parameters()), "lr": 0.2})
    optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9, weight_decay=1e-4)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=2)
    poly = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=8, power=0.9)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers=[warm, poly], milestones=[2])
    found = network.train()(torch.randn(2, 3, 64, 64))
    sum(value.mean() for value in found.values()).backward()
    optimizer.step()
    schedule.step()
    arguments = argparse.Namespace(
        data_path="/datasets01/COCO/022719/", dataset="coco", model=name, aux_loss=len(groups) > 2, device="cuda",
        batch_size=8, epochs=30, lr=0.02, momentum=0.9, weight_decay=1e-4, output_dir=".", resume="", start_epoch=0,
        weights=None, weights_backbone="ResNet50_Weights.IMAGENET1K_V1", distributed=True, gpu=0, backend="pil",
    )  # fmt: skip
    checkpoint = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 29,
        "args": arguments,
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }
    torch.save(checkpoint, path)


def compare(name: str, *, auxiliary: bool) -> float | None:
    """The largest difference; None where it is refused."""
    network = network_of(name, auxiliary=auxiliary)
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "model_29.pth", Path(folder) / "model.safetensors"
        save(network, name, path)
        try:
            report = import_weights(path, out, source="torchvision")
        except AerialSegError as error:
            print(f"refused  {name}: {str(error).replace(folder, '')}", flush=True)
            return None
        ours = load_model(out).network.double()
    image = torch.randn(1, 3, 24, 320, dtype=torch.float64)
    with torch.inference_mode():
        wanted = network.eval().double()(image)
        cells, auxiliaries = ours.forward_training(image)
    worst = 0.0
    for key, logits in (("out", cells), ("aux", auxiliaries)):
        if key in wanted:
            got = nn.functional.interpolate(
                logits, size=image.shape[2:], mode="bilinear", align_corners=False
            )
            worst = max(worst, float((got - wanted[key]).abs().max() / wanted[key].abs().max()))
    assert (auxiliaries is not None) == auxiliary
    print(f"{worst:7.1e}  {name}, {'with' if auxiliary else 'without'} auxiliary head", flush=True)
    for note in report.notes:
        print(f"         {note}")
    return worst


def main() -> int:
    found = [compare(name, auxiliary=auxiliary) for name in TAKEN for auxiliary in (True, False)]
    others = [compare(name, auxiliary=False) for name in REFUSED]
    worst = max(value for value in (*found, *others) if value is not None)
    print(f"the largest difference is {worst:.1e}, wanted at most {LIMIT:g}")
    return int(worst > LIMIT or None in found or any(value is not None for value in others))


if __name__ == "__main__":
    sys.exit(main())
