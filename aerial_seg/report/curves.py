"""The loss and IoU curves of a run as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aerial_seg.legend import Legend
from aerial_seg.training.log import History


def draw_curves(history: History, legend: Legend, path: Path) -> None:
    """PNG: the loss of every update with its running mean above, IoU per class and mIoU of each validation below."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True)
    iterations = np.array([row[0] for row in history.losses])
    losses = np.array([row[1] for row in history.losses])
    top.plot(iterations, losses, color="#bbbbbb", linewidth=0.7, label="each iteration")
    width = max(1, len(losses) // 30)
    if width > 1:
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        top.plot(iterations[width - 1 :], smooth, color="#1f4e79", label=f"mean of {width}")
    top.set(ylabel="training loss")
    top.legend()
    if history.validations:
        at = [row.iteration for row in history.validations]
        for entry in legend.entries:
            values = [row.ious[entry.name] for row in history.validations]
            bottom.plot(at, values, marker="o", markersize=3, color=entry.colour, label=entry.name)
        means = [row.miou for row in history.validations]
        bottom.plot(at, means, color="black", linewidth=2, label="mIoU")
        bottom.legend(loc="lower right")
    bottom.set(xlabel="iteration", ylabel="validation IoU", ylim=(0, 1))
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
