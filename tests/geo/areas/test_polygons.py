"""Ground that any part covers belongs to it, for areas and labels alike; what covers none is counted and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from pyproj import CRS, Transformer
from rasterio.features import geometry_mask

import aerial_seg
from aerial_seg.errors import InputError
from aerial_seg.geo.areas.area import Area, read_area
from aerial_seg.geo.areas.polygons import mended
from aerial_seg.geo.grid import Grid
from aerial_seg.labels.labels import open_labels
from aerial_seg.labels.settings import LabelSettings

SIDE = 250
GRID = Grid(
    crs=CRS.from_epsg(32633), transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000), height=SIDE, width=SIDE
)
WHOLE = range(SIDE), range(SIDE)


def on_ground(geometry: shapely.Geometry, crs: str = "EPSG:32633") -> shapely.Geometry:
    """A geometry in pixels of the grid, in a CRS."""
    to_crs = Transformer.from_crs(GRID.crs, crs, always_xy=True)

    def move(points: np.ndarray) -> np.ndarray:
        return np.column_stack(to_crs.transform(*(GRID.transform @ points.T)))

    return shapely.transform(geometry, move)


def write(path: Path, geometries: Sequence[shapely.Geometry], crs: str = "EPSG:32633") -> Path:
    pyogrio.raw.write(
        path,
        geometry=np.array([shapely.to_wkb(geometry) for geometry in geometries], object),
        field_data=[],
        fields=[],
        geometry_type="Unknown",
        crs=crs,
        driver="FlatGeobuf",
    )
    return path


def area_pixels(path: Path) -> np.ndarray:
    return read_area(path).on(GRID, "in.tif").inside(*WHOLE)


def label_pixels(path: Path) -> np.ndarray:
    return open_labels([path], LabelSettings()).burn(GRID) == 1


numbers = st.integers(-10, 2 * SIDE + 20).map(lambda k: k / 2) | st.floats(-10, SIDE + 10)


@st.composite
def parts(draw: st.DrawFn) -> list[shapely.Polygon]:
    """One to five valid polygons in pixels, some with holes, many overlapping or inside one another."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        left, top = draw(numbers), draw(numbers)
        width, height = draw(st.floats(2, 180)), draw(st.floats(2, 180))
        outline = shapely.box(left, top, left + width, top + height)
        if draw(st.booleans()):
            outline = shapely.affinity.rotate(outline, draw(st.floats(0, 90)))
        if draw(st.booleans()):
            share = draw(st.floats(0.2, 0.8))
            hole = shapely.affinity.scale(outline, share, share)
            outline = shapely.Polygon(outline.exterior, [hole.exterior])
        found.append(outline)
    return found


def one_by_one(polygons: Sequence[shapely.Polygon]) -> np.ndarray:
    """What GDAL burns of each polygon alone, together."""
    alone = [geometry_mask([one], GRID.shape, Affine.identity(), invert=True) for one in polygons]
    return np.any(alone, axis=0)


def check_same(found: np.ndarray, polygons: Sequence[shapely.Polygon], beside: float) -> None:
    """`found` is what the polygons hold one by one; centres nearer than `beside` px to an edge may go either way."""
    rims = shapely.union_all([polygon.boundary for polygon in polygons])
    rows, cols = np.nonzero(found != one_by_one(polygons))
    centres = shapely.points(cols + 0.5, rows + 0.5)
    far = shapely.distance(rims, centres) > beside
    assert not far.any(), f"{far.sum()} pixels differ, the first at row {rows[far][0]}, column {cols[far][0]}"


FORMS = {
    "one multipolygon": lambda found: [shapely.MultiPolygon(found)],
    "a collection": lambda found: [shapely.GeometryCollection(found)],
    "a collection in a collection, with a line": lambda found: [
        shapely.GeometryCollection(
            [shapely.GeometryCollection(found[:1]), shapely.MultiPolygon(found[1:]), found[0].boundary]
        )
    ],
    "a feature each": lambda found: found,
}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=examples(25))
@given(found=parts())
def test_the_pixels_are_those_of_all_parts_whatever_holds_them(
    tmp_path_factory: pytest.TempPathFactory, form: str, found: list[shapely.Polygon]
) -> None:
    if not one_by_one(found).any():
        return
    path = tmp_path_factory.getbasetemp() / "law.fgb"
    write(path, [on_ground(geometry) for geometry in FORMS[form](found)])
    check_same(area_pixels(path), found, beside=1e-6)
    check_same(label_pixels(path), found, beside=1e-6)


