"""The dry run: what a prediction would take, measured on one batch, with nothing written."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from aerial_seg.crf.blocks import BlockedCrf
from aerial_seg.crf.dense import refine
from aerial_seg.crf.guide import guide_image
from aerial_seg.inference.tta import averaged
from aerial_seg.jobs.predict.memory import Work, choose_panels, disk_bytes, resident_after_a_batch
from aerial_seg.jobs.predict.scenes import OpenScene, PredictContext, Scene, all_notes, open_scene
from aerial_seg.jobs.predict.settings import Forecast

_SAMPLE = 512
"""Side of the window that a CRF is timed on, in pixels."""


def forecast(scene: Scene, context: PredictContext) -> Forecast:
    """Tiles, panels, memory, disk and time of one map."""
    with tempfile.TemporaryDirectory() as folder, open_scene(scene, context, Path(folder)) as opened:
        work, predictor = opened.work, context.predictor
        resident = resident_after_a_batch(work, predictor)
        panels = choose_panels(work, predictor, context.settings.max_memory)
        tiles = sum(work.region_tiles(panel).tiles_wanted for panel in panels)
        return Forecast(
            mask=scene.target,
            source=scene.name,
            height=work.height,
            width=work.width,
            tile_size=work.plan.shape.side,
            tiles=tiles,
            panels=len(panels),
            memory=resident + max(map(work.panel_bytes, panels[:2])),
            disk=disk_bytes(work),
            seconds=_seconds_per_batch(work, context) * -(-tiles // work.batch_size)
            + _crf_seconds(opened, context, panels),
            engine=f"{predictor.runtime.engine}, {predictor.runtime.precision}, {predictor.runtime.device}",
            notes=all_notes(opened, context),
        )


def _seconds_per_batch(work: Work, context: PredictContext) -> float:
    """Of a batch with its augmentations that is not the first, which pays for preparations."""
    shape = work.plan.shape
    submit = averaged(
        context.predictor.submit, context.settings.tta, geometry=shape.geometry, side=shape.side
    )
    images = [np.zeros((work.input_planes, shape.side, shape.side), np.float32)] * work.batch_size
    start = time.perf_counter()
    submit(images).logits()
    return time.perf_counter() - start


def _crf_seconds(opened: OpenScene, context: PredictContext, panels: tuple[range, ...]) -> float:
    """Of all blocks of all panels, after the time of one window of the raster itself: it depends on the image."""
    work, crf = opened.work, opened.work.crf
    if crf is None:
        return 0.0
    rows = work.extent.rows
    pixels = sum(crf.pixels(rows, panel, height=work.height, width=work.width) for panel in panels)
    return pixels * _seconds_per_pixel(opened, context, crf)


def _seconds_per_pixel(opened: OpenScene, context: PredictContext, crf: BlockedCrf) -> float:
    """Of the CRF on the first of three windows, from the centre on, with something measured in it."""
    work = opened.work
    height, width = min(_SAMPLE, work.height), min(_SAMPLE, work.width)
    for share in (1 / 2, 1 / 4, 3 / 4):
        top, left = int(share * (work.height - height)), int(share * (work.width - width))
        image, valid = opened.source.read(top=top, left=left, height=height, width=width)
        if valid.any():
            break
    guide = guide_image(image, context.model.card.bands)
    even = np.full((work.classes, height, width), 1 / work.classes, np.float32)
    start = time.perf_counter()
    refine(even, guide, np.ones_like(valid), crf.field)
    return (time.perf_counter() - start) / valid.size
