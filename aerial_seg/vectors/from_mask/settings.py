"""What `vectorize` can be asked for, and what it tells of its work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from aerial_seg.choices import Overwrite, SimplifyMethod
from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.geo.measures import Measure, read_area, read_length
from aerial_seg.mentions import setting
from aerial_seg.settings import MOST_PIXELS, Setting, names_in, settings

if TYPE_CHECKING:
    from aerial_seg.polygonize.cleaning.sieve import SieveReport

EVERY_CLASS = "all"
_DEFAULT_TOLERANCE = Measure(1.5, "px")
_AREA = "an area, as 25m2 or 100px"
_LENGTH = "a length, as 1.5px or 0.8m"


@settings
@dataclass(frozen=True, slots=True)
class CleanSettings:
    """Say what is changed in the mask's pixels before they are traced; the mask file never is."""

    min_area: Annotated[
        Measure | None,
        Setting(
            "Merge smaller patches into their largest neighbours first.",
            wanted=_AREA,
            read=read_area,
            metavar="25m2|100px",
        ),
    ] = None
    fill_holes: Annotated[
        Measure | None,
        Setting(
            "Give smaller patches of other classes that lie inside one polygon that polygon's class.",
            wanted=_AREA,
            read=read_area,
            metavar="10m2|50px",
        ),
    ] = None
    smooth_mask: Annotated[
        int | None,
        Setting(
            "Before that, give every pixel the commonest class of the N × N pixels around it (3, 5, …).",
            low=1,
            high=MOST_PIXELS,
            wanted="an odd number from 3 on",
            metavar="N",
        ),
    ] = None

    def __post_init__(self) -> None:
        for what, area in (("the smallest area", self.min_area), ("the largest hole", self.fill_holes)):
            if area is not None and area.unit == "m":
                raise SettingsError(f"{what} is {area}, wanted an area: write it like 25m2 or 100px")
        if self.smooth_mask is not None and (self.smooth_mask < 3 or self.smooth_mask % 2 == 0):
            raise SettingsError(
                f"{setting('smooth_mask')} is {self.smooth_mask}, wanted an odd number from 3 on; try 3 or 5"
            )


@settings
@dataclass(frozen=True, slots=True)
class ShapeSettings:
    """Say how patches become polygons."""

    simplify: Annotated[
        Measure,
        Setting(
            "Straighten edges by about this much; shared edges stay shared, raster borders stay exact. 0 keeps the "
            "pixels' outlines.",
            wanted=_LENGTH,
            read=read_length,
            metavar="1.5px|0.8m|0",
        ),
    ] = _DEFAULT_TOLERANCE
    method: Annotated[
        SimplifyMethod,
        Setting(
            "Which vertices go: those near the new edge, or those of small triangles.",
            flag="--simplify-method",
        ),
    ] = "douglas-peucker"
    smooth: Annotated[bool, Setting("Cut the corners of shared edges; they stay shared.")] = False
    connectivity: Annotated[
        Literal[4, 8], Setting("8: patches that touch at corners are one feature of several polygons.")
    ] = 4
    split_grid: Annotated[
        int | None,
        Setting(
            "Cut polygons along a grid this wide, so that a road network is not one giant polygon.",
            low=1,
            high=1_000_000_000,
            wanted="a whole number of pixels from 16 on",
            metavar="PX",
        ),
    ] = None
    instances: Annotated[
        tuple[str, ...],
        Setting(
            "Classes whose touching objects are told apart: 'building'.",
            wanted="names of classes",
            read=names_in,
            metavar="LIST",
        ),
    ] = ()
    regularize: Annotated[
        tuple[str, ...],
        Setting(
            "Classes whose outlines become right-angled where that fits; column reg_status says where.",
            wanted="names of classes",
            read=names_in,
            metavar="LIST",
        ),
    ] = ()

    def __post_init__(self) -> None:
        if self.simplify.unit == "m2":
            raise SettingsError(f"simplify is {self.simplify}, wanted a length: write it like 1.5px or 0.8m")
        if self.split_grid is not None and self.split_grid < 16:
            raise SettingsError(
                f"{setting('split_grid')} is {self.split_grid}, wanted at least 16 pixels; try 4096"
            )
        if self.connectivity == 8 and (self.instances or self.regularize):
            said = setting("instances") if self.instances else setting("regularize")
            raise SettingsError(f"{said} works on single polygons; leave {setting('connectivity', 8)} out")


def _check_format(name: str) -> None:
    from aerial_seg.vectors.conversions import other_format
    from aerial_seg.vectors.formats import FORMATS

    known = [alias for form in FORMATS for alias in (form.name, *form.aliases)]
    # A format that another tool makes of one of these is answered with its command, by who knows the output.
    if name.lower() not in map(str.lower, known) and other_format(Path("layer"), name) is None:
        raise SettingsError(f"it is not known, wanted one of {', '.join(known)}{did_you_mean(name, known)}")


@settings
@dataclass(frozen=True, slots=True)
class LayerSettings:
    """Say where polygons go."""

    format: Annotated[
        str | None,
        Setting(
            "Format, where the suffix does not tell: GPKG, Shapefile, GeoJSON, GeoJSONSeq, FlatGeobuf, Parquet, CSV.",
            check=_check_format,
            flag=("--of", "--output-format"),
            metavar="FORMAT",
        ),
    ] = None
    dst_crs: Annotated[
        str | None,
        Setting("CRS to write; by default the mask's (GeoJSON: WGS84).", metavar="EPSG:CODE"),
    ] = None
    layer: Annotated[
        str | None, Setting("Name of the layer, by default that of the file.", metavar="NAME")
    ] = None
    append: Annotated[bool, Setting("Add to the layer that is there (GeoPackage, Shapefile).")] = False
    overwrite: Overwrite = False


@settings
@dataclass(frozen=True, slots=True)
class VectorizeSettings:
    """Say how a mask becomes polygons."""

    clean: Annotated[CleanSettings, Setting("What is changed before tracing.")] = CleanSettings()
    shape: Annotated[ShapeSettings, Setting("How patches become polygons.")] = ShapeSettings()
    classes: Annotated[
        tuple[str, ...] | None,
        Setting(
            "Classes to write, 'building,road', or 'all' to include background; without it all but background.",
            wanted="names of classes, or 'all'",
            read=names_in,
            metavar="LIST",
        ),
    ] = None
    confidence: Annotated[
        Path | None,
        Setting(
            "What predict wrote of its confidence; by default MASK_confidence.tif, where it lies beside the mask.",
            metavar="RASTER",
        ),
    ] = None
    layer: Annotated[LayerSettings, Setting("Where polygons go.")] = LayerSettings()

    def __post_init__(self) -> None:
        if self.classes == ():
            raise SettingsError(f"no class is chosen; name at least one, or leave {setting('classes')} out")


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
