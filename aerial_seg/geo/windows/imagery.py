"""Where a dataset's images are read from that holds an index and labels only: the rasters that were cut."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.geo.windows.fingerprints import SourceStates
from aerial_seg.geo.windows.source import WindowSource

FOLDER = "sources"
"""Holds VRTs that the dataset needs: of a mosaic, of map tiles that their names placed."""

Six = tuple[float, float, float, float, float, float]


class OpenedSource(BaseModel):
    """How one of the dataset's sources is opened.

    opened_as: an absolute path, an address, or a VRT in the dataset's own folder. nodata: as a text, which may be nan.
    transform: of the grid that it is cut on, whose shape the source tells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    opened_as: str
    nodata: str | None
    transform: Six


class Imagery(BaseModel):
    """All that makes windows of the sources equal to the chips that `tile` would have cut of them.

    stack, band_numbers, band_names: the choice of bands. states: of all files that are read, as they were then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    opened: Annotated[tuple[OpenedSource, ...], Field(min_length=1)]
    georeferenced: bool
    band_numbers: tuple[int, ...]
    band_names: tuple[str, ...]
    stack: tuple[str, ...]
    scaled: tuple[bool, ...]
    states: SourceStates

    def sources(
        self, root: Path, document: str, told: Sequence[tuple[str, int | None, int | None]]
    ) -> dict[str, WindowSource]:
        """By the name in the index what is opened. document: the dataset's file that holds all this.

        told: of each source its name, and height and width of its grid.
        Raises ValueError where the document does not tell of each source how it is opened.
        """
        choice = BandChoice(self.band_numbers, self.band_names, self.stack)
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()
        found = {}
        for (name, height, width), one in zip(told, self.opened, strict=True):
            if height is None or width is None:
                raise ValueError(f"the grid of {name} is not told")
            own = one.opened_as.startswith(FOLDER + "/")
            opened_as = str((root / one.opened_as).absolute()) if own else one.opened_as
            found[name] = WindowSource(
                name=name,
                opened_as=opened_as,
                transform=one.transform,
                height=height,
                width=width,
                nodata=None if one.nodata is None else float(one.nodata),
                georeferenced=self.georeferenced,
                choice=choice,
                scaled=self.scaled,
                version=f"{digest} {_written(root / document)}",
            )
        return found

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of this machine that images are read from."""
        return tuple(map(Path, self.states.files))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The same on servers."""
        return tuple(self.states.servers)


def _written(path: Path) -> str:
    """When a file of this machine was written, and which it is: datasets are replaced under their old names."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{stat.st_mtime_ns} {stat.st_ino}"
