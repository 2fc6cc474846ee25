"""Whatever the bytes of a geometry are: valid polygons, or a count with a reason, and never a traceback."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS

from aerial_seg.geo.areas.broken_wkb import rescued
from aerial_seg.geo.areas.polygons import Ground

SAMPLES = [
    shapely.from_wkt(text)
    for text in (
        "POLYGON ((0 0,10 0,10 10,0 10,0 0),(2 2,4 2,4 4,2 2))",
        "MULTIPOLYGON (((0 0,10 0,10 10,0 0)),((20 0,30 0,30 10,20 0)))",
        "GEOMETRYCOLLECTION (POLYGON ((0 0,10 0,10 10,0 0)),POINT (1 1),LINESTRING (0 0,5 5))",
        "POLYGON Z ((0 0 1,10 0 1,10 10 1,0 0 1))",
        "POLYGON ((0 0,10 10,10 0,0 10,0 0))",
        "POINT (3 4)",
        "LINESTRING (0 0,10 10)",
    )
]
FORMS = [(order, flavor) for order in (0, 1) for flavor in ("iso", "extended")]
WKB = [shapely.to_wkb(one, byte_order=order, flavor=flavor) for one in SAMPLES for order, flavor in FORMS]
ODD = [0.0, -0.0, 1e15, -1e308, float("nan"), float("inf"), 1e-320]


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """WKB with bytes turned, cut off, put in or repeated, and numbers that are none."""
    found = bytearray(draw(st.sampled_from(WKB)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        match draw(st.integers(0, 4)):
            case 0:
                found[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del found[at:]
            case 2:
                found[at:at] = draw(st.binary(max_size=9))
            case 3:
                found[at : at + 8] = struct.pack("<d", draw(st.sampled_from(ODD)))
            case _:
                found[at:at] = found[at : at + 16]
    return bytes(found)


@given(found=st.lists(st.none() | mangled(), max_size=5))
def test_every_feature_is_ground_or_counted(found: list[bytes | None]) -> None:
    wkb: Any = np.empty(len(found), object)
    wkb[:] = found
    ground = Ground("a.gpkg", CRS(32633))
    geometries, rows = ground.add(wkb, range(100, 100 + len(found)))
    assert len(geometries) == len(rows) <= len(found)
    assert shapely.is_valid(geometries).all()
    assert (shapely.area(geometries) > 0).all()
    assert (np.abs(shapely.bounds(geometries)) <= 1e10).all()
    told = " ".join(note for note in ground.notes if note.startswith("left out"))
    left_out = sorted(set(range(len(found))) - set(rows.tolist()))
    for row in left_out:
        assert str(100 + row) in told
    if not left_out:
        assert told == ""


def collection(kind: int, *parts: bytes) -> bytes:
    return struct.pack("<BII", 1, kind, len(parts)) + b"".join(parts)


def polygon(*rings: list[tuple[float, float]], kind: int = 3) -> bytes:
    body = b"".join(struct.pack("<I", len(ring)) + np.array(ring, "<f8").tobytes() for ring in rings)
    return struct.pack("<BII", 1, kind, len(rings)) + body


TRIANGLE = [(0.0, 0.0), (9.0, 0.0), (0.0, 9.0)]


def test_what_geos_does_not_read_is_read() -> None:
    for wkb, area, dropped in (
        (polygon(TRIANGLE), 40.5, 0),
        (polygon([*TRIANGLE, TRIANGLE[0]], [(1.0, 1.0)], [(1.0, 1.0), (2.0, 2.0)], []), 40.5, 3),
        (collection(6, polygon(TRIANGLE), polygon([(5.0, 5.0)])), 40.5, 1),
        (collection(16, polygon([*TRIANGLE, TRIANGLE[0]], kind=17)), 40.5, 0),
        (collection(15, polygon([*TRIANGLE, TRIANGLE[0]])), 40.5, 0),
        (collection(7, collection(7, collection(16, polygon(TRIANGLE, kind=17)))), 40.5, 0),
    ):
        found = rescued(wkb)
        assert found is not None
        assert found.polygon is not None
        assert (found.polygon.area, found.dropped) == (area, dropped)


def test_counts_that_no_bytes_follow_ask_for_no_memory() -> None:
    huge = struct.pack("<BII", 1, 3, 0xFFFFFFFF)
    assert rescued(huge) is None
    assert rescued(struct.pack("<BIII", 1, 3, 1, 0xFFFFFFFF)) is None
    deep = b"".join(struct.pack("<BII", 1, 7, 1) for _ in range(5000))
    assert rescued(deep) is None
    assert rescued(b"") is None
    assert rescued(polygon([(1.0, 1.0)])).polygon is None  # type: ignore[union-attr]
