"""What runs in a worker: its network, started once; scenes, opened where they lie; pieces, packed to go home.

Everything in it is called by Dask in the worker's process. Reasons of the worker's own come back as a Failure.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import rasterio
import torch

from aerial_seg.errors import AerialSegError, InputError
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.memory import choose_batch, memory_limit
from aerial_seg.inference.predictor import TilePredictor
from aerial_seg.inference.region import Region
from aerial_seg.inference.tta import run_sides
from aerial_seg.jobs.cluster.hand_out import Failure
from aerial_seg.jobs.cluster.library import Worker, WorkerPlugin, get_worker
from aerial_seg.jobs.predict.memory import resident_with
from aerial_seg.jobs.predict.scenes import OpenScene, PredictContext, Scene, open_scene
from aerial_seg.jobs.predict.segments_writer import pieces_of
from aerial_seg.jobs.predict.workers.outfit import (
    Group,
    Look,
    Made,
    Network,
    Outfit,
    Parcel,
    look_of,
    require_same,
)
from aerial_seg.models.device import free_memory, has_own_memory
from aerial_seg.models.file import load_model
from aerial_seg.outputs.segments import SegmentStore
from aerial_seg.progress import silent
from aerial_seg.stages import StageSeconds

Result = TypeVar("Result")

_BENCHES: dict[str, Bench] = {}
_ITS_OWN = (AerialSegError, OSError, MemoryError)
"""What may be wrong with one worker alone."""
_ONE_AT_A_TIME = threading.Lock()
"""A worker with several threads has them for the network, not for several groups at once."""


class Delivery(WorkerPlugin):
    """Bring the outfit of a run to every worker once, also to those that start later or again."""

    def __init__(self, outfit: Outfit) -> None:
        self.name, self.outfit = f"aerial-seg-{outfit.token}", outfit

    def setup(self, worker: Worker) -> None:
        """The worker has it."""
        limit = getattr(worker.memory_manager, "memory_limit", None)
        place = Place(str(worker.address), worker.state.nthreads, limit)
        _BENCHES[self.outfit.token] = Bench(self.outfit, place)

    def teardown(self, worker: Worker) -> None:
        """The worker has forgotten it; what is being made of it ends with the piece that it is at."""
        del worker
        bench = _BENCHES.pop(self.outfit.token, None)
        if bench is None:
            return
        bench.stopped = True
        if _ONE_AT_A_TIME.acquire(blocking=False):
            bench.clear()
            _ONE_AT_A_TIME.release()


@dataclass(frozen=True, slots=True)
class Place:
    """Say where a bench stands: the worker's address, its threads, and the bytes that Dask allows it, if it does."""

    address: str
    threads: int
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class _Opened:
    scene: Scene
    look: Look
    opened: OpenScene
    still: Unchanged
    folder: Path


