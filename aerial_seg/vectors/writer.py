"""A vector layer written in batches, whole or not at all: memory stays flat however many features come."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from pyproj import CRS

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.names import is_plain, writing_folder
from aerial_seg.files.work import RESULT, locked_work
from aerial_seg.mentions import setting
from aerial_seg.outputs.geopackage import settle_geopackage
from aerial_seg.outputs.qgis_style import SUFFIX
from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.vectors.antimeridian import cut_antimeridian
from aerial_seg.vectors.append import Earlier, copy_earlier, find_earlier
from aerial_seg.vectors.check import require_features
from aerial_seg.vectors.files import check_only_layer, check_place, final_names, publish, write_errors
from aerial_seg.vectors.formats import (
    GEOPARQUET,
    GPKG,
    SHAPEFILE,
    VectorFormat,
    check_layer_name,
    check_texts,
)
from aerial_seg.vectors.geoparquet import GeoParquetSink, check_pyarrow
from aerial_seg.vectors.layer_style import grown_style, namesakes_style
from aerial_seg.vectors.ogr_sink import OgrSink, OgrTarget, check_gdal, writing_config
from aerial_seg.vectors.schema import FeatureSchema, Rows
from aerial_seg.vectors.shapefile_sink import ShapefileSink, set_dbf_date


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What is written.

    crs: of the coordinates that will come, see formats.target_crs. layer: its name, None for the file's stem.
    """

    form: VectorFormat
    crs: CRS | None
    schema: FeatureSchema
    layer: str | None = None

    def __post_init__(self) -> None:
        assert self.crs is None or self.crs.is_geographic or not self.form.lonlat, self.crs
        if self.form.lonlat and self.crs is None:
            raise InputError(
                f"a {self.form.title} must be in WGS84 (RFC 7946) and the mask has no CRS; give it one"
            )

    def layer_name(self, path: Path) -> str:
        """The layer's name in the file `path`."""
        return path.stem if self.layer is None else self.layer


class Sink(Protocol):
    """Where rows go. One of `finish` and `abort` ends it; `abort` does nothing after `finish`."""

    def write(self, rows: Rows) -> None:
        """The rows are handed over."""

    def finish(self) -> object:
        """All is on its way to the disk, in closed files."""

    def abort(self) -> None:
        """The files are closed, in whatever state."""


class LayerWriter:
    """Takes features in batches. `count`: how many so far.

    `files`: what lies there, once the block has ended; `notes`: what became of styles that were there before.
    """

    def __init__(self, path: Path, spec: LayerSpec, sink: Sink) -> None:
        self._path, self._spec, self._sink = path, spec, sink
        self.count = 0
        self.files: tuple[Path, ...] = ()
        self.notes: tuple[str, ...] = ()

    def write(self, batch: PolygonBatch, measured: Mapping[str, NDArray[Any]]) -> None:
        """The features of the batch are handed over. The cut into batches leaves no trace in the file.

        batch: vertices (x, y) in the CRS of the layer, exteriors counter-clockwise. measured: (f,) values for each
        column of FeatureSchema.measured; NaN is NULL. GeoJSON is cut at the antimeridian. Raises OutputError.
        """
        cut = cut_antimeridian(batch) if self._spec.form.lonlat else batch
        rows = self._spec.schema.rows(cut, measured)
        with write_errors(self._path):
            self._sink.write(rows)
        self.count += len(rows)


def check_layer(
    path: Path, spec: LayerSpec, *, overwrite: bool = False, append: bool = False
) -> Earlier | None:
    """Nothing known now will hinder `layer_writer` from writing here; call it before the long work.

    Returns what appending adds to. Raises SettingsError and OutputError: see `layer_writer`.
    """
    if overwrite and append:
        raise SettingsError(
            f"{setting('overwrite', True)} and {setting('append', True)} exclude each other; pass one of them"
        )
    form, schema, layer = spec.form, spec.schema, spec.layer_name(path)
    check_layer_name(form, layer, path)
    check_texts(form, (*schema.legend.names, schema.source or "", schema.model_id or ""))
    earlier = find_earlier(path, form, layer=layer, crs=spec.crs, schema=schema) if append else None
    if form is GEOPARQUET:
        check_pyarrow(path)
    else:
        check_gdal(path)
    if earlier:
        grown_style(earlier.style, schema.legend, path.name)  # raises where the classes do not agree
    check_place(path, form, overwrite=overwrite or earlier is not None)
    if overwrite and form is GPKG:
        check_only_layer(path, layer)
    return earlier


