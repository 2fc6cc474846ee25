"""Class names, colours and pixel counts as a table that GIS software joins to a raster's values.

GDAL and QGIS read it as a raster attribute table in NAME.tif.aux.xml, ArcGIS as NAME.tif.vat.dbf.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pyogrio.raw
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from aerial_seg.files.names import ogr_name, writing_folder
from aerial_seg.legend import Legend
from aerial_seg.outputs.durable import disk_errors, require_written, settled_file
from aerial_seg.outputs.geopackage import FIXED_DATE

_INTEGER, _REAL, _STRING = 0, 1, 2
_FIELDS = (("Value", _INTEGER, 5), ("Class", _STRING, 2), ("Count", _REAL, 1))
_COLOURS = (("Red", _INTEGER, 6), ("Green", _INTEGER, 7), ("Blue", _INTEGER, 8))
_CODES = (("Code", _STRING, 0),)
"""Name, type and usage as GDAL numbers them. Counts are real: GDAL's integers end at 2³¹, large maps do not."""

_LONGEST = 254
"""Bytes that a DBF's text field holds."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One pixel value of a mask and what it means; colours are 0–255, count is pixels.

    code: the class's number elsewhere, as a text: tables have no NULL for numbers.
    """

    value: int
    name: str
    count: int
    red: int
    green: int
    blue: int
    code: str


def class_rows(legend: Legend, counts: Mapping[int, int]) -> list[ClassRow]:
    """A row for each class of the legend, by pixel value. counts: pixel value → pixels; 0 where it is not there."""
    entries = sorted(legend.entries, key=lambda entry: entry.value)
    codes = ["" if entry.code is None else str(entry.code) for entry in entries]
    return [
        ClassRow(e.value, e.name, counts.get(e.value, 0), *e.rgb, code)
        for e, code in zip(entries, codes, strict=True)
    ]


def attribute_table(legend: Legend, counts: Mapping[int, int]) -> Xml.Element:
    """The GDALRasterAttributeTable that goes into a band of an .aux.xml."""
    table = Xml.Element("GDALRasterAttributeTable", tableType="thematic")
    fields = (*_FIELDS, *_COLOURS, *(_CODES if legend.has_codes else ()))
    for index, (name, kind, usage) in enumerate(fields):
        field = Xml.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            Xml.SubElement(field, tag).text = str(text)
    for index, row in enumerate(class_rows(legend, counts)):
        element = Xml.SubElement(table, "Row", index=str(index))
        for part in astuple(row)[: len(fields)]:
            Xml.SubElement(element, "F").text = str(part)
    return table


def write_value_table(raster: Path, legend: Legend, counts: Mapping[int, int]) -> tuple[Path, Path]:
    """`NAME.tif.vat.dbf` for the raster NAME.tif, and the .cpg that says that its texts are UTF-8.

    Fields VALUE, CLASS (cut at 254 bytes), COUNT, RED, GREEN, BLUE, and CODE where classes have codes.
    Raises OutputError when the disk does not take them.
    """
    rows = class_rows(legend, counts)
    columns = {
        "VALUE": np.array([row.value for row in rows], np.int32),
        "CLASS": np.array([_cut(row.name) for row in rows], object),
        "COUNT": np.array([row.count for row in rows], np.int64),
        "RED": np.array([row.red for row in rows], np.int32),
        "GREEN": np.array([row.green for row in rows], np.int32),
        "BLUE": np.array([row.blue for row in rows], np.int32),
    }
    if legend.has_codes:
        columns["CODE"] = np.array([row.code for row in rows], object)
    final = raster.with_name(raster.name + ".vat.dbf")
    codepage = final.with_suffix(".cpg")
    with disk_errors(final), TemporaryDirectory(prefix=".vat-", dir=raster.parent) as folder:
        # GDAL takes a table's name from its file, and wants this suffix.
        draft = Path(folder) / "table.dbf"
        with writing_folder(draft.parent) as place:
            _write_table(place / draft.name, columns)
        require_written(_holds(draft, columns), final)
        for source, target in ((draft.with_suffix(".cpg"), codepage), (draft, final)):
            with settled_file(target) as partial:
                partial.write_bytes(source.read_bytes())
    return final, codepage


def _cut(text: str) -> str:
    return text.encode()[:_LONGEST].decode(errors="ignore")


def _write_table(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    try:
        pyogrio.raw.write(
            path,
            geometry=None,
            field_data=list(columns.values()),
            fields=list(columns),
            driver="ESRI Shapefile",
            encoding="UTF-8",
            layer_options={"DBF_DATE_LAST_UPDATE": FIXED_DATE},
        )
    except (DataSourceError, DataLayerError, FeatureError) as error:
        raise OSError(str(error)) from error


def _holds(path: Path, columns: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the table on disk has these numbers, in all rows; texts lose blanks at their ends."""
    names = [name for name, column in columns.items() if column.dtype != object]
    try:
        meta, _, _, found = pyogrio.raw.read(ogr_name(path), columns=names)
    except (DataSourceError, FeatureError):
        return False
    # pyogrio before 0.13 gives them in an order of its own, another one in every process.
    read = dict(zip(map(str, meta["fields"]), found, strict=True))
    return all(name in read and np.array_equal(read[name], columns[name]) for name in names)
