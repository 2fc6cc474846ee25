"""What a benchmark's server would refuse in an archive of predictions, or score wrongly without a word."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aerial_seg.benchmarks.dataset import Benchmark, Example
from aerial_seg.benchmarks.labels import image_size
from aerial_seg.benchmarks.layout import Problems
from aerial_seg.benchmarks.submission import FORMS, SubmissionForm, some_of, voc_palette
from aerial_seg.errors import InputError, SettingsError

_LARGEST_FILE = 64 << 20
"""Bytes; a prediction has a few kilobytes, and a member is read into memory."""
_TAR_END = 1024
"""A tar ends with as many zero bytes."""
_VOC_PALETTE = voc_palette()


@dataclass(frozen=True, slots=True)
class SubmissionReport:
    """kind: voc, cityscapes or ade20k. images: predictions found.

    problems: one line each, empty if it is valid; beyond 20 of a kind a line counts the rest. total: all problems.
    """

    kind: str
    images: int
    problems: tuple[str, ...]
    total: int = 0


@dataclass(frozen=True, slots=True)
class _Member:
    """One file of an archive. content: None where it was not read, for the reason `trouble`."""

    name: str
    content: bytes | None
    trouble: str = ""


@dataclass(slots=True)
class _Findings:
    """What has been seen so far. wanted: the split's images by name, None when only the archive is known."""

    wanted: dict[str, Example] | None
    split: str
    form: SubmissionForm | None = None
    images: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    problems: Problems = field(default_factory=Problems)


def validate_submission(
    file: Path, *, benchmark: Benchmark | None = None, split: str = "test"
) -> SubmissionReport:
    """Every file of the archive was read in memory and compared with what the server wants; nothing is unpacked.

    The kind is told by the names inside. With a benchmark also: a prediction for each image of the split, no other
    ones, and the images' sizes.

    Raises InputError for a file that is no whole tar(.gz) or zip archive, holds no prediction at all, or those of
    another benchmark.
    """
    if benchmark is not None and benchmark.name not in FORMS:
        raise SettingsError(f"'{benchmark.name}' has no known form of submission; known: {', '.join(FORMS)}")
    wanted = {example.name: example for example in benchmark.examples(split)} if benchmark else None
    findings = _Findings(wanted, split)
    for member in _members(file):
        _check_member(member, findings)
    form = findings.form
    if form is None:
        raise _no_prediction(file)
    if benchmark is not None and form.kind != benchmark.name:
        raise InputError(
            f"{file} holds predictions for {form.title}, but {benchmark.root} is {benchmark.title}; "
            "name the root of the same benchmark"
        )
    _check_whole(file, form, findings)
    return SubmissionReport(
        form.kind, len(findings.images), findings.problems.lines(), findings.problems.total
    )


def recognise_submission(file: Path) -> str:
    """The benchmark whose server the archive is for, by the first prediction's name: voc, cityscapes or ade20k.

    Raises InputError for a file that is no archive or holds no prediction.
    """
    for member in _members(file):
        form = _form_of(PurePosixPath(member.name).name)
        if form is not None:
            return form.kind
    raise _no_prediction(file)


def _no_prediction(file: Path) -> InputError:
    return InputError(
        f"{file} holds no prediction, wanted files named as "
        "2008_000001.png (PASCAL VOC), city_000000_000000_*.png (Cityscapes) or ADE_test_00000001.png (ADE20K)"
    )


def _form_of(name: str) -> SubmissionForm | None:
    return next((form for form in FORMS.values() if form.file.fullmatch(name)), None)


def _check_member(member: _Member, findings: _Findings) -> None:
    problems, path = findings.problems, PurePosixPath(member.name)
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in member.name
    if not inside or not member.name.isprintable():
        what = "cannot be printed" if inside else "points outside the archive"
        problems.add("unsafe names", f"{member.name!r} {what}; take it out")
        return
    form = _form_of(path.name)
    findings.form = findings.form or form
    if form is None or form is not findings.form:
        problems.add(
            "files that are no predictions", f"{member.name} is no prediction by its name; take it out"
        )
        return
    match = form.file.fullmatch(path.name)
    assert match is not None
    name = match[1]
    if name in findings.images:
        problems.add(
            "images predicted twice", f"{member.name} repeats {findings.images[name]}; keep one of them"
        )
        return
    findings.images[name] = member.name
    findings.folders.add(str(path.parent))
    example = findings.wanted.get(name) if findings.wanted is not None else None
    if findings.wanted is not None and example is None:
        problems.add(
            "predictions of other images",
            f"{member.name} belongs to no image of split {findings.split}; take it out",
        )
    if member.content is None:
        problems.add("files that were not read", f"{member.name} {member.trouble}")
        return
    for kind, line in _picture_problems(member.content, form, example):
        problems.add(kind, f"{member.name} {line}")


