"""vectorize: a mask file in, clean polygons out, in memory that does not grow with the mask's height."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.files.protect import Inputs
from aerial_seg.geo.outputs.mask import read_origin
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.read_files import raster_files
from aerial_seg.geo.raster.unchanged import Unchanged, files_of
from aerial_seg.geo.systems import local_note
from aerial_seg.jobs.vectorize.class_rows import ClassRows, VectorizeRequest, find_confidence
from aerial_seg.jobs.vectorize.footprints import Footprints
from aerial_seg.jobs.vectorize.settings import (
    EVERY_CLASS,
    ClassPolygons,
    ShapeSettings,
    VectorizeReport,
    VectorizeSettings,
)
from aerial_seg.legend import Legend, LegendEntry
from aerial_seg.mentions import setting
from aerial_seg.paths import StrPath, as_path
from aerial_seg.polygonize.batch import NONE, PolygonBatch
from aerial_seg.polygonize.tracing.simplify import Simplification
from aerial_seg.polygonize.tracing.tracer import Tracer
from aerial_seg.progress import Progress, silent
from aerial_seg.vectors.class_raster import ClassCounts, ClassRaster, legend_of
from aerial_seg.vectors.files import check_place, replaced_files
from aerial_seg.vectors.formats import check_layer_name, target_crs, vector_format
from aerial_seg.vectors.ground import Ground
from aerial_seg.vectors.placement import Placement
from aerial_seg.vectors.schema import Column, FeatureSchema, Kind, confidence_columns
from aerial_seg.vectors.writer import LayerSpec, LayerWriter, check_layer, layer_writer

_CONFIDENCE_STEP = 0.004
_REG_STATUS = Column("reg_status", Kind.TEXT)


def vectorize(
    mask_path: StrPath,
    out_path: StrPath,
    settings: VectorizeSettings | None = None,
    progress: Progress = silent,
    *,
    placed: Callable[[Sequence[Path]], None] | None = None,
) -> VectorizeReport:
    """Write the polygons of the chosen classes to `out_path`: a valid coverage but for regularized classes.

    The format is that of the suffix or of the settings, the CRS the mask's or the one asked for. All classes shape
    their neighbours' edges, also those that are not written; sides on nodata or on the raster's border stay exact. The
    mask is one band of whole numbers; masked pixels carry no class. placed: called with the files as soon as they lie
    there. Raises InputError, SettingsError and OutputError, before the long work wherever the cause is known by then.
    """
    mask_path, out_path = as_path(mask_path, "mask_path"), as_path(out_path, "out_path")
    settings = settings or VectorizeSettings()
    layer = settings.layer
    form = vector_format(out_path, layer.format, layer=layer.layer)
    check_place(out_path, form, overwrite=layer.overwrite or layer.append)
    inputs = Inputs(_files_read(mask_path, settings.confidence))
    inputs.refuse(replaced_files(out_path, form))
    check_layer_name(form, out_path.stem if layer.layer is None else layer.layer, out_path)
    still = Unchanged([mask_path], files_of([mask_path]))
    with ClassRaster(mask_path) as mask:
        crs = target_crs(form, mask.grid.crs, layer.dst_crs)
        with progress("read", total=len(mask.extent.rows), unit="row") as bar:
            counts = mask.count(bar)
        legend = legend_of(mask_path, counts)
        chosen = _chosen(legend, settings.classes)
        _check_names(settings.shape, chosen)
        confidence = find_confidence(mask_path, settings.confidence, mask.grid)
        if confidence is not None:
            still.add([confidence], files_of([confidence]))
        schema = FeatureSchema(
            legend,
            **read_origin(mask_path),
            confidence=confidence is not None,
            extra=(_REG_STATUS,) if settings.shape.regularize else (),
        )
        spec = LayerSpec(form, crs, schema, layer.layer)
        check_layer(out_path, spec, overwrite=layer.overwrite, append=layer.append)
        rows = ClassRows(mask, VectorizeRequest(chosen, settings.clean, settings.shape), confidence)
        job = _Job(mask, rows, chosen, settings.shape)
        with (
            layer_writer(
                out_path, spec, overwrite=layer.overwrite, append=layer.append, placed=placed
            ) as writer,
            still.holding(),
        ):
            job.run(writer, Placement(mask.grid, crs), progress)
    return job.report(out_path, writer, counts)


def _files_read(mask: Path, confidence: Path | None) -> Iterator[Path]:
    """The mask's files and those of the confidence that is read with it, asked for or found."""
    for path in (mask, confidence or mask.with_name(f"{mask.stem}_confidence{mask.suffix}")):
        with suppress(InputError):
            yield from raster_files([raster_info(path)])
        yield path


class _Job:
    """One mask on its way into one layer, and what is counted on that way."""

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

    def run(self, writer: LayerWriter, placement: Placement, progress: Progress) -> None:
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

    def _traced(self, bar: Any) -> Iterator[PolygonBatch]:
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
        writer: LayerWriter,
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

    def report(self, path: Path, writer: LayerWriter, counts: ClassCounts) -> VectorizeReport:
        """What was written."""
        has_area = self._ground.has_measures
        return VectorizeReport(
            path=path,
            files=writer.files,
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
            remarks=(*self._remarks(), *writer.notes),
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


def _check_names(shape: ShapeSettings, chosen: tuple[LegendEntry, ...]) -> None:
    names = [entry.name for entry in chosen]
    for kind, asked in (("instances", shape.instances), ("regularize", shape.regularize)):
        for name in asked:
            if name not in names:
                raise SettingsError(
                    f"{setting(kind)} names '{name}', which is not among the classes to write ({', '.join(names)})"
                    f"{did_you_mean(name, names) or '; choose among these'}"
                )
