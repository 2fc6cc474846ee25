"""Splits by name, files by expected path: what the publishers' layouts share, and how a copy is checked."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from aerial_seg.benchmarks.dataset import Benchmark, CheckReport, Example
from aerial_seg.benchmarks.labels import channels_of, check_sizes, is_sbd, read_values
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.files.names import check_input
from aerial_seg.progress import Progress, silent

_LINES_PER_KIND = 20


class PublishedLayout(Benchmark):
    """A benchmark whose splits are lists of expected paths; a subclass says which, and what a label's values mean.

    published: images per split, by the publishers. table: (256,) uint8, value in a label file → channel, 255 =
    ignored, labels.UNKNOWN = no value of this layout; allowed: the same in words. archive: where files come from.
    """

    published: ClassVar[Mapping[str, int]]
    table: NDArray[np.uint8]
    allowed: str
    archive: str

    @abstractmethod
    def expected(self, split: str) -> tuple[Example, ...]:
        """The images of a split with the paths where their files should lie, whether or not they do.

        Raises InputError where the split's own list or folder is missing or broken.
        """

    def examples(self, split: str) -> tuple[Example, ...]:
        if split not in self.splits:
            raise SettingsError(
                f"{self.title} has no split '{split}'{did_you_mean(split, self.splits)}; "
                f"it has {', '.join(self.splits)}"
            )
        found = self.expected(split)
        if not found:
            raise InputError(
                f"split {split} of {self.title} under {self.root} is empty; unpack {self.archive}"
            )
        wanted = [path for example in found for path in _files(example)]
        missing = list(missing_files(wanted))
        if missing:
            raise InputError(
                f"{missing[0]} is missing, {len(missing)} of the {len(wanted)} files of split {split} are; "
                f"{self.hint(missing[0])}"
            )
        return found

    def read_labels(self, example: Example) -> NDArray[np.uint8]:
        if example.label is None:
            raise InputError(
                f"{example.name} has no published label, so it cannot be scored; take split {self.splits[0]}"
            )
        return channels_of(read_values(example.label), self.table, path=example.label, allowed=self.allowed)

    def check(self, progress: Progress = silent) -> CheckReport:
        problems = Problems()
        counts: dict[str, int] = {}
        whole: dict[Example, None] = {}  # what two splits share is read once
        for split in self.checked_splits():
            there, complete = self._check_split(split, problems)
            whole.update(dict.fromkeys(there))
            if complete:
                counts[split] = len(there)
        for line in self.strays():
            problems.add("labels in no list", line)
        unread = _without_reader(whole)
        if unread:
            problems.add("labels that cannot be read", unread)
        with progress("check", total=len(whole), unit="image") as bar:
            for example in whole:
                if unread and is_sbd(example):
                    continue
                self._check_files(example, problems)
                bar.update()
        absent = tuple(self._absence(split) for split in self.splits if split not in self.checked_splits())
        notes = tuple(note for split in counts for note in self.notes(split))
        return CheckReport(self.root, counts, problems.lines(), problems.total, absent, notes)

    def listed(self, split: str, found: tuple[Example, ...]) -> int:
        """How many images the publishers list for a split of which these are taken."""
        del split
        return len(found)

    def _absence(self, split: str) -> str:
        """Where the split of an archive that was not unpacked would lie."""
        try:
            self.expected(split)
        except InputError as error:
            return f"split {split}: {error}"
        return f"split {split} was not checked"

    def checked_splits(self) -> tuple[str, ...]:
        """The splits that this copy should hold: not those of archives that were not unpacked here at all."""
        return self.splits

    def strays(self) -> Iterable[str]:
        """One line for each label file that belongs to no image of the layout."""
        return ()

    def hint(self, path: Path) -> str:
        """What to do about this missing file."""
        del path
        return f"unpack {self.archive}"

    def _check_split(self, split: str, problems: Problems) -> tuple[tuple[Example, ...], bool]:
        """The examples whose files are all there, and whether that is the whole split."""
        try:
            found = self.expected(split)
        except InputError as error:
            problems.add("splits that cannot be listed", f"split {split}: {error}")
            return (), False
        published = self.published.get(split)
        listed = self.listed(split, found)
        if published is not None and listed != published:
            problems.add("counts", f"{split} holds {_plural(listed, 'image')}, published are {published:,}")
        absent = frozenset(missing_files([path for example in found for path in _files(example)]))
        self._report_absent(split, absent, problems)
        there = tuple(example for example in found if absent.isdisjoint(_files(example)))
        return there, bool(found) and not absent

    def _report_absent(self, split: str, absent: frozenset[Path], problems: Problems) -> None:
        folders = {path.parent for path in absent}
        lost = {folder for folder in folders if not folder.is_dir()}
        for folder in sorted(lost):
            inside = [path for path in absent if path.parent == folder]
            problems.add(
                f"missing folders of split {split}",
                f"split {split}: folder {folder} is missing with {_plural(len(inside), 'file')}; "
                f"{self.hint(min(inside))}",
            )
        for path in sorted(absent):
            if path.parent not in lost:
                problems.add(
                    f"missing files of split {split}", f"split {split}: {path} is missing; {self.hint(path)}"
                )

    def _check_files(self, example: Example, problems: Problems) -> None:
        try:
            check_sizes(example)
        except InputError as error:
            problems.add("images and labels that are damaged or do not fit", str(error))
            return
        if example.label is None:
            return
        try:
            self.read_labels(example)
        except InputError as error:
            problems.add("labels with values of no class", str(error))


def _without_reader(examples: Iterable[Example]) -> str:
    """One line for all of SBD's labels where scipy is missing."""
    waiting = sum(map(is_sbd, examples))
    if not waiting or find_spec("scipy") is not None:
        return ""
    return f"{_plural(waiting, 'label')} of SBD need scipy to be read; pip install 'aerial-seg[benchmark]'"


