"""What every command promises of its outputs: nothing read is lost, one run at a time, usual permissions."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from safetensors import SafetensorError
from shapely import box

from aerial_seg.errors import Incomplete, Interrupted, OutputError
from aerial_seg.files import disk
from aerial_seg.files.disk import DiskFullError
from aerial_seg.files.work import locked_work
from aerial_seg.geo.labels.settings import LabelSettings
from aerial_seg.jobs import import_weights as import_room
from aerial_seg.jobs.demo import demo
from aerial_seg.jobs.export import ExportSettings, export
from aerial_seg.jobs.import_weights import import_weights
from aerial_seg.jobs.predict import job as predict_room
from aerial_seg.jobs.predict import memory as budget
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.tile import dataset_writer as assembly
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train import train
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.jobs.vectorize.settings import LayerSettings, VectorizeSettings
from aerial_seg.models import file as model_file
from aerial_seg.models.file import save_model
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork
from aerial_seg.progress import silent
from aerial_seg.recipe import load_recipe
from aerial_seg.vectors import writer

MODEL = Path("any.safetensors")
TILE = TileSettings(chip_size=32, labels=LabelSettings(class_field="kind"), val="0", test="0", overwrite=True)
EAGER = PredictSettings(engine="eager", precision="fp32", device="cpu")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def image(tmp_path: Path, write_raster: Callable) -> Path:
    pixels = np.random.default_rng(1).integers(8, 255, (2, 96, 128), dtype=np.uint8)
    return write_raster(tmp_path / "in.tif", pixels)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    squares = [box(500_000 + 20 * k, 5_199_920, 500_010 + 20 * k, 5_199_990) for k in range(6)]
    path = tmp_path / "labels.gpkg"
    gpd.GeoDataFrame({"kind": ["roof", "road"] * 3}, geometry=squares, crs="EPSG:32633").to_file(path)
    return path


@pytest.fixture
def chips(image: Path, labels: Path, tmp_path: Path) -> Path:
    tile([str(image)], [str(labels)], tmp_path / "chips", TILE)
    return tmp_path / "chips"


@pytest.fixture
def mask(tmp_path: Path, write_raster: Callable) -> Path:
    values = np.zeros((1, 60, 80), np.uint8)
    values[0, 10:30, 10:50] = 1
    return write_raster(tmp_path / "mask.tif", values, nodata=255)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, pointwise: Callable) -> None:
    model = pointwise(stride=8, origin_step=8, tile_size=128)
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: model)


class TestTile:
    @pytest.mark.parametrize("what", ["labels", "image", "link to the labels", "member of a VRT", "a chip"])
    def test_a_dataset_that_holds_an_input_is_not_replaced(
        self, chips: Path, image: Path, labels: Path, what: str, tmp_path: Path
    ) -> None:
        """Today's `tile --overwrite` deleted them with the dataset, exit code 0."""
        if what == "labels":
            labels = labels.rename(chips / "labels.gpkg")
        if what == "image":
            image = image.rename(chips / "in.tif")
        if what == "link to the labels":
            labels = labels.rename(chips / "labels.gpkg")
            (tmp_path / "l.gpkg").symlink_to(labels)
            labels = tmp_path / "l.gpkg"
        if what == "member of a VRT":
            image = image.rename(chips / "in.tif")
            inner, outer = tmp_path / "inner.vrt", tmp_path / "outer.vrt"
            rasterio.shutil.copy(image, inner, driver="VRT")
            rasterio.shutil.copy(inner, outer, driver="VRT")
            image = outer
        if what == "a chip":
            image = sorted((chips / "images").iterdir())[0]
        elif what != "a chip":
            # A list that names it as ours must not help.
            shutil.rmtree(chips / "images")
        before = contents(chips)
        with pytest.raises(OutputError, match=r"lies in it and is read|were not made with it"):
            tile([str(image)], [str(labels)], chips, TILE)
        assert contents(chips) == before

    def test_what_was_not_made_with_the_dataset_is_named_and_stays(
        self, chips: Path, image: Path, labels: Path
    ) -> None:
        (chips / "labels" / "notes.csv").write_text("mine")
        before = contents(chips)
        with pytest.raises(OutputError, match=r"not made with it \(labels/notes\.csv\)"):
            tile([str(image)], [str(labels)], chips, TILE)
        assert contents(chips) == before
        (chips / "labels" / "notes.csv").unlink()
        (sorted((chips / "images").iterdir())[0].with_suffix(".tif.aux.xml")).write_text("<PAMDataset/>")
        tile([str(image)], [str(labels)], chips, TILE)
        after = contents(chips)
        assert after == {name: before[name] for name in before if name != "labels/notes.csv"}


