"""Chips that are not written: windows of the rasters, and what a dataset has to remember to read them again."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from xml.etree import ElementTree as Xml

from aerial_seg.files.names import as_typed
from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.remote import gdal_name, is_remote, without_signature
from aerial_seg.geo.windows.fingerprints import SourceStates
from aerial_seg.geo.windows.imagery import FOLDER, Imagery, OpenedSource
from aerial_seg.geo.windows.source import SourceWindow, WindowSource
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.tile_sources import Sources
from aerial_seg.labels.chip_file import ChipWindow


@dataclass(frozen=True, slots=True)
class IndexedImages:
    """Hold what images are windows of. folder: of the VRTs that were made for this run, which goes when it ends."""

    sources: tuple[WindowSource, ...]
    side: int
    folder: Path

    @classmethod
    def of(
        cls, sources: Sources, grids: Sequence[Grid], settings: TileSettings, folder: Path
    ) -> IndexedImages:
        """The sources as they are cut: on these grids, with these settings."""
        opened = (
            WindowSource.of(
                source.info.path,
                _told(source.opened_as),
                grid,
                nodata=source.nodata,
                choice=settings.bands,
                georeferenced=settings.georeferenced,
            )
            for source, grid in zip(sources.each, grids, strict=True)
        )
        version = secrets.token_hex()
        found = tuple(replace(one, scaled=sources.scaled, version=version) for one in opened)
        return cls(found, settings.chip_size, folder.absolute())

    def image(self, source: int, window: ChipWindow) -> SourceWindow:
        """What stands for the image chip of a window of source number `source`."""
        return SourceWindow(self.sources[source], window.top, window.left, self.side)

    def document(
        self, work: Path, sources: Sources, settings: TileSettings, inside: str = FOLDER
    ) -> tuple[Imagery, list[str]]:
        """What the dataset in `work` remembers of its images, and notes; its folder `inside` holds the run's VRTs."""
        keep_vrts(self.folder, work / inside)
        stack = tuple(map(_told, settings.bands.stack))
        infos = [member for source in sources.each for member in source.members]
        states = SourceStates.of([*infos, *map(raster_info, settings.bands.stack)])
        imagery = Imagery(
            opened=tuple(
                OpenedSource(
                    opened_as=self._opened_as(one.opened_as, inside),
                    nodata=None if one.nodata is None else repr(float(one.nodata)),
                    transform=one.transform,
                )
                for one in self.sources
            ),
            georeferenced=settings.georeferenced,
            band_numbers=settings.bands.numbers,
            band_names=settings.bands.names,
            stack=stack,
            scaled=sources.scaled,
            states=states,
        )
        return imagery, [*_notes(infos[0].path, len(infos)), *states.notes, *_signed(states)]

    def _opened_as(self, text: str, inside: str) -> str:
        path = Path(text)
        return (
            f"{inside}/{path.relative_to(self.folder).as_posix()}"
            if path.is_relative_to(self.folder)
            else text
        )


def _told(path: Path | str) -> str:
    """The raster's name wherever the program is started: an address as it is, a file with its folders."""
    text = as_typed(path)
    if is_remote(path):
        return gdal_name(path)
    inner = find_subdataset(path)
    if inner is not None:
        return text if inner.file.startswith("/vsi") else inner.absolute()
    return text if text.startswith("/vsi") else str(Path(text).absolute())


def _notes(first: str, rasters: int) -> list[str]:
    others = f" and {rasters - 1} other rasters" if rasters > 1 else ""
    return [
        f"images are not written: training reads windows of {first}{others}, which must stay where and as they are"
    ]


def _signed(states: SourceStates) -> Iterable[str]:
    signed = [name for name in states.servers if without_signature(name) != name]
    if signed:
        yield (
            f"{len(signed)} addresses end in what may be a signature, which the dataset keeps: share it with nobody "
            f"who may not read {without_signature(signed[0])}, and mind that it may expire"
        )


def keep_vrts(folder: Path, into: Path) -> None:
    """`into` holds the VRTs of `folder`, which name each other from where they lie, so that it may be moved.

    GDAL knows no relative names in a VRT that lies in another one as a text: such become files, too. Other rasters are
    named as they were, with all their folders.
    """
    for vrt in sorted(folder.rglob("*.vrt")):
        kept = into / vrt.relative_to(folder)
        _keep(Xml.fromstring(vrt.read_text(encoding="utf-8")), kept, folder, into)


def _keep(root: Xml.Element, kept: Path, folder: Path, into: Path) -> None:
    numbers = count(1)
    for name in root.iter("SourceFilename"):
        text = (name.text or "").strip()
        if text.startswith("<VRTDataset"):
            inner = kept.with_name(f"{kept.stem}-part-{next(numbers)}.vrt")
            _keep(Xml.fromstring(text), inner, folder, into)
            name.text = inner.name
        elif Path(text).is_relative_to(folder):
            place = into / Path(text).relative_to(folder)
            name.text = Path(os.path.relpath(place, kept.parent)).as_posix()
        else:
            continue
        name.set("relativeToVRT", "1")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(Xml.tostring(root, encoding="unicode"), encoding="utf-8", newline="\n")
