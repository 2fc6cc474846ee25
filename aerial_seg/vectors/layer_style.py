"""The style of a layer: a colour for each class, inside a GeoPackage or in the .qml that files of one name share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aerial_seg.errors import OutputError
from aerial_seg.legend import Legend
from aerial_seg.outputs.qgis_style import (
    LAYER_SUFFIXES,
    SUFFIX,
    StyleClass,
    class_polygons,
    is_own,
    namesakes,
    own_style,
    read_classes,
    read_style,
    shared_text,
    stays,
    style_classes,
    style_text,
)


@dataclass(frozen=True, slots=True)
class LayerStyle:
    """The .qml to write; None: what is there stays. notes: why, or what else it changes."""

    text: str | None
    notes: tuple[str, ...] = ()


def grown_style(before: str | None, legend: Legend, where: str) -> LayerStyle:
    """The style of a layer that has `before` for its style (None: has none) and gets features of these classes.

    Classes that are drawn already stay as they are, and so does a style that is not ours (any more). Raises
    OutputError, with the file's name `where`, if one class_id means two classes.
    """
    later = style_classes(legend)
    if before is None:
        return LayerStyle(style_text(class_polygons(later)))
    known = {entry.value: entry for entry in read_classes(read_style(before))}
    for entry in later:
        same = known.get(entry.value, entry)
        if same.name != _drawn(entry):
            raise OutputError(
                f"class_id {entry.value} is '{same.name}' in {where} and '{entry.name}' in the new features; "
                "append to a layer of the same classes, or write another one"
            )
    if not is_own(before):
        return LayerStyle(None, (_undrawn(where),))
    both = {entry.value: entry for entry in later} | known
    return LayerStyle(style_text(class_polygons(both[value] for value in sorted(both))))


def namesakes_style(path: Path, legend: Legend, *, before: str | None = None) -> LayerStyle:
    """The .qml for the layer file `path` and for whatever else has its name there.

    before: the .qml of a layer that grows. Of a raster's style in it nothing changes. Other layers of that name keep
    their classes; where one number means two of them, these classes are drawn, and that is told. Raises OutputError:
    see `grown_style`.
    """
    file = path.with_suffix(SUFFIX)
    style = own_style(file)
    if style is None:
        return LayerStyle(None, (stays(file, path.name),))
    classes = style_classes(legend)
    notes: tuple[str, ...] = ()
    if before is not None:
        grown = grown_style(before, legend, path.name)
        assert grown.text is not None, "ours, as own_style says"
        classes = read_classes(read_style(grown.text))
    elif others := [other for other in namesakes(file, LAYER_SUFFIXES) if other != path]:
        classes, notes = _with_those_of(read_classes(style), classes, others, file)
    return LayerStyle(shared_text(file, class_polygons(classes)), notes)


def _with_those_of(
    known: tuple[StyleClass, ...], classes: tuple[StyleClass, ...], others: list[Path], file: Path
) -> tuple[tuple[StyleClass, ...], tuple[str, ...]]:
    both = {entry.value: entry for entry in known}
    clashing = [entry for entry in classes if both.get(entry.value, entry).name != _drawn(entry)]
    both |= {entry.value: entry for entry in classes}
    drawn = tuple(both[value] for value in sorted(both))
    if not clashing:
        return drawn, ()
    first = clashing[0]
    old = next(entry.name for entry in known if entry.value == first.value)
    return drawn, (
        f"{file.name} draws {', '.join(other.name for other in others)} as well, where class_id {first.value} was "
        f"'{old}' and is now drawn as '{first.name}'; give one of them another name",
    )


def _drawn(entry: StyleClass) -> str:
    """The class's name as a style holds it."""
    (found,) = read_classes(class_polygons([entry]))
    return found.name


def _undrawn(where: str) -> str:
    return (
        f"the style of {where} is not (or no longer) as aerial-seg wrote it, so it stays; "
        "give classes that are new there a colour in it"
    )
