"""A file that changes while it is read: never a result that mixes two of them, one line, and nothing kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from web_server import WebServer

from aerial_seg.errors import Incomplete, InputError
from aerial_seg.geo.raster import remote, unchanged
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.geo.raster.unchanged import ChangedError, Unchanged
from aerial_seg.jobs import evaluate as evaluating
from aerial_seg.jobs.evaluate import evaluate_mask, evaluate_model_on_rasters
from aerial_seg.jobs.predict import plan as planning
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.many_scenes import ScenesFailedError
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import make_legend
from aerial_seg.models.file import TrainedModel
from aerial_seg.progress import silent
from aerial_seg.vectors.from_mask.settings import LayerSettings, VectorizeSettings

MODEL = Path("any.safetensors")
HEIGHT, WIDTH = 1300, 200
TILES = 1300 // 96 * 2
STATISTICS = (
    '<PAMDataset><PAMRasterBand band="1"><Histograms/><Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata>'
    "</PAMRasterBand></PAMDataset>"
)


class Once:
    """A progress bar that does something once, when so many units of a step are done; `last`: units of it."""

    def __init__(self, at: int, what: Callable[[], object], step: str = "") -> None:
        self._at, self._what, self._step, self._label = at, what, step, ""
        self.done = False
        self.last = 0

    def __call__(self, label: str, *, total: int, unit: str) -> Once:
        del total, unit
        self._label = label
        return self

    def __enter__(self) -> Once:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, n: int = 1) -> None:
        if not self._label.startswith(self._step):
            return
        self.last += n
        if not self.done and self.last >= self._at:
            self.done = True
            self._what()


def noise(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(8, 256, (2, HEIGHT // 10, WIDTH // 10), dtype=np.uint8)
    return coarse.repeat(10, 1).repeat(10, 2)


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch, pointwise: Callable[..., TrainedModel], tmp_path: Path) -> None:
    model = pointwise(stride=8, origin_step=8, tile_size=128)
    monkeypatch.setattr(planning, "load_model", lambda path: model)


def run(rasters: list[str], out: Path, *, progress: object = silent, **changes: object) -> None:
    settings = PredictSettings(engine="eager", precision="fp32", **changes)  # type: ignore[arg-type]
    predict(MODEL, rasters, out, settings, progress)  # type: ignore[arg-type]


def in_place(path: Path, write: Callable[..., Path]) -> None:
    write(path, noise(2))


def by_rename(path: Path, write: Callable[..., Path]) -> None:
    """Another file of the same size and time: only the file itself is another."""
    before = path.stat()
    other = write(path.with_name("other.tif"), noise(2))
    assert other.stat().st_size == before.st_size
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def by_sidecar(path: Path, write: Callable[..., Path]) -> None:
    del write
    text = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>9</NoDataValue></PAMRasterBand></PAMDataset>'
    path.with_name(path.name + ".aux.xml").write_text(text)


def by_deletion(path: Path, write: Callable[..., Path]) -> None:
    del write
    path.unlink()


@pytest.mark.parametrize(
    ("change", "words", "look"),
    [
        (in_place, "it was written again", "at the end"),
        (in_place, "it was written again", "on the way"),
        (by_rename, "another file took its place", "on the way"),
        (by_sidecar, r"in\.tif\.aux\.xml changed while it was read \(it was not there before", "at the end"),
        (by_deletion, "it is gone", "on the way"),
    ],
)
def test_a_raster_that_changes_is_told_and_nothing_is_kept(
    change: Callable,
    words: str,
    look: str,
    tmp_path: Path,
    write_raster: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = write_raster(tmp_path / "in.tif", noise(1))
    monkeypatch.setattr(unchanged, "EVERY", 0.0 if look == "on the way" else 3600.0)
    progress = Once(10, lambda: change(source, write_raster), "predict")
    out = tmp_path / "new" / "map.tif"
    with pytest.raises(ChangedError, match=words) as caught:
        run([str(source)], out, progress=progress)
    assert caught.value.exit_code == 1
    assert progress.done
    assert not out.parent.exists(), "pieces were kept"
    if change is in_place:
        run([str(source)], out)
        run([str(write_raster(tmp_path / "in2.tif", noise(2)))], tmp_path / "calm.tif")
        with rasterio.open(out) as made, rasterio.open(tmp_path / "calm.tif") as wanted:
            np.testing.assert_array_equal(made.read(), wanted.read())


def test_it_is_told_on_the_way_not_after_hours(
    tmp_path: Path, write_raster: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_raster(tmp_path / "in.tif", noise(1))
    counted: list[int] = []
    for every in (3600.0, 0.0):
        write_raster(source, noise(1))
        monkeypatch.setattr(unchanged, "EVERY", every)
        progress = Once(2, lambda: write_raster(source, noise(2)), "predict")
        with pytest.raises(ChangedError):
            run([str(source)], tmp_path / "map.tif", progress=progress)
        counted.append(progress.last)
    assert counted[1] < counted[0]


def test_a_member_of_a_vrt_and_a_stacked_file_are_held_too(tmp_path: Path, write_raster: Callable) -> None:
    member = write_raster(tmp_path / "member.tif", noise(1))
    vrt = tmp_path / "in.vrt"
    rasterio.shutil.copy(member, vrt, driver="VRT")
    with pytest.raises(ChangedError, match=r"member\.tif changed while it was read"):
        run(
            [str(vrt)],
            tmp_path / "map.tif",
            progress=Once(10, lambda: write_raster(member, noise(2)), "predict"),
        )
    bands = [write_raster(tmp_path / f"{name}.tif", noise(1)[:1]) for name in ("red", "nir")]
    changing = Once(10, lambda: write_raster(bands[1], noise(2)[:1]), "predict")
    with pytest.raises(ChangedError, match=r"nir\.tif changed while it was read"):
        run(
            [str(bands[0])], tmp_path / "map.tif", progress=changing, bands=BandChoice(stack=(str(bands[1]),))
        )
    assert not list(tmp_path.glob("map*"))


def test_who_only_looks_at_the_raster_does_no_harm(tmp_path: Path, write_raster: Callable) -> None:
    """QGIS writes statistics into an .aux.xml beside the raster that it shows, and reading changes no time."""
    source = write_raster(tmp_path / "in.tif", noise(1))
    facts = source.with_name("in.tif.aux.xml")
    run(
        [str(source)],
        tmp_path / "map.tif",
        progress=Once(10, lambda: facts.write_text(STATISTICS), "predict"),
    )
    assert facts.exists()
    assert (tmp_path / "map.tif").exists()
    other = STATISTICS.replace("<Histograms/>", "<NoDataValue>9</NoDataValue>")
    held = Unchanged([source])
    held.check()
    facts.write_text(other)
    with pytest.raises(ChangedError, match=r"aux\.xml"):
        held.check()


def test_of_several_scenes_only_the_one_that_changed_has_no_mask(
    tmp_path: Path, write_raster: Callable
) -> None:
    names = [write_raster(tmp_path / f"{name}.tif", noise(k)) for k, name in enumerate("abc")]
    changing = Once(10, lambda: write_raster(names[1], noise(9)), "predict b_mask")
    with pytest.raises(
        ScenesFailedError, match=r"1 of 3 scenes have no mask: .*b\.tif changed while it was read"
    ):
        run([*map(str, names)], tmp_path / "out", progress=changing)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == ["a_mask.tif", "c_mask.tif"]
    assert not (tmp_path / "out" / "b_mask.tif.work").exists()
    run([*map(str, names)], tmp_path / "out")
    assert (tmp_path / "out" / "b_mask.tif").exists()


@pytest.mark.parametrize("what", ["tag", "size", "date"])
def test_a_raster_on_a_server_that_changes_is_told(
    what: str, server: WebServer, tmp_path: Path, write_raster: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_raster(tmp_path / "in.tif", noise(1))
    served = server.folder / "in.tif"
    shutil.copy(source, served)
    os.utime(served, (1e9, 1e9))
    server.tag("in.tif", '"one"')
    monkeypatch.setattr(unchanged, "EVERY", 0.0)
    monkeypatch.setattr(remote, "WAITS", (0.01,))

    def change() -> None:
        if what == "tag":
            server.tag("in.tif", '"two"')
        elif what == "date":
            os.utime(served, (1.1e9, 1.1e9))
        else:
            served.write_bytes(served.read_bytes() + b"\0" * 10)
            os.utime(served, (1e9, 1e9))

    with pytest.raises(ChangedError, match=r"in\.tif changed while it was read \(the server told .*one"):
        run([server.url("in.tif?sig=secret")], tmp_path / "map.tif", progress=Once(5, change, "predict"))
    assert not list(tmp_path.glob("map*"))
    run([server.url("in.tif")], tmp_path / "map.tif")
    heads = [asked for asked in server.asked if asked.startswith("HEAD")]
    assert len(heads) < TILES, "a server is not asked once a tile"


def test_two_servers_that_answer_in_turn_are_one_raster(
    server: WebServer, tmp_path: Path, write_raster: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(write_raster(tmp_path / "in.tif", noise(1)), server.folder / "in.tif")
    answers = iter(["one", "two", "two", "one", "two", "one"])
    plain = remote.remote_version
    monkeypatch.setattr(unchanged, "remote_version", lambda path: (*plain(path)[:2], next(answers)))
    held = Unchanged([server.url("in.tif")])
    held.check()  # two, then two, then one
    held.check()  # two, then one


def test_what_is_read_whole_is_held_while_it_is_read(
    tmp_path: Path, write_raster: Callable, monkeypatch: pytest.MonkeyPatch, pointwise: Callable
) -> None:
    """The model and the area: told before any tile runs."""
    source = write_raster(tmp_path / "in.tif", noise(1))
    model, made = tmp_path / "m.safetensors", pointwise(stride=8, origin_step=8, tile_size=128)
    model.write_bytes(b"one")

    def load(path: Path) -> TrainedModel:
        path.write_bytes(b"other")
        return made

    monkeypatch.setattr(planning, "load_model", load)
    settings = PredictSettings(engine="eager", precision="fp32")
    with pytest.raises(ChangedError, match=r"m\.safetensors changed while it was read"):
        predict(model, [str(source)], tmp_path / "map.tif", settings)
    area = tmp_path / "area.gpkg"
    box = shapely.box(500_000, 5_199_000, 500_100, 5_200_000)
    geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32633").to_file(area)
    plain = planning.read_area

    def read(path: str, **how: object) -> object:
        found = plain(path, **how)  # type: ignore[arg-type]
        geopandas.GeoDataFrame(geometry=[box.buffer(9)], crs="EPSG:32633").to_file(area)
        return found

    monkeypatch.setattr(planning, "load_model", lambda path: made)
    monkeypatch.setattr(planning, "read_area", read)
    with pytest.raises(ChangedError, match=r"area\.gpkg changed while it was read"):
        run([str(source)], tmp_path / "map.tif", aoi=str(area))
    assert not list(tmp_path.glob("map*"))


def mask_file(path: Path, write: Callable[..., Path], seed: int) -> Path:
    classes = np.random.default_rng(seed).integers(0, 2, (1, HEIGHT // 10, WIDTH // 10), dtype=np.uint8)
    write(path, classes.repeat(10, 1).repeat(10, 2))
    with rasterio.open(path, "r+") as file:
        file.update_tags(AERIAL_SEG_LEGEND=make_legend({0: "no", 1: "yes"}, background=[0]).model_dump_json())
    return path


@pytest.mark.parametrize("which", ["mask", "confidence"])
def test_vectorize_leaves_no_layer_of_two_masks(which: str, tmp_path: Path, write_raster: Callable) -> None:
    mask = mask_file(tmp_path / "m.tif", write_raster, 1)
    confidence = write_raster(tmp_path / "m_confidence.tif", noise(1)[:1])
    out = tmp_path / "out.gpkg"
    vectorize(mask, out, VectorizeSettings())
    before = out.read_bytes()

    def change() -> None:
        if which == "mask":
            mask_file(mask, write_raster, 2)
        else:
            write_raster(confidence, noise(2)[:1])

    settings = VectorizeSettings(layer=LayerSettings(overwrite=True))
    progress = Once(300, change, "vectorize")
    with pytest.raises(ChangedError, match="changed while it was read"):
        vectorize(mask, out, settings, progress)  # type: ignore[arg-type]
    assert out.read_bytes() == before, "what was there before stays"


@pytest.mark.parametrize("which", ["raster", "labels", "polygons"])
def test_tile_and_evaluate_take_no_mixture(which: str, tmp_path: Path, write_raster: Callable) -> None:
    source, labels = (
        write_raster(tmp_path / "in.tif", noise(1)),
        mask_file(tmp_path / "l.tif", write_raster, 1),
    )
    if which == "polygons":
        labels = tmp_path / "l.shp"
        box = shapely.box(500_000, 5_199_000, 500_100, 5_200_000)
        geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32633").to_file(labels)

    def change() -> None:
        if which == "raster":
            write_raster(source, noise(2))
        elif which == "labels":
            mask_file(labels, write_raster, 2)
        else:
            labels.with_suffix(".dbf").write_bytes(labels.with_suffix(".dbf").read_bytes() + b" ")

    settings = TileSettings(chip_size=64)
    with pytest.raises(ChangedError, match="changed while it was read"):
        tile([str(source)], [str(labels)], tmp_path / "chips", settings, Once(5, change))  # type: ignore[arg-type]
    assert not list(tmp_path.glob("chips*"))
    mask = mask_file(tmp_path / "mask.tif", write_raster, 1)
    if which == "raster":
        source = mask
    with pytest.raises(InputError, match="changed while it was read"):
        evaluate_mask(mask, [str(labels)], LabelSettings(), Once(5, lambda: mask_file(mask, write_raster, 3)))  # type: ignore[arg-type]


def test_the_report_says_what_cannot_be_told(
    tmp_path: Path, write_raster: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_raster(tmp_path / "in.tif", noise(1))
    monkeypatch.setattr(Unchanged, "notes", property(lambda _: ("it cannot be told",)))
    settings = PredictSettings(engine="eager", precision="fp32")
    (report,) = predict(MODEL, [str(source)], tmp_path / "map.tif", settings)
    assert "it cannot be told" in report.notes


def test_so_do_the_reports_of_the_other_commands(
    tmp_path: Path, write_raster: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, mask = write_raster(tmp_path / "in.tif", noise(1)), mask_file(tmp_path / "m.tif", write_raster, 1)
    monkeypatch.setattr(Unchanged, "notes", property(lambda _: ("it cannot be told",)))
    dataset = tile(source, mask, tmp_path / "chips", TileSettings(chip_size=64)).notes
    polygons = vectorize(mask, tmp_path / "out.gpkg").remarks
    monkeypatch.setattr(evaluating, "read_card", lambda path: planning.load_model(path).card)
    roads = write_raster(tmp_path / "roads.tif", np.where(noise(1)[:1] > 128, np.uint8(10), np.uint8(0)))
    scores = evaluate_model_on_rasters(MODEL, source, roads).notes
    for told in (dataset, polygons, evaluate_mask(mask, mask).notes, scores):
        assert told.count("it cannot be told") == 1


@pytest.mark.slow
def test_a_server_that_falls_asleep_leaves_rows_that_are_kept(
    server: WebServer, tmp_path: Path, write_raster: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names it, exit 3, and the same command goes on when it wakes. Larger than GDAL's cache of 16 MB."""
    pixels = np.random.default_rng(1).integers(8, 256, (2, 9000, 1000), dtype=np.uint8)
    source = write_raster(tmp_path / "in.tif", pixels)
    shutil.copy(source, server.folder / "in.tif")
    monkeypatch.setattr(remote, "PATIENCE", {**remote.PATIENCE, "GDAL_HTTP_LOW_SPEED_TIME": "1"})
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(remote, "_ASK_SECONDS", 1.0)
    sleep = Once(300, lambda: setattr(server, "faults", ["silence"] * 50), "predict")
    with pytest.raises(
        Incomplete, match=r"server 127\.0\.0\.1:\d+ did not answer in time.*rows are kept"
    ) as caught:
        run([server.url("in.tif")], tmp_path / "map.tif", progress=sleep)
    assert caught.value.exit_code == 3
    server.faults = []
    resumed = Once(10**9, lambda: None, "predict")
    run([server.url("in.tif")], tmp_path / "map.tif", progress=resumed)
    whole = Once(10**9, lambda: None, "predict")
    run([str(source)], tmp_path / "calm.tif", progress=whole)
    assert 0 < resumed.last < whole.last, "finished rows were not made again"
    with rasterio.open(tmp_path / "map.tif") as made, rasterio.open(tmp_path / "calm.tif") as wanted:
        np.testing.assert_array_equal(made.read(), wanted.read())