@contextmanager
def layer_writer(
    path: Path,
    spec: LayerSpec,
    *,
    overwrite: bool = False,
    append: bool = False,
    placed: Callable[[Sequence[Path]], None] | None = None,
) -> Iterator[LayerWriter]:
    """A layer to write to; when the block ends well it lies at `path`, on the disk, else `path` is as it was.

    Until the layer is complete nothing lies under its name; of several files the one that readers open comes last.
    No other run writes `path` meanwhile. placed: called with the files when they lie there.
    append: to the layer of that name in a GeoPackage (made where there is none, beside the file's other layers) or to
    a Shapefile. Works on a copy, which takes the place of the file in the end.

    A layer without features has all columns (GeoJSON cannot state them). A Shapefile that would pass 1.9 GB becomes
    NAME_001.shp, NAME_002.shp …. Equal features make equal bytes.

    Raises SettingsError: a layer name the format cannot have. OutputError: an existing file without `overwrite` or
    `append`, a place that cannot be written to, a GeoPackage that is open elsewhere, one whose other layers
    `overwrite` would delete, texts that a Shapefile would cut, no pyarrow for GeoParquet, a layer that `append` does
    not fit, a full disk.
    """
    check_layer(path, spec, overwrite=overwrite, append=append)
    with ExitStack() as stack:
        with write_errors(path):
            work = stack.enter_context(locked_work(path))
            # Another run may have ended just now, or what a killed one was placing be in its place only now.
            earlier = check_layer(path, spec, overwrite=overwrite, append=append)
            stack.enter_context(_quiet_gdal())
            (work / RESULT).mkdir()
            place = stack.enter_context(writing_folder(work / RESULT))
            draft = place / (path.stem if is_plain(path.stem) else "layer")
            draft = draft.with_name(draft.name + spec.form.suffixes[0])
            if earlier:
                copy_earlier(earlier, draft)
            sink = _open_sink(draft, spec, path, earlier)
            stack.callback(sink.abort)
        layer = LayerWriter(path, spec, sink)
        yield layer
        with write_errors(path):
            drafts = sink.finish()
            drafts = drafts if isinstance(drafts, tuple) else (draft,)
            _require_whole(draft, path, spec, earlier, layer.count)
            layer.notes = _add_style(drafts, path, spec, earlier)
            if earlier:
                earlier.check_unchanged()
            # By their own names: GDAL may have written through a link.
            drafts = tuple(work / RESULT / one.name for one in drafts)
            layer.files = publish(work, drafts, path, spec.form)
            if placed is not None:
                placed(layer.files)


@contextmanager
def _quiet_gdal() -> Iterator[None]:
    with warnings.catch_warnings(), writing_config():
        # A mask without CRS is allowed where the format is.
        warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
        yield


def _open_sink(draft: Path, spec: LayerSpec, path: Path, earlier: Earlier | None) -> Sink:
    form, columns = spec.form, spec.schema.columns
    if form is GEOPARQUET:
        return GeoParquetSink(draft, columns, spec.crs)
    target = OgrTarget(form.name, spec.layer_name(path), spec.crs, columns, form.options)
    if form is SHAPEFILE:
        return ShapefileSink(draft, target, spec.schema, grown=earlier is not None)
    return OgrSink(draft, target, append=earlier is not None and earlier.has_layer)


def _require_whole(draft: Path, path: Path, spec: LayerSpec, earlier: Earlier | None, count: int) -> None:
    grown = earlier is not None and earlier.has_layer
    before = earlier.features if earlier else 0
    require_features(draft, spec.form, layer=spec.layer_name(path), count=before + count, grown=grown)


def _add_style(
    drafts: tuple[Path, ...], path: Path, spec: LayerSpec, earlier: Earlier | None
) -> tuple[str, ...]:
    """The closed drafts have their style and no time of day; returns what is to be told of styles."""
    before, legend = earlier.style if earlier else None, spec.schema.legend
    if spec.form is GPKG:
        style = grown_style(before, legend, path.name)
        settle_geopackage(drafts[0], spec.layer_name(path), style.text)
        return style.notes
    notes: list[str] = []
    for draft, target in zip(drafts, final_names(drafts, path), strict=True):
        if spec.form is SHAPEFILE:
            set_dbf_date(draft.with_suffix(".dbf"))
        style = namesakes_style(target, legend, before=before)
        notes += style.notes
        if style.text is not None:
            draft.with_suffix(SUFFIX).write_bytes(style.text.encode())
    return tuple(notes)
