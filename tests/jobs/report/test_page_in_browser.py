"""A browser shows the page from a file: every control does what it says, and nothing is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from browser import Page, browser, find_browser
from PIL import Image
from pyproj import CRS

from aerial_seg.geo.grid import Grid
from aerial_seg.jobs.report.job import report_map
from aerial_seg.jobs.report.settings import ReportSettings
from aerial_seg.legend import make_legend
from aerial_seg.outputs.maps import write_mask

pytestmark = pytest.mark.slow
NAMES = {
    0: "<script>document.title = 'broken'</script>",
    3: "\"'><img src=x onerror=alert(2)>",
    7: '</script>, "b"',
}
LEGEND = make_legend(NAMES, colours={0: "#202020", 3: "#c00000", 7: "#0000c0"})
GRID = Grid(CRS(32645), Affine(2.0, 0, 300_000, 0, -2.0, 3_060_000), 100, 160)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('page\'s "folder" & <b>')
    values = np.kron(np.random.default_rng(0).choice([0, 3, 7], (10, 16)), np.ones((10, 10), int)).astype(
        np.uint8
    )
    mask, truth, image = folder / "map's <i>.tif", folder / "truth.tif", folder / "image.tif"
    write_mask(mask, values, grid=GRID, legend=LEGEND)
    write_mask(truth, np.roll(values, 3, axis=1), grid=GRID, legend=LEGEND)
    facts: dict[str, Any] = {"driver": "GTiff", "height": 100, "width": 160, "dtype": "uint8", "crs": 32645}
    with rasterio.open(image, "w", count=3, transform=GRID.transform, **facts) as opened:
        opened.write(np.full((3, 100, 160), 200, np.uint8))
    beside = mask.with_name(f"{mask.stem}_confidence.tif")
    with rasterio.open(beside, "w", count=1, nodata=255, transform=GRID.transform, **facts) as opened:
        opened.write(np.full((100, 160), 200, np.uint8), 1)
    return report_map(mask, folder / "r.html", [truth], ReportSettings(image=image)).path


@pytest.fixture(scope="module")
def page(shown: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    program = find_browser()
    if program is None:
        pytest.skip("NOT TESTED: there is no Chromium; on Debian: apt-get install chromium")
    with browser(program, tmp_path_factory.mktemp("profile")) as opened:
        opened.open(shown)
        yield opened


def picture(page: Page, tmp_path: Path) -> np.ndarray:
    page.settle()
    page.shoot(tmp_path / "seen.png")
    with Image.open(tmp_path / "seen.png") as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


def readout(page: Page) -> str:
    return str(page.run("document.getElementById('readout').textContent"))


def test_every_control_changes_what_is_seen(page: Page, tmp_path: Path) -> None:
    page.click("#zoom-fit")
    page.middle("#view")
    before = picture(page, tmp_path)

    def changes(act: Any) -> None:
        nonlocal before
        act()
        page.middle("#view")
        after = picture(page, tmp_path)
        assert (after != before).any()
        before = after

    for layer in ("errors", "map", "image", "labels", "confidence"):
        changes(lambda layer=layer: page.click(f'input[data-layer="{layer}"]'))
    changes(lambda: page.click('input[data-layer="confidence"]'))
    changes(lambda: page.choose('input[data-opacity="labels"]', "20"))
    changes(lambda: page.choose('input[data-opacity="labels"]', "100"))
    changes(lambda: page.click('input[data-class="1"]'))
    changes(lambda: page.click('button[data-classes="none"]'))
    changes(lambda: page.click('button[data-classes="all"]'))
    changes(lambda: page.click('input[data-layer="errors"]'))
    changes(lambda: page.choose("#errors-of", "1"))
    changes(lambda: page.choose("#errors-of", "-1"))
    changes(lambda: page.choose("#swipe", "labels"))
    changes(lambda: page.choose("#swipe-at", "20"))
    width = page.run("document.getElementById('view').clientWidth")
    changes(lambda: page.drag("#view", 0.4 * width, 0, begin=(-0.3 * width, 0)))
    assert 55 <= int(page.run("document.getElementById('swipe-at').value")) <= 65
    changes(lambda: page.choose("#swipe", ""))
    for key in ("+", "ArrowLeft", "ArrowUp", "-", "ArrowRight", "ArrowDown", "0"):
        page.run("document.getElementById('view').focus({preventScroll: true})")
        changes(lambda key=key: page.press(key))
        assert "map: " in readout(page)
    changes(lambda: page.click("#zoom-in"))
    changes(lambda: page.click("#zoom-out"))
    changes(lambda: page.click("#zoom-in"))
    changes(lambda: page.drag("#view", 60, 40))
    changes(lambda: page.wheel("#view", -100))
    changes(lambda: page.click("#zoom-fit"))
    changes(lambda: page.click('button[data-place="1"]'))
    changes(lambda: page.click("#zoom-fit"))
    changes(lambda: page.choose("#theme", "dark"))
    changes(lambda: page.choose("#theme", "auto"))
    changes(lambda: page.look(dark=True))
    changes(lambda: page.look(dark=False))
    assert page.errors == []


def test_the_pointer_is_told_what_lies_below_it(page: Page) -> None:
    page.click("#zoom-fit")
    page.hover("#view")
    told = readout(page)
    assert "confidence 0.80" in told
    assert any(f"map: {name}" in told for name in NAMES.values())
    assert "x 3001" in told


def test_tables_are_copied_with_all_digits(page: Page) -> None:
    page.run("navigator.clipboard.writeText = async (text) => { window.taken = text; }")
    page.click("#confusion button.copy")
    page.wait("window.taken")
    head, first, *_ = str(page.run("window.taken")).splitlines()
    assert head.startswith("truth \\ map,")
    assert '"</script>, ""b"""' in head
    assert first.split(",")[-1].isdigit()
    page.click("#scores details summary")
    assert page.run("document.querySelector('#scores details').open")
    assert page.errors == []


@pytest.mark.parametrize(
    ("width", "height", "dark"), [(1200, 900, False), (1200, 900, True), (380, 700, False)]
)
def test_nothing_is_wider_than_the_window(page: Page, width: int, height: int, dark: bool) -> None:
    page.resize(width, height)
    page.look(dark=dark)
    page.settle()
    assert page.run("document.documentElement.scrollWidth") <= width
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") != dark
    page.resize(1200, 900)
    page.look(dark=False)


def test_printing_opens_the_tables_and_hides_the_controls(page: Page) -> None:
    page.look(dark=False, media="print")
    for selector in (".tools", ".copy", "nav", "#zoom-in"):
        assert page.run(f"document.querySelector('{selector}').offsetParent === null"), selector
    page.look(dark=False)
    page.run("window.dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.querySelectorAll('details:not([open])').length") == 0
    page.run("window.dispatchEvent(new Event('afterprint'))")
    assert page.pdf().startswith(b"%PDF")
    assert page.errors == []


def test_nothing_is_asked_for_and_names_stay_text(page: Page, shown: Path) -> None:
    assert page.run("document.title") == "Report on map's <i>.tif"
    assert page.run("document.querySelectorAll('main i, main b, img[src=x]').length") == 0
    first, *others = page.requests
    assert first == shown.as_uri()[:200]
    assert all(one.startswith("data:image/") for one in others)
    assert page.errors == []
