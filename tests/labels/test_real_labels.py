"""Other people's label rasters, pixel for pixel as Pillow and rasterio read them; skipped where the data is not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.features import rasterize

from aerial_seg.errors import InputError
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.labels.labels import open_labels
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE
from aerial_seg.mentions import settings_in

DATA = next(
    (
        folder / "shared" / "data"
        for folder in Path(__file__).parents
        if (folder / "shared" / "data").is_dir()
    ),
    Path(),
)
DUBAI = {0x3C1098: 1, 0x8429F6: 2, 0x6EC1E4: 3, 0xFEDD3A: 4, 0xE2A929: 5}

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not (DATA / "dubai").is_dir(), reason="../shared/data/dubai is not here")
class TestDubai:
    MASKS = sorted((DATA / "dubai").glob("*/masks/*.png"))

    def test_rgb_and_palette_masks_hold_the_same_classes(self) -> None:
        """37 masks, of which 18 have palettes that differ from file to file; 306 pixels are of no class."""
        totals: Counter[int] = Counter()
        told = 0
        for path in self.MASKS:
            labels = open_labels([path], LabelSettings(preset="dubai"))
            assert labels.legend.names == ("building", "land", "road", "vegetation", "water")
            got = labels.burn(raster_info(path).grid.for_polygons())
            red, green, blue = np.asarray(Image.open(path).convert("RGB")).astype(np.int64).transpose(2, 0, 1)
            colour = red << 16 | green << 8 | blue
            want = np.select([colour == key for key in DUBAI], list(DUBAI.values()), IGNORE)
            np.testing.assert_array_equal(got, want)
            black = int((colour == 0).sum())
            told += black
            assert [f"#000000 ({black} px)" in note for note in labels.notes] == [True] * (black > 0)
            totals.update(
                dict(zip(*(part.tolist() for part in np.unique(got, return_counts=True)), strict=True))
            )
        assert told == 306
        assert totals == {1: 4102710, 2: 9023971, 3: 2343218, 4: 1110463, 5: 3441725, 255: 215062}

    def test_the_preset_is_found_by_its_colours(self) -> None:
        with pytest.raises(InputError) as refusal:
            open_labels(self.MASKS[:1], LabelSettings())
        assert ("preset", "dubai") in [(one.name, one.value) for one in settings_in(str(refusal.value))]


@pytest.mark.skipif(not (DATA / "shallow_water").is_dir(), reason="../shared/data/shallow_water is not here")
@pytest.mark.parametrize(
    ("number", "counts"),
    [
        (0, {1: 8417, 2: 147, 3: 633, 4: 217, 255: 586}),
        (1, {1: 6625, 2: 2075, 3: 15, 4: 630, 255: 655}),
        (2, {1: 222, 2: 7457, 3: 217, 4: 47, 255: 2057}),
        (3, {1: 4189, 2: 382, 3: 319, 4: 101, 255: 5009}),
    ],
)
def test_sparse_labels_of_shallow_water(number: int, counts: dict[int, int]) -> None:
    folder = DATA / "shallow_water"
    own, sparse = folder / f"label_{number}.tif", folder / "sparse_raster.tif"
    grid = raster_info(folder / f"image_{number}.tif").grid
    burnt = open_labels([own], LabelSettings(unlabelled=(0,))).burn(grid)
    found = dict(zip(*(part.tolist() for part in np.unique(burnt, return_counts=True)), strict=True))
    assert found == counts
    with rasterio.open(sparse) as file:
        left, top = ~file.transform * (grid.transform.c, grid.transform.f)
        window = rasterio.windows.Window(round(left), round(top), 100, 100)
        want = file.read(1, window=window, boundless=True, fill_value=0)
    large = open_labels([sparse], LabelSettings(unlabelled=(0,))).burn(grid)
    np.testing.assert_array_equal(large, np.where(want == 0, IGNORE, want))


@pytest.mark.skipif(not (DATA / "banepa").is_dir(), reason="../shared/data/banepa is not here")
class TestBanepa:
    LABELS = DATA / "banepa" / "buildings.geojson"

    def test_buildings_of_all_tiles_are_those_that_gdal_burns(self) -> None:
        """1,466 footprints, of which 11 pairs overlap, on 48 tiles whose pixels differ in height from row to row."""
        labels = open_labels([self.LABELS], LabelSettings())
        shapes = geopandas.read_file(self.LABELS).geometry
        assert len(shapes) == 1466
        totals: Counter[int] = Counter()
        for path in sorted((DATA / "banepa" / "train").glob("*.tif")):
            grid = raster_info(path).grid
            got, want = labels.burn(grid), rasterize(shapes, grid.shape, transform=grid.transform)
            np.testing.assert_array_equal(got, want)
            totals.update(
                dict(zip(*(part.tolist() for part in np.unique(got, return_counts=True)), strict=True))
            )
        assert totals == {0: 6883922, 1: 5698990}
        assert labels.check_overlaps() == ()
