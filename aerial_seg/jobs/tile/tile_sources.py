"""What chips are cut from: each raster by itself, or all of them as one mosaic, as `predict` has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.map_tiles.drafts import MOSAIC, drafts_of
from aerial_seg.geo.map_tiles.placing import Placed
from aerial_seg.geo.raster.mosaic import write_mosaic
from aerial_seg.geo.raster.opening import LIBRARIES
from aerial_seg.geo.raster.raster import Raster, raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.values.scaling import scaled_by_all, stored_offsets
from aerial_seg.inference.match_bands import check_mosaic_bands
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.mentions import setting

_ROWS = 1024
"""Of a raster that are read at once to see whether they can be."""
_FEW = 0.5
"""Share of rasters that hold no whole chip from which on a word about it is said."""


@dataclass(frozen=True, slots=True)
class TileSource:
    """Hold one raster to cut, or several as one.

    info: its facts, under the name that chips and documents tell. opened_as: what is opened, with this nodata value.
    members: the rasters that it is made of, those on top last.
    """

    info: RasterInfo
    opened_as: Path
    nodata: float | None
    members: tuple[RasterInfo, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """Hold all that is cut.

    scaled: of each band whether scale and offset of the files are applied. drafts: what messages call what lies in the
    temporary folder, see drafts_of.
    """

    each: tuple[TileSource, ...]
    scaled: tuple[bool, ...]
    drafts: Mapping[str, str]

    @property
    def infos(self) -> list[RasterInfo]:
        """The facts of each."""
        return [source.info for source in self.each]

    @property
    def members(self) -> list[tuple[RasterInfo, ...]]:
        """The rasters that each is made of."""
        return [source.members for source in self.each]

    @property
    def stored_offsets(self) -> tuple[tuple[float, ...], ...]:
        """Of each band the offsets that are declared and not applied; empty where there is none."""
        infos = [info for members in self.members for info in members]
        return stored_offsets([(info.path, info.scalings) for info in infos], self.scaled)


def find_sources(placed: Placed, settings: TileSettings, folder: Path) -> Sources:
    """What is cut of these rasters, which are alike. `folder` gets the mosaic's VRT and lasts as long as it is read.

    Raises InputError where rasters cannot be one mosaic, or declare scale and offset only in part, SettingsError for
    settings that cannot apply.
    """
    infos = placed.infos
    scaled = _scaled_bands(infos, settings)
    drafts = drafts_of([info.path for info in infos], placed.opened_as, folder)
    if not settings.mosaic or len(infos) == 1:
        notes = (*placed.notes, *_small_notes(infos, settings))
        each = [
            TileSource(info, path, settings.nodata, (info,))
            for info, path in zip(infos, placed.opened_as, strict=True)
        ]
        each[0] = replace(each[0], notes=notes)
        return Sources(tuple(each), scaled, drafts)
    _check_one_source(settings)
    check_mosaic_bands(infos, settings.bands)
    mosaic = write_mosaic(placed.opened_as, folder / MOSAIC, settings.nodata, scaled)
    files = tuple(file for info in infos for file in info.files)
    info = replace(
        raster_info(mosaic.path, settings.bands), path=f"mosaic of {len(infos)} rasters", files=files
    )
    note = f"{mosaic.sources} rasters were cut as one, moved by at most {mosaic.largest_shift:.2f} px"
    return Sources(
        (TileSource(info, mosaic.path, mosaic.nodata, tuple(infos), (*placed.notes, note)),), scaled, drafts
    )


@contextmanager
def telling_member(source: TileSource) -> Iterator[None]:
    """What GDAL cannot read of a mosaic in the block is told of the member that it cannot read, not of all of them."""
    try:
        yield
    except InputError as error:
        if len(source.members) > 1 and isinstance(error.__cause__, LIBRARIES):
            for member in source.members:
                _read_through(member.path)
        raise


def _read_through(path: str) -> None:
    with Raster(path, georeferenced=False) as raster:
        height, width = raster.grid.shape
        for top in range(0, height, _ROWS):
            raster.read(top=top, left=0, height=min(_ROWS, height - top), width=width)


def _check_one_source(settings: TileSettings) -> None:
    """Raises SettingsError for what never divides rasters that become one."""
    if settings.split_by == "source":
        raise SettingsError(
            f"{setting('split_by', 'source')} tells rasters apart that {setting('mosaic', True)} makes one of; pass "
            f"{setting('split_by', 'block')}, or leave {setting('mosaic', True)} out"
        )


def _small_notes(infos: Sequence[RasterInfo], settings: TileSettings) -> tuple[str, ...]:
    """Note when many of several rasters are smaller than a chip, which is filled up with nothing then."""
    small = [info for info in infos if min(info.grid.shape) < settings.chip_size]
    if len(infos) == 1 or settings.mosaic or len(small) <= _FEW * len(infos):
        return ()
    return (
        f"{len(small)} of {len(infos)} rasters are smaller than a chip of {settings.chip_size} px, as {small[0].path}: "
        f"their chips are partly empty; pass {setting('mosaic', True)} if they lie side by side",
    )


def _scaled_bands(infos: Sequence[RasterInfo], settings: TileSettings) -> tuple[bool, ...]:
    """Of each band whether scale and offset are applied; none where no raster declares them, or it was turned off."""
    if settings.scale == "off":
        return ()
    flags = scaled_by_all([(info.path, info.scalings) for info in infos], infos[0].names)
    return flags if any(flags) else ()
