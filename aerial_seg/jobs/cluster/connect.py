"""Dask's workers: those of a cluster that is there, or of one on this machine for as long as a run lasts."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.operating_system import usable_cores
from aerial_seg.mentions import setting
from aerial_seg.models.device import pick_device, usable_devices

SECONDS_TO_CONNECT = 30
_HERE = "127.0.0.1"
"""Who reaches a port of Dask's runs code: those of a cluster of our own are reached from this machine alone."""
_PACKAGES = ("aerial_seg", "torch", "numpy", "numba", "rasterio")
"""That results depend on, besides what is agreed on when the networks run."""


def check_dask_installed() -> None:
    """Raise SettingsError, telling the remedy, unless Dask distributed can be imported."""
    import_module("aerial_seg.jobs.cluster.library")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Hold a connection to workers, by Dask's Client.

    threads: of the network in each; None: as many as the worker was started with.

    own: whether the workers are of this run alone, and end with it.
    """

    client: Any
    threads: int | None
    own: bool

    def workers(self) -> dict[str, str]:
        """Return the workers that are there now: name by address."""
        known = self.client.scheduler_info(n_workers=-1)["workers"]
        return {address: _name(address, worker) for address, worker in known.items()}

    def sharers(self) -> dict[str, int]:
        """Return by address of a worker how many share its machine, itself included."""
        known = self.client.scheduler_info(n_workers=-1)["workers"]
        on_host = Counter(worker["host"] for worker in known.values())
        return {address: on_host[worker["host"]] for address, worker in known.items()}


def _name(address: str, worker: Mapping[str, Any]) -> str:
    """As people call it: the name it was given, and where it is."""
    name = worker.get("name")
    return address if name in (None, address) else f"{name} at {address}"


@contextmanager
def connected(workers: str, *, device: str) -> Iterator[Cluster]:
    """Workers as `--workers` names them are there while the block lasts.

    workers: a number, the address of a scheduler, or its file. device: that networks are to run on. Raises
    SettingsError for more workers than there are GPUs and without Dask, InputError for a scheduler that does not answer
    or has no workers.
    """
    check_dask_installed()
    from aerial_seg.jobs.cluster.library import Client, dask

    quiet = {
        "distributed.comm.timeouts.connect": f"{SECONDS_TO_CONNECT}s",
        "distributed.logging.distributed": "critical",
        "distributed.admin.tick.limit": "1h",
    }
    for name in ("distributed", "tornado", "asyncio", "bokeh"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(quiet), ExitStack() as stack:
        if workers.isdigit():
            count = int(workers)
            address, threads = (
                stack.enter_context(_own_cluster(count, device)),
                max(1, usable_cores() // count),
            )
        else:
            count, address, threads = (
                1,
                {"scheduler_file": workers} if "://" not in workers else {"address": workers},
                None,
            )
        try:
            client = Client(**address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
            stack.callback(_close, client)
            client.wait_for_workers(count, timeout=4 * SECONDS_TO_CONNECT)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(
                f"{setting('workers', workers)}: no workers there ({_first_line(error)}); start a scheduler and "
                "workers (dask scheduler, dask worker), or give a number of workers on this machine"
            ) from error
        made = Cluster(client, threads, threads is not None)
        if not made.own:
            check_versions(client)
        yield made


def _close(client: Any) -> None:
    with suppress(OSError, TimeoutError):
        client.close(timeout=5)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@contextmanager
def _own_cluster(count: int, device: str) -> Iterator[dict[str, Any]]:
    """So many processes on this machine, on a GPU each where networks run on those, and how a client reaches them."""
    from aerial_seg.jobs.cluster.library import Nanny, Scheduler, Security, SpecCluster

    # Others on this machine reach the ports, too: without these keys they get no word in.
    security = Security.temporary()
    gpus = usable_devices(pick_device(device))
    if gpus and count > len(gpus):
        raise SettingsError(
            f"{setting('workers', str(count))}: {len(gpus)} GPUs can be used, wanted one for each worker; pass at most "
            f"{len(gpus)}, or {setting('device', 'cpu')}"
        )
    with tempfile.TemporaryDirectory(prefix="aerial-seg-workers-", ignore_cleanup_errors=True) as folder:
        common = {
            "host": _HERE, "nthreads": 1, "memory_limit": 0, "dashboard": False, "security": security,
            "silence_logs": logging.CRITICAL, "local_directory": folder,
        }  # fmt: skip
        cluster = SpecCluster(
            workers={
                number: {"cls": Nanny, "options": {**common, "env": gpus[number] if gpus else {}}}
                for number in range(count)
            },
            scheduler={
                "cls": Scheduler,
                "options": {
                    "host": _HERE, "port": 0, "dashboard_address": f"{_HERE}:0",
                    "dashboard": find_spec("bokeh") is not None, "security": security,
                },
            },
            security=security,
            silence_logs=logging.CRITICAL,
        )  # fmt: skip
        try:
            yield {"address": cluster.scheduler_address, "security": security}
        finally:
            with suppress(OSError, TimeoutError):
                cluster.close(timeout=10)


def check_versions(client: Any) -> None:
    """Raise SettingsError, naming them, for workers that have other versions than this process of what matters."""
    told: Any = client.get_versions(packages=list(_PACKAGES))
    wanted = _versions(told["client"])
    for address, worker in sorted(told["workers"].items()):
        for name, version in _versions(worker).items():
            if version != wanted[name]:
                got = f"has {name} {version}" if version else f"has no {name}"
                raise SettingsError(
                    f"worker {address} {got}, wanted {wanted[name]} as here; install the same versions everywhere"
                )


def _versions(told: Mapping[str, Any]) -> dict[str, str | None]:
    python = ".".join(str(told["host"]["python"]).split(".")[:2])
    return {"python": python, **{name: told["packages"].get(name) for name in _PACKAGES}}
