"""Every name is read and written exactly, and nothing else is touched; or it is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas
import pytest
import rasterio
from odd_name_files import entries, kept, mask_file
from shapely import box

from aerial_seg.models.file import read_card

from .conftest import Result, listing

Run = Callable[..., Result]
Refused = Callable[..., str]


FEW = (
    "!keep",
    "a;keep",
    "a?b#[1]",
    "a|layername=keep",
    "GTIFF_DIR:1:keep",
    " a&<>'\"\\keep",
    "cafe\u0301 建筑",
)
MORE = (
    "a!b", "a.zip!keep", "a|b", "a?keep", "a%20b", "a#keep", "a[1]", "a*b", "@keep", "~", "$HOME", " keep", "a b",
    "a'b", 'a"b', "a&<>b", "café", "-keep", "NETCDF:keep", "WMS:keep", "http:keep", "zip:keep", "file:keep", "s3:keep",
    "GPKG:keep", ":memory:", "a\\keep", "{keep}", "<GDAL_WMS>", "MEM:::keep", "CSV:keep", "x" * 190,
)  # fmt: skip
STEMS = pytest.mark.parametrize(
    "stems", [FEW, pytest.param(MORE, marks=pytest.mark.slow)], ids=["few", "more"]
)
"""Names that some library takes for something else; `keep` is what it may then take."""


def copied(folder: Path, stem: str, to: Path) -> None:
    """The files of that stem lie in `to` under a plain name, for readers that parse names."""
    to.mkdir()
    for file in folder.iterdir():
        if file.name.startswith(stem):
            shutil.copyfile(file, to / f"plain{file.name.removeprefix(stem)}")


@STEMS
@pytest.mark.parametrize("suffix", ["gpkg", "shp", "geojson", "fgb", "csv"])
def test_vectorize_reads_and_writes_exactly_what_is_named(
    suffix: str, stems: tuple[str, ...], run: Run, tmp_path: Path, keep: dict[str, bytes]
) -> None:
    parts = {"shp": {".shp", ".shx", ".dbf", ".prj", ".cpg", ".qml"}, "csv": {".csv", ".csvt", ".prj"}}
    for number, stem in enumerate(stems):
        mask_file(tmp_path / f"{stem}.tif")
        before = entries(tmp_path)
        layer = ["--layer", "roads"] if suffix == "gpkg" else []
        result = run("vectorize", *layer, "--", f"{stem}.tif", f"{stem}.{suffix}")
        assert result.code == 0, (stem, result.err)
        made = entries(tmp_path) - before
        wanted = {f"{stem}{end}" for end in parts.get(suffix, {f".{suffix}"})}
        assert wanted <= made, stem
        assert all(name.startswith(stem) for name in made), (stem, made)
        copied(tmp_path, stem, tmp_path / f"copy{number}")
        plain = tmp_path / f"copy{number}" / f"plain.{suffix}"
        table = geopandas.read_file(plain, **({"layer": "roads"} if suffix == "gpkg" else {}))
        assert list(table["class_name"]) == ["road", "road"], stem
        assert sorted(table["area_m2"].astype(float)) == pytest.approx([12, 16], rel=1e-2), stem
        for name in made | {f"{stem}.tif"}:
            (tmp_path / name).unlink()
    assert kept(tmp_path) == keep


def test_the_three_ways_in_which_an_exclamation_mark_lost_a_file(
    run: Run, refused: Refused, tmp_path: Path
) -> None:
    mask_file(tmp_path / "m.tif")
    mask_file(tmp_path / "keep.tif")
    assert run("vectorize", "keep.tif", "keep.gpkg", "--layer", "mine").code == 0
    before = listing(tmp_path)
    assert run("vectorize", "m.tif", "!keep.gpkg", "--layer", "seg").code == 0
    after = listing(tmp_path)
    assert {name: after[name] for name in before} == before
    assert list(geopandas.list_layers(tmp_path / "keep.gpkg")["name"]) == ["mine", "layer_styles"]
    # A layer is called as its file where nobody says; GeoPackages have no such name.
    message = refused("vectorize", "m.tif", "!other.gpkg", code=2)
    assert "cannot be called '!other'" in message
    assert run("vectorize", "m.tif", "!other.gpkg", *re.findall(r"--layer", message), "other").code == 0


def test_append_and_overwrite_find_the_file_that_is_named(
    run: Run, tmp_path: Path, keep: dict[str, bytes]
) -> None:
    mask_file(tmp_path / "m.tif")
    for stem in ("!keep", "a;keep", "GPKG:keep"):
        assert run("vectorize", "m.tif", f"{stem}.gpkg", "--layer", "one").code == 0
        assert run("vectorize", "m.tif", f"{stem}.gpkg", "--layer", "one", "--append").code == 0
        assert run("vectorize", "m.tif", f"{stem}.gpkg", "--layer", "two", "--append").code == 0
        other = run("vectorize", "m.tif", f"{stem}.gpkg", "--layer", "two", "--overwrite")
        assert (other.code, "holds other layers (one)" in other.err) == (1, True), other.err
        assert run("vectorize", "m.tif", f"{stem}.shp").code == 0
        assert run("vectorize", "m.tif", f"{stem}.shp", "--append").code == 0
        copied(tmp_path, stem, tmp_path / "copy")
        plain = tmp_path / "copy" / "plain.gpkg"
        assert [len(geopandas.read_file(plain, layer=name)) for name in ("one", "two")] == [4, 2]
        assert len(geopandas.read_file(plain.with_suffix(".shp"))) == 4
        shutil.rmtree(tmp_path / "copy")
    assert kept(tmp_path) == keep


@STEMS
def test_predict_reads_and_writes_exactly_what_is_named(
    stems: tuple[str, ...],
    run: Run,
    models: Callable[..., Path],
    raster: Callable[..., Path],
    tmp_path: Path,
    keep: dict[str, bytes],
) -> None:
    model = models()
    image = raster("image.tif", size=(32, 32))
    (tmp_path / "in!;?#").mkdir()
    for stem in (*stems, "plain"):
        shutil.copyfile(image, tmp_path / "in!;?#" / f"{stem}.tif")
    before = listing(tmp_path)
    result = run("predict", model, "in!;?#", "-o", "out!;?#dir", "--bidx", "3,2,1", "--confidence", "--stac")
    assert result.code == 0, result.err
    made = entries(tmp_path / "out!;?#dir")
    ends = (".tif", ".tif.aux.xml", ".tif.vat.dbf", ".tif.vat.cpg", ".qml", ".json", "_confidence.tif")
    for stem in (*stems, "plain"):
        assert {f"{stem}_mask{end}" for end in ends} <= made, stem
    assert made <= {f"{stem}_mask{end}" for stem in (*stems, "plain") for end in (*ends, "_confidence.qml")}
    pixels, tables = set(), set()
    for stem in (*stems, "plain"):
        mask = tmp_path / "out!;?#dir" / f"{stem}_mask.tif"
        with rasterio.open(str(mask)) as file:
            pixels.add(file.read().tobytes())
            assert json.loads(file.tags()["AERIAL_SEG_SOURCES"]) == [f"{stem}.tif"]
        tables.add(mask.with_name(mask.name + ".vat.dbf").read_bytes())
    assert (len(pixels), len(tables)) == (1, 1)
    after = listing(tmp_path)
    assert {name: after[name] for name in before} == before
    assert kept(tmp_path) == keep


@pytest.mark.parametrize(
    "stem", ["!keep", pytest.param("GTIFF_DIR:1:keep", marks=pytest.mark.slow), "a;b?#", "x" * 211]
)
def test_one_mask_with_polygons_and_all_else_at_an_odd_name(
    stem: str,
    run: Run,
    models: Callable[..., Path],
    raster: Callable[..., Path],
    tmp_path: Path,
    keep: dict[str, bytes],
) -> None:
    """The longest name leaves room for all names that are derived from it."""
    model = models()
    shutil.copyfile(model, tmp_path / f"{stem[:180]}.safetensors")
    folder = tmp_path / "!arch;"
    folder.mkdir()
    image = raster("image.tif", size=(80, 600))
    image.rename(tmp_path / f"{stem}.tif")
    before = listing(tmp_path)
    result = run(
        "predict", f"{stem[:180]}.safetensors", f"{stem}.tif", "-o", folder / f"{stem}.tif", "--vectors",
        folder / f"{stem}.shp", "--confidence", "--probabilities", "--stac", "--mosaic",
    )  # fmt: skip
    assert result.code == 0, result.err
    after = listing(tmp_path)
    assert {name: after[name] for name in before} == before
    made = entries(folder)
    assert all(name.startswith(stem) for name in made), made
    assert {f"{stem}{end}" for end in (".tif", ".shp", ".dbf", ".tif.vat.dbf", "_probabilities.tif")} <= made
    assert kept(tmp_path) == keep
    if len(stem) > 100:
        longer = run("predict", model, f"{stem}.tif", "-o", f"{stem}x.tif", "--probabilities")
        assert (longer.code, "wanted at most 215" in longer.err) == (1, True)


def square(path: Path, size: int) -> None:
    """One square of that many metres in the raster's north-west corner, as a layer `keep`."""
    left, top = 500_000, 5_200_000
    plain = path.parent / f"written{path.suffix}"
    table = geopandas.GeoDataFrame(
        {"type": ["road"]}, geometry=[box(left, top - size, left + size, top)], crs=32633
    )
    table.to_file(plain, layer="keep")
    for file in list(path.parent.glob("written.*")):
        file.rename(path.with_name(path.stem + file.suffix))


