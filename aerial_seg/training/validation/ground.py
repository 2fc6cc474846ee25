"""What the index of a chip dataset tells of the ground that a split lies on: its blocks, and how many pieces it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import geopandas
import numpy as np
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from shapely import STRtree

from aerial_seg.errors import InputError
from aerial_seg.files.names import ogr_name
from aerial_seg.training.manifest import INDEX, INDEX_LAYER, Manifest
from aerial_seg.training.validation.outcome import ValidationGround

_TOUCH = 0.05
"""Of a chip's side. Neighbouring web-mercator tiles stored in degrees are a fraction of a pixel apart."""


def ground_of(manifest: Manifest, split: str) -> ValidationGround:
    """Describe the ground of a split: split blocks where the index names them, and its pieces."""
    chips = manifest.split(split)
    names = tuple(chip.name for chip in chips)
    pieces = count_pieces(_outlines(manifest, names))
    blocks = [chip.block for chip in chips]
    if None in blocks:
        note = (
            "the dataset's index names no split blocks, so intervals draw each chip alone and come out too narrow "
            "where chips are neighbours; run `aerial-seg tile` again for honest ones"
        )
        return ValidationGround(names, names, "chip", pieces, (note,))
    return ValidationGround(names, tuple(map(str, blocks)), "split block", pieces)


def _outlines(manifest: Manifest, names: Sequence[str]) -> list[Any]:
    """The outlines of the chips in the index, those that have one."""
    path = manifest.root / INDEX
    try:
        index = geopandas.read_file(ogr_name(path), layer=INDEX_LAYER, columns=["chip"])
    except (DataSourceError, DataLayerError, FeatureError) as error:
        raise InputError(f"{path} is no index of chips ({error}); run `aerial-seg tile` again") from error
    if not isinstance(index, geopandas.GeoDataFrame):
        return []
    wanted = set(names)
    return [
        place
        for name, place in zip(index["chip"], index.geometry, strict=True)
        if name in wanted and place is not None
    ]


def count_pieces(outlines: Sequence[Any]) -> int | None:
    """Count the groups of outlines that touch each other, at a corner too; None where there are no outlines."""
    if not outlines:
        return None
    group = list(range(len(outlines)))

    def leader(chip: int) -> int:
        while group[chip] != chip:
            group[chip] = group[group[chip]]
            chip = group[chip]
        return chip

    for a, b in touching(outlines):
        group[leader(a)] = leader(b)
    return len({leader(chip) for chip in range(len(outlines))})


def touching(outlines: Sequence[Any]) -> list[tuple[int, int]]:
    """List the pairs of outlines, by number, that touch each other, at a corner too; each pair in both orders."""
    shapes = np.asarray(outlines, dtype=object)
    near = _TOUCH * float(np.median(np.sqrt(shapely.area(shapes))))
    first, second = STRtree(shapes).query(shapes, predicate="dwithin", distance=near)
    return [(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True) if a != b]
