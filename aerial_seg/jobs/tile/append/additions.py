"""From newly cut chips to the dataset that holds them and the former ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
from pyproj import CRS

from aerial_seg.errors import InputError
from aerial_seg.geo.map_tiles.drafts import as_told
from aerial_seg.geo.windows.fingerprints import SourceStates
from aerial_seg.geo.windows.imagery import FOLDER, Imagery
from aerial_seg.jobs.tile.append.existing import Existing
from aerial_seg.jobs.tile.chip_cutter import ChipCutter, ChipRecord
from aerial_seg.jobs.tile.dataset_writer import (
    DividedChips,
    Read,
    WholeDataset,
    cutting_notes,
    described_sources,
    stay,
    write_dataset,
    written_chip,
)
from aerial_seg.jobs.tile.grids import dataset_gsd
from aerial_seg.jobs.tile.index_only import IndexedImages
from aerial_seg.jobs.tile.inputs import Ready
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.splits.assign import Assigned, CutChips, assign_splits
from aerial_seg.jobs.tile.splits.doubts import split_notes
from aerial_seg.jobs.tile.splits.ground import overlapping
from aerial_seg.jobs.tile.tile_sources import Sources
from aerial_seg.training.manifest import INDEX, SPLITS, DatasetDocument

_OUT = ""
_OF_IMAGES = "images are not written: training reads windows of"
"""What is true of former chips as long as they are there."""
_LOOKED_AT = 3
"""Chips of equal outline whose pixels tell whether two rasters are one."""


@dataclass(frozen=True, slots=True)
class Added:
    """Hold what adding comes to: the new chips that may stay, all chips, the CRS of their outlines, and the notes."""

    new: DividedChips
    whole: DividedChips
    crs: CRS
    notes: tuple[str, ...]


def divide_added(
    work: Path,
    cutter: ChipCutter,
    ready: Ready,
    sources: Sources,
    existing: Existing,
    read: Callable[[ChipRecord], Read],
) -> Added:
    """Give the new chips their splits; those that may not stay are deleted from `work`. read: gives one of them.

    Raises InputError where rasters are of the dataset already under another name, or none of their chips may stay.
    """
    settings, legend = cutter.settings, existing.document.legend
    _require_new(cutter, sources, existing, read)
    crs, note = _common_crs(sources, existing)
    new, notes = _divided(work, cutter, ready, sources, existing, crs)
    whole = _whole(existing, new, crs)
    first, others = sources.infos[0].path, len(sources.each) - 1
    told = (
        f"{len(new.records)} chips of {first}{f' and {others} other rasters' if others else ''} were added to the "
        f"{len(existing.records)} that were there",
        *_of_former(existing, settings),
        *notes,
        *([note] if note else []),
        *split_notes(whole.kept(legend), whole.assigned, settings),
    )
    return Added(new, whole, crs, tuple(dict.fromkeys(told)))


def add_chips(
    work: Path,
    cutter: ChipCutter,
    ready: Ready,
    sources: Sources,
    existing: Existing,
    indexed: IndexedImages | None,
) -> tuple[DatasetDocument, dict[str, int]]:
    """`work`, which holds the new chips, is the dataset with these and the former ones. Returns chips per split.

    Raises InputError as divide_added does.
    """
    settings, before = cutter.settings, len(existing.document.sources)
    read = partial(written_chip, work, indexed)
    added = divide_added(work, cutter, ready, sources, existing, read)
    copied = existing.link_into(work)
    imagery, notes = None, list(added.notes)
    if indexed is not None:
        imagery, more = indexed.document(work, sources, settings, f"{FOLDER}/added-{before}")
        imagery, notes = _merged(existing, imagery), [*notes, *more]
    if copied:
        notes.append(f"{copied} files were copied: this disk has no second names for files")
    told = WholeDataset(
        chips=added.whole,
        crs=added.crs,
        legend=existing.document.legend,
        band_names=tuple(band.name for band in existing.document.bands),
        sources=(*existing.document.sources, *described_sources(cutter, sources)),
        gsd=added_gsd(existing, sources, settings),
        seed=existing.document.seed,
        notes=tuple(dict.fromkeys(notes)),
        imagery=imagery,
        stored_offsets=_offsets(existing, sources),
    )
    numbers = {record.name: k for k, record in enumerate(existing.records)}

    def either(record: ChipRecord) -> Read:
        number = numbers.get(record.name)
        if number is not None:
            return existing.chip(number)
        return read(replace(record, source=record.source - before))

    return write_dataset(work, told, cutter, sources.infos[0], either)


def _offsets(existing: Existing, sources: Sources) -> tuple[tuple[float, ...], ...]:
    """Of each band the offsets that the rasters of former and of new chips declare, where they are not applied."""
    former = [band.stored_offsets for band in existing.document.bands]
    new = sources.stored_offsets
    if not any(former) and not any(new):
        return ()
    pairs = zip(former, new or ((),) * len(former), strict=True)
    return tuple(tuple(sorted({*(old or (0.0,)), *(own or (0.0,))})) for old, own in pairs)


def _require_new(
    cutter: ChipCutter, sources: Sources, existing: Existing, read: Callable[[ChipRecord], Read]
) -> None:
    """Raises InputError for a raster whose ground and pixels are those of one in the dataset, whatever its name."""
    there = {
        (record.window.row, record.window.col, record.place.wkb): k
        for k, record in enumerate(existing.records)
    }
    for number, info in enumerate(sources.infos):
        pairs = [
            (record, there[key])
            for record in cutter.records
            if record.source == number
            and (key := (record.window.row, record.window.col, record.place.wkb)) in there
        ]
        own = sum(record.source == number for record in cutter.records)
        if not own or len(pairs) < own:
            continue
        few = [pairs[int(k)] for k in np.unique(np.linspace(0, len(pairs) - 1, _LOOKED_AT).round())]
        if all(_equal(read(record), existing.chip(k)) for record, k in few):
            name = existing.document.sources[existing.records[few[0][1]].source].path
            raise InputError(
                f"{existing.root} holds chips of {info.path} already, which it knows as {name}: ground and pixels are "
                "the same; leave it out"
            )


def _equal(one: Read, other: Read) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one[:2], other[:2], strict=True)
    )


def _common_crs(sources: Sources, existing: Existing) -> tuple[CRS, str | None]:
    """The CRS of all outlines, as if all had been cut at once, and what to say of it."""
    systems = {source.crs for source in existing.document.sources}
    systems |= {info.grid.crs.to_string() for info in sources.infos if info.grid.crs is not None}
    if len(systems) == 1:
        return existing.crs, None
    return CRS.from_epsg(4326), f"the rasters have {len(systems)} CRSs: {_OF_CRSS}"


_OF_CRSS = f"{INDEX} is in EPSG:4326, chips keep their own"


def _divided(
    work: Path, cutter: ChipCutter, ready: Ready, sources: Sources, existing: Existing, crs: CRS
) -> tuple[DividedChips, list[str]]:
    """The new chips that may stay, with splits; what shows ground of another split's former chips is deleted."""
    settings, areas = cutter.settings, ready.areas
    notes = cutting_notes(cutter, sources, settings.gsd)
    places = _places_in(cutter.records, sources, crs)
    cut = CutChips(cutter.records, places, sources.infos, ready.cut, sources.members)
    assigned = assign_splits(cut, settings, areas)
    gone, again = _beside_former(places, assigned.splits, existing.places_in(crs), existing.splits)
    for number in gone:
        assigned.splits[number] = _OUT
    notes += [*assigned.notes, *(areas.notes if areas else ())]
    if areas is not None and not areas.are_splits:
        notes.append(
            "which groups the former chips show is not known: a group that they share with new ones may be in two "
            "splits"
        )
    if settings.seed != existing.document.seed:
        notes.append(
            f"the new chips were split by seed {settings.seed}, the first by {existing.document.seed}"
        )
    if gone:
        notes.append(
            f"{len(gone)} new chips that overlap ground of former chips of another split were left out"
        )
    if again:
        notes.append(f"{len(again)} new chips show ground that former chips of their split show, too")
    told = [as_told(note, sources.drafts) for note in notes]
    new = stay(cut, assigned, work)
    if not new.records:
        raise InputError(
            f"none of the {len(cut.records)} new chips may be added to {existing.root}: {'; '.join(told[-2:])}; add "
            "rasters of other ground, or cut all at once into another output"
        )
    return new, told


