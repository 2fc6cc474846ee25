"""demo: the whole main job on a town that the demo makes up itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas

from aerial_seg.errors import Interrupted, OutputError
from aerial_seg.files.journal import NAME, Journal, has_records, locked_work
from aerial_seg.files.names import check_output
from aerial_seg.files.staging import behind_link
from aerial_seg.files.work import work_folder
from aerial_seg.geo.measures import Measure
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.jobs.evaluate import EvaluateReport
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.report.job import report_map
from aerial_seg.jobs.report.settings import ReportSettings
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.report import TrainReport
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.mentions import SAME_CALL, setting
from aerial_seg.outputs.durable import disk_errors, settled_file
from aerial_seg.paths import StrPath, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.report.picture import draw_comparison
from aerial_seg.synthetic.town import (
    TOWN_LEGEND,
    TownPaths,
    make_town,
    write_labels,
    write_town,
)
from aerial_seg.vectors.from_mask.settings import (
    CleanSettings,
    LayerSettings,
    VectorizeReport,
    VectorizeSettings,
)
from aerial_seg.version import __version__

REPORT, PAGE = "report.json", "report.html"
_NAMES = (
    "scenes", "chips", "run", "map.tif", "map.gpkg", "map.shp", "map.shx", "map.dbf", "map.prj", "map.cpg", "map.qml",
    "map.tif.aux.xml", "map.tif.vat.dbf", "map.tif.vat.cpg", "comparison.png", "report.html",
)  # fmt: skip
TRAINING_SEEDS, TEST_SEED = (1, 2), 3
SIDE = 1024


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Tell where everything lies, and how well the map agrees with the truth of a town never trained on."""

    folder: Path
    scenes: Path
    dataset: Path
    model: Path
    curves: Path
    mask: Path
    geopackage: Path
    shapefile: Path
    picture: Path
    page: Path
    report: Path
    miou: float
    evaluation: EvaluateReport


def demo(
    folder: StrPath,
    *,
    device: str = "auto",
    overwrite: bool = False,
    recipe: Recipe | StrPath | None = None,
    progress: Progress = silent,
) -> DemoReport:
    """Run the whole main job on made-up towns: dataset, model, mask, polygons, a page, report.json in `folder`.

    The model is trained on two scenes and scored on a third. `recipe` defaults to the shipped `demo`. After an
    interruption the same call begins again in the same folder, and ends with the same files.
    """
    folder = as_path(folder, "folder")
    _check(folder, overwrite)
    folder = behind_link(folder)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe or "demo")
    with locked_work(folder, restart=False) as work, disk_errors(folder):
        _check(folder, overwrite)
        journal = Journal.open(
            work / NAME, {"version": __version__, "recipe": recipe.model_dump(mode="json")}
        )
        folder.mkdir(parents=True, exist_ok=True)
        again = bool(journal.records) or overwrite
        # report.json is written last, so it marks a demo that ran to its end.
        (folder / REPORT).unlink(missing_ok=True)
        journal.add({"begun": True})
        with _begins_again():
            return _run(folder, recipe, device=device, overwrite=again, progress=progress)


