"""Workers in place of this process: they agree on a network, then make the pieces that are missing."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from aerial_seg.errors import Incomplete, InputError, SettingsError
from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.geo.raster.remote import is_remote
from aerial_seg.inference.region import Region
from aerial_seg.jobs.cluster.connect import Cluster, connected
from aerial_seg.jobs.cluster.dask_line import DaskLine
from aerial_seg.jobs.cluster.hand_out import TRIES, Failure, Line, Order, hand_out
from aerial_seg.jobs.predict.memory import MemoryModel, panels_elsewhere
from aerial_seg.jobs.predict.pieces import PieceLedger
from aerial_seg.jobs.predict.plan import PredictPlan
from aerial_seg.jobs.predict.scenes import OpenScene, PredictContext, Scene
from aerial_seg.jobs.predict.workers.groups import choose_cut, grouped
from aerial_seg.jobs.predict.workers.outfit import Group, Look, Network, Outfit, look_of
from aerial_seg.jobs.predict.workers.taking import Taking
from aerial_seg.mentions import SAME_CALL, setting
from aerial_seg.progress import Progress
from aerial_seg.stages import StageSeconds

Result = TypeVar("Result")

_LOOK_EVERY = 2.0
"""Seconds."""
_MOST_HOME = 400_000_000
"""Bytes of one group, packed, as far as one can know: it comes home as a whole."""
_PACKED_BYTES = {"class": 0.1, "confidence": 0.9, "probabilities": 0.9}
"""Per pixel and band, at the most, as measured."""


class WorkerHands:
    """Make the pieces of maps on the workers of a cluster; this process writes them."""

    def __init__(self, network: Network, token: str, line: Callable[[int], Line], workers: int) -> None:
        """line: from an order's priority to what carries it. workers: that were there when the network was agreed."""
        self._network, self._token, self._line, self._workers = network, token, line, workers
        self.notes: list[str] = []

    def panels(self, opened: OpenScene, context: PredictContext) -> tuple[range, ...]:
        """Cut the map into column panels that the worker with the least memory has room for."""
        del context
        network = self._network
        return panels_elsewhere(
            opened.memory_model, limit=network.memory, resident=network.resident, free=network.free
        )

    def make_all(
        self, scene: Scene, opened: OpenScene, context: PredictContext, ledger: PieceLedger, label: str
    ) -> tuple[StageSeconds, tuple[str, ...]]:
        """Make every piece that is missing; returns the seconds, and what is to say of the workers."""
        paths: tuple[Path | str, ...] = (*scene.paths, *context.settings.bands.stack)
        look = look_of(opened, paths)
        orders = self._orders(_anywhere(scene), look, opened.memory_model, ledger)
        pieces = sum(-(-len(order.work.rows) // BLOCK) for order in orders)
        tiles = sum(len(rows) for order in orders for rows in (order.work.rows,))
        with context.progress(label, total=pieces, unit="piece") as bar:
            taking = Taking(ledger, bar)
            with taking.stages.at("workers"):
                told = hand_out(orders, self._line(tiles), taking.take) if orders else ()
        taking.stages.add({"workers": -taking.stages.seconds.get("writing", 0.0)})
        return taking.stages, told

    def _orders(
        self, scene: Scene, look: Look, memory_model: MemoryModel, ledger: PieceLedger
    ) -> list[Order]:
        gaps = [(number, gap) for number in range(len(ledger.panels)) for gap in ledger.gaps(number)]
        if not gaps:
            return []
        rows = sum(len(gap) for _, gap in gaps)
        blocks = choose_cut(rows, workers=self._workers, again=rows_again(memory_model)).blocks
        blocks = min(blocks, _blocks_home(memory_model, max(map(len, ledger.panels))))
        orders = []
        for number, gap in gaps:
            panel = f" panel {number + 1} of {len(ledger.panels)}" if len(ledger.panels) > 1 else ""
            for part in grouped([gap], blocks):
                name = f"predict {scene.target.name}{panel} rows {part.start} to {part.stop}"
                work = Group(self._token, self._network, scene, look, ledger.panels, number, part)
                orders.append(Order(name, work))
        return orders


def rows_again(memory_model: MemoryModel) -> int:
    """Count the rows that a border between two groups adds to be computed: those of the tiles that both need."""
    rows, cols = memory_model.extent.rows, memory_model.extent.cols
    middle = rows.start + len(rows) // 2 // BLOCK * BLOCK
    if middle == rows.start:
        return 0
    north, south, whole = (
        len(memory_model.tiles_of(Region(part.start, cols, part.stop)).part.rows.tiles)
        for part in (range(rows.start, middle), range(middle, rows.stop), rows)
    )
    return round(
        (north + south - whole)
        * memory_model.plan.shape.step
        * memory_model.height
        / memory_model.plan.rows.length
    )


def _blocks_home(memory_model: MemoryModel, width: int) -> int:
    """How many rows of blocks may come home at once."""
    packed = sum(_PACKED_BYTES[layer.name] * layer.bands for layer in memory_model.layers)
    return max(1, int(_MOST_HOME / (packed * width * BLOCK)))


def _anywhere(scene: Scene) -> Scene:
    """The scene with the full names of its files. Raises InputError for what only this process can open."""
    if scene.tiles is not None:
        raise InputError(
            "map tiles that are placed by their names are read through files of this process, which workers do not "
            f"see; leave {setting('workers')} out, or join the tiles to one raster first (gdalbuildvrt)"
        )
    return replace(scene, paths=tuple(map(full_name, scene.paths)))


def full_name(path: Path) -> Path:
    """Return the name that a process in another folder opens the same raster by."""
    if is_remote(path) or not os.path.exists(path):  # noqa: PTH110 - a Path raises for names that are too long
        return path
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay links: they may lead elsewhere there


@contextmanager
def on_workers(plan: PredictPlan, progress: Progress) -> Iterator[PredictContext]:
    """The workers of the plan's settings have its network, and the block's maps are made by them.

    Raises SettingsError, naming them, for workers that do not agree on how to compute.
    """
    assert plan.settings.workers is not None
    with connected(plan.settings.workers, device=plan.settings.device) as cluster:
        from aerial_seg.jobs.predict.workers import on_worker

        outfit = _outfit(plan, cluster)
        delivery = on_worker.Delivery(outfit)
        try:
            network = _begun(cluster, delivery)
            hands = WorkerHands(
                network,
                outfit.token,
                lambda priority: DaskLine(cluster, on_worker.make_group, priority=priority),
                len(cluster.workers()),
            )
            model = plan.ensemble.as_one
            notes = (
                *model.notes,
                *plan.notes,
                f"{len(cluster.workers())} workers, {network.runtime.threads} threads each",
            )
            yield PredictContext(model, network, plan.shape, plan.settings, progress, plan.area, notes, hands)
        finally:
            if cluster.client.status == "running" and not cluster.own:
                with suppress(OSError, TimeoutError, ValueError):
                    cluster.client.unregister_worker_plugin(delivery.name)


def _begun(cluster: Cluster, delivery: Any) -> Network:
    """Every worker has what it needs, and all agree; from the beginning again where one is lost meanwhile."""
    for _ in range(TRIES):
        try:
            cluster.client.register_plugin(delivery)
            return agreed(cluster, delivery.outfit.token)
        except (OSError, TimeoutError, CancelledError) as error:
            reason = error
    raise Incomplete(
        f"workers were lost {TRIES} times while they began ({reason}); see to the machines and {SAME_CALL} to go on"
    ) from reason


def _outfit(plan: PredictPlan, cluster: Cluster) -> Outfit:
    settings, models = plan.settings, []
    for model, path in zip(plan.ensemble.models, plan.models, strict=True):
        models.append((path.name, model.sha256, path.read_bytes()))
    device = "cuda" if cluster.own and settings.device.startswith("cuda") else settings.device
    stack = tuple(str(full_name(Path(name))) for name in settings.bands.stack)
    return Outfit(
        token=uuid.uuid4().hex,
        models=tuple(models),
        settings=replace(settings, bands=replace(settings.bands, stack=stack), device=device, vectors=None),
        engine=replace(plan.engine, device=device),
        shape=plan.shape,
        area=plan.area,
        tiles=plan.tiles,
        batch=plan.ensemble.as_one.card.prediction.batch_size,
        before=plan.batch_size or None,
        threads=cluster.threads,
        shares=cluster.sharers(),
    )


def agreed(cluster: Cluster, token: str) -> Network:
    """Start the network on every worker, all with the smallest batch that one of them asks for; what it is like.

    Raises SettingsError, naming it, for a worker that cannot start it or computes otherwise than the others.
    """
    from aerial_seg.jobs.predict.workers import on_worker

    offers = _asked(cluster, on_worker.offer_batch, token)
    batch_size = min(size for size, _ in offers.values())
    notes = next(notes for size, notes in offers.values() if size == batch_size)
    networks = _asked(cluster, on_worker.start, token, batch_size)
    ((_, count),) = Counter(one.runtime for one in networks.values()).most_common(1)
    wanted = next(
        one for one in networks.values() if sum(o.runtime == one.runtime for o in networks.values()) == count
    )
    for worker, network in sorted(networks.items()):
        differences = network.differences(wanted)
        if differences is not None:
            raise SettingsError(
                f"worker {worker} computes otherwise than the others ({differences}), so that its pieces would not fit "
                f"theirs; start workers of one kind, with the same threads and versions, or stop this one"
            )
    free = [one.free for one in networks.values() if one.free is not None]
    agreed_on: Network = replace(
        wanted,
        memory=min(one.memory for one in networks.values()),
        resident=max(one.resident for one in networks.values()),
        free=min(free, default=None),
        notes=(*wanted.notes, *notes),
    )
    return agreed_on


def _result(cluster: Cluster, address: str, future: Any) -> Any:
    """Raises OSError when the worker is gone: nobody else may answer for it, so no answer would come."""
    while True:
        try:
            return future.result(timeout=_LOOK_EVERY)
        except TimeoutError:
            if address not in cluster.workers():
                raise ConnectionError(f"worker {address} is gone") from None


def _asked(cluster: Cluster, function: Callable[..., Any], *given: Any) -> dict[str, Any]:
    """What each worker answers. Raises SettingsError, naming it, for one that cannot."""
    futures = {
        address: cluster.client.submit(
            function, *given, workers=[address], pure=False, key=f"start-{uuid.uuid4().hex}"
        )
        for address in cluster.workers()
    }
    answers = {address: _result(cluster, address, future) for address, future in futures.items()}
    for address, answer in answers.items():
        if isinstance(answer, Failure):
            raise SettingsError(f"worker {address} cannot predict: {answer.reason}")
    return answers