def _places_in(records: Sequence[ChipRecord], sources: Sources, crs: CRS) -> list[Any]:
    found: list[Any] = []
    for record in records:
        own = sources.infos[record.source].grid.crs
        place = record.place
        found.append(place if own == crs else geopandas.GeoSeries([place], crs=own).to_crs(crs).iloc[0])
    return found


def _beside_former(
    places: Sequence[Any], splits: Sequence[str], former: Sequence[Any], formers: Sequence[str]
) -> tuple[list[int], list[int]]:
    """The numbers of new chips on ground of former ones of another split, and of others on ground of their own."""
    together = [*places, *former]
    found: dict[bool, set[int]] = {True: set(), False: set()}
    for split in SPLITS:
        news = ["new" if own == split else _OUT for own in splits]
        for same in (False, True):
            olds = ["former" if (own == split) is same else _OUT for own in formers]
            found[same].update(overlapping(together, [*news, *olds], {"new": 0, "former": 1}))
    return sorted(found[False]), sorted(found[True] - found[False])


def _whole(existing: Existing, new: DividedChips, crs: CRS) -> DividedChips:
    """Former chips and new ones, whose sources and blocks are numbered on."""
    before, blocks = len(existing.document.sources), 1 + max(existing.blocks)
    return DividedChips(
        [*existing.records, *(replace(record, source=record.source + before) for record in new.records)],
        [*existing.splits, *new.splits],
        [*existing.places_in(crs), *new.places],
        [*existing.blocks, *(block + blocks for block in new.blocks)],
        new.assigned,
    )


