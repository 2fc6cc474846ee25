"""Turned crops: those of the image turned as a whole, after it is zoomed, against scipy, Pillow and torchvision."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from made_chips import MadeReader, band
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats
from shapely import Point, Polygon
from torchvision.transforms.v2 import functional

from aerial_seg.recipe.crop_size import height_and_width
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.crops import cut
from aerial_seg.training.samples.draws import Draw, More, draw
from aerial_seg.training.samples.pixels import Pixels
from aerial_seg.training.samples.places import place

PARTS = st.floats(0, 1, exclude_max=True)
ANGLES = st.integers(-1800, 1799).map(lambda tenths: tenths / 10 + 0.037)
"""At whole angles places lie on the very edge between two pixels, which is rounded apart."""


def change(*, angle: float = 0.0, zoom: float = 0.0, down: float = 0.0, across: float = 0.0) -> Draw:
    return Draw(zoom, down, across, 0, (False, False), (1.0,), (0.0,), More(angle, False, 0.0, 1.0, 0))


def cropped(
    pixels: Pixels, drawn: Draw, told: AugmentationSettings, *, crop: int | tuple[int, int], mean: float = 9.0
) -> tuple[NDArray[np.generic], NDArray[np.uint8], NDArray[np.uint8], bool]:
    """image (C,H,W), labels (H,W), measured (H,W) of a crop, and whether all is said to be measured."""
    height, width = pixels.labels.shape
    size = height_and_width(crop)
    there = place(drawn, told, height=height, width=width, crop=size)
    kind = np.uint8 if pixels.image.dtype == np.uint8 else np.float32
    into = (
        np.full((*size, len(pixels.image)), 77, kind),
        np.full(size, 77, np.uint8),
        np.full(size, 77, np.uint8),
    )
    bands = (band(pixels.image.dtype.name, mean=mean),) * len(pixels.image)
    measured = cut(pixels.cut((there.rows, there.cols)), there, drawn, bands, into, told)
    return into[0].transpose(2, 0, 1), into[1], into[2], measured


def noise(height: int, width: int, *, count: int = 2, dtype: str = "float32", holes: float = 0.0) -> Pixels:
    return MadeReader([(height, width)], dtype=dtype, count=count, holes=holes).pixels(0)


@settings(max_examples=examples(60))
@given(
    angle=ANGLES,
    down=PARTS,
    across=PARTS,
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    crop=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    holes=st.sampled_from([0.0, 0.3]),
)
def test_a_crop_is_cut_from_the_image_turned_as_a_whole(
    angle: float, down: float, across: float, height: int, width: int, crop: tuple[int, int], holes: float
) -> None:
    """semseg's order: the image turns inside its own frame, which is cut then. The oracle is scipy on all of it."""
    pixels, told = noise(height, width, holes=holes), AugmentationSettings(stay_inside=False, scale=(1, 1))
    drawn = change(angle=angle, down=down, across=across)
    image, labels, measured, is_all = cropped(pixels, drawn, told, crop=crop)
    there = place(change(down=down, across=across), told, height=height, width=width, crop=crop)
    spot = (
        slice(there.top, there.top + there.height),
        slice(there.left, there.left + there.width),
    )
    valid = np.ones((height, width), bool) if pixels.valid is None else pixels.valid

    def turned(array: NDArray[np.generic], order: int, beyond: float) -> NDArray[np.float64]:
        """Frame pixel o shows place c + R(o − c), angles counter-clockwise for who looks at it."""
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        matrix, centre = np.array([[cos, sin], [-sin, cos]]), (np.array(array.shape) - 1) / 2
        return ndimage.affine_transform(
            array.astype(np.float64),
            matrix,
            centre - matrix @ centre,
            order=order,
            mode="grid-constant",
            cval=beyond,
        )

    def framed(array: NDArray[np.float64], beyond: float) -> NDArray[np.float64]:
        found = np.full(crop, float(beyond))
        found[spot] = array[there.rows, there.cols]
        return found

    gapless = np.where(valid, pixels.image, 9.0)
    wanted = [framed(turned(own, 1, 9.0), 0) for own in gapless]
    np.testing.assert_allclose(image, wanted, atol=0.01)  # of 200: the grid is in float32
    seen = framed(turned(pixels.labels, 0, 255), 255), framed(turned(valid, 0, 0), 0)
    np.testing.assert_array_equal(labels, seen[0])
    np.testing.assert_array_equal(measured, seen[1])
    assert is_all == measured.all()


