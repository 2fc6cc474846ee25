"""The polygons of a mask in memory as a GeoDataFrame: what `vectorize` would write of the same mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import geopandas
import numpy as np
import pandas
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.legend import Legend
from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.progress import silent
from aerial_seg.vectors.class_raster import ClassRaster
from aerial_seg.vectors.formats import GPKG, target_crs
from aerial_seg.vectors.from_mask.class_rows import ClassRows, VectorizeRequest
from aerial_seg.vectors.from_mask.polygon_maker import (
    PolygonMaker,
    check_names,
    chosen_classes,
    extra_columns,
)
from aerial_seg.vectors.from_mask.settings import VectorizeReport, VectorizeSettings
from aerial_seg.vectors.placement import Placement
from aerial_seg.vectors.schema import NO_INTEGER, FeatureSchema, Text


def polygon_frame(
    mask: ArrayRaster,
    legend: Legend,
    settings: VectorizeSettings,
    *,
    confidence: ArrayRaster | None,
    origin: Mapping[str, str],
) -> tuple[geopandas.GeoDataFrame, VectorizeReport]:
    """The polygons that `vectorize` writes with the same settings, as multipolygons, and what it reports.

    mask: one band of class values that the legend names; confidence: the raster of `predict --confidence`, on the same
    grid. origin: source and model_id, as the layer's columns hold them. Of the layer's settings only dst_crs counts.
    Raises SettingsError for a class that there is not, and InputError where polygons have no place in dst_crs.
    """
    with ClassRaster(mask) as raster:
        crs = target_crs(GPKG, raster.grid.crs, settings.layer.dst_crs)
        with silent("read", total=0, unit="row") as bar:
            counts = raster.count(bar)
        chosen = chosen_classes(legend, settings.classes)
        check_names(settings.shape, chosen)
        schema = FeatureSchema(
            legend,
            **origin,
            confidence=confidence is not None,
            extra=extra_columns(settings.shape),
        )
        rows = ClassRows(raster, VectorizeRequest(chosen, settings.clean, settings.shape), confidence)
        maker, taken = PolygonMaker(raster, rows, chosen, settings.shape), _Features(schema)
        maker.run(taken, Placement(raster.grid, crs), silent)
        return taken.frame(crs), maker.report(raster.path, counts)


class _Features:
    """Keeps all batches, column by column."""

    def __init__(self, schema: FeatureSchema) -> None:
        self._schema = schema
        self._geometries: list[NDArray[np.object_]] = []
        self._columns: dict[str, list[NDArray[Any]]] = {column.name: [] for column in schema.columns}

    def write(self, batch: PolygonBatch, measured: Mapping[str, NDArray[Any]]) -> None:
        """See LayerWriter.write."""
        self._geometries.append(
            shapely.from_ragged_array(
                shapely.GeometryType.MULTIPOLYGON, batch.coords, (batch.rings, batch.polygons, batch.features)
            )
        )
        for name, values in self._schema.rows(batch, measured).columns.items():
            self._columns[name].append(_spelt(values) if isinstance(values, Text) else values)

    def frame(self, crs: CRS | None) -> geopandas.GeoDataFrame:
        """All of them, in the order in which they were traced."""
        columns: dict[str, Any] = {
            column.name: np.concatenate([np.empty(0, column.kind.value), *self._columns[column.name]])
            for column in self._schema.columns
        }
        codes = columns.get("code")
        if codes is not None:
            columns["code"] = pandas.array(codes, dtype="Int64")
            columns["code"][codes == NO_INTEGER] = pandas.NA
        geometry = np.concatenate([np.empty(0, object), *self._geometries])
        return geopandas.GeoDataFrame(columns, geometry=geometry, crs=crs)


def _spelt(text: Text) -> NDArray[np.object_]:
    # A last place for −1, which is NULL.
    words: NDArray[np.object_] = np.array([*text.words, None], object)
    return words[text.codes]
