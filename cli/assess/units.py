"""Areas as people read them."""

from __future__ import annotations


def area_unit(unit: str, whole: float) -> tuple[float, str]:
    """By what to multiply the areas, and the unit that they are told in then."""
    if unit == "px":
        return 1.0, "px"
    return (1e-6, "km²") if whole >= 1e9 else (1e-4, "ha") if whole >= 1e5 else (1.0, "m²")
