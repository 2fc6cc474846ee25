"""How QGIS shows points that somebody labels: a ring, and a form that offers the classes by name."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from aerial_seg.legend import Legend
from aerial_seg.outputs.qgis_style import plain_symbol
from aerial_seg.printable import cleaned_name

LAYER, REFERENCE, PICTURE, DRAWN = "points", "reference", "picture", "drawn"
"""The layer, the field that is filled, that which names a picture of the point's surroundings, and that which says in
each point how many there were: without it nobody could tell that the last ones are gone."""
_HIDDEN = ("stratum", DRAWN)
_SHOWN = ("point", REFERENCE, "remark", "row", "col")
_FILLED = (REFERENCE, "remark")
_FOLDER = "file_path(regexp_replace(layer_property(@layer_id, 'source'), '[|].*$', ''))"
_DONE, _OPEN = "46,134,193,255", "192,57,43,255"


def point_style(legend: Legend, *, pictures: bool = False) -> str:
    """A .qml: points without a reference class in red, with one in blue; the form offers the classes of the legend.

    The map's own class is not in it: who knows what the map says, agrees with it too often. pictures: whether the form
    shows those that the field `picture` names, from the folder of the GeoPackage on.
    """
    root = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology|Fields|Forms")
    root.append(_fields(legend, pictures=pictures))
    root.append(_renderer())
    editable = Xml.SubElement(root, "editable")
    shown = (*_SHOWN, PICTURE) if pictures else _SHOWN
    for name in (*shown, *_HIDDEN):
        Xml.SubElement(editable, "field", name=name, editable="1" if name in _FILLED else "0")
    Xml.SubElement(root, "editorlayout").text = "tablayout"
    form = Xml.SubElement(root, "attributeEditorForm")
    for number, name in enumerate(shown):
        Xml.SubElement(form, "attributeEditorField", name=name, index=str(number), showLabel="1")
    Xml.SubElement(root, "layerGeometryType").text = "0"
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode") + "\n"


def _fields(legend: Legend, *, pictures: bool) -> Xml.Element:
    configuration = Xml.Element("fieldConfiguration")
    reference = Xml.SubElement(configuration, "field", name=REFERENCE)
    widget = Xml.SubElement(reference, "editWidget", type="ValueMap")
    options = Xml.SubElement(Xml.SubElement(widget, "config"), "Option", type="Map")
    classes = Xml.SubElement(options, "Option", name="map", type="List")
    for entry in sorted(legend.entries, key=lambda entry: entry.value):
        pair = Xml.SubElement(classes, "Option", type="Map")
        Xml.SubElement(pair, "Option", type="QString", name=cleaned_name(entry.name), value=str(entry.value))
    if pictures:
        _picture(Xml.SubElement(configuration, "field", name=PICTURE))
    for name in _HIDDEN:
        hidden = Xml.SubElement(configuration, "field", name=name)
        Xml.SubElement(hidden, "editWidget", type="Hidden")
    return configuration


def _picture(field: Xml.Element) -> None:
    """The field's text is a path from the folder on where the layer's file lies, shown as the picture there."""
    widget = Xml.SubElement(field, "editWidget", type="ExternalResource")
    options = Xml.SubElement(Xml.SubElement(widget, "config"), "Option", type="Map")
    for name, kind, value in (
        ("DocumentViewer", "int", "1"),
        ("DocumentViewerHeight", "int", "512"),
        ("DocumentViewerWidth", "int", "512"),
        ("FileWidget", "bool", "true"),
        ("FileWidgetButton", "bool", "false"),
        ("RelativeStorage", "int", "2"),
        ("StorageMode", "int", "0"),
    ):
        Xml.SubElement(options, "Option", type=kind, name=name, value=value)
    collection = Xml.SubElement(options, "Option", type="Map", name="PropertyCollection")
    Xml.SubElement(collection, "Option", type="QString", name="name", value="")
    properties = Xml.SubElement(collection, "Option", type="Map", name="properties")
    root = Xml.SubElement(properties, "Option", type="Map", name="propertyRootPath")
    Xml.SubElement(root, "Option", type="bool", name="active", value="true")
    Xml.SubElement(root, "Option", type="QString", name="expression", value=_FOLDER)
    Xml.SubElement(root, "Option", type="int", name="type", value="3")
    Xml.SubElement(collection, "Option", type="QString", name="type", value="collection")


def _renderer() -> Xml.Element:
    renderer = Xml.Element("renderer-v2", type="RuleRenderer", enableorderby="0", symbollevels="0")
    rules = Xml.SubElement(renderer, "rules", key="points")
    symbols = Xml.SubElement(renderer, "symbols")
    told = (
        ("to be labelled", f'"{REFERENCE}" is null', _OPEN),
        ("labelled", f'"{REFERENCE}" is not null', _DONE),
    )
    for number, (label, rule, colour) in enumerate(told):
        Xml.SubElement(rules, "rule", key=f"rule{number}", label=label, filter=rule, symbol=str(number))
        symbols.append(_ring(number, colour))
    return renderer


def _ring(number: int, colour: str) -> Xml.Element:
    properties = {
        "name": "circle",
        "color": "0,0,0,0",
        "outline_color": colour,
        "outline_style": "solid",
        "outline_width": "0.6",
        "outline_width_unit": "MM",
        "size": "4",
        "size_unit": "MM",
    }
    return plain_symbol(number, "marker", "SimpleMarker", properties)
