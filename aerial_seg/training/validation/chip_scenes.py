"""The scenes that the chips of a dataset were cut from, put together again from the chips themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as Xml

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.vrt import (
    add_band,
    add_mask,
    add_source,
    add_where_measured,
    new_vrt,
    place_source,
)
from aerial_seg.geo.windows.source import SourceWindow
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.tile_choice import choose_tile
from aerial_seg.labels.chip_file import chip_step, label_channels, read_label_chip
from aerial_seg.legend import Legend
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.training.manifest import Chip, Manifest
from aerial_seg.training.validation.scenes import Rectangle, Scene, ScenePart
from aerial_seg.training.validation.seen_raster import opens_seen

Cell = tuple[int, int]


@contextmanager
def open_chip_scenes(
    manifest: Manifest, split: str, network: Network, card: ModelCard
) -> Iterator[tuple[tuple[Scene, ...], tuple[str, ...]]]:
    """Inside, the split's scenes can be mapped by this model: see `chip_scenes`."""
    model = TrainedModel(network=network, card=card, sha256="")
    shape, _ = choose_tile(Ensemble((model,)), tile_size=None, halo=None, overlap=None)
    with TemporaryDirectory() as folder:
        yield chip_scenes(manifest, split, Path(folder), side=shape.side)


def chip_scenes(
    manifest: Manifest, split: str, folder: Path, *, side: int
) -> tuple[tuple[Scene, ...], tuple[str, ...]]:
    """Give the scenes that the split's chips lie in, and notes. folder: where their VRTs are written, while they last.

    A scene is a source raster of the dataset, on the grid that it was cut on, shown by the chips of all splits: so it
    is there wherever the chips are, whatever became of the rasters, and pixels are those that were trained on. Only
    the split's own chips count; of the others the images are seen around them, as `predict` sees them, never the
    labels. side: of the tiles, which says how far around. Ground of no chip is not measured, and counted in a note.
    Of chips that overlap, those that lie side by side are shown; validation and test have no others.
    Raises InputError for a dataset whose index does not tell where chips were cut.
    """
    size, document = manifest.document.chip_size, manifest.document
    each = size // chip_step(size, document.stride)
    cells: dict[str, dict[Cell, Chip]] = defaultdict(dict)
    for chip in manifest.chips:
        if chip.place is None:
            raise InputError(
                f"{manifest.root} does not tell where {chip.name} was cut, so no scene can be put together from its "
                'chips; run `aerial-seg tile` again, or train with training.validate_on = "chips"'
            )
        if chip.place.row % each == chip.place.col % each == 0:
            cells[chip.place.source][chip.place.row // each, chip.place.col // each] = chip
    shapes = {one.path: (one.cut_height, one.cut_width) for one in document.sources}
    reach, scenes, absent, unknown = -(-side // size), [], 0, 0
    for number, (source, chips) in enumerate(cells.items()):
        own = {cell for cell, chip in chips.items() if chip.split == split}
        if not own:
            continue
        whole = tuple((max(cell[axis] for cell in chips) + 1) * size for axis in (0, 1))
        height, width = (cut or end for cut, end in zip(shapes.get(source, (None, None)), whole, strict=True))
        unknown += shapes.get(source, (None, None)) == (None, None)
        around = set(_around(own, reach, rows=-(-height // size), cols=-(-width // size)))
        absent += len(around - chips.keys())
        shown = {cell: chip for cell, chip in chips.items() if cell in around}
        opens = _opens(shown, manifest, folder / f"{number}.vrt", height=height, width=width)
        parts = {
            cell: _part(chips[cell], cell, document.legend, size=size, height=height, width=width)
            for cell in sorted(own)
        }
        scenes.append(Scene(source, height, width, opens, tuple(rectangles(parts))))
    return tuple(scenes), _notes(absent, unknown)


def _opens(
    shown: dict[Cell, Chip], manifest: Manifest, vrt: Path, *, height: int, width: int
) -> Callable[[], AbstractContextManager[Raster]]:
    """What opens the scene: a VRT of the chips' files, or the source itself where chips are windows of it."""
    image = next(iter(shown.values())).image
    if isinstance(image, SourceWindow):
        return opens_seen(image.source, shown.keys(), size=manifest.document.chip_size)
    _write_vrt(vrt, shown, manifest, height=height, width=width)
    return partial(Raster, vrt, georeferenced=False)


def _notes(absent: int, unknown: int) -> tuple[str, ...]:
    notes = []
    if absent:
        notes.append(
            f"{absent} cells around the validation ground have no chip (nothing labelled, nothing measured, or beside "
            "another split): networks see them as not measured, where predict sees what the raster shows"
        )
    if unknown:
        notes.append(
            f"of {unknown} rasters the dataset does not tell where they end, so their scenes end with the last chip; "
            "run `aerial-seg tile` again to have them end where predict has them end"
        )
    return tuple(notes)


def _around(own: Iterable[Cell], reach: int, *, rows: int, cols: int) -> Iterator[Cell]:
    """The cells of a grid of so many, at most `reach` away from one of these."""
    for row, col in own:
        for i in range(max(0, row - reach), min(rows, row + reach + 1)):
            for j in range(max(0, col - reach), min(cols, col + reach + 1)):
                yield i, j


def _write_vrt(path: Path, chips: dict[Cell, Chip], manifest: Manifest, *, height: int, width: int) -> None:
    """A raster of these chips, side by side, that is not measured where there is none."""
    size, bands = manifest.document.chip_size, manifest.document.bands
    root = new_vrt(height=height, width=width)
    shown = [
        (str(chip.image.absolute()), (col * size, row * size))
        for (row, col), chip in sorted(chips.items())
        if isinstance(chip.image, Path)
    ]
    for number, band in enumerate(bands, start=1):
        made = add_band(root, band.dtype, name=band.name)
        for name, corner in shown:
            _place(add_source(made, name, number), corner, size)
    mask = add_mask(root)
    for name, corner in shown:
        _place(add_where_measured(mask, name, "mask,1"), corner, size)
    Xml.ElementTree(root).write(path)


def _place(source: Xml.Element, corner: tuple[int, int], size: int) -> None:
    left, top = corner
    place_source(source, (left, top, left + size, top + size), height=size, width=size)


def _part(chip: Chip, cell: Cell, legend: Legend, *, size: int, height: int, width: int) -> ScenePart:
    top, left = cell[0] * size, cell[1] * size
    rows, cols = range(top, min(top + size, height)), range(left, min(left + size, width))

    def labels() -> NDArray[np.uint8]:
        return label_channels(read_label_chip(chip.labels, side=size), legend, chip.labels)

    return ScenePart(chip.name, rows, cols, labels)


def rectangles(parts: dict[Cell, ScenePart]) -> Iterator[Rectangle]:
    """The parts as few rectangles of whole cells: runs of a row, and below each other where they are equal."""
    open_runs: dict[tuple[int, int], list[Cell]] = {}
    row_before: int | None = None
    for row, cols in _by_row(parts):
        runs = {(run[0], run[-1]): [(row, col) for col in run] for run in _runs(cols)}
        for run in [run for run in open_runs if row - 1 != row_before or run not in runs]:
            yield _rectangle([parts[cell] for cell in open_runs.pop(run)])
        for run, cells in runs.items():
            open_runs.setdefault(run, []).extend(cells)
        row_before = row
    for cells in open_runs.values():
        yield _rectangle([parts[cell] for cell in cells])


def _by_row(parts: dict[Cell, ScenePart]) -> Iterator[tuple[int, list[int]]]:
    rows: dict[int, list[int]] = defaultdict(list)
    for row, col in sorted(parts):
        rows[row].append(col)
    yield from sorted(rows.items())


def _runs(cols: Sequence[int]) -> Iterator[list[int]]:
    run = [cols[0]]
    for col in cols[1:]:
        if col != run[-1] + 1:
            yield run
            run = []
        run.append(col)
    yield run


def _rectangle(parts: Sequence[ScenePart]) -> Rectangle:
    rows = range(min(part.rows.start for part in parts), max(part.rows.stop for part in parts))
    cols = range(min(part.cols.start for part in parts), max(part.cols.stop for part in parts))
    return Rectangle(rows, cols, tuple(parts))
