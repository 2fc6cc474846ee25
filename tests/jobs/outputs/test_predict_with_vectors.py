"""Polygons that a mask is mapped with: both come, or the mask comes and the polygons are told to be missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from outputs_of_jobs import EAGER, MODEL, contents

from aerial_seg.errors import Incomplete, Interrupted, OutputError
from aerial_seg.jobs.predict import job as predict_room
from aerial_seg.jobs.predict.job import predict
from aerial_seg.progress import silent
from aerial_seg.vectors import writer


class Stops:
    """A progress bar that raises at the n-th step of the stage with that name."""

    def __init__(self, stage: str, error: BaseException | None, step: int = 0) -> None:
        self._stage, self._error, self._step, self._label = stage, error, step, ""

    def __call__(self, label: str, *, total: int, unit: str) -> Stops:
        del total, unit
        self._label = label.split()[0]
        return self

    def __enter__(self) -> Stops:
        if self._label == self._stage and self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, n: int = 1) -> None:
        del n


@pytest.mark.usefixtures("use")
class TestPredictWithVectors:
    """`predict --vectors` that is interrupted after its mask goes on with its polygons."""

    def run(self, image: Path, out: Path, name: str, progress: object = silent, **changes: object) -> None:
        settings = replace(EAGER, vectors=out / name, **changes)  # type: ignore[arg-type]
        predict(MODEL, [str(image)], out / "map.tif", settings, progress)  # type: ignore[arg-type]

    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        (tmp_path / "out" / "sub").mkdir(parents=True)
        return tmp_path / "out"

    def calm(self, image: Path, out: Path, name: str) -> dict[str, bytes]:
        self.run(image, out, name)
        wanted = contents(out)
        shutil.rmtree(out)
        (out / "sub").mkdir(parents=True)
        return wanted

    @pytest.mark.parametrize(
        ("name", "error", "code", "overwrite"),
        [
            ("map.gpkg", KeyboardInterrupt(), 130, False),
            ("map.shp", OSError(28, "No space left on device"), 3, True),
            ("sub/p.geojson", OutputError("open in QGIS"), 3, False),
        ],
    )
    def test_interrupted_while_vectorising(
        self, image: Path, out: Path, name: str, error: BaseException, code: int, overwrite: bool
    ) -> None:
        wanted = self.calm(image, out, name)
        if overwrite:
            for file in wanted:
                if not file.endswith(".qml"):  # a style of somebody else would stay
                    (out / file).write_bytes(b"old")
        with pytest.raises(Incomplete, match="make the same call again to go on") as told:
            self.run(image, out, name, Stops("vectorize", error), overwrite=overwrite)
        assert told.value.exit_code == code
        assert (out / "map.tif").read_bytes() == wanted["map.tif"]
        assert overwrite or not (out / name).exists()
        stages: list[str] = []
        self.run(image, out, name, _noting(stages), overwrite=overwrite)
        assert "vectorize" in stages
        assert "predict" not in stages
        assert contents(out) == wanted

    @pytest.mark.parametrize(
        ("name", "moment"),
        [
            ("map.gpkg", "vectorising"),
            ("map.shp", "before placing"),
            ("map.shp", "placed"),
            ("sub/p.geojson", "placed and cleared"),
        ],
    )
    def test_killed_at_the_end(
        self, image: Path, out: Path, name: str, moment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What lay there at that moment is what a kill would have left. The campaign kills for good."""
        wanted = self.calm(image, out, name)
        kept, progress = out.with_name("kept"), silent
        with monkeypatch.context() as patch:
            if moment == "vectorising":
                progress = _Calls("vectorize", lambda: _keep(out, kept))  # type: ignore[assignment]
            else:
                room, function = {
                    "before placing": (writer, "publish"),
                    "placed": (predict_room, "remember"),
                    "placed and cleared": (predict_room, "replace"),
                }[moment]
                honest = getattr(room, function)

                def first_kept(*arguments: object, **named: object) -> object:
                    if "vectors" in named or function != "replace":
                        _keep(out, kept)
                    return honest(*arguments, **named)

                patch.setattr(room, function, first_kept)
            self.run(image, out, name, progress)
        shutil.rmtree(out)
        kept.rename(out)
        assert (out / "map.tif.work").exists()
        assert (out / "map.tif").read_bytes() == wanted["map.tif"]
        self.run(image, out, name)
        assert contents(out) == wanted
        with pytest.raises(OutputError, match="exists"):
            self.run(image, out, name)

    def test_polygons_of_somebody_else_are_not_replaced_by_the_second_run(
        self, image: Path, out: Path
    ) -> None:
        with pytest.raises(Interrupted):
            self.run(image, out, "map.gpkg", Stops("vectorize", KeyboardInterrupt()))
        (out / "map.gpkg").write_text("made by hand")
        with pytest.raises(OutputError, match=r"map\.gpkg exists; pass `overwrite=True`"):
            self.run(image, out, "map.gpkg")
        assert (out / "map.gpkg").read_text() == "made by hand"

    def test_a_mask_that_was_taken_away_is_made_again(self, image: Path, out: Path) -> None:
        wanted = self.calm(image, out, "map.gpkg")
        with pytest.raises(Interrupted):
            self.run(image, out, "map.gpkg", Stops("vectorize", KeyboardInterrupt()))
        (out / "map.tif").unlink()
        self.run(image, out, "map.gpkg", overwrite=True)
        assert contents(out) == wanted


def _keep(folder: Path, kept: Path) -> None:
    """The same files lie in `kept`, not copies: what is renamed or removed later stays there as it is."""
    shutil.copytree(folder, kept, copy_function=os.link)


class _Calls(Stops):
    def __init__(self, stage: str, call: Callable[[], object]) -> None:
        super().__init__(stage, None)
        self._call = call

    def __enter__(self) -> Stops:
        if self._label == self._stage:
            self._call()
        return self


def _noting(stages: list[str]) -> Stops:
    class Notes(Stops):
        def update(self, n: int = 1) -> None:
            stages.append(self._label)

    return Notes("", None)
