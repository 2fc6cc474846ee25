"""What a message prints as `name=value` works when it is passed as that keyword: in Python as on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely.geometry import box

from aerial_seg.errors import AerialSegError, InputError, Interrupted, OutputError, SettingsError
from aerial_seg.geo.measures import Measure
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.mentions import settings_in
from aerial_seg.models.file import TrainedModel
from aerial_seg.vectors.from_mask.settings import LayerSettings, ShapeSettings, VectorizeSettings

Write = Callable[..., Path]
IMAGE = np.random.default_rng(0).integers(1, 256, (2, 60, 50)).astype(np.uint8)


def remedy_of(work: Callable[[], object], kind: type[AerialSegError]) -> Mapping[str, Any]:
    """The keywords that the refusal of this work prints."""
    with pytest.raises(kind) as refusal:
        work()
    assert "--" not in str(refusal.value)
    return {mention.name: mention.value for mention in settings_in(str(refusal.value)) if mention.has_value}


@pytest.fixture
def raster(write_raster: Write, tmp_path: Path) -> Callable[..., str]:
    def write(name: str = "in.tif", image: np.ndarray = IMAGE, **options: Any) -> str:
        return str(write_raster(tmp_path / name, image, **options))

    return write


class TestPredict:
    @pytest.fixture(autouse=True)
    def _model(
        self, pointwise: Callable[..., TrainedModel], use: Callable[[TrainedModel], None], tmp_path: Path
    ) -> None:
        use(pointwise(stride=4, origin_step=4, gsd=1.0))
        self.out = tmp_path / "map.tif"

    def run(self, *rasters: str, out: Path | None = None, **settings: Any) -> object:
        return predict(Path("m"), rasters, out or self.out, PredictSettings(device="cpu", **settings))

    @pytest.mark.parametrize(
        ("written", "asked", "kind", "wanted"),
        [
            ({"crs": None}, {}, InputError, {"georeferenced": False}),
            ({"gsd": 9.0}, {}, InputError, {"force_gsd": True}),
            (
                {}, {"taken": "2024-05-03T10:00:00Z"}, SettingsError,
                {"taken": "2024-05-03T10:00:00Z", "stac": True},
            ),
        ],
    )  # fmt: skip
    def test_of_a_raster(
        self,
        raster: Callable[..., str],
        written: dict[str, Any],
        asked: dict[str, Any],
        kind: type[AerialSegError],
        wanted: dict[str, Any],
    ) -> None:
        path = raster(**written)
        told = remedy_of(lambda: self.run(path, **asked), kind)
        assert told == wanted
        self.run(path, **{**asked, **told})
        assert self.out.is_file()

    def test_of_an_output_that_is_there(self, raster: Callable[..., str]) -> None:
        self.out.write_text("something else")
        path = raster()
        told = remedy_of(lambda: self.run(path), OutputError)
        assert told == {"overwrite": True}
        self.run(path, **told)
        assert self.out.read_bytes()[:4] in (b"II*\0", b"II+\0")

    def test_of_two_rasters_and_one_output(self, raster: Callable[..., str]) -> None:
        paths = raster("a.tif"), raster("b.tif", corner=(500_050.0, 5_200_000.0))
        told = remedy_of(lambda: self.run(*paths), SettingsError)
        assert told == {"mosaic": True}
        self.run(*paths, **told)
        assert self.out.is_file()

    def test_of_another_run_that_was_interrupted(
        self, raster: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = raster(image=np.tile(IMAGE, (1, 20, 1)))

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("aerial_seg.jobs.predict.one_scene.write_results", stop)
            with pytest.raises(
                Interrupted, match="make the same call again to go on, or pass `restart=True`"
            ):
                self.run(path)
        told = remedy_of(lambda: self.run(path, window="centre"), OutputError)
        assert told == {"restart": True}
        self.run(path, window="centre", **told)
        assert self.out.is_file()


class TestTile:
    @pytest.fixture(autouse=True)
    def _labels(self, polygon_file: Callable[..., Path], tmp_path: Path) -> None:
        self.labels = polygon_file("l.gpkg", [box(500_005, 5_199_950, 500_040, 5_199_990)], crs="EPSG:32633")
        self.out = tmp_path / "chips"

    def run(
        self, *rasters: str, labels: Path | None = None, how: LabelSettings | None = None, **settings: Any
    ) -> object:
        wanted = TileSettings(labels=how or LabelSettings(), chip_size=16, block=1, **settings)
        return tile(rasters, [str(labels or self.labels)], self.out, wanted)

    def test_of_rasters_with_two_gsds(self, raster: Callable[..., str]) -> None:
        paths = raster("a.tif"), raster("b.tif", gsd=0.8)
        told = remedy_of(lambda: self.run(*paths), InputError)
        assert told == {"gsd": 1}
        self.run(*paths, **told)

    def test_of_labels_without_a_crs(
        self, raster: Callable[..., str], polygon_file: Callable[..., Path]
    ) -> None:
        path, geometry = raster(), box(500_005, 5_199_950, 500_040, 5_199_990)
        plain = polygon_file("plain.shp", [geometry], crs=None)
        told = remedy_of(lambda: self.run(path, labels=plain), InputError)
        assert told == {"crs": "EPSG:xxxx"}
        given = {name: value.replace("xxxx", "32633") for name, value in told.items()}
        self.run(path, labels=plain, how=LabelSettings(**given))


class TestVectorize:
    @pytest.fixture(autouse=True)
    def _mask(self, raster: Callable[..., str], tmp_path: Path) -> None:
        self.mask = Path(
            raster(image=np.kron(np.array([[[1, 2], [2, 1]]], np.uint8), np.ones((1, 30, 30), np.uint8)))
        )
        self.out = tmp_path / "map.gpkg"

    def run(self, **layer: Any) -> object:
        settings = VectorizeSettings(classes=("all",), layer=LayerSettings(**layer))
        return vectorize(self.mask, self.out, settings)

    def test_of_an_output_that_is_there(self) -> None:
        self.run()
        before = self.out.read_bytes()
        told = remedy_of(self.run, OutputError)
        assert told == {"overwrite": True}
        assert self.out.read_bytes() == before
        self.run(**told)

    def test_of_other_layers_in_the_file(self) -> None:
        self.run(layer="first")
        told = remedy_of(lambda: self.run(layer="second", overwrite=True), OutputError)
        assert told == {"overwrite": True, "append": True}
        self.run(layer="second", append=told["append"])

    def test_of_corners_that_touch(self) -> None:
        asked = ShapeSettings(simplify=Measure(0, "px"), instances=("class 1",))
        told = remedy_of(lambda: replace(asked, connectivity=8), SettingsError)
        assert told == {"connectivity": 8}  # to be left out
        assert asked.connectivity != told["connectivity"]
