"""From the rows of a mask to measured polygons at their place, batch by batch, for a file or for memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.geo.systems import local_note
from aerial_seg.legend import Legend, LegendEntry
from aerial_seg.mentions import setting
from aerial_seg.polygonize.batch import NONE, PolygonBatch
from aerial_seg.polygonize.tracing.simplify import Simplification
from aerial_seg.polygonize.tracing.tracer import Tracer
from aerial_seg.progress import Progress, ProgressBar
from aerial_seg.vectors.class_raster import ClassCounts, ClassRaster
from aerial_seg.vectors.from_mask.class_rows import ClassRows
from aerial_seg.vectors.from_mask.footprints import Footprints
from aerial_seg.vectors.from_mask.settings import EVERY_CLASS, ClassPolygons, ShapeSettings, VectorizeReport
from aerial_seg.vectors.ground import Ground
from aerial_seg.vectors.placement import Placement
from aerial_seg.vectors.schema import Column, Kind, confidence_columns

_CONFIDENCE_STEP = 0.004
_REG_STATUS = Column("reg_status", Kind.TEXT)


class FeatureTaker(Protocol):
    """What polygons are handed to: see LayerWriter.write."""

    def write(self, batch: PolygonBatch, measured: Mapping[str, NDArray[Any]]) -> None:
        """Takes the features of the batch, at their place, and what was measured of them."""
        ...


def extra_columns(shape: ShapeSettings) -> tuple[Column, ...]:
    """The columns that these settings add to those that every layer has."""
    return (_REG_STATUS,) if shape.regularize else ()


class PolygonMaker:
    """Makes the polygons of one mask, and knows what is counted on that way."""

    def __init__(
        self, mask: ClassRaster, rows: ClassRows, chosen: tuple[LegendEntry, ...], shape: ShapeSettings
    ) -> None:
        self._mask, self._rows, self._chosen = mask, rows, chosen
        wanted = np.zeros(NONE + 1, bool)
        wanted[[code for entry in chosen if (code := mask.code_of(entry.value)) is not None]] = True
        self._tracer = Tracer(
            len(mask.extent.cols),
            wanted=rows.code_suffix.table(wanted),
            how=Simplification(shape.simplify.in_pixels(mask.grid.gsd()), shape.method, shape.smooth),
            connectivity=shape.connectivity,
        )
        regular = [entry.value for entry in chosen if entry.name in shape.regularize]
        self._regular = np.array(regular, np.int64)
        self._footprints = Footprints()
        self._ground = Ground(mask.grid)
        self._polygons = {entry.value: 0 for entry in chosen}
        self._areas = {entry.value: 0.0 for entry in chosen}

    def run(self, writer: FeatureTaker, placement: Placement, progress: Progress) -> None:
        """All polygons are handed to the writer."""
        height = len(self._mask.extent.rows)
        if self._rows.cleans:
            with progress("clean", total=height, unit="row") as bar:
                self._rows.clean(bar)
        with progress("vectorize", total=height, unit="row") as bar:
            for batch in self._traced(bar):
                self._write(batch, None, writer, placement)
        regular = self._footprints.regular()
        if regular is not None:
            self._write(*regular, writer, placement)

    def _traced(self, bar: ProgressBar) -> Iterator[PolygonBatch]:
        corner = np.array([self._mask.extent.cols.start, self._mask.extent.rows.start])
        for batch in self._tracer.trace(self._rows.rows(bar)):
            coords = batch.coords + corner if corner.any() else batch.coords
            batch = replace(
                batch,
                coords=coords,
                values=self._mask.values(self._rows.code_suffix.without_suffix(batch.values)),
            )
            if len(self._regular):
                batch = self._footprints.hold(batch, np.isin(batch.values, self._regular))
            if len(batch):
                yield batch

    def _write(
        self,
        batch: PolygonBatch,
        status: NDArray[np.object_] | None,
        writer: FeatureTaker,
        placement: Placement,
    ) -> None:
        areas, perimeters = self._ground.measure(batch.coords, batch.rings, batch.polygons)
        first = batch.features[:-1]
        measured: dict[str, NDArray[Any]] = {
            "area_m2": np.add.reduceat(areas, first),
            "perim_m": np.add.reduceat(perimeters, first),
        }
        if len(batch.conf_min):
            measured |= confidence_columns(batch, step=_CONFIDENCE_STEP)
        if len(self._regular):
            measured[_REG_STATUS.name] = np.full(len(batch), None, object) if status is None else status
        for value in np.unique(batch.values).tolist():
            mine = batch.values == value
            self._polygons[value] += int(mine.sum())
            self._areas[value] += float(measured["area_m2"][mine].sum())
        writer.write(placement.place(batch), measured)

    def report(
        self, path: Path, counts: ClassCounts, *, files: tuple[Path, ...] = (), notes: tuple[str, ...] = ()
    ) -> VectorizeReport:
        """What was made. path, files, notes: where it was written, and what the writer has to say."""
        has_area = self._ground.has_measures
        return VectorizeReport(
            path=path,
            files=files,
            classes=tuple(
                ClassPolygons(
                    entry.name, self._polygons[entry.value], self._areas[entry.value] if has_area else None
                )
                for entry in self._chosen
            ),
            nodata_pixels=counts.nodata,
            sieve=self._rows.cleaned.report,
            vertices_before=self._tracer.counts.vertices_before,
            vertices_after=self._tracer.counts.vertices_after,
            kept_apart=self._tracer.counts.refused,
            remarks=(*self._remarks(), *notes),
        )

    def _remarks(self) -> Iterator[str]:
        yield from local_note(self._mask.grid.crs, str(self._mask.path))
        if self._rows.splitter is not None:
            counts = self._rows.splitter.counts
            yield f"{counts.parted:,} patches were parted into {counts.objects:,} objects"
            if counts.too_tall:
                yield f"{counts.too_tall:,} patches reach over more than 2,048 rows and were not looked at for objects"
        if self._mask.grid.for_polygons() != self._mask.grid:
            yield (
                "the mask has no geotransform: its polygons lie where QGIS shows it, a unit per pixel and row r at "
                "y = −r; n_px is their area"
            )
        if self._footprints.counts:
            yield "outlines: " + _listed(self._footprints.counts)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def chosen_classes(legend: Legend, names: tuple[str, ...] | None) -> tuple[LegendEntry, ...]:
    """The entries to write, in the order of the legend. Raises SettingsError for a name that is no class."""
    if names is None:
        return tuple(entry for entry in legend.entries if not entry.background)
    if EVERY_CLASS in names and EVERY_CLASS not in legend.names:
        return legend.entries
    for name in names:
        if name not in legend.names:
            raise SettingsError(
                f"{setting('classes')} names '{name}', which is no class of the mask, it has {', '.join(legend.names)} "
                f"(or '{EVERY_CLASS}'){did_you_mean(name, legend.names) or '; choose among these'}"
            )
    return tuple(entry for entry in legend.entries if entry.name in names)


def check_names(shape: ShapeSettings, chosen: tuple[LegendEntry, ...]) -> None:
    """Raises SettingsError where the settings name a class that is not among those to write."""
    names = [entry.name for entry in chosen]
    for kind, asked in (("instances", shape.instances), ("regularize", shape.regularize)):
        for name in asked:
            if name not in names:
                raise SettingsError(
                    f"{setting(kind)} names '{name}', which is not among the classes to write ({', '.join(names)})"
                    f"{did_you_mean(name, names) or '; choose among these'}"
                )
