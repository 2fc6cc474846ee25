"""The mask file: class per pixel as a Cloud Optimized GeoTIFF that opens in the right colours in GIS software."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from xml.etree import ElementTree as Xml

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from pydantic import ValidationError
from rasterio.crs import CRS as RasterioCRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window

from aerial_seg.errors import InputError, OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster import open_dataset
from aerial_seg.legend import IGNORE, Legend, legend_from_colormap

LEGEND_TAG = "AERIAL_SEG_LEGEND"
BLOCK = 512


class MaskWriter:
    """Writes a mask from north to south in whole rows of blocks; `finish` makes the COG and its sidecars.

    rows come as (first row, pixel values (n, W) uint8) in order; 255 is nodata. All files lie in `folder` under
    `name`: name.tif, name.tif.aux.xml (class names for GDAL), name.qml (style for QGIS). Raises OutputError when
    the disk does not take them.
    """

    def __init__(
        self, folder: Path, name: str, *, grid: Grid, legend: Legend, tags: Mapping[str, str]
    ) -> None:
        self._folder, self._name, self._legend = folder, Path(name), legend
        self._scratch = folder / "scratch.tif"
        self._grid = grid
        self._next = 0
        self._pending: list[NDArray[np.uint8]] = []
        with _disk_errors(self._name):
            self._dataset: DatasetWriter = rasterio.open(
                self._scratch,
                "w",
                driver="GTiff",
                height=grid.height,
                width=grid.width,
                count=1,
                dtype="uint8",
                nodata=IGNORE,
                crs=RasterioCRS.from_wkt(grid.crs.to_wkt()) if grid.crs is not None else None,
                transform=grid.transform,
                tiled=True,
                blockxsize=BLOCK,
                blockysize=BLOCK,
                compress="DEFLATE",
                zlevel=1,
                BIGTIFF="IF_SAFER",
                SPARSE_OK=True,
            )
        self._dataset.set_band_description(1, "class")
        self._dataset.write_colormap(1, legend.palette())
        self._dataset.update_tags(**{LEGEND_TAG: legend.model_dump_json()}, **tags)

    def __enter__(self) -> MaskWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dataset.close()
        self._scratch.unlink(missing_ok=True)

    def write(self, start: int, rows: NDArray[np.uint8]) -> None:
        """Append rows; they reach the file in whole rows of blocks."""
        pending = sum(len(part) for part in self._pending)
        if start != self._next + pending:
            raise ValueError(f"row {start} does not follow row {self._next + pending}")
        self._pending.append(rows)
        if pending + len(rows) >= BLOCK:
            self._flush((pending + len(rows)) // BLOCK * BLOCK)

    def _flush(self, count: int) -> None:
        rows = np.concatenate(self._pending)
        with _disk_errors(self._name):
            self._dataset.write(rows[:count], 1, window=Window(0, self._next, self._grid.width, count))
        self._pending = [rows[count:]] if count < len(rows) else []
        self._next += count

    def finish(self) -> Path:
        """The COG is complete, validated and its sidecars lie beside it. Returns its path."""
        if self._pending:
            self._flush(sum(len(part) for part in self._pending))
        if self._next != self._grid.height:
            raise ValueError(f"{self._next} of {self._grid.height} rows were written")
        final = self._folder / self._name
        with _disk_errors(self._name):
            self._dataset.close()
            rasterio.shutil.copy(
                self._scratch,
                final,
                driver="COG",
                compress="DEFLATE",
                level=6,
                blocksize=BLOCK,
                # Always: without it GDAL averages class numbers and invents classes.
                overview_resampling="MODE",
                num_threads="ALL_CPUS",
                bigtiff="IF_SAFER",
                sparse_ok=True,
            )
        self._scratch.unlink()
        _check_written(final, self._grid)
        write_category_names(final.with_name(final.name + ".aux.xml"), self._legend)
        write_qml(final.with_suffix(".qml"), self._legend)
        return final


@contextmanager
def _disk_errors(name: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Masks of rasters without CRS are wanted.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except RasterioError as error:
        raise OutputError(
            f"{name} could not be written ({error}); free disk space or check the folder, and run again"
        ) from error


def _check_written(path: Path, grid: Grid) -> None:
    """A copy on a full disk can reopen and read as nodata; size and the last block tell."""
    with open_dataset(path) as dataset:
        if dataset.shape != grid.shape:
            raise OutputError(
                f"{path.name} came out as {dataset.shape}, wanted {grid.shape}; free disk space, retry"
            )
        dataset.read(1, window=Window(grid.width - 1, grid.height - 1, 1, 1))


def write_category_names(path: Path, legend: Legend) -> None:
    """GDAL's .aux.xml with one name per pixel value (CategoryNames), empty for values that are no class."""
    root = Xml.Element("PAMDataset")
    band = Xml.SubElement(root, "PAMRasterBand", band="1")
    Xml.SubElement(band, "Description").text = "class"
    names = Xml.SubElement(band, "CategoryNames")
    entries = legend.by_value()
    for value in range(max(entries) + 1):
        Xml.SubElement(names, "Category").text = entries[value].name if value in entries else ""
    Xml.indent(root)
    Xml.ElementTree(root).write(path)


def write_qml(path: Path, legend: Legend) -> None:
    """A QGIS style that lists just the real classes; QGIS loads `<mask name>.qml` by itself."""
    root = Xml.Element("qgis", version="3.0", styleCategories="AllStyleCategories")
    pipe = Xml.SubElement(root, "pipe")
    renderer = Xml.SubElement(pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1")
    palette = Xml.SubElement(renderer, "colorPalette")
    for entry in legend.entries:
        Xml.SubElement(
            palette, "paletteEntry", value=str(entry.value), label=entry.name, color=entry.colour, alpha="255"
        )
    Xml.indent(root)
    Xml.ElementTree(root).write(path)


def read_legend(path: Path | str) -> Legend | None:
    """The classes that a mask file tells of: our tag, else GDAL's category names with the palette; None without."""
    with open_dataset(path) as dataset:
        text = dataset.tags().get(LEGEND_TAG)
        if text is not None:
            try:
                return Legend.model_validate_json(text)
            except ValidationError as error:
                raise InputError(
                    f"{path} has a damaged {LEGEND_TAG} tag ({error.errors()[0]['msg']}); run predict again"
                ) from error
        return _legend_of_categories(dataset)


def _legend_of_categories(dataset: DatasetReader) -> Legend | None:
    """rasterio does not show category names: they are read from the sidecar that carries them."""
    sidecar = Path(dataset.name + ".aux.xml")
    if not sidecar.exists():
        return None
    try:
        names = [element.text or "" for element in Xml.parse(sidecar).iter("Category")]
    except Xml.ParseError as error:
        raise InputError(f"{sidecar} is not XML ({error}); delete it or write it again") from error
    if not any(names):
        return None
    try:
        colormap = dataset.colormap(1)
    except ValueError:
        colormap = {}
    # 255 is nodata whatever its name; a colour table of 256 entries names it all the same.
    named = [name or f"class {k}" for k, name in enumerate(names[:IGNORE])]
    try:
        return legend_from_colormap(named, colormap)
    except ValidationError as error:
        raise InputError(
            f"{sidecar} has unusable category names ({error.errors()[0]['msg']}); give every class one of its own"
        ) from error


def provenance(**facts: object) -> dict[str, str]:
    """Facts as TIFF tags `AERIAL_SEG_…`; texts stay as they are, everything else becomes JSON."""
    return {
        f"AERIAL_SEG_{key.upper()}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in facts.items()
    }
