"""Whoever reads a log sees how far a long step is; whoever looks at a terminal sees a bar."""

from __future__ import annotations

import sys

import pytest

from aerial_seg.cli import console


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_elsewhere_than_on_a_terminal_a_line_comes_every_half_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with console.bar("train", total=650, unit="iteration") as bar:
        for _ in range(50):
            clock[0] += 2
            bar.update()
        assert capsys.readouterr().err.splitlines() == [
            "train: 15 of 650 iterations after 0 min 30 s, about 21 min 10 s to go",
            "train: 30 of 650 iterations after 1 min 00 s, about 20 min 40 s to go",
            "train: 45 of 650 iterations after 1 min 30 s, about 20 min 10 s to go",
        ]
        clock[0] += 3600
        bar.update(605)
    assert capsys.readouterr() == ("", "train: 655 of 650 iterations after 1 h 01 min\n")


def test_a_short_step_says_nothing_and_a_label_steers_no_terminal(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with console.bar("a\x1b[31m\nb.tif", total=2, unit="tile") as bar:
        bar.update()
        assert capsys.readouterr().err == ""
        clock[0] += 30
        bar.update()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("a\\x1b[31m")
    assert "\x1b" not in line


def test_a_reader_who_left_stops_no_work(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with console.bar("predict", total=2, unit="tile") as bar:
        clock[0] += 31
        bar.update()


def test_on_a_terminal_it_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with console.bar("predict", total=2, unit="tile") as bar:
        bar.update(2)
    told = capsys.readouterr().err
    assert "predict: 100%" in told
    assert "2/2" in told
