"""Scene, truth and prediction side by side: the picture that catches what numbers miss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from aerial_seg.legend import IGNORE, Legend
from aerial_seg.printable import shortened

Pixels = NDArray[np.uint8]

WRONG = "#d55e00"
_GROUND = 225
_MOST_NAMES, _COLUMNS = 40, 8


def draw_comparison(
    image: Pixels, panels: dict[str, Pixels], legend: Legend, path: Path, *, title: str
) -> None:
    """PNG: the image (3,H,W) and each mask (H,W) of pixel values in the legend's colours; nodata is white."""
    colours = legend.colours()
    colours[IGNORE] = 255
    shown = [("scene", np.moveaxis(image, 0, -1)), *((name, colours[mask]) for name, mask in panels.items())]
    draw_panels(shown, legend, path, title=title)


def draw_panels(
    panels: Sequence[tuple[str, Pixels]],
    legend: Legend,
    path: Path,
    *,
    title: str,
    more: Sequence[tuple[str, str]] = (),
) -> None:
    """PNG: pictures (H,W,3) of one size with their names, and the legend below. more: other names and colours."""
    height, width = panels[0][1].shape[:2]
    entries = [(entry.name, entry.colour) for entry in legend.entries[:_MOST_NAMES]]
    if len(legend) > _MOST_NAMES:
        entries.append((f"and {len(legend) - _MOST_NAMES} more", "#ffffff"))
    patches = [
        Patch(facecolor=colour, edgecolor="#444444", label=shortened(name, 40))
        for name, colour in (*entries, *more)
    ]
    rows = -(-len(patches) // _COLUMNS)
    tall = min(4.0, max(0.15, height / width))
    figure = Figure(figsize=(5 * len(panels), 5 * tall + 0.7 + 0.25 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axis, (name, picture) in zip(axes, panels, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(name)
        axis.set_axis_off()
    key = figure.legend(
        patches,
        [" " + str(patch.get_label()) for patch in patches],  # one that begins with _ would be left out
        loc="outside lower center",
        ncols=min(_COLUMNS, len(patches)),
        frameon=False,
    )
    # A name with two $ is no formula.
    for label in (*key.get_texts(), figure.suptitle(title)):
        label.set_parse_math(False)
    figure.savefig(path, dpi=100, format="png")


def error_picture(image: Pixels | None, share: Pixels) -> Pixels:
    """(H,W,3): where a map errs, on faint imagery (H,W,3) or on grey; unlabelled ground is white.

    share: (H,W) of wrong pixels, of which 250 is all, 255 = unlabelled.
    """
    ground = np.full((*share.shape, 3), _GROUND, np.float32)
    if image is not None:
        ground = 160 + image.mean(axis=-1, keepdims=True, dtype=np.float32) * np.float32(0.3) + ground * 0
    part = np.where(share > 0, 0.3 + 0.7 * share.astype(np.float32) / 250, 0)[..., None]
    colour = np.array([int(WRONG[k : k + 2], 16) for k in (1, 3, 5)], np.float32)
    mixed = np.where((share == IGNORE)[..., None], 255, ground * (1 - part) + colour * part)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