@pytest.mark.parametrize("angle", [10.0, -10.0, 90.0, 33.3])
def test_turning_goes_counter_clockwise_as_in_pillow_and_torchvision(angle: float) -> None:
    pixels = noise(60, 60, count=1, dtype="uint8")
    told = AugmentationSettings(stay_inside=False, scale=(1, 1))
    image, labels, _, _ = cropped(pixels, change(angle=angle), told, crop=60, mean=0.0)
    theirs = np.array(Image.fromarray(pixels.labels).rotate(angle, Image.Resampling.NEAREST, fillcolor=255))
    assert (labels == theirs).mean() > 0.998
    tensor = torch.from_numpy(pixels.image.copy())
    near = functional.rotate(tensor, angle, functional.InterpolationMode.BILINEAR, fill=[0.0]).numpy()
    inside = slice(12, -12), slice(12, -12)
    assert np.abs(image[0].astype(int) - near[0].astype(int))[inside].max() <= 1


@settings(max_examples=examples(60))
@given(
    angle=ANGLES,
    zoom=PARTS,
    down=PARTS,
    across=PARTS,
    inside=st.booleans(),
    aspect=st.sampled_from([0, 0.15]),
    crop=st.sampled_from([(48, 48), (30, 60), (60, 30)]),
)
def test_zoom_comes_before_the_turn_and_all_follows_the_image(
    angle: float, zoom: float, down: float, across: float, inside: bool, aspect: float, crop: tuple[int, int]
) -> None:
    """Of a smooth image the crop shows the formula's values where its labels say that it looks."""
    height, width = 150, 130

    def formula(row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.float64]:
        return 100 + 40 * np.sin(row / 15) + 40 * np.cos(col / 19)

    row, col = np.mgrid[:height, :width] + 0.5
    halves = (row < 71).astype(np.uint8) + 2 * (col < 57)
    pixels = Pixels(formula(row, col)[None].astype(np.float32), None, halves.astype(np.uint8))
    told = AugmentationSettings(stay_inside=inside, scale=(0.6, 1.8), aspect=aspect)
    drawn = change(angle=angle, zoom=zoom, down=down, across=across)
    there = place(drawn, told, height=height, width=width, crop=crop)
    image, labels, measured, _ = cropped(pixels, drawn, told, crop=crop)
    assert there.turn is not None
    # Independent of the code: by complex numbers, from the crop's middle pixel on.
    down_step, across_step = there.turn.steps
    plane = np.arange(crop[1])[None] + 1j * np.arange(crop[0])[:, None] + (0.5 + 0.5j)
    plane -= crop[1] / 2 + 1j * crop[0] / 2
    plane *= cmath.exp(1j * math.radians(angle))  # rows grow downwards
    middle = [
        line[0] + crop[0] / 2 * line[1] + crop[1] / 2 * line[2] for line in (there.turn.rows, there.turn.cols)
    ]
    rows, cols = middle[0] + down_step * plane.imag, middle[1] + across_step * plane.real
    in_image = (rows > 0) & (rows < height) & (cols > 0) & (cols < width)
    assert (measured == in_image).mean() > 0.999
    known = measured == 1
    wanted = ((np.floor(rows) + 0.5 < 71) + 2 * (np.floor(cols) + 0.5 < 57))[known]
    assert (labels[known] == wanted).mean() > 0.999
    assert (labels[~known] == 255).all()
    core = ndimage.binary_erosion(in_image, iterations=4, border_value=1)
    core &= (rows > 4) & (rows < height - 4) & (cols > 4) & (cols < width - 4)
    assert np.abs(image[0] - formula(rows, cols))[core].max(initial=0) < 1.5


@given(
    angle=ANGLES,
    zoom=PARTS,
    down=PARTS,
    across=PARTS,
    height=st.integers(30, 90),
    width=st.integers(30, 90),
    crop=st.sampled_from([(20, 20), (10, 26), (26, 10)]),
)
def test_a_turned_crop_that_stays_inside_is_all_image(
    angle: float, zoom: float, down: float, across: float, height: int, width: int, crop: tuple[int, int]
) -> None:
    """Its largest zoom fits, whatever the angle: a turned crop of 20 px, or 10 by 26, is less than 29 px."""
    told = AugmentationSettings(scale=(0.5, 1.0))
    drawn = change(angle=angle, zoom=zoom, down=down, across=across)
    _, labels, measured, is_all = cropped(noise(height, width), drawn, told, crop=crop)
    assert is_all
    assert measured.all()
    assert (labels != 255).all()


