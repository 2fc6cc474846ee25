"""predict as a whole: nodata stays nodata, the grid is the raster's, equal work gives equal bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio

from aerial_seg.errors import InputError, OutputError
from aerial_seg.inference.results import keep_styles
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.outputs.mask import read_legend
from aerial_seg.outputs.qgis_style import grey_raster, read_classes, read_style, style_text
from aerial_seg.vectors.from_mask.settings import VectorizeSettings

NODATA = 7


def random_image(seed: int, height: int, width: int) -> np.ndarray:
    """Two bands of noise with a patch of nodata."""
    random = np.random.default_rng(seed)
    image = random.integers(NODATA + 1, 256, (2, height, width), dtype=np.uint8)
    top, left = random.integers(0, height), random.integers(0, width)
    image[:, top : top + height // 3, left : left + width // 3] = NODATA
    return image


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


MODEL = Path("any.safetensors")


@pytest.mark.parametrize("kind", ["mask", "value", "option"])
@pytest.mark.parametrize("gsd", [1.0, 2.0, 0.5])
def test_nodata_in_is_nodata_out_to_the_pixel_on_the_sources_grid(
    kind: str, gsd: float, use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8, gsd=1.0))
    random = np.random.default_rng(3)
    image = random.integers(NODATA + 1, 256, (2, 75, 61), dtype=np.uint8)
    valid = random.random((75, 61)) > 0.2
    valid[:, :9] = False
    # One band alone may hold the value: the pixel was measured.
    image[0, 40:60, 20:40] = NODATA
    if kind != "mask":
        image[:, ~valid] = NODATA
    declared = {"mask": {"valid": valid}, "value": {"nodata": NODATA}, "option": {}}[kind]
    source = write_raster(tmp_path / "in.tif", image, gsd=gsd, **declared)
    settings = PredictSettings(nodata=NODATA if kind == "option" else None)
    (report,) = predict(MODEL, [str(source)], tmp_path / "out.tif", settings)
    with rasterio.open(source) as given, rasterio.open(report.mask) as made:
        assert (made.shape, made.transform, made.crs) == (given.shape, given.transform, given.crs)
        assert made.nodata == 255
        np.testing.assert_array_equal(made.read(1) == 255, ~valid)
        np.testing.assert_array_equal(made.read_masks(1) > 0, valid)
    assert report.nodata_pixels == (~valid).sum()
    assert sum(report.class_pixels.values()) == valid.sum()
    assert report.resampled_to == (None if gsd == 1.0 else 1.0)


@pytest.mark.parametrize("gsd", [2.0, 0.5])
def test_a_resampled_raster_gets_its_classes_where_they_lie(
    whole_logits: Callable[..., Any],
    gsd: float,
    use: Callable,
    pointwise: Callable,
    write_raster: Callable,
    tmp_path: Path,
) -> None:
    model = pointwise(stride=1, origin_step=8, gsd=1.0)
    use(model)
    image = np.full((2, 96, 80), 40, np.uint8)
    image[0, 32:] = 230
    image[1, :, 40:] = 240
    source = write_raster(tmp_path / "in.tif", image, gsd=gsd)
    predict(MODEL, [str(source)], tmp_path / "out.tif", PredictSettings())
    mask = read(tmp_path / "out.tif")
    logits, _ = whole_logits(image, model)
    wanted = model.card.legend.value_table()[logits.argmax(axis=0)]
    assert len(np.unique(wanted)) > 1
    away = np.ones(mask.shape, bool)
    away[30:34] = away[:, 38:42] = False
    np.testing.assert_array_equal(mask[away], wanted[away])


def test_a_mask_opens_in_gis_software_with_colours_names_and_provenance(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    model = pointwise(stride=1, origin_step=8)
    use(model)
    source = write_raster(tmp_path / "in.tif", random_image(1, 40, 50), nodata=NODATA)
    predict(MODEL, [str(source)], tmp_path / "out.tif", PredictSettings())
    beside = ["out.qml", "out.tif", "out.tif.aux.xml", "out.tif.vat.cpg", "out.tif.vat.dbf"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", *beside]
    assert read_legend(tmp_path / "out.tif") == model.card.legend
    with rasterio.open(tmp_path / "out.tif") as mask:
        assert mask.dtypes == ("uint8",)
        assert mask.descriptions == ("class",)
        palette = mask.colormap(1)
        assert all(palette[entry.value][:3] == entry.rgb for entry in model.card.legend.entries)
        tags = mask.tags()
    assert tags["AERIAL_SEG_MODEL_SHA256"] == model.sha256
    assert "in.tif" in tags["AERIAL_SEG_SOURCES"]
    style = (tmp_path / "out.qml").read_text(encoding="utf-8")
    assert all(f'label="{name}"' in style for name in model.card.legend.names)
    names = (tmp_path / "out.tif.aux.xml").read_text(encoding="utf-8")
    assert all(f"<Category>{name}</Category>" in names for name in model.card.legend.names)


class TestStyles:
    """out.qml belongs to whatever is called so; of ours both parts live on, somebody else's stays."""

    def test_polygons_that_were_there_first_keep_their_style(
        self, use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
    ) -> None:
        model = pointwise(stride=1, origin_step=8)
        use(model)
        source = write_raster(tmp_path / "in.tif", random_image(1, 40, 50), nodata=NODATA)
        predict(MODEL, [str(source)], tmp_path / "first.tif", PredictSettings())
        vectorize(tmp_path / "first.tif", tmp_path / "out.shp", VectorizeSettings())
        settings = PredictSettings(probabilities=True, vectors=tmp_path / "out.fgb")
        for again in (False, True):
            (report,) = predict(
                MODEL, [str(source)], tmp_path / "out.tif", replace(settings, overwrite=again)
            )
            assert {tmp_path / "out.qml", tmp_path / "out_probabilities.qml"} <= set(report.files)
            assert not any("qml" in note for note in report.notes)
            style = read_style((tmp_path / "out.qml").read_text(encoding="utf-8"))
            assert style.raster is not None
            colours = {int(e.attrib["value"]): e.attrib["color"] for e in style.raster.iter("paletteEntry")}
            legend = {entry.value: entry.colour for entry in model.card.legend.entries}
            assert colours == {entry.value: entry.colour for entry in read_classes(style)} == legend

    def test_somebody_elses_stays_and_is_told(
        self, use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
    ) -> None:
        use(pointwise(stride=1, origin_step=8))
        source = write_raster(tmp_path / "in.tif", random_image(1, 40, 50), nodata=NODATA)
        (tmp_path / "out.qml").write_text("<qgis><pipe/></qgis>")
        settings = PredictSettings(vectors=tmp_path / "out.shp")
        (report,) = predict(MODEL, [str(source)], tmp_path / "out.tif", settings)
        assert (tmp_path / "out.qml").read_text() == "<qgis><pipe/></qgis>"
        assert tmp_path / "out.qml" not in report.files
        assert any("out.qml is not (or no longer)" in note and "out.tif" in note for note in report.notes)
        assert report.vectors is not None
        assert any("out.qml is not (or no longer)" in note for note in report.vectors.notes)

    def test_what_was_kept_is_told_again_after_a_crash(self, tmp_path: Path) -> None:
        """keep_styles runs once more when a run was killed between it and the end."""
        (tmp_path / "result").mkdir()
        draft, final = tmp_path / "result" / "a.qml", tmp_path / "a.qml"
        draft.write_text(style_text(grey_raster(1)), encoding="utf-8")
        final.write_text("<qgis/>")
        first = keep_styles([final], tmp_path / "result", tmp_path / "a.tif")
        assert not draft.exists()
        assert first == keep_styles([final], tmp_path / "result", tmp_path / "a.tif")
        assert first[0] == {final}
        final.write_text(style_text(grey_raster(2)), encoding="utf-8")
        assert keep_styles([final], tmp_path / "result", tmp_path / "a.tif") == (set(), ())
        assert final.read_text(encoding="utf-8") == style_text(grey_raster(2))


