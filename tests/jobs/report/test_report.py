"""A report shows the map as it is, tells the numbers of evaluate, and takes nothing from data as markup."""

from __future__ import annotations

import base64
import csv
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from pyproj import CRS

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.intervals import ChipScore, bootstrap_intervals
from aerial_seg.jobs.evaluate import evaluate_mask
from aerial_seg.jobs.report.job import report_map
from aerial_seg.jobs.report.settings import ReportSettings
from aerial_seg.jobs.report.tally import Comparison, Division, worst_places
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, make_legend
from aerial_seg.outputs.maps import write_mask

UTM = Grid(CRS(32645), Affine(2.0, 0, 300_000, 0, -2.0, 3_060_000), 130, 190)
LEGEND = make_legend({0: "background", 3: "road", 7: "water"}, background=[0])
HOSTILE = make_legend(
    {0: "<script>alert(1)</script>", 3: "\"'><img src=x onerror=alert(2)>", 7: "</script><b>&amp;"}
)


class Read(HTMLParser):
    """Tags, texts and data of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: Any = None
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        if self._inside == "data" and data.strip():
            self.data = json.loads(data)
        else:
            self.texts.append(data)

    def layer(self, name: str, view: int = 0) -> NDArray[np.uint8]:
        one = self.data["views"][view]
        raw = zlib.decompress(base64.b64decode(one[name]))
        return np.frombuffer(raw, np.uint8).reshape(one["h"], one["w"])


def patches(grid: Grid, seed: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    rough = random.choice(
        [0, 3, 7, IGNORE], (-(-grid.height // 10), -(-grid.width // 10)), p=[0.5, 0.2, 0.2, 0.1]
    )
    return np.kron(rough, np.ones((10, 10), int))[: grid.height, : grid.width].astype(np.uint8)


def scene(
    folder: Path, *, grid: Grid = UTM, legend: Any = LEGEND, name: str = "map.tif"
) -> tuple[Path, Path, Path]:
    """Mask with its confidence, labels and imagery."""
    mask, truth, image = folder / name, folder / "truth.tif", folder / "image.tif"
    values = patches(grid, 1)
    write_mask(mask, values, grid=grid, legend=legend)
    write_mask(truth, np.roll(values, 4, axis=1), grid=grid, legend=legend)
    facts = {
        "driver": "GTiff", "height": grid.height, "width": grid.width, "dtype": "uint8", "transform": grid.transform,
        "crs": None if grid.crs is None else grid.crs.to_wkt(),
    }  # fmt: skip
    random = np.random.default_rng(2)
    with rasterio.open(image, "w", count=3, **facts) as opened:
        opened.write(random.integers(1, 255, (3, *grid.shape), dtype=np.uint8))
    levels = np.where(values == IGNORE, 255, random.integers(80, 251, grid.shape)).astype(np.uint8)
    with rasterio.open(
        mask.with_name(f"{mask.stem}_confidence.tif"), "w", count=1, nodata=255, **facts
    ) as opened:
        opened.write(levels, 1)
    return mask, truth, image


def read(path: Path) -> Read:
    return Read(path.read_text(encoding="utf-8"))


def test_the_page_shows_the_pixels_and_tells_the_numbers_of_evaluate(tmp_path: Path) -> None:
    mask, truth, image = scene(tmp_path)
    report = report_map(mask, tmp_path / "r.html", [truth], ReportSettings(image=image))
    wanted = evaluate_mask(mask, [truth])
    assert report.evaluation is not None
    assert report.evaluation.scores == wanted.scores
    page = read(report.path)
    channels = LEGEND.channel_table()
    with rasterio.open(mask) as one, rasterio.open(truth) as other:
        said, true = channels[one.read(1)], channels[other.read(1)]
    np.testing.assert_array_equal(page.layer("classes"), said)
    np.testing.assert_array_equal(page.layer("truth"), true)
    known = (said != IGNORE) & (true != IGNORE)
    np.testing.assert_array_equal(
        page.layer("errors"), np.where(known, np.where(said != true, 250, 0), IGNORE)
    )
    with rasterio.open(tmp_path / "map_confidence.tif") as opened:
        np.testing.assert_array_equal(page.layer("confidence"), opened.read(1))
    shown = [attrs["data-value"] for _, attrs in page.tags if attrs.get("data-value")]
    assert repr(wanted.scores.miou) in shown
    for one in wanted.scores.classes:
        assert {repr(one.iou), repr(one.f1), repr(one.precision), repr(one.recall)} <= set(shown)
    for row in wanted.scores.confusion:
        assert {str(count) for count in row} <= set(shown)
    area = float((said != IGNORE).sum()) * 4
    assert sum(report.areas) == pytest.approx(area, rel=2e-3)  # UTM is not true to scale


def test_a_page_asks_nothing_of_a_network_and_runs_only_its_own_program(tmp_path: Path) -> None:
    mask, truth, image = scene(
        tmp_path, legend=HOSTILE, name="a'b\"<i>&.tif" if Path("/").anchor == "/" else "a'b&.tif"
    )
    report = report_map(mask, tmp_path / "r.html", [truth], ReportSettings(image=image))
    page = read(report.path)
    assert {tag for tag, _ in page.tags} & {"b", "i", "iframe", "object", "link", "base", "form"} == set()
    assert [tag for tag, _ in page.tags].count("script") == 2
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        for name in ("src", "href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/")), (tag, attrs)
    text = " ".join(page.texts)
    for name in HOSTILE.names:
        assert name in text
    assert [one["name"] for one in page.data["classes"]] == list(HOSTILE.names)
    assert mask.name in text
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", policy)
    assert "://" not in re.sub(r"<text[^>]*>.*?</text>", "", report.path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("cell", [1, 3])
@pytest.mark.parametrize("cut", [1, 2])
def test_the_tally_is_that_of_the_pixels_however_they_come(cell: int, cut: int) -> None:
    height, width = 131, 97
    random = np.random.default_rng(cell)
    true, said = (random.choice([0, 1, 2, IGNORE], (height, width)).astype(np.uint8) for _ in range(2))
    division = Division(height, width, cell, 12 * cell)
    found = Comparison(division, 3)
    from aerial_seg.geo.raster.covered import Extent

    for top in range(0, height, 50 // cut):
        for left in range(0, width, 64):
            where = Extent(range(top, min(top + 50 // cut, height)), range(left, min(left + 64, width)))
            part = slice(where.rows.start, where.rows.stop), slice(where.cols.start, where.cols.stop)
            found.see(where, true[part], said[part])
    known = (true != IGNORE) & (said != IGNORE)
    wrong = known & (true != said)
    for row in range(found.known.shape[0]):
        for col in range(found.known.shape[1]):
            here = slice(row * cell, (row + 1) * cell), slice(col * cell, (col + 1) * cell)
            assert found.known[row, col] == known[here].sum()
            assert found.wrong[row, col] == wrong[here].sum()
    middle = np.minimum(np.arange(found.truth.shape[0]) * cell + cell // 2, height - 1)
    across = np.minimum(np.arange(found.truth.shape[1]) * cell + cell // 2, width - 1)
    np.testing.assert_array_equal(found.truth, true[np.ix_(middle, across)])
    for (down, right), score in found.places().items():
        where = division.extent(down, right)
        here = slice(where.rows.start, where.rows.stop), slice(where.cols.start, where.cols.stop)
        table = np.bincount(3 * true[here][known[here]] + said[here][known[here]].astype(int), minlength=9)
        np.testing.assert_array_equal(score.confusion.ravel(), table)
    worst = worst_places(found, most=5)
    assert [one.cost for one in worst] == sorted((one.cost for one in worst), reverse=True)
    assert all(one.wrong <= one.known for one in worst)


def test_intervals_are_those_of_a_bootstrap_over_squares() -> None:
    random = np.random.default_rng(0)
    true, said = (random.integers(0, 3, (96, 96)).astype(np.uint8) for _ in range(2))
    division = Division(96, 96, 1, 8)
    found = Comparison(division, 3)
    from aerial_seg.geo.raster.covered import Extent

    found.see(Extent.whole(96, 96), true, said)
    chips, units = [], []
    for top in range(0, 96, 24):
        for left in range(0, 96, 24):
            here = slice(top, top + 24), slice(left, left + 24)
            table = np.bincount(3 * true[here].ravel().astype(int) + said[here].ravel(), minlength=9).reshape(
                3, 3
            )
            chips.append(ChipScore.of(f"{top},{left}", table))
            units.append(f"{top},{left}")
    names = ("a", "b", "c")
    assert found.intervals(names) == bootstrap_intervals(chips, units, names, unit="square")


def test_a_large_map_is_shown_in_few_pixels_and_its_worst_places_closely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aerial_seg.jobs.report.job._SIDES", (64,))
    mask, truth, image = scene(tmp_path)
    page = read(report_map(mask, tmp_path / "r.html", [truth], ReportSettings(image=image)).path)
    with rasterio.open(mask) as one, rasterio.open(truth) as other:
        said, true = (LEGEND.channel_table()[raster.read(1)] for raster in (one, other))
    assert max(page.layer("classes").shape) <= 64
    assert len(page.data["views"]) == 1 + len(page.data["places"]) > 2
    for number, (top, left, height, width) in enumerate(page.data["places"], start=1):
        here = slice(top, top + height), slice(left, left + width)
        np.testing.assert_array_equal(page.layer("classes", number), said[here])
        np.testing.assert_array_equal(page.layer("truth", number), true[here])
    share = page.layer("errors")
    wrong = ((said != true) & (said != IGNORE) & (true != IGNORE))[:3, :3].sum()
    assert (share[0, 0] > 0) == (wrong > 0)


def test_south_up_maps_are_shown_north_up(tmp_path: Path) -> None:
    folder = tmp_path / "up"
    folder.mkdir()
    north = Grid(CRS(32645), Affine(2.0, 0, 300_000, 0, 2.0, 3_000_000), 40, 50)
    mask, truth, image = scene(folder, grid=north)
    page = read(report_map(mask, folder / "r.html", [truth], ReportSettings(image=image)).path)
    with rasterio.open(mask) as opened:
        said = LEGEND.channel_table()[opened.read(1)]
    np.testing.assert_array_equal(page.layer("classes"), said[::-1])
    assert page.data["transform"][4] < 0


def test_imagery_on_another_grid_is_laid_on_the_map(tmp_path: Path) -> None:
    image = tmp_path / "coarse.tif"
    ramp = np.broadcast_to(np.arange(10, 110, dtype=np.uint8), (1, 80, 100))
    with rasterio.open(
        image, "w", driver="GTiff", height=80, width=100, count=1, dtype="uint8", crs=32645,
        transform=Affine(4.0, 0, 300_000, 0, -4.0, 3_060_000),
    ) as opened:  # fmt: skip
        opened.write(ramp)
    from aerial_seg.geo.raster.covered import Extent
    from aerial_seg.jobs.report.pictures import Shown, image_pictures

    (picture,) = image_pictures(image, UTM, [Shown(Extent.whole(*UTM.shape), *UTM.shape)])
    wanted = 10 + (np.arange(UTM.width) + 0.5) / 2 - 0.5
    assert np.abs(picture[60, :, 0].astype(float) - wanted)[2:-2].max() <= 1


def test_without_labels_the_least_certain_places_are_shown(tmp_path: Path) -> None:
    mask, _, image = scene(tmp_path)
    report = report_map(mask, tmp_path / "r.html", (), ReportSettings(image=image))
    page = read(report.path)
    assert report.evaluation is None
    assert "truth" not in page.data["views"][0]
    assert "Least certain places" in " ".join(page.texts)
    assert not [one for one in report.notes if "imagery" in one]


def test_what_cannot_be_reported_on_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    mask, truth, image = scene(tmp_path)
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "r.html"
    with pytest.raises(OutputError, match=r"wanted .*\.html"):
        report_map(mask, tmp_path / "r.txt")
    with pytest.raises(SettingsError, match="without labels"):
        report_map(mask, out, (), None, LabelSettings(class_field="a"))
    with pytest.raises(InputError, match="no run"):
        report_map(mask, out, (), ReportSettings(run=tmp_path))
    with pytest.raises(InputError, match="assess report"):
        report_map(mask, out, (), ReportSettings(assessment=tmp_path / "map.qml"))
    with pytest.raises(InputError, match="tells no class names"):
        report_map(image, out, [truth])
    with pytest.raises(OutputError, match="one of the files to read"):
        report_map(
            mask,
            image.rename(tmp_path / "image.html"),
            (),
            ReportSettings(image=tmp_path / "image.html", overwrite=True),
        )
    (tmp_path / "image.html").rename(image)
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_report_is_replaced_only_when_asked(tmp_path: Path) -> None:
    mask, _, _ = scene(tmp_path)
    out = tmp_path / "r.html"
    report_map(mask, out)
    first = out.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        report_map(mask, out)
    report_map(mask, out, (), ReportSettings(overwrite=True))
    assert out.read_bytes() == first


def test_a_run_shows_its_curves_and_an_assessment_its_areas(tmp_path: Path) -> None:
    mask, _, _ = scene(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"recipe": {"training": {"iterations": 4}}}))
    with (run / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["iteration", "loss", "learning_rate", "miou", "iou_background", "iou_road"], [1, 2.0, 0.1],
             [2, 1.0, 0.1, 0.5, 0.6, 0.4], [3, 0.5, 0.05], [4, 0.25, 0.01, 0.75, 0.8, 0.7]]
        )  # fmt: skip
    one = {"value": 0.8, "standard_error": 0.05, "low": 0.7, "high": 0.9}
    document = {
        "mask": "map.tif", "points": "p.gpkg", "area_unit": "m2", "labelled_points": 30, "overall": one,
        "proportions": [[0.3, 0, 0], [0, 0.3, 0], [0, 0.1, 0.3]], "notes": ["<b>left out</b>"],
        "classes": [
            {"name": name, "points": 10, "mapped_area": 1e4, "users": one, "producers": one, "area": one}
            for name in LEGEND.names
        ],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(document))
    settings = ReportSettings(run=run, assessment=tmp_path / "a.json")
    text = " ".join(read(report_map(mask, tmp_path / "r.html", (), settings).path).texts)
    assert "Training" in text
    assert "0.7500" in text
    assert "30 points" in text
    assert "<b>left out</b>" in text
    document["classes"][0]["name"] = "moon"
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="of this map"):
        report_map(mask, tmp_path / "r2.html", (), settings)


def test_a_picture_shows_image_truth_map_and_errors(tmp_path: Path) -> None:
    odd = make_legend({0: "_hidden", 3: "$a$ b$", 7: "water"})
    mask, truth, image = scene(tmp_path, legend=odd)
    four, one = tmp_path / "four.png", tmp_path / "one.png"
    report_map(mask, four, [truth], ReportSettings(image=image))
    report_map(mask, one)
    with Image.open(four) as picture, Image.open(one) as smaller:
        assert picture.width == 4 * smaller.width
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or []}
    assert {entry.rgb for entry in odd.entries} <= colours
    with pytest.raises(SettingsError, match="is for a page"):
        report_map(mask, one, (), ReportSettings(run=tmp_path, overwrite=True))
