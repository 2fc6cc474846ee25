"""How labels become classes: the settings, and the checks that every form of labels shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.mentions import Placeholder, setting
from aerial_seg.printable import name_problem, name_problems, shortened
from aerial_seg.settings import Setting, settings

if TYPE_CHECKING:
    from aerial_seg.legend import Legend

BACKGROUND = "background"


def _classes(value: Any) -> Any:
    """Value → name, from what people write: 'building,road', '1=water,2=sand', names in a list."""
    if isinstance(value, str):
        return parse_classes(value)
    if isinstance(value, list | tuple):
        return dict(enumerate(value, start=1))
    return value


def _check_classes(classes: Mapping[int, str]) -> None:
    for name, problem in name_problems(classes.values()):
        raise SettingsError(f"'{name}' cannot be a class's name: {problem}; choose another")
    if len(set(classes.values())) < len(classes):
        raise SettingsError("a name comes twice; give every value one name of its own")
    if not classes:
        raise SettingsError("no class is named; leave the setting out to take what the labels hold")


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
        Mapping[int, str] | None,
        Setting(
            "Classes: 'building,road' in order, or pairs as '1=water,2=sand'; without them those of the labels.",
            low=0,
            high=254,
            wanted="names, or a mapping of pixel values from 0 to 254 to names",
            read=_classes,
            check=_check_classes,
            metavar="LIST",
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
    layer: Annotated[str | None, Setting("Layer of the label file, if it holds several.", metavar="NAME")] = (
        None
    )


def parse_classes(text: str | None) -> dict[int, str] | None:
    """`building,road` → {1: building, 2: road}; `1=water,7=sand` → {1: water, 7: sand}; None stays None.

    Raises SettingsError for anything else, and for a value or a name that comes twice.
    """
    from aerial_seg.legend import IGNORE

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise SettingsError(
            f"{setting('classes')} is empty; wanted names (building,road) or value=name pairs (1=water,2=sand)"
        )
    paired = ["=" in part for part in parts]
    if any(paired) and not all(paired):
        raise SettingsError(f"{setting('classes')} mixes names and value=name pairs; use one form for all")
    pairs = [part.split("=", 1) if "=" in part else (str(k), part) for k, part in enumerate(parts, start=1)]
    classes: dict[int, str] = {}
    for left, right in pairs:
        value, name = left.strip(), right.strip()
        for said, problem in name_problems([name] if name else []):
            raise SettingsError(
                f"{setting('classes')}: '{said}' cannot be a class's name: {problem}; choose another"
            )
        if not value.isdecimal() or len(value) > 10 or int(value) >= IGNORE:
            raise SettingsError(
                f"{setting('classes')} has value {shortened(repr(value))} for '{name}', "
                f"wanted an integer 0..{IGNORE - 1} before the '='"
            )
        if not name or int(value) in classes or name in classes.values():
            raise SettingsError(
                f"{setting('classes')} has '{value}={name}' beside {classes or 'nothing'}; "
                "give every value one name of its own"
            )
        classes[int(value)] = name
    return classes


def legend_of_values(
    values: Mapping[int, int], settings: LabelSettings, *, what: str, known: Legend | None
) -> Legend:
    """The legend of labels that hold these values (value → count).

    Raises InputError for undeclared values, and for labels without any.
    """
    from aerial_seg.legend import IGNORE, make_legend

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
            f"declare them with {setting('classes')}, or pass "
            f"{setting('unlabelled', (Placeholder('VALUE'),))} for those that mean nothing"
        )
    if not values:
        raise InputError(
            f"{what} holds no labelled pixel; check {setting('unlabelled')} and the file's nodata value"
        )
    if known is not None:
        return known
    names = settings.classes or {v: f"class {v}" for v in sorted(values)}
    return make_legend(names, background=[v for v, name in names.items() if name.lower() == BACKGROUND])


def match_name(name: str, known: Sequence[str], counts: Mapping[str, int], *, what: str) -> None:
    """Raises InputError listing all unknown class names with counts unless `name` is known."""
    if name in known:
        return
    unknown = {n: c for n, c in counts.items() if n not in known}
    raise InputError(
        f"{what} holds the unknown classes {list_counts(unknown)}; known: {', '.join(known)}"
        f"{did_you_mean(name, known)}; mend the labels or declare the classes with {setting('classes')}"
    )


def check_names(counts: Mapping[str, int], *, what: str, remedy: str) -> None:
    """Raises InputError, with counts and remedy, for names that no class can have. what: holds them."""
    odd = {
        shortened(name): (count, name_problem(name)) for name, count in counts.items() if name_problem(name)
    }
    if odd:
        from aerial_seg.documents import listed

        told = listed(
            (f"'{name}' ({count} times): {problem}" for name, (count, problem) in odd.items()), most=3
        )
        raise InputError(f"{what} holds {len(odd)} names that no class can have: {told}; {remedy}")


def list_counts(counts: Mapping[int, int] | Mapping[str, int]) -> str:
    """`7 (120 times), 9 (3 times)`, the most frequent first, ten at most."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    text = ", ".join(f"{key!r} ({count} times)" for key, count in ranked[:10])
    return text + (f" and {len(ranked) - 10} more" if len(ranked) > 10 else "")
