"""A report as a project of QGIS: imagery, map, confidence, polygons and labels, styled and in groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as Xml

import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS

from aerial_seg.files.names import ogr_name, split_layer
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.jobs.report.measure import Sources
from aerial_seg.labels.labels import are_rasters, expand_labels
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import Legend
from aerial_seg.outputs.geopackage import stored_style
from aerial_seg.outputs.qgis_project import ProjectLayer, project_file, single_outline
from aerial_seg.outputs.qgis_style import (
    LAYER_SUFFIXES,
    SUFFIX,
    class_polygons,
    class_raster,
    grey_raster,
    read_style,
    style_classes,
)

_LABELS, _MAP, _IMAGERY = "Labels", "Map", "Imagery"
_OUTLINE = "#e6007e"
_THROUGH = "0.6"
"""How opaque the mask is where imagery lies below it."""


def write_project(path: Path, final: Path, sources: Sources, legend: Legend) -> tuple[str, ...]:
    """The .qgz that will lie at `final`; what to say of what it does not show.

    Polygons are those of the mask's name beside it: map.gpkg, map.shp and so on.
    """
    grid = raster_info(sources.mask).grid
    notes: list[str] = []
    layers = [*_labels(sources, grid.crs, legend, notes), *_polygons(sources.mask, legend, notes)]
    pipe = class_raster(legend).raster
    assert pipe is not None
    if sources.image is not None:
        pipe[0].set("opacity", _THROUGH)
    layers.append(ProjectLayer(sources.mask.name, sources.mask, _MAP, grid.crs, True, pipe))
    if sources.confidence is not None:
        layers.append(
            ProjectLayer(
                sources.confidence.name,
                sources.confidence,
                _MAP,
                grid.crs,
                True,
                grey_raster(1).raster,
                shown=False,
            )
        )
    if sources.image is not None:
        crs = raster_info(sources.image).grid.crs
        layers.append(ProjectLayer(sources.image.name, sources.image, _IMAGERY, crs, True))
    box = grid.for_polygons().bounds
    path.write_bytes(
        project_file(final, layers, title=f"Report on {sources.mask.name}", crs=grid.crs, box=box)
    )
    return tuple(notes)


def _labels(sources: Sources, crs: CRS | None, legend: Legend, notes: list[str]) -> Iterator[ProjectLayer]:
    files = expand_labels(sources.labels) if sources.labels else ()
    if files and are_rasters(files):
        for file in files:
            yield ProjectLayer(
                file.name, file, _LABELS, raster_info(file).grid.crs, True, shown=len(files) == 1
            )
        return
    for file in files:
        path, layer = split_layer(file)
        settings = sources.label_settings or LabelSettings()
        for name, own in _layers_of(Path(path), notes):
            if name != (layer or settings.layer or name):
                continue
            system = own if settings.crs is None else CRS.from_user_input(settings.crs)
            yield ProjectLayer(
                Path(path).name, Path(path), _LABELS, system or crs, False, single_outline(_OUTLINE), name
            )


def _polygons(mask: Path, legend: Legend, notes: list[str]) -> Iterator[ProjectLayer]:
    for suffix in (".gpkg", *LAYER_SUFFIXES):
        path = mask.with_suffix(suffix)
        if suffix in (".csv", ".json") or not path.is_file():
            continue
        for name, crs in _layers_of(path, notes):
            style = _style(path, name, legend)
            yield ProjectLayer(f"{path.name}: {name}", path, _MAP, crs, False, style, name, shown=False)


def _style(path: Path, name: str, legend: Legend) -> Xml.Element | None:
    """That which the layer has, else the classes' colours."""
    sidecar = path.with_suffix(SUFFIX)
    text = None
    if path.suffix.lower() == ".gpkg":
        text = stored_style(path, name)
    elif sidecar.is_file():
        text = sidecar.read_text(encoding="utf-8", errors="replace")
    found = None if text is None else read_style(text).polygons
    return class_polygons(style_classes(legend)).polygons if found is None else found


def _layers_of(path: Path, notes: list[str]) -> Iterator[tuple[str, CRS | None]]:
    """The layers of polygons in a file, and their CRS."""
    try:
        for name, kind in pyogrio.list_layers(ogr_name(path)):
            if kind is None or "Polygon" not in kind:
                continue
            crs = pyogrio.read_info(ogr_name(path), layer=name)["crs"]
            yield str(name), None if crs is None else CRS.from_user_input(crs)
    except (DataSourceError, DataLayerError) as error:
        notes.append(f"{path.name} is not in the project: it cannot be read ({error})")
