"""Labels as users have them, polygons or class rasters, burnt onto any grid: 255 = unlabelled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from aerial_seg.documents import listed
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.names import split_layer
from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.geo.grid import Grid, whole_outline
from aerial_seg.geo.raster.inputs import RASTER_SUFFIXES, expand_rasters
from aerial_seg.geo.raster.present import require_file
from aerial_seg.geo.systems import is_local, require_common
from aerial_seg.labels.burning import Burnt
from aerial_seg.labels.class_table import UNLABELLED
from aerial_seg.labels.from_raster import RasterLabels
from aerial_seg.labels.from_vector import read_vector_labels
from aerial_seg.labels.labelled_area import labelled_area_file
from aerial_seg.labels.pairing.placing import Beside
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting

_OF_POLYGONS = (
    "class_field",
    "layer",
    "encoding",
    "outside",
    "labelled_area",
    "buffer",
    "all_touched",
    "priority",
)
_OF_RASTERS = ("unlabelled", "preset")
"""Settings that mean something for one form of labels only."""
_VECTORS = (
    ".gpkg",
    ".shp",
    ".geojson",
    ".geojsonl",
    ".fgb",
    ".parquet",
    ".kml",
    ".kmz",
    ".gml",
    ".gdb",
    ".topojson",
)
_RASTERS = (*RASTER_SUFFIXES, ".bmp", ".gif", ".webp")


def expand_labels(labels: Sequence[str]) -> tuple[Path, ...]:
    """List label files: vector files as they are, or as FILE|layername=LAYER; folders and globs of rasters expanded."""
    if len(labels) == 1:
        file, layer = split_layer(labels[0])
        if layer or os.path.isfile(file) or _is_geodatabase(file):  # noqa: PTH113 - a Path raises
            return (Path(labels[0]),)
    for name in labels:
        _refuse_folder_of_vectors(name)
    return expand_rasters(labels)


def _refuse_folder_of_vectors(name: str) -> None:
    """Raises InputError, naming its files, for a folder that holds vector files and no raster."""
    if not os.path.isdir(name) or _is_geodatabase(name):  # noqa: PTH112 - a Path raises
        return
    inside = sorted(path for path in Path(name).iterdir() if path.suffix.lower() in (*_VECTORS, *_RASTERS))
    if not inside or any(path.suffix.lower() in _RASTERS for path in inside):
        return
    first = inside[0]
    merge = "" if len(inside) == 1 else ", or merge them first (ogrmerge.py -single -o labels.gpkg FILES)"
    raise InputError(
        f"folder {name} holds {len(inside)} vector {'file' if len(inside) == 1 else 'files'} "
        f"({listed((path.name for path in inside), most=3)}) and no raster, wanted a folder of label rasters, or one "
        f"vector file; name one of them, as {first}{merge}"
    )


def label_sources(labels: Sequence[Path], settings: LabelSettings) -> tuple[Path, ...]:
    """The files that labels are read from, without the names of layers: in a geodatabase one by one, and the area's."""
    files = [Path(split_layer(path)[0]) for path in labels]
    if settings.labelled_area is not None and files:
        files.append(labelled_area_file(files[0], settings.labelled_area)[0])
    return tuple(part for file in dict.fromkeys(files) for part in _parts(file))


def _parts(file: Path) -> list[Path]:
    if not _is_geodatabase(str(file)):
        return [file]
    # Who looks into it puts locks there.
    return sorted(part for part in file.iterdir() if part.suffix != ".lock")


def _is_geodatabase(name: str) -> bool:
    """Whether it is a file geodatabase: a folder that is one vector file."""
    return name.rstrip("/\\").lower().endswith(".gdb") and os.path.isdir(name)  # noqa: PTH112 - as above


