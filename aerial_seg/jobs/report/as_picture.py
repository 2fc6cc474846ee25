"""A report as one picture: image, truth, map and errors side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerial_seg.jobs.report.measure import Measured, Sources
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.printable import shortened
from aerial_seg.report.map_page.content import View
from aerial_seg.report.picture import WRONG, draw_panels, error_picture

_SIDE = 1000


def write_picture(path: Path, sources: Sources, measured: Measured, whole: View) -> None:
    """PNG of the whole map: what there is of image, truth, map and errors, from the left."""
    view = whole.smaller(_SIDE)
    panels, more = [], []
    if view.image is not None:
        panels.append(("image", view.image))
    if view.truth is not None:
        panels.append(("truth", _coloured(view.truth, measured.legend)))
    panels.append(("map", _coloured(view.classes, measured.legend)))
    if view.errors is not None:
        panels.append(("errors", error_picture(view.image, view.errors)))
        more.append(("wrong", WRONG))
    title = shortened(sources.mask.name, 60)
    if measured.evaluation is not None:
        scores = measured.evaluation.scores
        title += f": mIoU {scores.miou:.3f}, pixel accuracy {scores.pixel_accuracy:.3f}"
    draw_panels(panels, measured.legend, path, title=title, more=more)


def _coloured(channels: NDArray[np.uint8], legend: Legend) -> NDArray[np.uint8]:
    table = np.full((256, 3), 255, np.uint8)
    table[: len(legend)] = [entry.rgb for entry in legend.entries]
    table[IGNORE] = 255
    picture: NDArray[np.uint8] = table[channels]
    return picture
