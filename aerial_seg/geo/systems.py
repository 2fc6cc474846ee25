"""Kinds of coordinate systems: on earth or another body, local to a site, or none in which pixels have a place."""

from __future__ import annotations

from functools import cache

from pyproj import CRS
from pyproj.database import get_units_map

from aerial_seg.errors import InputError
from aerial_seg.mentions import setting

_ALIASES = frozenset({"m", "meter", "meters", "metres", "foot_us", "us_foot", "foot (international)"})
"""Further names of units of length, as ESRI and CAD programs write them."""
_NO_PLACE = {
    "Geocentric CRS": "geocentric coordinates (X, Y, Z)",
    "Vertical CRS": "heights only",
    "Temporal CRS": "times only",
    "Parametric CRS": "parameters only",
}


def horizontal(crs: CRS) -> CRS:
    """The part that places pixels: of a compound CRS its first, of a bound one its source."""
    part: CRS | None = crs
    while part is not None and (part.is_compound or part.is_bound):
        crs, part = part, part.sub_crs_list[0] if part.is_compound else part.source_crs
    return part or crs


def why_no_place(crs: CRS) -> str | None:
    """What a CRS holds in which pixels cannot lie, as geocentric coordinates; None for one in which they can."""
    return _NO_PLACE.get(horizontal(crs).type_name)


def is_derived(crs: CRS) -> bool:
    """Whether it is another CRS turned or bent, as the rotated poles of weather models."""
    return horizontal(crs).type_name.startswith("Derived ")


def is_local(crs: CRS | None) -> bool:
    """Whether it is an engineering CRS: the grid of a site, whose place on earth nobody has said."""
    return crs is not None and horizontal(crs).is_engineering


@cache
def _lengths() -> frozenset[str]:
    known = get_units_map(category="linear", allow_deprecated=True)
    return _ALIASES | {name.lower() for name in known}


def metres_per_unit(crs: CRS) -> float | None:
    """Of a local CRS, where its unit is a length that PROJ knows; None where it is not."""
    axes = horizontal(crs).axis_info[:2]
    factors = {axis.unit_conversion_factor for axis in axes}
    known = all(axis.unit_name.lower() in _lengths() for axis in axes)
    return factors.pop() if known and len(factors) == 1 else None


def same_local(one: CRS | None, other: CRS | None) -> bool:
    """Whether two local CRSs are one: the same name and unit, since files keep little more of them."""
    if one is None or other is None or not (is_local(one) and is_local(other)):
        return False
    if one == other:
        return True
    mine, theirs = horizontal(one), horizontal(other)
    units = [tuple(axis.unit_conversion_factor for axis in crs.axis_info[:2]) for crs in (mine, theirs)]
    return mine.name == theirs.name and units[0] == units[1]


def require_common(one: CRS, its_name: str, other: CRS, others_name: str, *, setting_name: str = "") -> None:
    """Raises InputError where one of the two is a local grid, and the other is not that grid: nothing relates them.

    setting_name: that says another CRS for the first, for the message.
    """
    if same_local(one, other) or not (is_local(one) or is_local(other)):
        return
    raise InputError(
        f"{its_name} is in '{one.name}' and {others_name} in '{other.name}'; a local grid has no place in any other "
        "CRS, wanted one for both: bring them into the local grid's coordinates, or give that grid its place on earth "
        "(gdal_edit.py -a_srs EPSG:…)"
        + (f"; if the first is wrong, pass {setting(setting_name)}" if setting_name else "")
    )


def local_note(crs: CRS | None, name: str) -> tuple[str, ...]:
    """What to say of a raster on a local grid; nothing of others."""
    if crs is None or not is_local(crs):
        return ()
    metres = metres_per_unit(crs)
    unit = "whose unit is not known: pixels have no size" if metres is None else f"in units of {metres:g} m"
    return (
        f"the CRS of {name} is a local grid, '{crs.name}', which has no place on earth: it is worked on in its own "
        f"plane, {unit}",
    )
