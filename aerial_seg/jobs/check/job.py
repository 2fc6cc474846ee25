"""check: a chip dataset as it lies there, and all that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aerial_seg.errors import AerialSegError, InputError
from aerial_seg.files.operating_system import usable_cores
from aerial_seg.geo.raster.present import require_file
from aerial_seg.geo.windows.source import SourceWindow
from aerial_seg.jobs.check.chip_look import Look, look_at
from aerial_seg.jobs.check.index_rows import IndexRow, read_rows
from aerial_seg.jobs.check.whole import Tally, check_places, check_stray_files
from aerial_seg.jobs.problems import Problem, Problems
from aerial_seg.legend import Legend
from aerial_seg.mentions import settings_of
from aerial_seg.paths import StrPath, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.training.manifest import (
    DOCUMENT,
    INDEX,
    SPLITS,
    DatasetDocument,
    chip_paths,
    open_manifest,
    read_document,
)

_AT_ONCE = 64
"""Chips that are looked at together: memory does not grow with the dataset."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Tell what is in a dataset and what is wrong with it, errors first.

    chips: by split. class_pixels: split → class name → labelled pixels as they were counted now; empty where the
    dataset's document cannot be read, and so its classes are not known.
    """

    dataset: Path
    chips: dict[str, int]
    legend: Legend | None
    class_pixels: dict[str, dict[str, int]]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Those that must be mended before anything is trained on it."""
        return tuple(one for one in self.problems if one.severity == "error")

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready document."""
        told = [{name: getattr(one, name) for name in Problem.__slots__} for one in self.problems]
        return {
            "dataset": self.dataset,
            "chips": self.chips,
            "class_pixels": self.class_pixels,
            "errors": len(self.errors),
            "warnings": len(self.problems) - len(self.errors),
            "problems": told,
        }


def check(dataset: StrPath, progress: Progress = silent) -> CheckReport:
    """Check every file of a chip dataset, of this version or an older one, and tell all that is wrong; nothing changes.

    Raises InputError only where there is no dataset at all.
    """
    root = as_path(dataset, "dataset")
    require_file(root)
    if not any((root / name).exists() for name in (DOCUMENT, INDEX)):
        raise InputError(f"{root} is not a chip dataset (no {DOCUMENT}); make one with `aerial-seg tile`")
    problems = Problems()
    document = None
    with problems.catching("document"):
        document = read_document(root)
    legend = None if document is None else document.legend
    rows = read_rows(root, legend, problems)
    check_stray_files(root, rows, problems)
    tally = None
    if document is not None:
        tally = Tally(document)
        for row, look in _looks(root, rows, document, _windows(root, document, problems), progress):
            _tell(row, look, problems)
            tally.add(row, look)
        tally.check(problems)
    check_places(rows, problems)
    _refused_elsewhere(root, problems)
    for note in () if document is None else document.notes:
        problems.warning("note", settings_of(note, "tile"))
    return CheckReport(
        root,
        {split: sum(row.split == split for row in rows) for split in SPLITS},
        legend,
        {} if tally is None else tally.class_pixels(),
        problems.all(),
    )


def _windows(root: Path, document: DatasetDocument, problems: Problems) -> dict[str, SourceWindow] | None:
    """Of a dataset without images what they are windows of; none of them where a source is not as it was."""
    if document.imagery is None:
        return None
    with problems.catching("sources"):
        return {
            chip.name: chip.image
            for chip in open_manifest(root).chips
            if isinstance(chip.image, SourceWindow)
        }
    return {}


def _looks(
    root: Path,
    rows: Sequence[IndexRow],
    document: DatasetDocument,
    windows: dict[str, SourceWindow] | None,
    progress: Progress,
) -> Iterator[tuple[IndexRow, Look]]:
    """Every chip with what was seen of it, in the order of the index."""

    def look_one(row: IndexRow) -> Look:
        image, labels = chip_paths(root, row.name)
        return look_at(row, image if windows is None else windows.get(row.name), labels, document)

    # Of VRTs that one thread has opened GDAL opens each member once for all: two threads may not read those.
    threads = usable_cores() if windows is None else 1
    with (
        progress("check chips", total=len(rows), unit="chip") as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        for first in range(0, len(rows), _AT_ONCE):
            some = rows[first : first + _AT_ONCE]
            for row, look in zip(some, pool.map(look_one, some), strict=True):
                bar.update()
                yield row, look


def _tell(row: IndexRow, look: Look, problems: Problems) -> None:
    for kind, told in look.errors:
        problems.error(kind, told, row.name)
    for kind, told in look.warnings:
        problems.warning(kind, told, row.name)


def _refused_elsewhere(root: Path, problems: Problems) -> None:
    """What training would refuse is an error, whatever was looked at here."""
    if problems.has_errors:
        return
    try:
        open_manifest(root)
    except AerialSegError as error:
        problems.error("dataset", str(error))
