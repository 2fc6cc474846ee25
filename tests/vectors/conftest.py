"""Layers that the tests of vector files write, and how they look at them: the same features for all formats."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path
from typing import ClassVar

import geopandas as gpd
import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from aerial_seg.legend import make_legend
from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.vectors import geoparquet
from aerial_seg.vectors.formats import vector_format
from aerial_seg.vectors.schema import FeatureSchema, confidence_columns
from aerial_seg.vectors.writer import LayerSpec, layer_writer

UTM, LONLAT = CRS(32645), CRS(4326)
LEGEND = make_legend({0: "background", 1: "Gebäude 建物", 7: 'road, "main"'}, background=[0])
SCHEMA = FeatureSchema(LEGEND, source="Luftbild ü.tif", model_id="5f" * 32, confidence=True)


def _square(x: float, y: float, side: float, *, hole: bool = False) -> NDArray[np.float64]:
    """Counter-clockwise, or clockwise for a hole."""
    ring = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * side + (x, y)
    return ring[::-1] if hole else ring


class Layers:
    """What the tests of vector files share."""

    utm = UTM
    legend = LEGEND
    schema = SCHEMA
    columns: ClassVar = [
        "class_id", "class_name", "area_m2", "perim_m", "conf_mean", "conf_min", "n_px", "source", "model_id",
    ]  # fmt: skip

    def batch(self, count: int, *, lonlat: bool = False, first: int = 0) -> PolygonBatch:
        """Squares in a row: every second with a hole, every third of two parts; n_px − 2³³ numbers them."""
        rings, polygons, features = [], [], []
        for k in range(first, first + count):
            x = 300_000.3 + 10 * k
            parts = [[_square(x, 3_060_000.7, 5.1)]]
            if k % 2:
                parts[0].append(_square(x + 1, 3_060_002, 1.3, hole=True))
            if k % 3 == 0:
                parts.append([_square(x + 6, 3_060_000, 2)])
            rings += [ring for part in parts for ring in part]
            polygons += [len(part) for part in parts]
            features.append(len(parts))
        coords = np.concatenate([np.zeros((0, 2)), *rings])
        if lonlat:
            coords = (coords - (300_000, 3_060_000)) * 1e-5 + (85, 27)
        numbers = np.arange(first, first + count)
        return PolygonBatch(
            coords=coords,
            rings=np.array([0, *accumulate(map(len, rings))], np.int64),
            polygons=np.array([0, *accumulate(polygons)], np.int64),
            features=np.array([0, *accumulate(features)], np.int64),
            values=np.array(LEGEND.values, np.int64)[numbers % 3],
            n_px=numbers.astype(np.int64) + 2**33,
            conf_sum=(numbers + 2**33) * 200,
            conf_min=(numbers % 251).astype(np.uint8),
        )

    def measured(self, batch: PolygonBatch) -> dict[str, NDArray[np.float64]]:
        """Every fifth area is NULL, others are larger than a DBF's usual column."""
        numbers = (batch.n_px - 2**33).astype(np.float64)
        return {
            "area_m2": np.where(numbers % 5 == 4, np.nan, numbers**7 / 3 + 1e-3),
            "perim_m": numbers / 7,
            **confidence_columns(batch, step=0.004),
        }

    def geometries(self, batch: PolygonBatch) -> NDArray[np.object_]:
        """The batch by shapely alone."""
        rings = [shapely.LinearRing(batch.coords[a:b]) for a, b in pairwise(batch.rings)]
        polygons = [shapely.Polygon(rings[a], rings[a + 1 : b]) for a, b in pairwise(batch.polygons)]
        found = np.empty(len(batch), object)
        found[:] = [shapely.MultiPolygon(polygons[a:b]) for a, b in pairwise(batch.features)]
        return found

    def spec(
        self, path: Path, *, schema: FeatureSchema = SCHEMA, crs: CRS | None = UTM, layer: str | None = None
    ) -> LayerSpec:
        """As the path's suffix says; in WGS84 where the format is."""
        form = vector_format(path)
        return LayerSpec(form, LONLAT if form.lonlat else crs, schema, layer)

    def batch_for(self, path: Path, count: int, *, first: int = 0) -> PolygonBatch:
        """A batch in the CRS of `spec`."""
        return self.batch(count, lonlat=vector_format(path).lonlat, first=first)

    def write(
        self, path: Path, count: int = 7, *, cuts: tuple[int, ...] = (), first: int = 0, **how: bool
    ) -> tuple[Path, ...]:
        """A layer of so many squares from number `first` on, handed over in batches cut there; returns its files."""
        with layer_writer(path, self.spec(path), **how) as layer:
            for start, stop in pairwise((0, *cuts, count)):
                batch = self.batch_for(path, stop - start, first=first + start)
                layer.write(batch, self.measured(batch))
        assert layer.count == count
        return layer.files

    def read(self, path: Path, layer: str | None = None) -> gpd.GeoDataFrame:
        """All formats alike, in the order of the numbers (FlatGeobuf sorts by place)."""
        layer = layer or path.stem
        table = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path, layer=layer)
        return table.sort_values("n_px", ignore_index=True)

    def contents(self, folder: Path) -> dict[str, bytes]:
        """Every file's bytes by its name."""
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def needs(self, name: str) -> None:
        """Skips the test where the format's library is not installed."""
        if name.endswith(".parquet") and geoparquet.find_spec("pyarrow") is None:
            pytest.skip("pyarrow is not installed")


@pytest.fixture(scope="session")
def layers() -> Layers:
    return Layers()
