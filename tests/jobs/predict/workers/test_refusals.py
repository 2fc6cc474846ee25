"""What workers cannot do is refused in one line, and how rows are cut into groups keeps to its bar."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.errors import SettingsError
from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.jobs.predict.job import forecast_prediction, predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.predict.workers.groups import choose_cut, cuts, grouped


@pytest.mark.parametrize(
    "workers", ["0", "2000", "two", "tcp://scheduler", "http://scheduler:8786", "", "-1", True, 0]
)
def test_what_names_no_workers_is_told_what_does(workers: object) -> None:
    with pytest.raises(SettingsError, match=r"workers is .*wanted a number of workers"):
        PredictSettings(workers=workers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workers", "held"),
    [(2, "2"), ("16", "16"), ("tcp://10.0.0.1:8786", "tcp://10.0.0.1:8786"), (Path("a/s.json"), "a/s.json")],
)
def test_numbers_addresses_and_files_name_workers(workers: object, held: str) -> None:
    wanted = str(Path(held)) if isinstance(workers, Path) else held
    assert PredictSettings(workers=workers).workers == wanted  # type: ignore[arg-type]


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "aerial_seg.jobs.cluster.library", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match=r"`workers` needs Dask .*pip install 'aerial-seg\[dask\]'"):
        predict("m.safetensors", "in.tif", tmp_path / "map.tif", PredictSettings(workers="2"))


def test_a_crf_and_a_forecast_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(SettingsError, match="`crf` is computed in one process as yet"):
        predict("m.safetensors", "in.tif", tmp_path / "map.tif", PredictSettings(workers="2", crf=True))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match='leave `workers="2"` out'):
        forecast_prediction("m.safetensors", "in.tif", tmp_path / "map.tif", PredictSettings(workers="2"))


def test_eight_workers_compute_few_rows_twice() -> None:
    cut = choose_cut(50_000, workers=8, again=448)
    assert cut.groups == 8
    assert cut.again / 50_000 <= 0.08


@given(rows=st.integers(1, 200_000), workers=st.integers(1, 64), again=st.integers(0, 2000))
def test_law_no_cut_that_could_be_chosen_takes_less_time(rows: int, workers: int, again: int) -> None:
    chosen = choose_cut(rows, workers=workers, again=again)
    assert chosen.cost <= min(cut.cost for cut in cuts(rows, workers=workers, again=again))
    assert len(grouped([range(rows)], chosen.blocks)) == chosen.groups


@given(
    borders=st.lists(st.integers(0, 60), min_size=2, max_size=8, unique=True).map(sorted),
    blocks=st.integers(1, 9),
    short=st.integers(0, BLOCK - 1),
)
def test_law_groups_hold_each_missing_row_once_in_whole_blocks(
    borders: list[int], blocks: int, short: int
) -> None:
    gaps = [range(a * BLOCK, b * BLOCK) for a, b in zip(borders[::2], borders[1::2], strict=False)]
    gaps[-1] = range(gaps[-1].start, gaps[-1].stop - short)
    groups = grouped(gaps, blocks)
    assert [row for gap in gaps for row in gap] == [row for group in groups for row in group]
    assert all(group.start % BLOCK == 0 and 0 < len(group) <= blocks * BLOCK for group in groups)
