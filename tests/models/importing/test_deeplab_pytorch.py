"""deeplab-pytorch's DeepLabv2 (kazuto1011), computed from its state dict, against what the importer makes of it.

Held about the project (read: in the tables this project keeps; memory: its module code, by heart):
- read: the names `layer1.conv1.{conv,bn}`, `layer{2..5}.block{j}.{reduce,conv3x3,increase,shortcut}.{conv,bn}`,
  `aspp.c{0..3}`, under `base.` where the multi-scale wrapper was trained; 7×7 stem, max-pool with ceil_mode; the
  stride sits in the first 1×1 (`reduce`) and in the shortcut; every block of a dilated stage has the full rate; ASPP
  is the sum of four 3×3 convolutions of rates 6/12/18/24 with bias, straight to the classes; BGR minus (104.008,
  116.669, 122.675), no deviation; MSC takes the pixelwise maximum of the logits of scales 1, 0.75 and 0.5.
- memory, sure: blocks count from 1; the first block of every stage has a shortcut, the others none; strides 1, 2, 1, 1
  and rates 1, 1, 2, 4 (output stride 8 only); BatchNorm's eps is 1e-5; MSC resizes the image by `interpolate(x,
  scale_factor=p, mode='bilinear', align_corners=False)` and the pyramid's logits back to the first ones' size without
  aligned corners, in this order: 1, 0.5, 0.75; there is no auxiliary head; the file is the plain state dict.
- unsure: `interpolate` with a scale factor computes positions from the factor since torch 1.6, before that from the
  ratio of the sizes. They differ where a side times the factor is no whole number; the current torch is followed, and
  sides that are multiples of 4 do not depend on it.
- The project configures ResNet-101 only; ResNet-50 follows from its `n_blocks`. Converted Caffe weights may lack
  num_batches_tracked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import torch
import torchvision
from laws import few
from PIL import Image
from rasterio.enums import ColorInterp
from torch import Tensor, nn
from torch.nn import functional

from aerial_seg import BandChoice, PredictSettings, SegmentSettings, load, predict
from aerial_seg.benchmarks.inference import class_scores
from aerial_seg.benchmarks.protocol import load_protocol
from aerial_seg.benchmarks.training_data import read_normalised
from aerial_seg.errors import InputError
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.jobs.import_weights import import_weights
from aerial_seg.mentions import settings_in
from aerial_seg.models.file import load_model

if TYPE_CHECKING:
    from tests.models.importing.conftest import Agreement, Layers, Saved, State, Weights

CLASSES = 21
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)
RATES = (6, 12, 18, 24)
SCALES = (0.5, 0.75)
BGR = (("blue", 104.008, 1.0), ("green", 116.669, 1.0), ("red", 122.675, 1.0))
THIN = (1, 17, 313)  # the widest rate reaches over the map at little cost
FOURFOLD = (1, 64, 96)  # ceil_mode adds a cell, and every scale has whole sides
BETWEEN = (1, 66, 98)  # ceil_mode adds no cell on any scale, and the scaled sides are not whole


def random_state(weights: Weights, blocks: Sequence[int]) -> State:
    def unit(name: str, outputs: int, inputs: int, side: int, gain: float = 1.0) -> None:
        weights.convolution(f"{name}.conv", outputs, inputs, side, gain=gain)
        weights.normalisation(f"{name}.bn", outputs)

    unit("layer1.conv1", 64, 3, 7)
    inputs = 64
    for layer, (middle, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True), 2):
        for block in range(1, count + 1):
            name = f"layer{layer}.block{block}"
            unit(f"{name}.reduce", middle, inputs, 1)
            unit(f"{name}.conv3x3", middle, middle, 3)
            unit(f"{name}.increase", 4 * middle, middle, 1, gain=0.25)
            if block == 1:
                unit(f"{name}.shortcut", 4 * middle, inputs, 1)
            inputs = 4 * middle
    for branch in range(4):
        weights.convolution(f"aspp.c{branch}", CLASSES, 2048, 3, bias=True)
    return weights.state


def features(layers: Layers, state: State, image: Tensor, depth: int) -> Tensor:
    def unit(name: str, y: Tensor, **placement: int) -> Tensor:
        y = layers.convolution(state, f"{name}.conv", y, **placement)
        return layers.normalisation(state, f"{name}.bn", y)

    x = unit("layer1.conv1", image, stride=2, padding=3).relu()
    x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1, ceil_mode=True)
    for layer, (count, stride, dilation) in enumerate(
        zip(layers.blocks[depth], STRIDES, DILATIONS, strict=True), 2
    ):
        for block in range(1, count + 1):
            name = f"layer{layer}.block{block}"
            step = stride if block == 1 else 1
            y = unit(f"{name}.reduce", x, stride=step).relu()
            y = unit(f"{name}.conv3x3", y, padding=dilation, dilation=dilation).relu()
            y = unit(f"{name}.increase", y)
            if block == 1:
                x = unit(f"{name}.shortcut", x, stride=step)
            x = (x + y).relu()
    return x


def single_scale(layers: Layers, state: State, image: Tensor, depth: int) -> Tensor:
    """DeepLabV2's logits."""
    x = features(layers, state, image, depth)
    return sum(
        (
            layers.convolution(state, f"aspp.c{branch}", x, padding=rate, dilation=rate)
            for branch, rate in enumerate(RATES)
        ),
        start=torch.zeros((), dtype=torch.float64),
    )


