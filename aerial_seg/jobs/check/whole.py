"""What only all chips together show: counts, statistics, ground in two splits, files of no chip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aerial_seg.errors import did_you_mean
from aerial_seg.jobs.check.chip_look import Look
from aerial_seg.jobs.check.index_rows import IndexRow
from aerial_seg.jobs.problems import Problems
from aerial_seg.jobs.tile.splits.ground import overlapping
from aerial_seg.training.manifest import DOCUMENT, INDEX, SPLITS, DatasetDocument, chip_paths

_AGAIN = "run `aerial-seg tile` again"
_RANKS = {"train": 0, "val": 1, "test": 2}
"""Which of two chips is named where they share ground: the one whose split is of less weight."""
_STATISTICS = 0.01
"""Of a standard deviation: what rounding never reaches and training never notices."""


class Tally:
    """What all chips hold, added up chip by chip."""

    def __init__(self, document: DatasetDocument) -> None:
        self._document = document
        self._counts = {split: np.zeros(len(document.legend), np.int64) for split in SPLITS}
        self._sums = np.zeros((3, len(document.bands)))
        self._unread = 0
        self._images: dict[bytes, IndexRow] = {}
        self._twins: list[tuple[IndexRow, IndexRow]] = []

    def add(self, row: IndexRow, look: Look) -> None:
        """Count one chip."""
        self._unread += look.counts is None or look.sums is None
        if row.split is None:
            return
        if look.counts is not None:
            self._counts[row.split] += look.counts
        if look.sums is not None and row.split == "train":
            self._sums += look.sums
        if look.digest is not None:
            first = self._images.setdefault(look.digest, row)
            if first.split != row.split:
                self._twins.append((first, row))

    def class_pixels(self) -> dict[str, dict[str, int]]:
        """Split → class name → labelled pixels, of what could be read."""
        names = self._document.legend.names
        return {
            split: dict(zip(names, counts.tolist(), strict=True)) for split, counts in self._counts.items()
        }

    def check(self, problems: Problems) -> None:
        """Tell what is wrong with the whole; what chips that cannot be read would change is not judged."""
        for first, second in self._twins:
            told = (
                f"the images of {first.name} ({first.split}) and {second.name} ({second.split}) are the same"
            )
            problems.error(
                "same-image", f"{told}: a score on it means nothing; leave one of them", second.name
            )
        self._check_classes(problems)
        if not self._unread:
            self._check_document(problems)

    def _check_classes(self, problems: Problems) -> None:
        counted, legend = self._counts, self._document.legend
        if self._unread and not counted["train"].any():
            return
        present = [legend.names[k] for k in np.flatnonzero(counted["train"])]
        if len(present) < 2:
            got = f"class '{present[0]}' alone has" if present else "no class has"
            told = f"{got} pixels in the training chips, wanted two classes at least"
            problems.error("one-class", f"{told}; {_AGAIN} with labels that show other ground, too")
        absent = [name for k, name in enumerate(legend.names) if not counted["train"][k]]
        if absent and len(present) > 1:
            told = f"no training chip holds class {', '.join(absent)}: it cannot be learnt from these labels"
            if told not in self._document.notes:
                problems.warning("class-untrained", told)
        for split in ("val", "test"):
            known = counted[split] > 0
            if not known.any():
                problems.warning("split-empty", f"no chip of {split} holds a label: nothing is scored on it")
                continue
            unseen = [name for k, name in enumerate(legend.names) if counted["train"][k] and not known[k]]
            if unseen:
                told = f"no {split} chip holds class {', '.join(unseen)}: nothing tells how well it is learnt"
                problems.warning("class-unscored", told)

    def _check_document(self, problems: Problems) -> None:
        document = self._document
        for split, told in document.class_pixels.items():
            counted = self.class_pixels().get(split, {})
            wrong = [
                f"{name} {counted[name]:,} (told: {n:,})"
                for name, n in told.items()
                if counted.get(name, n) != n
            ]
            if wrong:
                problems.error(
                    "document-counts",
                    f"{DOCUMENT} tells other class pixels of {split} than its chips hold: {', '.join(wrong[:3])}; "
                    f"{INDEX} or chips were changed: {_AGAIN}",
                )
        pixels, total, squares = self._sums
        if not pixels.all():
            return
        off = total / pixels
        std = np.sqrt(np.maximum(squares / pixels - off**2, 0))
        for band, moved, spread in zip(document.bands, off.tolist(), std.tolist(), strict=True):
            if abs(moved) > _STATISTICS * band.std or abs(spread - band.std) > _STATISTICS * band.std:
                problems.error(
                    "statistics",
                    f"band '{band.name}' of the training chips has mean {band.mean + moved:.5g} and std {spread:.5g}, "
                    f"but {DOCUMENT} tells {band.mean:.5g} and {band.std:.5g}: images or splits were changed; {_AGAIN}",
                )


def check_stray_files(root: Path, rows: Sequence[IndexRow], problems: Problems) -> None:
    """Tell of images and labels that no chip of the index is made of, as of a chip that was renamed."""
    named = {path for row in rows for path in chip_paths(root, row.name)}
    for folder in sorted({path.parent for path in named if path.parent.is_dir()}):
        missing = [path.stem for path in sorted(named) if path.parent == folder and not path.is_file()]
        for path in sorted(folder.glob("*.tif")):
            if path not in named:
                told = f"{path} belongs to no chip of {INDEX}{did_you_mean(path.stem, missing)}"
                problems.warning(
                    "stray-file", f"{told}; training does not see it: rename or delete it", path.name
                )


def check_places(rows: Sequence[IndexRow], problems: Problems) -> None:
    """Tell of ground that is in two splits: what was learnt there is scored there, too."""
    placed = [
        row for row in rows if row.split is not None and row.place is not None and not row.place.is_empty
    ]
    if not placed:
        return
    shared = overlapping([row.place for row in placed], [row.split or "" for row in placed], _RANKS)
    for k in shared:
        told = f"{placed[k].name} ({placed[k].split}) shares ground with chips of another split"
        problems.error("ground-shared", f"{told}; {_AGAIN}, or leave it out of {INDEX}", placed[k].name)
