"""vectorize: a mask file in, clean polygons out, in memory that does not grow with the mask's height."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from aerial_seg.errors import InputError
from aerial_seg.files.protect import Inputs
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.geo.raster.read_files import raster_files
from aerial_seg.geo.raster.unchanged import Unchanged, files_of
from aerial_seg.outputs.mask import read_origin
from aerial_seg.paths import StrPath, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.settings import chosen
from aerial_seg.vectors.class_raster import ClassRaster, legend_of
from aerial_seg.vectors.files import check_place, replaced_files
from aerial_seg.vectors.formats import check_layer_name, target_crs, vector_format
from aerial_seg.vectors.from_mask.class_rows import ClassRows, VectorizeRequest, find_confidence
from aerial_seg.vectors.from_mask.polygon_maker import (
    PolygonMaker,
    check_names,
    chosen_classes,
    extra_columns,
)
from aerial_seg.vectors.from_mask.settings import (
    VectorizeReport,
    VectorizeSettings,
)
from aerial_seg.vectors.placement import Placement
from aerial_seg.vectors.schema import FeatureSchema
from aerial_seg.vectors.writer import LayerSpec, check_layer, layer_writer


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
    settings = chosen(settings, VectorizeSettings)
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
        classes = chosen_classes(legend, settings.classes)
        check_names(settings.shape, classes)
        confidence = find_confidence(mask_path, settings.confidence, mask.grid)
        if confidence is not None:
            still.add([confidence], files_of([confidence]))
        schema = FeatureSchema(
            legend,
            **read_origin(mask_path),
            confidence=confidence is not None,
            extra=extra_columns(settings.shape),
        )
        spec = LayerSpec(form, crs, schema, layer.layer)
        check_layer(out_path, spec, overwrite=layer.overwrite, append=layer.append)
        rows = ClassRows(mask, VectorizeRequest(classes, settings.clean, settings.shape), confidence)
        maker = PolygonMaker(mask, rows, classes, settings.shape)
        with (
            layer_writer(
                out_path, spec, overwrite=layer.overwrite, append=layer.append, placed=placed
            ) as writer,
            still.holding(),
        ):
            maker.run(writer, Placement(mask.grid, crs), progress)
    return maker.report(out_path, counts, files=writer.files, notes=(*writer.notes, *still.notes))


def _files_read(mask: Path, confidence: Path | None) -> Iterator[Path]:
    """The mask's files and those of the confidence that is read with it, asked for or found."""
    for path in (mask, confidence or mask.with_name(f"{mask.stem}_confidence{mask.suffix}")):
        with suppress(InputError):
            yield from raster_files([raster_info(path)])
        yield path
