"""Archives of predictions as the benchmarks' servers take them."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aerial_seg.benchmarks.cityscapes import SCORED
from aerial_seg.benchmarks.dataset import Benchmark, Example
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.staging import staged_files
from aerial_seg.legend import IGNORE
from aerial_seg.mentions import setting
from aerial_seg.progress import Progress, silent

COMPETITIONS = ("comp5", "comp6")
"""PASCAL VOC's segmentation competitions: comp5 trained on VOC's own data only, comp6 on any."""

Add = Callable[[str, bytes], None]
"""Puts one file, by its path inside, into an archive."""


@dataclass(frozen=True, slots=True)
class SubmissionForm:
    """What one server takes.

    suffixes: of the archive. folder: pattern of the folder inside, as a whole. file: pattern of a file's name, whose
    first group is the image's. values: what pixels may hold. modes: Pillow's modes that are taken; P alone means that
    the palette must be PASCAL VOC's.
    """

    kind: str
    title: str
    suffixes: tuple[str, ...]
    folder: re.Pattern[str]
    file: re.Pattern[str]
    values: frozenset[int]
    modes: tuple[str, ...]

    @property
    def indexed(self) -> bool:
        """Whether files carry the palette of PASCAL VOC."""
        return self.modes == ("P",)


# Sources: VOC2012 development kit, "Submission of Results". Cityscapes: cityscapesScripts,
# evalPixelLevelSemanticLabeling.py: regular ids, a file matches `city_sequence_frame*.png` anywhere; that the
# server wants a zip of all 1,525 is from memory. ADE20K: CSAILVision/sceneparsing, README: a zip, named as the images.
FORMS = {
    form.kind: form
    for form in (
        SubmissionForm(
            "voc", "PASCAL VOC 2012", (".tar.gz", ".tgz"),
            re.compile(r"results/VOC2012/Segmentation/comp[56]_(test|val)_cls"), re.compile(r"(\d{4}_\d{6})\.png"),
            frozenset(range(21)), ("P",),
        ),
        SubmissionForm(
            "cityscapes", "Cityscapes", (".zip",),
            re.compile(".*"), re.compile(r"([A-Za-z-]+_\d{6}_\d{6})[^/]*\.png"),
            frozenset(row.id for row in SCORED), ("L", "P"),
        ),
        SubmissionForm(
            "ade20k", "ADE20K", (".zip",),
            re.compile(".*"), re.compile(r"(ADE_(?:test|val|train)_\d{8})\.png"),
            frozenset(range(1, 151)), ("L", "P"),
        ),
    )
}  # fmt: skip


def check_submission_target(
    kind: str, out: Path, *, split: str = "test", competition: str = "comp6"
) -> SubmissionForm:
    """The form of the submissions to the benchmark `kind`: ask before hours of work, not after them.

    Raises SettingsError for a benchmark without a server, a wrong suffix of `out`, a split to train on or an unknown
    competition.
    """
    if kind not in FORMS:
        raise SettingsError(f"'{kind}' has no known form of submission; known: {', '.join(FORMS)}")
    form = FORMS[kind]
    if not out.name.endswith(form.suffixes):
        raise SettingsError(
            f"{out.name} does not end in {' or '.join(form.suffixes)}, which the {form.title} server wants; "
            f"try {out.name.split('.')[0]}{form.suffixes[0]}"
        )
    if split not in ("test", "val"):
        raise SettingsError(
            f"a submission of split {split} was asked for, wanted test (for the server) or val (for an evaluation at "
            f"home); pass {setting('split', 'test')}"
        )
    if competition not in COMPETITIONS:
        raise SettingsError(
            f"there is no segmentation competition '{competition}'; wanted {' or '.join(COMPETITIONS)} "
            "(trained on VOC's own data only, or on any)"
        )
    return form


def write_submission(
    benchmark: Benchmark,
    predictions: Iterable[tuple[Example, Path]],
    out: Path,
    *,
    split: str,
    competition: str = "comp6",
    progress: Progress = silent,
) -> int:
    """The archive `out` holds a prediction for every image of the split; returns how many. An older `out` is replaced.

    predictions: index PNG files (mode P or L) of channels, (H,W) as the image. The same predictions give the same
    bytes: names are sorted and times are fixed. competition: for PASCAL VOC only.

    Raises SettingsError as check_submission_target; InputError for missing predictions (how many and which), for
    predictions of other images, of another size, or with a value that is no channel; OutputError if the disk does not
    take the file. Then there is no `out`, or the older one.
    """
    form = check_submission_target(benchmark.name, out, split=split, competition=competition)
    given = sorted(predictions, key=lambda pair: pair[0].name)
    _check_complete([example.name for example, path in given if path.is_file()], benchmark, split)
    table = benchmark.submission_values()
    pack = _tar_gz if form.kind == "voc" else _zip
    with (
        staged_files(out, overwrite=True) as work,
        pack(work / out.name) as add,
        progress("submission", total=len(given), unit="image") as bar,
    ):
        for example, path in given:
            values = _submitted_values(example, path, table)
            add(_path_inside(form, example.name, split, competition), _png(values, indexed=form.indexed))
            bar.update()
    return len(given)


def voc_palette() -> NDArray[np.uint8]:
    """(256,3) uint8 RGB: PASCAL VOC's colour of every index.

    Source: VOC2012 development kit, VOClabelcolormap: the index's bits, three at a time, from the top bit down.
    """
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for band in range(3):
            palette[:, band] |= ((index >> (3 * bit + band) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def some_of(names: Iterable[str]) -> str:
    """The first three names and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - 3:,} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more


