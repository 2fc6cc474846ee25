"""Where a map comes from, as a report tells it."""

from __future__ import annotations

from aerial_seg.geo.grid import Grid
from aerial_seg.jobs.report.measure import Measured, Sources
from aerial_seg.outputs.mask import read_origin
from aerial_seg.printable import printable
from aerial_seg.vectors.ogr_sink import crs_text
from aerial_seg.version import __version__


def facts_of(sources: Sources, measured: Measured) -> list[tuple[str, str]]:
    """What and value, for people: files, grid, sources and models, squares, version."""
    grid, mask = measured.grid, sources.mask
    origin = read_origin(mask)
    facts = [("map", _file(str(mask))), ("size", f"{grid.width:,} × {grid.height:,} pixels"), *_ground(grid)]
    facts.append(("made from", origin["source"]))
    if "model_id" in origin:
        facts.append(("models (first digits of their SHA-256)", origin["model_id"]))
    for name, path in (("confidence", sources.confidence), ("imagery", sources.image)):
        if path is not None:
            facts.append((name, _file(str(path))))
    if sources.labels:
        facts.append(("labels", ", ".join(_file(one) for one in sources.labels)))
    one = measured.division
    if one.cell > 1:
        facts.append(
            ("pictures", f"a pixel of the whole map's pictures is {one.cell} × {one.cell} of the map's; the places to "
             "look at are shown closer")
        )  # fmt: skip
    facts.append(("written by", f"aerial-seg {__version__}"))
    return facts


def _file(name: str) -> str:
    return printable(name, lines=False)


def _ground(grid: Grid) -> list[tuple[str, str]]:
    if grid.crs is None:
        return [("CRS", "none")]
    left, bottom, right, top = grid.bounds
    facts = [
        ("CRS", f"{grid.crs.name} ({_short(crs_text(grid.crs))})"),
        ("bounds", f"{left:.10g}, {bottom:.10g}, {right:.10g}, {top:.10g}"),
    ]
    gsd = grid.gsd()
    if gsd is not None:
        facts.append(("GSD", f"{gsd[1]:.4g} × {gsd[0]:.4g} m"))
    return facts


def _short(text: str) -> str:
    return text if len(text) <= 40 else "no code"
