"""How labels become classes: the settings, and the checks that every form of labels shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aerial_seg.errors import InputError, did_you_mean
from aerial_seg.legend import IGNORE, Legend, make_legend

BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """How to read labels.

    class_field: the attribute that names a polygon's class; None: all polygons are one class.
    classes: pixel value → name, or empty to take what the labels hold.
    unlabelled: values of a label raster that mean "not labelled".
    outside: what ground outside every polygon is: `background`, or `unlabelled` for partial annotation.
    crs: the CRS of labels that carry none, as `EPSG:xxxx`.
    """

    class_field: str | None = None
    classes: Mapping[int, str] | None = None
    unlabelled: tuple[int, ...] = ()
    outside: str = BACKGROUND
    crs: str | None = None
    layer: str | None = None


def parse_classes(text: str | None) -> dict[int, str] | None:
    """`building,road` → {1: building, 2: road}; `1=water,7=sand` → {1: water, 7: sand}; None stays None."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError("--classes is empty; wanted names (building,road) or value=name pairs (1=water,2=sand)")
    if all("=" in part for part in parts):
        pairs = [part.split("=", 1) for part in parts]
        bad = [left for left, _ in pairs if not left.strip().isdigit() or int(left) >= IGNORE]
        if bad:
            raise InputError(f"--classes has value {bad[0]!r}, wanted an integer 0..{IGNORE - 1} before the '='")
        return {int(left): right.strip() for left, right in pairs}
    if any("=" in part for part in parts):
        raise InputError("--classes mixes names and value=name pairs; use one form for all")
    return dict(enumerate(parts, start=1))


def legend_of_values(
    values: Mapping[int, int], settings: LabelSettings, *, what: str, known: Legend | None
) -> Legend:
    """The legend of labels that hold these values (value → count). Raises InputError for undeclared values."""
    if known is not None:
        unknown = {v: n for v, n in values.items() if v not in known.by_value()}
        declared = ", ".join(f"{e.value}={e.name}" for e in known.entries)
    elif settings.classes is not None:
        unknown = {v: n for v, n in values.items() if v not in settings.classes}
        declared = ", ".join(f"{v}={name}" for v, name in settings.classes.items())
    else:
        unknown = {v: n for v, n in values.items() if not 0 <= v < IGNORE}
        declared = f"0..{IGNORE - 1}"
    if unknown:
        raise InputError(
            f"{what} holds the unknown class values {list_counts(unknown)}; wanted {declared}; "
            "declare them with --classes, or pass --unlabelled VALUE for those that mean nothing"
        )
    if known is not None:
        return known
    names = settings.classes or {v: f"class {v}" for v in sorted(values)}
    if not names:
        raise InputError(f"{what} holds no labelled pixel; check --unlabelled and the file's nodata value")
    return make_legend(names, background=[v for v, name in names.items() if name.lower() == BACKGROUND])


def match_name(name: str, known: Sequence[str], counts: Mapping[str, int], *, what: str) -> None:
    """Raises InputError listing all unknown class names with counts unless `name` is known."""
    if name in known:
        return
    unknown = {n: c for n, c in counts.items() if n not in known}
    raise InputError(
        f"{what} holds the unknown classes {list_counts(unknown)}; known: {', '.join(known)}"
        f"{did_you_mean(name, known)}; mend the labels or declare the classes with --classes"
    )


def list_counts(counts: Mapping[int, int] | Mapping[str, int]) -> str:
    """`7 (120 times), 9 (3 times)`, the most frequent first, ten at most."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    text = ", ".join(f"{key!r} ({count} times)" for key, count in ranked[:10])
    return text + (f" and {len(ranked) - 10} more" if len(ranked) > 10 else "")