@STEMS
@pytest.mark.parametrize("suffix", ["gpkg", "shp", "geojson"])
def test_labels_are_read_from_the_file_that_is_named(
    suffix: str, stems: tuple[str, ...], run: Run, models: Callable[..., Path], tmp_path: Path
) -> None:
    """A smaller square lies in whatever a library may take instead."""
    mask_file(tmp_path / "m.tif")
    for name in ("keep", "b", "layername=keep"):
        square(tmp_path / f"{name}.{suffix}", 1)
    for stem in stems:
        square(tmp_path / f"{stem}.{suffix}", 4)
    before = listing(tmp_path)
    for stem in stems:
        result = run("evaluate", "m.tif", "--json", "--class-field", "type", "--", f"{stem}.{suffix}")
        assert result.code == 0, (stem, result.err)
        assert json.loads(result.out)["classes"][1]["pixels"] == 16, stem
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    "stem",
    ["!keep", "a;keep", "a|layername=keep"]
    + [pytest.param(stem, marks=pytest.mark.slow) for stem in ("GPKG:keep", "a#keep")],
)
def test_an_area_is_read_from_the_file_that_is_named(
    stem: str, run: Run, models: Callable[..., Path], raster: Callable[..., Path], tmp_path: Path
) -> None:
    square(tmp_path / "keep.gpkg", 1)
    square(tmp_path / f"{stem}.gpkg", 4)
    raster("in.tif", size=(16, 16))
    for text in (f"{stem}.gpkg", f"{stem}.gpkg|layername=keep"):
        result = run("predict", models(), "in.tif", "-o", "o.tif", "--aoi", text, "--overwrite")
        assert result.code == 0, result.err
        with rasterio.open(tmp_path / "o.tif") as file:
            assert (file.read(1) != 255).sum() == 16
    assert entries(tmp_path) >= {f"{stem}.gpkg", "keep.gpkg"}