def _check_complete(names: list[str], benchmark: Benchmark, split: str) -> None:
    wanted = [example.name for example in benchmark.examples(split)]
    missing, strange = sorted(set(wanted) - set(names)), sorted(set(names) - set(wanted))
    if missing:
        raise InputError(
            f"{len(missing):,} of the {len(wanted):,} predictions of split {split} are missing: {some_of(missing)}; "
            "predict the whole split, then write the submission"
        )
    if strange:
        raise InputError(
            f"{len(strange):,} predictions belong to no image of split {split}: {some_of(strange)}; "
            "name the split that they were made from"
        )


def _submitted_values(example: Example, path: Path, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture, Image.open(example.image) as image:
            if picture.mode not in ("P", "L"):
                raise InputError(
                    f"{path} has mode {picture.mode}, wanted an index PNG (P or L); predict it again"
                )
            if picture.size != image.size:
                raise InputError(
                    f"{path} is {_size(picture)}, its image {example.image.name} is {_size(image)}; "
                    "predictions are submitted at full size: predict it again"
                )
            channels = np.array(picture)
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read ({error}); predict it again") from error
    values: NDArray[np.uint8] = table[channels]
    if (values == IGNORE).any():
        strange = np.unique(channels[values == IGNORE])
        raise InputError(
            f"{path} holds {', '.join(map(str, strange[:5]))}, which is no channel of the benchmark's classes; "
            "predict it again with a model of these classes"
        )
    return values


def _size(picture: Image.Image) -> str:
    return f"{picture.width} × {picture.height} px"


def _path_inside(form: SubmissionForm, name: str, split: str, competition: str) -> str:
    if form.kind == "voc":
        # The server scores test; val is the same layout for the development kit's own evaluation.
        return f"results/VOC2012/Segmentation/{competition}_{split}_cls/{name}.png"
    return f"{name}_pred_labelIds.png" if form.kind == "cityscapes" else f"{name}.png"


def _png(values: NDArray[np.uint8], *, indexed: bool) -> bytes:
    picture = Image.fromarray(values)
    if indexed:
        picture.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def _tar_gz(path: Path) -> Iterator[Add]:
    with (
        path.open("wb") as raw,
        # The files are compressed already; gzip's header would hold the time and the name.
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):

        def add(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        yield add


@contextmanager
def _zip(path: Path) -> Iterator[Add]:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.create_system = 3  # Unix wherever it is written
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)

        yield add