@settings(max_examples=examples(25))
@given(found=parts())
def test_the_same_in_another_crs(
    tmp_path_factory: pytest.TempPathFactory, found: list[shapely.Polygon]
) -> None:
    """Edges are straight in degrees there: as near as 0.05 px to where they were."""
    if not one_by_one(found).any():
        return
    path = tmp_path_factory.getbasetemp() / "degrees.fgb"
    write(path, [on_ground(shapely.MultiPolygon(found), "EPSG:4326")], "EPSG:4326")
    check_same(area_pixels(path), found, beside=0.05)
    check_same(label_pixels(path), found, beside=0.05)


@pytest.mark.parametrize(
    ("boxes", "pixels"),
    [
        ([(0, 0, 150, 100), (100, 50, 219, 150)], 24_400),
        ([(10, 10, 210, 210), (60, 60, 160, 160)], 40_000),
        ([(0, 0, 100, 100)] * 2, 10_000),
        ([(0, 0, 100, 100)] * 3, 10_000),
    ],
    ids=["overlapping", "nested", "twice", "three times"],
)
def test_overlaps_are_no_holes(
    tmp_path: Path, boxes: list[tuple[float, float, float, float]], pixels: int
) -> None:
    polygons = [shapely.box(*box) for box in boxes]
    path = write(tmp_path / "a.fgb", [on_ground(shapely.MultiPolygon(polygons))])
    assert area_pixels(path).sum() == pixels
    assert label_pixels(path).sum() == pixels


def test_a_hole_is_one_unless_another_part_covers_it(tmp_path: Path) -> None:
    frame = shapely.box(0, 0, 100, 100).difference(shapely.box(20, 20, 80, 80))
    bridge = shapely.box(90, 40, 200, 60).union(shapely.box(40, 40, 95, 60))
    path = write(tmp_path / "a.fgb", [on_ground(shapely.MultiPolygon([frame, bridge]))])
    wanted = 100 * 100 - 60 * 60 + 40 * 20 + 100 * 20
    assert area_pixels(path).sum() == wanted
    assert label_pixels(path).sum() == wanted


def test_overlaps_that_a_projection_makes_are_no_holes() -> None:
    """`Area.on` mends once more, after the outline has moved to pixels."""
    moved = shapely.MultiPolygon([shapely.box(0, 0, 60, 60), shapely.box(30, 30, 90, 90)])
    found = Area("a", on_ground(moved), GRID.crs, {}).on(GRID, "in.tif").inside(*WHOLE)
    assert found.sum() == 2 * 3600 - 900


ODD = {
    "POLYGON ((0 0,10 0,10 10,0 10,0 0))": None,
    "POLYGON Z ((20 0 5,30 0 5,30 10 5,20 10 5,20 0 5))": None,
    "POLYGON ZM ((40 0 5 1,50 0 5 1,50 10 5 1,40 10 5 1,40 0 5 1))": None,
    "POLYGON ((60 0,70 0,70 10,60 10))": None,  # unclosed
    "POLYGON ((80 0,90 0,90 10,80 10,80 0),(82 2,84 2,84 4,82 4))": None,  # with an unclosed hole
    "POLYGON ((100 0,110 10,110 0,100 10,100 0))": None,  # a bow tie
    "MULTIPOLYGON (EMPTY,((120 0,130 0,130 10,120 10,120 0)))": None,
    "GEOMETRYCOLLECTION (POLYGON ((140 0,150 0,150 10,140 10,140 0)),POINT (1 1),LINESTRING (0 0,200 200))": None,
    "CURVEPOLYGON (CIRCULARSTRING (160 5,165 10,170 5,165 0,160 5))": None,
    "POINT (1 1)": "Point",
    "LINESTRING (0 0,1 1)": "LineString",
    "COMPOUNDCURVE (CIRCULARSTRING (0 0,1 1,2 0))": "LineString",
    "GEOMETRYCOLLECTION (POINT (1 1),LINESTRING (0 0,1 1))": "GeometryCollection",
    "POLYGON ((0 0,1 1,0 0))": "Polygon without an area",
    "POLYGON EMPTY": "empty Polygon",
    "": "no geometry",
    "POLYGON ((0 0,10 0,nan 10,0 10,0 0))": "Polygon with coordinates that are no numbers",
    "POLYGON ((0 0,1e15 0,1e15 10,0 10,0 0))": "Polygon with coordinates beyond all places of 'WGS 84 / UTM zone 33N'",
    "POLYGON ((0 0))": "Polygon that cannot be read (point array must contain 0 or >1 elements)",
    "LINESTRING (7 7)": "LineString that cannot be read (point array must contain 0 or >1 elements)",
    "TIN (((0 0 0,0 10 0,10 0 0,0 0 0)))": None,
    "POLYHEDRALSURFACE (((0 0 0,0 10 0,10 0 0,0 0 0)))": None,
    "TRIANGLE ((0 0,0 10,10 0,0 0))": None,
    "GEOMETRYCOLLECTION (TIN (((0 0 0,0 10 0,10 0 0,0 0 0))))": None,
    "MULTIPOLYGON (((0 0,10 0,10 10,0 10,0 0)),((0 0)),((1 1,2 2)))": None,
    "POLYGON ((0 0,10 0,10 10,0 10,0 0),(2 2))": None,
}


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    """A CSV of WKT in pixels of a grid of one metre: GDAL passes on what no geometry library would write."""
    rows = [f'"{text}",{number}' for number, text in enumerate(texts)]
    path.write_text("\n".join(["WKT,number", *rows, ""]))
    return path