def test_tile_and_info_at_odd_names(
    run: Run, raster: Callable[..., Path], labels: Path, tmp_path: Path, keep: dict[str, bytes]
) -> None:
    stems = ("!a;b?#", "NETCDF:keep")
    for stem in stems:
        raster("r.tif").rename(tmp_path / f"{stem}.tif")
        labels.replace(tmp_path / f"L{stem}.tif")
        (tmp_path / "dir!;").mkdir(exist_ok=True)
        before = listing(tmp_path)
        made = run(
            "tile", f"{stem}.tif", "--labels", f"L{stem}.tif", "-o", f"dir!;/{stem}", "--chip-size", "32",
            "--val", "0", "--test", "0",
        )  # fmt: skip
        assert made.code == 0, made.err
        assert json.loads(run("info", f"dir!;/{stem}", "--json").out)["chips"]["train"] > 0
        assert json.loads(run("info", f"{stem}.tif", "--json").out)["width"] == 80
        after = listing(tmp_path)
        assert {name: after[name] for name in before} == before
        (tmp_path / f"L{stem}.tif").rename(labels)
    assert entries(tmp_path / "dir!;") == set(stems)
    assert kept(tmp_path) == keep


def test_a_model_at_every_odd_name(models: Callable[..., Path], tmp_path: Path) -> None:
    for stem in (*FEW, *MORE):
        file = tmp_path / f"{stem}.safetensors"
        shutil.copyfile(models(), file)
        assert read_card(file).legend.names == ("background", "road")
        file.unlink()
