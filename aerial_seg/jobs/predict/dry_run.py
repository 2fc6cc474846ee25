"""The dry run: what a prediction would take, measured on one batch, with nothing written."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from aerial_seg.crf.blocks import BlockedCrf
from aerial_seg.crf.dense import refine
from aerial_seg.crf.guide import guide_image
from aerial_seg.inference.device.tta import averaged as averaged_there
from aerial_seg.inference.predictor import TilePredictor
from aerial_seg.inference.tta import averaged
from aerial_seg.jobs.predict.memory import MemoryModel, choose_panels, disk_bytes, resident_after_a_batch
from aerial_seg.jobs.predict.scenes import OpenScene, PredictContext, Scene, all_notes, open_scene
from aerial_seg.jobs.predict.settings import Forecast
from aerial_seg.models.device import device_peak_while, wait_for

_SAMPLE = 512
"""Side of the window that a CRF is timed on, in pixels."""
_BATCHES, _SECONDS = 20, 1.0
"""That a device is timed on, at the most."""


def dry_run(scene: Scene, context: PredictContext) -> Forecast:
    """Foretell tiles, panels, memory, disk and time of one map; one batch is run, nothing is written."""
    with tempfile.TemporaryDirectory() as folder, open_scene(scene, context, Path(folder)) as opened:
        memory_model, predictor = opened.memory_model, context.predictor
        resident = resident_after_a_batch(memory_model, predictor)
        panels = choose_panels(memory_model, predictor, context.settings.max_memory)
        gpu = None
        if memory_model.on_gpu:
            gpu = device_peak_while(memory_model.device, lambda: predictor.run(memory_model.blank_batch()))
            if memory_model.carrier == "device":
                gpu += max(map(memory_model.device_bytes, panels[:2]))
        tiles = sum(memory_model.region_tiles(panel).tiles_wanted for panel in panels)
        return Forecast(
            mask=scene.target,
            source=scene.name,
            height=memory_model.height,
            width=memory_model.width,
            tile_size=memory_model.plan.shape.side,
            tiles=tiles,
            panels=len(panels),
            memory=resident + max(map(memory_model.panel_bytes, panels[:2])),
            disk=disk_bytes(memory_model),
            seconds=_seconds_per_batch(memory_model, context) * -(-tiles // memory_model.batch_size)
            + _crf_seconds(opened, context, panels),
            engine=_engine(predictor),
            notes=all_notes(opened, context),
            gpu_memory=gpu,
        )


def _engine(predictor: TilePredictor) -> str:
    runtime = predictor.runtime
    carrier = "" if predictor.carrier == "host" else f", carrier {predictor.carrier}"
    return f"{runtime.engine}, {runtime.precision}, {runtime.device}{carrier}"


def _seconds_per_batch(memory_model: MemoryModel, context: PredictContext) -> float:
    """Of a batch with its augmentations that is not the first, which pays for preparations."""
    shape = memory_model.plan.shape
    if memory_model.carrier == "device":
        return _seconds_on_device(memory_model, context)
    submit = averaged(
        context.predictor.submit, context.settings.tta, geometry=shape.geometry, side=shape.side
    )
    images = [
        np.zeros((memory_model.input_planes, shape.side, shape.side), np.float32)
    ] * memory_model.batch_size
    start = time.perf_counter()
    submit(images).logits()
    return time.perf_counter() - start


def _seconds_on_device(memory_model: MemoryModel, context: PredictContext) -> float:
    """The same where tiles lie on the device: of several batches, for one may take less time than to ask for it."""
    shape, device = memory_model.plan.shape, memory_model.device
    run = averaged_there(
        context.predictor.logits, context.settings.tta, geometry=shape.geometry, side=shape.side
    )
    tiles = torch.zeros(
        memory_model.batch_size, memory_model.input_planes, shape.side, shape.side, device=device
    )
    batches, start = 0, time.perf_counter()
    while batches == 0 or (batches < _BATCHES and time.perf_counter() - start < _SECONDS):
        run(tiles)
        batches += 1
    wait_for(device)
    return (time.perf_counter() - start) / batches


def _crf_seconds(opened: OpenScene, context: PredictContext, panels: tuple[range, ...]) -> float:
    """Of all blocks of all panels, after the time of one window of the raster itself: it depends on the image."""
    memory_model, crf = opened.memory_model, opened.memory_model.crf
    if crf is None:
        return 0.0
    rows = memory_model.extent.rows
    pixels = sum(
        crf.pixels(rows, panel, height=memory_model.height, width=memory_model.width) for panel in panels
    )
    return pixels * _seconds_per_pixel(opened, context, crf)


def _seconds_per_pixel(opened: OpenScene, context: PredictContext, crf: BlockedCrf) -> float:
    """Of the CRF on the first of three windows, from the centre on, with something measured in it."""
    memory_model = opened.memory_model
    height, width = min(_SAMPLE, memory_model.height), min(_SAMPLE, memory_model.width)
    for share in (1 / 2, 1 / 4, 3 / 4):
        top, left = int(share * (memory_model.height - height)), int(share * (memory_model.width - width))
        image, valid = opened.source.read(top=top, left=left, height=height, width=width)
        if valid.any():
            break
    guide = guide_image(image, context.model.card.bands)
    even = np.full((memory_model.classes, height, width), 1 / memory_model.classes, np.float32)
    start = time.perf_counter()
    refine(even, guide, np.ones_like(valid), crf.field)
    return (time.perf_counter() - start) / valid.size
