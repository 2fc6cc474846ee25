"""How QGIS draws a result: NAME.qml, which it loads by itself for every layer called NAME, raster or polygons.

One file holds both styles, so that NAME.tif and NAME.shp (or .geojson, .fgb …) show their classes side by side. Ours
ends in a checksum: what somebody changed by hand or saved in QGIS does not fit it any more, is theirs and stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from aerial_seg.legend import Legend
from aerial_seg.printable import cleaned_name

SUFFIX = ".qml"
RASTER_SUFFIXES = (".tif", ".tiff")
LAYER_SUFFIXES = (
    ".shp", ".geojson", ".json", ".geojsonl", ".geojsons", ".ndjson", ".jsonl", ".fgb", ".parquet", ".geoparquet",
    ".pq", ".csv",
)  # fmt: skip
"""Of rasters and of polygons that take their style from the file of their name; a GeoPackage holds its own."""

_SEAL = "<!-- Written by aerial-seg, which renews this style as long as nobody changed it: sha256 {} -->\n"
_SEALED = re.compile(re.escape(_SEAL).replace(re.escape("{}"), "([0-9a-f]{64})") + r"\Z")
_OUTLINE = "35,35,35,255"
_THIN_MM, _BOLD_MM = "0.1", "0.6"
_VALUE = re.compile(r"-?[0-9]{1,10}")
_COLOUR = re.compile(r"([0-9]{1,3}),([0-9]{1,3}),([0-9]{1,3})(?:,|$)")
_VEIL = 70
"""Opacity out of 255 of what must not hide the imagery below."""


@dataclass(frozen=True, slots=True)
class StyleClass:
    """A class as it is drawn: its value (in pixels or in a column), its name in the legend, its colour #rrggbb."""

    value: int | str
    name: str
    colour: str


@dataclass(frozen=True, slots=True)
class Style:
    """How the rasters and how the polygons of a name are drawn; None says nothing of them."""

    raster: Xml.Element | None = None
    polygons: Xml.Element | None = None


def style_classes(legend: Legend) -> tuple[StyleClass, ...]:
    """The classes of the legend, by value."""
    entries = sorted(legend.entries, key=lambda entry: entry.value)
    return tuple(StyleClass(entry.value, entry.name, entry.colour) for entry in entries)


def class_raster(legend: Legend, *, band: int = 1, unseen: Collection[int] = ()) -> Style:
    """A raster of class numbers: a colour and a name for each class, and nothing for other values.

    band: which one, from 1. unseen: values that let what lies below shine through.
    """
    pipe = Xml.Element("pipe")
    renderer = Xml.SubElement(
        pipe, "rasterrenderer", type="paletted", band=str(band), opacity="1", alphaBand="-1"
    )
    palette = Xml.SubElement(renderer, "colorPalette")
    for entry in style_classes(legend):
        Xml.SubElement(
            palette,
            "paletteEntry",
            value=str(entry.value),
            label=cleaned_name(entry.name),
            color=entry.colour,
            alpha="0" if entry.value in unseen else "255",
        )
    return Style(raster=pipe)


def grey_raster(band: int) -> Style:
    """A raster of probabilities: this band (from 1) alone, 0 black to 1 white, with the file's scale applied."""
    pipe = Xml.Element("pipe")
    renderer = Xml.SubElement(
        pipe,
        "rasterrenderer",
        type="singlebandgray",
        grayBand=str(band),
        gradient="BlackToWhite",
        opacity="1",
        alphaBand="-1",
    )
    enhancement = Xml.SubElement(renderer, "contrastEnhancement")
    for name, text in (("minValue", "0"), ("maxValue", "1"), ("algorithm", "StretchToMinimumMaximum")):
        Xml.SubElement(enhancement, name).text = text
    return Style(raster=pipe)


def class_polygons(classes: Iterable[StyleClass], *, column: str = "class_id", veil: bool = False) -> Style:
    """Polygons coloured by a column. veil: what lies below shines through, and the outline has the colour instead."""
    renderer = Xml.Element(
        "renderer-v2", type="categorizedSymbol", attr=column, enableorderby="0", symbollevels="0"
    )
    categories = Xml.SubElement(renderer, "categories")
    symbols = Xml.SubElement(renderer, "symbols")
    for number, entry in enumerate(classes):
        Xml.SubElement(
            categories,
            "category",
            value=str(entry.value),
            label=cleaned_name(entry.name),
            symbol=str(number),
            render="true",
            type="integer" if isinstance(entry.value, int) else "string",
        )
        symbols.append(_symbol(number, entry.colour, veil=veil))
    return Style(polygons=renderer)


