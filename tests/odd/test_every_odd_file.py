"""Every odd file through info and predict: the map that it should give, or one line that says why there is none.

manifest.toml beside this file says which; rasterio is asked what grid and which pixels the file has. Commands run in
a worker with a limit of memory and of time: none may end in a traceback, hang or take much memory.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

ODD = Path(__file__).parents[2].parent / "shared" / "data" / "odd"
MANIFEST: dict[str, Any] = tomllib.loads(Path(__file__).with_name("manifest.toml").read_text("utf-8"))
SECONDS = 300
"""A command takes at most some five seconds, the largest file half a minute, and ten times that beside others."""
TOO_LARGE = "rio-tiler/cog_cmap.tif"
"""208 million pixels of half a metre: of this size one map, on its own pixels, is enough."""
GROWTH = 600 * 2**20
"""Bytes that a command may need; the largest file has 62 million pixels."""

Command = Callable[..., dict[str, Any]]


def by_file(groups: dict[str, list[str]]) -> dict[str, str]:
    """{words: files} the other way round."""
    return {file: words for words, files in groups.items() for file in files}


def named() -> list[str]:
    """Every file that the manifest names, as often as it names it as it is."""
    as_is = MANIFEST["as_is"]
    refused = [file for group in as_is["refused"].values() for file in group]
    return [*as_is["maps"], *as_is["resampled"], *as_is["gsd"], *refused, TOO_LARGE]


def files() -> list[str]:
    """Every file of the folder; where the folder is not there, those that the manifest names, to be skipped by name."""
    if not ODD.is_dir():
        return sorted(named())
    return sorted(path.relative_to(ODD).as_posix() for path in ODD.rglob("*") if path.is_file())


def each_file() -> list[Any]:
    """The files as parameters: of those that are not large every fifth by default, the others marked slow.

    All of them are tried as they are by default; on their own pixels they differ in less.
    """
    quick = [file for file in files() if file not in MANIFEST["size"]["slow"]][::5]
    return [pytest.param(file, marks=[] if file in quick else [pytest.mark.slow]) for file in files()]


pytestmark = [
    pytest.mark.skipif(
        not ODD.is_dir(),
        reason=f"{len(named())} odd files are not here: ../shared/data/odd, seen from the checkout",
    ),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited by Linux's means"),
]


class Worker:
    """The worker process, and the time that a command may take."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py")), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def __call__(self, *arguments: object, model: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the command left behind; MODEL among the arguments is the path of the `model`."""
        order = {"model": model, "arguments": [str(argument) for argument in arguments]}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=SECONDS)
        except queue.Empty:
            self.close()
            raise AssertionError(f"{arguments} took more than {SECONDS} s") from None
        assert answer, f"{arguments} ended the process, with code {self._process.wait()}"
        result: dict[str, Any] = json.loads(answer)
        assert "Traceback" not in result["err"], result["err"]
        assert result["grown"] < GROWTH, f"{arguments} took {result['grown']:,} bytes"
        return result

    @property
    def is_alive(self) -> bool:
        """Whether it takes further commands."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Worker]]:
    started = [Worker(tmp_path_factory.mktemp("models"))]
    yield started
    for worker in started:
        worker.close()


@pytest.fixture
def run(workers: list[Worker], tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs a command in the worker, in another one if the last test's was killed."""
    if not workers[-1].is_alive:
        workers.append(Worker(tmp_path_factory.mktemp("models")))
    return workers[-1]


def model_for(file: str, *, gsd: float | None) -> dict[str, Any]:
    """A model that fits the file's bands; any model where it has none."""
    try:
        with warnings.catch_warnings(), rasterio.open(ODD / file) as given:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            bands = [b for b in given.indexes if given.colorinterp[b - 1] != ColorInterp.alpha]
            dtype = given.dtypes[bands[0] - 1]
            # No model is of complex numbers, so its card cannot say that: what refuses must be the raster.
            return {"bands": len(bands), "dtype": "int16" if "complex" in dtype else dtype, "gsd": gsd}
    except RasterioError:
        return {"bands": 3, "dtype": "uint8", "gsd": gsd}


def predict(run: Command, file: str, out: Path, *options: str, gsd: float | None) -> dict[str, Any]:
    return run(
        "predict", "MODEL", ODD / file, "-o", out, "--json", "--precision", "fp32", *options,
        model=model_for(file, gsd=gsd),
    )  # fmt: skip


def check_refusal(result: dict[str, Any], file: str, words: str) -> None:
    """One line that names file and reason."""
    assert result["code"] == 1, result
    assert result["err"].startswith("Error: "), result["err"]
    assert result["err"].count("\n") == 1, result["err"]
    assert str(ODD / file) in result["err"]
    assert words in result["err"]
    assert result["out"] == ""


def measured(given: rasterio.DatasetReader) -> np.ndarray:
    """The pixels that GDAL calls valid, in no band infinite or NaN, not transparent."""
    valid = given.dataset_mask() > 0
    bands = []
    for band in given.indexes:
        if given.colorinterp[band - 1] == ColorInterp.alpha:
            valid &= given.read(band) > 0
        else:
            bands.append(band)
    if np.dtype(given.dtypes[bands[0] - 1]).kind == "f":
        valid &= np.isfinite(given.read(bands)).all(axis=0)
    return np.asarray(valid)


def check_map(file: str, mask: Path) -> None:
    """The mask lies where the file lies, 255 exactly where GDAL says that nothing was measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(ODD / file) as given, rasterio.open(mask) as made:
            nowhere = given.transform.is_identity
            assert made.crs == (None if nowhere else given.crs)
            assert made.transform == given.transform
            assert made.shape == given.shape
            np.testing.assert_array_equal(made.read(1) == 255, ~measured(given))


def test_the_manifest_names_every_file_once() -> None:
    assert len(named()) == len(set(named()))
    assert sorted(named()) == files()


@pytest.mark.parametrize("file", files())
def test_info(run: Command, file: str) -> None:
    result = run("info", ODD / file, "--json")
    refused = by_file(MANIFEST["info"]["refused"])
    if file in refused:
        check_refusal(result, file, refused[file])
        return
    assert result["code"] == 0, result["err"]
    document = json.loads(result["out"])
    with warnings.catch_warnings(), rasterio.open(ODD / file) as given:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        assert (document["height"], document["width"]) == given.shape
        has_place = given.crs is not None and not given.transform.is_identity
        assert (document["crs"] is not None) == has_place
        assert (document["gsd_m"] is not None) == has_place
    problems = by_file(MANIFEST["info"]["problem"])
    if file in problems:
        assert problems[file] in document["problem"]
    elif not has_place:
        assert "--no-georef" in document["problem"]
    else:
        assert "problem" not in document
        assert document["extent"]


@pytest.mark.parametrize("file", [file for file in files() if file != TOO_LARGE])
def test_predict_with_a_model_of_half_a_metre(run: Command, file: str, tmp_path: Path) -> None:
    expected = MANIFEST["as_is"]
    out = tmp_path / "map.tif"
    result = predict(run, file, out, gsd=0.5)
    if file in expected["gsd"]:
        check_refusal(
            result, file, f"has a GSD of {expected['gsd'][file]}, but the model was trained at 0.5 m"
        )
    elif file in expected["maps"] or file in expected["resampled"]:
        assert result["code"] == 0, result["err"]
        (report,) = json.loads(result["out"])
        assert report["resampled_to"] == (0.5 if file in expected["resampled"] else None)
        check_map(file, out)
        return
    else:
        check_refusal(result, file, by_file(expected["refused"])[file])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", each_file())
def test_predict_on_its_own_pixels(run: Command, file: str, tmp_path: Path) -> None:
    refused = by_file(MANIFEST["own_pixels"]["refused"])
    out = tmp_path / "map.tif"
    result = predict(run, file, out, "--no-georef", gsd=None)
    if file in refused:
        check_refusal(result, file, refused[file])
        assert list(tmp_path.iterdir()) == []
        return
    assert result["code"] == 0, result["err"]
    (report,) = json.loads(result["out"])
    assert report["resampled_to"] is None
    check_map(file, out)
