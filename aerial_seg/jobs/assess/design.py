"""assess design: a mask in, points to be looked at out, as a layer that QGIS shows with a form."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from aerial_seg.assessment import allocate, sample_size
from aerial_seg.errors import OutputError, SettingsError, did_you_mean
from aerial_seg.files.names import ogr_name
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_folder, check_writable, staged_files, staged_folder
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.read_files import raster_files
from aerial_seg.geo.raster.unchanged import Unchanged, files_of
from aerial_seg.jobs.assess.pictures import MARKER, draw_pictures, picture_folder, picture_name
from aerial_seg.jobs.assess.sample import Sample, draw_sample
from aerial_seg.jobs.assess.settings import DesignSettings
from aerial_seg.jobs.assess.strata import Strata, read_strata
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting
from aerial_seg.outputs.geopackage import write_geopackage
from aerial_seg.outputs.point_form import DRAWN, LAYER, PICTURE, REFERENCE, point_style
from aerial_seg.paths import StrPath, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.settings import chosen
from aerial_seg.vectors.class_raster import ClassRaster
from aerial_seg.vectors.ogr_sink import crs_text


@dataclass(frozen=True, slots=True)
class DesignReport:
    """Hold what was drawn, by class of the legend.

    points: how many. areas: ground that the map gives the class, in square metres, or in pixels (`unit`). expected: the
    user's accuracies that the number is reckoned from. standard_error: what the overall accuracy will have, if they
    are right.
    """

    path: Path
    legend: Legend
    points: tuple[int, ...]
    areas: tuple[float, ...]
    unit: str
    expected: tuple[float, ...]
    standard_error: float
    notes: tuple[str, ...] = ()


def design_sample(
    mask: StrPath, out: StrPath, settings: DesignSettings | None = None, progress: Progress = silent
) -> DesignReport:
    """Draw a stratified random sample of a mask's pixels and write it as points to be labelled.

    out: a GeoPackage with the layer `points` in the mask's CRS: a point in the middle of each pixel, its row and
    column, the map's class there as `stratum`, and an empty field `reference` to be filled, for which QGIS shows a form
    with the classes. How many of which class: Olofsson et al. 2014, section 5.1, see `allocate`. Memory is flat in the
    mask's size. Raises InputError for what is no mask, SettingsError for classes that it does not have, OutputError.
    """
    mask, out = as_path(mask, "mask"), as_path(out, "out")
    settings = chosen(settings, DesignSettings)
    if out.suffix.lower() != ".gpkg":
        raise OutputError(
            f"{out} ends in '{out.suffix}', wanted .gpkg: points with a form for their classes; rename it"
        )
    check_writable(out, overwrite=settings.overwrite)
    _refuse_labelled(out)
    read = [mask] if settings.image is None else [mask, settings.image]
    folder = picture_folder(out)
    if settings.image is not None:
        check_folder(folder, overwrite=settings.overwrite, marker=MARKER)
    Inputs([*raster_files([raster_info(path) for path in read]), *read]).refuse([out, folder])
    still = Unchanged(read, files_of(read))
    with ClassRaster(mask) as raster, still.holding():
        strata = read_strata(mask, raster, progress)
        expected = _expected(strata, settings)
        points, notes = _sizes(strata, expected, settings)
        sample = draw_sample(strata, raster, points.tolist(), settings.seed, progress)
        frame = _frame(strata, sample)
        with ExitStack() as both:
            # Points and pictures take their places together: old points with new pictures would be labelled wrong.
            work = both.enter_context(staged_files(out, overwrite=settings.overwrite))
            if settings.image is not None:
                drawn = both.enter_context(staged_folder(folder, overwrite=settings.overwrite, marker=MARKER))
                there, more = draw_pictures(
                    drawn,
                    settings.image,
                    strata.grid,
                    sample,
                    size=settings.chip_size,
                    progress=progress,
                )
                notes = (*notes, *more)
                names = [
                    f"{folder.name}/{picture_name(k + 1)}" if one else None for k, one in enumerate(there)
                ]
                frame[PICTURE] = pandas.array(names, dtype="string")
            style = point_style(strata.legend, pictures=settings.image is not None)
            write_geopackage(frame, work / out.name, layer=LAYER, style=style)
    if settings.image is None and (folder / MARKER).is_file():
        notes = (*notes, f"{folder} holds pictures of other points than these; delete it")
    error = _standard_error(strata, expected, points)
    return DesignReport(
        out,
        strata.legend,
        tuple(points.tolist()),
        tuple(strata.areas.tolist()),
        strata.unit,
        tuple(expected.tolist()),
        error,
        (*_nodata_note(strata), *notes, *still.notes),
    )


def _refuse_labelled(out: Path) -> None:
    """Raises OutputError where somebody's labels would be replaced: they cost days, a sample seconds."""
    if not out.is_file():
        return
    try:
        found = pyogrio.read_dataframe(ogr_name(out), layer=LAYER, columns=[REFERENCE], read_geometry=False)
    except (DataSourceError, DataLayerError, FeatureError):
        return  # it holds no points of ours
    labelled = int(found[REFERENCE].notna().sum()) if REFERENCE in found else 0
    if labelled:
        raise OutputError(
            f"{out} holds {labelled} labelled points, which would be lost; move it away, or choose another output"
        )


