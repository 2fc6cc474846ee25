"""The dry run: what a prediction would take, measured on one batch, with nothing written."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from aerial_seg.jobs.budget import Work, choose_panels, disk_bytes, resident_after_a_batch
from aerial_seg.jobs.predict_settings import Forecast
from aerial_seg.jobs.scenes import Mapper, Scene, open_scene
from aerial_seg.models.predictor import Predictor


def forecast(scene: Scene, mapper: Mapper) -> Forecast:
    """Tiles, panels, memory, disk and time of one map."""
    with tempfile.TemporaryDirectory() as folder, open_scene(scene, mapper, Path(folder)) as opened:
        work, predictor = opened.work, mapper.predictor
        resident = resident_after_a_batch(work, predictor)
        panels = choose_panels(work, predictor, mapper.settings.max_memory)
        tiles = sum(len(work.frame(panel).part) for panel in panels)
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
            seconds=_seconds_per_batch(work, predictor) * -(-tiles // work.batch_size),
            engine=f"{predictor.runtime.engine}, {predictor.runtime.precision}, {predictor.runtime.device}",
            notes=(*opened.notes, *predictor.notes),
        )


def _seconds_per_batch(work: Work, predictor: Predictor) -> float:
    """Of a batch that is not the first, which pays for preparations."""
    images = work.blank_batch()
    start = time.perf_counter()
    predictor.run(images)
    return time.perf_counter() - start
