"""From written chips to a dataset: splits, statistics, index layer and document."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning

from aerial_seg.bands import Band
from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.geo.map_tiles.drafts import as_told
from aerial_seg.geo.raster.band_facts import renamed_bands
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.values.accumulator import BandAccumulator
from aerial_seg.geo.raster.values.scaling import SCALED_DTYPE, scaling_notes, tagged_notes
from aerial_seg.geo.systems import local_note
from aerial_seg.geo.windows.imagery import Imagery
from aerial_seg.inference.match_bands import palette_notes
from aerial_seg.inference.match_gsd import gsd_of, is_square
from aerial_seg.jobs.tile.chip_cutter import ChipCutter, ChipRecord
from aerial_seg.jobs.tile.grids import dataset_gsd
from aerial_seg.jobs.tile.in_order import in_order
from aerial_seg.jobs.tile.index_only import IndexedImages
from aerial_seg.jobs.tile.inputs import Ready
from aerial_seg.jobs.tile.splits.assign import Assigned, CutChips, assign_splits
from aerial_seg.jobs.tile.splits.doubts import KeptChips, split_notes
from aerial_seg.jobs.tile.tile_sources import Sources, TileSource
from aerial_seg.labels.chip_file import label_channels, label_style, read_chip
from aerial_seg.legend import Legend
from aerial_seg.outputs.geopackage import write_geopackage
from aerial_seg.outputs.qgis_style import StyleClass, class_polygons, style_text
from aerial_seg.report.qa.chips import QaChip
from aerial_seg.report.qa.split_map import SPLIT_COLOURS
from aerial_seg.report.qa.write import write_qa
from aerial_seg.training.manifest import (
    DOCUMENT,
    INDEX,
    INDEX_LAYER,
    SPLITS,
    DatasetDocument,
    Source,
    TrainingStatistics,
    chip_paths,
    class_statistics,
    pixel_columns,
)
from aerial_seg.vectors.files import write_errors
from aerial_seg.version import __version__

Read = tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.uint8]]
"""A chip: image (C,h,w), measured pixels (h,w), labels (h,w)."""
_DERIVED = ("source", "block", "top", "left")
_SPLIT_STYLE = class_polygons(
    [StyleClass(split, split, SPLIT_COLOURS[split]) for split in SPLITS], column="split", veil=True
)
"""How QGIS draws the index: by split, with the imagery below shining through."""


@dataclass(frozen=True, slots=True)
class DividedChips:
    """Hold the chips that stay: records, splits, outlines in one CRS, and the number of the split block of each."""

    records: list[ChipRecord]
    splits: list[str]
    places: list[Any]
    blocks: list[int]
    assigned: Assigned

    def of(self, split: str) -> list[ChipRecord]:
        """The chips of one split."""
        return [record for record, own in zip(self.records, self.splits, strict=True) if own == split]

    def kept(self, legend: Legend) -> KeptChips:
        """The same, as `split_notes` looks at them."""
        counts = np.array([record.counts for record in self.records]).reshape(-1, len(legend))
        return KeptChips(self.splits, self.blocks, self.places, counts, legend.names)

    def class_pixels(self, legend: Legend) -> dict[str, dict[str, int]]:
        """Split → class name → labelled pixels."""
        return {
            split: {
                name: sum(int(r.counts[k]) for r in self.of(split)) for k, name in enumerate(legend.names)
            }
            for split in SPLITS
        }


@dataclass(frozen=True, slots=True)
class WholeDataset:
    """Hold what a dataset is to tell beside what follows from its chips and their settings.

    crs: of the outlines. sources: those that the records number.
    """

    chips: DividedChips
    crs: CRS | None
    legend: Legend
    band_names: tuple[str, ...]
    sources: tuple[Source, ...]
    gsd: float | None
    seed: int
    notes: tuple[str, ...]
    imagery: Imagery | None
    stored_offsets: tuple[tuple[float, ...], ...] = ()
    """Of each band, see Band; empty where there is none to tell."""

    def bands(self, counted: BandAccumulator) -> tuple[Band, ...]:
        """What the dataset tells of its bands."""
        bands = counted.bands()
        offsets = self.stored_offsets or ((),) * len(bands)
        return tuple(
            band.model_copy(update={"stored_offsets": own}) for band, own in zip(bands, offsets, strict=True)
        )


def assemble(
    work: Path,
    cutter: ChipCutter,
    sources: Sources,
    ready: Ready,
    indexed: IndexedImages | None = None,
) -> tuple[DatasetDocument, dict[str, int]]:
    """Split and describe the written chips: `work` then holds their index and document. Returns chips per split.

    ready: the grids that each source was cut on, and what polygons say of splits. indexed: what images are windows of,
    where they were not written.
    """
    settings = cutter.settings
    chips, crs, notes = divide(work, cutter, sources, ready)
    imagery, more = (None, []) if indexed is None else indexed.document(work, sources, settings)
    told = WholeDataset(
        chips=chips,
        crs=crs,
        legend=cutter.labels.legend,
        band_names=sources.infos[0].names,
        sources=described_sources(cutter, sources),
        gsd=dataset_gsd(sources.infos, settings),
        seed=settings.seed,
        notes=(*notes, *more),
        imagery=imagery,
        stored_offsets=sources.stored_offsets,
    )
    return write_dataset(work, told, cutter, sources.infos[0], partial(written_chip, work, indexed))


def write_dataset(
    work: Path, told: WholeDataset, cutter: ChipCutter, info: RasterInfo, read: Callable[[ChipRecord], Read]
) -> tuple[DatasetDocument, dict[str, int]]:
    """`work`, which holds the chips, holds their index, document and pictures, too. Returns chips per split.

    info: of a raster as they all are. read: what gives a chip.
    """
    chips, legend, settings = told.chips, told.legend, cutter.settings
    dtype = SCALED_DTYPE if any(cutter.scaled) else info.dtype
    bands = BandAccumulator(told.band_names, dtype, cutter.scaled)
    # A window's raster is open once, for one reader.
    threads = cutter.threads_for(info) if told.imagery is None else 1
    _count_values(bands, chips.of("train"), read, threads)
    names = [source.path for source in told.sources]
    frame = _index(chips, names, legend)
    table = geopandas.GeoDataFrame(frame, geometry=chips.places, crs=told.crs)
    with write_errors(work / INDEX):
        write_geopackage(table, work / INDEX, layer=INDEX_LAYER, style=style_text(_SPLIT_STYLE))
    document = DatasetDocument(
        tool_version=__version__,
        legend=legend,
        bands=told.bands(bands),
        gsd=told.gsd,
        chip_size=settings.chip_size,
        stride=settings.stride,
        folds=settings.folds,
        fold=settings.fold,
        split_by=settings.split_by,
        seed=told.seed,
        sources=told.sources,
        class_pixels=chips.class_pixels(legend),
        statistics=TrainingStatistics(
            bands=bands.statistics(),
            classes=class_statistics(legend.names, np.array([record.counts for record in chips.of("train")])),
        ),
        notes=told.notes,
        fingerprint=_fingerprint(frame, bands),
        imagery=told.imagery,
    )
    (work / DOCUMENT).write_text(document.model_dump_json(indent=2), encoding="utf-8", newline="\n")
    _draw(work, chips, read, names, document, threads)
    return document, {split: len(chips.of(split)) for split in SPLITS}


def described_sources(cutter: ChipCutter, sources: Sources) -> tuple[Source, ...]:
    """What the document tells of the rasters that were cut."""
    return tuple(_source(source, cutter.shapes[k]) for k, source in enumerate(sources.each))


def written_chip(work: Path, indexed: IndexedImages | None, record: ChipRecord) -> Read:
    """The chip, or the window that stands for it."""
    image, labels = chip_paths(work, record.name)
    return read_chip(image if indexed is None else indexed.image(record.source, record.window), labels)


def _count_values(
    bands: BandAccumulator, records: Sequence[ChipRecord], read: Callable[[ChipRecord], Read], threads: int
) -> None:
    """Count the pixels of these chips; what was not counted while they were cut is read once more."""
    for record in records:
        if record.values is not None:
            bands.add_counts(record.values)
    others = (record for record in records if record.values is None)
    # Threads that open files may not take turns at what is ignored.
    with warnings.catch_warnings(), in_order(read, others, threads=threads) as chips:
        for image, valid, _ in chips:
            bands.add(image, valid)


def divide(
    work: Path, cutter: ChipCutter, sources: Sources, ready: Ready
) -> tuple[DividedChips, CRS | None, list[str]]:
    """Give the cut chips their splits: what stays, the CRS of their outlines, and all that is to be said of them.

    What does not stay is deleted from `work`. Raises InputError where nothing is left to train on, or labels overlap.
    """
    settings, areas = cutter.settings, ready.areas
    notes, legend = cutting_notes(cutter, sources, settings.gsd), cutter.labels.legend
    places, crs, note = _common_places(cutter.records, sources.infos)
    notes += [note] if note else []
    cut = CutChips(cutter.records, places, sources.infos, ready.cut, sources.members)
    chips = stay(cut, assign_splits(cut, settings, areas), work)
    notes += [
        *chips.assigned.notes,
        *(areas.notes if areas else ()),
        *split_notes(chips.kept(legend), chips.assigned, settings),
    ]
    return chips, crs, [as_told(note, sources.drafts) for note in notes]


def _draw(
    work: Path,
    chips: DividedChips,
    chip_of: Callable[[ChipRecord], Read],
    names: Sequence[str],
    document: DatasetDocument,
    threads: int,
) -> None:
    """What people look at before they train on it."""
    by_name = {record.name: record for record in chips.records}

    def read(name: str) -> Read:
        pixels, valid, values = chip_of(by_name[name])
        return pixels, valid, label_channels(values, document.legend, chip_paths(work, name)[1])

    shown = [
        QaChip(record.name, split, names[record.source], place, record.valid, record.counts)
        for record, split, place in zip(chips.records, chips.splits, chips.places, strict=True)
    ]
    # Threads that open files may not take turns at what is ignored.
    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
        write_qa(work, document, shown, read, threads=threads)


def cutting_notes(cutter: ChipCutter, sources: Sources, wanted_gsd: float | None) -> list[str]:
    """What was mended, taken for granted or left out so far."""
    infos, members = sources.infos, [info for source in sources.each for info in source.members]
    labels = cutter.labels
    notes = [*labels.notes, *labels.later_notes, *labels.implied_notes, *labels.check_overlaps()]
    notes += (note for source in sources.each for note in source.notes)
    notes += renamed_bands(members[0].path)
    if len({info.names for info in infos}) > 1:
        orders = sorted({", ".join(info.names) for info in infos})
        notes.append(
            f"the rasters name their bands differently ({' / '.join(orders)}): they are taken in file order"
        )
    notes += local_note(infos[0].grid.crs, infos[0].path)
    sizes = [gsd_of(info.grid, info.path, georeferenced=False) for info in infos]
    oblong = [gsd for gsd in sizes if gsd is not None and not is_square(gsd)]
    if oblong and wanted_gsd is None:
        down, across = oblong[0]
        notes.append(f"pixels of {down:.3g} × {across:.3g} m were resampled to be square, as predict does it")
    palettes = [note for info in infos for note in palette_notes(info)]
    doubtful = (
        (palettes, "a palette"),
        (cutter.partly, "such pixels"),
        (cutter.collars, "such a border"),
        (cutter.fillers, "such values"),
    )
    for told, what in doubtful:
        if told:
            others = len(told) - 1
            notes.append(told[0] + (f" ({others} other rasters have {what}, too)" if others else ""))
    notes += scaling_notes([(info.path, info.scalings) for info in members], cutter.scaled)
    if cutter.settings.scale != "off":
        notes += tagged_notes([(info.path, info.tagged) for info in members])
    notes += cutter.left_out()
    return notes


def _common_places(
    records: Sequence[ChipRecord], infos: Sequence[RasterInfo]
) -> tuple[list[Any], CRS | None, str | None]:
    """The chips' outlines in one CRS: the sources' own if they share it, else longitude/latitude, said."""
    systems = {info.grid.crs for info in infos}
    if len(systems) == 1:
        return [record.place for record in records], infos[0].grid.crs, None
    wgs84 = CRS.from_epsg(4326)
    places: list[Any] = []
    for record in records:
        one = geopandas.GeoSeries([record.place], crs=infos[record.source].grid.crs).to_crs(wgs84)
        places.append(one.iloc[0])
    note = f"the rasters have {len(systems)} CRSs: {INDEX} is in EPSG:4326, chips keep their own"
    return places, wgs84, note


def stay(cut: CutChips, assigned: Assigned, work: Path) -> DividedChips:
    """The chips that stay; the others are deleted."""
    stays = [i for i, split in enumerate(assigned.splits) if split]
    for i, record in enumerate(cut.records):
        if not assigned.splits[i]:
            image, labels = chip_paths(work, record.name)
            for path in (image, labels, label_style(labels)):
                path.unlink(missing_ok=True)  # a dry run has none, an index no images
    numbers = {unit: k for k, unit in enumerate(dict.fromkeys(assigned.units))}
    return DividedChips(
        [cut.records[i] for i in stays],
        [assigned.splits[i] for i in stays],
        [cut.places[i] for i in stays],
        [numbers[assigned.units[i]] for i in stays],
        assigned,
    )


def _index(chips: DividedChips, names: Sequence[str], legend: Legend) -> dict[str, list[Any]]:
    records = chips.records
    columns: dict[str, list[Any]] = {
        "chip": [r.name for r in records],
        "split": chips.splits,
        "source": [names[r.source] for r in records],
        "row": [r.window.row for r in records],
        "col": [r.window.col for r in records],
        "top": [r.window.top for r in records],
        "left": [r.window.left for r in records],
        "block": chips.blocks,
        "valid_px": [r.valid for r in records],
    }
    for k, column in enumerate(pixel_columns(legend)):
        columns[column] = [int(r.counts[k]) for r in records]
    return columns


def _source(source: TileSource, cut: tuple[int, int]) -> Source:
    info = source.info
    inner = find_subdataset(info.path)
    path, grid = Path(info.path if inner is None else inner.file), info.grid
    return Source(
        path=info.path,
        width=grid.width,
        height=grid.height,
        crs=None if grid.crs is None else grid.crs.to_string(),
        bytes=path.stat().st_size if path.is_file() else None,
        cut_width=cut[1],
        cut_height=cut[0],
        members=tuple(member.path for member in source.members) if len(source.members) > 1 else (),
    )


def _fingerprint(frame: dict[str, list[Any]], bands: BandAccumulator) -> str:
    """SHA-256 over the index and the statistics: equal for equal chips, wherever they lie."""
    facts = {
        # What follows from the others is left out: datasets of before it was told have the fingerprints that they had.
        "index": {key: column for key, column in frame.items() if key not in _DERIVED},
        "bands": [band.model_dump() for band in bands.bands()],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