def _nodata_note(strata: Strata) -> tuple[str, ...]:
    if not strata.nodata:
        return ()
    return (f"{strata.nodata:,} pixels of the mask have no class: they are no part of what is assessed",)


def _expected(strata: Strata, settings: DesignSettings) -> NDArray[np.float64]:
    names = strata.legend.names
    given: Mapping[str, float] = settings.class_accuracy or {}
    for name in given:
        if name not in names:
            raise SettingsError(
                f"{setting('class_accuracy')} names '{name}', which is no class of the mask"
                f"{did_you_mean(name, names)}; its classes are {', '.join(names)}"
            )
    return np.array([given.get(name, settings.expected_accuracy) for name in names])


def _sizes(
    strata: Strata, expected: NDArray[np.float64], settings: DesignSettings
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Points of each class, and what there is to say of them."""
    total = settings.count or sample_size(strata.shares, expected, settings.standard_error)
    points = allocate(strata.shares, strata.pixels, total, settings.minimum)
    notes = []
    if int(points.sum()) > total:
        notes.append(
            f"{int(points.sum())} points instead of {total}: each class has at least {settings.minimum} "
            f"({setting('minimum')})"
        )
    elif int(points.sum()) < total:
        notes.append(f"{int(points.sum())} points instead of {total}: the map has no more pixels")
    names = strata.legend.names
    for k in np.flatnonzero((points == strata.pixels) & (points > 0)):
        notes.append(f"'{names[k]}' has {strata.pixels[k]} pixels in all, so all of them are points")
    absent = [names[k] for k in np.flatnonzero(strata.pixels == 0)]
    if absent:
        notes.append(f"without points, because the map has none of it: {', '.join(absent)}")
    return points, tuple(notes)


def _standard_error(strata: Strata, expected: NDArray[np.float64], points: NDArray[np.int64]) -> float:
    """Of the overall accuracy, if each class is as accurate as expected."""
    there = points > 0
    variance = strata.shares[there] ** 2 * expected[there] * (1 - expected[there]) / points[there]
    return float(np.sqrt(variance.sum()))


def _frame(strata: Strata, sample: Sample) -> Any:
    number = np.arange(1, len(sample.rows) + 1)
    a, b, c, d, e, f = tuple(strata.grid.for_polygons().transform)[:6]
    col, row = sample.cols + 0.5, sample.rows + 0.5
    values = np.array(strata.legend.values)
    columns = {
        "point": number,
        REFERENCE: pandas.array([None] * len(number), dtype="Int32"),
        "remark": pandas.array([None] * len(number), dtype="string"),
        "stratum": values[sample.classes].astype(np.int32),
        "row": sample.rows,
        "col": sample.cols,
        DRAWN: np.full(len(number), len(number), np.int32),
    }
    geometry = shapely.points(col * a + row * b + c, col * d + row * e + f)
    crs = None if strata.grid.crs is None else crs_text(strata.grid.crs)
    return geopandas.GeoDataFrame(columns, geometry=geometry, crs=crs)