class TestOthers:
    def test_train_keeps_the_dataset_that_lies_in_the_run(self, chips: Path) -> None:
        run = chips.parent / "run"
        run.mkdir()
        (run / "run.json").write_text("{}")
        inside = chips.rename(run / "chips")
        before = contents(run)
        with pytest.raises(OutputError, match=r"not made with it \(chips/"):
            train(inside, load_recipe("fcn"), run, overwrite=True)
        (run / ".aerial-seg-files.json").write_text('["' + '", "'.join(str(name) for name in before) + '"]')
        with pytest.raises(OutputError, match=r"lies in it and is read"):
            train(inside, load_recipe("fcn"), run, overwrite=True)
        assert before.items() <= contents(run).items()

    @pytest.mark.parametrize("linked", [False, True])
    def test_models_and_checkpoints_are_not_replaced_by_what_is_made_of_them(
        self, tmp_path: Path, linked: bool
    ) -> None:
        read = tmp_path / "a.safetensors"
        read.write_bytes(b"weights")
        output = tmp_path / ("b.safetensors" if linked else "a.safetensors")
        onnx = tmp_path / "b.onnx"
        os.link(read, onnx)
        if linked:
            os.link(read, output)
        with pytest.raises(OutputError, match="is one of the files to read"):
            import_weights(read, output, source="torchvision", overwrite=True)
        with pytest.raises(OutputError, match="is one of the files to read"):
            export(read, onnx, ExportSettings(overwrite=True))
        assert read.read_bytes() == b"weights"

    def test_vectorize_replaces_no_sidecar_of_its_mask(self, mask: Path, tmp_path: Path) -> None:
        """grid.asc has its CRS in grid.prj, which a grid.shp would replace."""
        grid = tmp_path / "grid.asc"
        with rasterio.open(mask) as source:
            rows = source.read(1)
        head = "ncols 80\nnrows 60\nxllcorner 500000\nyllcorner 5199940\ncellsize 1\nNODATA_value 255\n"
        grid.write_text(head + "\n".join(" ".join(map(str, row)) for row in rows))
        grid.with_suffix(".prj").write_text(rasterio.crs.CRS.from_epsg(32633).to_wkt("WKT1_ESRI"))
        before = contents(tmp_path)
        settings = VectorizeSettings(classes=("all",), layer=LayerSettings(overwrite=True))
        with pytest.raises(OutputError, match=r"grid\.prj would be written, but is one of the files to read"):
            vectorize(grid, tmp_path / "grid.shp", settings)
        assert contents(tmp_path) == before

    def test_vectorize_leaves_shapefiles_alone_that_only_look_like_parts(
        self, mask: Path, tmp_path: Path
    ) -> None:
        """roads_001.shp is somebody's own; only files with our date are parts of a divided Shapefile."""
        theirs = gpd.GeoDataFrame({"a": [1]}, geometry=[box(0, 0, 1, 1)], crs="EPSG:32633")
        theirs.to_file(tmp_path / "roads_001.shp")
        before = contents(tmp_path)
        settings = VectorizeSettings(classes=("all",), layer=LayerSettings(overwrite=True))
        for _ in range(2):
            vectorize(mask, tmp_path / "roads.shp", settings)
        assert before.items() <= contents(tmp_path).items()

    @pytest.mark.parametrize("what", ["raster", "qgis_projects"])
    def test_overwriting_a_geopackage_deletes_no_rasters_or_projects(
        self, mask: Path, what: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "all.gpkg"
        settings = VectorizeSettings(classes=("all",), layer=LayerSettings(overwrite=True))
        vectorize(mask, path, settings)
        if what == "raster":
            with rasterio.open(mask) as source:
                rasterio.shutil.copy(
                    source, path, driver="GPKG", APPEND_SUBDATASET="YES", RASTER_TABLE="raster"
                )
        else:
            with sqlite3.connect(path) as database:
                database.execute("CREATE TABLE qgis_projects (name TEXT, content BLOB)")
        before = path.read_bytes()
        with pytest.raises(OutputError, match=rf"(?i)holds other layers \(.*{what}"):
            vectorize(mask, path, settings)
        assert path.read_bytes() == before

    @pytest.mark.usefixtures("use")
    def test_predict_replaces_nothing_that_it_reads(
        self, image: Path, labels: Path, tmp_path: Path, write_raster: Callable
    ) -> None:
        member = tmp_path / "map.tif"
        shutil.copy(image, member)
        rasterio.shutil.copy(member, tmp_path / "inner.vrt", driver="VRT")
        rasterio.shutil.copy(tmp_path / "inner.vrt", tmp_path / "outer.vrt", driver="VRT")
        os.link(image, tmp_path / "hard.tif")
        (tmp_path / "list.txt").write_text(str(image))
        (tmp_path / "listed.gpkg").symlink_to(tmp_path / "list.txt")
        over = replace(EAGER, overwrite=True)
        before = contents(tmp_path)
        for rasters, out, settings in (
            ([tmp_path / "outer.vrt"], member, over),
            ([image], tmp_path / "hard.tif", over),
            ([image], tmp_path / "new.tif", replace(over, vectors=labels, aoi=labels)),
            (
                [f"@{tmp_path / 'list.txt'}"],
                tmp_path / "new.tif",
                replace(over, vectors=tmp_path / "listed.gpkg"),
            ),
        ):
            with pytest.raises(OutputError, match=r"is one of the files to read"):
                predict(MODEL, [str(raster) for raster in rasters], out, settings)
        assert contents(tmp_path) == before

    @pytest.mark.usefixtures("use")
    def test_of_several_masks_only_our_own_are_replaced(self, image: Path, tmp_path: Path) -> None:
        shutil.copy(image, tmp_path / "b.tif")
        out = tmp_path / "out"
        out.mkdir()
        shutil.copy(image, out / "b_mask.tif")
        rasters = [str(image), str(tmp_path / "b.tif")]
        before = contents(out)
        with pytest.raises(OutputError, match=r"b_mask\.tif is no mask that predict made"):
            predict(MODEL, rasters, out, replace(EAGER, overwrite=True))
        assert contents(out) == before
        (out / "b_mask.tif").unlink()
        for _ in range(2):
            predict(MODEL, rasters, out, replace(EAGER, overwrite=True))

    def test_the_demo_replaces_no_map_of_somebody_else(self, tmp_path: Path) -> None:
        (tmp_path / "map.tif").write_text("mine")
        with pytest.raises(OutputError, match=r"holds map\.tif, but no report\.json"):
            demo(tmp_path, overwrite=True)
        assert contents(tmp_path) == {"map.tif": b"mine"}


@pytest.mark.parametrize(
    "command", ["tile", "train", "vectorize", "predict", "demo", "export", "import-weights"]
)
def test_two_runs_of_any_command_never_write_one_output(
    command: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command finds its output held, under another spelling of its name, and says so in one line."""
    (tmp_path / "link").symlink_to(tmp_path)
    needs = {
        "tile": ["image", "labels"], "train": ["chips"], "vectorize": ["mask"], "predict": ["image", "use"],
        "export": ["untrained"], "import-weights": ["untrained"],
    }  # fmt: skip
    got = [request.getfixturevalue(name) for name in needs.get(command, [])]
    suffix = {"vectorize": ".gpkg", "predict": ".tif", "export": ".onnx", "import-weights": ".safetensors"}
    name = "o" + suffix.get(command, "")
    out = tmp_path / "link" / name
    if command in ("export", "import-weights"):
        model = got[0]("fcn")
        read = tmp_path / "read.safetensors"
        save_model(model.network.state_dict(), model.card, read)
        known = Checkpoint(read, {}, "sha", ("a", "b", "c"))
        imported = ImportedNetwork(model.network, model.card.recipe.model, model.card.bands, 3, ())
        monkeypatch.setattr("aerial_seg.jobs.export.load_model", lambda path: model)
        monkeypatch.setattr(import_room, "read_checkpoint", lambda path: known)
        monkeypatch.setattr(import_room, "import_checkpoint", lambda *_: imported)

    def play() -> None:
        if command == "tile":
            tile([str(got[0])], [str(got[1])], out, TILE)
        elif command == "train":
            recipe = load_recipe("fcn")
            training = recipe.training.model_copy(update={"crop": 64, "iterations": 1})
            model = recipe.model.model_copy(update={"weights": "none", "encoder": "resnet18"})
            short = recipe.model_copy(update={"training": training, "model": model})
            train(got[0], short, out, device="cpu")
        elif command == "vectorize":
            vectorize(got[0], out, VectorizeSettings(classes=("all",)))
        elif command == "predict":
            predict(MODEL, [str(got[0])], out, EAGER)
        elif command == "demo":
            demo(out, device="cpu")
        elif command == "export":
            export(read, out)
        else:
            import_weights(read, out, source="torchvision")

    with locked_work(tmp_path / name):
        before = contents(tmp_path)
        with pytest.raises(OutputError, match="is being written by another run; wait for it") as told:
            play()
        assert "\n" not in str(told.value)
        assert contents(tmp_path) == before


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
        with pytest.raises(Incomplete, match="run the same command again to go on") as told:
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
        with pytest.raises(OutputError, match=r"map\.gpkg exists; pass --overwrite"):
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


@pytest.mark.parametrize("umask", [0o022, 0o027])
@pytest.mark.usefixtures("use")
def test_the_umask_decides_who_may_read_every_result(
    image: Path, labels: Path, mask: Path, untrained: Callable, tmp_path: Path, umask: int
) -> None:
    out = tmp_path / "results"
    out.mkdir()
    before = os.umask(umask)
    try:
        tile([str(image)], [str(labels)], out / "chips", TILE)
        settings = replace(EAGER, confidence=True, probabilities=True, stac=True)
        predict(MODEL, [str(image)], out / "map.tif", settings)
        for name in ("v.gpkg", "v.shp", "v.geojson", "v.fgb", "c.csv", "v.parquet"):
            vectorize(mask, out / name, VectorizeSettings(classes=("all",)))
        model = untrained("fcn")
        save_model(model.network.state_dict(), model.card, out / "model.safetensors")
    finally:
        os.umask(before)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 20
    odd = {
        path.name: oct(path.stat().st_mode) for path in files if path.stat().st_mode & 0o777 != 0o666 & ~umask
    }
    assert odd == {}
    folders = [path for path in out.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o777 & ~umask}


class TestFullDisk:
    def test_an_index_that_sqlite_cannot_write_is_told_as_a_full_disk(
        self, image: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError("chips.gpkg: no such table: rtree_chips_geom")

        monkeypatch.setattr(assembly, "write_geopackage", full)
        monkeypatch.setattr(disk, "takes", lambda folder, size: False)
        with pytest.raises(
            DiskFullError, match=r"chips\.gpkg could not be written \(no space left on the disk of"
        ):
            tile([str(image)], [str(labels)], tmp_path / "chips", TILE)
        assert not (tmp_path / "chips").exists()
        assert not (tmp_path / "chips.work").exists()

    def test_a_chip_that_the_disk_does_not_take_is_no_strange_raster(
        self, image: Path, labels: Path, tmp_path: Path
    ) -> None:
        """RLIMIT_FSIZE stands for the disk; what GDAL wrote half it said nothing of, and then could not read."""
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
        try:
            with pytest.raises(
                OutputError, match=r"\.tif could not be written \(File too large\); free disk space"
            ):
                tile([str(image)], [str(labels)], tmp_path / "chips", TILE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

    def test_safetensors_says_so_too(
        self, untrained: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(weights: object, path: Path, metadata: object) -> None:
            path.write_bytes(b"half")
            raise SafetensorError('Error while serializing: Io("No space left on device (os error 28)")')

        monkeypatch.setattr(model_file, "save_file", full)
        model = untrained("fcn")
        with pytest.raises(DiskFullError, match=r"best\.safetensors could not be written \(no space left"):
            save_model(model.network.state_dict(), model.card, tmp_path / "best.safetensors")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.usefixtures("use")
    def test_the_forecast_of_a_full_disk_has_digits(
        self, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(budget.shutil, "disk_usage", lambda folder: SimpleNamespace(free=4096))
        with pytest.raises(OutputError, match=r"has 4\.1 kB free, wanted up to 1 MB for map\.tif"):
            predict(MODEL, [str(image)], tmp_path / "map.tif", EAGER)
