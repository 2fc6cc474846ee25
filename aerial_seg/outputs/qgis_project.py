"""A project of QGIS: layers with their styles in groups, the files named from the project's own folder on."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from pyproj import CRS

from aerial_seg.errors import OutputError
from aerial_seg.outputs.qgis_style import plain_symbol
from aerial_seg.printable import printable

_FIXED_TIME = (1995, 7, 26, 0, 0, 0)
"""Equal work gives equal bytes."""
_VERSION = "3.22.0"


@dataclass(frozen=True, slots=True)
class ProjectLayer:
    """One layer. path: its file; inside: the layer's name in a file of several; crs: None where it has none.

    group: that it lies in. style: its pipe (a raster) or renderer (polygons); None: QGIS' own. shown: at first.
    """

    name: str
    path: Path
    group: str
    crs: CRS | None
    is_raster: bool
    style: Xml.Element | None = None
    inside: str | None = None
    shown: bool = True


def project_file(
    final: Path, layers: Sequence[ProjectLayer], *, title: str, crs: CRS | None, box: Sequence[float]
) -> bytes:
    """The bytes of a .qgz that lies at `final`. layers: the first lies on top. box: left, bottom, right, top to show.

    Raises OutputError for names that XML cannot hold.
    """
    root = Xml.Element("qgis", version=_VERSION, projectname=title)
    Xml.SubElement(root, "title").text = printable(title, lines=False)
    _system(Xml.SubElement(root, "projectCrs"), crs)
    tree = Xml.SubElement(root, "layer-tree-group")
    groups: dict[str, Xml.Element] = {}
    order = Xml.SubElement(root, "layerorder")
    kept = Xml.Element("projectlayers")
    for number, layer in enumerate(layers, start=1):
        # QGIS passes over a name of ten letters or fewer, and makes another one that the tree does not know.
        name, source = f"aerial_seg_layer_{number}", _source(layer, final)
        if layer.group not in groups:
            groups[layer.group] = Xml.SubElement(
                tree, "layer-tree-group", name=layer.group, expanded="1", checked="Qt::Checked"
            )
        Xml.SubElement(
            groups[layer.group], "layer-tree-layer", id=name, name=printable(layer.name, lines=False),
            source=source, providerKey="gdal" if layer.is_raster else "ogr", expanded="0",
            checked="Qt::Checked" if layer.shown else "Qt::Unchecked",
        )  # fmt: skip
        Xml.SubElement(order, "layer", id=name)
        kept.append(_layer(layer, name, source))
    canvas = Xml.SubElement(root, "mapcanvas", name="theMapCanvas")
    extent = Xml.SubElement(canvas, "extent")
    for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
        Xml.SubElement(extent, tag).text = repr(float(value))
    _system(Xml.SubElement(canvas, "destinationsrs"), crs)
    root.append(kept)
    properties = Xml.SubElement(root, "properties")
    Xml.SubElement(Xml.SubElement(properties, "Paths"), "Absolute", type="bool").text = "false"
    # Without it the project's CRS is passed over.
    systems = Xml.SubElement(properties, "SpatialRefSys")
    Xml.SubElement(systems, "ProjectionsEnabled", type="int").text = "0" if crs is None else "1"
    Xml.indent(root)
    try:
        text = Xml.tostring(root, encoding="unicode").encode()
    except UnicodeEncodeError as error:
        raise OutputError(
            "a file's name is no text, which a QGIS project must name it by; rename it, or write a page (.html)"
        ) from error
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(f"{_stem(final)}.qgs", _FIXED_TIME), text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _stem(final: Path) -> str:
    """The name of the text within: QGIS takes any."""
    return final.stem if final.stem.isascii() else "project"


def single_outline(colour: str) -> Xml.Element:
    """A renderer of polygons that draws outlines of one colour #rrggbb and nothing within."""
    rgb = ",".join(str(int(colour[k : k + 2], 16)) for k in (1, 3, 5))
    renderer = Xml.Element("renderer-v2", type="singleSymbol", enableorderby="0", symbollevels="0")
    look = {
        "color": f"{rgb},0", "style": "no", "outline_color": f"{rgb},255", "outline_style": "solid",
        "outline_width": "0.5", "outline_width_unit": "MM",
    }  # fmt: skip
    Xml.SubElement(renderer, "symbols").append(plain_symbol(0, "fill", "SimpleFill", look))
    return renderer


def _source(layer: ProjectLayer, final: Path) -> str:
    """As QGIS names it, from the project's folder on; where no way leads there, as on another drive, from the root."""
    try:
        name = Path(os.path.relpath(layer.path.absolute(), final.absolute().parent)).as_posix()
        name = name if name.startswith("../") else f"./{name}"
    except ValueError:
        name = layer.path.absolute().as_posix()
    if printable(name, lines=False) != name or "|" in name:
        raise OutputError(
            f"{layer.path} has letters in its name that a QGIS project cannot name it by; rename it, or write a page "
            "(.html)"
        )
    return name if layer.inside is None else f"{name}|layername={layer.inside}"


def _layer(layer: ProjectLayer, name: str, source: str) -> Xml.Element:
    kind = {"type": "raster"} if layer.is_raster else {
        "type": "vector", "geometry": "Polygon", "wkbType": "MultiPolygon",
    }  # fmt: skip
    element = Xml.Element("maplayer", kind)
    for tag, text in (
        ("id", name),
        ("datasource", source),
        ("layername", printable(layer.name, lines=False)),
    ):
        Xml.SubElement(element, tag).text = text
    _system(Xml.SubElement(element, "srs"), layer.crs)
    provider = Xml.SubElement(element, "provider")
    provider.text = "gdal" if layer.is_raster else "ogr"
    if not layer.is_raster:
        provider.set("encoding", "UTF-8")
    if layer.style is not None:
        element.append(layer.style)
    return element


def _system(parent: Xml.Element, crs: CRS | None) -> None:
    system = Xml.SubElement(parent, "spatialrefsys")
    if crs is None:
        return
    Xml.SubElement(system, "wkt").text = crs.to_wkt()
    authority = crs.to_authority(min_confidence=100)
    if authority is not None:
        Xml.SubElement(system, "authid").text = ":".join(authority)