def multi_scale(layers: Layers, state: State, image: Tensor, depth: int) -> Tensor:
    """MSC's logits in eval mode."""
    fused = single_scale(layers, state, image, depth)
    size = fused.shape[2:]
    for scale in SCALES:
        smaller = functional.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
        logits = single_scale(layers, state, smaller, depth)
        fused = torch.maximum(fused, layers.resized(logits, size, align_corners=False))
    return fused


def with_base(state: State) -> State:
    return {f"base.{name}": value for name, value in state.items()}


def cases() -> Iterator[Any]:
    """((depth, under `base.`, with num_batches_tracked), arch, image), those of one model in a row."""
    msc, plain = "deeplabv2_resnet{}_msc", "deeplabv2_resnet{}"
    wrapped, bare = (50, True, True), (50, False, False)
    yield pytest.param(wrapped, None, (1, 65, 97), id="default")
    yield pytest.param(wrapped, msc.format(50), BETWEEN, id="msc-between")
    yield pytest.param(wrapped, msc.format(50), FOURFOLD, id="msc-fourfold")
    yield pytest.param(wrapped, plain.format(50), THIN, id="base-without-msc")
    yield pytest.param(bare, plain.format(50), (1, 65, 97), id="bare")
    yield pytest.param(bare, plain.format(50), FOURFOLD, id="bare-fourfold")
    large = (101, True, True)
    for shape in ((2, 65, 97), (1, 129, 161), FOURFOLD):
        for arch in (msc, plain):
            name = f"{arch.format(101)}-{shape[1]}"
            yield pytest.param(large, arch.format(101), shape, id=name, marks=pytest.mark.slow)