PLAIN = Grid(crs=GRID.crs, transform=Affine.identity(), height=20, width=180)


def told_of(texts: Sequence[str]) -> str:
    """What is said of the geometries that cover no ground: kinds in order, each with its count and features."""
    kinds = {kind for text in texts if (kind := ODD[text])}
    parts = []
    for kind in sorted(kinds):
        numbers = [number for number, text in enumerate(texts, start=1) if ODD[text] == kind]
        which = f"feature{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
        parts.append(f"{len(numbers)} × {kind} ({which})")
    return ", ".join(parts)


def test_every_odd_geometry_is_mended_or_counted_alike(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "odd.csv", list(ODD))
    left_out = f"left out: {told_of(list(ODD))}"
    broken = "9 invalid polygons were made valid (features 4, 5, 6, 21, 22 and 4 more)"
    area = read_area(path, crs="EPSG:32633")
    labels = open_labels([path], LabelSettings(crs="EPSG:32633"))
    assert labels.notes == (left_out, broken)
    assert area.notes == (f"{path}: {left_out}", f"{path}: {broken}")
    # The bow tie's halves hold 50 px², its centre line divides pixels; the circle's centres are those in a radius of 5.
    circle = sum((x - 4.5) ** 2 + (y - 4.5) ** 2 < 25 for x in range(10) for y in range(10))
    for found in (area.on(PLAIN, "in.tif").inside(range(20), range(180)), labels.burn(PLAIN) == 1):
        squares = [int(found[:10, left : left + 10].sum()) for left in range(0, 180, 20)]
        assert squares[:5] == [100, 100, 100, 100, 96]
        assert squares[5] == pytest.approx(50, abs=10)
        assert squares[6:] == [100, 100, circle]
        assert found.sum() == sum(squares)


@pytest.mark.parametrize("text", [text for text, kind in ODD.items() if kind])
def test_a_layer_without_ground_is_one_line_that_names_the_kind(tmp_path: Path, text: str) -> None:
    texts = [text] if text else ["", ""]
    path = write_texts(tmp_path / "odd.csv", texts)
    for read in (
        lambda: read_area(path, crs="EPSG:32633"),
        lambda: open_labels([path], LabelSettings(crs="EPSG:32633")),
    ):
        with pytest.raises(InputError, match="wanted polygons with an area") as caught:
            read()
        assert f"holds {told_of(texts)}, wanted" in str(caught.value)
        assert "\n" not in str(caught.value)


SURFACES = [
    text for text in ODD if "STRING" not in text and ("TIN" in text or text.startswith(("POLYH", "TRIA")))
]


@pytest.mark.parametrize("text", SURFACES)
def test_surfaces_are_the_ground_below_their_faces(tmp_path: Path, text: str) -> None:
    area = read_area(write_texts(tmp_path / "odd.csv", [text]), crs="EPSG:32633")
    assert area.geometry.equals(shapely.Polygon([(0, 0), (0, 10), (10, 0)]))


def test_nothing_else_mends_polygons() -> None:
    """Another call would have another rule for what overlaps."""
    package = Path(aerial_seg.__file__).parent
    callers = [file for file in package.rglob("*.py") if "make_valid(" in file.read_text(encoding="utf-8")]
    assert [file.name for file in callers] == ["polygons.py"]


def test_mending_leaves_valid_polygons_alone() -> None:
    polygons = np.array([shapely.box(0, 0, 1, 1), None, shapely.Polygon(), shapely.Point(1, 1)], object)
    found = mended(polygons)
    assert found[0].equals_exact(polygons[0])
    assert list(found[1:]) == [None, None, None]