def _symbol(number: int, colour: str, *, veil: bool) -> Xml.Element:
    """A filled area with an outline."""
    rgb = ",".join(str(int(colour[k : k + 2], 16)) for k in (1, 3, 5))
    properties = {
        "color": f"{rgb},{_VEIL if veil else 255}",
        "style": "solid",
        "outline_color": f"{rgb},255" if veil else _OUTLINE,
        "outline_style": "solid",
        "outline_width": _BOLD_MM if veil else _THIN_MM,
        "outline_width_unit": "MM",
    }
    return plain_symbol(number, "fill", "SimpleFill", properties)


def plain_symbol(number: int, kind: str, layer_class: str, properties: Mapping[str, str]) -> Xml.Element:
    """A symbol of one layer. kind: fill or marker; layer_class: QGIS' name of what draws it, by these properties."""
    symbol = Xml.Element("symbol", type=kind, name=str(number), alpha="1", clip_to_extent="1", force_rhr="0")
    layer = Xml.SubElement(
        symbol, "layer", {"class": layer_class, "enabled": "1", "locked": "0", "pass": "0"}
    )
    options = Xml.SubElement(layer, "Option", type="Map")
    for name, value in properties.items():
        Xml.SubElement(options, "Option", type="QString", name=name, value=value)
    for name, value in properties.items():
        # QGIS before 3.18 reads these.
        Xml.SubElement(layer, "prop", k=name, v=value)
    return symbol


def style_text(style: Style) -> str:
    """The style as a .qml, with our checksum at its end. Equal styles make equal texts."""
    root = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology")
    for part in (style.raster, style.polygons):
        if part is not None:
            root.append(part)
    if style.polygons is not None:
        Xml.SubElement(root, "layerGeometryType").text = "2"
    Xml.indent(root)
    text = Xml.tostring(root, encoding="unicode") + "\n"
    return text + _SEAL.format(_checksum(text))


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_own(text: str) -> bool:
    """Whether `style_text` made it and nobody has changed it since."""
    seal = _SEALED.search(text)
    return seal is not None and seal[1] == _checksum(text[: seal.start()])


def read_style(text: str) -> Style:
    """The parts of a style, ours or not; nothing of what is no style."""
    try:
        root = Xml.fromstring(text)
    except Xml.ParseError:
        return Style()
    return Style(root.find("pipe"), root.find("renderer-v2"))


def read_classes(style: Style) -> tuple[StyleClass, ...]:
    """The classes by which polygons are coloured, by class_id; empty for any other style."""
    renderer = style.polygons
    if renderer is None or renderer.get("attr") != "class_id":
        return ()
    colours = {
        symbol.get("name"): prop.get("v", "")
        for symbol in renderer.iter("symbol")
        if (prop := symbol.find("layer/prop[@k='color']")) is not None
    }
    found = []
    for category in renderer.iter("category"):
        value, label = category.get("value", ""), category.get("label", "")
        colour = _COLOUR.match(colours.get(category.get("symbol"), ""))
        if colour is None or _VALUE.fullmatch(value) is None:
            continue
        numbers = [min(int(part), 255) for part in colour.groups()]
        found.append(StyleClass(int(value), label, "#{:02x}{:02x}{:02x}".format(*numbers)))
    return tuple(found)


def own_style(path: Path) -> Style | None:
    """What the style file says, nothing where there is none; None where it is not ours (any more)."""
    try:
        # Bytes: read as text, other line ends would go unseen.
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return Style()
    except (UnicodeDecodeError, IsADirectoryError):
        return None
    return read_style(text) if is_own(text) else None


def shared_text(path: Path, fresh: Style) -> str | None:
    """What the style file `path` is to hold: `fresh`, and of the other kind of layers what it says of those there.

    None where somebody else's style lies there, which must stay.
    """
    before = own_style(path)
    if before is None:
        return None
    raster, polygons = fresh.raster, fresh.polygons
    if raster is None and namesakes(path, RASTER_SUFFIXES):
        raster = before.raster
    if polygons is None and namesakes(path, LAYER_SUFFIXES):
        polygons = before.polygons
    return style_text(Style(raster, polygons))


def namesakes(path: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files beside `path` of its name with one of these suffixes."""
    tried = (path.with_suffix(end) for suffix in suffixes for end in (suffix, suffix.upper()))
    return [other for other in tried if other.is_file()]


def stays(path: Path, layer: str) -> str:
    """What to tell of a style that is not ours, beside the layer's file name."""
    return (
        f"{path.name} is not (or no longer) as aerial-seg wrote it, so it stays and draws {layer} too; "
        "delete it and run again for the classes' own colours"
    )