def test_vectors_are_the_polygons_of_the_mask(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = write_raster(tmp_path / "in.tif", random_image(5, 90, 90), nodata=NODATA)
    settings = PredictSettings(vectors=tmp_path / "out.gpkg")
    (report,) = predict(MODEL, [str(source)], tmp_path / "out.tif", settings)
    frame = geopandas.read_file(tmp_path / "out.gpkg")
    assert report.vectors is not None
    assert len(frame) == report.vectors.polygons > 0
    present = {name for name, pixels in report.class_pixels.items() if pixels}
    assert set(frame["class_name"]) <= present


def test_a_mosaic_of_tiles_equals_the_merged_raster(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    image = random_image(8, 60, 100)
    merged = write_raster(tmp_path / "merged.tif", image)
    west = write_raster(tmp_path / "west.tif", image[:, :, :44])
    east = write_raster(tmp_path / "east.tif", image[:, :, 44:], corner=(500_044.0, 5_200_000.0))
    predict(MODEL, [str(merged)], tmp_path / "a.tif", PredictSettings())
    predict(MODEL, [str(west), str(east)], tmp_path / "b.tif", PredictSettings(mosaic=True))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        assert a.transform == b.transform


def test_several_rasters_get_a_mask_each(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    for name in ("a", "b"):
        write_raster(tmp_path / f"{name}.tif", random_image(1, 20, 30))
    reports = predict(MODEL, [str(tmp_path / "*.tif")], tmp_path / "masks", PredictSettings())
    assert [report.mask.name for report in reports] == ["a_mask.tif", "b_mask.tif"]
    assert all(report.mask.is_file() for report in reports)


def test_every_raster_of_a_mosaic_is_checked_before_the_first_tile_runs(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    write_raster(tmp_path / "a.tif", random_image(1, 20, 30))
    write_raster(tmp_path / "b.tif", random_image(1, 20, 30)[:1])
    with pytest.raises(InputError, match=r"b\.tif has 1 bands"):
        predict(MODEL, [str(tmp_path / "*.tif")], tmp_path / "out" / "map.tif", PredictSettings(mosaic=True))
    assert not (tmp_path / "out").exists()


def test_a_raster_is_never_overwritten_by_its_mask(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise())
    source = write_raster(tmp_path / "a.tif", random_image(1, 20, 30))
    before = source.read_bytes()
    with pytest.raises(OutputError, match="one of the rasters"):
        predict(MODEL, [str(source)], source, PredictSettings(overwrite=True))
    assert source.read_bytes() == before


def test_equal_work_gives_equal_bytes(
    use: Callable, pointwise: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    use(pointwise(stride=8, origin_step=8))
    source = write_raster(tmp_path / "in.tif", random_image(2, 70, 50))
    for name in ("one", "two"):
        predict(MODEL, [str(source)], tmp_path / name / "mask.tif", PredictSettings())
    assert (tmp_path / "one/mask.tif").read_bytes() == (tmp_path / "two/mask.tif").read_bytes()