@settings(max_examples=examples(40))
@given(
    angle=ANGLES,
    count=st.integers(1, 9),
    side=st.integers(20, 60),
    dtype=st.sampled_from(["uint8", "uint16"]),
)
def test_bytes_and_wide_integers_turn_as_floats_do(angle: float, count: int, side: int, dtype: str) -> None:
    pixels = noise(side, side, count=count, dtype=dtype)
    floats = Pixels(pixels.image.astype(np.float32), None, pixels.labels)
    told = AugmentationSettings(stay_inside=False, scale=(0.8, 0.8))
    got, wanted = (cropped(one, change(angle=angle), told, crop=32)[0] for one in (pixels, floats))
    assert got.dtype == (np.uint8 if dtype == "uint8" else np.float32)
    assert np.abs(got - wanted).max() < (1.51 if dtype == "uint8" else 1e-3)  # bytes are rounded twice


def test_what_unmeasured_pixels_hold_reaches_no_other_pixel_of_a_turned_crop() -> None:
    image, labels = np.full((3, 40, 40), 100, np.float32), np.zeros((40, 40), np.uint8)
    valid = np.ones((40, 40), bool)
    valid[:, :15] = False
    image[:, ~valid] = np.nan
    labels[~valid] = 255
    told = AugmentationSettings(stay_inside=False, scale=(0.8, 0.8))
    got, seen, measured, is_all = cropped(Pixels(image, valid, labels), change(angle=30), told, crop=32)
    assert not is_all
    assert np.isfinite(got).all()
    assert 0.3 < 1 - measured.mean() < 0.5
    np.testing.assert_array_equal(seen == 255, measured == 0)


def test_part_of_the_crops_is_turned_by_angles_of_all_sizes() -> None:
    told = AugmentationSettings(rotation=10, rotation_probability=0.5)
    angles = np.array([draw(0, k, told, bands=3).more.angle for k in range(2000)])  # type: ignore[union-attr]
    assert 0.46 < (angles != 0).mean() < 0.54
    assert stats.kstest(angles[angles != 0], stats.uniform(-10, 20).cdf).pvalue > 1e-3


@settings(max_examples=examples(100))
@given(
    angle=ANGLES,
    down=PARTS,
    across=PARTS,
    zoom=PARTS,
    size=st.tuples(st.integers(20, 60), st.integers(20, 60)),
    crop=st.tuples(st.integers(5, 40), st.integers(5, 40)),
    where=st.tuples(PARTS, PARTS),
    stay_inside=st.booleans(),
)
def test_a_crop_that_is_to_hold_a_pixel_holds_it_wherever_it_lies(
    angle: float,
    down: float,
    across: float,
    zoom: float,
    size: tuple[int, int],
    crop: tuple[int, int],
    where: tuple[float, float],
    stay_inside: bool,
) -> None:
    """By shapely; near edges and corners, too, where a turned crop inside the image cannot reach."""
    told = AugmentationSettings(rotation=180, scale=(0.5, 2), stay_inside=stay_inside)
    drawn = change(angle=angle, zoom=zoom, down=down, across=across)
    held = int(where[0] * size[0]), int(where[1] * size[1])
    there = place(drawn, told, height=size[0], width=size[1], crop=crop, held=held)
    if there.turn is None:
        assert there.rows.start <= held[0] < there.rows.stop
        assert there.cols.start <= held[1] < there.cols.stop
        return
    rows, cols = there.turn.rows, there.turn.cols
    corners = [(0, 0), (0, there.width), (there.height, there.width), (there.height, 0)]
    shown = Polygon(
        [(cols[0] + cols[1] * i + cols[2] * j, rows[0] + rows[1] * i + rows[2] * j) for i, j in corners]
    )
    assert shown.buffer(1e-6).contains(Point(held[1] + 0.5, held[0] + 0.5))


def test_most_crops_that_hold_a_pixel_are_turned_all_the_same() -> None:
    """Those about corners and edges are not; a class that lies in the middle of its image has them turned as before."""
    told = AugmentationSettings(rotation=10, scale=(1, 1))
    places = [
        place(draw(1, k, told, bands=1), told, height=100, width=100, crop=(40, 40), held=(row, row))
        for row in (0, 12, 50)
        for k in range(200)
    ]
    turned = [sum(there.turn is not None for there in places[start : start + 200]) for start in (0, 200, 400)]
    assert turned == sorted(turned)
    assert turned[0] < 20
    assert turned[1] > 100
    assert turned[2] == 200