def _run(folder: Path, recipe: Recipe, *, device: str, overwrite: bool, progress: Progress) -> DemoReport:
    """The demo in a folder that is its own."""
    scenes = _make_towns(folder / "scenes", progress)
    labels = LabelSettings(class_field="class")
    tile(
        [str(path) for path in scenes.training],
        [str(scenes.training_labels)],
        folder / "chips",
        TileSettings(labels=labels, chip_size=256, block=1, test="0", overwrite=overwrite),
        progress,
    )
    run = train(
        folder / "chips",
        recipe,
        folder / "run",
        TrainSettings(device=device, overwrite=overwrite, restart=overwrite, tensorboard=False),
        progress,
    )
    mask = folder / "map.tif"
    # What an interrupted demo had begun was of a model and of scenes that are made anew.
    settings = PredictSettings(device=device, overwrite=overwrite, restart=overwrite)
    predict(run.model, [str(scenes.test.image)], mask, settings, progress)
    shapes = VectorizeSettings(
        clean=CleanSettings(min_area=Measure(4, "m2")), layer=LayerSettings(overwrite=overwrite)
    )
    for name in ("map.gpkg", "map.shp"):
        vectors = vectorize(mask, folder / name, shapes, progress)
    page = folder / PAGE
    judged = ReportSettings(image=scenes.test.image, run=folder / "run", overwrite=overwrite)
    scored = report_map(mask, page, [str(scenes.test.labels)], judged, labels, progress).evaluation
    assert scored is not None
    with settled_file(folder / "comparison.png") as partial:
        _draw(scenes.test.image, scenes.test.truth, mask, partial, miou=scored.scores.miou)
    with settled_file(folder / REPORT) as partial:
        partial.write_text(_document(run, vectors, scored), encoding="utf-8", newline="\n")
    return DemoReport(
        folder=folder,
        scenes=folder / "scenes",
        dataset=folder / "chips",
        model=run.model,
        curves=run.run / "curves.png",
        mask=mask,
        geopackage=folder / "map.gpkg",
        shapefile=folder / "map.shp",
        picture=folder / "comparison.png",
        page=page,
        report=folder / REPORT,
        miou=scored.scores.miou,
        evaluation=scored,
    )


@dataclass(frozen=True, slots=True)
class _Towns:
    training: tuple[Path, ...]
    training_labels: Path
    test: TownPaths


def _make_towns(folder: Path, progress: Progress) -> _Towns:
    """Three towns; the labels of the training towns lie in one layer, as an analyst would have them."""
    with progress("make scenes", total=len(TRAINING_SEEDS) + 1, unit="scene") as bar:
        images, frames = [], []
        for seed in TRAINING_SEEDS:
            town = make_town(seed, height=SIDE, width=SIDE)
            images.append(write_town(town, folder / f"training_{seed}").image)
            frames.append(town.labels)
            bar.update()
        test = write_town(make_town(TEST_SEED, height=SIDE, width=SIDE), folder / "test")
        bar.update()
    labels = folder / "training_labels.gpkg"
    write_labels(pandas.concat(frames, ignore_index=True), labels)
    return _Towns(tuple(images), labels, test)


def _check(folder: Path, overwrite: bool) -> None:
    """Raises OutputError unless the folder is the demo's to write to: new, empty, interrupted, or a demo's own."""
    check_output(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, wanted a folder for the demo; choose another name")
    if not folder.is_dir() or not any(folder.iterdir()) or has_records(work_folder(behind_link(folder))):
        return
    if not overwrite:
        raise OutputError(
            f"{folder} is not empty; pass {setting('overwrite', True)} to run the demo again there, or name "
            "another folder"
        )
    others = sorted(name for name in _NAMES if (folder / name).exists())
    if others and not (folder / REPORT).exists():
        raise OutputError(
            f"{folder} holds {others[0]}, but no {REPORT} of a demo that made it, so it is not replaced; "
            "name another folder"
        )


@contextmanager
def _begins_again() -> Iterator[None]:
    """An interruption says that the same command begins again."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted; {SAME_CALL} to begin again in this folder") from error


def _draw(image: Path, truth: Path, mask: Path, path: Path, *, miou: float) -> None:
    layers = []
    for source in (image, truth, mask):
        with Raster(source) as raster:
            pixels, valid = raster.read(top=0, left=0, height=raster.grid.height, width=raster.grid.width)
            layers.append(np.where(valid, pixels, 255).astype(np.uint8))
    town, known, predicted = layers
    panels = {"truth": known[0], "prediction": predicted[0]}
    draw_comparison(town, panels, TOWN_LEGEND, path, title=f"A scene the model never saw: mIoU {miou:.3f}")


def _document(run: TrainReport, vectors: VectorizeReport, scored: EvaluateReport) -> str:
    document = {
        "tool_version": __version__,
        **scored.scores.as_json(),
        "training": {"iterations": run.iterations, "best_iteration": run.best_iteration},
        "polygons": {entry.name: entry.polygons for entry in vectors.classes},
    }
    return json.dumps(document, indent=2)
