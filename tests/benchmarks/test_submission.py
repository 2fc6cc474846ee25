"""Archives for the servers: what is written is what the server reads, and what it would refuse is found before."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_submissions import (
    INSIDE,
    NAMES,
    SUFFIX,
    VALUES,
    SmallBenchmark,
    make_small,
    png,
    predict,
    submit,
    unpack,
)

from aerial_seg.benchmarks.dataset import Example
from aerial_seg.benchmarks.submission import voc_palette, write_submission
from aerial_seg.benchmarks.submission_check import SubmissionReport, validate_submission
from aerial_seg.errors import InputError, SettingsError


def test_the_archive_holds_what_the_server_wants(small: SmallBenchmark, tmp_path: Path) -> None:
    pairs, channels = predict(small, tmp_path / "predictions")
    out = tmp_path / "new folder" / f"submission{SUFFIX[small.name]}"
    assert write_submission(small, pairs, out, split="test") == 3
    members = unpack(out)
    assert list(members) == [INSIDE[small.name].format(name) for name in sorted(NAMES[small.name])]
    for name, made in channels.items():
        with Image.open(io.BytesIO(members[INSIDE[small.name].format(name)])) as picture:
            assert picture.format == "PNG"
            assert picture.mode == ("P" if small.name == "voc" else "L")
            assert np.array_equal(np.array(picture), np.array(VALUES[small.name])[made])
            if small.name == "voc":
                palette = picture.getpalette()
                assert palette is not None
                # person and tv/monitor in the publishers' colours
                assert (palette[45:48], palette[60:63]) == ([192, 128, 128], [0, 64, 128])
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_what_is_written_is_valid(small: SmallBenchmark, tmp_path: Path) -> None:
    out = submit(small, tmp_path)
    assert validate_submission(out) == SubmissionReport(small.name, 3, ())
    assert validate_submission(out, benchmark=small, split="test") == SubmissionReport(small.name, 3, ())


def test_the_palette_is_the_publishers() -> None:
    known = {
        0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0), 15: (192, 128, 128),
        19: (128, 192, 0), 20: (0, 64, 128), 255: (224, 224, 192),
    }  # fmt: skip
    assert {index: tuple(map(int, voc_palette()[index])) for index in known} == known


def test_the_same_predictions_are_the_same_bytes(
    small: SmallBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, _ = predict(small, tmp_path / "predictions")
    written = []
    for number, when in enumerate((1e9, 1.5e9)):
        monkeypatch.setattr("time.time", lambda when=when: when)
        out = tmp_path / f"{'ab'[number]}{SUFFIX[small.name]}"
        write_submission(small, pairs[:: 1 - 2 * number], out, split="test")
        written.append(out.read_bytes())
    assert written[0] == written[1]


def test_comp5_has_its_own_folder(tmp_path: Path) -> None:
    small = make_small(tmp_path, "voc")
    pairs, _ = predict(small, tmp_path / "predictions")
    out = tmp_path / "val.tgz"
    write_submission(small, pairs, out, split="val", competition="comp5")
    assert {str(Path(name).parent) for name in unpack(out)} == {"results/VOC2012/Segmentation/comp5_val_cls"}
    assert validate_submission(out, benchmark=small, split="val").problems == ()
    (problem,) = validate_submission(out, benchmark=small, split="test").problems
    assert "is for val, wanted split test" in problem


def test_missing_predictions_are_counted_and_named(small: SmallBenchmark, tmp_path: Path) -> None:
    pairs, _ = predict(small, tmp_path / "predictions")
    pairs[1][1].unlink()
    out = tmp_path / f"submission{SUFFIX[small.name]}"
    with pytest.raises(
        InputError, match=f"2 of the 3 predictions .*: {', '.join(sorted(NAMES[small.name][:2]))};"
    ):
        write_submission(small, pairs[1:], out, split="test")
    assert not out.exists()


def test_a_prediction_of_another_image_is_an_error(small: SmallBenchmark, tmp_path: Path) -> None:
    pairs, _ = predict(small, tmp_path / "predictions")
    pairs.append((Example("somebody else's", pairs[0][0].image, None), pairs[0][1]))
    with pytest.raises(InputError, match=r"1 predictions belong to no image of split test: somebody else's"):
        write_submission(small, pairs, tmp_path / f"submission{SUFFIX[small.name]}", split="test")


def _overwrite(path: Path, values: NDArray[np.generic]) -> None:
    path.write_bytes(png(values))


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "size": (
        lambda path: _overwrite(path, np.zeros((9, 9), np.uint8)),
        "is 9 × 9 px, its image .* is 43 × 34 px",
    ),
    "mode": (lambda path: _overwrite(path, np.zeros((34, 43, 3), np.uint8)), "has mode RGB"),
    "value": (
        lambda path: _overwrite(path, np.full((34, 43), 200, np.uint8)),
        "holds 200, which is no channel",
    ),
    "ignored": (
        lambda path: _overwrite(path, np.full((34, 43), 255, np.uint8)),
        "holds 255, which is no channel",
    ),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot be read"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_prediction_leaves_the_older_archive_alone(
    how: str, small: SmallBenchmark, tmp_path: Path
) -> None:
    spoil, message = SPOILED[how]
    pairs, _ = predict(small, tmp_path / "predictions")
    spoil(pairs[2][1])
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / f"submission{SUFFIX[small.name]}"
    with pytest.raises(InputError, match=message):
        write_submission(small, pairs, out, split="test")
    assert list(folder.iterdir()) == []
    out.write_bytes(b"older")
    with pytest.raises(InputError, match=message):
        write_submission(small, pairs, out, split="test")
    assert [path.name for path in folder.iterdir()] == [out.name]
    assert out.read_bytes() == b"older"


def test_a_wrong_suffix_or_competition_is_said_before_anything_is_read(tmp_path: Path) -> None:
    small = make_small(tmp_path, "voc")
    with pytest.raises(
        SettingsError, match=r"results\.zip does not end in \.tar\.gz .* try results\.tar\.gz"
    ):
        write_submission(small, [], tmp_path / "results.zip", split="test")
    with pytest.raises(SettingsError, match=r"no segmentation competition 'comp7'"):
        write_submission(small, [], tmp_path / "results.tar.gz", split="test", competition="comp7")
    with pytest.raises(SettingsError, match=r"does not end in \.zip"):
        write_submission(make_small(tmp_path, "ade20k"), [], tmp_path / "results.tar.gz", split="test")
