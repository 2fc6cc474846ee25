"""What tests ask of a run of `benchmark`, and how they interrupt it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from aerial_seg.benchmarks.catalogue import open_benchmark
from aerial_seg.jobs.benchmark import images as benchmark_images


def predictions_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "predictions").iterdir())}


def counted_again(name: str, root: Path, out: Path, split: str = "val") -> np.ndarray[Any, Any]:
    """The confusion matrix of the written predictions, by scikit-learn."""
    data = open_benchmark(name, root)
    total = np.zeros((len(data.legend), len(data.legend)), np.int64)
    for example in data.examples(split):
        truth = data.read_labels(example)
        predicted = np.array(Image.open(out / "predictions" / f"{example.name}.png"))
        known = truth != 255
        total += confusion_matrix(truth[known], predicted[known], labels=range(len(data.legend)))
    return total


def interrupted_after(images: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C comes at the image after these; what is returned grows by one per predicted image."""
    seen: list[int] = []
    real = benchmark_images.predict_classes

    def predict(image: Any, *rest: Any) -> Any:
        if len(seen) == images:
            raise KeyboardInterrupt
        seen.append(1)
        return real(image, *rest)

    monkeypatch.setattr(benchmark_images, "predict_classes", predict)
    return seen