class Problems:
    """Lines by kind: the first ones of each kind and how many more there are."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def add(self, kind: str, line: str) -> None:
        """One more problem; kind is a plural, for the line that counts the rest."""
        self._lines.setdefault(kind, []).append(line)

    @property
    def total(self) -> int:
        """All problems, whether or not `lines` lists them."""
        return sum(map(len, self._lines.values()))

    def lines(self) -> tuple[str, ...]:
        """At most 20 lines of each kind, in the order in which the kinds came up, and a count for the rest."""
        found: list[str] = []
        for kind, lines in self._lines.items():
            found += lines[:_LINES_PER_KIND]
            if len(lines) > _LINES_PER_KIND:
                found.append(f"… and {len(lines) - _LINES_PER_KIND:,} more {kind}")
        return tuple(found)


def find_root(root: Path, inside: Sequence[str], marks: Sequence[str], *, title: str) -> Path:
    """The first of root and the folders `inside` it that holds one of the folders `marks`.

    Raises InputError, naming what was looked for.
    """
    check_input(root)
    if not root.is_dir():
        what = "is a file, wanted the folder" if root.exists() else "does not exist, wanted the folder"
        raise InputError(f"{root} {what} that holds {title}; check the path")
    for folder in (root, *(root / name for name in inside)):
        if any((folder / mark).is_dir() for mark in marks):
            return folder
    raise InputError(
        f"{root} holds no {title}: none of {', '.join(marks)} lies in it or in {', '.join(inside)}; "
        "name the folder that the publishers' archive unpacks to"
    )


def read_list(path: Path) -> tuple[str, ...]:
    """The ids of a split's list, one a line, each once, in its order.

    Raises InputError for a missing list, for a line that is no id and for an id that comes twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}); unpack the publishers' archive") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name:
            continue
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(
                f"{path} line {number} is '{name[:60]}', wanted one image id a line; restore the publishers' list"
            )
        if name in names:
            raise InputError(
                f"{path} line {number} repeats {name} of line {names[name]}; restore the publishers' list"
            )
        names[name] = number
    return tuple(names)


def named_files(folder: Path, suffix: str, pattern: str) -> dict[str, Path]:
    """Name → path of the files directly in `folder` that end in `suffix`, hidden ones left out; the suffix is cut off.

    Raises InputError for a name that does not match `pattern` as a whole.
    """
    found = {}
    for file in sorted(_names(folder)):
        if file.startswith(".") or not file.endswith(suffix):
            continue
        name = file.removesuffix(suffix)
        if not re.fullmatch(pattern, name):
            raise InputError(
                f"{folder / file} is not named as the publishers name it, wanted {pattern}{suffix}; "
                "restore its name or take it away"
            )
        found[name] = folder / file
    return found


def missing_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Those of the paths that no folder lists; every folder is read once."""
    listings: dict[Path, frozenset[str]] = {}
    for path in paths:
        names = listings.get(path.parent)
        if names is None:
            names = listings[path.parent] = _names(path.parent)
        if path.name not in names:
            yield path


def _names(folder: Path) -> frozenset[str]:
    return frozenset(entry.name for entry in folder.iterdir()) if folder.is_dir() else frozenset()


def _files(example: Example) -> tuple[Path, ...]:
    return (example.image,) if example.label is None else (example.image, example.label)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
