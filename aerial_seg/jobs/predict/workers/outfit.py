"""What a worker is given once to predict with, what it then says of itself, and what it makes of an order."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.geo.areas.area import Area
from aerial_seg.geo.raster.remote import file_behind
from aerial_seg.inference.engines.choose import EngineSettings, Runtime
from aerial_seg.jobs.predict.pieces import Record
from aerial_seg.jobs.predict.scenes import OpenScene, Scene
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.tiling.plan import TileShape

_ENDS = 1 << 16
"""Bytes at either end of a file that tell it from another of the same length."""


@dataclass(frozen=True, slots=True)
class Outfit:
    """Hold what every order of a run needs, sent to each worker once.

    models: the name, SHA-256 and content of each model file. batch: what a model asks for. before: the batch size of an
    interrupted run. tiles: in all maps together. threads: of the network; None: those of the worker. shares: by a
    worker's address how many share its machine.
    """

    token: str
    models: tuple[tuple[str, str, bytes], ...]
    settings: PredictSettings
    engine: EngineSettings
    shape: TileShape
    area: Area | None
    tiles: int
    batch: int
    before: int | None
    threads: int | None
    shares: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Network:
    """Hold what the network of one worker is like; that of all is the same, but for what is to say of it.

    It answers what a map's plan asks of a predictor. gdal: the version that reads rasters. memory: bytes
    that the worker may use; resident: the most it holds while a batch runs; free: of its GPU, if it has one.
    """

    runtime: Runtime
    batch_size: int
    planes: int
    inputs: tuple[tuple[int, Band], ...]
    largest_side: int
    carrier: str
    device: torch.device
    depth: int
    gdal: str
    memory: int = field(compare=False)
    resident: int = field(compare=False)
    free: int | None = field(compare=False)
    notes: tuple[str, ...] = field(compare=False, default=())

    def differences(self, agreed: Network) -> str | None:
        """Tell in what it differs from what is agreed, as `threads is 2, wanted 1`; None where it does not."""
        own, wanted = self._facts(), agreed._facts()
        told = [f"{key} is {own[key]}, wanted {wanted[key]}" for key in own if own[key] != wanted[key]]
        return "; ".join(told) or None

    def _facts(self) -> dict[str, Any]:
        return {
            **{name: getattr(self.runtime, name) for name in Runtime.__dataclass_fields__},
            "GDAL": self.gdal,
            "planes": self.planes,
            "largest side": self.largest_side,
        }

    def host_batch(self, side: int) -> NoReturn:
        """Raise: it computes nothing here."""
        raise self._elsewhere()

    def submit(self, images: Any) -> NoReturn:
        """Raise: it computes nothing here."""
        raise self._elsewhere()

    def run(self, images: Any) -> NoReturn:
        """Raise: it computes nothing here."""
        raise self._elsewhere()

    def logits(self, images: Any) -> NoReturn:
        """Raise: it computes nothing here."""
        raise self._elsewhere()

    def _elsewhere(self) -> RuntimeError:
        return RuntimeError("the network is on the workers")


@dataclass(frozen=True, slots=True)
class Look:
    """Say what a worker must find where it opens a scene, so that it makes pieces of the same map.

    shape: of the output. run: of the grid that the network sees. extent: rows and columns. files: see sum_of_files.
    """

    shape: tuple[int, int]
    run: tuple[int, int]
    extent: tuple[int, int, int, int]
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Group:
    """Ask for rows of a panel of a scene, whole rows of blocks."""

    token: str
    agreed: Network
    scene: Scene
    look: Look
    panels: tuple[range, ...]
    panel: int
    rows: range


@dataclass(frozen=True, slots=True)
class Parcel:
    """Carry a finished piece: its record, its files as SegmentStore gives them, and a sum over both."""

    record: Record
    files: Mapping[str, bytes | None]
    sum: int

    @classmethod
    def of(cls, record: Record, files: Mapping[str, bytes | None]) -> Parcel:
        """Make one with its sum."""
        return cls(record, files, _sum(record, files))

    @property
    def is_whole(self) -> bool:
        """Tell whether it is what was sent."""
        return _sum(self.record, self.files) == self.sum


@dataclass(frozen=True, slots=True)
class Made:
    """Bring home the pieces of a group, north to south, from the worker of this name. seconds: by stage."""

    worker: str
    parcels: tuple[Parcel, ...]
    seconds: Mapping[str, float]


def _sum(record: Record, files: Mapping[str, bytes | None]) -> int:
    total = zlib.crc32(json.dumps(record, sort_keys=True).encode())
    for name, data in sorted(files.items()):
        total = zlib.crc32(data or b"", zlib.crc32(f"{name} {data is None}".encode(), total))
    return total


def sum_of_files(names: Iterable[Path | str]) -> dict[str, str]:
    """Return what tells each file behind these rasters from another, wherever its copy lies: by its own name.

    Its length and both of its ends; the time of a copy is not that of the file.
    """
    found = {file for name in names if (file := file_behind(name)) is not None and file.is_file()}
    sums: dict[str, str] = {}
    for file in sorted(found):
        size = file.stat().st_size
        with file.open("rb") as opened:
            digest = hashlib.sha256(opened.read(_ENDS))
            opened.seek(max(0, size - _ENDS))
            digest.update(opened.read(_ENDS))
        sums[file.name] = f"{size} bytes, {digest.hexdigest()[:16]}"
    return sums


def look_of(opened: OpenScene, paths: Iterable[Path | str]) -> Look:
    """Tell what an opened scene looks like. paths: its rasters, and what is stacked on them."""
    memory_model = opened.memory_model
    rows, cols = memory_model.extent.rows, memory_model.extent.cols
    return Look(
        shape=(memory_model.height, memory_model.width),
        run=opened.raster.grid.shape,
        extent=(rows.start, rows.stop, cols.start, cols.stop),
        files=sum_of_files(paths),
    )


def require_same(wanted: Look, found: Look) -> None:
    """Raise InputError, naming it, for a file or a size that is not what the one who asks has seen."""
    for name, told in wanted.files.items():
        if found.files.get(name) != told:
            raise InputError(
                f"{name} is another file there: {found.files.get(name, 'it is missing')}, wanted {told}; copy it anew, "
                "or name a folder that all machines share"
            )
    if found != wanted:
        raise InputError(
            f"the raster is seen otherwise there: {found.shape}, {found.run}, {found.extent}, wanted {wanted.shape}, "
            f"{wanted.run}, {wanted.extent}; install the same versions everywhere"
        )
