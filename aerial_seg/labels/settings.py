"""How labels become classes: the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from aerial_seg.labels.class_table import ClassTable, class_table
from aerial_seg.labels.presets import Preset
from aerial_seg.settings import Setting, names_in, settings


@settings
@dataclass(frozen=True, slots=True)
class LabelSettings:
    """Say how to read labels."""

    class_field: Annotated[
        str | None,
        Setting(
            "Attribute of vector labels that names the class; without it all polygons are one class.",
            metavar="FIELD",
        ),
    ] = None
    classes: Annotated[
        ClassTable | None,
        Setting(
            "What values of labels mean: 'building,road' in order, pairs as '0=background,255=building,312=forest', or "
            "a table (.csv, .toml: value, name, colour, code). Several values may be one class, and 'unlabelled' is "
            "none. Without it: those of the labels.",
            wanted="names, a mapping of values to names, or a table's file",
            read=class_table,
            file=True,
            metavar="LIST|FILE",
        ),
    ] = None
    unlabelled: Annotated[
        tuple[int, ...],
        Setting(
            "Value of a label raster for 'not labelled'. May be repeated.",
            low=-(2**31),
            high=2**31 - 1,
            metavar="VALUE",
            several=True,
        ),
    ] = ()
    outside: Annotated[
        Literal["background", "unlabelled"],
        Setting("What ground outside every label polygon is; 'unlabelled' for partial annotation."),
    ] = "background"
    crs: Annotated[
        str | None,
        Setting(
            "CRS of a label file that carries none (or a wrong one: that is noted).",
            flag="--labels-crs",
            metavar="EPSG:CODE",
        ),
    ] = None
    layer: Annotated[
        str | None,
        Setting(
            "Layer of a vector label file; without it the only one, or the only one of polygons.",
            metavar="NAME",
        ),
    ] = None
    encoding: Annotated[
        str | None,
        Setting(
            "Encoding of texts in vector labels that state none, as Shapefiles without .cpg, or a wrong one.",
            metavar="NAME",
        ),
    ] = None
    buffer: Annotated[
        float | None,
        Setting(
            "Widen vector labels by M metres on the ground: lines and points need it, polygons may have it.",
            low=1e-3,
            high=1e5,
            metavar="M",
        ),
    ] = None
    all_touched: Annotated[
        bool, Setting("Count every pixel that a polygon touches, not only those whose centre it holds.")
    ] = False
    labelled_area: Annotated[
        str | None,
        Setting(
            "Polygons in which everything was drawn; outside is unlabelled. A file, or a layer of the labels' file.",
            metavar="LAYER",
        ),
    ] = None
    preset: Annotated[
        Preset | None,
        Setting(
            "Classes, numbers and colours of label rasters that others publish, in place of a list of classes."
        ),
    ] = None
    priority: Annotated[
        tuple[str, ...],
        Setting(
            "Classes whose polygons lie on top of others where they overlap, the topmost first.",
            wanted="names of classes",
            read=names_in,
            metavar="CLASS,...",
        ),
    ] = ()
    ignore_border: Annotated[
        int,
        Setting(
            "Pixels on both sides of a border between classes that count as unlabelled.",
            low=0,
            high=256,
            metavar="PX",
        ),
    ] = 0
