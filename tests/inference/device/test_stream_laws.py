"""The device's stream against the host's, on the CPU: the same bytes, whatever network, tiles and pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_models import whole_numbers
from laws import examples
from pyproj import CRS
from torch import Tensor

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.device import finish
from aerial_seg.inference.device import stream as device_stream
from aerial_seg.inference.device.either import open_stream
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.inference.tta import run_sides
from aerial_seg.models.device import CpuTransfer, Homeward
from aerial_seg.models.file import TrainedModel
from aerial_seg.progress import silent
from aerial_seg.tiling.plan import TilePlan, TileShape
from aerial_seg.tiling.windows import WINDOWS

NODATA = 7
PLACES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
"""Where the network of both carriers runs."""
WANTED = [(False, False), (True, False), (True, True)]


@dataclass(frozen=True)
class Case:
    """What both streams are given."""

    image: np.ndarray
    models: tuple[TrainedModel, ...]
    shape: TileShape
    definition: Definition
    batch_size: int = 3
    mirrored: bool = False

    def by(
        self, carrier: Any, region: Region | None = None, *, device: str = "cpu"
    ) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
        """All layers of the region, and how many tiles ran and were skipped; the network runs on the device."""
        height, width = self.image.shape[1:]
        region = region or Region(0, range(width))
        plan = TilePlan.of(height=height, width=width, shape=self.shape)
        region_tiles = RegionTiles(plan, region, height=height, width=width)
        predictor = Ensemble(self.models).predictor(
            settings=EngineSettings("eager", "fp32", device, carrier),
            batch_size=self.batch_size,
            side=run_sides(self.definition.tta, self.shape.geometry, self.shape.side),
            tiles=1,
        )
        card = self.models[0].card
        grid = Grid(CRS(32633), Affine(1, 0, 0, 0, 1 if self.mirrored else -1, 0), height, width)
        raster = ArrayRaster(self.image, grid=grid, nodata=NODATA)
        parts: dict[str, list[np.ndarray]] = {}
        following = region.first_row
        with open_stream(
            raster, raster, region_tiles, predictor, self.definition, bands=card.bands, legend=card.legend
        ) as stream:
            for rows in stream.rows(silent("", total=0, unit="")):
                assert rows.start == following
                following += len(rows.layers["class"])
                for name, layer in rows.layers.items():
                    parts.setdefault(name, []).append(layer.copy())
        assert following == (height if region.stop is None else region.stop)
        layers = {name: np.concatenate(layers, axis=-2) for name, layers in parts.items()}
        return layers, (stream.tiles.run, stream.tiles.skipped)


def noise(dtype: str, height: int, width: int, seed: int, *, holes: bool) -> np.ndarray:
    """Two bands of noise over all that a dtype holds near 100, with a patch that was not measured."""
    random = np.random.default_rng(seed)
    image = random.integers(NODATA + 1, 120, (2, height, width)).astype(dtype)
    if holes:
        top, left = random.integers(0, height), random.integers(0, width)
        image[:, top : top + height // 2 + 1, left : left + width // 2 + 1] = NODATA
        if image.dtype.kind == "f":
            image[0, random.integers(0, height), random.integers(0, width)] = np.nan
    return image


@st.composite
def cases(draw: st.DrawFn) -> Case:
    stride = draw(st.sampled_from([1, 2, 4, 8, 16, 32]))
    corners = draw(st.booleans()) and stride > 1
    dtype = draw(st.sampled_from(["uint8", "uint8", "uint16", "int32", "uint64", "float16", "float32"]))
    model = whole_numbers(
        stride,
        align_corners=corners,
        dtypes=(dtype, dtype),
        classes=draw(st.integers(1, 5)),
        step=stride * draw(st.sampled_from([1, 2])),
        seed=draw(st.integers(0, 9)),
        values=draw(st.sampled_from([None, (3, 10, 0, 77, 254)])),
    )
    unit = model.network.geometry.origin_step
    halo, step = draw(st.integers(0, 2)) * unit, draw(st.integers(1, 3)) * unit
    side = step + draw(st.integers(0, 2)) * unit + 2 * halo + int(corners)
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    confidence, probabilities = draw(st.sampled_from(WANTED))
    definition = Definition(
        window=draw(st.sampled_from(WINDOWS)),
        blend=draw(st.sampled_from(["logits", "probabilities"])),
        confidence=confidence,
        probabilities=probabilities,
    )
    return Case(
        noise(dtype, height, width, draw(st.integers(0, 99)), holes=draw(st.booleans())),
        (model,),
        TileShape(geometry=model.network.geometry, side=side, halo=halo, step=step),
        definition,
        batch_size=draw(st.integers(1, 5)),
        mirrored=draw(st.booleans()),
    )


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=examples(120), deadline=None)
@given(case=cases())
def test_the_device_gives_the_hosts_bytes(place: str, case: Case) -> None:
    """Exponentials are torch's here and a polynomial there: a byte of probability may round to its neighbour."""
    (host, tiles), (device, on_device) = (case.by(one, device=place) for one in ("host", "device"))
    assert on_device == tiles
    assert device.keys() == host.keys()
    softmaxed = case.definition.softmaxed
    for name, layer in host.items():
        assert device[name].dtype == np.uint8
        np.testing.assert_array_equal(device[name] == 255, layer == 255)
        if name == "class" and not softmaxed:
            np.testing.assert_array_equal(device[name], layer)
        elif name != "class":
            assert np.abs(device[name].astype(int) - layer).max() <= 1


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=examples(40), deadline=None)
@given(case=cases(), data=st.data())
def test_panels_and_resume_points_change_no_byte(place: str, case: Case, data: st.DataObject) -> None:
    height, width = case.image.shape[1:]
    whole, _ = case.by("device", device=place)
    left, first = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    cols, stop = (
        range(left, data.draw(st.integers(left + 1, width))),
        data.draw(st.integers(first + 1, height)),
    )
    part, _ = case.by("device", Region(first, cols, stop), device=place)
    for name, layer in whole.items():
        np.testing.assert_array_equal(part[name], layer[..., first:stop, left : cols.stop])


