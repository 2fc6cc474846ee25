"""The finished rasters: class map, confidence and probabilities, each with what GIS software wants beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
from numpy.typing import NDArray

from aerial_seg.geo.grid import Grid
from aerial_seg.legend import Legend
from aerial_seg.outputs.attribute_table import attribute_table, write_value_table
from aerial_seg.outputs.cog import CogStyle, write_cog
from aerial_seg.outputs.durable import settled_file
from aerial_seg.outputs.mask import LEGEND_TAG, provenance
from aerial_seg.outputs.qgis_style import SUFFIX, Style, class_raster, grey_raster, shared_text
from aerial_seg.outputs.segments import Layer, SegmentStore

PROBABILITY_STEP = 0.004
"""What one step of a confidence or probability byte means: 0 is 0, 250 is 1, 255 is nodata."""


def write_class_map(
    store: SegmentStore,
    layer: Layer,
    final: Path,
    *,
    legend: Legend,
    counts: Mapping[int, int],
    tags: Mapping[str, str],
) -> tuple[Path, ...]:
    """`final` and its sidecars are there: the COG with palette, legend and tags; names, counts and colours beside it.

    layer: of the store, class per pixel, all rows. counts: pixel value → pixels. Returns NAME.tif, NAME.tif.aux.xml
    (names and attribute table for GDAL and QGIS), NAME.qml (QGIS style; not where somebody's own lies),
    NAME.tif.vat.dbf and .cpg (ArcGIS).
    """
    style = CogStyle(
        ("class",),
        tags={LEGEND_TAG: legend.model_dump_json(), **tags},
        palette=legend.palette(),
    )
    write_cog(store, layer, final, style=style)
    aux = final.with_name(final.name + ".aux.xml")
    _write_names(aux, legend, counts)
    return final, aux, *_write_style(final, class_raster(legend)), *write_value_table(final, legend, counts)


def write_confidence(
    store: SegmentStore, layer: Layer, final: Path, *, tags: Mapping[str, str]
) -> tuple[Path, ...]:
    """`final` is a COG with the probability of each pixel's class, in steps of 0.004; 255 = nodata."""
    meaning = "probability of the class in the mask; scale 0.004, 255 = not measured"
    style = CogStyle(
        ("confidence",),
        tags={**tags, **provenance(meaning=meaning)},
        scale=PROBABILITY_STEP,
    )
    write_cog(store, layer, final, style=style)
    return (final,)


def write_probabilities(
    store: SegmentStore, layer: Layer, final: Path, *, legend: Legend, tags: Mapping[str, str]
) -> tuple[Path, ...]:
    """`final` is a COG with a band per class in the order of the legend: its probability in steps of 0.004.

    QGIS would show the first bands as red, green and blue: NAME.qml shows one in grey, the first that is no background.
    """
    meaning = "probability of the class that the band is called after; scale 0.004, 255 = not measured"
    style = CogStyle(
        legend.names,
        tags={LEGEND_TAG: legend.model_dump_json(), **tags, **provenance(meaning=meaning)},
        scale=PROBABILITY_STEP,
    )
    write_cog(store, layer, final, style=style)
    shown = next((k for k, entry in enumerate(legend.entries, start=1) if not entry.background), 1)
    return final, *_write_style(final, grey_raster(shown))


def write_mask(
    path: Path,
    values: NDArray[np.uint8],
    *,
    grid: Grid,
    legend: Legend,
    tags: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """A class map of one array (H, W) uint8, 255 = nodata, lies at `path`; returns what write_class_map does."""
    layer = Layer("class", 1)
    counts = np.bincount(values.ravel(), minlength=256)
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as folder:
        store = SegmentStore(Path(folder), grid, (layer,), panels=(range(grid.width),))
        store.write(0, range(grid.height), {"class": values})
        return write_class_map(
            store, layer, path, legend=legend, counts=dict(enumerate(counts.tolist())), tags=tags or {}
        )


def _write_names(path: Path, legend: Legend, counts: Mapping[int, int]) -> None:
    """GDAL's .aux.xml: a name per pixel value, empty for values that are no class, and the attribute table."""
    root = Xml.Element("PAMDataset")
    band = Xml.SubElement(root, "PAMRasterBand", band="1")
    Xml.SubElement(band, "Description").text = "class"
    names = Xml.SubElement(band, "CategoryNames")
    entries = legend.by_value()
    for value in range(max(entries) + 1):
        Xml.SubElement(names, "Category").text = entries[value].name if value in entries else ""
    band.append(attribute_table(legend, counts))
    _write_xml(path, root)


def _write_style(raster: Path, style: Style) -> tuple[Path, ...]:
    """The .qml that QGIS loads with this raster by itself is there; empty where somebody's own stays."""
    path = raster.with_suffix(SUFFIX)
    text = shared_text(path, style)
    if text is None:
        return ()
    with settled_file(path) as partial:
        partial.write_bytes(text.encode())
    return (path,)


def _write_xml(path: Path, root: Xml.Element) -> None:
    Xml.indent(root)
    with settled_file(path) as partial:
        Xml.ElementTree(root).write(partial)
