"""From cut chips to their splits, with a count and a reason for each that is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from shapely import STRtree

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.remote import public_name
from aerial_seg.jobs.tile.chip_cutter import ChipRecord
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.shares import Share, named_splits
from aerial_seg.jobs.tile.splits.areas import SplitAreas
from aerial_seg.jobs.tile.splits.ground import blocks_of, overlapping
from aerial_seg.jobs.tile.splits.scenes import OUT, names_of, splits_of_scenes
from aerial_seg.jobs.tile.splits.spread import Units, choose_folds, choose_parts
from aerial_seg.mentions import setting
from aerial_seg.training.validation.ground import touching

USUAL_BLOCK, FEWEST_UNITS = 2, 4
"""Chips along a split block, and how many units a split must have for its score to say something."""


@dataclass(frozen=True, slots=True)
class CutChips:
    """The chips that were cut: records, their outlines in one CRS, and the sources with the grid that each has.

    members: of each source the rasters that it is made of.
    """

    records: Sequence[ChipRecord]
    places: Sequence[Any]
    infos: Sequence[RasterInfo]
    grids: Sequence[Grid]
    members: Sequence[Sequence[RasterInfo]]

    def grid_of(self, record: ChipRecord, size: int) -> Grid:
        """The part of a chip that lies in its raster."""
        grid, window = self.grids[record.source], record.window
        return grid.window(
            top=window.top,
            left=window.left,
            height=min(size, grid.height - window.top),
            width=min(size, grid.width - window.left),
        )


@dataclass(slots=True)
class Assigned:
    """Hold a split and a unit for each chip. splits: '' for one that is left out. notes: why, and what else is odd.

    wanted: the splits that were asked for; in_areas: those of them that areas name. of_what: what a unit is, for
    messages.
    """

    splits: list[str]
    units: list[Hashable]
    wanted: tuple[str, ...]
    of_what: str
    in_areas: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def check_shares(
    settings: TileSettings, members: Sequence[Sequence[RasterInfo]], areas: SplitAreas | None
) -> None:
    """Raises SettingsError for shares that cannot work, before anything is cut, and for what areas leave nothing to."""
    if areas is not None:
        _refuse_idle(settings, areas)
    shares = _free_shares(settings, areas)
    if areas is not None and not areas.are_splits:
        named_splits(
            areas.names,
            shares,
            what="groups",
            meant=f"the values of the field '{areas.field}'",
            rest=not settings.append,
        )
    else:
        named_splits(names_of(members), shares, rest=not settings.append)


def _refuse_idle(settings: TileSettings, areas: SplitAreas) -> None:
    """Raises SettingsError for what would change nothing, or mean another thing than the areas say."""
    all_said = areas.are_splits and areas.outside != "divided"
    told = f"the field '{areas.field}' says {'of all ground what it is for' if all_said else 'what is never divided'}"
    if settings.block is not None and (all_said or not areas.are_splits):
        raise SettingsError(f"{setting('block', settings.block)} cannot apply: {told}; leave it out")
    if settings.folds is not None and areas.are_splits and (all_said or "val" in areas.names):
        told = told if all_said else f"the field '{areas.field}' says what is for validation"
        raise SettingsError(
            f"{setting('folds', settings.folds)} and {setting('fold')} cannot apply: {told}; leave them out, or name "
            "test areas alone"
        )
    for name, share in settings.shares().items():
        usual = getattr(settings, name) == getattr(TileSettings(), name)
        if areas.are_splits and (all_said or name in areas.names) and not usual and share != Share():
            raise SettingsError(
                f"{setting(name, getattr(settings, name))} cannot apply: the field '{areas.field}' says what is for "
                f"{'validation' if name == 'val' else name}; leave it out"
            )


def _free_shares(settings: TileSettings, areas: SplitAreas | None) -> dict[str, Share]:
    """What fractions and globs still have to say: not of splits that areas name, nor of validation among folds."""
    shares = settings.shares()
    for name in ("val", "test"):
        if areas is not None and areas.are_splits and (name in areas.names or areas.outside != "divided"):
            del shares[name]
    if settings.folds is not None:
        shares.pop("val", None)
    return shares


def assign_splits(chips: CutChips, settings: TileSettings, areas: SplitAreas | None) -> Assigned:
    """Give each chip its split, so that no ground is in two, whatever the order of the sources.

    Raises InputError where nothing is left for training, or there are fewer units than folds.
    """
    shares = _free_shares(settings, areas)
    notes: list[str] = []
    if areas is not None and not areas.are_splits:
        seen = _groups_seen(chips, areas, settings, notes)
        units: list[Hashable] = [min(groups, key=lambda name: (-groups[name], name)) if groups else OUT
                                 for groups in seen]  # fmt: skip
        splits_of_groups = named_splits(areas.names, shares, rest=not settings.append)
        by_name = dict(zip(areas.names, splits_of_groups, strict=True))
        named = [by_name.get(str(unit), OUT) for unit in units]
        labels, of_what = _dealt(chips, units, named, shares, settings, notes), "group"
        labels = _unanimous(labels, units, seen, notes)
    else:
        named = _named(chips, settings, shares, areas, notes)
        free = [i for i, name in enumerate(named) if name is None]
        units, of_what = _units(chips, free, shares, settings, notes)
        labels = _dealt(chips, units, named, shares, settings, notes)
    wanted = [name for name, share in shares.items() if share.fraction or share.pattern]
    in_areas = tuple(name for name in ("val", "test") if areas and areas.are_splits and name in areas.names)
    wanted += in_areas
    if settings.folds is not None:
        wanted.append("val")
    splits = _without_common_ground(chips, labels, settings, notes)
    return Assigned(splits, units, tuple(sorted(set(wanted), reverse=True)), of_what, in_areas, notes)


def _named(
    chips: CutChips,
    settings: TileSettings,
    shares: dict[str, Share],
    areas: SplitAreas | None,
    notes: list[str],
) -> list[str | None]:
    """The split of each chip that an area or a glob names, '' where it is in none, None where fractions decide."""
    reasons: Counter[str] = Counter()
    grids = [chips.grid_of(record, settings.chip_size) for record in chips.records]
    of_scenes: list[str | None] = []
    if areas is None or areas.outside == "divided":
        own = [(record.source, grid) for record, grid in zip(chips.records, grids, strict=True)]
        of_scenes = splits_of_scenes(own, chips.grids, chips.members, shares, rest=not settings.append)
    across = "that reach into scenes of two splits"
    if areas is None:
        lost = of_scenes.count(OUT)
        notes += [f"{lost} chips {across} were left out"] if lost else []
        return of_scenes
    named: list[str | None] = []
    for number, grid in enumerate(grids):
        seen = areas.seen(grid)
        if len(seen) > 1:
            reasons["that reach into areas of two splits"] += 1
            named.append(OUT)
        elif seen:
            ((name, pixels),) = seen.items()
            part = areas.whole and 2 * pixels < grid.height * grid.width
            reasons["less than half of which lies in a split's area"] += part
            named.append(OUT if part else name)
        elif areas.outside == "divided":
            named.append(of_scenes[number])
            reasons[across] += of_scenes[number] == OUT
        else:
            reasons["outside of all split areas"] += areas.outside == "left out"
            named.append(OUT if areas.outside == "left out" else None)
    notes += [f"{count} chips {why} were left out" for why, count in reasons.items() if count]
    if areas.outside == "nearest":
        named = list(_as_nearest(chips.places, named))
    return named


def _groups_seen(
    chips: CutChips, areas: SplitAreas, settings: TileSettings, notes: list[str]
) -> list[dict[str, int]]:
    """The groups that each chip shows, with their pixels; empty for a chip that is left out."""
    seen = [areas.seen(chips.grid_of(record, settings.chip_size)) for record in chips.records]
    if areas.outside == "nearest":
        main = [min(one, key=lambda name: (-one[name], name)) if one else None for one in seen]
        near = _as_nearest(chips.places, main)
        return [one or {str(name): 0} for one, name in zip(seen, near, strict=True)]
    outside = sum(not one for one in seen)
    if outside:
        notes.append(f"{outside} chips outside of all split areas were left out")
    return seen


def _as_nearest(places: Sequence[Any], named: Sequence[str | None]) -> list[str]:
    """What has no name gets that of the nearest chip that has one; of equally near ones the first by name."""
    known = sorted(
        ((name, *shapely.bounds(place).tolist()), place)
        for name, place in zip(named, places, strict=True)
        if name
    ) if any(named) else []  # fmt: skip
    if not known:
        return [name or OUT for name in named]
    tree = STRtree([place.centroid for _, place in known])
    return [
        name if name is not None else known[int(tree.nearest(place.centroid))][0][0]
        for name, place in zip(named, places, strict=True)
    ]


def _units(
    chips: CutChips,
    free: Sequence[int],
    shares: dict[str, Share],
    settings: TileSettings,
    notes: list[str],
) -> tuple[list[Hashable], str]:
    """What is never divided, per chip: its source, or the square of ground that its middle lies in; and its name."""
    records = chips.records
    if settings.split_by == "source":
        keys = [(public_name(info.path), info.path) for info in chips.infos]
        return [keys[record.source] for record in records], "source"

    def blocks(side: int) -> list[Hashable]:
        return blocks_of(
            [record.window for record in records],
            chips.places,
            sources=len(chips.infos),
            chip_size=settings.chip_size,
            side=side,
        )

    if settings.block is not None:
        return blocks(settings.block), "block"
    usual = blocks(USUAL_BLOCK)
    count = len({usual[i] for i in free if records[i].window.apart})
    fractions = [share.fraction for share in shares.values() if share.fraction]
    if settings.folds is not None:
        fractions.append(1 / settings.folds)
    if min(fractions, default=1.0) * count >= FEWEST_UNITS or not fractions:
        return usual, "block"
    notes.append(
        f"split blocks are single chips: of {USUAL_BLOCK} × {USUAL_BLOCK} chips there are {count}, too few "
        f"to spread validation and test over the ground ({setting('block', USUAL_BLOCK)} takes them all the same)"
    )
    return blocks(1), "block"


def _dealt(
    chips: CutChips,
    units: list[Hashable],
    named: Sequence[str | None],
    shares: dict[str, Share],
    settings: TileSettings,
    notes: list[str],
) -> list[str]:
    """The split of each chip: `named`, else that of its unit; `fold 1` and so on where there are folds."""
    free = [i for i, name in enumerate(named) if name is None]
    # Windows side by side show each pixel once, whatever the stride.
    apart = [i for i in free if chips.records[i].window.apart]
    wanted = {name: share.fraction for name, share in shares.items() if share.fraction > 0}
    chosen: dict[Hashable, str] = {}
    if apart and (wanted or settings.folds):
        places = [chips.places[i] for i in apart]
        counts = np.array([chips.records[i].counts for i in apart])
        whole = Units.of([units[i] for i in apart], counts, places, touching(places))
        chosen = choose_parts(whole, wanted, seed=settings.seed) if wanted else {}
        notes += _far_from_wanted(whole, chosen, wanted, settings)
        if settings.folds is not None:
            rest = whole.without(np.array([name in chosen for name in whole.names]))
            if len(rest) < settings.folds:
                raise InputError(
                    f"there are {len(rest)} units of ground beside the test's, wanted one for each of the "
                    f"{settings.folds} folds at least; use fewer ({setting('folds')}), smaller chips "
                    f"({setting('chip_size')}) or smaller blocks ({setting('block')})"
                )
            folds = choose_folds(rest, settings.folds, seed=settings.seed)
            chosen |= {unit: f"fold {fold}" for unit, fold in folds.items()}
    return [
        chosen.get(unit, "train") if name is None else name for unit, name in zip(units, named, strict=True)
    ]


def _far_from_wanted(
    units: Units, chosen: dict[Hashable, str], wanted: dict[str, float], settings: TileSettings
) -> list[str]:
    """Note where units are so large that a split is far from its fraction."""
    notes = []
    for name, fraction in wanted.items():
        own = np.array([chosen.get(unit) == name for unit in units.names])
        got = float(units.chips[own].sum() / units.chips.sum())
        if got and not fraction / 1.5 <= got <= fraction * 1.5:
            smaller = (
                f"; use smaller blocks ({setting('block')}) or smaller chips ({setting('chip_size')})"
                if settings.split_by == "block"
                else ""
            )
            notes.append(
                f"{name} is {100 * got:.3g} % of the chips that are divided, {setting(name)} says "
                f"{100 * fraction:.3g} %: what is never divided is that large{smaller}"
            )
    return notes


def _unanimous(
    labels: list[str], units: list[Hashable], seen: Sequence[dict[str, int]], notes: list[str]
) -> list[str]:
    """A chip that shows several groups stays where they are all in one split."""
    of_group = dict(zip(units, labels, strict=True))
    found = []
    for label, groups in zip(labels, seen, strict=True):
        ways = {of_group.get(name, "train") for name in groups}
        found.append(label if len(ways) == 1 else OUT)
    lost = sum(len(groups) > 1 and not label for groups, label in zip(seen, found, strict=True))
    if lost:
        notes.append(f"{lost} chips that show groups of two splits were left out")
    return found


def _without_common_ground(
    chips: CutChips, labels: Sequence[str], settings: TileSettings, notes: list[str]
) -> list[str]:
    """The splits of the chips that stay: where two share ground training gives way to val, both to test.

    Validation and test are windows side by side whatever the stride. Folds give way to each other in their order,
    whichever is held out, so that no pixel is in two of them.
    """
    folds = [f"fold {number}" for number in range(1, 1 + (settings.folds or 0))]
    held = ["test", *(folds or ["val"])]
    windows = [record.window for record in chips.records]
    at_stake = [
        label if label in held and window.apart else OUT
        for label, window in zip(labels, windows, strict=True)
    ]
    ranks = {name: rank for rank, name in enumerate(reversed(held))}
    gone = set(overlapping(chips.places, at_stake, ranks))
    val = f"fold {settings.fold}" if folds else "val"
    splits: list[str] = []
    twice = sum(
        label in ("test", val) and not window.apart for label, window in zip(labels, windows, strict=True)
    )
    if twice:
        notes.append(
            f"{twice} chips of validation and test ground that overlap others of it were left out: there each pixel "
            "counts once"
        )
    for number, (label, window) in enumerate(zip(labels, windows, strict=True)):
        if label in ("test", val):
            split = label if window.apart and number not in gone else OUT
            splits.append("val" if split == val else split)
        else:
            splits.append("train" if label else OUT)
    lost = {i for i in gone if labels[i] in ("test", val)}
    late = overlapping(chips.places, splits, {"train": 0, "val": 1, "test": 1})
    for number in late:
        splits[number] = OUT
    lost |= set(late)
    if lost:
        notes.append(f"{len(lost)} chips that overlap another split's ground were left out")
    return splits
