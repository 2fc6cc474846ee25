"""vectorize: a mask file in, clean polygons out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.mask import read_legend
from aerial_seg.geo.measures import Measure
from aerial_seg.geo.polygonize import Mask, SieveReport, SimplifyReport, sieve_small, simplify, trace
from aerial_seg.geo.raster import Raster
from aerial_seg.geo.vectors import check_output, feature_table, write_layer
from aerial_seg.legend import IGNORE, Legend, LegendEntry, make_legend
from aerial_seg.progress import Progress, silent

EVERY_CLASS = "all"

_DEFAULT_TOLERANCE = Measure(1.5, "px")
_LISTED = 10


@dataclass(frozen=True, slots=True)
class VectorizeSettings:
    """How a mask becomes polygons.

    min_area: patches below it are merged into their neighbours (px or m2); None keeps all.
    simplify: tolerance for the sides that two polygons share (px or m); 0 keeps the pixel outlines.
    classes: names of the classes to write; None = all that are not background; ("all",) = every class.
    overwrite: replace an existing output.
    """

    min_area: Measure | None = None
    simplify: Measure = _DEFAULT_TOLERANCE
    classes: tuple[str, ...] | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.min_area is not None and self.min_area.unit == "m":
            raise SettingsError(
                f"the smallest area is {self.min_area}, wanted an area: write it like 25m2 or 100px"
            )
        if self.simplify.unit == "m2":
            raise SettingsError(f"simplify is {self.simplify}, wanted a length: write it like 1.5px or 0.8m")
        if self.classes == ():
            raise SettingsError("no class is chosen; name at least one, or leave the choice out")


@dataclass(frozen=True, slots=True)
class ClassPolygons:
    """What was written of one class; area_m2 is geodesic and None when the mask has no CRS."""

    name: str
    polygons: int
    area_m2: float | None


@dataclass(frozen=True, slots=True)
class VectorizeReport:
    """What `vectorize` wrote and what it changed on the way.

    classes: the chosen classes in the order of the legend, those without polygons too.
    nodata_pixels: pixels of the mask file that carry no class.
    sieve: None when no smallest area was set.
    """

    path: Path
    classes: tuple[ClassPolygons, ...]
    nodata_pixels: int
    sieve: SieveReport | None
    simplify: SimplifyReport

    @property
    def polygons(self) -> int:
        """Polygons of all classes."""
        return sum(entry.polygons for entry in self.classes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was removed or done otherwise than asked, with counts."""
        found = [] if self.sieve is None else list(self.sieve.notes)
        if self.simplify.fallback:
            found.append(
                f"simplified by {self.simplify.used_px:g} px instead of {self.simplify.asked_px:g} px, "
                f"because {self.simplify.fallback}"
            )
        return tuple(found)


def vectorize(
    mask_path: Path, out_path: Path, settings: VectorizeSettings, progress: Progress = silent
) -> VectorizeReport:
    """The polygons of the chosen classes lie in `out_path` (.gpkg, .shp or .geojson), in the CRS of the mask.

    All classes are traced and simplified together and the others left out after that, so neighbours share
    their edges, and sides on nodata or on the raster's border stay exact. The mask is one band of integers
    0–254; masked pixels carry no class. Raises InputError, SettingsError and OutputError, before the long
    work wherever the cause is known by then.
    """
    with progress("vectorize", total=5, unit="step") as bar:
        mask, grid = read_mask(mask_path)
        check_output(out_path, crs=grid.crs, overwrite=settings.overwrite)
        legend = _legend_of(mask, mask_path)
        chosen = _chosen(legend, settings.classes)
        min_pixels, tolerance = _in_pixels(settings, grid)
        bar.update()
        sieved, sieve = sieve_small(mask, min_pixels) if min_pixels else (mask, None)
        bar.update()
        coverage = trace(sieved)
        bar.update()
        coverage, simplified = simplify(coverage, tolerance)
        bar.update()
        table = feature_table(coverage.only(entry.value for entry in chosen), grid, legend)
        write_layer(table, out_path, overwrite=settings.overwrite)
        bar.update()
    return VectorizeReport(
        path=out_path,
        classes=_count_classes(table, chosen, has_area=grid.crs is not None),
        nodata_pixels=int((mask == IGNORE).sum()),
        sieve=sieve,
        simplify=simplified,
    )


