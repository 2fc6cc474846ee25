"""What `vectorize` can be asked for, and what it tells of its work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aerial_seg.errors import SettingsError
from aerial_seg.geo.measures import Measure
from aerial_seg.polygonize.cleaning.sieve import SieveReport
from aerial_seg.polygonize.tracing.simplify import Method

EVERY_CLASS = "all"
_DEFAULT_TOLERANCE = Measure(1.5, "px")


@dataclass(frozen=True, slots=True)
class CleanSettings:
    """Say what is changed in the mask's pixels before they are traced; the mask file never is.

    smooth_mask: side in pixels, odd, of a window whose commonest class every pixel takes; None leaves all.
    fill_holes: smaller patches of other classes that lie in one patch of a written class take its class (px or m2).
    min_area: patches below it join their largest neighbour (px or m2).
    """

    smooth_mask: int | None = None
    fill_holes: Measure | None = None
    min_area: Measure | None = None

    def __post_init__(self) -> None:
        for what, area in (("the smallest area", self.min_area), ("the largest hole", self.fill_holes)):
            if area is not None and area.unit == "m":
                raise SettingsError(f"{what} is {area}, wanted an area: write it like 25m2 or 100px")
        if self.smooth_mask is not None and (self.smooth_mask < 3 or self.smooth_mask % 2 == 0):
            raise SettingsError(
                f"--smooth-mask is {self.smooth_mask}, wanted an odd number from 3 on; try 3 or 5"
            )


@dataclass(frozen=True, slots=True)
class ShapeSettings:
    """Say how patches become polygons.

    simplify: tolerance for the sides that two polygons share (px or m); 0 keeps the pixels' outlines. method: how.
    smooth: corners of shared sides are cut. connectivity 8: patches that touch at corners are one feature.
    split_grid: pixels; polygons are cut along a grid this wide. instances: classes whose touching objects are told
    apart. regularize: classes whose outlines become right-angled where that fits.
    """

    simplify: Measure = _DEFAULT_TOLERANCE
    method: Method = "douglas-peucker"
    smooth: bool = False
    connectivity: Literal[4, 8] = 4
    split_grid: int | None = None
    instances: tuple[str, ...] = ()
    regularize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.simplify.unit == "m2":
            raise SettingsError(f"simplify is {self.simplify}, wanted a length: write it like 1.5px or 0.8m")
        if self.split_grid is not None and self.split_grid < 16:
            raise SettingsError(f"--split-grid is {self.split_grid}, wanted at least 16 pixels; try 4096")
        if self.connectivity == 8 and (self.instances or self.regularize):
            option = "--instances" if self.instances else "--regularize"
            raise SettingsError(f"{option} works on single polygons; leave --connectivity 8 out")


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """Say where polygons go. format: None = by the suffix. dst_crs: None = the mask's. layer: None = the file's stem.

    append: to a layer that is there. overwrite: replace an existing output.
    """

    format: str | None = None
    dst_crs: str | None = None
    layer: str | None = None
    append: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class VectorizeSettings:
    """Say how a mask becomes polygons.

    classes: names of the classes to write; None = all that are not background; ("all",) = every class.
    confidence: the raster of `predict --confidence`; None = the mask's own, where it lies beside it.
    """

    classes: tuple[str, ...] | None = None
    confidence: Path | None = None
    clean: CleanSettings = CleanSettings()
    shape: ShapeSettings = ShapeSettings()
    layer: LayerSettings = LayerSettings()

    def __post_init__(self) -> None:
        if self.classes == ():
            raise SettingsError("no class is chosen; name at least one, or leave the choice out")


@dataclass(frozen=True, slots=True)
class ClassPolygons:
    """Tell what was written of one class; area_m2 is geodesic and None when the mask has no CRS."""

    name: str
    polygons: int
    area_m2: float | None


@dataclass(frozen=True, slots=True)
class VectorizeReport:
    """Tell what `vectorize` wrote and what it changed on the way.

    files: the layer's files, the main ones first. classes: the chosen ones in the order of the legend, those without
    polygons too. nodata_pixels: pixels of the mask file that carry no class. vertices_before, vertices_after: of the
    pixels' outlines, and written. kept_apart: shortcuts not taken because another outline lay between.
    """

    path: Path
    files: tuple[Path, ...]
    classes: tuple[ClassPolygons, ...]
    nodata_pixels: int
    sieve: SieveReport
    vertices_before: int
    vertices_after: int
    kept_apart: int
    remarks: tuple[str, ...] = ()

    @property
    def polygons(self) -> int:
        """Polygons of all classes."""
        return sum(entry.polygons for entry in self.classes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was removed or done otherwise than asked, with counts."""
        found = [*self.remarks, *self.sieve.notes]
        if self.kept_apart:
            found.append(
                f"{self.kept_apart:,} shortcuts were not taken, so that no outline crosses another or loses its place"
            )
        return tuple(found)
