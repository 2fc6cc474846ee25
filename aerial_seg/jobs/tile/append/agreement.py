"""What chips of one dataset have in common: everything else is refused, with what there is and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyproj import CRS

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.values.scaling import SCALED_DTYPE
from aerial_seg.geo.systems import require_common
from aerial_seg.jobs.tile.append.existing import Existing, open_existing
from aerial_seg.jobs.tile.grids import dataset_gsd
from aerial_seg.jobs.tile.layouts.lay_out import layout_of
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.tile_sources import Sources
from aerial_seg.labels.labels import Labels
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting

_FAR = 1.1
"""Between sizes of pixels of one dataset: see grids.run_grids."""


def existing_for(dataset: Path, settings: TileSettings) -> Existing:
    """Open the dataset that is added to. Raises SettingsError for settings that it was not cut with."""
    settings.check_together()
    existing = open_existing(dataset)
    check_settings(existing, settings)
    return existing


def fitting(existing: Existing, sources: Sources, labels: Labels, settings: TileSettings) -> Sources:
    """The sources, each under a name of its own. Raises InputError where they or the labels do not fit the dataset."""
    check_classes(existing, labels.legend)
    check_rasters(existing, sources, settings)
    return named_anew(existing, sources)


def check_settings(existing: Existing, settings: TileSettings) -> None:
    """Raises SettingsError for settings that the dataset was not cut with."""
    document = existing.document
    side = document.chip_size
    pairs: list[tuple[str, Any, Any]] = [
        ("chip_size", settings.chip_size, side),
        ("stride", settings.stride or settings.chip_size, document.stride or side),
        ("split_by", settings.split_by, document.split_by),
        ("layout", settings.layout, layout_of(existing.root)),
    ]
    for name, got, wanted in pairs:
        if got != wanted:
            raise SettingsError(
                f"{existing.root} was made with {setting(name, wanted)}, got {setting(name, got)}; pass "
                f"{setting(name, wanted)}, or choose another output"
            )
    imagery = document.imagery
    if settings.index_only != (imagery is not None):
        there, remedy = ("no images", "pass") if imagery else ("images", "leave out")
        raise SettingsError(
            f"{existing.root} holds {there}, wanted all its chips alike; {remedy} {setting('index_only', True)}, or "
            "choose another output"
        )
    if imagery is None:
        return
    bands = settings.bands
    if imagery.stack or bands.stack:
        raise SettingsError(
            f"{existing.root} holds no images, and one stack of rasters cannot lie on those of two runs; cut all "
            f"without {setting('index_only', True)}"
        )
    here = bands.numbers, bands.names, settings.georeferenced
    if here != (imagery.band_numbers, imagery.band_names, imagery.georeferenced):
        told = ", ".join(map(str, (*imagery.band_numbers, *imagery.band_names))) or "all"
        raise SettingsError(
            f"{existing.root} reads its rasters with other settings (bands: {told}); choose bands and "
            f"{setting('georeferenced')} as they were, or choose another output"
        )


def named_anew(existing: Existing, sources: Sources) -> Sources:
    """The sources, each under a name of its own. Raises InputError where the dataset holds chips of one of them."""
    document = existing.document
    known = {name for source in document.sources for name in (source.members or (source.path,))}
    files = [Path(name) for name in known if Path(name).exists()]
    for info in (member for source in sources.each for member in source.members):
        path = Path(info.path)
        if info.path in known or (path.exists() and any(path.samefile(file) for file in files)):
            raise InputError(
                f"{existing.root} holds chips of {info.path} already; leave it out (another raster of that name is "
                "told apart by its whole path)"
            )
    taken = {source.path for source in document.sources}
    each = []
    for source in sources.each:
        name, number = source.info.path, 1
        while name in taken:
            number += 1
            name = f"{source.info.path} ({number})"
        taken.add(name)
        each.append(replace(source, info=replace(source.info, path=name)))
    return replace(sources, each=tuple(each))


def check_rasters(existing: Existing, sources: Sources, settings: TileSettings) -> None:
    """Raises InputError for rasters that are not as those of the dataset."""
    root, document = existing.root, existing.document
    first, wanted = sources.infos[0], document.bands
    dtype = SCALED_DTYPE if any(sources.scaled) else first.dtype
    scaled = tuple(sources.scaled) or (False,) * len(first.names)
    pairs = (
        ("bands", len(first.names), len(wanted)),
        ("scale and offset applied to bands", _told(scaled), _told([band.scaled for band in wanted])),
        ("dtype", dtype, wanted[0].dtype),
    )
    for what, got, there in pairs:
        if got != there:
            raise InputError(
                f"{first.path} has {what}: {got}, but the chips of {root} have {there}; one dataset needs one: convert "
                "the raster or choose another output"
            )
    _check_offsets(existing, sources, settings)
    old = next(source for source in document.sources if source.crs is not None)
    for info in sources.infos:
        if info.grid.crs is None:
            raise InputError(
                f"{info.path} has no CRS: nothing tells whether it shows the ground of chips of {root}; give it one "
                "(gdal_edit.py -a_srs EPSG:…), or choose another output"
            )
        require_common(info.grid.crs, info.path, CRS.from_user_input(old.crs), old.path)
        _check_gsd(existing, info, settings)


def _check_offsets(existing: Existing, sources: Sources, settings: TileSettings) -> None:
    """Raises InputError where stored numbers are shifted otherwise than those of the dataset, and nobody wants that."""
    former = [band.stored_offsets for band in existing.document.bands]
    if settings.scale == "off" or not any(former):
        return
    for info in (member for source in sources.each for member in source.members):
        names = [band.name for band in existing.document.bands]
        for name, own, known in zip(names, info.scalings, former, strict=True):
            if own.offset not in (known or (0.0,)):
                raise InputError(
                    f"{info.path} declares offset {own.offset:.9g} for band '{name}', but {existing.root} holds "
                    "numbers as they are stored in rasters that declare "
                    f"{' or '.join(f'{one:.9g}' for one in known)}; pass "
                    f"{setting('scale', 'off')} if they are stored alike all the same, or choose another output"
                )


def _told(scaled: Sequence[bool]) -> str:
    return ", ".join(str(k) for k, one in enumerate(scaled, start=1) if one) or "none"


def _check_gsd(existing: Existing, info: RasterInfo, settings: TileSettings) -> None:
    got, wanted = dataset_gsd([info], settings), existing.document.gsd
    if got is None or wanted is None or max(got, wanted) > _FAR * min(got, wanted):
        remedy = (
            "choose another output" if wanted is None else f"pass {setting('gsd', float(f'{wanted:.6g}'))}"
        )
        raise InputError(
            f"{info.path} would have {_metres(got)}, but the chips of {existing.root} have {_metres(wanted)}, wanted "
            f"the same within 10 %; {remedy}"
        )


def _metres(gsd: float | None) -> str:
    return "no known GSD" if gsd is None else f"a GSD of {gsd:.3g} m"


def check_classes(existing: Existing, legend: Legend) -> None:
    """Raises InputError, naming the first that differs, unless the labels have the classes of the dataset."""
    wanted = existing.document.legend
    differing = list(_differing(legend, wanted))
    if not differing:
        return
    told = {
        entry.value if entry.code is None else entry.code: entry.name
        for entry in wanted.entries
    }  # fmt: skip
    table = ",".join(f"{value}={name}" for value, name in told.items())
    raise InputError(
        f"the labels' classes are not those of {existing.root}: {differing[0]}; if they mean the same pass "
        f"{setting('classes', table)}, else cut all at once into another output"
    )


def _differing(got: Legend, wanted: Legend) -> Iterator[str]:
    there = {entry.name: entry for entry in wanted.entries}
    for entry in got.entries:
        if entry.name not in there:
            yield f"got the class '{entry.name}', wanted {', '.join(wanted.names)}"
    here = {entry.name: entry for entry in got.entries}
    for entry in wanted.entries:
        own = here.get(entry.name)
        if own is None:
            yield f"got no class '{entry.name}', wanted {', '.join(wanted.names)}"
        elif (own.value, own.code) != (entry.value, entry.code):
            numbers = [one.value if one.code is None else one.code for one in (own, entry)]
            yield f"class '{entry.name}' is {numbers[0]}, wanted {numbers[1]}"
