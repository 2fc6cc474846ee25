"""What the check of a submission finds: every archive that a server would turn down, and no other.

Every change is made to a valid archive, so each problem is the only one.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from laws import examples
from numpy.typing import NDArray
from small_submissions import (
    INSIDE,
    KINDS,
    NAMES,
    SUFFIX,
    TITLES,
    VALUES,
    SmallBenchmark,
    make_small,
    png,
    submit,
    unpack,
)

from aerial_seg.benchmarks.submission import voc_palette
from aerial_seg.benchmarks.submission_check import SubmissionReport, validate_submission
from aerial_seg.errors import InputError


def pack(file: Path, members: dict[str, bytes]) -> Path:
    if file.name.endswith(".zip"):
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return file
    with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file


def changed(small: SmallBenchmark, folder: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    members = unpack(submit(small, folder))
    change(members)
    return pack(folder / f"changed{SUFFIX[small.name]}", members)


def only_problem(small: SmallBenchmark, file: Path, *, whole: bool = False) -> str:
    report = validate_submission(file, benchmark=small if whole else None, split="test")
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


def first(members: dict[str, bytes]) -> str:
    return next(iter(members))


def with_values(kind: str, values: NDArray[np.uint8]) -> bytes:
    return png(values, voc_palette() if kind == "voc" else None)


BAD_VALUES = {"voc": [21, 255], "cityscapes": [0, 6, 34, 255], "ade20k": [0, 151, 255]}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind in KINDS for value in BAD_VALUES[kind]])
def test_a_value_that_is_no_class_is_found(kind: str, value: int, tmp_path: Path) -> None:
    small = make_small(tmp_path, kind)
    good = np.full((5, 6), VALUES[kind][0], np.uint8)
    good[2, 3] = value
    file = changed(small, tmp_path, lambda m: m.update({first(m): with_values(kind, good)}))
    problem = only_problem(small, file)
    assert f"holds {value}, which no class of {TITLES[kind]} has" in problem
    assert sorted(NAMES[kind])[0] in problem


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_of_the_server_is_taken(kind: str, tmp_path: Path) -> None:
    small = make_small(tmp_path, kind)
    every = np.array([VALUES[kind]], np.uint8)
    file = changed(small, tmp_path, lambda m: m.update({first(m): with_values(kind, every)}))
    assert validate_submission(file).problems == ()


def test_colours_instead_of_numbers_are_found(small: SmallBenchmark, tmp_path: Path) -> None:
    colours = png(np.zeros((5, 6, 3), np.uint8))
    file = changed(small, tmp_path, lambda m: m.update({first(m): colours}))
    assert "has mode RGB" in only_problem(small, file)


def test_voc_wants_its_palette(tmp_path: Path) -> None:
    small = make_small(tmp_path, "voc")
    grey = png(np.zeros((5, 6), np.uint8))
    assert "has mode L" in only_problem(small, changed(small, tmp_path, lambda m: m.update({first(m): grey})))
    other = png(np.zeros((5, 6), np.uint8), voc_palette()[::-1])
    file = changed(small, tmp_path, lambda m: m.update({first(m): other}))
    assert "has other colours than PASCAL VOC's for 0;" in only_problem(small, file)


def test_a_short_palette_with_vocs_colours_is_taken(tmp_path: Path) -> None:
    small = make_small(tmp_path, "voc")
    # Some tools store the first colours only, in as few bits as they need.
    few = png(np.array([[0, 1], [2, 3]], np.uint8), voc_palette()[:4])
    file = changed(small, tmp_path, lambda m: m.update({first(m): few}))
    assert validate_submission(file).problems == ()


def test_missing_and_strange_predictions_are_found(small: SmallBenchmark, tmp_path: Path) -> None:
    file = changed(small, tmp_path, lambda m: m.pop(first(m)) and None)
    problem = only_problem(small, file, whole=True)
    assert f"1 of the 3 images of split test have no prediction: {sorted(NAMES[small.name])[0]};" in problem
    assert validate_submission(file) == SubmissionReport(small.name, 2, ())
    name = sorted(NAMES[small.name])[0]
    other = {"voc": "1999_999999", "cityscapes": "atlantis_000000_000000", "ade20k": "ADE_test_00009999"}[
        small.name
    ]
    file = changed(small, tmp_path, lambda m: m.update({first(m).replace(name, other): m[first(m)]}))
    assert f"{other}" in only_problem(small, file, whole=True)
    assert "belongs to no image of split test" in only_problem(small, file, whole=True)


def test_another_size_than_the_images_is_found(small: SmallBenchmark, tmp_path: Path) -> None:
    tiny = with_values(small.name, np.full((4, 4), VALUES[small.name][0], np.uint8))
    file = changed(small, tmp_path, lambda m: m.update({first(m): tiny}))
    assert "is 4 × 4 px, its image " in only_problem(small, file, whole=True)
    assert validate_submission(file).problems == ()


def test_folders_and_strange_files_are_found(tmp_path: Path) -> None:
    small = make_small(tmp_path, "voc")

    def flatten(members: dict[str, bytes]) -> None:
        for name in list(members):
            members[name.replace("results/VOC2012/", "")] = members.pop(name)

    assert "folder Segmentation/comp6_test_cls is not" in only_problem(
        small, changed(small, tmp_path, flatten)
    )
    file = changed(small, tmp_path, lambda m: m.update({"results/readme.txt": b"hello"}))
    assert "results/readme.txt is no prediction by its name" in only_problem(small, file)
    file = changed(small, tmp_path, lambda m: m.update({first(m).replace("comp6", "comp5"): m.pop(first(m))}))
    assert "2 folders hold predictions" in only_problem(small, file)


def test_two_predictions_of_one_image_are_found(tmp_path: Path) -> None:
    small = make_small(tmp_path, "cityscapes")
    file = changed(small, tmp_path, lambda m: m.update({f"again/{first(m)}": m[first(m)]}))
    assert f"repeats {INSIDE['cityscapes'].format(sorted(NAMES['cityscapes'])[0])}" in only_problem(
        small, file
    )


@pytest.mark.parametrize("name", ["../../{}", "/{}", "a/../../{}", "..\\{}"])
def test_names_that_leave_the_archive_touch_no_disk(
    name: str, small: SmallBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    file = changed(small, tmp_path, lambda m: m.update({name.format(NAMES[small.name][0] + ".png"): b"x"}))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(inside)
    assert "points outside the archive" in only_problem(small, file)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_are_not_followed(tmp_path: Path) -> None:
    small = make_small(tmp_path, "voc")
    members = unpack(submit(small, tmp_path))
    file = pack(tmp_path / "link.tar", members)
    with tarfile.open(file, "a") as tar:
        entry = tarfile.TarInfo(INSIDE["voc"].format("2010_000001"))
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    problems = validate_submission(file).problems
    assert any("is a link or a device, wanted a file" in problem for problem in problems)


def test_a_damaged_png_is_found(small: SmallBenchmark, tmp_path: Path) -> None:
    file = changed(small, tmp_path, lambda m: m.update({first(m): m[first(m)][:60]}))
    assert "cannot be read as PNG" in only_problem(small, file)


def test_another_kind_of_archive_than_its_name_says_is_found(tmp_path: Path) -> None:
    small = make_small(tmp_path, "voc")
    members = unpack(submit(small, tmp_path))
    zipped = pack(tmp_path / "submission.zip", members)
    assert "does not end in .tar.gz or .tgz" in only_problem(small, zipped)
    renamed = zipped.rename(tmp_path / "renamed.tar.gz")
    assert "is not the kind of archive that its name says" in only_problem(small, renamed)


def test_the_predictions_of_another_benchmark_are_an_error(tmp_path: Path) -> None:
    voc, ade = make_small(tmp_path, "voc"), make_small(tmp_path, "ade20k")
    with pytest.raises(InputError, match=r"holds predictions for PASCAL VOC 2012, but .* is ADE20K"):
        validate_submission(submit(voc, tmp_path), benchmark=ade)


@pytest.mark.parametrize("name", ["nothing.zip", "nothing.tar.gz", "nothing.tar"])
def test_an_archive_without_predictions_is_an_error(name: str, tmp_path: Path) -> None:
    for members in ({}, {"readme.txt": b"hello"}):
        with pytest.raises(
            InputError, match=r"nothing.* (holds no prediction|is no whole tar\.gz)"
        ) as caught:
            validate_submission(pack(tmp_path / name, members))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"P", b"no archive at all" * 99, b"PK\x03\x04", b"\x1f\x8b", bytes(2048)]
)
def test_what_is_no_archive_is_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "submission.tar.gz"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        validate_submission(file)
    assert "\n" not in str(caught.value)
    assert "submission.tar.gz" in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No such file"):
        validate_submission(tmp_path / "submission.zip")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(20), deadline=None
)
@given(share=st.floats(0, 1, exclude_max=True), plain=st.booleans())
def test_a_cut_archive_is_never_valid(
    share: float, plain: bool, small: SmallBenchmark, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = submit(small, folder)
    if plain and small.name == "voc":
        whole = pack(folder / "plain.tar", unpack(whole))
        # GNU's blocks of 10,240 bytes end in more zeros than the format wants: cut those first.
        content = whole.read_bytes().rstrip(b"\0")
        whole.write_bytes(content + bytes(1024))
    content = whole.read_bytes()
    whole.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError) as caught:
        validate_submission(whole)
    assert "\n" not in str(caught.value)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(20), deadline=None
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_tar_gz_is_an_error(
    place: float, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    file = submit(make_small(folder, "voc"), folder)
    whole = file.read_bytes()
    content = bytearray(whole)
    header = 10  # of gzip: its time and system are free
    content[header + int(place * (len(content) - header))] ^= 1 << bit
    # Deflate fills up its last byte, and the order of codes that never occur, with bits that say nothing.
    assume(unpacked(bytes(content)) != unpacked(whole))
    file.write_bytes(content)
    with pytest.raises(InputError):
        validate_submission(file)


def unpacked(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


def test_a_damaged_header_inside_a_tar_is_not_taken_for_its_end(tmp_path: Path) -> None:
    file = pack(tmp_path / "plain.tar", unpack(submit(make_small(tmp_path, "voc"), tmp_path)))
    content = bytearray(file.read_bytes())
    second = content.index(sorted(NAMES["voc"])[1].encode())
    content[second] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"its end is missing or lies within"):
        validate_submission(file)


@pytest.mark.parametrize("bad", ["new\nline", "bell\a"])
def test_a_name_that_cannot_be_printed_stays_one_line(bad: str, tmp_path: Path) -> None:
    small = make_small(tmp_path, "ade20k")
    file = changed(small, tmp_path, lambda m: m.update({f"{bad}.png": b"x"}))
    problem = only_problem(small, file)
    assert "cannot be printed" in problem
    assert problem.isprintable()


def test_a_tar_cut_between_two_files_is_not_whole(tmp_path: Path) -> None:
    file = pack(tmp_path / "plain.tar", unpack(submit(make_small(tmp_path, "voc"), tmp_path)))
    content = file.read_bytes()
    third = content.index(INSIDE["voc"].format(sorted(NAMES["voc"])[2]).encode())
    assert third % 512 == 0, "a header starts with the name"
    file.write_bytes(content[:third])
    with pytest.raises(InputError, match=r"its end is missing"):
        validate_submission(file)
