"""How QGIS draws a layer: a colour for each of its classes, in a .qml beside it or in a GeoPackage's layer_styles."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from aerial_seg.errors import OutputError
from aerial_seg.legend import Legend
from aerial_seg.vectors.formats import FIXED_DATE

STYLES_TABLE = "layer_styles"
_FIXED_TIME = f"{FIXED_DATE}T00:00:00.000Z"
_OUTLINE = "35,35,35,255"
_OUTLINE_MM = "0.1"

# As QGIS makes it, so that it reads and replaces styles there.
_CREATE_TABLE = f"""
CREATE TABLE IF NOT EXISTS {STYLES_TABLE} (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
    f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
    useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), update_time DATETIME
)
"""
_REGISTER_TABLE = f"""
INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier, description, last_change)
VALUES ('{STYLES_TABLE}', 'attributes', '{STYLES_TABLE}', '', '{_FIXED_TIME}')
"""
_ADD_STYLE = f"""
INSERT INTO {STYLES_TABLE}
    (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, styleQML, styleSLD, useAsDefault,
     description, owner, ui, update_time)
VALUES ('', '', ?, ?, ?, ?, '', 1, 'one colour per class', '', '', '{_FIXED_TIME}')
"""


@dataclass(frozen=True, slots=True)
class StyleClass:
    """A class as it is drawn: value in class_id, name in the table of contents, colour #rrggbb."""

    value: int
    name: str
    colour: str


def style_classes(legend: Legend) -> tuple[StyleClass, ...]:
    """The classes of the legend, by value."""
    entries = sorted(legend.entries, key=lambda entry: entry.value)
    return tuple(StyleClass(entry.value, entry.name, entry.colour) for entry in entries)


def qml(classes: Iterable[StyleClass]) -> str:
    """A QGIS style that draws polygons by class_id: these classes and no others."""
    root = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = Xml.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="class_id", enableorderby="0", symbollevels="0"
    )
    categories = Xml.SubElement(renderer, "categories")
    symbols = Xml.SubElement(renderer, "symbols")
    for number, entry in enumerate(classes):
        Xml.SubElement(
            categories,
            "category",
            value=str(entry.value),
            label=_printable(entry.name),
            symbol=str(number),
            render="true",
            type="integer",
        )
        symbols.append(_symbol(number, entry.colour))
    Xml.SubElement(root, "layerGeometryType").text = "2"
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode")


def _symbol(number: int, colour: str) -> Xml.Element:
    """A filled area with a thin outline."""
    symbol = Xml.Element(
        "symbol", type="fill", name=str(number), alpha="1", clip_to_extent="1", force_rhr="0"
    )
    layer = Xml.SubElement(
        symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"}
    )
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    properties = {
        "color": f"{red},{green},{blue},255",
        "style": "solid",
        "outline_color": _OUTLINE,
        "outline_style": "solid",
        "outline_width": _OUTLINE_MM,
        "outline_width_unit": "MM",
    }
    options = Xml.SubElement(layer, "Option", type="Map")
    for name, value in properties.items():
        Xml.SubElement(options, "Option", type="QString", name=name, value=value)
    for name, value in properties.items():
        # QGIS before 3.18 reads these.
        Xml.SubElement(layer, "prop", k=name, v=value)
    return symbol


def _printable(text: str) -> str:
    """XML has no place for most control characters."""
    return "".join(letter for letter in text if letter.isprintable())


def read_classes(style: str) -> tuple[StyleClass, ...]:
    """The classes of a style that `qml` made; empty for any other style."""
    try:
        root = Xml.fromstring(style)
    except Xml.ParseError:
        return ()
    if root.find("renderer-v2[@attr='class_id']") is None:
        return ()
    found = []
    for category in root.iter("category"):
        symbol = root.find(f".//symbol[@name='{category.get('symbol')}']/layer/prop[@k='color']")
        value, label = category.get("value", ""), category.get("label", "")
        if symbol is not None and value.lstrip("-").isdigit():
            numbers = [int(part) for part in symbol.get("v", "").split(",")[:3]]
            found.append(StyleClass(int(value), label, "#{:02x}{:02x}{:02x}".format(*numbers)))
    return tuple(found)


def updated_style(before: str | None, legend: Legend, where: str) -> str:
    """The style of a layer that has `before` for its style (None: is new) and gets features of these classes.

    Classes that are drawn already stay as they are, and so does a style that `qml` did not make. Raises OutputError,
    with the file's name `where`, if one class_id means two classes.
    """
    later = style_classes(legend)
    if before is None:
        return qml(later)
    classes = {entry.value: entry for entry in read_classes(before)}
    if not classes:
        return before
    for entry in later:
        known = classes.setdefault(entry.value, entry)
        if known.name != _printable(entry.name):
            raise OutputError(
                f"class_id {entry.value} is '{known.name}' in {where} and '{entry.name}' in the new features; "
                "append to a layer of the same classes, or write another one"
            )
    return qml(classes[value] for value in sorted(classes))


def is_raster_style(path: Path) -> bool:
    """Whether there is a .qml that belongs to a raster of the same name: that one must stay."""
    return path.exists() and b"<rasterrenderer" in path.read_bytes()


def stored_style(path: Path, layer: str) -> str | None:
    """The default style of a GeoPackage's layer, None where there is none."""
    with closing(sqlite3.connect(path, timeout=0)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (STYLES_TABLE,)).fetchone():
            return None
        row = database.execute(
            f"SELECT styleQML FROM {STYLES_TABLE} WHERE f_table_name = ? ORDER BY useAsDefault DESC", (layer,)
        ).fetchone()
    return None if row is None else row[0]


def settle_geopackage(path: Path, layer: str, style: str | None) -> None:
    """The closed GeoPackage has this style as the default of its layer (None: the one it has), and no time of day.

    Raises sqlite3.Error for what the disk does not take.
    """
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA synchronous = OFF")
        if style is not None:
            _store(database, layer, style)
        database.execute(
            "UPDATE gpkg_contents SET last_change = ? WHERE table_name = ?", (_FIXED_TIME, layer)
        )


def _store(database: sqlite3.Connection, layer: str, style: str) -> None:
    database.execute(_CREATE_TABLE)
    database.execute(_REGISTER_TABLE)
    database.execute(f"DELETE FROM {STYLES_TABLE} WHERE f_table_name = ? AND useAsDefault", (layer,))
    (column,) = database.execute(
        "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
    ).fetchone()
    database.execute(_ADD_STYLE, (layer, column, layer[:30], style))
