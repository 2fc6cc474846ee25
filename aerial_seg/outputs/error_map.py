"""Where a mask is right and where it errs: of every class the hits, misses and false alarms, on the mask's own grid."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import OutputError
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_writable
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK, Extent
from aerial_seg.geo.raster.read_files import vector_files
from aerial_seg.legend import IGNORE, Legend, make_legend
from aerial_seg.outputs.attribute_table import attribute_table
from aerial_seg.outputs.cog import CogStyle, write_cog
from aerial_seg.outputs.durable import settled_file
from aerial_seg.outputs.mask import provenance
from aerial_seg.outputs.qgis_style import class_raster, style_text
from aerial_seg.outputs.segments import Layer, SegmentStore

NEITHER, HIT, MISS, FALSE_ALARM = range(4)
CATEGORIES = make_legend(
    {NEITHER: "neither", HIT: "hit", MISS: "miss", FALSE_ALARM: "false alarm"},
    # Told apart by colour-blind readers, too.
    colours={NEITHER: "#d9d9d9", HIT: "#009e73", MISS: "#d55e00", FALSE_ALARM: "#f0e442"},
)
_MEANING = (
    "per band, of the class that it is called after: 0 neither labelled nor mapped as it, 1 hit (both), 2 miss "
    "(labelled as it, mapped as another), 3 false alarm (mapped as it, labelled as another); 255 unlabelled or not "
    "mapped"
)
_VALUE_OF = np.array([NEITHER, FALSE_ALARM, MISS, HIT], np.uint8)
"""By 2 · (labelled as the class) + (mapped as the class)."""
ROWS_AT_ONCE = 2 * BLOCK
_BYTES_AT_ONCE = 64_000_000


def errors_of(truth: NDArray[np.uint8], said: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """(K, h, w) uint8: of each class 0 neither, 1 hit, 2 miss, 3 false alarm; 255 where either is 255.

    truth, said: (h, w) channels of the labels and of the mask, 255 = unlabelled or not mapped.
    """
    known = (truth != IGNORE) & (said != IGNORE)
    errors = np.empty((classes, *truth.shape), np.uint8)
    for channel in range(classes):
        case = 2 * (truth == channel).view(np.uint8) + (said == channel).view(np.uint8)
        errors[channel] = np.where(known, _VALUE_OF[case], IGNORE)
    return errors


def error_map_files(final: Path) -> tuple[Path, Path, Path]:
    """NAME.tif, NAME.tif.aux.xml (names and counts for GDAL and QGIS) and NAME.qml (QGIS style)."""
    return final, final.with_name(final.name + ".aux.xml"), final.with_suffix(".qml")


def check_error_map(final: Path, inputs: Sequence[str | Path], *, overwrite: bool) -> None:
    """Raise OutputError unless the map can be written there, away from the `inputs`: before the work."""
    if final.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"the error map {final} is a GeoTIFF, wanted a name that ends in .tif; rename it")
    Inputs(file for name in inputs for file in vector_files(name)).refuse(error_map_files(final))
    for file in error_map_files(final):
        check_writable(file, overwrite=overwrite)


class ErrorMap:
    """An error map that grows piece by piece in a folder; memory grows with neither the raster nor the classes.

    panels: the columns that are added together, ROWS_AT_ONCE rows at a time from north to south.
    """

    def __init__(self, folder: Path, grid: Grid, legend: Legend, extent: Extent | None = None) -> None:
        """extent: the rows and columns, in whole blocks, that are added; all around them is 255. None: all."""
        self._legend, self._layer = legend, Layer("errors", len(legend))
        width = max(1, _BYTES_AT_ONCE // (len(legend) * ROWS_AT_ONCE * BLOCK)) * BLOCK
        cols = range(grid.width) if extent is None else extent.cols
        self.panels = tuple(
            range(left, min(left + width, cols.stop)) for left in range(cols.start, cols.stop, width)
        )
        self._store = SegmentStore(folder, grid, (self._layer,), panels=self.panels, extent=extent)

    def add(self, panel: int, rows: range, truth: NDArray[np.uint8], said: NDArray[np.uint8]) -> None:
        """Rows of a panel are on the disk. truth, said: channels (n, w) of the labels and of the mask."""
        errors = errors_of(truth, said, len(self._legend))
        self._store.write(panel, rows, {self._layer.name: errors})

    def finish(self, final: Path, confusion: Sequence[Sequence[int]], **facts: object) -> tuple[Path, ...]:
        """`final` and its sidecars are there, the pieces are gone; all rows must have been added.

        confusion: (K, K) counts, rows = truth, of the same pixels. facts: what the tags tell of the map's origin.
        """
        tags = provenance(meaning=_MEANING, **facts)
        cog = CogStyle(self._legend.names, tags=tags)
        write_cog(self._store, self._layer, final, style=cog)
        shutil.rmtree(self._store.folder)
        raster, aux, qml = error_map_files(final)
        _write_xml(aux, _names(self._legend, np.asarray(confusion)))
        # What is neither lets the imagery below show through.
        style = class_raster(CATEGORIES, band=_shown(self._legend), unseen=(NEITHER,))
        with settled_file(qml) as partial:
            partial.write_bytes(style_text(style).encode())
        return raster, aux, qml


def counts_of(confusion: NDArray[np.int64], channel: int) -> dict[int, int]:
    """Pixels of each category of a class. confusion: (K, K), rows = truth."""
    hit = int(confusion[channel, channel])
    miss = int(confusion[channel].sum()) - hit
    false_alarm = int(confusion[:, channel].sum()) - hit
    neither = int(confusion.sum()) - hit - miss - false_alarm
    return {NEITHER: neither, HIT: hit, MISS: miss, FALSE_ALARM: false_alarm}


def _shown(legend: Legend) -> int:
    """The band that QGIS shows first: of the first class that is no background."""
    return next((band for band, entry in enumerate(legend.entries, start=1) if not entry.background), 1)


def _names(legend: Legend, confusion: NDArray[np.int64]) -> Xml.Element:
    """GDAL's .aux.xml: of every band its class, the categories' names and colours, and how many pixels each has."""
    root = Xml.Element("PAMDataset")
    for channel, name in enumerate(legend.names):
        band = Xml.SubElement(root, "PAMRasterBand", band=str(channel + 1))
        Xml.SubElement(band, "Description").text = name
        names = Xml.SubElement(band, "CategoryNames")
        for entry in CATEGORIES.entries:
            Xml.SubElement(names, "Category").text = entry.name
        band.append(attribute_table(CATEGORIES, counts_of(confusion, channel)))
    return root


def _write_xml(path: Path, root: Xml.Element) -> None:
    Xml.indent(root)
    with settled_file(path) as partial:
        Xml.ElementTree(root).write(partial)