@pytest.mark.parametrize("carrier", ["host", "device"])
@settings(max_examples=examples(20), deadline=None)
@given(
    stride=st.sampled_from([2, 8]),
    cells=st.integers(2, 9),
    halo=st.integers(0, 1),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    data=st.data(),
)
def test_cuts_change_no_byte_of_a_model_whose_cells_were_stretched(
    carrier: str, stride: int, cells: int, halo: int, size: tuple[int, int], data: st.DataObject
) -> None:
    """Its cells are read between each other, where its tiles' own edges put them; the tiles stay the same ones."""
    model = whole_numbers(stride, stretched_side=stride * (cells - 1) + 1, seed=cells)
    geometry, (height, width) = model.network.geometry.of_tiles, size
    assert geometry.align_corners
    shape = TileShape(
        geometry=geometry, side=stride * (3 + 2 * halo) + 1, halo=stride * halo, step=stride * 2
    )
    case = Case(noise("uint8", height, width, cells, holes=True), (model,), shape, Definition())
    whole, _ = case.by(carrier)
    left, first = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    cols, stop = (
        range(left, data.draw(st.integers(left + 1, width))),
        data.draw(st.integers(first + 1, height)),
    )
    part, _ = case.by(carrier, Region(first, cols, stop))
    np.testing.assert_array_equal(part["class"], whole["class"][first:stop, left : cols.stop])
    measured = (case.image != NODATA).all(axis=0)
    np.testing.assert_array_equal(whole["class"] != 255, measured)


class Hostile(CpuTransfer):
    """As a device at its worst: it reads what it is given at once, and sends home only when it is waited for.

    Memory on the host that it has read is spoilt, and so is what was sent once it has come.
    """

    def to_device(self, batch: Tensor) -> Tensor:
        """A copy."""
        there = batch.clone()
        batch.view(torch.uint8).fill_(0x5A)
        return there

    def bytes_home(self, layer: Tensor) -> Homeward:
        """What lies there when it is waited for."""

        def wait() -> np.ndarray:
            come = layer.clone()
            layer.fill_(0x5A)
            return come.numpy()

        return wait


@pytest.mark.parametrize("holes", [False, True])
def test_nothing_is_read_twice_or_changed_on_its_way(monkeypatch: pytest.MonkeyPatch, holes: bool) -> None:
    model = whole_numbers(8)
    shape = TileShape(geometry=model.network.geometry, side=32, halo=8, step=8)
    case = Case(noise("uint8", 90, 120, 3, holes=holes), (model,), shape, Definition(confidence=True))
    wanted, _ = case.by("device")
    monkeypatch.setattr(device_stream, "transfer", lambda device: Hostile())
    monkeypatch.setattr(finish, "ON_THE_WAY_BYTES", 3000)
    made, _ = case.by("device")
    for name, layer in wanted.items():
        np.testing.assert_array_equal(made[name], layer)


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("overlap", [0, 8])
def test_tiles_that_are_left_out_change_no_byte(
    monkeypatch: pytest.MonkeyPatch, stride: int, overlap: int
) -> None:
    model = whole_numbers(stride, step=8)
    shape = TileShape(geometry=model.network.geometry, side=16 + overlap, halo=0, step=16)
    skipped = 0
    for seed, (top, left) in enumerate(((2, 34), (16, 16), (18, 23), (23, 2), (34, 32))):
        image = np.full((2, 90, 80), NODATA, np.uint8)
        image[:, top : top + 30, left : left + 30] = noise("uint8", 30, 30, seed, holes=True)
        case = Case(image, (model,), shape, Definition())
        made, (run, some) = case.by("device")
        with monkeypatch.context() as every:
            measured = device_stream.DeviceStream._measured

            def all_wanted(stream: Any, swath: Any, measured: Any = measured) -> list[Any]:
                measured(stream, swath)
                return list(swath.wanted)

            every.setattr(device_stream.DeviceStream, "_measured", all_wanted)
            whole, (all_run, none) = case.by("device")
        assert none == 0
        assert run + some == all_run
        skipped += some
        np.testing.assert_array_equal(made["class"], whole["class"])
    assert skipped > 0


def test_a_segmenter_answers_alike_by_both_carriers() -> None:
    model = whole_numbers(8, dtypes=("uint16", "uint16"), tile_size=64)
    image = noise("uint16", 100, 130, 2, holes=True)
    made = [
        Segmenter(
            Ensemble((model,)),
            SegmentSettings(confidence=True),
            EngineSettings("eager", "fp32", "cpu", carrier),
            batch_size=2,
        )(image, nodata=NODATA)
        for carrier in ("host", "device")
    ]
    np.testing.assert_array_equal(made[0].classes, made[1].classes)
    assert made[0].confidence is not None
    assert made[1].confidence is not None
    assert np.abs(made[0].confidence.astype(int) - made[1].confidence).max() <= 1
    assert (made[1].classes == 255).any()
