"""What a Segmenter gives back: the classes of an image in memory, as arrays, polygons, a picture or files."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_writable, place_files
from aerial_seg.files.work import RESULT, locked_work, system_errors
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.inference.results import companion, keep_styles, write_results
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.outputs.maps import PROBABILITY_STEP
from aerial_seg.outputs.mask import provenance
from aerial_seg.outputs.segments import Layer, SegmentStore
from aerial_seg.paths import as_path
from aerial_seg.printable import shortened
from aerial_seg.progress import silent
from aerial_seg.vectors.from_mask.polygon_frame import polygon_frame
from aerial_seg.vectors.from_mask.settings import (
    CleanSettings,
    LayerSettings,
    ShapeSettings,
    VectorizeSettings,
)

if TYPE_CHECKING:
    import geopandas

Bytes = NDArray[np.uint8]

_WRITTEN_AT_ONCE = 4 * BLOCK
"""Rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Hold the classes of one image; nothing of it can be changed.

    classes (H,W) uint8: pixel values of the legend, 255 = not measured. confidence (H,W) uint8: probability of the
    pixel's class in steps of 0.004 (250 is 1), 255 = not measured; probabilities (K,H,W) uint8: of every class
    in the legend's order, likewise; None where they were not asked for. grid: the image's CRS, transform and size.
    notes: what was assumed or would surprise. facts: what made it, as the files tell that `write` makes.
    inputs: the files that the image was read from, which `write` does not replace.
    """

    classes: Bytes
    legend: Legend
    grid: Grid
    confidence: Bytes | None = None
    probabilities: Bytes | None = None
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] | None = None
    inputs: Inputs | None = None

    def __post_init__(self) -> None:
        for layer in (self.classes, self.confidence, self.probabilities):
            if layer is not None:
                layer.flags.writeable = False

    def __reduce__(self) -> tuple[type[Segmentation], tuple[Any, ...]]:
        """Copies and unpickled ones are made as the first was: numpy forgets that an array cannot be changed."""
        return Segmentation, tuple(getattr(self, field.name) for field in fields(self))

    @property
    def transform(self) -> Affine:
        """Affine, pixel corner (column, row) → CRS."""
        return self.grid.transform

    @property
    def crs(self) -> CRS | None:
        """None where the image said none."""
        return self.grid.crs

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.grid.shape

    def class_pixels(self) -> dict[str, int]:
        """How many pixels each class has, by name."""
        counts = self._counts()
        return {entry.name: counts[entry.value] for entry in self.legend.entries}

    def polygons(
        self,
        classes: Sequence[str] | None = None,
        *,
        clean: CleanSettings | None = None,
        shape: ShapeSettings | None = None,
        crs: str | int | CRS | None = None,
    ) -> geopandas.GeoDataFrame:
        """The polygons of these classes as a GeoDataFrame, the same that `vectorize` makes of the written mask.

        classes: names; None = all that are not background; ["all"] = every class. crs: to bring them to, in
        any form that geopandas takes; None = the image's. Columns: class_id, class_name, area_m2, perim_m, n_px,
        source, model_id, and conf_mean, conf_min where there is a confidence. `attrs["notes"]` tells
        what was removed or done otherwise than asked. Raises SettingsError for a name that is no class.
        """
        if isinstance(classes, str):
            classes = (classes,)
        if not (classes is None or isinstance(classes, Iterable)):
            raise SettingsError(f"classes is {shortened(repr(classes))}, wanted names of classes, or None")
        if crs is not None and self.crs is None:
            raise InputError(
                "crs is given, but the image had none; pass crs and transform with it, or leave crs out"
            )
        settings = VectorizeSettings(
            classes=None if classes is None else tuple(classes),
            clean=clean or CleanSettings(),
            shape=shape or ShapeSettings(),
            layer=LayerSettings(dst_crs=None if crs is None else _crs_text(crs)),
        )
        levels = self.confidence
        frame, report = polygon_frame(
            ArrayRaster(self.classes[None], grid=self.grid, name="the mask", nodata=IGNORE),
            self.legend,
            settings,
            confidence=None if levels is None else ArrayRaster(levels[None], grid=self.grid, nodata=IGNORE),
            origin=self._origin(),
        )
        frame.attrs["notes"] = report.notes
        return frame

    def plot(self, axes: Any = None) -> Any:
        """Draws the classes in the legend's colours, nodata white, and returns matplotlib's Axes.

        axes: those to draw on; None makes a figure. In the CRS's coordinates where the pixels' sides follow its axes,
        else in pixels. Raises SettingsError without matplotlib.
        """
        try:
            from matplotlib import pyplot
            from matplotlib.patches import Patch
        except ImportError as error:
            raise SettingsError("a picture needs matplotlib; install it (pip install matplotlib)") from error
        if axes is None:
            _, axes = pyplot.subplots(layout="constrained")
        colours = self.legend.colours()
        colours[IGNORE] = 255
        step = max(1, max(self.shape) // 4000)
        transform, (height, width) = self.transform, self.shape
        extent = None
        if self.crs is not None and not (transform.b or transform.d):
            left, top = transform.c, transform.f
            extent = (left, left + width * transform.a, top + height * transform.e, top)
        axes.imshow(colours[self.classes[::step, ::step]], interpolation="nearest", extent=extent)
        # Coordinates of six digits are read as they are, not as differences from a number in the corner; few have room.
        axes.ticklabel_format(useOffset=False, style="plain")
        axes.locator_params(axis="x", nbins=4)
        patches = [
            Patch(facecolor=entry.colour, edgecolor="#444444", label=entry.name)
            for entry in self.legend.entries
        ]
        axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        return axes

    def to_xarray(self) -> Any:
        """An xarray Dataset with the variables mask, confidence and probabilities, as rioxarray and CF tell of rasters.

        CRS and transform are in the coordinate spatial_ref, nodata is _FillValue 255, what a step of a probability
        means is scale_factor. Raises SettingsError without xarray.
        """
        try:
            # By name, as what is no dependency: whoever has no xarray needs none.
            xarray: Any = importlib.import_module("xarray")
        except ImportError as error:
            raise SettingsError("to_xarray needs xarray; install it (pip install xarray)") from error
        scaled = {"_FillValue": IGNORE, "scale_factor": PROBABILITY_STEP, "grid_mapping": "spatial_ref"}
        flags = {
            "flag_values": np.array(self.legend.values, np.uint8),
            "flag_meanings": " ".join(name.replace(" ", "_") for name in self.legend.names),
            "_FillValue": IGNORE,
            "grid_mapping": "spatial_ref",
        }
        variables: dict[str, Any] = {"mask": (("y", "x"), self.classes, flags)}
        if self.confidence is not None:
            variables["confidence"] = ("y", "x"), self.confidence, scaled
        coords = self._coordinates()
        if self.probabilities is not None:
            variables["probabilities"] = ("class", "y", "x"), self.probabilities, scaled
            coords["class"] = ("class", list(self.legend.names))
        return xarray.Dataset(variables, coords=coords, attrs={"notes": "\n".join(self.notes)})

    def write(self, path: str | PathLike[str], *, overwrite: bool = False) -> tuple[Path, ...]:
        """The mask lies at `path`, with its sidecars and PATH_confidence.tif, PATH_probabilities.tif if there are any.

        The same files that `predict` writes: Cloud Optimized GeoTIFFs with colours, names and provenance. Returns all,
        the mask first; a style (.qml) that somebody drew there stays, and is not among them. Raises OutputError for an
        existing file without `overwrite`, for a file that the image was read from, and for a full disk.
        """
        final = as_path(path, "path")
        if not isinstance(overwrite, bool):
            raise SettingsError(f"overwrite is {shortened(repr(overwrite))}, wanted True or False")
        if final.suffix.lower() not in (".tif", ".tiff"):
            raise OutputError(
                f"the mask {final} is a GeoTIFF, wanted a name that ends in .tif; rename the output"
            )
        files = (final, *(companion(final, layer.name) for layer in self._layers()[1:]))
        if self.inputs is not None:
            self.inputs.refuse(files)
        for file in files:
            check_writable(file, overwrite=overwrite, maker=final)
        with locked_work(final) as work, system_errors(final):
            with silent("", total=0, unit="raster") as bar:
                made = write_results(
                    self._stored(work),
                    work / RESULT / final.name,
                    legend=self.legend,
                    counts=self._counts(),
                    tags=provenance(**self.facts or {}),
                    bar=bar,
                )
            placed = tuple(final.with_name(file.name) for file in made)
            foreign, _ = keep_styles(placed, work / RESULT, final)
            place_files(work / RESULT, final)
        return tuple(file for file in placed if file not in foreign)

    def _layers(self) -> tuple[Layer, ...]:
        layers = [Layer("class", 1)]
        if self.confidence is not None:
            layers.append(Layer("confidence", 1))
        if self.probabilities is not None:
            layers.append(Layer("probabilities", len(self.legend)))
        return tuple(layers)

    def _stored(self, work: Path) -> SegmentStore:
        height, width = self.shape
        layers = self._layers()
        arrays = {"class": self.classes, "confidence": self.confidence, "probabilities": self.probabilities}
        store = SegmentStore(work / "segments", self.grid, layers, panels=(range(width),))
        for top in range(0, height, _WRITTEN_AT_ONCE):
            rows = range(top, min(top + _WRITTEN_AT_ONCE, height))
            parts = {
                name: values[..., rows.start : rows.stop, :]
                for name, values in arrays.items()
                if values is not None
            }
            store.write(0, rows, parts)
        return store

    def _counts(self) -> dict[int, int]:
        totals = np.zeros(256, np.int64)
        for top in range(0, self.shape[0], _WRITTEN_AT_ONCE):
            # numpy counts in 8 bytes per pixel.
            totals += np.bincount(self.classes[top : top + _WRITTEN_AT_ONCE].ravel(), minlength=256)
        return dict(enumerate(totals.tolist()))

    def _origin(self) -> dict[str, str]:
        """As read_origin tells of the written mask."""
        facts = self.facts or {}
        sources, model = facts.get("sources") or (), facts.get("model_sha256", "")
        origin = {"source": str(sources[0])} if sources else {}
        return origin | ({"model_id": ",".join(one[:12] for one in model.split(","))} if model else {})

    def _coordinates(self) -> dict[str, Any]:
        transform, (height, width) = self.transform, self.shape
        about: dict[str, Any] = {"GeoTransform": " ".join(repr(float(n)) for n in transform.to_gdal())}
        if self.crs is not None:
            wkt = self.crs.to_wkt()
            about |= {"crs_wkt": wkt, "spatial_ref": wkt}
        coords: dict[str, Any] = {"spatial_ref": ((), 0, about)}
        if not (transform.b or transform.d):
            coords["x"] = ("x", transform.c + transform.a * (np.arange(width) + 0.5))
            coords["y"] = ("y", transform.f + transform.e * (np.arange(height) + 0.5))
        return coords


def _crs_text(crs: str | int | CRS) -> str:
    """As `vectorize` takes it. Raises SettingsError for what is none."""
    if isinstance(crs, str):
        return crs
    try:
        return str(CRS.from_user_input(crs).to_wkt())
    except CRSError:
        raise SettingsError(f"crs is {shortened(repr(crs))}, wanted one like EPSG:32645") from None
