"""A file bears its name only when it is whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from rasterio.errors import RasterioIOError

from aerial_seg.errors import OutputError
from aerial_seg.outputs.durable import require_written, settled_file


def test_what_is_written_is_there_under_its_name_alone(tmp_path: Path) -> None:
    final = tmp_path / "a.tif"
    (tmp_path / "a.tif.partial").write_text("left by a kill")
    with settled_file(final) as partial:
        assert not partial.exists()
        partial.write_text("new")
        assert not final.exists()
    assert final.read_text() == "new"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize(
    "error", [RasterioIOError("no space"), OSError(28, "No space left on device"), KeyboardInterrupt()]
)
def test_whatever_happens_before_the_end_leaves_the_older_file(tmp_path: Path, error: BaseException) -> None:
    final = tmp_path / "a.tif"
    final.write_text("old")
    wanted = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError

    def write() -> None:
        with settled_file(final) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(wanted) as raised:
        write()
    assert list(tmp_path.iterdir()) == [final]
    assert final.read_text() == "old"
    if wanted is OutputError:
        assert "a.tif could not be written (" in str(raised.value)
        assert "o space" in str(raised.value)
        assert "run again" in str(raised.value)


def test_what_reads_back_otherwise_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a.tif reads back other than it was written; free disk space"):
        require_written(False, tmp_path / "a.tif")
    require_written(True, tmp_path / "a.tif")