def added_gsd(existing: Existing, sources: Sources, settings: TileSettings) -> float | None:
    """The mean over all sources."""
    own, before = existing.document.gsd, len(existing.document.sources)
    new = dataset_gsd(sources.infos, settings)
    if own is None or new is None or own == new:
        return own
    return (own * before + new * len(sources.each)) / (before + len(sources.each))


def _of_former(existing: Existing, settings: TileSettings) -> list[str]:
    """The notes of the dataset, said to be of its former chips, but those on splits as a whole: they are made anew."""
    document = existing.document
    former = DividedChips(
        existing.records,
        existing.splits,
        existing.places,
        existing.blocks,
        Assigned([], [], ("val", "test"), document.split_by),
    )
    # What differs by settings comes after what was found.
    told = split_notes(former.kept(document.legend), former.assigned, settings)
    stale = {note.split(";")[0] for note in told} if "train" in existing.splits else set()
    still = [
        note for note in document.notes if note.split(";")[0] not in stale and not note.endswith(_OF_CRSS)
    ]
    ours = re.compile(
        r"of the [0-9]+ chips that were there: |[0-9]+ chips of .* were added to the [0-9]+ that were"
    )
    start = f"of the {len(existing.records)} chips that were there: "
    return [note if ours.match(note) or _OF_IMAGES in note else start + note for note in still]


def _merged(existing: Existing, new: Imagery) -> Imagery:
    """What reads the windows of all sources."""
    old = existing.document.imagery
    assert old is not None
    states = SourceStates(
        files=old.states.files | new.states.files,
        facts=old.states.facts | new.states.facts,
        servers=old.states.servers | new.states.servers,
    )
    return new.model_copy(update={"opened": (*old.opened, *new.opened), "states": states})
