"""What every command promises of its outputs: nothing read is lost, one run at a time, usual permissions."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import pytest
import rasterio
from outputs_of_jobs import EAGER, MODEL, TILE, contents
from shapely import box

from aerial_seg.errors import OutputError
from aerial_seg.files.lock import held
from aerial_seg.files.work import locked_work
from aerial_seg.jobs import import_weights as import_room
from aerial_seg.jobs.demo import demo
from aerial_seg.jobs.export import export
from aerial_seg.jobs.import_weights import import_weights
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.settings import ExportSettings
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.run_folder import LOCK
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.models.file import save_model
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import ImportedNetwork
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.vectors.from_mask.settings import LayerSettings, VectorizeSettings


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
        (run / "run.json").write_text('{"recipe": {"training": {"iterations": 1}}}')
        inside = chips.rename(run / "chips")
        before = contents(run)
        with pytest.raises(OutputError, match=r"not made with it \(chips/"):
            train(inside, load_recipe("fcn"), run, TrainSettings(overwrite=True))
        (run / ".aerial-seg-files.json").write_text('["' + '", "'.join(str(name) for name in before) + '"]')
        with pytest.raises(OutputError, match=r"lies in it and is read"):
            train(inside, load_recipe("fcn"), run, TrainSettings(overwrite=True))
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
        monkeypatch.setattr(import_room, "read_checkpoint", lambda path, **_: known)
        monkeypatch.setattr(import_room, "import_checkpoint", lambda *_: imported)

    def play() -> None:
        if command == "tile":
            tile([str(got[0])], [str(got[1])], out, TILE)
        elif command == "train":
            recipe = load_recipe("fcn")
            training = recipe.training.model_copy(update={"crop": 64, "iterations": 1})
            model = recipe.model.model_copy(update={"weights": "none", "encoder": "resnet18"})
            short = recipe.model_copy(update={"training": training, "model": model})
            train(got[0], short, out, TrainSettings(device="cpu"))
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

    # A run of training is written in its place, so its lock lies in it.
    with held(tmp_path / name / LOCK, out) if command == "train" else locked_work(tmp_path / name):
        before = contents(tmp_path)
        with pytest.raises(OutputError, match="is being written by another run; wait for it") as told:
            play()
        assert "\n" not in str(told.value)
        assert contents(tmp_path) == before
