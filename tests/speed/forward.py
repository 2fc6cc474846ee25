"""What our DeepLabv3 R50 costs beside torchvision's: medians and ratios from one run, rounds interleaved.

    python tests/speed/forward.py [--rounds 7] [--side 512] [--batch 2]

The same weights at output stride 8, float32, eager, evaluation mode, up to the logits before their upsampling; batch
norms as they are, and folded as `predict` runs them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch
from machine import facts
from predict import interleaved
from torchvision.models.segmentation import deeplabv3_resnet50

from aerial_seg.inference.engines.prepare import prepare_network
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.sources import import_checkpoint


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps({"machine": facts(), **measure(options)}, indent=2))


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, object]:
    """Seconds per image and ratios to torchvision's (bar 1.03)."""
    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=False).eval()
    checkpoint = Checkpoint(path=__file__, tensors=theirs.state_dict(), sha256="")  # type: ignore[arg-type]
    ours = import_checkpoint(checkpoint, "torchvision").network
    image = torch.randn(options.batch, 3, options.side, options.side)
    with torch.inference_mode(mode=False):
        folded, _ = prepare_network(
            ours, torch.device("cpu"), precision="fp32", example=lambda: torch.randn(1, 3, 64, 64)
        )
    last = image.to(memory_format=torch.channels_last)
    works: dict[str, Callable[[], object]] = {
        "torchvision": lambda: theirs.classifier(theirs.backbone(image)["out"]),
        "ours": lambda: ours(image),
        "ours, folded and channels-last": lambda: folded(last),
    }
    interleaved(1, works)
    times = interleaved(options.rounds, works)
    medians = {name: statistics.median(seen) / options.batch for name, seen in times.items()}
    difference = (works["torchvision"]() - ours(image)).abs().max()  # type: ignore[operator]
    return {
        "side": options.side,
        "batch": options.batch,
        "rounds": options.rounds,
        "seconds per image": medians,
        "to torchvision's (bar 1.03)": {
            name: time / medians["torchvision"] for name, time in medians.items()
        },
        "largest difference of the logits": float(difference),
    }


if __name__ == "__main__":
    main()