def read_mask(path: Path) -> tuple[Mask, Grid]:
    """The whole mask (H,W) uint8, 255 where the file says nodata, and its grid.

    Raises InputError for several bands, numbers that are not whole, and values outside of 0–254.
    """
    with Raster(path, georeferenced=False) as raster:
        info = raster.info
        if len(info.bands) != 1 or np.dtype(info.dtype).kind not in "iu":
            raise InputError(
                f"{path} has {len(info.bands)} band(s) of {info.dtype}, wanted a mask: one of whole numbers; "
                "run predict to make one, or extract the class band (gdal_translate -b 1 -ot Byte)"
            )
        image, valid = raster.read(top=0, left=0, height=raster.grid.height, width=raster.grid.width)
    values = image[0]
    strange = valid & ((values < 0) | (values >= IGNORE))
    if strange.any():
        raise InputError(
            f"{path} holds {_list_values(_count_values(values[strange]))}, wanted class numbers 0–254; "
            "declare such a value as nodata (gdal_edit.py -a_nodata) if it is none, or renumber the class"
        )
    return np.where(valid, values, IGNORE).astype(np.uint8), raster.grid


def _count_values(values: NDArray[np.generic]) -> dict[int, int]:
    """Value → pixels."""
    found, counts = np.unique(values, return_counts=True)
    return {int(value): int(count) for value, count in zip(found, counts, strict=True)}


def _list_values(counts: Mapping[int, int]) -> str:
    listed = ", ".join(f"{value} ({count} px)" for value, count in list(counts.items())[:_LISTED])
    more = f" and {len(counts) - _LISTED} more" if len(counts) > _LISTED else ""
    return f"value {listed}{more}"


def _legend_of(mask: Mask, path: Path) -> Legend:
    """The file's legend, else one of its values where 0 is background. InputError: a value without class."""
    pixels = np.bincount(mask.ravel(), minlength=256)
    counts = {value: int(pixels[value]) for value in range(IGNORE) if pixels[value]}
    legend = read_legend(path)
    if legend is None:
        return make_legend({value: f"class {value}" for value in counts or (0,)}, background=(0,))
    unknown = {value: count for value, count in counts.items() if value not in legend.values}
    if unknown:
        raise InputError(
            f"{path} holds {_list_values(unknown)}, wanted only values of its legend "
            f"({', '.join(map(str, legend.values))}); add the class, or set these pixels to nodata"
        )
    return legend


def _chosen(legend: Legend, names: tuple[str, ...] | None) -> tuple[LegendEntry, ...]:
    """The entries to write, in the order of the legend. Raises SettingsError for a name that is no class."""
    if names is None:
        return tuple(entry for entry in legend.entries if not entry.background)
    if EVERY_CLASS in names and EVERY_CLASS not in legend.names:
        return legend.entries
    for name in names:
        if name not in legend.names:
            raise SettingsError(
                f"the mask has no class '{name}', it has {', '.join(legend.names)} "
                f"(or '{EVERY_CLASS}'){did_you_mean(name, legend.names) or '; choose among these'}"
            )
    return tuple(entry for entry in legend.entries if entry.name in names)


def _in_pixels(settings: VectorizeSettings, grid: Grid) -> tuple[int, float]:
    """The smallest patch in whole pixels (0 = keep all) and the tolerance in pixels."""
    gsd = grid.gsd()
    area = settings.min_area.in_pixels(gsd) if settings.min_area else 0.0
    return math.ceil(area), settings.simplify.in_pixels(gsd)


def _count_classes(
    table: gpd.GeoDataFrame, chosen: tuple[LegendEntry, ...], *, has_area: bool
) -> tuple[ClassPolygons, ...]:
    rows = table["class_id"].to_numpy()
    areas = table["area_m2"].to_numpy()
    return tuple(
        ClassPolygons(
            name=entry.name,
            polygons=int((rows == entry.value).sum()),
            area_m2=float(areas[rows == entry.value].sum()) if has_area else None,
        )
        for entry in chosen
    )
