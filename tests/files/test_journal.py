"""What a crash leaves is recognised, what changed is named, and two runs never share a work folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.errors import OutputError
from aerial_seg.files.journal import (
    NAME,
    DamagedJournalError,
    Journal,
    finished_results,
    has_records,
    locked_work,
    read_job,
    work_folder,
)

JOB = {
    "version": "1",
    "parameters": {"overlap": 64, "window": "linear"},
    "panels": [[0, 512]],
    "input": (1, 2),
}


def write(folder: Path, records: int) -> Path:
    journal = Journal.open(folder / NAME, JOB)
    for number in range(records):
        journal.add({"rows": [number * 512, (number + 1) * 512], "name": "Straße 市"})
    return folder / NAME


def test_a_journal_comes_with_its_first_record(tmp_path: Path) -> None:
    path = write(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
    Journal.open(path, JOB).add({"rows": [0, 512]})
    assert Journal.open(path, JOB).records == [{"rows": [0, 512]}]


def test_a_journal_without_records_gives_way_to_that_of_another_job(tmp_path: Path) -> None:
    # As a run leaves it that was killed before its first piece was done, and was of an earlier version.
    path = tmp_path / NAME
    path.write_text(json.dumps(JOB) + "\n", encoding="utf-8")
    other = {**JOB, "version": "2"}
    journal = Journal.open(path, other)
    journal.add({"rows": [0, 512]})
    journal.add({"rows": [512, 1024]})
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[0]["version"] == "2"
    assert lines[1:] == [{"rows": [0, 512]}, {"rows": [512, 1024]}] == journal.records


@given(records=st.integers(1, 4), data=st.data())
def test_a_cut_anywhere_costs_the_cut_record_only(
    tmp_path_factory: pytest.TempPathFactory, records: int, data: st.DataObject
) -> None:
    path = write(tmp_path_factory.mktemp("w"), records)
    content = path.read_bytes()
    lengths = [len(line) + 1 for line in content.splitlines()]
    cut = data.draw(st.integers(lengths[0], len(content)))
    path.write_bytes(content[:cut])
    # A record counts from its last character on, with or without its line end.
    whole = sum(cut >= sum(lengths[: k + 1]) - 1 for k in range(1, len(lengths)))
    journal = Journal.open(path, JOB)
    assert [r["rows"][0] for r in journal.records] == [k * 512 for k in range(whole)]
    journal.add({"rows": [0, 1]})
    assert Journal.open(path, JOB).records == journal.records
    assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def fail_after(final: Path, records: int) -> None:
    """A run that wrote this many records and then failed."""
    with locked_work(final, restart=False) as work:
        write(work, records)
        (work / "result").mkdir(exist_ok=True)
        raise RuntimeError


def test_another_job_is_refused_and_its_changes_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    other = {**JOB, "version": "2", "parameters": {"overlap": 48, "window": "linear"}}
    with pytest.raises(
        OutputError, match=r"parameters\.overlap was 64, is 48; version was 1, is 2\).*`restart=True`"
    ):
        Journal.open(path, other)
    assert read_job(path) == json.loads(json.dumps(JOB))


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (lambda lines: ["null", *lines[1:]], "line 1 of 3 is no record"),
        (lambda lines: [lines[0], "[" * 100_000 + "]" * 100_000, *lines[1:]], "line 2 of 4 is not JSON"),
        (lambda lines: [lines[0], "1" * 100_000, *lines[1:]], "line 2 of 4 is not JSON"),
        (lambda lines: [*lines, '"text"'], "line 4 of 4 is no record"),
    ],
)
def test_lines_that_no_run_wrote_are_told_and_nothing_is_lost(
    tmp_path: Path, spoil: Callable[[list[str]], list[str]], wanted: str
) -> None:
    path = write(tmp_path, 2)
    path.write_text("\n".join(spoil(path.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(DamagedJournalError, match=f"{wanted}.*pass `restart=True` to begin anew"):
        Journal.open(path, JOB)
    assert path.read_bytes() == before
    assert has_records(tmp_path)


def test_nan_is_the_same_setting_as_before(tmp_path: Path) -> None:
    job = {"nodata": float("nan"), "most": float("inf")}
    Journal.open(tmp_path / NAME, job).add({"rows": [0, 1]})
    assert Journal.open(tmp_path / NAME, job).records == [{"rows": [0, 1]}]


def test_another_job_may_begin_where_nothing_was_done(tmp_path: Path) -> None:
    path = write(tmp_path, 0)
    journal = Journal.open(path, {"version": "2"})
    assert journal.records == []
    assert read_job(path) is None
    journal.add({"rows": [0, 512]})
    assert read_job(path) == {"version": "2"}


def test_the_work_folder_stays_only_when_a_piece_was_recorded(tmp_path: Path) -> None:
    final = tmp_path / "new" / "folder" / "map.tif"
    with pytest.raises(RuntimeError):
        fail_after(final, 0)
    assert not (tmp_path / "new").exists()
    with pytest.raises(RuntimeError):
        fail_after(final, 2)
    assert has_records(work_folder(final))
    with locked_work(final, restart=False) as work:
        assert len(Journal.open(work / NAME, JOB).records) == 2
        (work / "piece.tif").touch()
    assert not work.exists()
    assert final.parent.is_dir()


def test_restart_forgets(tmp_path: Path) -> None:
    final = tmp_path / "map.tif"
    with pytest.raises(RuntimeError):
        fail_after(final, 2)
    with locked_work(final, restart=True) as work:
        assert [entry.name for entry in work.iterdir()] == ["lock"]


def test_pieces_without_a_journal_are_swept_away(tmp_path: Path) -> None:
    work = tmp_path / "map.tif.work"
    work.mkdir()
    for name in ("lock", "class-p00-r00000000.tif"):
        (work / name).touch()
    with locked_work(tmp_path / "map.tif", restart=False) as work:
        assert [entry.name for entry in work.iterdir()] == ["lock"]


def test_a_second_run_on_the_same_output_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    final = tmp_path / "map.tif"
    with locked_work(final, restart=False) as work:
        path = write(work, 1)
        with (
            pytest.raises(OutputError, match="being written by another run"),
            locked_work(final, restart=True),
        ):
            pass
        assert len(Journal.open(path, JOB).records) == 1


def test_a_journal_tells_which_results_were_finished(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    assert finished_results(path) == frozenset()
    journal = Journal.open(path, JOB)
    for name in ("map.tif", "other.tif"):
        journal.add({"report": {"mask": Path(name)}})
    assert finished_results(path) == {"map.tif", "other.tif"}
    assert finished_results(tmp_path / "none") == frozenset()
