"""Scene, truth and prediction side by side: the picture that catches what numbers miss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from aerial_seg.legend import IGNORE, Legend


def draw_comparison(
    image: NDArray[np.uint8], panels: dict[str, NDArray[np.uint8]], legend: Legend, path: Path, *, title: str
) -> None:
    """PNG: the image (3,H,W) and each mask (H,W) of pixel values in the legend's colours; nodata is white."""
    height, width = image.shape[1:]
    count = 1 + len(panels)
    figure = Figure(figsize=(5 * count, 5 * height / width + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count)
    axes[0].imshow(np.moveaxis(image, 0, -1))
    axes[0].set_title("scene")
    colours = legend.colours()
    colours[IGNORE] = 255
    for axis, (name, mask) in zip(axes[1:], panels.items(), strict=True):
        axis.imshow(colours[mask], interpolation="nearest")
        axis.set_title(name)
    for axis in axes:
        axis.set_axis_off()
    patches = [
        Patch(facecolor=entry.colour, edgecolor="#444444", label=entry.name) for entry in legend.entries
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=100, format="png")
