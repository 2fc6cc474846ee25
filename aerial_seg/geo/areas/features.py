"""The features of a layer, a batch at a time: geometries as WKB, numbers, values of fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, GeometryError

from aerial_seg.errors import InputError, did_you_mean
from aerial_seg.geo.areas.texts import AS_BYTES
from aerial_seg.geo.areas.vector_layer import Bounds, VectorLayer, missing_parts, quietly, shown, source_name
from aerial_seg.geo.raster.remote import waiting
from aerial_seg.mentions import setting

AT_ONCE = 20_000
"""Features of a batch: a few megabytes."""


@dataclass(frozen=True, slots=True)
class Features:
    """A batch of a layer's features.

    wkb: (n,) a geometry each as bytes, None for NULL. fids: (n,) their numbers in the file, as QGIS shows them.
    columns: the values (n,) of the fields that were asked for; texts are decoded.
    """

    wkb: NDArray[np.object_]
    fids: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]


def read_features(
    layer: VectorLayer, fields: Sequence[str] = (), *, box: Bounds | None = None, geometry: bool = True
) -> Iterator[Features]:
    """All features of the layer, or those whose own box meets `box`, in the order of the file.

    Formats that GDAL reads whole come in one batch. Raises InputError for what is damaged.
    """
    for name in fields:
        require_field(layer, name)
    if layer.parquet is not None:
        for wkb, fids, columns in layer.parquet.batches(fields, size=AT_ONCE, geometry=geometry):
            yield Features(wkb, fids, columns)
        return
    first, size = 0, AT_ONCE if layer.in_batches else None
    while True:
        batch = _read(layer, fields, box, geometry=geometry, first=first, size=size)
        yield batch
        first += len(batch.fids)
        if size is None or len(batch.fids) < size:
            return


def require_field(layer: VectorLayer, name: str, *, setting_name: str = "class_field") -> None:
    """Raises InputError, listing its fields, unless the layer has the one of this name."""
    if name in layer.fields:
        return
    if missing_parts(layer.path):
        raise InputError(
            f"{shown(layer.path)} has no field '{name}': {Path(layer.path).stem}.dbf, which holds a Shapefile's "
            f"fields, is not beside it; copy it there, too, or leave {setting(setting_name)} out"
        )
    listed = ", ".join(layer.fields) or "none"
    raise InputError(
        f"{shown(layer.path)} has no field '{name}'; its fields are: {listed}{did_you_mean(name, layer.fields)}"
        + ("" if layer.fields else f"; leave {setting(setting_name)} out")
    )


def _read(
    layer: VectorLayer,
    fields: Sequence[str],
    box: Bounds | None,
    *,
    geometry: bool,
    first: int,
    size: int | None,
) -> Features:
    raw = dict(zip(layer.fields, layer.raw_fields, strict=True))
    try:
        with waiting(layer.path), quietly():
            meta, fids, wkb, values = pyogrio.raw.read(
                source_name(layer.path),
                layer=layer.name,
                encoding=AS_BYTES,
                columns=[raw[name] for name in fields],
                read_geometry=geometry,
                bbox=box,
                skip_features=first,
                max_features=size,
                return_fids=True,
            )
    except (DataSourceError, DataLayerError, FeatureError, GeometryError) as error:
        raise InputError(
            f"the features of {shown(layer.path)} could not be read ({error}); "
            "the file is damaged or incomplete: copy it again"
        ) from error
    fids = np.asarray(fids, np.int64)
    found = dict(zip(map(str, meta["fields"]), values, strict=True))
    kinds = dict(zip(map(str, meta["fields"]), map(str, meta["dtypes"]), strict=True))
    columns = {
        name: layer.texts.column(_as_declared(np.asarray(found[raw[name]]), kinds[raw[name]]), fids)
        for name in fields
    }
    none = np.full(len(fids), None, object)
    return Features(none if wkb is None else np.asarray(wkb, object), fids, columns)


def _as_declared(values: NDArray[Any], kind: str) -> NDArray[Any]:
    """True, False and None where NULLs among yes and no have made floats of them."""
    if kind != "bool" or values.dtype.kind != "f":
        return values
    out = np.full(len(values), None, object)
    given = ~np.isnan(values)
    out[given] = (values[given] != 0).tolist()
    return out