def _check_whole(file: Path, form: SubmissionForm, findings: _Findings) -> None:
    problems = findings.problems
    if not file.name.endswith(form.suffixes):
        problems.add(
            "suffixes", f"{file.name} does not end in {' or '.join(form.suffixes)}; write it anew as such"
        )
    elif zipfile.is_zipfile(file) != (form.suffixes == (".zip",)):
        problems.add("archives", f"{file.name} is not the kind of archive that its name says; write it anew")
    for folder in sorted(findings.folders):
        match = form.folder.fullmatch(folder)
        if match is None:
            problems.add("folders", f"folder {folder} is not {form.folder.pattern}; move the files")
        elif findings.wanted is not None and match.lastindex and match[1] != findings.split:
            problems.add("folders", f"folder {folder} is for {match[1]}, wanted split {findings.split}")
    if form.kind == "voc" and len(findings.folders) > 1:
        problems.add(
            "folders", f"{len(findings.folders)} folders hold predictions, wanted one; split the archive"
        )
    missing = sorted(set(findings.wanted or ()) - set(findings.images))
    if missing:
        problems.add(
            "missing predictions",
            f"{len(missing):,} of the {len(findings.wanted or ()):,} images of split {findings.split} have no "
            f"prediction: {some_of(missing)}; predict the whole split",
        )


def _picture_problems(
    content: bytes, form: SubmissionForm, example: Example | None
) -> Iterator[tuple[str, str]]:
    """Kind and line of everything that is wrong with one PNG."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if example is not None and picture.size != (size := image_size(example.image)):
                yield "wrong sizes", "is {} × {} px, its image {} × {} px".format(*picture.size, *size)
            if picture.mode not in form.modes:
                wanted = "PASCAL VOC's palette (mode P)" if form.indexed else "8-bit grey or palette indices"
                yield "wrong modes", f"has mode {picture.mode}, wanted {wanted}: class numbers, not colours"
                return
            counts = np.bincount(np.array(picture).ravel(), minlength=256)
            palette = np.array(picture.getpalette() or [], np.uint8).reshape(-1, 3)
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        yield "damaged files", f"cannot be read as PNG ({error})"
        return
    held = np.flatnonzero(counts).tolist()
    if strange := [str(value) for value in held if value not in form.values]:
        yield "values that are no class", f"holds {some_of(strange)}, which no class of {form.title} has"
    if form.indexed and (odd := [str(value) for value in held if _odd_colour(palette, value)]):
        yield (
            "wrong palettes",
            f"has other colours than PASCAL VOC's for {some_of(odd)}; write it with that palette",
        )


def _odd_colour(palette: NDArray[np.uint8], value: int) -> bool:
    return value >= len(palette) or bool((palette[value] != _VOC_PALETTE[value]).any())


def _members(file: Path) -> Iterator[_Member]:
    """The files of an archive in its order, read whole; folders are left out."""
    try:
        with file.open("rb") as raw:
            magic = raw.read(2)
            raw.seek(0)
            if magic == b"PK":
                yield from _zip_members(raw)
            elif magic == b"\x1f\x8b":
                with gzip.open(raw) as stream:
                    yield from _tar_members(stream)
            else:
                yield from _tar_members(raw)
    # zipfile says RuntimeError to a password and an unknown compression, ValueError to names that are no text.
    except (
        OSError,
        EOFError,
        zlib.error,
        tarfile.TarError,
        zipfile.BadZipFile,
        RuntimeError,
        ValueError,
    ) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{file} is no whole tar.gz or zip archive ({reason}); write it again, or copy it again"
        ) from error


def _zip_members(raw: BinaryIO) -> Iterator[_Member]:
    with zipfile.ZipFile(raw) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            if stat.S_ISLNK(entry.external_attr >> 16):
                yield _Member(entry.filename, None, "is a link, wanted a file")
            elif entry.file_size > _LARGEST_FILE:
                yield _Member(entry.filename, None, f"has {entry.file_size:,} bytes, which no prediction has")
            else:
                yield _Member(entry.filename, archive.read(entry))


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Counted:
    """A stream that counts its bytes: `size` so far, and `filled` up to the last one that is not zero."""

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self.size = self.filled = 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        content = self._stream.read(size)
        if filled := len(content.rstrip(b"\0")):
            self.filled = self.size + filled
        self.size += len(content)
        return content


def _tar_members(stream: _Readable) -> Iterator[_Member]:
    # As a stream: a gzip that is searched would be unpacked again for each member.
    counted = _Counted(stream)
    with tarfile.open(fileobj=counted, mode="r|") as archive:  # type: ignore[call-overload]
        for entry in archive:
            name = entry.name.removeprefix("./")
            content = archive.extractfile(entry) if entry.isreg() else None
            if entry.isdir():
                continue
            if content is None:
                yield _Member(name, None, "is a link or a device, wanted a file")
            elif entry.size > _LARGEST_FILE:
                yield _Member(name, None, f"has {entry.size:,} bytes, which no prediction has")
            else:
                yield _Member(name, content.read())
    while counted.read(1 << 20):  # gzip compares its checksum at the end only
        pass
    # tarfile takes a damaged header for the end of the archive.
    if counted.filled > archive.offset or counted.size < archive.offset + _TAR_END:
        raise tarfile.ReadError("its end is missing or lies within")