class Bench:
    """The work of one run in this process: models loaded and one scene open, from the first order that needs them."""

    def __init__(self, outfit: Outfit, place: Place) -> None:
        self._outfit, self.place, self.stopped = outfit, place, False
        self._ensemble: Ensemble | None = None
        self._predictor: TilePredictor | None = None
        self._opened: _Opened | None = None
        self._resident = 0
        self._scene = ExitStack()

    def clear(self) -> None:
        """Nothing is open, and no temporary file is left."""
        self._opened = None
        self._scene.close()

    def ensemble(self) -> Ensemble:
        """The models, loaded from what was sent."""
        if self._ensemble is None:
            threads = self._outfit.threads or self.place.threads
            torch.set_num_threads(threads)
            with tempfile.TemporaryDirectory(prefix="aerial-seg-") as folder:
                paths = []
                for number, (name, _, content) in enumerate(self._outfit.models):
                    paths.append(Path(folder) / str(number) / name)
                    paths[-1].parent.mkdir()
                    paths[-1].write_bytes(content)
                models = [load_model(path) for path in paths]
            for model, (name, sha256, _) in zip(models, self._outfit.models, strict=True):
                if model.sha256 != sha256:
                    raise OSError(f"{name} arrived damaged")
            self._ensemble = Ensemble.of(models, [Path(name) for name, *_ in self._outfit.models])
        return self._ensemble

    def batch(self) -> tuple[int, tuple[str, ...]]:
        """The batch size that this worker would take, and what to say about it."""
        outfit = self._outfit
        sides = run_sides(outfit.settings.tta, outfit.shape.geometry, outfit.shape.side)
        return choose_batch(
            outfit.settings.batch_size,
            outfit.batch,
            side=max(sides),
            engine=outfit.engine,
            max_memory=self._memory,
            before=lambda: outfit.before,
        )

    def network(self, batch_size: int) -> Network:
        """The network runs with this batch size; what it is like."""
        predictor = self._predictor
        if predictor is None:
            outfit, ensemble = self._outfit, self.ensemble()
            predictor = self._predictor = ensemble.predictor(
                settings=outfit.engine,
                batch_size=batch_size,
                side=run_sides(outfit.settings.tta, outfit.shape.geometry, outfit.shape.side),
                tiles=outfit.tiles,
            )
            self._resident = resident_with(predictor)
        return Network(
            runtime=predictor.runtime,
            batch_size=predictor.batch_size,
            planes=predictor.planes,
            inputs=predictor.inputs,
            largest_side=predictor.largest_side,
            carrier=predictor.carrier,
            device=predictor.device,
            depth=predictor.depth,
            gdal=rasterio.__gdal_version__,
            memory=self._memory,
            resident=self._resident,
            free=free_memory(predictor.device) if has_own_memory(predictor.device) else None,
            notes=predictor.notes,
        )

    def make(self, group: Group) -> tuple[tuple[Parcel, ...], dict[str, float]]:
        """The pieces of a group, and the seconds that it took by stage."""
        at = self._open(group.scene, group.look)
        memory_model, stages = at.opened.memory_model, StageSeconds()
        folder = at.folder / "pieces"
        store = SegmentStore(
            folder,
            at.opened.source.grid,
            memory_model.layers,
            panels=group.panels,
            extent=memory_model.extent,
        )
        tiles = memory_model.tiles_of(Region(group.rows.start, group.panels[group.panel], group.rows.stop))
        parcels = []
        bar = silent("", total=len(tiles.part), unit="tile")
        made = pieces_of(at.opened, self._context(), group.panel, tiles, bar, stages)
        with at.still.holding(), closing(made):
            for piece in made:
                if self.stopped:
                    raise InputError("the run that asked for it is over")
                at.still.check_now_and_then()
                with stages.at("writing"):
                    store.write(piece.panel, piece.rows, piece.layers)
                    parcels.append(Parcel.of(piece.record(), store.files(piece.panel, piece.rows)))
                    store.leave(piece.panel, ())
        return tuple(parcels), stages.seconds

    def answer(self, group: Group) -> Made | Failure:
        """What this worker makes of a group, or why it cannot."""
        try:
            differences = self.network(group.agreed.batch_size).differences(group.agreed)
            if differences is not None:
                return Failure(self.place.address, differences, differs=True)
            parcels, seconds = self.make(group)
        except _ITS_OWN as error:
            return self.failure(error)
        return Made(self.place.address, parcels, seconds)

    def failure(self, error: BaseException) -> Failure:
        """Tell what kept this worker from its work; whatever was open is not any more."""
        self.clear()
        return Failure(self.place.address, " ".join(str(error).split()) or type(error).__name__)

    @property
    def _memory(self) -> int:
        """Its share of what may be used of the machine, or of what was asked for as the most of each process."""
        asked = self._outfit.settings.max_memory
        limit = memory_limit(asked)
        if asked is None:
            shares, allowed = self._outfit.shares, self.place.memory
            limit //= shares.get(self.place.address, max(shares.values(), default=1))
            limit = min(limit, int(allowed * _OF_DASKS_LIMIT)) if allowed else limit
        return limit

    def _context(self) -> PredictContext:
        outfit, predictor = self._outfit, self._predictor
        assert predictor is not None
        model = self.ensemble().as_one
        return PredictContext(model, predictor, outfit.shape, outfit.settings, silent, outfit.area)

    def _open(self, scene: Scene, look: Look) -> _Opened:
        """The scene as this worker sees it. Raises InputError unless it is what the one who asks has seen."""
        if self._opened is None or (self._opened.scene, self._opened.look) != (scene, look):
            self.clear()
            folder = Path(self._scene.enter_context(tempfile.TemporaryDirectory(prefix="aerial-seg-")))
            still = Unchanged((*scene.paths, *self._outfit.settings.bands.stack))
            opened = self._scene.enter_context(open_scene(scene, self._context(), folder))
            still.add((), opened.files)
            require_same(look, look_of(opened, (*scene.paths, *self._outfit.settings.bands.stack)))
            self._opened = _Opened(scene, look, opened, still, folder)
        return self._opened


_OF_DASKS_LIMIT = 0.6
"""Dask spills and pauses a worker that holds more than this of its limit."""


def offer_batch(token: str) -> tuple[int, tuple[str, ...]] | Failure:
    """Tell the batch size that this worker would take."""
    return _at_bench(token, lambda bench: bench.batch())


def start(token: str, batch_size: int) -> Network | Failure:
    """Start the network, and tell what it is like."""
    return _at_bench(token, lambda bench: bench.network(batch_size))


def make_group(group: Group) -> Made | Failure:
    """Make the pieces of a group, unless this worker computes otherwise than is agreed."""
    return _at_bench(group.token, lambda bench: bench.answer(group))


def _at_bench(token: str, work: Callable[[Bench], Result]) -> Result | Failure:
    with _ONE_AT_A_TIME:
        bench = _BENCHES.get(token)
        if bench is None:
            return Failure(str(get_worker().address), "it was not given the model")
        try:
            return work(bench)
        except _ITS_OWN as error:
            return bench.failure(error)
        finally:
            if bench.stopped:
                bench.clear()