class Labels(Protocol):
    """Opened labels. `notes` tell what was mended or left out, with counts."""

    @property
    def legend(self) -> Legend: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def later_notes(self) -> tuple[str, ...]:
        """What burning has shown so far, with counts; asked for when all is burnt."""
        ...

    @property
    def implied_notes(self) -> tuple[str, ...]:
        """How much of all that was burnt counts as background because nothing was drawn there."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every label raster; empty for polygons."""
        ...

    @property
    def systems(self) -> tuple[CRS | None, ...]:
        """The CRS of the layer, or of every label raster."""
        ...

    def extent(self) -> tuple[float, float, float, float]:
        """west, south, east, north in the labels' own coordinates."""
        ...

    def extent_lonlat(self) -> tuple[float, float, float, float] | None:
        """west, south, east, north; None when label rasters have no CRS. Raises InputError for polygons without."""
        ...

    def check_pixels(self, grid: Grid, name: str) -> None:
        """Raises InputError unless the labels lie on the raster `name`, which has no CRS."""
        ...

    def only_value(self, grid: Grid) -> int | None:
        """The one value that all pixels of this grid would have, where that is known without burning."""
        ...

    def check_overlaps(self, *, of: int = 0) -> tuple[str, ...]:
        """What to say of different classes that overlap in all that was burnt. Raises InputError where it is much.

        of: pixels that will be burnt in all; before the end it raises only where no more of them can mend it.
        """
        ...

    def beside_one_class(self, present: str) -> str:
        """What to do where no other class than this one has pixels."""
        ...

    def burn(self, grid: Grid, measured: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Pixel values (H,W) uint8 on this grid: a class value, or 255 = unlabelled.

        grid: of a raster without geotransform that of Grid.for_polygons, or a window of it. measured: (H,W) where there
        is imagery: what lies elsewhere is burnt, but counts for no overlap and no share; None: everywhere.
        """
        ...

    def burnt(self, grid: Grid, measured: NDArray[np.bool_] | None = None) -> Burnt:
        """As `burn`, nothing of it counted yet; several threads may ask at once."""
        ...

    def add(self, burnt: Burnt) -> None:
        """Count what was burnt, so that notes and checks know of it; in one thread, in any order."""
        ...


def open_labels(
    paths: Sequence[Path],
    settings: LabelSettings,
    *,
    legend: Legend | None = None,
    near: Sequence[Grid] = (),
    beside: Beside | None = None,
) -> Labels:
    """The labels at these paths: one vector layer, or one or more class rasters.

    near: the grids that they will be burnt on; what lies elsewhere need not be read. beside: the rasters that they are
    for, which tell where label rasters without CRS lie. With a `legend` (of a mask or
    model to compare with) the labels' classes are matched to it by name or value.
    Raises InputError for whatever does not fit, telling the remedy.
    """
    for path in paths:
        require_file(split_layer(path)[0])
    if are_rasters(paths):
        _refuse_what_cannot_apply(settings, _OF_POLYGONS, paths[0], "a label raster", "label polygons")
        return RasterLabels.open(paths, settings, legend=legend, beside=beside or Beside(()))
    _refuse_what_cannot_apply(settings, _OF_RASTERS, paths[0], "a file of polygons", "label rasters")
    if len(paths) > 1:
        rasters = [path for path in paths if path.suffix.lower() in _RASTERS]
        others = [path for path in paths if path not in rasters]
        raise InputError(
            f"{others[0]} was given beside the label raster {rasters[0]}, wanted label rasters or one layer of "
            "polygons; name one kind"
            if rasters
            else f"{len(paths)} vector label files were given, wanted one layer; merge them first "
            "(ogrmerge.py -single -o labels.gpkg FILES)"
        )
    file, layer = split_layer(paths[0])
    if layer and settings.layer not in (None, layer):
        raise SettingsError(
            f"{paths[0]} names another layer than {setting('layer', settings.layer)}; name one of them"
        )
    named = replace(settings, layer=layer or settings.layer)
    return read_vector_labels(Path(file), named, legend=legend, near=near)


def are_rasters(paths: Sequence[Path]) -> bool:
    """Whether labels at these paths are class rasters, and not polygons."""
    return all(path.suffix.lower() in _RASTERS or find_subdataset(path) for path in paths)


def _refuse_what_cannot_apply(
    settings: LabelSettings, others: Sequence[str], path: Path, given: str, wanted: str
) -> None:
    """Raises SettingsError for a choice that would change nothing. others: settings of the other form of labels."""
    usual = LabelSettings()
    for name in others:
        if getattr(settings, name) != getattr(usual, name):
            instead = f"; classes that mean nothing are called '{UNLABELLED}' in {setting('classes')}"
            raise SettingsError(
                f"{setting(name)} is for {wanted}, but {path} is {given}; leave it out"
                + (instead if name == "unlabelled" else "")
            )
    if settings.priority and settings.class_field is None:
        raise SettingsError(
            f"{setting('priority')} is for several classes, but without {setting('class_field')} all polygons are one; "
            "leave it out, or name the field"
        )
    if settings.preset is not None and settings.classes is not None:
        raise SettingsError(
            f"{setting('preset', settings.preset)} and {setting('classes')} both say what values mean; pass one of them"
        )


def check_overlap(labels: Labels, grids: Sequence[Grid], *, names: Sequence[str]) -> None:
    """Raises InputError, printing both extents, when the labels touch none of the images.

    Where there is no CRS, labels and image must be one raster each, of one shape; or polygons in its coordinates.
    """
    if any(grid.crs is None for grid in grids):
        _check_pixels(labels, grids, names)
        return
    if any(map(is_local, (*labels.systems, *(grid.crs for grid in grids)))):
        _check_local(labels, grids, names)
        return
    box = labels.extent_lonlat()
    if box is None:
        return
    west, south, east, north = box
    images = np.array([whole_outline(grid).bounds for grid in grids])
    level = (images[:, 1] <= north) & (images[:, 3] >= south)
    # Longitudes of 179 and −181 are one place.
    turns = np.floor((images[:, 2] - west) / 360) - np.ceil((images[:, 0] - east) / 360)
    if (level & (turns >= 0)).any():
        return
    left, bottom = images[:, :2].min(axis=0)
    right, top = images[:, 2:].max(axis=0)
    swapped = left <= north and right >= south and bottom <= east and top >= west
    remedy = (
        "the labels' axes seem swapped (lat,lon)"
        if swapped
        else f"check the labels' area and CRS ({setting('crs')})"
    )
    raise InputError(
        f"the labels do not overlap {names[0] if len(names) == 1 else f'any of the {len(names)} rasters'}: "
        f"labels lon {west:.5f}..{east:.5f}, lat {south:.5f}..{north:.5f}; "
        f"imagery lon {left:.5f}..{right:.5f}, lat {bottom:.5f}..{top:.5f}; {remedy}"
    )


def _check_local(labels: Labels, grids: Sequence[Grid], names: Sequence[str]) -> None:
    """On a local grid only what is in that very grid can be compared."""
    for system in labels.systems:
        for grid, name in zip(grids, names, strict=True):
            assert grid.crs is not None
            if system is None:
                raise InputError(
                    f"the labels have no CRS, but {name} is in the local grid '{grid.crs.name}'; if they are, say so "
                    f"(gdal_edit.py -a_srs, or {setting('crs')} with the grid's WKT)"
                )
            require_common(system, "the labels", grid.crs, name, setting_name="crs")
    west, south, east, north = labels.extent()
    boxes = [grid.bounds for grid in grids]
    if all(box[0] > east or box[2] < west or box[1] > north or box[3] < south for box in boxes):
        box = boxes[0]
        raise InputError(
            f"the labels do not overlap {names[0]}: labels x {west:.10g}..{east:.10g}, y {south:.10g}..{north:.10g}; "
            f"imagery x {box[0]:.10g}..{box[2]:.10g}, y {box[1]:.10g}..{box[3]:.10g}; check the labels' area"
        )


def _check_pixels(labels: Labels, grids: Sequence[Grid], names: Sequence[str]) -> None:
    """Without a CRS only the pixel's number pairs a label with the image: of several rasters, where names pair them."""
    if len(grids) > 1 and len(labels.shapes) < len(grids):
        raise InputError(
            f"a raster without CRS pairs with its labels pixel by pixel, wanted one raster and one label raster, "
            f"got {len(grids)} and {max(1, len(labels.shapes))}; run them one by one, or give them a CRS"
        )
    for grid, name in zip(grids, names, strict=True):
        labels.check_pixels(grid, name)
