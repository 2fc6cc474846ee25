"""What is used of Dask, an extra: without it, whoever imports this module is told what to install."""

from __future__ import annotations

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting

try:
    import cryptography  # noqa: F401 - Security.temporary needs it
    import dask
    from distributed import (
        Client,
        Future,
        KilledWorker,
        Nanny,
        Scheduler,
        Security,
        Worker,
        WorkerPlugin,
        get_worker,
    )
    from distributed.deploy.spec import SpecCluster
except ImportError as error:
    raise SettingsError(
        f"{setting('workers')} needs Dask distributed and cryptography ({error}); pip install 'aerial-seg[dask]'"
    ) from error

__all__ = [
    "Client",
    "Future",
    "KilledWorker",
    "Nanny",
    "Scheduler",
    "Security",
    "SpecCluster",
    "Worker",
    "WorkerPlugin",
    "dask",
    "get_worker",
]