@pytest.mark.parametrize(("model", "arch", "shape"), few(cases(), quick=3))
def test_imported_network_computes_what_deeplab_pytorch_computes(
    model: tuple[int, bool, bool],
    arch: str | None,
    shape: tuple[int, int, int],
    saved: Saved,
    weights: type[Weights],
    layers: Layers,
    agreement: Agreement,
    images: Callable[[Sequence[int]], Tensor],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    depth, wrapped, counted = model

    def make() -> tuple[State, Any]:
        made = random_state(weights(depth, counted=counted), layers.blocks[depth])
        return made, with_base(made) if wrapped else made

    state, path = saved(model, make)
    image = images(shape)
    imported = imported_from(path, "deeplab-pytorch", arch)
    assert imported.network.geometry.output_stride == 8
    assert imported.classes == CLASSES
    agreement.bands(imported, BGR)
    network = imported.network.double()
    compute = multi_scale if arch is None or arch.endswith("_msc") else single_scale
    with torch.inference_mode():
        everything = compute(layers, state, image, depth)
        # Its ceil_mode makes a cell beyond sides that 8 divides, which is stretched over the image with the others.
        agreement.equal(network(image), everything)
        if compute is single_scale and shape == THIN:  # once: it costs another pass
            logits, auxiliary = network.forward_training(image)
            agreement.equal(logits, everything)
            assert auxiliary is None


def test_backbone_is_torchvisions_with_the_stride_in_front(
    weights: type[Weights],
    layers: Layers,
    agreement: Agreement,
    images: Callable[[Sequence[int]], Tensor],
) -> None:
    """Renamed, its state fits torchvision's ResNet with nothing left over, and computes the same with moved strides."""
    state = random_state(weights(3), layers.blocks[50])
    with torch.device("meta"):
        network = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
    network.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
    network.layer2[0].conv1.stride, network.layer2[0].conv2.stride = (2, 2), (1, 1)
    for layer, rate in ((network.layer3, 2), (network.layer4, 4)):
        layer[0].conv2.dilation = layer[0].conv2.padding = (rate, rate)
    network.avgpool, network.fc = nn.Identity(), nn.Identity()
    renamed = {}
    for name, value in state.items():
        if name.startswith("aspp"):
            continue
        name = name.replace("layer1.conv1.conv", "conv1").replace("layer1.conv1.bn", "bn1")
        name = re.sub(
            r"layer(\d)\.block(\d+)", lambda found: f"layer{int(found[1]) - 1}.{int(found[2]) - 1}", name
        )
        for number, old in enumerate(("reduce", "conv3x3", "increase"), 1):
            name = name.replace(f"{old}.conv", f"conv{number}").replace(f"{old}.bn", f"bn{number}")
        renamed[name.replace("shortcut.conv", "downsample.0").replace("shortcut.bn", "downsample.1")] = value
    network.load_state_dict(renamed, assign=True)
    image = images((1, 32, 48))
    with torch.inference_mode():
        wanted = network.eval()(image)
        got = features(layers, state, image, 50)
    agreement.equal(got.flatten(1), wanted)


def test_multi_scale_differs_from_single_scale(
    weights: type[Weights], layers: Layers, images: Callable[[Sequence[int]], Tensor]
) -> None:
    """MSC is a maximum: nowhere below the single scale, and above it somewhere."""
    state = random_state(weights(4), layers.blocks[50])
    image = images((1, 32, 48))
    with torch.inference_mode():
        single = single_scale(layers, state, image, 50)
        fused = multi_scale(layers, state, image, 50)
    assert bool((fused >= single).all())
    assert bool((fused > single + 1e-3).any())


@pytest.mark.parametrize(
    "key", ["layer3.block2.conv3x3.bn.running_mean", "aspp.c3.bias", "layer4.block1.shortcut.conv.weight"]
)
def test_missing_key_is_named(
    key: str,
    weights: type[Weights],
    layers: Layers,
    stored: Callable[[Any], AbstractContextManager[Path]],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    state = random_state(weights(None), layers.blocks[50])
    del state[key]
    with stored(with_base(state)) as path, pytest.raises(InputError, match=re.escape(key)):
        imported_from(path, "deeplab-pytorch", "deeplabv2_resnet50_msc")


@pytest.mark.parametrize("key", ["aspp.c4.weight", "layer3.block9.reduce.conv.weight"])
def test_additional_key_is_named(
    key: str,
    weights: type[Weights],
    layers: Layers,
    stored: Callable[[Any], AbstractContextManager[Path]],
    imported_from: Callable[[Path, str, str | None], Any],
) -> None:
    state = random_state(weights(None), layers.blocks[50])
    state[key] = torch.ones(4, dtype=torch.float64)
    with stored(with_base(state)) as path, pytest.raises(InputError, match=re.escape(key)):
        imported_from(path, "deeplab-pytorch", "deeplabv2_resnet50_msc")


def test_the_variant_of_smaller_rates_has_to_be_told_and_is_offered(
    imported_from: Callable[[Path, str, str | None], Any],
    weights: type[Weights],
    layers: Layers,
    stored: Callable[[Any], AbstractContextManager[Path]],
) -> None:
    with stored(with_base(random_state(weights(None), layers.blocks[50]))) as path:
        usual = imported_from(path, "deeplab-pytorch", None)
        (note,) = usual.notes
        (offered,) = settings_in(note)
        assert offered.value == "deeplabv2s_resnet50_msc"
        small = imported_from(path, "deeplab-pytorch", offered.value)
    for imported, rates in ((usual, RATES), (small, (3, 6, 9, 12))):
        branches = imported.network.base.head.branches
        assert [branch.dilation for branch in branches] == [(rate, rate) for rate in rates]
    assert small.settings.msc
    assert not small.notes


SIDE = 97


@pytest.fixture(scope="module")
def in_use(
    tmp_path_factory: pytest.TempPathFactory,
    weights: type[Weights],
    layers: Layers,
    stored: Callable[[Any], AbstractContextManager[Path]],
) -> tuple[Path, Callable[[Any], Tensor]]:
    """The imported file, and the reference: (H,W,3) bytes in red, green, blue → cells (1,K,h,w) float64."""
    state = random_state(weights(21), layers.blocks[50])
    path = tmp_path_factory.mktemp("model") / "deeplab.safetensors"
    with stored(state) as checkpoint:
        report = import_weights(checkpoint, path, source="deeplab-pytorch", arch="deeplabv2_resnet50")
    assert any("crops of 321 px in training are assumed" in note for note in report.notes)

    def cells(photograph: Any) -> Tensor:
        bgr = torch.from_numpy(photograph[:, :, ::-1].copy()).double() - torch.tensor(
            [mean for _, mean, _ in BGR], dtype=torch.float64
        )
        with torch.inference_mode():
            return single_scale(layers, state, bgr.permute(2, 0, 1)[None], 50)

    return path, cells


def photograph(height: int, width: int) -> np.ndarray:
    """(H,W,3) uint8 whose bands are unlike each other."""
    rows, cols = np.mgrid[:height, :width]
    random = np.random.default_rng(4)
    planes = (rows * 2, 255 - cols * 2, (rows + cols) % 60 * 3)
    noise = random.integers(-20, 20, (height, width, 3))
    return np.clip(np.stack(planes, axis=2) + noise, 0, 255).astype(np.uint8)


def test_benchmark_shows_it_bgr_and_stretches_its_lattice(in_use: tuple[Path, Any], tmp_path: Path) -> None:
    path, reference = in_use
    shown = photograph(71, 91)
    Image.fromarray(shown).save(tmp_path / "image.png")
    trained = load_model(path)
    net = PaddedForward.prepared(trained, EngineSettings("eager", "fp32", "cpu"))
    protocol = load_protocol("deeplabv2").for_dataset("voc")
    got = class_scores(read_normalised(tmp_path / "image.png", trained.card.bands), net, protocol)
    cells = reference(shown)
    assert cells.shape[2:] == (10, 12), "the half-filled window of its pooling is a cell of its own"
    wanted = functional.interpolate(cells, size=(71, 91), mode="bilinear", align_corners=False)[0]
    scale = float(wanted.abs().max())
    assert float((got.double() - wanted).abs().max()) < 1e-4 * scale
    mistaken = functional.interpolate(reference(shown[:, :, ::-1]), size=(71, 91), mode="bilinear")[0]
    assert float((mistaken - wanted).abs().max()) > 1e-2 * scale


def placed(cells: Tensor) -> Tensor:
    """(1,K,n,n) → (K,S,S): cell i at 8·i, moved inwards: by 3.5 px at the edge, by 7/41 px less each cell."""
    count = cells.shape[2]
    number = np.arange(count)
    inwards = np.clip(3.5 - 7 * (number + 0.5) / 41, 0, None)
    at = np.interp(8 * number, 8 * number + inwards - inwards[::-1], number)
    weights = np.stack([np.interp(at, number, one) for one in np.eye(count)], axis=1)
    mixed = torch.einsum("ai,bj,kij->kab", *(torch.from_numpy(weights),) * 2, cells[0])
    side = 8 * (count - 1) + 1
    return functional.interpolate(mixed[None], size=(side, side), mode="bilinear", align_corners=True)[0]


def test_predict_and_segmenter_show_it_bgr_and_place_its_cells(
    in_use: tuple[Path, Any], tmp_path: Path
) -> None:
    path, reference = in_use
    shown = photograph(SIDE, SIDE)
    logits = placed(reference(shown))
    best = logits.topk(2, dim=0).values
    sure = (best[0] - best[1] > 1e-3 * float(logits.abs().max())).numpy()
    assert sure.mean() > 0.9
    wanted = logits.argmax(0).numpy()
    one_tile = {"tile_size": SIDE, "halo": 0, "overlap": 0}
    segment = load(path, "cpu", precision="fp32", settings=SegmentSettings(**one_tile))
    plane_by_plane = np.moveaxis(shown, 2, 0)
    with pytest.raises(InputError, match="does not say which of its bands are red, green and blue"):
        segment(plane_by_plane)
    names = BandChoice((1, 2, 3), ("red", "green", "blue"))
    for said in ([3, 2, 1], names):
        np.testing.assert_array_equal(segment(plane_by_plane, bands=said).classes[sure], wanted[sure])

    tagged, bare = tmp_path / "tagged.tif", tmp_path / "bare.tif"
    for file, colours in ((tagged, [ColorInterp.red, ColorInterp.green, ColorInterp.blue]), (bare, None)):
        profile = {"height": SIDE, "width": SIDE, "count": 3, "dtype": "uint8", "driver": "GTiff"}
        with rasterio.open(file, "w", photometric="RGB" if colours else "MINISBLACK", **profile) as raster:
            raster.write(plane_by_plane)
    settings = {**one_tile, "device": "cpu", "precision": "fp32", "engine": "eager", "georeferenced": False}
    for file, message, choice in (
        (tagged, r"numbers=\(3, 2, 1\)", BandChoice((3, 2, 1))),
        (bare, r'numbers=\(1, 2, 3\), names=\("red", "green", "blue"\)', names),
    ):
        with pytest.raises(InputError, match=message):
            predict(path, [file], tmp_path / "refused.tif", PredictSettings(**settings))
        out = tmp_path / f"mask of {file.name}"
        predict(path, [file], out, PredictSettings(bands=choice, **settings))
        with rasterio.open(out) as mask:
            np.testing.assert_array_equal(mask.read(1)[sure], wanted[sure])
