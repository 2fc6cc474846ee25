"""Pieces are kept in order, by one thread behind their maker, and what goes wrong there ends the maker's work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aerial_seg.errors import OutputError
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.piece_writer import PieceWriter
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.models.file import TrainedModel

FULL = OutputError("the disk is full; free space")


def test_pieces_are_kept_in_order_while_the_next_is_made() -> None:
    kept: list[tuple[int, str]] = []
    made_meanwhile = threading.Event()

    def keep(piece: int) -> None:
        if piece == 0:
            assert made_meanwhile.wait(timeout=600)
        kept.append((piece, threading.current_thread().name))

    with PieceWriter(keep) as writer:
        writer.put(0)
        made_meanwhile.set()
        for piece in range(1, 5):
            writer.put(piece)
            assert len(kept) >= piece  # at most one waits
    assert [piece for piece, _ in kept] == list(range(5))
    assert threading.current_thread().name not in {name for _, name in kept}


def test_an_error_is_raised_as_it_was_and_nothing_is_kept_after_it() -> None:
    kept: list[int] = []

    def keep(piece: int) -> None:
        if piece == 1:
            raise FULL
        kept.append(piece)

    def run(pieces: int) -> None:
        with PieceWriter(keep) as writer:
            for piece in range(pieces):
                writer.put(piece)

    for pieces in (2, 3, 9):  # the last one's, too
        kept.clear()
        with pytest.raises(OutputError) as raised:
            run(pieces)
        assert raised.value is FULL
        assert kept == [0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_of_the_maker_waits_for_the_piece_at_work(error: type[BaseException]) -> None:
    kept: list[int] = []
    failing = threading.Event()

    def keep(piece: int) -> None:
        assert failing.wait(timeout=600)
        kept.append(piece)

    def run() -> None:
        with PieceWriter(keep) as writer:
            writer.put(0)
            failing.set()
            raise error

    before = threading.active_count()
    with pytest.raises(error):
        run()
    assert kept == [0]
    assert threading.active_count() == before


def test_a_report_tells_what_held_the_run(
    tmp_path: Path,
    write_raster: Callable[..., Path],
    pointwise: Callable[..., TrainedModel],
    use: Callable[[TrainedModel], None],
) -> None:
    use(pointwise(stride=8, origin_step=8, tile_size=64))
    image = np.random.default_rng(0).integers(0, 256, (2, 90, 130), dtype=np.uint8)
    source = write_raster(tmp_path / "in.tif", image)
    (report,) = predict(Path("any"), [str(source)], tmp_path / "map.tif", PredictSettings(engine="eager"))
    *stages, total = report.stage_seconds
    assert set(stages) == {"reading", "cutting", "network", "stitching", "writing", "assembly"}
    assert total == "total"
    spent = report.stage_seconds
    assert all(seconds > 0 for seconds in spent.values())
    assert sum(spent[stage] for stage in stages) <= spent["total"]
