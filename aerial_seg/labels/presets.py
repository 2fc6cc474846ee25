"""Classes and colours of label rasters that others publish."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, get_args

from aerial_seg.labels.class_table import UNLABELLED, ClassRow, ClassTable, table_of

Preset = Literal["cityscapes", "deepglobe", "dubai", "isaid", "isprs", "loveda", "voc"]
PRESETS: tuple[str, ...] = get_args(Preset)
_VOC_BORDER = ClassRow(UNLABELLED, 255, colour="#e0e0c0")
"""The white border around objects in VOC's label files, and its colour where these were stored as colours."""


@lru_cache(maxsize=len(PRESETS))
def preset_table(name: str) -> ClassTable:
    """The classes of a published dataset, by the numbers and by the colours of its label files."""
    from aerial_seg.recipe.loading import shipped_text

    rows: list[dict[str, Any]] = tomllib.loads(shipped_text("classes", name))["classes"]
    if name == "cityscapes":
        return ClassTable([_of_cityscapes(row) for row in rows])
    if name == "voc":
        numbered = [ClassRow(row["name"], k, k, row["colour"]) for k, row in enumerate(rows)]
        return ClassTable([*numbered, _VOC_BORDER])
    return table_of(rows)


def _of_cityscapes(row: Mapping[str, Any]) -> ClassRow:
    """Label files hold ids; what is not trained on is not labelled."""
    if row["train_id"] == 255:
        return ClassRow(UNLABELLED, row["id"], colour=row["colour"])
    return ClassRow(row["name"], row["id"], row["train_id"], row["colour"])


def presets_of(colours: Mapping[int, int], *, share: float) -> list[str]:
    """The presets that know the colours of all but this share of the pixels. colours: 0xrrggbb → pixels."""
    total = sum(colours.values())
    found = []
    for name in PRESETS:
        known = preset_table(name).colour_values
        unknown = sum(count for colour, count in colours.items() if colour not in known)
        if unknown <= share * total:
            found.append(name)
    return found
